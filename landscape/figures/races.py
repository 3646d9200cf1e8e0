"""Races of optimizers over a toy: their paths on its contours, and their losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, to_rgb
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from landscape.figures.scales import finite, log_levels, log_y, number
from landscape.figures.style import (
    BLACK,
    LINES,
    count,
    figure_of,
    new_axes,
    note,
    styled,
)
from landscape.text import clean

PALE = ("#ffffff", "#c3ccd1")  # from the lowest loss to the highest, so light that every line stands out
_DASHES = ("solid", (0, (4, 1.4)), (0, (1, 1)))
HALO = [patheffects.withStroke(linewidth=2.2, foreground="white")]
_LOWEST_SHOWN = 1e-10  # of what is left of a loss; below it is rounding


@styled
def race_paths(race: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """The path of every optimizer over contours whose levels are spaced by the logarithm.

    Args:
        race: The answer of a race: `path` (optimizer, step, coordinate), and `surface` (w1, w2).
        ax: Where to draw; None makes a new figure.

    Returns:
        The figure; paths end at a dot, those that leave the picture at its edge.
    """
    ax = draw_ground(race, ax)
    for index, name in enumerate(labels(race)):
        path = race["path"].values[index]
        ax.plot(path[:, 0], path[:, 1], **look(index), label=name, gid=name, path_effects=HALO, zorder=3)
        at = path[np.isfinite(path).all(1)][-1]
        ax.plot(*at, "o", color=look(index)["color"], markersize=3.2, markeredgecolor="white", zorder=4)
    draw_marks(ax, race)
    legend_over(ax, race)
    note(ax, [rates_note(race), _outside_note(race)])
    return figure_of(ax)


def draw_ground(answer: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Axes with the contours of a toy and the bar of their levels."""
    ax = ax or new_axes(3.0 + _legend_height(answer, 3))
    drawn, levels = draw_contours(ax, answer)
    bar = figure_of(ax).colorbar(drawn, ax=ax, pad=0.02, fraction=0.045, aspect=35)
    few = slice(None, None, 1 if len(levels) < 9 else 2)
    bar.set_ticks(list(levels[few]), labels=words_of(answer, levels[few]))
    bar.ax.minorticks_off()
    bar.outline.set_linewidth(0.4)
    bar.set_label(loss_label(answer))
    ax.set_xlabel("w₁")
    ax.set_ylabel("w₂")
    return ax


def draw_contours(ax: Axes, answer: xr.Dataset) -> tuple[QuadContourSet, NDArray[np.float64]]:
    """Draw the levels of a surface; they and what was filled."""
    levels = levels_of(answer)
    x, y, values = answer["w1"].values, answer["w2"].values, answer["surface"].transpose("w2", "w1").values
    shades = np.linspace(0, 1, len(levels) - 1)[:, None]
    colours = ListedColormap((1 - shades) * rgb(PALE[0]) + shades * rgb(PALE[1]))
    filled = ax.contourf(x, y, values, levels, cmap=colours, norm=BoundaryNorm(levels, colours.N))
    ax.contour(x, y, values, levels, colors="0.55", linewidths=0.35, linestyles="solid")
    ax.set_xlim(x[0], x[-1])
    ax.set_ylim(y[0], y[-1])
    for spine in ax.spines.values():
        spine.set_visible(True)
    return filled, levels


def rgb(colour: str) -> NDArray[np.float64]:
    """(3,) the parts of a colour, from 0 to 1."""
    return np.array(to_rgb(colour))


def levels_of(answer: xr.Dataset) -> NDArray[np.float64]:
    """Rising levels of a toy, spaced by the logarithm of what is between them and its minimum, or its saddle."""
    level, values = float(answer.attrs["level"]), answer["surface"].values
    above, below = values.max() - level, level - values.min()
    reach = max(above, below)
    is_signed = min(above, below) > 0.01 * reach
    steps = log_levels(reach * (0.05 if is_signed else 0.003), reach, 5 if is_signed else 10)
    downward = level - steps[::-1] if is_signed else np.array([])
    return np.concatenate([downward, [level] if not len(downward) else [], level + steps])


def loss_label(answer: xr.Dataset) -> str:
    """What stands beside losses, which are told from the lowest where that is not zero."""
    return "Loss − lowest loss" if answer.attrs["level"] else "Loss"


def words_of(answer: xr.Dataset, levels: NDArray[np.float64]) -> list[str]:
    """How levels read."""
    return [number(float(f"{level - answer.attrs['level']:.3g}")) for level in levels]


def draw_marks(ax: Axes, race: xr.Dataset) -> None:
    """The start, the minimizers and the saddles of a toy."""
    found = race["minimizer"].values
    if len(found) > 8:
        ax.plot(*found.T, ".", color="0.25", markersize=0.7, label="minima", gid="minima", zorder=2)
    elif len(found):
        ax.plot(*found.T, "*", color=BLACK, markeredgecolor="white", markersize=8, label="minimum", zorder=5)
    if race.sizes.get("critical_point"):
        ax.plot(*race["saddle"].values.T, "x", color=BLACK, markersize=4.5, label="saddle", zorder=5)
    if "path" in race:
        start = race["path"].values[0, 0]
        ax.plot(*start, "s", color=BLACK, markeredgecolor="white", markersize=4, label="start", zorder=5)


