"""Three-dimensional slices: the three planes through the checkpoint, in one scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from landscape.figures.contours import add_bar, draw_plane, write_levels
from landscape.figures.labels import SYMBOLS, direction_words, quantity, sampling_note, unit_note, window_note
from landscape.figures.planes import Plane, Scale, metric_of, num_lines
from landscape.figures.scales import number, round_ticks
from landscape.figures.style import BLACK, WIDTHS, Width, count, note_under, styled

PLANES = (("alpha", "beta"), ("alpha", "gamma"), ("beta", "gamma"))


@styled
def volume_slices(volume: xr.Dataset, *, metric: str = "loss", width: Width = "single") -> Figure:
    """The three planes of a volume that pass through the checkpoint, with the same levels and colours.

    Where the grid has no point at zero, the plane nearest to it is drawn and its place is written above it.

    Args:
        volume: The answer of the probe Surface with three axes: dims (alpha, beta, gamma).
        metric: The variable to draw.
        width: Of the figure: two planes in a row of a single column, all three in a double one.

    Returns:
        The figure.

    Raises:
        ValueError: If the volume has only one point along an axis.
    """
    planes, titles = [], []
    for axes in PLANES:
        (across,) = set(SYMBOLS) - set(axes)
        nearest = int(np.abs(volume[across].values).argmin())
        planes.append(Plane.of(volume.isel({across: nearest}), metric, axes))
        titles.append(f"{SYMBOLS[across]} = {number(float(volume[across][nearest]))}")
    scale = Scale.over(planes)
    columns = 2 if width == "single" else 3
    rows = -(-3 // columns)
    lines = [
        f"α, β, γ: {direction_words(volume)}",
        unit_note(volume),
        window_note(volume),
        _gaps(volume, metric),
        sampling_note(volume),
    ]
    side = (WIDTHS[width] - 0.95) / columns
    height = rows * (side * max(plane.shape for plane in planes) + 0.42) + 0.2 + 0.1 * num_lines(lines)
    figure = Figure(figsize=(WIDTHS[width], height), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for ax in panels[3:]:
        ax.remove()
    filled = None
    mark: dict[str, Any] = {"color": BLACK, "markerfacecolor": "white", "markersize": 4.5, "markeredgewidth": 0.6}
    for ax, plane, axes, title in zip(panels, planes, PLANES, titles, strict=False):
        filled = draw_plane(ax, plane, scale) or filled
        ax.plot(0, 0, "X", linestyle="none", label="checkpoint", gid="checkpoint", **mark)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(round_ticks(3 if side < 1.5 else 6))
        ax.set_xlabel(SYMBOLS[axes[0]])
        ax.set_ylabel(SYMBOLS[axes[1]])
        ax.set_title(title)
    if filled and scale:
        add_bar(filled, panels[:3], scale, quantity(volume, metric))
    handles, words = panels[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside upper left")
    note_under(figure, lines)
    figure.draw_without_rendering()  # what fits shows only once everything has its place
    for ax in panels[:3]:
        if scale:
            write_levels(ax, scale, np.zeros((1, 2)))
    return figure


def _gaps(volume: xr.Dataset, metric: str) -> str:
    values = metric_of(volume, metric).values
    broken = int((~np.isfinite(values)).sum())
    return f"{count(broken, 'non-finite point')} of {values.size:,} in the volume" if broken else ""
