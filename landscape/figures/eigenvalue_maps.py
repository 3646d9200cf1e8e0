"""Maps of the ends of the Hessian's spectrum over a plane, with the contours of the loss on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from landscape.figures.contours import draw_marks, write_levels
from landscape.figures.labels import SYMBOLS, at_seed, direction_label, direction_words, seed_note, unit_note
from landscape.figures.planes import Plane, Scale, num_lines
from landscape.figures.scales import finite, is_wide, number, round_ticks
from landscape.figures.style import (
    WIDTHS,
    Width,
    count,
    figure_of,
    legend_above,
    new_axes,
    note,
    note_under,
    styled,
)
from landscape.figures.trajectories import trajectory_of

ENDS = ("largest", "smallest")
_MOST_LINES = 10  # contours of the loss


@styled
def eigenvalue_ratio(answer: xr.Dataset, *, seed: int = 0, ax: Axes | None = None) -> Figure:
    """How strong negative curvature is over a plane: |smallest / largest eigenvalue|, with contours of the loss.

    Near 0 the loss is close to convex there; near 1 it curves down as strongly as up. Each point of the grid is one
    cell; a cell without a value stays hatched.

    Args:
        answer: The answer of the probe CurvatureSurface: eigenvalue_ratio, smallest_eigenvalue and loss over
            (alpha, beta).
        seed: Which of several direction seeds, by position.
        ax: Where to draw; None makes a new figure.

    Returns:
        The figure, with the number of points of negative curvature under it.

    References:
        Li et al., "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018, section 6 and figure 7.
    """
    one = at_seed(answer, seed)
    plane = Plane.of(one, "eigenvalue_ratio")
    lines = [unit_note(one), seed_note(answer, seed), *_curvature_notes(one, plane)]
    ax = ax or new_axes(0.7 + 2.15 * plane.shape + 0.1 * num_lines(lines))
    highest = plane.finite.max() if plane.finite.size else 1.0
    _draw_cells(ax, plane, Normalize(0, highest or 1.0), "cividis", "|λ smallest / λ largest|")
    avoid = _draw_loss(ax, one, "white")
    ax.set_xlabel(direction_label(one, "alpha"))
    ax.set_ylabel(direction_label(one, "beta"))
    legend_above(ax)
    note(ax, lines)
    _write_loss_levels([ax], [avoid], one)
    return figure_of(ax)


@styled
def eigenvalue_ends(answer: xr.Dataset, *, seed: int = 0, width: Width = "single") -> Figure:
    """The largest and the smallest eigenvalue over a plane, each on a diverging scale around zero.

    Args:
        answer: The answer of the probe CurvatureSurface: largest_eigenvalue, smallest_eigenvalue and their residuals
            over (alpha, beta).
        seed: Which of several direction seeds, by position.
        width: Of the figure; the two maps stand one above the other in a single column, side by side in a double one.

    Returns:
        The figure, with the largest residual of both under it.
    """
    one = at_seed(answer, seed)
    planes = {end: Plane.of(one, f"{end}_eigenvalue") for end in ENDS}
    lines = [f"α, β: {direction_words(one)}", unit_note(one), seed_note(answer, seed)]
    lines += _curvature_notes(one, planes["smallest"])
    columns = 1 if width == "single" else 2
    tall = (WIDTHS[width] / columns - 0.9) * planes["largest"].shape
    size = (WIDTHS[width], (tall + 0.35) * 2 / columns + 0.35 + 0.1 * num_lines(lines))
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(2 // columns, columns, squeeze=False).ravel())
    avoid = []
    for ax, (end, plane) in zip(axes, planes.items(), strict=True):
        _draw_cells(ax, plane, _around_zero(plane), "RdBu_r", f"λ {end}")
        avoid.append(_draw_loss(ax, one))
        ax.set_title(f"{end} eigenvalue")
        ax.set_ylabel(SYMBOLS["beta"])
        ax.set_xlabel(SYMBOLS["alpha"])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    note_under(figure, lines)
    _write_loss_levels(axes, avoid, one)
    return figure


def _around_zero(plane: Plane) -> Normalize:
    """The same colours above and below zero, logarithmic beyond the smallest values where they are wide."""
    sizes = np.abs(plane.finite)
    most = float(sizes.max()) if sizes.size and sizes.any() else 1.0
    if not is_wide(sizes[sizes > 0], 100):
        return Normalize(-most, most)
    threshold = max(float(np.quantile(sizes[sizes > 0], 0.1)), most / 1e4)
    return SymLogNorm(threshold, linscale=0.5, vmin=-most, vmax=most, base=10)


def _draw_cells(ax: Axes, plane: Plane, norm: Normalize, colours: str, label: str) -> None:
    """One cell around each point, and a colour bar."""
    ax.set_facecolor("0.9")
    if plane.finite.size < plane.values.size:
        ax.patch.set(hatch="/////", edgecolor="0.65", linewidth=0)
    cells = ax.pcolormesh(plane.x, plane.y, np.ma.masked_invalid(plane.values).T, norm=norm, cmap=colours)
    cells.set_rasterized(plane.values.size > 2500)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(round_ticks())
    bar = figure_of(ax).colorbar(cells, ax=ax, aspect=28, pad=0.02)
    if isinstance(norm, SymLogNorm):
        bar.ax.yaxis.set_major_locator(FixedLocator(_signed_decades(norm)))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(number))
    bar.ax.minorticks_off()
    bar.outline.set_linewidth(0.4)
    bar.set_label(label)


def _signed_decades(norm: SymLogNorm) -> list[float]:
    """Zero, and powers of ten on both sides of it, three at most on each."""
    threshold, most = float(norm.linthresh), float(norm.vmax or 1.0)
    powers = np.arange(np.ceil(np.log10(threshold)), np.floor(np.log10(most)) + 1)
    decades = 10.0 ** powers[:: -max(1, -(-len(powers) // 3))][::-1] if len(powers) else np.array([most])
    return [*(-decades[::-1]), 0.0, *decades]


def _draw_loss(ax: Axes, answer: xr.Dataset, colour: str = "black") -> np.ndarray[Any, np.dtype[np.float64]]:
    """Contours of the loss with the lowest point, the checkpoint and a trajectory; returns what numbers must avoid."""
    plane = Plane.of(answer, "loss")
    scale = Scale.over([plane])
    if scale and not scale.is_flat:
        inner = [level for level in scale.levels(_MOST_LINES) if scale.low < level < scale.high]
        values = np.ma.masked_invalid(plane.values).T
        ax.contour(plane.x, plane.y, values, levels=inner or [scale.low], colors=colour, linewidths=0.4)
    return draw_marks(ax, answer, plane, trajectory_of(answer))


def _write_loss_levels(axes: Sequence[Axes], avoid: Sequence[Any], answer: xr.Dataset) -> None:
    """Numbers on the contours of the loss, once the figure is laid out."""
    scale = Scale.over([Plane.of(answer, "loss")])
    figure_of(axes[0]).draw_without_rendering()
    for ax, marks in zip(axes, avoid, strict=True):
        if scale:
            write_levels(ax, scale, marks)


def _curvature_notes(answer: xr.Dataset, plane: Plane) -> list[str]:
    smallest = finite(answer["smallest_eigenvalue"].values)
    residuals = {end: finite(answer[f"{end}_residual"].values) for end in ENDS if f"{end}_residual" in answer}
    shares = [f"{number(float(f'{values.max():.2g}'))} ({end})" for end, values in residuals.items() if values.size]
    missing = plane.values.size - plane.finite.size
    return [
        f"lines: loss; smallest eigenvalue < 0 at {int((smallest < 0).sum()):,} of {plane.values.size:,} points",
        f"residuals up to {', '.join(shares)}" if shares else "",
        f"{count(missing, 'point')} of {plane.values.size:,} without a value (hatched)" if missing else "",
    ]
