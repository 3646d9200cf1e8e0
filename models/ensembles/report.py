"""What an ensemble gains over its members, as an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.ensembles.combining import (
    AverageOf,
    combine,
    disagreement,
    growth,
    mutual_information,
    paired_interval,
)
from models.ensembles.scores import SCORES, Array, calibration, entropy, mean_scores, per_example

_UNITS = {"error": "1", "nll": "nats", "brier": "1", "ece": "1"}


def report_on(
    members: Array,
    targets: NDArray[np.int64],
    plain: Array | None = None,
    *,
    average: AverageOf = "probabilities",
    subsets: int = 20,
    resamples: int = 2000,
    bins: int = 15,
    seed: int = 0,
    per_example_too: bool = False,
) -> xr.Dataset:
    """Compare the average of members with the members.

    Args:
        members: (M, N, K) log-probabilities of the members on the test examples.
        targets: (N,) labels.
        plain: (R, N, K) predictions of the R networks in eval mode on the inputs as they are, if members are others.
        average: What is averaged, as in `combine`.
        subsets: Random subsets of each smaller size.
        resamples: Of the bootstrap over examples.
        bins: Of the calibration error.
        seed: Of subsets and bootstrap.
        per_example_too: Also keep what the ensemble predicts for each example.

    Returns:
        Over score (error, nll in nats, brier, ece): ensemble_score, member_score (member, score), and for each baseline
        ("members", and "plain" where it was given) baseline_score, the mean of its networks', gain, that less the
        ensemble's, and gain_low and gain_high, a 95% interval over test examples (NaN for ece, whose bootstrap is
        biased). Over size: growth_mean and growth_spread (size, score) over num_subsets. Over (prediction, bin):
        confidence, accuracy and bin_count of the last baseline, its networks pooled, and of the ensemble. Means over
        examples: disagreement, predictive_entropy and mutual_information (nats).
    """
    together = combine(members, average)
    baselines = {"members": members, **({} if plain is None else {"plain": plain})}
    growing = growth(members, targets, average, subsets, bins, seed)
    uncertainty = {
        "disagreement": disagreement(members),
        "predictive_entropy": entropy(together),
        "mutual_information": mutual_information(members),
    }
    variables: dict[str, Any] = {
        "ensemble_score": ("score", mean_scores(together, targets, bins)),
        "member_score": (("member", "score"), _each(members, targets, bins)),
        "growth_mean": (("size", "score"), growing["mean"]),
        "growth_spread": (("size", "score"), growing["spread"]),
        "num_subsets": ("size", growing["number"]),
        **_gains(baselines, together, targets, bins, resamples, seed),
        **_reliability({list(baselines)[-1]: list(baselines.values())[-1], "ensemble": together}, targets, bins),
        **{name: ((), float(values.mean())) for name, values in uncertainty.items()},
    }
    if per_example_too:
        variables |= _examples(together, targets, uncertainty)
    coords = {
        "score": list(SCORES),
        "score_units": ("score", [_UNITS[name] for name in SCORES]),
        "size": growing["size"],
        "baseline": list(baselines),
        "prediction": [list(baselines)[-1], "ensemble"],
    }
    return _described(xr.Dataset(variables, coords))


def _each(predictions: Array, targets: NDArray[np.int64], bins: int) -> Array:
    return np.stack([mean_scores(one, targets, bins) for one in predictions])


def _gains(
    baselines: Mapping[str, Array],
    together: Array,
    targets: NDArray[np.int64],
    bins: int,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """What the ensemble gains over the mean of each baseline's networks, paired by example."""
    ensemble, scores_of_ensemble, found = per_example(together, targets), mean_scores(together, targets, bins), []
    for predictions in baselines.values():
        scores, single = _each(predictions, targets, bins), per_example(predictions, targets)
        difference = np.stack([(single[name] - ensemble[name]).mean(axis=0) for name in SCORES[:-1]], axis=1)
        ends = [np.append(end, np.nan) for end in paired_interval(difference, resamples, seed)]
        found.append((scores.mean(axis=0), (scores - scores_of_ensemble).mean(axis=0), *ends))
    names = ("baseline_score", "gain", "gain_low", "gain_high")
    return {name: (("baseline", "score"), np.stack(v)) for name, v in zip(names, zip(*found, strict=True), strict=True)}


def _reliability(predictions: Mapping[str, Array], targets: NDArray[np.int64], bins: int) -> dict[str, Any]:
    found = [calibration(one, targets, bins) for one in predictions.values()]
    dims = ("prediction", "bin")
    return {
        "confidence": (dims, np.stack([one.confidence for one in found])),
        "accuracy": (dims, np.stack([one.accuracy for one in found])),
        "bin_count": (dims, np.stack([one.count for one in found])),
    }


def _examples(together: Array, targets: NDArray[np.int64], uncertainty: Mapping[str, Array]) -> dict[str, Any]:
    return {
        "probability": (("example", "class"), np.exp(together)),
        "target": ("example", targets),
        **{f"example_{name}": ("example", values) for name, values in uncertainty.items()},
    }


def _described(answer: xr.Dataset) -> xr.Dataset:
    texts = {
        "gain": "mean of the baseline's networks less the ensemble",
        "gain_low": "lower end of the 95% bootstrap interval over test examples, not over seeds",
        "gain_high": "upper end of the 95% bootstrap interval over test examples, not over seeds",
        "growth_spread": "standard deviation over subsets, which share members",
        "disagreement": "share of pairs of members whose most likely classes differ",
        "predictive_entropy": "entropy of the ensemble's prediction",
        "mutual_information": "entropy of the mean probabilities less the mean of the members' entropies",
    }
    for name, text in texts.items():
        answer[name].attrs["long_name"] = text
    for name in ("predictive_entropy", "mutual_information"):
        answer[name].attrs["units"] = "nats"
    return answer
