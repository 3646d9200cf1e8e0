"""Two-dimensional slices: filled contours and the surface in 3D, with the training trajectory on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, LightSource, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from mpl_toolkits.mplot3d import Axes3D
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from landscape.figures.labels import SYMBOLS, at_seed, direction_label, quantity, seed_note, share_note, unit_note
from landscape.figures.scales import finite, is_wide, linear_levels, log_levels, number
from landscape.figures.style import (
    BLACK,
    GREY,
    NOTE_WIDTH,
    ORANGE,
    VERMILLION,
    count,
    figure_of,
    legend_above,
    new_axes,
    note,
    styled,
)
from landscape.figures.trajectories import Trajectory, trajectory_of

WIDE = 3.0  # a largest over smallest loss from which levels are spaced in the logarithm
_LIFT = 0.015  # of the height of the axes, by which a trajectory floats over its surface


@dataclass(frozen=True)
class Plane:
    """The values of one surface on its grid."""

    alpha: NDArray[np.float64]  # (A,)
    beta: NDArray[np.float64]  # (B,)
    values: NDArray[np.float64]  # (A, B), NaN and inf as stored

    @classmethod
    def of(cls, answer: xr.Dataset, metric: str) -> Plane:
        """The plane of one direction seed.

        Raises:
            ValueError: If it has only one point along an axis.
        """
        values = answer[metric].transpose("alpha", "beta").values
        if min(values.shape) < 2:
            raise ValueError(f"expected at least 2 points along each axis of a surface; got {values.shape}")
        return cls(*(np.asarray(v, dtype=float) for v in (answer["alpha"].values, answer["beta"].values, values)))

    @property
    def finite(self) -> NDArray[np.float64]:
        """The finite values, flat."""
        return finite(self.values)

    @property
    def gaps(self) -> NDArray[np.float64]:
        """(A, B) with NaN wherever the value is not finite."""
        return np.where(np.isfinite(self.values), self.values, np.nan)

    @property
    def is_log(self) -> bool:
        """Whether levels and heights are shown in the logarithm."""
        return is_wide(self.values, WIDE)


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
    lines = [unit_note(one), seed_note(surface, seed), *_warnings(one, plane, trajectory, "hatched")]
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
    return 0.7 + 2.15 * shape + 0.1 * _num_lines(lines)


def _num_lines(lines: list[str]) -> int:
    """How many lines a note takes once it is wrapped."""
    return sum(1 + len(line) // NOTE_WIDTH for line in lines if line)


def _levels(plane: Plane, most: int = 18) -> NDArray[np.float64]:
    low, high = plane.finite.min(), plane.finite.max()
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        margin = 0.5 * abs(low) or 0.5
        return np.array([low - margin, low + margin])
    return log_levels(low, high, most) if plane.is_log else linear_levels(low, high, most)


def _fill(ax: Axes, plane: Plane, label: str) -> None:
    levels = _levels(plane)
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


def _warnings(answer: xr.Dataset, plane: Plane, trajectory: Trajectory | None, gaps: str) -> list[str]:
    """What a reader must know of the picture: points without a value, and how far the trajectory is from it."""
    missing = plane.values.size - plane.finite.size
    points = f"{count(missing, 'non-finite point')} of {plane.values.size:,} ({gaps})" if missing else ""
    return [points, share_note(answer), trajectory.off_plane_note() if trajectory else ""]


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


@styled
def surface3d(surface: xr.Dataset, *, metric: str = "loss", seed: int = 0, ax: Axes3D | None = None) -> Figure:
    """The surface in 3D, its height in the logarithm where the loss spans more than a factor of three.

    Points that are not finite are holes, and counted. A training trajectory is drawn where its projection
    meets the surface, not at its own loss: the share of it that lies off the plane is written below.

    Args:
        surface: The answer of the probe Surface: dims (alpha, beta) or (seed, alpha, beta).
        metric: The variable to draw.
        seed: Which of several direction seeds, by position.
        ax: A 3D axes to draw on; None makes a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: If the surface has only one point along an axis.
        IndexError: If there is no such seed.
    """
    one = at_seed(surface, seed)
    plane, trajectory = Plane.of(one, metric), trajectory_of(one)
    lines = [seed_note(surface, seed), *_warnings(one, plane, trajectory, "left out")]
    if ax is None:
        below = 0.1 + 0.1 * _num_lines(lines)
        ax = new_axes(2.45 + below, layout="none", projection="3d", computed_zorder=False)
        ax.set_position((0.0, below / (2.45 + below), 0.96, 2.45 / (2.45 + below)))
    if plane.finite.size:
        _draw_sheet(ax, plane)
    else:
        ax.annotate("no finite value", (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY)
    if trajectory and plane.finite.size:
        _draw_flight(ax, plane, trajectory)
    _dress(ax, plane, quantity(surface, metric))
    note(ax, lines, below=ax.patch)
    return figure_of(ax)


def _draw_sheet(ax: Axes3D, plane: Plane) -> None:
    height = _heights(plane, plane.gaps).T
    colours = ScalarMappable(_color_norm(plane), colormaps["viridis"]).to_rgba(plane.gaps.T)[..., :3]
    low, span = np.nanmin(height), np.nanmax(height) - np.nanmin(height)
    relief = _without_holes((height - low) / (span or 1.0))  # in a unit box: the light falls as on the drawing
    light = LightSource(azdeg=300, altdeg=45)
    dy, dx = (1.3 / size for size in relief.shape)
    shaded = light.shade_rgb(colours, relief, fraction=0.7, blend_mode="soft", dx=dx, dy=dy)
    a, b = np.meshgrid(plane.alpha, plane.beta)
    options = {"rcount": 101, "ccount": 101, "shade": False, "linewidth": 0, "antialiased": False, "zorder": 1}
    ax.plot_surface(a, b, height, facecolors=shaded, **options).set_rasterized(True)


def _without_holes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each NaN replaced by the nearest finite value, so that no edge of a hole throws a shadow."""
    nearest = distance_transform_edt(np.isnan(values), return_distances=False, return_indices=True)
    return np.asarray(values[tuple(nearest)])


