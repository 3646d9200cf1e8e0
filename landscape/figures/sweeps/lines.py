"""A metric over one factor, and curves by epoch, with intervals over seeds."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.scales import finite, is_wide, log_y, round_ticks
from landscape.figures.style import LINES, WIDTHS, count, few_ticks, note_under, styled
from landscape.figures.sweeps.factors import (
    Array,
    Factor,
    averaged,
    chosen_factor,
    factors_of,
    fitting_center,
    is_share,
    metric_label,
    metric_values,
    put_levels,
    status_note,
    statuses,
)
from landscape.intervals import CONFIDENCE

_MOST_PANELS = 8
_MOST_COLUMNS = 4
_MARKERS = "osD^vPX*"
CENTERS = ("auto", "mean", "median")


@styled
def factor_curves(
    sweep: xr.Dataset, metric: str = "test_error", *, x: str | None = None, center: str = "auto"
) -> Figure:
    """A metric over a factor, a second factor as colour, a third as panels; further ones are averaged over.

    Args:
        sweep: What `open_sweep` returns.
        metric: A variable of it, or test_error where there is test_accuracy.
        x: The factor along the axis; the numeric one with the most levels if None.
        center: ``mean`` with Student's 95% interval over seeds, ``median`` with the quartiles, or ``auto``: the median
            where the seeds of a cell differ by a factor of more than 100.

    Raises:
        ValueError: If nothing was swept, or a name or word is not known.
    """
    if center not in CENTERS:
        raise ValueError(f"center must be one of {', '.join(CENTERS)}, got {center!r}")
    along, colour, panel_factors = _roles(sweep, x)
    values, hidden = averaged(metric_values(sweep, metric), [*panel_factors, colour, along])
    center = fitting_center(values) if center == "auto" else center
    marks = statuses(sweep, [*panel_factors, colour, along])
    low, middle, high = _band(values, center)
    figure, panels = _new_panels(panel_factors)
    for at, panel in zip(_positions(panel_factors), panels, strict=True):
        bands = [part.isel(at).values.reshape(-1, len(along.values)) for part in (middle, low, high)]
        lost = marks.isel(at).values.reshape(-1, len(along.values))
        _draw_lines(panel, along, colour, bands, lost)
        panel.set_title("\n".join(factor.titles()[at[factor.name]] for factor in panel_factors))
        put_levels(panel, along)
    drawn = np.concatenate([middle.values.ravel(), low.values.ravel()])
    _finish(panels, _columns(panel_factors), drawn, metric_label(sweep, metric), is_share(metric))
    _legend(figure, panels[0], colour, has_markers=True)
    _notes(figure, sweep, hidden, center, colour)
    return figure


@styled
def training_curves(sweep: xr.Dataset, metric: str = "train_loss") -> Figure:
    """A curve over epochs for each level of a factor, mean and 95% band over seeds, in panels over further factors.

    Where the seeds of a cell differ by a factor of more than 100 it is the median and the quartiles.

    Args:
        sweep: What `open_sweep` returns.
        metric: A variable over (..., seed, epoch).

    Raises:
        ValueError: If the metric is not measured by epoch.
    """
    values = metric_values(sweep, metric)
    if "epoch" not in values.dims:
        raise ValueError(f"{metric} is one number a run; choose one measured by epoch, such as train_loss")
    factors = sorted(factors_of(sweep), key=lambda factor: -factor.is_numeric)
    colour = factors[0] if factors else None
    panel_factors = _fitting(factors[1:])
    values, hidden = averaged(values, [*panel_factors, colour])
    center = fitting_center(values)
    low, middle, high = _band(values, center)
    figure, panels = _new_panels(panel_factors)
    epochs = np.arange(1, values.sizes["epoch"] + 1)  # measured after each
    for at, panel in zip(_positions(panel_factors), panels, strict=True):
        rows = [part.isel(at).values.reshape(-1, len(epochs)) for part in (middle, low, high)]
        for level in _drawn(colour):
            line, (curve, below, above) = _lines(colour)[level][0], (row[level] for row in rows)
            panel.plot(epochs, curve, color=line, linewidth=1.1, gid="curve")
            panel.fill_between(epochs, below, above, color=line, alpha=0.18, linewidth=0)
        panel.set_title("\n".join(factor.titles()[at[factor.name]] for factor in panel_factors))
        panel.set_xlabel("Epoch")
        panel.xaxis.set_major_locator(round_ticks(5, integer=True))
    _finish(panels, _columns(panel_factors), middle.values, metric_label(sweep, metric), is_share(metric))
    _legend(figure, panels[0], colour, has_markers=False)
    _notes(figure, sweep, hidden, center, colour)
    return figure


def _roles(sweep: xr.Dataset, x: str | None) -> tuple[Factor, Factor | None, list[Factor]]:
    """Which factor goes along the axis, gives the colour, and makes panels."""
    factors = factors_of(sweep)
    if not factors:
        raise ValueError("nothing was swept but seeds, so there is no factor to draw a curve over")
    ranked = sorted(factors, key=lambda factor: (not factor.is_numeric, -len(factor.words)))
    along = chosen_factor(sweep, x) if x is not None else ranked[0]
    rest = sorted((f for f in factors if f.name != along.name), key=lambda factor: len(factor.words))
    if not rest:
        return along, None, []
    colour = rest.pop() if len(rest) == 1 else rest.pop(-1 if len(rest[-1].words) <= len(LINES) else 0)
    return along, colour, _fitting(rest)


def _fitting(factors: list[Factor]) -> list[Factor]:
    """Those of the factors that together make no more panels than fit."""
    kept: list[Factor] = []
    for factor in factors:
        if math.prod(len(one.words) for one in [*kept, factor]) <= _MOST_PANELS:
            kept.append(factor)
    return sorted(kept, key=lambda factor: len(factor.words))  # the last one goes over the columns


def _positions(factors: list[Factor]) -> list[dict[str, int]]:
    """Where each panel lies along the factors that make panels."""
    levels = itertools.product(*(range(len(factor.words)) for factor in factors))
    return [dict(zip((factor.name for factor in factors), position, strict=True)) for position in levels]


def _band(values: xr.DataArray, center: str) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Lower end, middle and upper end over the seeds that finished; no ends for a single one."""
    from scipy.stats import t

    number = values.count("seed")
    if center == "median":
        quartiles = values.where(number > 0, 0.0).quantile([0.25, 0.5, 0.75], "seed").where(number > 0)
        ends = [quartiles.isel(quantile=at, drop=True) for at in (0, 2)]
        return ends[0].where(number > 1), quartiles.isel(quantile=1, drop=True), ends[1].where(number > 1)
    middle = values.mean("seed", skipna=True)
    spread = values.where(number > 1).std("seed", ddof=1, skipna=True)
    reach = spread / np.sqrt(number) * t.ppf((1 + CONFIDENCE) / 2, np.maximum(number - 1, 1))
    return middle - reach, middle, middle + reach


