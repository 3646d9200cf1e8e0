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


def summarize(answers: Mapping[str, xr.Dataset], own_data: str | None = None) -> dict[str, Measure | Width]:
    """Collect what is known of one checkpoint.

    Where several answers hold the same number, the one on the run's own whole training data under running statistics
    counts, then a converged one, then the one on most examples; a remark says what is not so.

    Args:
        answers: The answers of one run by their names in the store.
        own_data: SHA-256 of the run's own training examples, where it is known.

    Returns:
        Those that exist of: "test error", "loss" and "sharpness" (largest Hessian eigenvalue, ± residual) of the
        training data, "most negative eigenvalue" (± residual; the smallest one found, whatever its sign), and
        "width" (along filter-normalized directions, ± standard error over directions).
    """
    known = [_Known(answer, own_data) for name, answer in sorted(answers.items()) if _is_of_the_run(answer)]
    training = answers.get("training", answers.get("averaged", xr.Dataset()))
    found = {
        "test error": _error(_of_training(training, "test_accuracy") or _scalar(known, "center_test_accuracy")),
        "loss": _of_training(training, "final_train_loss") or _scalar(known, "center_loss") or _scalar(known, "loss"),
        "sharpness": _extreme(known, "largest"),
        "most negative eigenvalue": _extreme(known, "smallest"),
        "width": _width(known),
    }
    return {name: measure for name, measure in found.items() if measure is not None}


def _is_of_the_run(answer: xr.Dataset) -> bool:
    """Whether an answer is about the checkpoint, not about points of its training or one that was searched for."""
    return "step" not in answer.dims and answer.attrs.get("point", "checkpoint") == "checkpoint"


@dataclass(frozen=True)
class _Known:
    """An answer, and how well it stands for the run."""

    answer: xr.Dataset
    own_data: str | None

    @property
    def remark(self) -> str:
        attrs, remarks = self.answer.attrs, []
        if self.own_data is not None and attrs.get("data_sha256") != self.own_data:
            remarks.append(f"on {attrs.get('num_examples', '?')} examples")
        if attrs.get("normalization", "running") != "running":
            remarks.append(f"{attrs['normalization']} statistics")
        return ", ".join(remarks)

    @property
    def rank(self) -> tuple[bool, int]:
        return not self.remark, int(self.answer.attrs.get("num_examples", 0))


def _of_training(training: xr.Dataset, name: str) -> Measure | None:
    if name not in training or not training[name].size:
        return None
    return Measure(float(training[name].values.flat[-1]))


def _error(accuracy: Measure | None) -> Measure | None:
    return accuracy and Measure(1.0 - accuracy.value, remark=accuracy.remark)


def _scalar(known: Iterable[_Known], name: str) -> Measure | None:
    having = [one for one in known if name in one.answer and one.answer[name].ndim == 0]
    if not having:
        return None
    best = max(having, key=lambda one: one.rank)
    return Measure(float(best.answer[name]), remark=best.remark)


def _extreme(known: Iterable[_Known], end: str) -> Measure | None:
    """The outermost eigenvalue of the whole Hessian; of a block of parameters it would mean something else."""
    found = []
    for one in known:
        answer = one.answer
        whole = _field(answer, "parameters") == "*" and answer.attrs.get("parameters", "*") == "*"
        if "eigenvalue" in answer and "end" in answer.coords and end in answer["end"] and whole:
            pair = answer.sel(end=end)
            values = np.where(np.isfinite(pair["eigenvalue"]), pair["eigenvalue"], np.nan)
            if not np.isnan(values).all():
                at = int(np.nanargmax(values if end == "largest" else -values))
                found.append((one, values[at], pair["residual"].values[at], bool(pair["converged"][at])))
    if not found:
        return None
    one, value, residual, converged = max(found, key=lambda entry: (entry[0].rank[0], entry[3], entry[0].rank[1]))
    remarks = [one.remark, "" if converged else "not converged"]
    return Measure(float(value), float(residual), ", ".join(filter(None, remarks)))


def _width(known: Iterable[_Known]) -> Width | None:
    """The width by the filter-normalized slice with the most directions."""
    slices = [
        one
        for one in known
        if one.answer.attrs.get("directions") == "filter"
        and {"alpha"} <= set(one.answer.dims)
        and "beta" not in one.answer.dims
        and "center_loss" in one.answer
        and np.isfinite(one.answer["center_loss"]).all()
    ]
    best = max(slices, key=lambda one: (one.rank[0], one.answer.sizes.get("seed", 1)), default=None)
    return width(best.answer) if best else None


def _field(answer: xr.Dataset, name: str, default: str = "*") -> object:
    """A field of the probe that gave the answer."""
    try:
        fields = json.loads(str(answer.attrs.get("probe_fields", "{}")))
    except ValueError:
        return None
    return fields.get(name, default) if isinstance(fields, dict) else None
