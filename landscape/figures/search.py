"""How hyper-parameters decide what a training reaches: marginals, response surfaces, the learning-rate range test."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from landscape.figures.scales import finite, is_wide, log_x, log_y, number, round_ticks
from landscape.figures.style import (
    BLUE,
    GREEN,
    GREY,
    LINES,
    ORANGE,
    SKY,
    VERMILLION,
    WIDTHS,
    count,
    few_ticks,
    figure_of,
    legend_above,
    new_axes,
    note,
    styled,
)
from landscape.text import clean

_MOST_PANELS = 6
_MARKS = {"suggested": GREEN, "steepest": ORANGE, "lowest": BLUE, "diverged": VERMILLION}


@styled
def learning_rate_range(answer: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """The loss against the rising learning rate: every step faint, smoothed over it, and the rates that it suggests.

    Args:
        answer: What the range test answered, with learning_rate and smoothed_loss (step).
        ax: Where to draw; None makes a new figure.
    """
    ax = ax or new_axes(2.4)
    rates, smoothed = answer["learning_rate"].values.astype(float), answer["smoothed_loss"].values.astype(float)
    for losses in answer["loss"].values:
        ax.plot(rates, np.where(np.isfinite(losses), losses, np.nan), color=SKY, linewidth=0.4, alpha=0.6)
    ax.plot(rates, np.where(np.isfinite(smoothed), smoothed, np.nan), color="black", label="smoothed", gid="smoothed")
    for name, colour in _MARKS.items():
        if np.isfinite(value := answer[name].item()):
            ax.axvline(value, color=colour, linestyle="--", linewidth=0.9, label=name, gid=name)
    log_x(ax, rates, most=5)
    usable = finite(smoothed)
    if usable.size:
        low, first = usable.min(), usable[0]
        ax.set_ylim(low - 0.08 * (first - low + 0.1), first + 0.6 * (first - low + 0.1))
    ax.set_xlabel("Learning rate")
    ax.set_ylabel("Loss (nats)")
    legend_above(ax, columns=3)
    seeds = answer.sizes["seed"]
    known = {name: answer[name].item() for name in _MARKS if np.isfinite(answer[name].item())}
    values = ", ".join(f"{name} {number(round_to(value))}" for name, value in known.items())
    note(ax, [f"mean over {seeds} seeds" if seeds > 1 else "", f"{values} (suggested: a tenth of lowest)"])
    return figure_of(ax)


def round_to(value: float, digits: int = 2) -> float:
    """Round to so many significant digits."""
    return float(f"{value:.{digits}g}")


@styled
def marginals(answer: xr.Dataset) -> Figure:
    """The objective of every trial over each parameter that was searched; lines where one grid has several kinds.

    Args:
        answer: What a search answered: objective, field_NAME (trial), importance (parameter).

    Returns:
        A figure with a panel for each of at most six parameters, the most important first.
    """
    names = _by_importance(answer)[:_MOST_PANELS]
    rows = -(-len(names) // 2)
    columns = min(2, len(names))
    figure = Figure(figsize=(WIDTHS["single"] if columns == 1 else WIDTHS["double"], 2.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    values = answer["objective"].values.astype(float)
    for panel, name in zip(panels, names, strict=False):
        few_ticks(panel)
        _marginal(panel, answer, name, names)
        share = float(answer["importance"].sel(parameter=name))
        panel.set_xlabel(clean(name.replace("_", " ")) + (f" (explains {share:.0%})" if np.isfinite(share) else ""))
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    if is_wide(values, 5):
        log_y(panels[0], finite(values), most=5)
    for panel in panels[::columns]:
        panel.set_ylabel(_objective(answer))
    lost = int((~np.isfinite(values)).sum())
    note(panels[0], [f"{count(lost, 'trial')} that diverged or failed left out" if lost else ""])
    return figure


@styled
def response_surface(answer: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """The trials in the plane of the two most important numeric parameters, coloured by what they reached.

    Args:
        answer: What a search answered, over two numeric parameters at least.
        ax: Where to draw; None makes a new figure.

    Raises:
        ValueError: If there are fewer than two numeric parameters.
    """
    names = [name for name in _by_importance(answer) if _spans(answer, name)][:2]
    if len(names) < 2:
        raise ValueError(f"expected two numeric parameters to span a plane, found {', '.join(names) or 'none'}")
    ax = ax or new_axes(2.7)
    x, y = (answer[f"field_{name}"].values.astype(float) for name in names)
    values = answer["objective"].values.astype(float)
    lost = np.flatnonzero(~np.isfinite(values))
    known = np.argsort(-np.where(np.isfinite(values), values, np.inf))[len(lost) :]  # the best last, over the others
    if len(lost):
        ax.scatter(
            *_moved(x[lost], y[lost], x, y), marker="x", color=GREY, s=16, linewidth=0.8, label="diverged or failed"
        )
    colours = np.log10(values[known]) if is_wide(values[known], 5) else values[known]
    shown = _moved(x[known], y[known], x, y)
    points = ax.scatter(*shown, c=colours, cmap="viridis_r", s=26, edgecolor="white", linewidth=0.4, gid="trials")
    if len(known):
        ax.scatter(shown[0][-1:], shown[1][-1:], s=60, facecolor="none", edgecolor=VERMILLION, label="best")
    for axis, column, name in ((ax.xaxis, x, names[0]), (ax.yaxis, y, names[1])):
        _scale(ax, axis is ax.xaxis, column)
        (ax.set_xlabel if axis is ax.xaxis else ax.set_ylabel)(clean(name.replace("_", " ")))
    bar = figure_of(ax).colorbar(points, ax=ax, aspect=28, pad=0.02)
    bar.set_label(f"log10 of\n{_objective(answer)}" if is_wide(values[known], 5) else _objective(answer))
    bar.outline.set_linewidth(0.4)
    legend_above(ax, columns=2)
    return figure_of(ax)


def has_response_surface(answer: xr.Dataset) -> bool:
    """Whether two numeric parameters were searched; seeds only repeat."""
    return sum(_spans(answer, str(name)) for name in answer["parameter"].values) >= 2


def _marginal(ax: Axes, answer: xr.Dataset, name: str, names: list[str]) -> None:
    values = answer["objective"].values.astype(float)
    column = answer[f"field_{name}"].values
    numeric = _is_numeric(answer, name)
    x = column.astype(float) if numeric else np.unique(column, return_inverse=True)[1].astype(float)
    kinds = next((other for other in names if other != name and not _is_numeric(answer, other)), None)
    groups = answer[f"field_{kinds}"].values.astype(str) if numeric and kinds else np.full(len(x), "")
    for colour, kind in zip(LINES, np.unique(groups), strict=False):
        chosen = (groups == kind) & np.isfinite(values)
        at = _positive(x, x[chosen]) if numeric else x[chosen]
        ax.plot(at, values[chosen], "o", color=colour, markersize=2.8, alpha=0.8, label=clean(kind) or None, gid=name)
        if numeric and kinds:
            places = np.unique(at)
            ax.plot(places, [np.median(values[chosen][at == place]) for place in places], color=colour, linewidth=0.8)
    if numeric:
        _scale(ax, True, x)
    else:
        ax.set_xticks(range(len(np.unique(column))), [clean(word, 14) for word in np.unique(column)], fontsize=6)
        ax.set_xlim(-0.6, len(np.unique(column)) - 0.4)
    if groups[0]:
        legend_above(ax, columns=4)


def _scale(ax: Axes, is_x: bool, values: NDArray[np.float64]) -> None:
    """A log axis where values span more than a decade; zero then stands at the edge, and is named there."""
    above = values[values > 0]
    if not is_wide(above, 9):
        (ax.xaxis if is_x else ax.yaxis).set_major_locator(round_ticks(5))
        return
    shown = _positive(values, values)
    (log_x if is_x else log_y)(ax, shown, most=4)
    if (values == 0).any():
        axis = ax.xaxis if is_x else ax.yaxis
        ticks = [tick for tick in axis.get_majorticklocs() if tick >= above.min() / 1.01]
        axis.set_ticks([shown.min(), *ticks], ["0", *map(number, ticks)])


def _positive(everything: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values for a log axis: zeros move half a decade below the smallest that is above zero."""
    above = everything[everything > 0]
    if not is_wide(above, 9):
        return values
    return np.where(values > 0, values, above.min() / 10**0.5)


def _moved(
    x: NDArray[np.float64], y: NDArray[np.float64], all_x: NDArray[np.float64], all_y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return _positive(all_x, x), _positive(all_y, y)


def _by_importance(answer: xr.Dataset) -> list[str]:
    shares = np.nan_to_num(answer["importance"].values.astype(float), nan=-1.0)
    order = np.argsort(-shares, kind="stable")
    return [str(answer["parameter"].values[index]) for index in order]


def _is_numeric(answer: xr.Dataset, name: str) -> bool:
    return answer[f"field_{name}"].dtype.kind in "fiu"


def _spans(answer: xr.Dataset, name: str) -> bool:
    """Whether a parameter makes an axis of a plane: numbers, and not the seeds of repetitions, which have no order."""
    return name != "seed" and _is_numeric(answer, name)


def _objective(answer: xr.Dataset) -> str:
    words = str(answer["objective"].attrs.get("long_name", "objective"))
    return words[0].upper() + words[1:].replace(" (nats)", "").replace(" of the ", ",\n")
