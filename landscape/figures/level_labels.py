"""Numbers on contour lines, along each line and only where they fit."""

from __future__ import annotations

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from numpy.typing import ArrayLike, NDArray

from landscape.figures.scales import number

SIZE = 5.0  # of the text, in points; so are all lengths here
_CHARACTER = 0.62 * SIZE  # width of a digit
_STEP = 1.5  # between the places of a line that are tried
_FREE = 1.0  # what stays free around a label
_APART = 3.5  # from marks and other labels
_STRAIGHT = 0.97  # least share of the length of a stretch that lies between its ends


def label_levels(ax: Axes, lines: QuadContourSet, levels: ArrayLike, avoid: NDArray[np.float64]) -> None:
    """Write levels on their lines where that hides no other line, no label and no mark.

    Args:
        ax: The axes, laid out as they will be drawn; a label turns with its line if they change later.
        lines: The contour lines.
        levels: Those to label; one whose line has no free, straight stretch as long as its number stays without.
        avoid: (N, 2) places of marks, in the coordinates of the data.
    """
    inches = ax.get_figure(root=True).dpi_scale_trans  # type: ignore[union-attr]
    to_points = ax.transData + inches.inverted()
    pieces = {
        float(level): [_evenly(72 * to_points.transform(piece)) for piece in path.to_polygons(closed_only=False)]
        for level, path in zip(lines.levels, lines.get_paths(), strict=True)
    }
    window = 72 * (ax.transAxes + inches.inverted()).transform([(0, 0), (1, 1)])
    taken = 72 * to_points.transform(avoid) if len(avoid) else np.empty((0, 2))
    for level in np.asarray(levels, dtype=float):
        text = number(level)
        others = [piece for value, some in pieces.items() if value != level for piece in some]
        obstacles = np.concatenate([np.empty((0, 2)), *others])
        place = _best_place(pieces.get(float(level), []), len(text) * _CHARACTER, window, obstacles, taken)
        if place is not None:
            middle, along = place
            taken = np.concatenate([taken, middle + np.linspace(-0.5, 0.5, 9)[:, None] * along])
            _write(ax, text, to_points.inverted().transform([middle / 72, (middle + along) / 72]))


def _evenly(piece: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 2) places at equal distances along a line."""
    length = np.append(0, np.cumsum(np.hypot(*np.diff(piece, axis=0).T)))
    at = np.arange(0, length[-1], _STEP)
    return np.column_stack([np.interp(at, length, piece[:, axis]) for axis in range(2)])


def _best_place(
    pieces: list[NDArray[np.float64]],
    width: float,
    window: NDArray[np.float64],
    lines: NDArray[np.float64],
    marks: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The middle of a label and the vector along it, (2,) each: the most level place far from marks; None if none."""
    half = int(np.ceil((width / 2 + _FREE) / _STEP))
    found = []
    for piece in pieces:
        for at in range(half, len(piece) - half):
            stretch = piece[at - half : at + half + 1]
            chord = stretch[-1] - stretch[0]
            middle, length = (stretch[0] + stretch[-1] + 2 * stretch[half]) / 4, float(np.hypot(*chord))
            if length < _STRAIGHT * 2 * half * _STEP:
                continue
            direction = chord / length * (1 if chord[0] >= 0 else -1)
            if not _is_inside(middle, direction, width, window) or _is_hit(
                middle, direction, width / 2 + _FREE, SIZE / 2, lines
            ):
                continue
            if _is_hit(middle, direction, width / 2 + _APART, SIZE / 2 + _APART, marks):
                continue
            nearest = np.hypot(*(marks - middle).T).min(initial=20.0)
            found.append((0.7 * direction[0] + nearest / 20, middle, direction * width))
    return max(found, key=lambda place: place[0])[1:] if found else None


def _is_inside(
    middle: NDArray[np.float64], direction: NDArray[np.float64], width: float, window: NDArray[np.float64]
) -> bool:
    reach = np.abs(direction) * width / 2 + np.abs(direction[::-1]) * SIZE / 2 + _FREE
    return bool(((middle - reach > window[0]) & (middle + reach < window[1])).all())


def _is_hit(
    middle: NDArray[np.float64],
    direction: NDArray[np.float64],
    along: float,
    across: float,
    points: NDArray[np.float64],
) -> bool:
    """Whether a point lies in a box that reaches so far along a label and across it."""
    offset = points - middle
    is_along = np.abs(offset @ direction) < along
    return bool((is_along & (np.abs(offset @ np.array([-direction[1], direction[0]])) < across)).any())


def _write(ax: Axes, text: str, ends: NDArray[np.float64]) -> None:
    """Write along the line from the middle of the label, `ends[0]`, to `ends[1]`."""
    x, y = ends[1] - ends[0]
    label = ax.text(
        float(ends[0, 0]),
        float(ends[0, 1]),
        text,
        fontsize=SIZE,
        ha="center",
        va="center",
        rotation=float(np.degrees(np.arctan2(y, x))),
        rotation_mode="anchor",
        transform_rotates_text=True,
        path_effects=[patheffects.withStroke(linewidth=1.2, foreground="white")],
        clip_on=True,
    )
    label.set_in_layout(False)
    label.set_gid("level")
