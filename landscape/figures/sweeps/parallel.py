"""Every run of a sweep as a line through the axes of its factors, coloured by what it reached."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from landscape.figures.scales import finite, is_wide, log_ticks, number, round_ticks
from landscape.figures.style import GREY, WIDTHS, count, note_under, styled
from landscape.figures.sweeps.factors import Array, Factor, factors_of, metric_label, metric_values, status_note

_MOST_RUNS = 2000
_MOST_TICKS = 9


@styled
def parallel_coordinates(sweep: xr.Dataset, metric: str = "test_error") -> Figure:
    """Runs as lines from factor to factor and to the metric; those that did not finish are grey and end at a mark.

    Lines through one level of a factor are moved a little apart, so that none hides another.

    Args:
        sweep: What `open_sweep` returns.
        metric: A variable of it, or test_error where there is test_accuracy.

    Raises:
        ValueError: If nothing was swept.
    """
    factors = factors_of(sweep)
    if not factors:
        raise ValueError("nothing was swept but seeds, so there are no coordinates to draw")
    values = metric_values(sweep, metric)
    values = values.isel(epoch=-1) if "epoch" in values.dims else values
    kept = [factor.name for factor in factors] + ["seed"]
    values = values.squeeze([dim for dim in values.dims if dim not in kept], drop=True).transpose(*kept)
    index = np.indices(values.shape).reshape(values.ndim, -1)
    reached = values.values.ravel()
    chosen = np.unique(np.linspace(0, reached.size - 1, min(reached.size, _MOST_RUNS)).astype(int))
    places = _places(factors, index[:, chosen])
    figure = Figure(figsize=(WIDTHS["double"], 2.9), layout="constrained")
    ax = figure.add_subplot()
    _draw_runs(figure, ax, places, reached[chosen], metric_label(sweep, metric))
    _draw_axes(ax, factors, metric_label(sweep, metric), finite(reached))
    note_under(
        figure,
        [
            status_note(sweep),
            f"{count(chosen.size, 'run')} of {reached.size:,} shown" if chosen.size < reached.size else "",
        ],
    )
    return figure


def _places(factors: list[Factor], index: np.ndarray) -> Array:
    """(runs, factors) heights from 0 to 1, the runs of one level spread over a small part of its room."""
    rng = np.random.default_rng(0)
    heights = []
    for factor, levels in zip(factors, index, strict=False):
        at = _heights(factor)
        room = 0.35 * np.diff(np.sort(at)).min() if len(at) > 1 else 0.3
        heights.append(at[levels] + min(room, 0.12) * (rng.random(len(levels)) - 0.5))
    return np.stack(heights, axis=1)


def _heights(factor: Factor) -> Array:
    values = np.log(factor.values) if factor.is_log else factor.values
    return 0.04 + 0.92 * (values - values.min()) / (np.ptp(values) or 1.0)


def _unit(values: Array, numbers: Array) -> Array:
    """Heights of metrics: logarithmic where they are wide."""
    low, high = (numbers.min(), numbers.max()) if numbers.size else (0.0, 1.0)
    if is_wide(numbers, 20):
        values, low, high = np.log(np.where(values > 0, values, np.nan)), np.log(low), np.log(high)
    return np.asarray(0.04 + 0.92 * (values - low) / ((high - low) or 1.0))


def _draw_runs(figure: Figure, ax: Axes, places: Array, reached: Array, label: str) -> None:
    numbers = finite(reached)
    last = np.where(np.isfinite(reached), _unit(reached, numbers), 1.12)
    points = np.column_stack([places, last])
    lines = [np.column_stack([np.arange(points.shape[1]), row]) for row in points]
    low, high = (numbers.min(), numbers.max()) if numbers.size else (0.0, 1.0)
    scale = LogNorm(low, high) if is_wide(numbers, 20) else Normalize(low, high if high > low else low + 1e-9)
    colours = colormaps["viridis"]
    faint = float(np.clip(30 / len(lines), 0.15, 0.8))
    lost = ~np.isfinite(reached)
    for position in np.argsort(-np.nan_to_num(reached, nan=np.inf), kind="stable"):  # the lowest on top
        style = (
            {"colors": "0.6", "linestyles": ":"} if lost[position] else {"colors": [colours(scale(reached[position]))]}
        )
        ax.add_collection(LineCollection([lines[position]], linewidths=0.8, alpha=faint, gid="run", **style))
    if lost.any():
        ax.text(points.shape[1] - 1, 1.12, " did not finish", ha="right", va="bottom", fontsize=6, color=GREY)
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=ax, aspect=24, pad=0.06)
    bar.set_label(label)
    bar.outline.set_linewidth(0.4)
    if isinstance(scale, LogNorm):
        bar.set_ticks(log_ticks(low, high, 6).tolist())
        bar.ax.yaxis.set_major_formatter(number)
        bar.ax.minorticks_off()


def _draw_axes(ax: Axes, factors: list[Factor], label: str, numbers: Array) -> None:
    ax.set_xlim(-0.35, len(factors) + 0.25)
    ax.set_ylim(-0.02, 1.2)
    ax.set_yticks([])
    ax.spines[["left", "right", "top", "bottom"]].set_visible(False)
    names = [factor.label for factor in factors] + [label]
    ax.set_xticks(range(len(names)), names)
    ax.tick_params(axis="x", length=0)
    for place, factor in enumerate(factors):
        every = -(-len(factor.words) // _MOST_TICKS)
        _draw_axis(ax, place, _heights(factor)[::every], factor.short(16)[::every])
    ticks = _metric_ticks(numbers)
    _draw_axis(ax, len(factors), _unit(ticks, numbers), [number(tick) for tick in ticks])


def _metric_ticks(numbers: Array) -> Array:
    if not numbers.size:
        return np.array([])
    low, high = numbers.min(), numbers.max()
    ticks = log_ticks(low, high, 6) if is_wide(numbers, 20) else np.asarray(round_ticks(5).tick_values(low, high))
    inside = ticks[(ticks >= low) & (ticks <= high)]
    return inside if inside.size else numbers[:1]


def _draw_axis(ax: Axes, place: int, heights: Array, words: list[str]) -> None:
    ax.plot([place, place], [0, 1.04], color="black", linewidth=0.8, zorder=5)
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
    for height, word in zip(heights, words, strict=True):
        ax.text(place - 0.04, height, word, ha="right", va="center", fontsize=6, zorder=6, bbox=box)
