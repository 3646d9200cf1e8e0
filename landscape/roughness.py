"""How rough a slice, a surface or a volume is, in numbers that do not depend on how finely it was drawn.

Each is a property of what was measured, in the coordinates of its directions: another direction gives another
number, so answers over several seeds have a spread. What a grid does not resolve no number sees.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from landscape.intervals import mean_and_error
from landscape.width import RISE, axes_of, holds_the_checkpoint, width

Floats = NDArray[np.float64]

_ROUNDING = 2.0**-22  # relative error of a loss from float32 outputs: two units in the last place
_BOWL = 8.0  # length^2 * mean |second derivative| / range of a parabola around the middle of its line

_ABOUT = {
    "roughness": "bending of the loss against that of one parabola",
    "total_variation": "path of the loss up and down against its range, 1 where it only falls or rises",
    "nonconvex_share": "share of the points where the loss bends down in some direction of the grid",
}


def roughness(answer: xr.Dataset, metric: str = "loss") -> xr.DataArray:
    """How much the loss bends along the lines of its grid, in units of a parabola over the same range.

    Along an axis of n points it is length^2 * mean |L''| / (8 range), with L'' by second differences, so that the
    mean is (n - 1)^2 / (n - 2) * sum |L[i-1] - 2 L[i] + L[i+1]|, averaged over all lines along the axis; the axes of a
    plane or volume add up. The range is that of the whole answer. An axis-aligned quadratic form around the middle has
    1, whatever its eigenvalues; an inclined plane 0; k periods of a sine (pi / 2) k^2; noise grows with n^2.

    The sum of |second differences| over the range alone falls with the resolution like 1 / n; this number converges
    for every function whose slope has bounded variation, kinks included. Structure finer than the grid is not seen,
    so compare answers of equal resolution and radius. A range that is set by steep borders hides what lies in the
    middle; where the loss hardly varies, its rounding eps |L| shows as up to n^2 eps |L| / (2 range).

    Args:
        answer: Of Slice or Surface: (alpha,), (alpha, beta) or (alpha, beta, gamma), with or without seed.
        metric: The variable.

    Returns:
        () or (seed,). Second differences that touch a value that is not finite are left out; NaN where none is left,
        or the range is rounding error.

    Raises:
        ValueError: If an axis is not evenly spaced.

    References:
        After the roughness of Li et al., "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018, section 5, who
        show it in pictures and give no number.
    """
    return _of_each(answer, metric, _roughness)


def total_variation(answer: xr.Dataset, metric: str = "loss") -> xr.DataArray:
    """How far the loss goes up and down along the lines of its grid, against its range on them.

    sum |L[i+1] - L[i]| over all lines along all axes, divided by the sum of the ranges of these lines. It is 1 where
    the loss is monotone on each line, 2 for a bowl around the middle, 2 k for k periods of a sine. It does not depend
    on the resolution once every turn is resolved, and can only grow when points are put between others.

    Args:
        answer: As for `roughness`.
        metric: The variable.

    Returns:
        () or (seed,). Differences that touch a value that is not finite are left out; NaN where none is left, or the
        ranges are rounding error.

    Raises:
        ValueError: If an axis is not evenly spaced.
    """
    return _of_each(answer, metric, _total_variation)


def nonconvex_share(answer: xr.Dataset, metric: str = "loss") -> xr.DataArray:
    """Share of the inner grid points where the finite-difference Hessian of the plane has a negative eigenvalue.

    The matrix has second differences of neighbours on its diagonal and those of corners off it. An eigenvalue counts
    as negative below what rounding of the losses can make of zero. Which points count does not change when an axis is
    stretched. A negative eigenvalue in the plane proves one of the whole Hessian; the converse does not hold, since a
    plane shows averages over many dimensions (see `landscape.probes.CurvatureSurface`).

    Args:
        answer: As for `roughness`; on a line it is the share of points with a negative second difference.
        metric: The variable.

    Returns:
        () or (seed,). Points with a neighbour that is not finite are left out; NaN where none is left.

    Raises:
        ValueError: If an axis is not evenly spaced.

    References:
        Li et al., "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018, section 6.
    """
    return _of_each(answer, metric, _nonconvex_share)


def shape_numbers(answer: xr.Dataset, metric: str = "loss") -> xr.Dataset:
    """All numbers of a slice, a surface or a volume, to be merged into the answer.

    Args:
        answer: Of Slice or Surface; over several seeds its numbers are means over them.
        metric: The variable.

    Returns:
        `roughness`, `total_variation`, `nonconvex_share` and, where the checkpoint lies on the grid, `width` (see
        `landscape.width.width`; `width_num_censored` sets of directions give a lower bound only), each a scalar; over
        several seeds also `<name>_standard_error` and, except for the width, `<name>_by_seed`. `finite_share` where
        values are not finite: the share of those that are.

    Raises:
        ValueError: If an axis is not evenly spaced.
    """
    found = xr.Dataset()
    note = _spline_note(answer)
    for name, of in (
        ("roughness", roughness),
        ("total_variation", total_variation),
        ("nonconvex_share", nonconvex_share),
    ):
        values = of(answer, metric)
        about = {"units": "1", "long_name": _ABOUT[name] + note}
        if "seed" not in values.dims:
            found[name] = values.assign_attrs(about)
            continue
        known = values.values[np.isfinite(values.values)]
        mean, error = mean_and_error(known) if len(known) else (np.array(np.nan), np.array(np.nan))
        found[name] = ((), float(mean), about)
        found[f"{name}_standard_error"] = ((), float(error), {"units": "1", "long_name": "of the mean over seeds"})
        found[f"{name}_by_seed"] = values.assign_attrs(about)
    finite = np.isfinite(answer[metric])
    if not finite.all():
        about = {"units": "1", "long_name": f"share of the points whose {metric} is finite"}
        found["finite_share"] = ((), float(finite.mean()), about)
    if holds_the_checkpoint(answer, metric):
        found = found.merge(_width(answer, metric, note))
    return found


def _width(answer: xr.Dataset, metric: str, note: str) -> xr.Dataset:
    one = width(answer, metric=metric)
    region = "interval" if len(axes_of(answer, metric)) == 1 else "region, as the diameter of a round one of its size,"
    units = {"units": "multiples of the direction"}
    found = xr.Dataset(
        {
            "width": ((), one.value, units | {"long_name": f"{region} where the loss rises by {RISE:.3g}{note}"}),
            "width_num_censored": ((), one.num_censored, {"long_name": "sets of directions that leave the grid"}),
        }
    )
    if one.num_directions > 1:
        found["width_standard_error"] = ((), one.standard_error, units | {"long_name": "of the mean over seeds"})
    return found


def _spline_note(answer: xr.Dataset) -> str:
    """Say how much of an adaptive answer is not the loss but a spline, which is smoother."""
    if "evaluated" not in answer or answer["evaluated"].all():
        return ""
    return f" (a smooth spline at {1 - float(answer['evaluated'].mean()):.0%} of the points)"


def _of_each(answer: xr.Dataset, metric: str, number: Callable[[Floats, float], float]) -> xr.DataArray:
    """A number of each seed's grid (n_1, ..., n_D), with NaN for what is not finite."""
    axes = axes_of(answer, metric)
    for axis in axes:
        steps = np.diff(answer[axis].values)
        if len(steps) and not np.allclose(steps, steps[0], rtol=1e-6, atol=0):
            raise ValueError(f"expected an evenly spaced axis {axis!r}, got steps from {steps.min()} to {steps.max()}.")
    values = answer[metric].transpose(..., *axes)
    error = max(_ROUNDING, float(answer.get("precision_error_p95", 0.0)))
    grids = values.values.astype(np.float64).reshape(-1, *values.shape[-len(axes) :])
    grids = np.where(np.isfinite(grids), grids, np.nan)
    numbers = [number(grid, error) for grid in grids]
    if "seed" not in values.dims:
        return xr.DataArray(numbers[0])
    return xr.DataArray(numbers, dims=("seed",), coords={"seed": answer["seed"]} if "seed" in answer.coords else None)


