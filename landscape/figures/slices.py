"""One-dimensional slices: the loss along directions, with its spread over direction seeds."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from landscape.figures.labels import direction_label, quantity, unit_note
from landscape.figures.scales import finite, is_wide, log_y
from landscape.figures.style import (
    BLACK,
    BLUE,
    GREY,
    VERMILLION,
    count,
    figure_of,
    legend_above,
    new_axes,
    note,
    styled,
)

Band = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@styled
def slice_band(answer: xr.Dataset, *, metric: str = "loss", ax: Axes | None = None) -> Figure:
    """The loss along the slice: median over direction seeds, with the band from the 10th to the 90th percentile.

    The checkpoint is marked at α = 0. A point where any seed has no finite value is marked with a cross at the top.

    Args:
        answer: The answer of the probe Slice: dims (alpha,) or (seed, alpha).
        metric: The variable to draw; `test_<metric>` is drawn with it where it exists.
        ax: Where to draw; None makes a new figure.

    Returns:
        The figure.
    """
    ax = ax or new_axes(2.3)
    alpha = np.asarray(answer["alpha"].values, dtype=float)
    drawn = [name for name in (metric, f"test_{metric}") if name in answer]
    bands = {name: band(answer, name) for name in drawn}
    for name, colour, line in zip(drawn, (BLUE, VERMILLION), ("-", "--"), strict=False):
        lower, median, upper = (_gaps(values) for values in bands[name])
        label = "test" if name.startswith("test_") else "training"
        if answer.sizes.get("seed", 1) > 1:
            ax.fill_between(alpha, lower, upper, color=colour, alpha=0.22, linewidth=0, gid=f"{name} band")
        few = "o" if finite(median).size <= 3 else ""
        ax.plot(alpha, median, line, color=colour, marker=few, label=label, gid=name)
        _mark_center(ax, answer, name, last=name == drawn[-1])
    _scale(ax, np.concatenate([np.concatenate(b) for b in bands.values()]), metric)
    broken = _mark_non_finite(ax, answer, drawn)
    if alpha.size > 1:
        ax.set_xlim(alpha.min(), alpha.max())
    ax.set_xlabel(direction_label(answer, "alpha"))
    ax.set_ylabel(quantity(answer, metric))
    legend_above(ax)
    note(ax, [unit_note(answer), _seeds(answer), f"{count(broken, 'non-finite value')} (×)" if broken else ""])
    return figure_of(ax)


def band(answer: xr.Dataset, metric: str) -> Band:
    """The 10th percentile, median and 90th percentile over seeds, each (alpha,): as stored, else from the values."""
    stored = tuple(f"{metric}_{name}" for name in ("lower", "median", "upper"))
    if all(name in answer for name in stored):
        lower, median, upper = (np.asarray(answer[name].values, dtype=float) for name in stored)
        return lower, median, upper
    values = np.asarray(answer[metric].values, dtype=float)
    if "seed" not in answer[metric].dims:
        return values, values, values
    values = np.where(np.isfinite(values), values, np.nan)
    lower, median, upper = np.quantile(values, (0.1, 0.5, 0.9), axis=answer[metric].dims.index("seed"))
    return lower, median, upper


def _gaps(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan)


def _scale(ax: Axes, values: NDArray[np.float64], metric: str) -> None:
    if metric.endswith("loss") and is_wide(values, 20):
        log_y(ax, values)
    elif finite(values).size == 0:
        ax.set_yticks([])
        ax.text(0.5, 0.5, "no finite value", transform=ax.transAxes, ha="center", color=GREY)
    elif np.ptp(finite(values)) == 0:
        level = finite(values)[0]
        ax.set_ylim(level - 0.1 * (abs(level) or 1), level + 0.1 * (abs(level) or 1))


def _mark_center(ax: Axes, answer: xr.Dataset, name: str, *, last: bool) -> None:
    if f"center_{name}" in answer and np.isfinite(value := float(answer[f"center_{name}"].median())):
        label = "checkpoint" if last else None
        ax.plot(0, value, "D", color=BLACK, markerfacecolor="white", markersize=4, label=label, gid="checkpoint")


def _mark_non_finite(ax: Axes, answer: xr.Dataset, names: list[str]) -> int:
    """Crosses at the top where any value is not finite; returns how many values are not."""
    broken = ~np.isfinite(np.stack([answer[name].transpose(..., "alpha").values for name in names]))
    alpha = answer["alpha"].values[broken.reshape(-1, answer.sizes["alpha"]).any(axis=0)]
    if alpha.size:
        ax.plot(
            alpha,
            np.full(alpha.size, 0.985),
            "x",
            transform=ax.get_xaxis_transform(),
            color=GREY,
            markersize=3,
            markeredgewidth=0.7,
            clip_on=False,
            gid="non-finite",
        )
    return int(broken.sum())


def _seeds(answer: xr.Dataset) -> str:
    seeds = answer.sizes.get("seed", 1)
    return f"median and 10–90 % band of {seeds} directions" if seeds > 1 else ""
