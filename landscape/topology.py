"""The basins of a slice, a surface or a volume: how many, how deep, over which saddles they join.

As the level rises from below, a basin is born at each local minimum of the grid. Where two meet, at a saddle, the one
with the higher minimum ends in the other; how far it had been filled is its persistence. It says how far a basin can
be told from noise: what shakes all losses by at most e changes each persistence by at most 2 e.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isinf
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import label

from landscape.width import axes_of

Floats = NDArray[np.float64]

_ROUNDING = 2.0**-22  # relative error of a loss from float32 outputs: two units in the last place


@dataclass(frozen=True)
class Basin:
    """One basin of the sub-level sets of a grid, a branch of the merge tree.

    Attributes:
        number: 0 for the most persistent; basins are numbered by falling persistence.
        birth: Loss at its lowest point.
        place: Coordinates of that point, in the order of the axes.
        death: Loss at the saddle over which it joins a lower basin; infinite if it joins none on this grid.
        saddle: Coordinates of the saddle; None if it joins none.
        parent: Number of the basin that it joins; None if it joins none.
        at_border: Whether the lowest point lies on the border of the grid, where the loss may go on falling outside.
    """

    number: int
    birth: float
    place: tuple[float, ...]
    death: float
    saddle: tuple[float, ...] | None
    parent: int | None
    at_border: bool

    @property
    def persistence(self) -> float:
        """How far the basin is filled before it overflows into a lower one."""
        return self.death - self.birth


def basins(answer: xr.Dataset, metric: str = "loss", least: float | None = None) -> list[Basin]:
    """Find the basins of a slice, a surface or a volume, as a merge tree.

    The grid is a cubical complex with the losses on its vertices: points are neighbours along the axes, not across.
    Points that are not finite are walls of infinite height. A plateau counts as one point. Basins that join no lower
    one, at least one for each part of the grid between walls, have infinite persistence.

    Args:
        answer: Of Slice or Surface, with one seed: (alpha,), (alpha, beta) or (alpha, beta, gamma).
        metric: The variable; lower is deeper.
        least: Leave out basins of less persistence, in units of the metric; default: what rounding can make,
            2^-22 of the largest magnitude. What is left out changes nothing in the others.

    Returns:
        The basins by falling persistence, deepest first where it is infinite.

    Raises:
        ModuleNotFoundError: If the package gudhi is not installed.
        ValueError: If the answer has several seeds, no finite value, or `least` is negative.

    References:
        Edelsbrunner, Letscher and Zomorodian, "Topological Persistence and Simplification", Discrete Comput. Geom. 28
        (2002); Cohen-Steiner, Edelsbrunner and Harer, "Stability of Persistence Diagrams", Discrete Comput. Geom. 37
        (2007); Wagner, Chen and Vucini, "Efficient Computation of Persistent Homology for Cubical Data" (2012).
    """
    axes = axes_of(answer, metric)
    if set(answer[metric].dims) != set(axes):
        raise ValueError(
            f"basins are those of one grid, but {metric!r} runs over {', '.join(map(str, answer[metric].dims))}; "
            "choose a seed with .isel(seed=0)."
        )
    values = answer[metric].transpose(*axes).values.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError(f"no {metric} of this grid is finite, so it has no basins.")
    if least is None:
        least = _ROUNDING * float(np.abs(values[finite]).max())
    if not least >= 0:
        raise ValueError(f"least must be at least 0, got {least}.")
    pairs = [(low, high) for low, high in _pairs(values) if high is None or values[high] - values[low] > least]
    pairs.sort(key=lambda pair: (values[pair[0]] - (inf if pair[1] is None else values[pair[1]]), values[pair[0]]))
    coordinates = [answer[axis].values for axis in axes]
    return [_basin(number, pairs, values, coordinates) for number in range(len(pairs))]


def basin_rows(found: Sequence[Basin], axes: Sequence[str]) -> list[dict[str, Any]]:
    """Write basins as rows of a table: loss and place of the lowest point, persistence, what is joined, and where."""
    return [
        {
            "basin": basin.number,
            "lowest": basin.birth,
            **dict(zip(axes, basin.place, strict=True)),
            "persistence": basin.persistence,
            "joins": "none" if basin.parent is None else f"basin {basin.parent}",
            "over": "" if basin.saddle is None else basin.death,
            "at": "" if basin.saddle is None else ", ".join(f"{place:.4g}" for place in basin.saddle),
            "": "at the border" if basin.at_border else "",
        }
        for basin in found
    ]


Index = tuple[int, ...]


def _basin(number: int, pairs: list[tuple[Index, Index | None]], values: Floats, axes: list[Floats]) -> Basin:
    low, high = pairs[number]

    def place(index: Index) -> tuple[float, ...]:
        return tuple(float(axis[at]) for axis, at in zip(axes, index, strict=True))

    return Basin(
        number=number,
        birth=float(values[low]),
        place=place(low),
        death=inf if high is None else float(values[high]),
        saddle=None if high is None else place(high),
        parent=None if high is None else _survivor(number, pairs, values),
        at_border=any(at in (0, size - 1) for at, size in zip(low, values.shape, strict=True) if size > 1),
    )


def _survivor(number: int, pairs: list[tuple[Index, Index | None]], values: Floats) -> int | None:
    """Find the basin that holds the lowest point of this one's component once the saddle is flooded.

    It is the only one there that lives beyond that level, and it is at least as persistent.
    """
    low, high = pairs[number]
    assert high is not None
    level = values[high]
    components, _ = label(values <= level)
    for other, (place, end) in enumerate(pairs):
        if components[place] == components[low] and (end is None or values[end] > level):
            return other
    return None


def _pairs(values: Floats) -> list[tuple[Index, Index | None]]:
    """Pair the lowest point of each basin with its saddle, by the package gudhi; None for those that join none."""
    try:
        from gudhi import CubicalComplex
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "basins are found by the package gudhi, which is not installed: pip install 'landscape-lab[topology]'."
        ) from error
    finite = np.isfinite(values)
    top = float(values[finite].max())
    wall = top + max(1.0, abs(top))
    walled = np.where(finite, values, wall)
    # Axes of one point would make a complex of another dimension than the grid has.
    complex_ = CubicalComplex(vertices=walled.reshape([n for n in walled.shape if n > 1] or [1]))
    complex_.compute_persistence()
    regular, essential = complex_.vertices_of_persistence_pairs()

    def index(flat: int) -> Index:
        return tuple(int(at) for at in np.unravel_index(int(flat), values.shape, order="F"))

    found: list[tuple[Index, Index | None]] = [(index(n), None) for n in (essential[0] if essential else [])]
    for low, high in regular[0] if regular else []:
        joined = index(high)
        found.append((index(low), joined if walled[joined] < wall else None))
    return [(low, high) for low, high in found if not isinf(values[low]) and finite[low]]
