"""Two-dimensional slices as surfaces in 3D, lit, with the training trajectory where its projection meets them."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LightSource
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from mpl_toolkits.mplot3d import Axes3D
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from landscape.figures.labels import SYMBOLS, at_seed, quantity, seed_note
from landscape.figures.planes import Plane, Scale, num_lines, warnings_of
from landscape.figures.scales import linear_levels, log_levels, number
from landscape.figures.style import BLACK, GREY, SKY, VERMILLION, figure_of, new_axes, note, styled
from landscape.figures.trajectories import Trajectory, trajectory_of

_LIFT = 0.015  # of the height of the axes, by which a trajectory floats over its surface


@styled
def surface3d(surface: xr.Dataset, *, metric: str = "loss", seed: int = 0, ax: Axes3D | None = None) -> Figure:
    """The surface in 3D, its height in the logarithm where the loss spans more than a factor of three.

    Points that are not finite are holes, and counted; the lowest point of the grid is a star. A training trajectory
    is drawn where its projection meets the surface, not at its own loss: the share of it that lies off the plane is
    written below.

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
    lines = [seed_note(surface, seed), *warnings_of(one, plane, trajectory, "left out")]
    if ax is None:
        below = 0.1 + 0.1 * num_lines(lines)
        ax = new_axes(2.45 + below, layout="none", projection="3d", computed_zorder=False)
        ax.set_position((0.0, below / (2.45 + below), 0.96, 2.45 / (2.45 + below)))
    draw_relief(ax, plane, Scale.over([plane]), trajectory, quantity(surface, metric))
    note(ax, lines, below=ax.patch)
    return figure_of(ax)


def draw_relief(ax: Axes3D, plane: Plane, scale: Scale | None, trajectory: Trajectory | None, label: str) -> None:
    """The sheet of a plane with the trajectory over it, as seen from above its near corner."""
    if scale and plane.finite.size:
        _draw_sheet(ax, plane, scale)
        if trajectory:
            _draw_flight(ax, plane, scale, trajectory)
        x, y = plane.lowest()
        lowest: dict[str, Any] = {"markerfacecolor": SKY, "markersize": 5.5, "markeredgewidth": 0.6, "zorder": 6}
        ax.plot([x], [y], scale.heights(np.array([plane.finite.min()])), "*", color=BLACK, gid="lowest", **lowest)
    else:
        ax.annotate("no finite value", (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY)
    _dress(ax, plane, scale, label)


def _draw_sheet(ax: Axes3D, plane: Plane, scale: Scale) -> None:
    height = scale.heights(plane.gaps).T
    colours = ScalarMappable(scale.colours(), colormaps["viridis"]).to_rgba(plane.gaps.T)[..., :3]
    low, high = scale.heights(np.array([scale.low, scale.high]))
    relief = _without_holes((height - low) / (high - low or 1.0))  # in a unit box: the light falls as on the drawing
    light = LightSource(azdeg=300, altdeg=45)
    dy, dx = (1.3 / size for size in relief.shape)
    shaded = light.shade_rgb(colours, relief, fraction=0.7, blend_mode="soft", dx=dx, dy=dy)
    a, b = np.meshgrid(plane.x, plane.y)
    options = {"rcount": 101, "ccount": 101, "shade": False, "linewidth": 0, "antialiased": False, "zorder": 1}
    ax.plot_surface(a, b, height, facecolors=shaded, **options).set_rasterized(True)


def _without_holes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each NaN replaced by the nearest finite value, so that no edge of a hole throws a shadow."""
    nearest = distance_transform_edt(np.isnan(values), return_distances=False, return_indices=True)
    return np.asarray(values[tuple(nearest)])


def _draw_flight(ax: Axes3D, plane: Plane, scale: Scale, trajectory: Trajectory) -> None:
    inside = trajectory.inside(plane.x, plane.y)
    height = scale.heights(trajectory.heights(plane.x, plane.y, plane.gaps))
    lift = _LIFT * (float(np.ptp(scale.heights(np.array([scale.low, scale.high])))) or 1.0)
    path = [np.where(inside, v, np.nan) for v in (trajectory.alpha, trajectory.beta, height + lift)]
    line = "-" if trajectory.is_path else "none"
    ax.plot(*path, line, color=VERMILLION, linewidth=1, marker="o", markersize=1.6, zorder=5, gid="trajectory")
    if trajectory.is_path and inside[0]:
        start: dict[str, Any] = {"markerfacecolor": "white", "markersize": 4, "zorder": 6}
        ax.plot(*([values[0]] for values in path), "o", color=VERMILLION, gid="start", **start)


def _dress(ax: Axes3D, plane: Plane, scale: Scale | None, label: str) -> None:
    """View, ticks and labels of a 3D axes."""
    ax.view_init(elev=32, azim=-58)
    ax.set_box_aspect((1, 1, 0.75), zoom=1.0)
    ax.set_xlim(plane.x.min(), plane.x.max())
    ax.set_ylim(plane.y.min(), plane.y.max())
    if scale:
        levels = log_levels(scale.low, scale.high, 7) if scale.is_log else linear_levels(scale.low, scale.high, 6)
        at, ends = scale.heights(levels), scale.heights(np.array([scale.low, scale.high]))
        ax.set_zticks(at[(at >= ends[0] - 1e-9) & (at <= ends[1] + 1e-9)])
    z_format = FuncFormatter(lambda z, _: number(10.0**z) if scale and scale.is_log else number(z))
    ax.zaxis.set_major_formatter(z_format)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_pane_color((1, 1, 1, 0))
        axis._axinfo["grid"].update(color="0.88", linewidth=0.4)
        axis.set_tick_params(pad=-3 if axis is not ax.zaxis else -1)
    for axis, values in ((ax.xaxis, plane.x), (ax.yaxis, plane.y[::-1])):
        far, near = values[0], values[-1]  # both axes end in the near corner, where their last labels would collide
        ticks = linear_levels(float(values.min()), float(values.max()), 6)
        share = (ticks - far) / (near - far)
        axis.set_ticks(ticks[(share > -1e-9) & (share < 0.95)])
        axis.set_major_formatter(FuncFormatter(number))
    ax.set_xlabel(SYMBOLS["alpha"], labelpad=-6)
    ax.set_ylabel(SYMBOLS["beta"], labelpad=-6)
    ax.set_zlabel(label, labelpad=-3)
