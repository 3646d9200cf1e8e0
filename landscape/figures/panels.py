"""Several surfaces side by side in one scale: seeds, training and test data, runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10, trunc
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from mpl_toolkits.mplot3d import Axes3D

from landscape.figures.contours import add_bar, draw_marks, draw_plane, write_levels
from landscape.figures.labels import (
    SYMBOLS,
    at_seed,
    direction_words,
    quantity,
    sampling_note,
    seed_note,
    share_note,
    unit_note,
    window_note,
)
from landscape.figures.planes import Plane, Scale, num_lines
from landscape.figures.reliefs import draw_relief
from landscape.figures.scales import number, round_ticks
from landscape.figures.style import WIDTHS, Width, count, note_under, styled
from landscape.figures.trajectories import Trajectory, trajectory_of
from landscape.text import clean

MOST_PANELS = 12
_TALL = 0.95  # height of a panel in 3D over its width


@dataclass(frozen=True)
class Panel:
    """One of several surfaces."""

    title: str
    answer: xr.Dataset  # of one seed
    metric: str

    @property
    def plane(self) -> Plane:
        """What is drawn."""
        return Plane.of(self.answer, self.metric)

    @property
    def trajectory(self) -> Trajectory | None:
        """What is drawn over it."""
        return trajectory_of(self.answer)


@styled
def contours_side_by_side(
    answers: Sequence[xr.Dataset], labels: Sequence[str], *, metric: str = "loss", width: Width = "double"
) -> Figure:
    """Contours of several surfaces, such as those of networks with and without skip connections, in one scale.

    All have the same levels, the same colours and one colour bar; the same axes where their windows agree.

    Args:
        answers: Answers of the probe Surface, one a panel; of several seeds the first.
        labels: The title of each panel: what differs between them.
        metric: The variable to draw; `error` and `test_error` are one minus the accuracy.
        width: How many panels stand in a row: at most 2 in a single column, 4 in a double one.

    Returns:
        The figure, of this width.

    Raises:
        ValueError: If there are no answers, too many, or not one label each.
    """
    panels = _panels(answers, labels, metric)
    return _contours(panels, quantity(answers[0], metric), width, [seed_note(answers[0], 0)])


@styled
def surfaces_side_by_side(
    answers: Sequence[xr.Dataset], labels: Sequence[str], *, metric: str = "loss", width: Width = "double"
) -> Figure:
    """Several surfaces in 3D, seen from the same side, with the same heights and colours.

    Args:
        answers: Answers of the probe Surface, one a panel; of several seeds the first.
        labels: The title of each panel: what differs between them.
        metric: The variable to draw; `error` and `test_error` are one minus the accuracy.
        width: How many panels stand in a row: at most 2 in a single column, 3 in a double one.

    Returns:
        The figure, of this width.

    Raises:
        ValueError: If there are no answers, too many, or not one label each.
    """
    panels = _panels(answers, labels, metric)
    planes = [panel.plane for panel in panels]
    scale, label = Scale.over(planes), quantity(answers[0], metric)
    columns = _columns(len(panels), 2 if width == "single" else 3)
    rows = ceil(len(panels) / columns)
    side = (WIDTHS[width] - 0.62) / columns
    lines = [note for note in (seed_note(answers[0], 0), *_notes(panels)) if note]
    below = 0.1 * num_lines(lines) + 0.15
    height = rows * (_TALL * side + 0.14) + below
    figure = Figure(figsize=(WIDTHS[width], height))
    figure.set_layout_engine("none")
    for index, (panel, plane) in enumerate(zip(panels, planes, strict=True)):
        left, row = index % columns * side, index // columns
        bottom = height - 0.14 - row * (_TALL * side + 0.14) - _TALL * side
        place = (left / WIDTHS[width], bottom / height, side / WIDTHS[width], _TALL * side / height)
        ax: Any = figure.add_axes(place, projection="3d", computed_zorder=False)
        ax.patch.set_visible(False)  # it would hide what stands beside the panel before
        draw_relief(ax, plane, scale, panel.trajectory, "")
        ax.set_box_aspect((1, 1, 0.75), zoom=0.86)  # room for the numbers at its sides
        _share_heights(ax, scale)
        if side < 1.6:
            for axis, far, values in ((ax.xaxis, plane.x.min(), plane.x), (ax.yaxis, plane.y.max(), plane.y)):
                axis.set_ticks([_rounded(far), float(values.min() + values.max()) / 2])
        figure.text(
            (left + side / 2) / WIDTHS[width], (bottom + _TALL * side) / height, panel.title, ha="center", va="bottom"
        )
    if scale:
        size = (0.07 / WIDTHS[width], 1.2 / height)
        where = figure.add_axes(((WIDTHS[width] - 0.52) / WIDTHS[width], 0.5 - size[1] / 2, *size))
        bar = figure.colorbar(ScalarMappable(scale.colours(), "viridis"), cax=where)
        bar.set_ticks([tick for tick in scale.ticks(scale.levels()) if scale.low <= tick <= scale.high])
        bar.ax.yaxis.set_major_formatter(FuncFormatter(number))
        bar.ax.minorticks_off()
        bar.outline.set_linewidth(0.4)
        bar.set_label(label)
    note_under(figure, lines)
    return figure


@styled
def seeds_side_by_side(surface: xr.Dataset, *, metric: str = "loss", width: Width = "single") -> Figure:
    """Contours along each of several random pairs of directions and of their median, in one scale.

    Args:
        surface: The answer of the probe Surface: dims (seed, alpha, beta).
        metric: The variable to draw.
        width: How many panels stand in a row: at most 2 in a single column, 4 in a double one.

    Returns:
        The figure; of many seeds it shows the first ones, and says so.
    """
    shown = min(surface.sizes["seed"], MOST_PANELS - 1)
    numbers = surface["seed"].values if "seed" in surface.coords else np.arange(surface.sizes["seed"])
    panels = [Panel(f"seed {numbers[i]}", at_seed(surface, i), metric) for i in range(shown)]
    median = surface.assign({metric: _median(surface, metric)}).drop_vars("evaluated", errors="ignore")
    panels.append(Panel(f"median of {surface.sizes['seed']}", median, metric))
    left_out = surface.sizes["seed"] - shown
    lines = [f"{count(left_out, 'further seed')} not shown, but in the median" if left_out else ""]
    return _contours(panels, quantity(surface, metric), width, lines)


@styled
def train_and_test(surface: xr.Dataset, *, metric: str = "loss", seed: int = 0, width: Width = "single") -> Figure:
    """The same plane measured on the training and on the test data, in one scale.

    Args:
        surface: The answer of the probe Surface, measured on test data too.
        metric: `loss`, `accuracy`, or `error`, which is one minus the accuracy.
        seed: Which of several direction seeds, by position.
        width: Of the figure; the two panels stand side by side.

    Returns:
        The figure.

    Raises:
        KeyError: If the answer has no test data.
    """
    one = at_seed(surface, seed)
    panels = [Panel("training", one, metric), Panel("test", one, f"test_{metric}")]
    return _contours(panels, quantity(surface, metric), width, [seed_note(surface, seed)])


def _panels(answers: Sequence[xr.Dataset], labels: Sequence[str], metric: str) -> list[Panel]:
    if not 1 <= len(answers) <= MOST_PANELS or len(labels) != len(answers):
        raise ValueError(
            f"expected 1 to {MOST_PANELS} surfaces with a label each; got {len(answers)} surfaces, {len(labels)} labels"
        )
    return [Panel(clean(label, 60), at_seed(a, 0), metric) for a, label in zip(answers, labels, strict=True)]


def _median(surface: xr.Dataset, metric: str) -> xr.DataArray:
    """As stored, where a NaN counts as worse than any finite value; else of the finite values."""
    stored = f"{metric}_median"
    return surface[stored] if stored in surface else surface[metric].median("seed", skipna=True)


def _contours(panels: Sequence[Panel], label: str, width: Width, lines: Sequence[str] = ()) -> Figure:
    """Contours in rows of equal panels, with one colour bar, one legend and common notes."""
    planes = [panel.plane for panel in panels]
    scale, is_same = Scale.over(planes), _is_same_window(planes)
    columns = _columns(len(panels), 2 if width == "single" else 4)
    rows = ceil(len(panels) / columns)
    lines = [*lines, *_notes(panels)]
    side = (WIDTHS[width] - 0.95) / columns
    height = rows * (side * max(plane.shape for plane in planes) + 0.2) + 0.5 + 0.1 * num_lines(lines)
    figure = Figure(figsize=(WIDTHS[width], height), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=is_same, sharey=is_same, squeeze=False)
    axes: list[Axes] = list(grid.ravel())
    for ax in axes[len(panels) :]:
        ax.remove()
    filled, avoid = None, []
    for ax, panel, plane in zip(axes, panels, planes, strict=False):
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(round_ticks(3 if side < 1.5 else 6))
        filled = draw_plane(ax, plane, scale) or filled
        avoid.append(draw_marks(ax, panel.answer, plane, panel.trajectory))
        ax.set_title(panel.title)
    _name_axes(axes[: len(panels)], columns, is_same)
    if filled and scale:
        add_bar(filled, axes[: len(panels)], scale, label)
    handles, words = axes[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside upper left", ncols=4)
    note_under(figure, lines)
    figure.draw_without_rendering()  # what fits shows only once everything has its place
    for ax, marks in zip(axes, avoid, strict=False):
        if scale:
            write_levels(ax, scale, marks)
    return figure


def _columns(panels: int, most: int) -> int:
    """How many stand in a row, so that the last row is as full as can be."""
    return ceil(panels / ceil(panels / most))


def _is_same_window(planes: Sequence[Plane]) -> bool:
    ends = np.array([[p.x.min(), p.x.max(), p.y.min(), p.y.max()] for p in planes])
    return bool(np.allclose(ends, ends[0], rtol=1e-9, atol=0))


def _name_axes(axes: Sequence[Axes], columns: int, is_same: bool) -> None:
    """α under the lowest panel of each column and β at the left; at every panel where the windows differ."""
    for index, ax in enumerate(axes):
        is_lowest = index + columns >= len(axes)
        ax.tick_params(labelbottom=is_lowest or not is_same)
        if is_lowest or not is_same:
            ax.set_xlabel(SYMBOLS["alpha"])
        if index % columns == 0 or not is_same:
            ax.set_ylabel(SYMBOLS["beta"])


def _rounded(value: float) -> float:
    """Two digits of a number, toward zero, so that it stays on its axis."""
    step = 10.0 ** (floor(log10(abs(value))) - 1) if value else 1.0
    return round(trunc(value / step + np.sign(value) * 1e-9) * step, 12)


def _share_heights(ax: Axes3D, scale: Scale | None) -> None:
    if scale:
        low, high = scale.heights(np.array([scale.low, scale.high]))
        margin = 0.04 * (high - low) or 0.5
        ax.set_zlim(low - margin, high + margin)


def _notes(panels: Sequence[Panel]) -> list[str]:
    """What is true of all panels once, what differs with the title of its panel."""
    broken = sum(panel.plane.values.size - panel.plane.finite.size for panel in panels)
    total = sum(panel.plane.values.size for panel in panels)
    lines = [f"{count(broken, 'non-finite point')} of {total:,} (hatched)" if broken else ""]
    for describe in (_direction_note, unit_note, window_note, sampling_note, share_note, _off_plane):
        said = {panel.title: describe(panel.answer) for panel in panels}
        alike = set(said.values())
        lines += list(alike) if len(alike) == 1 else [f"{title}: {text}" for title, text in said.items() if text]
    return [line for line in lines if line]


def _direction_note(answer: xr.Dataset) -> str:
    return f"α, β: {direction_words(answer)}"


def _off_plane(answer: xr.Dataset) -> str:
    trajectory = trajectory_of(answer)
    return trajectory.off_plane_note() if trajectory else ""
