"""What races come to: steps by learning rate, where many starts end, and the counter-examples to Adam."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from landscape.figures.races import draw_contours, labels, look
from landscape.figures.scales import finite, is_wide, log_y, number
from landscape.figures.style import (
    BLACK,
    BLUE,
    GREY,
    VERMILLION,
    WIDTHS,
    Width,
    few_ticks,
    figure_of,
    legend_above,
    new_axes,
    note,
    note_under,
    styled,
)
from landscape.text import clean

_ENDS = {"minimum": ("o", BLUE), "saddle": ("x", VERMILLION), "elsewhere": ("+", BLACK)}
_WORDS = {"minimum": "ends at a minimum", "saddle": "at a saddle", "elsewhere": "elsewhere"}


@styled
def race_sweep(sweep: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """A map of how many steps each optimizer needs with each learning rate.

    Args:
        sweep: The answer of a sweep: `goal_step` and `escape_step` (optimizer, lr).
        ax: Where to draw; None makes a new figure.

    Returns:
        The figure; the fewest steps of each optimizer are in bold.
    """
    ax = ax or new_axes(0.75 + 0.24 * sweep.sizes["optimizer"])
    to_minimum = sweep.attrs["level_is"] == "minimum"
    steps = sweep["goal_step" if to_minimum else "escape_step"].transpose("optimizer", "lr").values
    diverged = sweep["diverged"].transpose("optimizer", "lr").values
    known = finite(steps)
    low, high = (np.log10(known.clip(1).min()), np.log10(known.clip(2).max())) if known.size else (0.0, 1.0)
    ax.imshow(np.log10(np.maximum(steps, 1)), cmap="viridis_r", vmin=low, vmax=high, aspect="auto")
    for row, column in np.ndindex(*steps.shape):
        value, is_known = steps[row, column], np.isfinite(steps[row, column])
        words = f"{value:,.0f}" if is_known else "×" if diverged[row, column] else "–"
        is_dark = is_known and np.log10(np.maximum(value, 1)) > (low + high) / 2
        weight = "bold" if is_known and value == np.nanmin(steps[row]) else "normal"
        colour = "white" if is_dark else "black" if is_known else GREY
        ax.text(column, row, words, ha="center", va="center", fontsize=6, color=colour, weight=weight)
    ax.set_xticks(range(sweep.sizes["lr"]), [f"{rate:g}" for rate in sweep["lr"].values])
    ax.set_yticks(range(sweep.sizes["optimizer"]), labels(sweep))
    ax.tick_params(length=0)
    ax.set_xlabel("Learning rate")
    goal = f"closer than {sweep.attrs['tolerance']:g} to a minimum" if to_minimum else "out of the saddle"
    note(
        ax,
        [f"steps until {goal}, at most {int(sweep.attrs['steps']):,}", "bold: fewest of the row; – never; × diverged"],
    )
    return figure_of(ax)


@styled
def race_basins(basins: xr.Dataset, *, width: Width = "single") -> Figure:
    """Where each optimizer ends from many starts: every start in the colour of its end, over the toy's contours.

    Args:
        basins: The answer of a race from many starts.
        width: How many columns of a paper the panels fill.

    Returns:
        The figure, a panel an optimizer.
    """
    names = labels(basins)
    across = min(len(names), 2 if width == "single" else 3)
    down = -(-len(names) // across)
    side = WIDTHS[width] / across
    figure = Figure(figsize=(WIDTHS[width], 0.35 + down * (side + 0.45)), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    low, high = basins["begin"].values.min(0), basins["begin"].values.max(0)
    for index, panel in enumerate(panels):
        if index >= len(names):
            panel.set_visible(False)
            continue
        _draw_ends(panel, basins.isel(optimizer=index))
        panel.set(xlim=_wider(low[0], high[0]), ylim=_wider(low[1], high[1]))
        panel.set(xlabel="w₁ at the start", ylabel="" if index % across else "w₂ at the start")
        few_ticks(panel)
        panel.set_title(f"{names[index]}\n{_shares(basins.isel(optimizer=index))}", fontsize=6.5)
        panel.tick_params(labelbottom=True)
    handles, words = panels[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside upper center", ncols=len(words))
    note_under(
        figure, [f"{basins.sizes['start']} starts, standard deviation {basins.attrs['spread']:g}; 95% intervals"]
    )
    return figure


def _wider(low: float, high: float) -> tuple[float, float]:
    """A range with room around it."""
    return low - 0.06 * (high - low), high + 0.06 * (high - low)


def _draw_ends(ax: Axes, one: xr.Dataset) -> None:
    draw_contours(ax, one)
    begin, ended = one["begin"].values, one["ended_as"].values
    for place, outcome in enumerate(map(str, one["outcome"].values)):
        marker, colour = _ENDS[outcome]
        where = begin[ended == place]
        ax.plot(
            *where.T,
            marker,
            color=colour,
            markersize=2.4 if len(begin) <= 200 else 1.6,
            markeredgewidth=0.7,
            linestyle="",
            label=_WORDS[outcome],
        )


def _shares(one: xr.Dataset) -> str:
    """The largest share with its interval."""
    best = one.isel(outcome=int(one["share"].values.argmax()))
    interval = f"{best['low'].item():.1%} to {best['high'].item():.1%}"
    return f"{best['outcome'].item()} {best['share'].item():.1%}\n({interval})"


@styled
def race_online(answer: xr.Dataset) -> Figure:
    """Where forms of Adam go on an online problem, and what that costs them.

    Args:
        answer: The answer of an online race: `x` and `regret` (optimizer, step).

    Returns:
        A figure of two panels that share the axis of steps.
    """
    figure = Figure(figsize=(WIDTHS["single"], 3.2), layout="constrained")
    top, bottom = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    for index, name in enumerate(labels(answer)):
        one = answer.isel(optimizer=index)
        top.plot(answer["step"], one["x"], **look(index), label=name, gid=name)
        bottom.plot(answer["step"], one["regret"], **look(index))
    for place in (-1.0, 1.0):
        top.axhline(place, color="0.6", linewidth=0.6, zorder=0)
    top.set_ylim(-1.08, 1.08)
    top.set_yticks([-1, -0.5, 0, 0.5, 1], ["best −1", "−0.5", "0", "0.5", "worst 1"])
    top.set_ylabel("x")
    regret = answer["regret"].transpose("optimizer", "step").values
    if is_wide(regret):
        log_y(bottom, regret)
    else:
        late = regret[:, regret.shape[1] // 2 :]  # the first steps are far above what matters
        bottom.set_ylim(min(1.1 * late.min(), 0), 1.1 * late.max())
    bottom.set_ylabel("Mean regret")
    bottom.set_xscale("log")
    bottom.xaxis.set_major_formatter(FuncFormatter(number))
    bottom.xaxis.set_minor_locator(NullLocator())
    bottom.set_xlabel("Step")
    legend_above(top, columns=2)
    ends = zip(labels(answer), answer["final_x"].values, answer["verdict"].values, strict=True)
    note(bottom, [f"{name} ends {clean(said)}, x = {x:.4f}" for name, x, said in ends])
    return figure
