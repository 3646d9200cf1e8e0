"""Two-dimensional slices as filled contours at round, labelled levels, with the training trajectory on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from landscape.figures.labels import at_seed, direction_label, quantity, seed_note, unit_note
from landscape.figures.level_labels import label_levels
from landscape.figures.planes import Plane, Scale, num_lines, warnings_of
from landscape.figures.scales import number
from landscape.figures.style import (
    BLACK,
    GREY,
    ORANGE,
    SKY,
    VERMILLION,
    figure_of,
    legend_above,
    new_axes,
    note,
    styled,
)
from landscape.figures.trajectories import Trajectory, trajectory_of


@styled
def contour(surface: xr.Dataset, *, metric: str = "loss", seed: int = 0, ax: Axes | None = None) -> Figure:
    """Filled contours of a surface at round levels, log-spaced where the loss spans more than a factor of three.

    Levels are written on their lines where they fit. The lowest point of the grid is marked beside the checkpoint.
    Where a spline filled in most of the grid, the points that were computed are dotted, and how many they are and
    how far the spline was off at held-out points is written under the axes. Non-finite points are left hatched grey
    and counted. Where the answer carries a training trajectory, its projection is drawn with its steps, and the share
    of its distance from the checkpoint that lies off the plane is written under the axes: where that share is large,
    the loss of the trajectory is not that of the contour under it.

    Args:
        surface: The answer of the probe Surface: dims (alpha, beta) or (seed, alpha, beta).
        metric: The variable to draw; `error` and `test_error` are one minus the accuracy.
        seed: Which of several direction seeds, by position.
        ax: Where to draw; None makes a new figure.

    Returns:
        The figure: α runs to the right, β upwards.

    Raises:
        ValueError: If the surface has only one point along an axis.
        IndexError: If there is no such seed.
        KeyError: If the answer has no such metric.
    """
    one = at_seed(surface, seed)
    plane, trajectory = Plane.of(one, metric), trajectory_of(one)
    scale = Scale.over([plane])
    lines = [unit_note(one), seed_note(surface, seed), *warnings_of(one, plane, trajectory, "hatched")]
    # α and β have about the same scale in one column, above the lines of notes.
    ax = ax or new_axes(0.7 + 2.15 * plane.shape + 0.1 * num_lines(lines))
    drawn = draw_plane(ax, plane, scale)
    if drawn and scale:
        add_bar(drawn, [ax], scale, quantity(surface, metric))
    avoid = draw_marks(ax, one, plane, trajectory)
    ax.set_xlabel(direction_label(one, "alpha"))
    ax.set_ylabel(direction_label(one, "beta"))
    legend_above(ax, columns=3 if trajectory is None else 2)
    note(ax, lines)
    if drawn and scale:
        figure_of(ax).draw_without_rendering()  # what fits shows only once everything has its place
        write_levels(ax, scale, avoid)
    return figure_of(ax)


def draw_plane(
    ax: Axes, plane: Plane, scale: Scale | None, levels: NDArray[np.float64] | None = None
) -> QuadContourSet | None:
    """Fill the bands between levels, with lines between them; what has no value stays hatched ground."""
    ax.set_xlim(plane.x.min(), plane.x.max())
    ax.set_ylim(plane.y.min(), plane.y.max())
    ax.set_facecolor("0.9")
    if plane.finite.size < plane.values.size:
        ax.patch.set(hatch="/////", edgecolor="0.65", linewidth=0)
    if scale is None or not plane.finite.size:
        ax.text(0.5, 0.6, "no finite value", transform=ax.transAxes, ha="center", color=GREY)
        return None
    levels = scale.levels() if levels is None else levels
    values = np.ma.masked_invalid(plane.values).T
    filled = ax.contourf(plane.x, plane.y, values, levels=levels, norm=scale.bands(levels), cmap="viridis")
    filled.set_edgecolor("face")  # no white seams between bands in PDF viewers
    filled.set_linewidth(0.2)
    # A level outside the range of this plane has no line, though another plane of the same scale may have one.
    inner = [level for level in levels[1:-1] if plane.finite.min() < level < plane.finite.max()]
    if inner:
        ax.contour(plane.x, plane.y, values, levels=inner, colors="white", linewidths=0.3, alpha=0.7)
    return filled


def add_bar(filled: QuadContourSet, axes: Sequence[Axes], scale: Scale, label: str) -> None:
    """One colour bar for all axes, with round numbers at the levels."""
    levels = np.asarray(filled.levels)
    bar = figure_of(axes[0]).colorbar(
        filled, ax=list(axes), spacing="uniform", aspect=28, pad=0.02, drawedges=len(levels) > 2
    )
    bar.set_ticks(scale.ticks(levels))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(number))
    bar.dividers.set(color="white", linewidth=0.3)
    bar.outline.set_linewidth(0.4)
    bar.set_label(label)


def write_levels(ax: Axes, scale: Scale, avoid: NDArray[np.float64]) -> None:
    """Write the roundest levels on the lines that `draw_plane` has drawn."""
    sets = [c for c in ax.collections if isinstance(c, QuadContourSet) and not c.filled]
    if sets and not scale.is_flat:
        drawn = np.asarray(sets[0].levels)
        roundest = scale.ticks(drawn) if len(drawn) > 2 else drawn.tolist()
        others = [level for level in drawn if level not in roundest] if len(drawn) <= 12 else []
        free = np.concatenate([avoid, *(_covered(text) for text in ax.texts if text.get_gid() == "step")])
        label_levels(ax, sets[0], [*roundest, *others], free)


def _covered(text: Text) -> NDArray[np.float64]:
    """(N, 2) places under a text, in the coordinates of the data."""
    box = text.get_window_extent()
    at = np.meshgrid(np.linspace(box.x0, box.x1, 7), np.linspace(box.y0, box.y1, 4))
    places = text.axes.transData.inverted().transform(np.column_stack([v.ravel() for v in at]))  # type: ignore[union-attr]
    return np.asarray(places)


def draw_marks(ax: Axes, answer: xr.Dataset, plane: Plane, trajectory: Trajectory | None) -> NDArray[np.float64]:
    """Mark computed points, trajectory, lowest point and checkpoint; returns (N, 2) where no number may stand."""
    if "evaluated" in answer:
        rows, columns = np.nonzero(answer["evaluated"].transpose("alpha", "beta").values)
        dots: dict[str, Any] = {"markersize": 1.1, "markeredgewidth": 0, "linestyle": "none", "alpha": 0.65}
        ax.plot(plane.x[rows], plane.y[columns], "o", color="white", gid="computed", **dots)
    avoid = [(0.0, 0.0), *(draw_trajectory(ax, trajectory) if trajectory else ())]
    mark: dict[str, Any] = {"color": BLACK, "linestyle": "none", "markeredgewidth": 0.6}
    if plane.finite.size:
        avoid.append(plane.lowest())
        ax.plot(*avoid[-1], "*", label="lowest", gid="lowest", markerfacecolor=SKY, markersize=6.5, **mark)
    ax.plot(0, 0, "X", label="checkpoint", gid="checkpoint", markerfacecolor="white", markersize=4.5, **mark)
    return np.array(avoid)


def draw_trajectory(ax: Axes, trajectory: Trajectory) -> NDArray[np.float64]:
    """The projected path with its ends and the steps of some snapshots; returns (N, 2) places on it."""
    halo = [patheffects.withStroke(linewidth=2.2, foreground="white")]
    if trajectory.is_path:
        ax.plot(trajectory.alpha, trajectory.beta, color=VERMILLION, linewidth=0.9, path_effects=halo, gid="trajectory")
    ax.plot(trajectory.alpha, trajectory.beta, "o", color=VERMILLION, markersize=1.8, gid="snapshots")
    words = ("start", "end") if trajectory.is_path else ("first point", "last point")
    for index, marker, face, word in ((0, "o", "white", words[0]), (-1, "s", ORANGE, words[1])):
        ax.plot(
            trajectory.alpha[index],
            trajectory.beta[index],
            marker,
            color=VERMILLION,
            markerfacecolor=face,
            markersize=4.5,
            linestyle="none",
            label=word,
            gid=word,
        )
    for index in trajectory.labelled(ax.get_xlim(), ax.get_ylim()):
        text = ax.annotate(
            f"{trajectory.step[index]:,}",
            (trajectory.alpha[index], trajectory.beta[index]),
            xytext=(3, 2),
            textcoords="offset points",
            fontsize=5.5,
            path_effects=[patheffects.withStroke(linewidth=1.5, foreground="white")],
        )
        text.set_gid("step")
    return trajectory.along(20)  # closer together than a number is wide