def _lines(colour: Factor | None) -> list[tuple[Any, str]]:
    """A colour and a marker for each level: in order for few, along a colour map for numbers and for many."""
    if colour is None:
        return [(LINES[0], _MARKERS[0])]
    number = len(colour.words)
    if number <= len(LINES) and not (colour.is_numeric and number > 3):
        return list(zip(LINES, _MARKERS, strict=False))[:number]
    shades = colormaps["viridis"](np.linspace(0, 0.9, number))
    return [(tuple(shade), _MARKERS[index % len(_MARKERS)]) for index, shade in enumerate(shades)]


def _drawn(colour: Factor | None) -> list[int]:
    """Which levels get a line: all of few, some of many that are numbers."""
    number = len(colour.words) if colour else 1
    return (
        list(range(number)) if number <= 10 else np.unique(np.linspace(0, number - 1, 7).round().astype(int)).tolist()
    )


def _draw_lines(panel: Axes, along: Factor, colour: Factor | None, bands: list[Array], lost: np.ndarray) -> None:
    order = np.argsort(along.values)
    levels = len(bands[0])
    for rank, level in enumerate(_drawn(colour)):
        (line, marker), (middle, low, high) = _lines(colour)[level], (band[level] for band in bands)
        shift = 0.0 if along.is_numeric else 0.5 * ((level + 0.5) / levels - 0.5)
        at = along.values[order] + shift
        reach = np.stack([middle - low, high - middle])[:, order]
        panel.errorbar(
            at,
            middle[order],
            yerr=np.nan_to_num(reach),
            fmt=marker + ("-" if along.is_numeric else ""),
            color=line,
            markersize=2.6 if len(order) <= 15 else 1.2,
            linewidth=0.9,
            elinewidth=0.7,
            capsize=0,
            gid="curve",
        )
        for position in np.flatnonzero(lost[level][order] != ""):
            panel.annotate(
                str(lost[level][order][position]),
                (at[position], 1 - 0.05 * (rank % 6)),
                xycoords=panel.get_xaxis_transform(),
                ha="center",
                va="top",
                fontsize=7,
                color=line,
                gid="lost",
            )


