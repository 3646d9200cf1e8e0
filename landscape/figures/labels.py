"""How answers are called on paper: directions, units, seeds."""

from __future__ import annotations

import numpy as np
import xarray as xr

from landscape.text import clean

_DIRECTIONS = {
    "filter": "filter-normalized direction",
    "layer": "layer-normalized direction",
    "weight": "weight-normalized direction",
    "gaussian": "Gaussian direction",
}
SYMBOLS = {"alpha": "α", "beta": "β", "gamma": "γ"}
_METRICS = {"loss": "Loss", "accuracy": "Accuracy", "error": "Error"}


def quantity(answer: xr.Dataset, metric: str) -> str:
    """The label of a metric's axis, with the unit if one is stored: "Loss (nats)"."""
    words = _METRICS.get(metric, clean(metric.replace("_", " "), 40))
    units = answer[metric].attrs.get("units") if metric in answer else None
    return f"{words} ({clean(units, 20)})" if units and units != "1" else words


def direction_label(answer: xr.Dataset, axis: str) -> str:
    """The label of a slice's axis: the coordinate and what it runs along."""
    kind = str(answer.attrs.get("directions", "direction"))
    if kind in _DIRECTIONS:
        words = _DIRECTIONS[kind] + (f" {list(SYMBOLS).index(axis) + 1}" if "beta" in answer.dims else "")
    else:
        words = clean(answer[axis].attrs.get("long_name", kind), 44)
    return f"{SYMBOLS[axis]}, {words}"


def direction_words(answer: xr.Dataset) -> str:
    """What all axes of an answer run along: "filter-normalized directions"."""
    kind = str(answer.attrs.get("directions", "direction"))
    if kind in _DIRECTIONS:
        return f"{_DIRECTIONS[kind]}s"
    names = [clean(answer[axis].attrs.get("long_name", kind), 44) for axis in SYMBOLS if axis in answer.dims]
    return " and ".join(dict.fromkeys(names))


def unit_note(answer: xr.Dataset) -> str:
    """How long one unit of each axis is, against the norm of the model's filters; "" if that is not stored."""
    is_line = "beta" not in answer.dims
    names = {
        SYMBOLS[axis]: "step_ratio" if is_line else f"step_ratio_{axis}" for axis in SYMBOLS if axis in answer.dims
    }
    ratios = {symbol: float(answer[name].median()) for symbol, name in names.items() if name in answer}
    if not ratios or not all(np.isfinite(list(ratios.values()))):
        return ""
    lengths = [f"{symbol} = 1: {100 * ratio:.3g}%" for symbol, ratio in ratios.items()]
    return f"{', '.join(lengths)} of the norm of the filters"


def share_note(answer: xr.Dataset) -> str:
    """How much of the trajectory's variance the plane holds, beside what a random walk would give."""
    if "explained_share" not in answer:
        return ""
    share = float(answer["explained_share"].values[:2].sum())
    null = float(answer["random_walk_share"].values[:2].sum()) if "random_walk_share" in answer else None
    return f"the plane holds {share:.0%} of the variance" + (f" (random walk: {null:.0%})" if null else "")


def stored(answer: xr.Dataset, name: str) -> float | None:
    """A number that an answer keeps as a variable or as an attribute; None if it has neither."""
    value = answer[name].values if name in answer else answer.attrs.get(name)
    return None if value is None or np.size(value) != 1 else float(np.ravel(value)[0])


def sampling_note(answer: xr.Dataset) -> str:
    """How many points were computed and how far off the others are, where a spline filled some in."""
    if "evaluated" not in answer:
        return ""
    computed, size = int(answer["evaluated"].sum()), answer["evaluated"].size
    if computed == size:
        return f"all {size:,} points computed"
    shares = [
        f"{text} {100 * value:.2g}% of {whole}"
        for name, text, whole in (("error_p95", "95% within", "their loss"), ("error_max", "all within", "its range"))
        if (value := stored(answer, name)) is not None and np.isfinite(value)
    ]
    held_out = f"; held-out points: {', '.join(shares)}" if shares else ""
    return f"{computed:,} of {size:,} points computed, the others interpolated{held_out}"


def window_note(answer: xr.Dataset) -> str:
    """How wide the window was chosen to be, where the loss chose it, and a precision below that of the network."""
    radii = {SYMBOLS[axis]: stored(answer, f"radius_{axis}") for axis in SYMBOLS if axis in answer.dims}
    chosen = [f"{symbol} {radius:.3g}" for symbol, radius in radii.items() if radius is not None]
    rise = stored(answer, "rise")
    factor = f", where the loss has risen by a factor of {rise:.3g}" if rise is not None else ""
    precision = clean(answer.attrs.get("precision", "float32"), 20)
    largest = stored(answer, "precision_error_max")
    error = f", off by {100 * largest:.2g}% of the loss at most where it was compared" if largest is not None else ""
    return "; ".join(
        text
        for text in (
            f"radius chosen: {', '.join(chosen)}{factor}" if chosen else "",
            f"computed in {precision}{error}" if precision not in ("float32", "float64") else "",
        )
        if text
    )


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
