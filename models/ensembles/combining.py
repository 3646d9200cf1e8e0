"""Members put together: their mean prediction, how far they differ, and what each further one adds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.ensembles.scores import Array, entropy, log_softmax, mean_scores

AverageOf = Literal["probabilities", "logits"]
_CHUNK = 100  # resamples at a time


def combine(log_p: Array, average: AverageOf = "probabilities") -> Array:
    """Average the predictions of members.

    Either way the negative log-likelihood is at most the mean of the members' (Jensen; Hölder). Equal members give
    their own prediction, to the last bit for probabilities.

    Args:
        log_p: (M, N, K) log-probabilities.
        average: probabilities, the arithmetic mean; or logits, the normalized geometric mean.

    Returns:
        (N, K) log-probabilities.
    """
    if average == "logits":
        return log_softmax(log_p.mean(axis=0))
    top = log_p.max(axis=0)
    return top + np.log(np.exp(log_p - top).mean(axis=0))


def disagreement(log_p: Array) -> Array:
    """(N,) the share of pairs of members, of (M, N, K), whose most likely classes differ; NaN for one member."""
    number, _, classes = log_p.shape
    if number == 1:
        return np.full(log_p.shape[1], np.nan)
    votes = (log_p.argmax(axis=-1)[..., None] == np.arange(classes)).sum(axis=0)
    return 1 - (votes * (votes - 1)).sum(axis=-1) / (number * (number - 1))


def mutual_information(log_p: Array) -> Array:
    """(N,) entropy of the mean of the members' probabilities less the mean of their entropies, nats; at least 0.

    Under dropout it is the part of the uncertainty that comes from the weights.

    References:
        Houlsby et al., "Bayesian active learning for classification and preference learning", 2011, equation 2.
    """
    return np.maximum(entropy(combine(log_p)) - entropy(log_p).mean(axis=0), 0.0)


def sizes_up_to(number: int) -> list[int]:
    """Numbers of members to try: each up to ten, then 15, 20, 30, 50, 70 and so on, and all of them."""
    round_ones = [share * 10**power for power in range(5) for share in (15, 20, 30, 50, 70, 100)]
    return sorted({n for n in (*range(1, 11), *round_ones) if n < number} | {number})


def subsets(number: int, size: int, most: int, seed: int) -> Iterator[list[int]]:
    """Yield all subsets of a size of the first `number` whole numbers, or `most` random ones where there are more."""
    if comb(number, size) <= most:
        yield from map(list, combinations(range(number), size))
        return
    generator = np.random.default_rng([seed, size])
    for _ in range(most):
        yield sorted(generator.choice(number, size, replace=False).tolist())


def growth(
    log_p: Array, targets: NDArray[np.int64], average: AverageOf, most: int, bins: int, seed: int
) -> dict[str, NDArray]:
    """Score ensembles of fewer members.

    Args:
        log_p: (M, N, K) log-probabilities of the members.
        targets: (N,) labels.
        average: As in `combine`.
        most: Subsets of each size; all where there are no more.
        bins: Of the calibration error.
        seed: Of random subsets.

    Returns:
        size: (S,); number: (S,) of subsets; mean and spread: (S, 4) mean of the `SCORES` over subsets, and their
        deviation. Subsets share members, so that the spread is no standard error.
    """
    sizes = sizes_up_to(len(log_p))
    found = [
        np.array(
            [
                mean_scores(combine(log_p[chosen], average), targets, bins)
                for chosen in subsets(len(log_p), n, most, seed)
            ]
        )
        for n in sizes
    ]
    return {
        "size": np.array(sizes),
        "number": np.array([len(scores) for scores in found]),
        "mean": np.stack([scores.mean(axis=0) for scores in found]),
        "spread": np.stack([scores.std(axis=0) for scores in found]),
    }


def paired_interval(differences: Array, resamples: int, seed: int, confidence: float = 0.95) -> tuple[Array, Array]:
    """Interval of means by the bootstrap over examples; what is compared stays paired by example.

    It tells what other test examples would do, not what other seeds of training would.

    Args:
        differences: (N, Q) of each example.
        resamples: How often as many examples are drawn anew.
        seed: Of these draws.
        confidence: Share of the resampled means between the ends.

    Returns:
        (Q,) lower and (Q,) upper ends.
    """
    number, generator = len(differences), np.random.default_rng(seed)
    share = np.full(number, 1 / number)
    means = []
    for begin in range(0, resamples, _CHUNK):
        counts = generator.multinomial(number, share, size=min(_CHUNK, resamples - begin))
        means.append(counts @ differences / number)
    ends = (1 - confidence) / 2, (1 + confidence) / 2
    low, high = np.quantile(np.concatenate(means), ends, axis=0)
    return low, high