def _roughness(grid: Floats, error: float) -> float:
    span, scale = _range(grid), _largest(grid)
    if not span > error * scale:
        return float("nan")
    parts = []
    for axis, number in enumerate(grid.shape):
        bends = np.abs(np.diff(grid, 2, axis=axis))
        bends = bends[np.isfinite(bends)]
        if not bends.size:
            return float("nan")
        parts.append((number - 1) ** 2 * bends.mean())
    return float(sum(parts) / (_BOWL * span))


def _total_variation(grid: Floats, error: float) -> float:
    path, spans = 0.0, 0.0
    for axis in range(grid.ndim):
        lines = np.moveaxis(grid, axis, -1).reshape(-1, grid.shape[axis])
        path += float(np.nansum(np.abs(np.diff(lines, axis=1))))
        spans += float(sum(_range(line) for line in lines))
    # Rounding gives each line of the grid a range of its own.
    lines_in_all = sum(grid.size // number for number in grid.shape)
    return path / spans if spans > error * _largest(grid) * lines_in_all else float("nan")


def _nonconvex_share(grid: Floats, error: float) -> float:
    if min(grid.shape) < 3:
        return float("nan")
    matrices = _second_differences(grid)
    known = np.isfinite(matrices).all(axis=(-2, -1))
    if not known.any():
        return float("nan")
    inner = (slice(1, -1),) * grid.ndim
    largest = maximum_filter(np.abs(np.nan_to_num(grid)), size=3)[inner][known]
    # Each entry is off by at most four roundings of the losses around it, an eigenvalue by at most D entries.
    smallest = np.linalg.eigvalsh(matrices[known])[:, 0]
    return float((smallest < -4 * grid.ndim * error * largest).mean())


def _second_differences(grid: Floats) -> Floats:
    """The Hessian at the inner points, in grid steps: (n_1 - 2, ..., n_D - 2, D, D)."""

    def shifted(**by: int) -> Floats:
        steps = [by.get(f"axis{axis}", 0) for axis in range(grid.ndim)]
        return grid[tuple(slice(1 + step, number - 1 + step) for step, number in zip(steps, grid.shape, strict=True))]

    matrices = np.empty((*(number - 2 for number in grid.shape), grid.ndim, grid.ndim))
    for axis in range(grid.ndim):
        name = f"axis{axis}"
        matrices[..., axis, axis] = shifted(**{name: 1}) - 2 * shifted() + shifted(**{name: -1})
    for first, second in combinations(range(grid.ndim), 2):
        one, two = f"axis{first}", f"axis{second}"
        corners = [sign * other * shifted(**{one: sign, two: other}) for sign in (1, -1) for other in (1, -1)]
        matrices[..., first, second] = matrices[..., second, first] = sum(corners) / 4
    return matrices


def _range(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(np.ptp(known)) if known.size else 0.0


def _largest(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(np.abs(known).max()) if known.size else 0.0
