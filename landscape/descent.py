"""What a curve of test errors over sizes shows: first minimum, peak, second descent, and where training fits all.

A curve lies in a data set whose variables have dims (arm, noise, size, seed): how it was trained or chosen, the share
of wrong labels, the size that varies, and the repetition. Nothing here knows how it was measured.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from landscape.intervals import median_interval

TOLERANCE = 0.01  # of the training error at the interpolation threshold
METRICS = ("loss", "error")

Array = NDArray[np.float64]


class Places(NamedTuple):
    """Positions on a curve: the lowest point before its peak, the peak, and the lowest point after it."""

    first: int
    peak: int
    valley: int


def places(curve: Array) -> Places | None:
    """Find the peak that stands out most: whose smaller side, up from the first minimum or down again, is largest.

    Args:
        curve: (sizes,) values in the order of sizes; NaN are passed over.

    Returns:
        None where no inner point lies above points on both sides.

    >>> places(np.array([5.0, 2.0, 4.0, 9.0, 3.0, 1.0]))
    Places(first=1, peak=3, valley=5)
    >>> places(np.array([5.0, 4.0, 2.0, 1.0])) is None
    True
    """
    best, found = 0.0, None
    for peak in range(1, len(curve) - 1):
        before, after = curve[:peak], curve[peak + 1 :]
        if np.isnan(before).all() or np.isnan(after).all() or np.isnan(curve[peak]):
            continue
        first, valley = int(np.nanargmin(before)), peak + 1 + int(np.nanargmin(after))
        rise = min(_above(curve[peak], curve[first]), _above(curve[peak], curve[valley]))
        if rise > best:
            best, found = rise, Places(first, peak, valley)
    return found


def _above(high: float, low: float) -> float:
    """How far one value lies above another; a peak that is infinite stands out from all that is not."""
    return 0.0 if high == low else high - low


def differences(curves: Array) -> dict[str, Array]:
    """Compare points of each seed's curve at places that the other seeds choose.

    The highest of several noisy values lies too high on average, so a peak that is looked for and measured in the same
    curves exists always. Here the median of the other seeds' curves says where its first minimum and its peak are, and
    only then one looks at this seed's curve. With one seed there is no other, and its own curve has to choose.

    Args:
        curves: (seeds, sizes).

    Returns:
        Each (seeds,): bump, the peak less the first minimum; fall, the peak less the largest size; gain, the first
        minimum less the largest size, above 0 where the second descent wins. All are 0 where the others have no peak.
    """
    found: dict[str, list[float]] = {"bump": [], "fall": [], "gain": []}
    for seed, curve in enumerate(curves):
        others = np.delete(curves, seed, 0) if len(curves) > 1 else curves
        chosen = places(median_interval(others)[0])
        if chosen is None:
            first = peak = last = 0.0
        else:
            first, peak, last = curve[chosen.first], curve[chosen.peak], curve[-1]
        for name, (high, low) in {"bump": (peak, first), "fall": (peak, last), "gain": (first, last)}.items():
            found[name].append(_above(high, low))
    return {name: np.array(values) for name, values in found.items()}


def threshold(unfit: Array, tolerance: float, largest: bool = False) -> tuple[int, int]:
    """Find the interpolation threshold among the measured sizes.

    Args:
        unfit: (sizes,) how much of the training data is not fitted; the median or mean over seeds.
        tolerance: What counts as fitted.
        largest: Whether sizes are those of the data, of which the largest that is fitted counts.

    Returns:
        The position of the smallest size that fits (or the largest), and of its neighbour that does not; -1 for none.
    """
    fits = np.flatnonzero(unfit <= tolerance)
    if not fits.size:
        return -1, -1
    at = int(fits[-1] if largest else fits[0])
    neighbour = at + 1 if largest else at - 1
    return at, neighbour if neighbour < len(unfit) else -1


def analysed(curves: xr.Dataset, tolerance: float = TOLERANCE) -> xr.Dataset:
    """Add to measured curves where they turn, by how much, and where training begins to fit everything.

    Args:
        curves: test_loss, and test_error where there are classes, over (arm, noise, size, seed); train_error likewise,
            and unranked (size, seed), 1 - rank/n of regressions; num_parameters (size). Its attribute axis names what
            size is.
        tolerance: Training error at the threshold.

    Returns:
        The same with, over (arm, noise, metric): peak_size, first_minimum_size, valley_size, and medians there
        (peak, first_minimum, valley, last); bump, fall and gain (`differences`), each with _low and _high. Over (noise,
        criterion) the threshold of the first arm, threshold_outside (its neighbour that does not fit) and
        threshold_parameters; NaN where it is not reached. With at least 3 levels of noise noise_correlation (arm,
        metric, of), Spearman's over seeds with _low and _high, of the level with peak and bump.

    Raises:
        ValueError: If there are fewer than 3 sizes, which can have no peak.

    References:
        Nakkiran et al., "Deep Double Descent: Where Bigger Models and More Data Hurt", ICLR 2020, definition 1.
    """
    sizes = curves["size"].values.astype(np.float64)
    if len(sizes) < 3:
        raise ValueError(f"a peak needs sizes on both sides, at least 3 in all; got {len(sizes)}: give more of them")
    metrics = [metric for metric in METRICS if f"test_{metric}" in curves]
    shapes = [_shapes(curves[f"test_{metric}"], sizes) for metric in metrics]
    found = xr.concat(shapes, "metric").assign_coords(metric=list(metrics)).transpose("arm", "noise", "metric", ...)
    parts = (_thresholds(curves, sizes, tolerance), _by_noise(curves, metrics))
    return xr.merge([curves, found, *parts], combine_attrs="override").assign_attrs(tolerance=tolerance)


def _shapes(values: xr.DataArray, sizes: Array) -> xr.Dataset:
    cube = values.transpose("arm", "noise", "seed", "size")
    rows = [[_shape(curves, sizes) for curves in of_arm] for of_arm in cube.values.astype(np.float64)]
    names = list(rows[0][0])
    data = {name: (("arm", "noise"), np.array([[row[name] for row in of] for of in rows])) for name in names}
    return xr.Dataset(data, {"arm": values["arm"], "noise": values["noise"]})


def _shape(curves: Array, sizes: Array) -> dict[str, float]:
    """Describe the curves (seeds, sizes) of one arm and one level of noise."""
    medians = median_interval(curves)[0]
    chosen = places(medians)
    names = dict(zip(("first_minimum", "peak", "valley"), chosen or (None,) * 3, strict=True))
    found = {f"{name}_size": math.nan if at is None else float(sizes[at]) for name, at in names.items()}
    found |= {name: math.nan if at is None else float(medians[at]) for name, at in names.items()}
    found["last"] = float(medians[-1])
    for name, values in differences(curves).items():
        middle, low, high = (float(end) for end in median_interval(values))
        one = len(values) == 1
        found |= {name: middle, f"{name}_low": math.nan if one else low, f"{name}_high": math.nan if one else high}
    return found


def _thresholds(curves: xr.Dataset, sizes: Array, tolerance: float) -> xr.Dataset:
    by_samples = curves.attrs["axis"] == "samples"
    unfit: dict[str, tuple[Array, float]] = {}
    if "train_error" in curves:
        error = curves["train_error"].isel(arm=0).transpose("noise", "size", "seed")
        # of data Nakkiran et al. take the expectation, of models the medians tell more
        centre = error.mean("seed") if by_samples else error.median("seed", skipna=False)
        unfit["error"] = centre.values, tolerance
    if "unranked" in curves:
        rank = curves["unranked"].median("seed").values
        unfit["rank"] = np.broadcast_to(rank, (curves.sizes["noise"], len(rank))), 0.0
    rows = {name: [threshold(each, limit, by_samples) for each in values] for name, (values, limit) in unfit.items()}
    at = np.array([[row[level] for row in rows.values()] for level in range(curves.sizes["noise"])])
    at = at.reshape(curves.sizes["noise"], len(rows), 2)
    dims = ("noise", "criterion")
    parameters = curves["num_parameters"].values.astype(np.float64)
    data = {
        "threshold": (dims, _at(sizes, at[..., 0])),
        "threshold_outside": (dims, _at(sizes, at[..., 1])),
        "threshold_parameters": (dims, _at(parameters, at[..., 0])),
    }
    return xr.Dataset(data, {"noise": curves["noise"], "criterion": list(rows)})


def _at(values: Array, positions: NDArray[np.int64]) -> Array:
    return np.where(positions < 0, np.nan, values[np.maximum(positions, 0)])


def _by_noise(curves: xr.Dataset, metrics: list[str]) -> xr.Dataset:
    """Correlate the level of noise with the height of the peak, and with its height over the first minimum."""
    if curves.sizes["noise"] < 3:
        return xr.Dataset()
    from scipy.stats import spearmanr

    of = ("peak", "bump")
    shape = (curves.sizes["arm"], len(metrics), len(of), 3)
    found = np.full(shape, np.nan)
    for arm, metric in np.ndindex(shape[:2]):
        cube = curves[f"test_{metrics[metric]}"].isel(arm=arm).transpose("noise", "seed", "size").values
        heights: dict[str, Any] = {"peak": _peaks(cube), "bump": np.array([differences(c)["bump"] for c in cube])}
        for number, name in enumerate(of):
            seeds = [_spearman(spearmanr, curves["noise"].values, column) for column in heights[name].T]
            found[arm, metric, number] = [float(end) for end in median_interval(seeds)]
    dims = ("arm", "metric", "of")
    names = ("noise_correlation", "noise_correlation_low", "noise_correlation_high")
    coords = {"arm": curves["arm"], "metric": metrics, "of": list(of)}
    return xr.Dataset({name: (dims, found[..., index]) for index, name in enumerate(names)}, coords)


def _peaks(cube: Array) -> Array:
    """Heights (noise, seed) of each seed's curve where the medians of the noisiest curves have their peak."""
    chosen = places(median_interval(cube[-1])[0])
    return np.full(cube.shape[:2], np.nan) if chosen is None else np.asarray(cube[..., chosen.peak])


def _spearman(correlate: Any, levels: Array, heights: Array) -> float:
    """Of heights that do not vary there is none; those that are infinite together are equal."""
    is_flat = np.isnan(heights).any() or (heights == heights[0]).all()
    return math.nan if is_flat else float(correlate(levels, heights).statistic)