def look(index: int) -> dict[str, Any]:
    """Colour and dashes of one of many lines."""
    dashes = _DASHES[index // len(LINES) % len(_DASHES)]
    return {"color": LINES[index % len(LINES)], "linestyle": dashes, "linewidth": 1.2}


def labels(answer: xr.Dataset) -> list[str]:
    """The names of the optimizers, fit to be drawn."""
    return [clean(name, 34) for name in answer["optimizer"].values]


def legend_over(ax: Axes, answer: xr.Dataset) -> None:
    """A legend over the whole figure, whose width does not narrow the axes."""
    handles, words = ax.get_legend_handles_labels()
    figure_of(ax).legend(handles, words, loc="outside upper center", ncols=min(_columns(answer), len(words)))


def _columns(answer: xr.Dataset) -> int:
    return 3 if max(map(len, labels(answer))) <= 18 else 2


def _legend_height(answer: xr.Dataset, marks: int) -> float:
    """Inches that the legend of all optimizers and some marks takes."""
    return 0.125 * -(-(len(labels(answer)) + marks) // _columns(answer))


def rates_note(race: xr.Dataset) -> str:
    """The learning rates, of all that share one together."""
    rates = {name: float(rate) for name, rate in zip(labels(race), race["lr"].values, strict=True)}
    groups = {rate: [name for name, own in rates.items() if own == rate] for rate in rates.values()}
    if len(groups) == 1:
        return f"learning rate {next(iter(groups)):g}{_noise(race)}"
    main = max(groups, key=lambda rate: len(groups[rate]))
    others = [f"{', '.join(names)} {rate:g}" for rate, names in groups.items() if rate != main and "@" not in names[0]]
    return f"learning rate {main:g}{''.join(f'; {other}' for other in others)}{_noise(race)}"


def _noise(race: xr.Dataset) -> str:
    return f"; gradient noise {race.attrs['noise']:g}" if race.attrs.get("noise") else ""


def _outside_note(race: xr.Dataset) -> str:
    """How many paths leave the picture."""
    low, high = ([float(race[axis][end]) for axis in ("w1", "w2")] for end in (0, -1))
    path = race["path"].values
    leaves = ((path < low) | (path > high)).any(axis=(1, 2))
    lost = [name for name, gone in zip(labels(race), race["diverged"].values, strict=True) if gone]
    words = count(int(leaves.sum()), "path")
    left = f"{words} {'leaves' if leaves.sum() == 1 else 'leave'} the picture" if words else ""
    return "; ".join(filter(None, [left, f"diverged: {', '.join(lost)}" if lost else ""]))


@styled
def race_losses(race: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """The loss by step, above the lowest on a logarithmic axis where there is a lowest.

    Args:
        race: The answer of a race.
        ax: Where to draw; None makes a new figure.

    Returns:
        The figure; a dot marks the step that reached the minimum, or, where there is none, left the saddle.
    """
    ax = ax or new_axes(2.3 + _legend_height(race, 0))
    shown, has_lowest = shown_losses(race), race.attrs["level_is"] == "minimum"
    marks = race["goal_step" if has_lowest else "escape_step"].values
    steps = race["step"].values
    for index, name in enumerate(labels(race)):
        ax.plot(steps, shown[index], **look(index), label=name, gid=name)
        if np.isfinite(marks[index]):
            at = int(marks[index])
            ax.plot(
                at, shown[index, at], "o", color=look(index)["color"], markersize=4, markeredgecolor="white", zorder=4
            )
    _by_step(ax, int(steps[-1]))
    if has_lowest:
        starting = shown[:, 0].max()
        log_y(ax, np.clip(finite(shown), _LOWEST_SHOWN, 10 * starting))
        ax.set_ylabel(loss_label(race))
        what = f"dots: closer than {race.attrs['tolerance']:g} to a minimum"
    else:
        low, high = float(race["surface"].min()), float(race["surface"].max())
        ax.set_ylim(1.1 * low, max(1.1 * float(shown[:, 0].max()), 0.3 * high))
        ax.set_ylabel("Loss")
        what = f"dots: farther than {race.attrs['escape_radius']:g} from the saddle, on the way down"
    legend_over(ax, race)
    note(ax, [rates_note(race), what if np.isfinite(marks).any() else ""])
    return figure_of(ax)


def shown_losses(race: xr.Dataset) -> NDArray[np.float64]:
    """(optimizer, step) what stands on the axis of the losses."""
    losses = race["loss"].values
    if race.attrs["level_is"] != "minimum":
        return losses
    return np.where(np.isnan(losses), np.nan, np.maximum(losses - race.attrs["level"], _LOWEST_SHOWN))


def _by_step(ax: Axes, last: int) -> None:
    """An axis of steps that shows the first as well as the last."""
    ax.set_xscale("symlog", linthresh=1, linscale=0.4)
    ax.set_xlim(0, last)
    ax.xaxis.set_major_locator(FixedLocator([0, *(10**k for k in range(len(str(last))))]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(number))
    ax.set_xlabel("Optimizer step")
