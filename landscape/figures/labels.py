"""How answers are called on paper: directions, units, seeds."""

from __future__ import annotations

import numpy as np
import xarray as xr

from landscape.figures.style import plain

_DIRECTIONS = {
    "filter": "filter-normalized direction",
    "layer": "layer-normalized direction",
    "weight": "weight-normalized direction",
    "gaussian": "Gaussian direction",
    "pca": "trajectory PCA component",
    "hessian": "Hessian eigenvector",
}
_METRICS = {"loss": "Loss", "accuracy": "Accuracy", "error": "Error"}


def quantity(answer: xr.Dataset, metric: str) -> str:
    """The label of a metric's axis, with the unit if one is stored: "Loss (nats)"."""
    words = _METRICS.get(metric, plain(metric.replace("_", " "), 40))
    units = answer[metric].attrs.get("units") if metric in answer else None
    return f"{words} ({plain(units, 20)})" if units and units != "1" else words


def direction_label(answer: xr.Dataset, axis: str) -> str:
    """The label of a slice's axis: the coordinate, what it runs along, and how long one unit of it is."""
    symbol = {"alpha": "α", "beta": "β"}[axis]
    kind = str(answer.attrs.get("directions", "direction"))
    words = _DIRECTIONS.get(kind, plain(kind, 40))
    if "beta" in answer.dims:
        words += " 1" if axis == "alpha" else " 2"
    unit = _unit_length(answer, axis)
    return f"{symbol}, {words}" + (f" ({unit})" if unit else "")


def _unit_length(answer: xr.Dataset, axis: str) -> str:
    """What one unit of the axis stands for: a share of the variance, or of the norm of the filters."""
    if "explained_share" in answer:
        share = float(answer["explained_share"].values.flat[0 if axis == "alpha" else 1])
        return f"{share:.0%} of variance"
    for name in (f"step_ratio_{axis}", "step_ratio"):
        if name in answer and np.isfinite(ratio := float(answer[name].median())):
            return f"{symbol_of(axis)} = 1: {ratio:.2g} ‖filters‖"
    return ""


def symbol_of(axis: str) -> str:
    """The Greek letter of a slice coordinate."""
    return {"alpha": "α", "beta": "β"}[axis]


def at_seed(answer: xr.Dataset, seed: int) -> xr.Dataset:
    """One direction seed of an answer, by its position; the answer itself where it has only one.

    Raises:
        IndexError: If there is no such seed.
    """
    if "seed" not in answer.dims:
        return answer
    seeds = answer.sizes["seed"]
    if not 0 <= seed < seeds:
        raise IndexError(f"expected a position among the {seeds} direction seeds of the answer; got {seed}")
    return answer.isel(seed=seed)


def seed_note(answer: xr.Dataset, seed: int) -> str:
    """Which of several direction seeds is drawn."""
    if answer.sizes.get("seed", 1) == 1:
        return ""
    value = answer["seed"].values[seed] if "seed" in answer.coords else seed
    return f"direction seed {value}, one of {answer.sizes['seed']}"
