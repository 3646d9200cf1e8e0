"""The few numbers that runs are compared by, each with its error, read from their stored answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import nan

import numpy as np
import xarray as xr

from landscape.width import Width, width, with_error


@dataclass(frozen=True)
class Measure:
    """One number and how far to trust it."""

    value: float
    error: float = nan  # the residual of an eigenvalue, the standard error of a mean; NaN where there is none
    remark: str = ""

    def __str__(self) -> str:
        """The number as a table shows it: "18.02 ± 0.04 (not converged)"."""
        return with_error(self.value, self.error) + (f" ({self.remark})" if self.remark else "")


def summarize(answers: Mapping[str, xr.Dataset]) -> dict[str, Measure | Width]:
    """Collect what is known of one checkpoint.

    Args:
        answers: The answers of one run by their names in the store.

    Returns:
        Those that exist of: "test error", "loss" and "sharpness" (largest Hessian eigenvalue, ± residual) of the
        training data, "most negative eigenvalue" (± residual; the smallest one found, whatever its sign), and
        "width" (along filter-normalized directions, ± standard error over directions).
    """
    known = [answer for name, answer in sorted(answers.items()) if "step" not in answer.dims]
    found = {
        "test error": _test_error(known, answers.get("training")),
        "loss": _loss(known),
        "sharpness": _extreme(known, "largest"),
        "most negative eigenvalue": _extreme(known, "smallest"),
        "width": _width(known),
    }
    return {name: measure for name, measure in found.items() if measure is not None}


def _test_error(answers: Iterable[xr.Dataset], training: xr.Dataset | None) -> Measure | None:
    for answer in answers:
        if "center_test_accuracy" in answer:
            return Measure(1.0 - float(answer["center_test_accuracy"]))
    if training is not None and "test_accuracy" in training and training["test_accuracy"].size:
        return Measure(1.0 - float(training["test_accuracy"].values.flat[-1]))
    return None


def _loss(answers: Iterable[xr.Dataset]) -> Measure | None:
    for answer in answers:
        name = "center_loss" if "center_loss" in answer else "loss"
        if name in answer and answer[name].ndim == 0:
            return Measure(float(answer[name]))
    return None


def _extreme(answers: Iterable[xr.Dataset], end: str) -> Measure | None:
    """The outermost eigenvalue of the whole Hessian; of a block of parameters it would mean something else."""
    for answer in answers:
        if (
            "eigenvalue" in answer
            and "end" in answer.coords
            and end in answer["end"]
            and _field(answer, "parameters") == "*"
        ):
            pair = answer.sel(end=end)
            values = np.where(np.isfinite(pair["eigenvalue"]), pair["eigenvalue"], np.nan)
            if np.isnan(values).all():
                return None
            at = int(np.nanargmax(values if end == "largest" else -values))
            remark = "" if bool(pair["converged"][at]) else "not converged"
            return Measure(float(values[at]), float(pair["residual"][at]), remark)
    return None


def _width(answers: Iterable[xr.Dataset]) -> Width | None:
    """The width by the filter-normalized slice with the most directions."""
    slices = [
        answer
        for answer in answers
        if answer.attrs.get("directions") == "filter"
        and {"alpha"} <= set(answer.dims)
        and "beta" not in answer.dims
        and "center_loss" in answer
        and np.isfinite(answer["center_loss"]).all()
    ]
    return width(max(slices, key=lambda answer: answer.sizes.get("seed", 1))) if slices else None


def _field(answer: xr.Dataset, name: str, default: str = "*") -> object:
    """A field of the probe that gave the answer."""
    try:
        fields = json.loads(str(answer.attrs.get("probe_fields", "{}")))
    except ValueError:
        return None
    return fields.get(name, default) if isinstance(fields, dict) else None
