"""Two-dimensional slices as filled contours at round levels, with the training trajectory on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from landscape.figures.labels import at_seed, direction_label, quantity, seed_note, unit_note
from landscape.figures.planes import Plane, levels_of, num_lines, warnings_of
from landscape.figures.scales import log_levels, number
from landscape.figures.style import (
    BLACK,
    GREY,
    ORANGE,
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

    Non-finite points are left hatched grey and counted. Where the answer carries a training trajectory, its
    projection is drawn with its steps, and the share of its distance from the checkpoint that lies off the plane is
    written under the axes: where that share is large, the loss of the trajectory is not that of the contour under it.

    Args:
        surface: The answer of the probe Surface: dims (alpha, beta) or (seed, alpha, beta).
        metric: The variable to draw.
        seed: Which of several direction seeds, by position.
        ax: Where to draw; None makes a new figure.

    Returns:
        The figure: α runs to the right, β upwards.

    Raises:
        ValueError: If the surface has only one point along an axis.
        IndexError: If there is no such seed.
    """
    one = at_seed(surface, seed)
    plane, trajectory = Plane.of(one, metric), trajectory_of(one)
    lines = [unit_note(one), seed_note(surface, seed), *warnings_of(one, plane, trajectory, "hatched")]
    ax = ax or new_axes(_height(plane, lines))
    ax.set_xlim(plane.alpha.min(), plane.alpha.max())
    ax.set_ylim(plane.beta.min(), plane.beta.max())
    _hatch_gaps(ax, plane)
    if plane.finite.size:
        _fill(ax, plane, quantity(surface, metric))
    if trajectory:
        _draw_trajectory(ax, trajectory)
    mark: dict[str, Any] = {"markerfacecolor": "white", "markersize": 4.5, "markeredgewidth": 0.6, "linestyle": "none"}
    ax.plot(0, 0, "X", color=BLACK, label="checkpoint", gid="checkpoint", **mark)
    ax.set_xlabel(direction_label(one, "alpha"))
    ax.set_ylabel(direction_label(one, "beta"))
    legend_above(ax)
    note(ax, lines)
    return figure_of(ax)


def _height(plane: Plane, lines: list[str]) -> float:
    """Inches that give α and β about the same scale in one column, above the lines of notes."""
    shape = float(np.clip(np.ptp(plane.beta) / np.ptp(plane.alpha), 0.55, 1.1))
    return 0.7 + 2.15 * shape + 0.1 * num_lines(lines)


def _fill(ax: Axes, plane: Plane, label: str) -> None:
    levels = levels_of(plane)
    values = np.ma.masked_invalid(plane.values).T
    norm = BoundaryNorm(levels, 256) if len(levels) > 2 else Normalize(levels[0], levels[-1])
    filled = ax.contourf(plane.alpha, plane.beta, values, levels=levels, norm=norm, cmap="viridis")
    filled.set_edgecolor("face")  # no white seams between bands in PDF viewers
    filled.set_linewidth(0.2)
    lines = levels[1:-1]
    if len(lines):
        ax.contour(plane.alpha, plane.beta, values, levels=lines, colors="white", linewidths=0.3, alpha=0.7)
    bar = figure_of(ax).colorbar(filled, ax=ax, spacing="uniform", aspect=28, pad=0.02, drawedges=len(lines) > 0)
    bar.set_ticks(_bar_ticks(plane, levels))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(number))
    bar.dividers.set(color="white", linewidth=0.3)
    bar.outline.set_linewidth(0.4)
    bar.set_label(label)


def _bar_ticks(plane: Plane, levels: NDArray[np.float64]) -> list[float]:
    """Those levels whose numbers stand beside the colour bar: the roundest, nine at most."""
    if len(levels) == 2:
        return [float(plane.finite[0])]
    if not plane.is_log:
        return [float(level) for level in levels[:: 1 + len(levels) // 10]]
    round_numbers = log_levels(levels[0], levels[-1], 9)
    return [float(level) for level in levels if np.isclose(level, round_numbers, rtol=1e-9).any()]


def _hatch_gaps(ax: Axes, plane: Plane) -> None:
    """Hatch the ground; it shows wherever no contour covers it."""
    ax.set_facecolor("0.9")
    if plane.finite.size < plane.values.size:
        ax.patch.set(hatch="/////", edgecolor="0.65", linewidth=0)
    if not plane.finite.size:
        ax.text(0.5, 0.6, "no finite value", transform=ax.transAxes, ha="center", color=GREY)


def _draw_trajectory(ax: Axes, trajectory: Trajectory) -> None:
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
