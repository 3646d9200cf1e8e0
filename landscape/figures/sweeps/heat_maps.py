"""A metric over two factors, in small multiples over a third and a fourth."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from landscape.figures.scales import finite, is_wide, log_ticks, number
from landscape.figures.style import WIDTHS, count, note_under, styled
from landscape.figures.sweeps.factors import (
    Array,
    Factor,
    averaged,
    chosen_factor,
    factors_of,
    fitting_center,
    metric_label,
    metric_values,
    status_note,
    statuses,
)

_MOST_PANELS = 12
_MOST_NUMBERS = 14  # columns of a panel whose cells are annotated, at the width of two columns
_MOST_TICKS = 16


@styled
def heat_map(sweep: xr.Dataset, metric: str = "test_error", *, x: str | None = None, y: str | None = None) -> Figure:
    """The mean over seeds of a metric in the plane of two factors, with its number in each cell.

    Where the seeds of a cell differ by a factor of more than 100 it is the median.

    Cells where no run finished are hatched, with a mark that says why; a corner marks cells where only some did.
    A third factor makes panels, a fourth rows of panels; further ones are averaged over.

    Args:
        sweep: What `open_sweep` returns.
        metric: A variable of it, or test_error where there is test_accuracy.
        x: The factor from left to right; the one with the most levels if None.
        y: The factor from top to bottom; the next one if None.

    Raises:
        ValueError: If fewer than two factors were swept, or a name is not one of them.
    """
    across, down, columns, rows = _roles(sweep, x, y)
    values, hidden = averaged(metric_values(sweep, metric), [rows, columns, down, across])
    center = fitting_center(values)
    known = values.notnull().any("seed")
    means = getattr(values.where(known, 0.0), center)("seed", skipna=True).where(known)
    marks = statuses(sweep, [rows, columns, down, across])
    figure = _new_figure(across, down, columns, rows)
    panels = figure.subplots(
        len(rows.words) if rows else 1, len(columns.words) if columns else 1, sharex=True, sharey=True, squeeze=False
    )
    scale = _scale(means.values)
    colours = "cividis" if metric.endswith("accuracy") else "cividis_r"  # what is good is light
    partial = (values.isnull().sum("seed") > 0) & means.notnull()
    for position in np.ndindex(panels.shape):
        one = {f.name: at for f, at in zip((rows, columns), position, strict=True) if f}
        panel: Any = panels[position]
        matrix = means.isel(one).values
        image = panel.imshow(matrix, norm=scale, cmap=colours, aspect="auto", interpolation="nearest")
        _mark(panel, marks.isel(one).values, partial.isel(one).values)
        if len(across.words) * (len(columns.words) if columns else 1) <= _MOST_NUMBERS and len(down.words) <= 20:
            _write(panel, image, matrix)
        panel.set_title(", ".join(f.titles()[at] for f, at in zip((rows, columns), position, strict=True) if f))
    _label(panels, across, down)
    _colour_bar(figure, panels, image, means.values, metric_label(sweep, metric))
    _notes(figure, sweep, hidden, center, bool(partial.any()))
    return figure


def _roles(sweep: xr.Dataset, x: str | None, y: str | None) -> tuple[Factor, Factor, Factor | None, Factor | None]:
    """Which factor goes across, down, over the columns and over the rows of panels."""
    factors = factors_of(sweep)
    if len(factors) < 2:
        raise ValueError(
            f"a heat map needs two swept factors, got {', '.join(f.name for f in factors) or 'none'}; draw curves"
        )
    given = [chosen_factor(sweep, name) for name in (x, y) if name is not None]
    rest = [factor for factor in factors if factor.name not in {f.name for f in given}]
    rest.sort(key=lambda factor: (not factor.is_numeric, -len(factor.words)))
    across = chosen_factor(sweep, x) if x is not None else rest.pop(0)
    down = chosen_factor(sweep, y) if y is not None else rest.pop(0)
    columns = rest.pop(0) if rest and len(rest[0].words) <= _MOST_PANELS else None
    has_room = columns is not None and rest and len(columns.words) * len(rest[0].words) <= _MOST_PANELS
    rows = rest.pop(0) if has_room else None
    if columns is not None and rows is not None and len(columns.words) > 4 >= len(rows.words):
        columns, rows = rows, columns
    return across, down, columns, rows


def _new_figure(across: Factor, down: Factor, columns: Factor | None, rows: Factor | None) -> Figure:
    panels = (len(rows.words) if rows else 1, len(columns.words) if columns else 1)
    is_wide_figure = panels[1] > 1 or len(across.words) > 6
    height = float(np.clip(0.24 * len(down.words) + 0.45, 1.0, 5.5))
    size = (WIDTHS["double" if is_wide_figure else "single"], height * panels[0] + 0.9)
    return Figure(figsize=size, layout="constrained")


def _scale(means: Array) -> Normalize:
    numbers = finite(means)
    low, high = (numbers.min(), numbers.max()) if numbers.size else (0.0, 1.0)
    if is_wide(numbers, 20):
        return LogNorm(low, high)
    return Normalize(low, high if high > low else low + (abs(low) or 1.0) * 1e-3)


def _mark(panel: Axes, marks: np.ndarray, partial: np.ndarray) -> None:
    """Hatch the cells where no run finished, with the reason, and mark those where only some did in a corner."""
    is_large = marks.shape[1] > 2 * _MOST_NUMBERS
    for row, column in np.argwhere(marks != ""):
        box = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="0.92", edgecolor="0.6", hatch="////", linewidth=0)
        panel.add_patch(box)
        size = 4 if is_large else 8
        panel.text(column, row, marks[row, column], ha="center", va="center", fontsize=size, gid="lost")
    for row, column in np.argwhere(partial):
        corner = [(column + 0.5, row - 0.5), (column + 0.22, row - 0.5), (column + 0.5, row - 0.22)]
        panel.fill(*zip(*corner, strict=True), color="#D55E00", linewidth=0, gid="partial")


def _write(panel: Axes, image: AxesImage, matrix: Array) -> None:
    for row, column in np.argwhere(np.isfinite(matrix)):
        value = matrix[row, column]
        text = number(float(f"{value:.3g}"))
        colour = "black" if np.mean(image.to_rgba(value)[:3]) > 0.45 else "white"
        panel.text(column, row, text, ha="center", va="center", fontsize=5.5, color=colour, gid="value")


def _label(panels: np.ndarray, across: Factor, down: Factor) -> None:
    for panel in panels[-1]:
        _put_ticks(panel, across, is_x=True)
        panel.set_xlabel(across.title)
    for panel in panels[:, 0]:
        _put_ticks(panel, down, is_x=False)
        panel.set_ylabel(down.title)
    for panel in panels.ravel():
        panel.tick_params(length=0)


def _put_ticks(panel: Axes, factor: Factor, is_x: bool) -> None:
    words = factor.short(16)
    every = -(-len(words) // _MOST_TICKS)
    shown = words[::every]
    axis = panel.xaxis if is_x else panel.yaxis
    axis.set_ticks(range(0, len(words), every), shown)
    axis.set_tick_params(labelsize=6)
    if is_x and max(map(len, shown)) > 4:
        for label in panel.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")


def _colour_bar(figure: Figure, panels: np.ndarray, image: object, means: Array, label: str) -> None:
    bar = figure.colorbar(image, ax=list(panels.ravel()), aspect=24, pad=0.02)  # type: ignore[arg-type]
    bar.set_label(label)
    bar.outline.set_linewidth(0.4)
    numbers = finite(means)
    if is_wide(numbers, 20):
        bar.set_ticks(log_ticks(numbers.min(), numbers.max(), 6).tolist())
        bar.ax.yaxis.set_major_formatter(number)
        bar.ax.minorticks_off()


def _notes(figure: Figure, sweep: xr.Dataset, hidden: list[str], center: str, has_partial: bool) -> None:
    seeds = sweep.sizes.get("seed", 1)
    note_under(
        figure,
        [
            f"{center} over {count(seeds, 'seed')}" if seeds > 1 else "one seed",
            f"averaged over {', '.join(hidden)}" if hidden else "",
            status_note(sweep),
            "corner: only some of the cell's runs finished" if has_partial else "",
        ],
    )
