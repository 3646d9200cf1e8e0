"""What a trained curve comes to, in rows and sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray


def connection_rows(answer: xr.Dataset) -> list[dict[str, Any]]:
    """One row a path and quantity: its ends, its extremes, its mean over t, and its barrier by every definition."""
    rows = []
    for path in answer["path"].values:
        one = answer.sel(path=path)
        for metric in map(str, answer["metric"].values):
            found = one["barrier"].sel(metric=metric)
            named = {str(name): float(found.sel(definition=name)) for name in found["definition"].values}
            numbers = _numbers(_values(one, metric), one["t"].values)
            rows.append({"path": str(path), "of": metric, **numbers, **named})
    return rows


def connection_remarks(answer: xr.Dataset) -> list[str]:
    """What must be known before the curve is compared with its ends."""
    curve, line = (float(answer["length"].sel(path=path)) for path in ("curve", "line"))
    loss = answer["loss"].sel(path="curve").values
    if broken := int((~np.isfinite(loss)).sum()):
        where = f"{broken} of {loss.size} places of the curve"
        return [f"the loss is not finite at {where}: its training diverged; lower the learning rate"]
    remarks = [f"length {curve:.4g}, of the straight line {line:.4g}"]
    lowest, ends = loss.min(), min(loss[0], loss[-1])
    if lowest < ends:
        remarks.append(
            f"the training loss of the curve falls to {lowest:.4g}, below both ends ({ends:.4g} and more): the curve "
            "was trained on from them, so compare it with ends that were too"
        )
    if "tuned_loss" in answer:
        first, last = (f"{value:.4g}" for value in answer["tuned_loss"].values)
        remarks.append(f"ends trained alone for as many steps: training loss {first} and {last}{_tuned_test(answer)}")
    return remarks


def _tuned_test(answer: xr.Dataset) -> str:
    if "tuned_test_accuracy" not in answer:
        return ""
    first, last = (f"{1 - value:.4g}" for value in answer["tuned_test_accuracy"].values)
    return f", test error {first} and {last}"


def _values(one: xr.Dataset, metric: str) -> NDArray[np.float64]:
    """One quantity along a path (T,); an error is one minus the accuracy."""
    values = one[metric] if metric in one else 1 - one[metric.replace("error", "accuracy")]
    return np.asarray(values.values, dtype=np.float64)


def _numbers(values: NDArray[np.float64], t: NDArray[np.float64]) -> dict[str, float]:
    return {
        "first": float(values[0]),
        "last": float(values[-1]),
        "max": float(values.max()),
        "min": float(values.min()),
        "mean": float(np.trapezoid(values, t)),
    }