def _new_panels(factors: list[Factor]) -> tuple[Figure, list[Axes]]:
    number = math.prod(len(factor.words) for factor in factors)
    columns = _columns(factors)
    rows = -(-number // columns)
    size = (WIDTHS["double" if number > 1 else "single"], 2.2 * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel())
    for panel in panels:
        few_ticks(panel)
    for panel in panels[number:]:
        panel.set_axis_off()
    for panel in panels[max(number - columns, 0) : number]:
        panel.tick_params(labelbottom=True)
    return figure, panels[:number]


def _columns(factors: list[Factor]) -> int:
    """How many panels stand in a row: all levels of the last factor, and of those before it as long as they fit."""
    columns = 1
    for factor in reversed(factors):
        if columns * len(factor.words) > _MOST_COLUMNS:
            break
        columns *= len(factor.words)
    return columns if columns > 1 else min(math.prod(len(factor.words) for factor in factors), _MOST_COLUMNS)


def _finish(panels: list[Axes], columns: int, values: Array, label: str, is_percent: bool) -> None:
    numbers = finite(values)
    if is_wide(numbers, 10):
        log_y(panels[0], numbers, most=5)
    elif numbers.size and len(np.unique(numbers)) == 1:
        panels[0].set_ylim(numbers[0] - 0.5 * (abs(numbers[0]) or 1), numbers[0] + 0.5 * (abs(numbers[0]) or 1))
    if is_percent:  # an interval may go on where there is nothing
        bottom, top = panels[0].get_ylim()
        panels[0].set_ylim(max(bottom, -2.0), min(top, 102.0))
    for index, panel in enumerate(panels):
        if index % columns == 0:
            panel.set_ylabel(label)
        if index < len(panels) - columns:
            panel.set_xlabel("")


def _legend(figure: Figure, panel: Axes, colour: Factor | None, has_markers: bool) -> None:
    """The levels that are drawn, over the panels."""
    if colour is None:
        return
    lines, chosen = _lines(colour), _drawn(colour)
    words = colour.short(22)
    handles = [
        panel.plot([], [], color=lines[at][0], marker=lines[at][1] if has_markers else "", markersize=3)[0]
        for at in chosen
    ]
    widest = max(len(words[at]) for at in chosen)
    fit = 4 if figure.get_figwidth() < 4 else 8
    columns = max(1, min(len(handles), fit if widest < 7 else fit // 2 if widest < 16 else fit // 4 + 1))
    figure.legend(
        handles, [words[at] for at in chosen], title=colour.label, loc="outside upper center", ncols=columns, fontsize=6
    )


def _notes(figure: Figure, sweep: xr.Dataset, hidden: list[str], center: str, colour: Factor | None) -> None:
    seeds = sweep.sizes.get("seed", 1)
    how = "mean and 95% interval" if center == "mean" else "median and quartiles"
    note_under(
        figure,
        [
            f"{how} over {count(seeds, 'seed')}" if seeds > 1 else "one seed: no interval",
            f"averaged over {', '.join(hidden)} within each seed" if hidden else "",
            f"{len(_drawn(colour))} of {len(colour.words)} levels of {colour.label} drawn"
            if colour and len(_drawn(colour)) < len(colour.words)
            else "",
            status_note(sweep),
        ],
    )
