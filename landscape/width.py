"""The width of a minimum: how far it can be left before the loss has risen by a stated amount."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, inf, log, log10

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from landscape.intervals import mean_and_error

RISE = log(2.0)  # nats: the geometric mean of the probability given to the right class has halved

_RAYS = {2: 360, 3: 2000}  # along which a plane or a volume is followed outwards
_PER_STEP = 4  # points of a ray for each step of the grid; the interpolation between grid points is exact


@dataclass(frozen=True)
class Width:
    """The width of a minimum along several directions, in multiples of the direction (units of alpha).

    A direction is a line, or the pair or triple that spans a plane or a volume.
    """

    value: float  # mean over directions; a lower bound if any interval left the slice
    standard_error: float  # of that mean over directions; NaN for a single direction
    minimum: float
    maximum: float
    num_directions: int
    num_censored: int  # directions along which the loss had not risen by `rise` where the slice ends
    rise: float  # in the units of the loss

    @property
    def is_lower_bound(self) -> bool:
        """Whether the slice was too short for at least one direction."""
        return self.num_censored > 0

    def __str__(self) -> str:
        """The width with its spread: "0.82 ± 0.03", or "> 2" where every interval leaves the slice."""
        if self.num_censored == self.num_directions:
            return f"> {self.value:.3g}"
        bound = "> " if self.is_lower_bound else ""
        return bound + with_error(self.value, self.standard_error)


def with_error(value: float, error: float) -> str:
    """A number to the digits that its error leaves it, with the error: "18.0 ± 0.5"; NaN is no error.

    >>> with_error(18.0213, 0.54), with_error(-0.9012, 0.029), with_error(0.0575, nan), with_error(2.0, 0.0)
    ('18.0 ± 0.5', '-0.90 ± 0.03', '0.0575', '2 ± 0')
    """
    if not (error > 0 and 1e-3 <= abs(value) < 1e5):
        return f"{value:.4g}" if np.isnan(error) else f"{value:.4g} ± {error:.1g}"
    decimals = min(-floor(log10(error)), 3 - floor(log10(abs(value))))
    return f"{value:.{max(decimals, 0)}f} ± {error:.1g}"


def width(answer: xr.Dataset, rise: float = RISE, metric: str = "loss") -> Width:
    """The size of the region around the checkpoint in which the loss has risen by less than `rise`.

    Along a line it is the length of the interval. Along each direction, L(alpha) is the piecewise linear function
    through the points of the slice and through the checkpoint's own loss L(0). The interval reaches to either side
    until L first equals L(0) + rise; it ends at the last finite point where the next one is not finite, and at the end
    of the slice where the loss stays below (then the width is a lower bound and is counted as censored). Along a
    filter-normalized direction this is the "filter-normalized width", which does not change when a layer is rescaled
    and the next one divided by as much.

    On a plane or in a volume such a reach r is taken along rays from the checkpoint to all sides, with L linear
    between neighbours along each axis; the width is the diameter of the disk or ball of the same size as the
    region, 2 (mean r^D)^(1/D) for D axes. For a quadratic form with the matrix A it is 2 sqrt(2 rise) det(A)^(-1/(2D)).

    Args:
        answer: The answer of Slice or Surface: dims (alpha,), (alpha, beta) or (alpha, beta, gamma), with or without
            seed, with `center_<metric>` or a point at 0.
        rise: How much the loss may rise, in its own units. The default, log 2, is where the geometric mean of the
            probability that the model gives to the right class has halved (for a cross-entropy in nats).
        metric: The variable that is followed.

    Returns:
        The mean over directions with its standard error, smallest and largest, and how many were censored.

    Raises:
        ValueError: If `rise` is not positive, the loss of the checkpoint is missing or not finite, or a plane or volume
            does not hold the checkpoint.

    References:
        The region around a minimum in which the loss rises by less than a stated amount: Hochreiter & Schmidhuber,
        "Flat Minima", Neural Computation 1997, section 2. Filter-normalized directions: Li et al., "Visualizing
        the Loss Landscape of Neural Nets", NeurIPS 2018, section 4.
    """
    if not 0 < rise < inf:
        raise ValueError(f"expected a positive, finite rise of the loss; got {rise}")
    names = axes_of(answer, metric)
    axes = [np.asarray(answer[name].values, dtype=np.float64) for name in names]
    if len(axes) > 1 and not all(_spans_zero(axis) for axis in axes):
        raise ValueError(f"the checkpoint does not lie on the grid of {', '.join(names)}; use a grid around 0")
    values = answer[metric].transpose(..., *names).values.astype(np.float64)
    grids = values.reshape(-1, *values.shape[-len(axes) :])
    centers = [_center(answer, metric, row) for row in range(len(grids))]
    measure = _interval if len(axes) == 1 else _region
    found = [measure(axes, grid - center, rise) for grid, center in zip(grids, centers, strict=True)]
    widths = np.array([one for one, _ in found])
    mean, error = map(float, mean_and_error(widths))
    censored = sum(is_censored for _, is_censored in found)
    return Width(mean, error, float(widths.min()), float(widths.max()), len(widths), censored, rise)


def axes_of(answer: xr.Dataset, metric: str = "loss") -> list[str]:
    """The axes of a slice, a surface or a volume, in order."""
    return [name for name in ("alpha", "beta", "gamma") if name in answer[metric].dims]


def holds_the_checkpoint(answer: xr.Dataset, metric: str = "loss") -> bool:
    """Whether a width can be measured: the checkpoint lies between points of the grid, and its loss is finite."""
    axes = [answer[name].values for name in axes_of(answer, metric)]
    center = answer.get(f"center_{metric}")
    return all(map(_spans_zero, axes)) and center is not None and bool(np.isfinite(center).all())


def _spans_zero(axis: NDArray[np.float64]) -> bool:
    return bool(len(axis) > 1 and axis.min() < 0 < axis.max())


def _center(answer: xr.Dataset, metric: str, row: int) -> float:
    """The loss of the checkpoint."""
    if f"center_{metric}" in answer:
        values = np.atleast_1d(answer[f"center_{metric}"].values)
        value = float(values[row % len(values)])
    else:
        at_zero = {name: _zero_of(answer[name].values) for name in axes_of(answer, metric)}
        if None in at_zero.values():
            raise ValueError(f"the slice has neither 'center_{metric}' nor a point at alpha = 0; use an odd resolution")
        value = float(np.atleast_1d(answer[metric].isel(at_zero).values)[row])
    if not np.isfinite(value):
        raise ValueError(f"the width needs a finite {metric} at the checkpoint; got {value}")
    return value


def _zero_of(axis: NDArray[np.float64]) -> int | None:
    """Where an axis is 0, if it is."""
    nearest = int(np.abs(axis).argmin())
    return nearest if abs(axis[nearest]) <= 1e-12 * np.abs(axis).max() else None


def _interval(axes: list[NDArray[np.float64]], rises: NDArray[np.float64], rise: float) -> tuple[float, bool]:
    """How far a line reaches to both sides together, and whether one of them leaves it."""
    (right, leaves_right), (left, leaves_left) = (_reach(*_half(axes[0], rises, side), rise) for side in (1, -1))
    return right + left, leaves_right or leaves_left


def _region(axes: list[NDArray[np.float64]], rises: NDArray[np.float64], rise: float) -> tuple[float, bool]:
    """Diameter of the disk or ball as large as the region, and whether a ray leaves the grid."""
    from scipy.interpolate import RegularGridInterpolator  # 0.7 s, which a list of runs need not wait for

    order = [np.argsort(axis) for axis in axes]
    axes = [axis[indices] for axis, indices in zip(axes, order, strict=True)]
    finite = np.where(np.isfinite(rises), rises, np.nan)[np.ix_(*order)]
    # In half lengths of the axes, so that rays see a long axis as finely as a short one.
    halves = np.array([np.ptp(axis) / 2 for axis in axes])
    scaled = [axis / half for axis, half in zip(axes, halves, strict=True)]
    loss = RegularGridInterpolator(scaled, finite)
    rays = _rays(len(axes))
    ends = _along(rays, [axis[0] for axis in scaled], [axis[-1] for axis in scaled])
    # The cell around the checkpoint knows its corners only; from the checkpoint to its walls the rise is linear.
    walls = _along(rays, [axis[axis < 0].max() for axis in scaled], [axis[axis > 0].min() for axis in scaled])
    distances = walls[:, None] + (ends - walls)[:, None] * np.linspace(0.0, 1.0, _PER_STEP * sum(map(len, axes)) + 1)
    places = rays[:, None] * distances[..., None]
    values = loss(np.clip(places, [axis[0] for axis in scaled], [axis[-1] for axis in scaled]))
    reaches = [
        _reach(np.append(0.0, distance), np.append(0.0, along), rise)
        for distance, along in zip(distances, values, strict=True)
    ]
    size = np.mean([reach ** len(axes) for reach, _ in reaches])
    return float(2 * (halves.prod() * size) ** (1 / len(axes))), any(leaves for _, leaves in reaches)


def _along(rays: NDArray[np.float64], low: list[float], high: list[float]) -> NDArray[np.float64]:
    """How far each ray (R, D) from the origin runs in a box, (R,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        reaches = np.where(rays > 0, high / rays, np.where(rays < 0, low / rays, inf))
    return np.asarray(reaches.min(axis=1))


def _rays(dimensions: int) -> NDArray[np.float64]:
    """Unit vectors (R, D) that lie evenly on the circle or, on a Fibonacci lattice, on the sphere."""
    number = np.arange(_RAYS[dimensions])
    if dimensions == 2:
        angles = 2 * np.pi * number / len(number)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)
    height = 1 - (2 * number + 1) / len(number)
    angles = np.pi * (3 - np.sqrt(5)) * number
    around = np.sqrt(1 - height**2)
    return np.stack([around * np.cos(angles), around * np.sin(angles), height], axis=1)


def _half(
    alpha: NDArray[np.float64], rises: NDArray[np.float64], side: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances from the checkpoint outwards and the rise of the loss at them, the checkpoint (0, 0) first."""
    order = np.argsort(side * alpha)
    distance, rises = side * alpha[order], rises[order]
    beyond = distance > 1e-12 * np.abs(alpha).max()
    return np.append(0.0, distance[beyond]), np.append(0.0, rises[beyond])


def _reach(distance: NDArray[np.float64], rises: NDArray[np.float64], rise: float) -> tuple[float, bool]:
    """How far one side reaches, and whether the slice ends before the loss has risen enough."""
    risen = ~(rises < rise)  # NaN and inf are never below
    if not risen.any():
        return float(distance[-1]), True
    after = int(np.argmax(risen))
    if not np.isfinite(rises[after]):
        return float(distance[after - 1]), False
    share = (rise - rises[after - 1]) / (rises[after] - rises[after - 1])
    return float(distance[after - 1] + share * (distance[after] - distance[after - 1])), False