def _draw_flight(ax: Axes3D, plane: Plane, trajectory: Trajectory) -> None:
    inside = trajectory.inside(plane.alpha, plane.beta)
    height = _heights(plane, trajectory.heights(plane.alpha, plane.beta, plane.gaps))
    lift = _LIFT * (float(np.ptp(finite(_heights(plane, plane.finite)))) or 1.0)
    path = [np.where(inside, v, np.nan) for v in (trajectory.alpha, trajectory.beta, height + lift)]
    line = "-" if trajectory.is_path else "none"
    ax.plot(*path, line, color=VERMILLION, linewidth=1, marker="o", markersize=1.6, zorder=5, gid="trajectory")


def _heights(plane: Plane, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log10(values) if plane.is_log else values


def _color_norm(plane: Plane) -> Normalize:
    low, high = plane.finite.min(), plane.finite.max()
    return LogNorm(low, high) if plane.is_log else Normalize(low, high if high > low else low + 1)


def _dress(ax: Axes3D, plane: Plane, label: str) -> None:
    """View, ticks and labels of a 3D axes."""
    ax.view_init(elev=32, azim=-58)
    ax.set_box_aspect((1, 1, 0.75), zoom=1.0)
    ax.set_xlim(plane.alpha.min(), plane.alpha.max())
    ax.set_ylim(plane.beta.min(), plane.beta.max())
    if plane.finite.size:
        low, high = plane.finite.min(), plane.finite.max()
        levels = log_levels(low, high, 7) if plane.is_log else linear_levels(low, high, 6)
        at = _heights(plane, levels)
        ends = _heights(plane, np.array([low, high]))
        ax.set_zticks(at[(at >= ends[0] - 1e-9) & (at <= ends[1] + 1e-9)])
    z_format = FuncFormatter(lambda z, _: number(10.0**z) if plane.is_log else number(z))
    ax.zaxis.set_major_formatter(z_format)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_pane_color((1, 1, 1, 0))
        axis._axinfo["grid"].update(color="0.88", linewidth=0.4)
        axis.set_tick_params(pad=-3 if axis is not ax.zaxis else -1)
    for axis, values in ((ax.xaxis, plane.alpha), (ax.yaxis, plane.beta[::-1])):
        far, near = values[0], values[-1]  # both axes end in the near corner, where their last labels would collide
        ticks = linear_levels(float(values.min()), float(values.max()), 6)
        share = (ticks - far) / (near - far)
        axis.set_ticks(ticks[(share > -1e-9) & (share < 0.95)])
        axis.set_major_formatter(FuncFormatter(number))
    ax.set_xlabel(SYMBOLS["alpha"], labelpad=-6)
    ax.set_ylabel(SYMBOLS["beta"], labelpad=-6)
    ax.set_zlabel(label, labelpad=-3)
