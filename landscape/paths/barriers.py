"""Barriers: how far a path between two points rises, by each published definition, always named.

With E the values along a path, E_0 and E_1 those at its ends, and the maximum over the points of the path:

- ``frankle``: max E - (E_0 + E_1) / 2, the linear-interpolation instability.
- ``linear``: max over alpha of E(alpha) - [(1 - alpha) E_0 + alpha E_1], above the chord.
- ``above-higher``: max E - max(E_0, E_1), zero where a walker from the worse end need not climb.
- ``above-lower``: max E - min(E_0, E_1), the whole climb from the better end.

The default, what `barrier` means where no definition is named, is ``frankle``: it is the one that thresholds are
published for (2% of error is "stable"). It is not zero on a straight slope, where it is half the difference of the
ends; ``linear`` is. Neither of these two is always the larger: they differ by at most |E_0 - E_1| / 2. Both lie
between ``above-higher`` and ``above-lower``, and with equal ends all four are one number.

References:
    Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020, section 2 (``frankle``;
    also Ainsworth et al., "Git Re-Basin", ICLR 2023, section 2).
    Entezari et al., "The Role of Permutation Invariance in Linear Mode Connectivity of Neural Networks", ICLR 2022,
    equation 1 (``linear``).
    Draxler et al., "Essentially No Barriers in Neural Network Energy Landscape", ICML 2018, and Garipov et al., "Loss
    Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", NeurIPS 2018, compare the highest point of a path with
    its ends (``above-higher``, ``above-lower``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]


def _frankle(alphas: Values, values: Values) -> float:
    return float(values.max() - (values[0] + values[-1]) / 2)


def _linear(alphas: Values, values: Values) -> float:
    return float((values - ((1 - alphas) * values[0] + alphas * values[-1])).max())


def _above_higher(alphas: Values, values: Values) -> float:
    return float(values.max() - max(values[0], values[-1]))


def _above_lower(alphas: Values, values: Values) -> float:
    return float(values.max() - min(values[0], values[-1]))


DEFINITIONS: dict[str, Callable[[Values, Values], float]] = {
    "frankle": _frankle,
    "linear": _linear,
    "above-higher": _above_higher,
    "above-lower": _above_lower,
}
DEFAULT = "frankle"
_METRICS = ("loss", "error", "test_loss", "test_error")


def barriers(alphas: ArrayLike, values: ArrayLike) -> dict[str, float]:
    """Measure the barrier of one path by every definition.

    The maximum is that of the points given, so each number is a lower bound of the barrier of the continuous path.

    Args:
        alphas: (T,) where on the path, increasing; what lies outside [0, 1] does not count.
        values: (T,) loss (nats) or error there.

    Returns:
        The barrier by the name of its definition, in the unit of the values; NaN where a value is NaN, infinite where
        the path is infinite between finite ends.

    Raises:
        ValueError: If the shapes differ, alphas do not increase, or an end, alpha = 0 or 1, is not among them.

    Example:
        >>> barriers([0, 0.5, 1], [0.0, 1.0, 0.5])
        {'frankle': 0.75, 'linear': 0.75, 'above-higher': 0.5, 'above-lower': 1.0}
    """
    places, heights = _between_the_ends(alphas, values)
    if np.isnan(heights).any() or not np.isfinite(heights[[0, -1]]).all():
        return dict.fromkeys(DEFINITIONS, float("nan"))
    return {name: define(places, heights) for name, define in DEFINITIONS.items()}


def barrier(alphas: ArrayLike, values: ArrayLike, definition: str = DEFAULT) -> float:
    """Measure the barrier of one path by one definition.

    Args:
        alphas: See `barriers`.
        values: See `barriers`.
        definition: One of `DEFINITIONS`.

    Raises:
        ValueError: If there is no such definition, or the points are no path.
    """
    if definition not in DEFINITIONS:
        raise ValueError(f"unknown definition of a barrier {definition!r}; choose {', '.join(DEFINITIONS)}.")
    return barriers(alphas, values)[definition]


def peak(alphas: ArrayLike, values: ArrayLike) -> float:
    """Return the alpha in [0, 1] of the highest value; NaN where a value is NaN."""
    places, heights = _between_the_ends(alphas, values)
    return float("nan") if np.isnan(heights).any() else float(places[heights.argmax()])


def with_barriers(answer: xr.Dataset, along: str = "alpha") -> xr.Dataset:
    """Add the barriers of everything that a path has measured.

    Args:
        answer: loss, accuracy, test_loss, test_accuracy, those that there are, over `along` and any further dimensions.
        along: The dimension of the path, from 0 at one end to 1 at the other.

    Returns:
        The answer with `barrier` over (..., metric, definition) and `peak` over (..., metric), the place of the highest
        value, for the metrics loss, error, test_loss and test_error (errors are shares of the examples).

    Raises:
        ValueError: If nothing was measured along the path.
    """
    measured = _measured(answer, along)
    if not measured:
        raise ValueError(f"there is no loss and no accuracy over {along!r} in this answer; measure the path first.")
    alphas, names = answer[along], list(DEFINITIONS)

    def all_of(values: Values) -> Values:
        found = barriers(alphas.values, values)
        return np.array([found[name] for name in names])

    heights = xr.concat(list(measured.values()), dim="metric", coords="minimal", compat="override")
    heights = heights.assign_coords(metric=list(measured))
    settings: Any = {"input_core_dims": [[along]], "vectorize": True}
    found = xr.apply_ufunc(all_of, heights, output_core_dims=[["definition"]], **settings)
    places = xr.apply_ufunc(lambda values: peak(alphas.values, values), heights, **settings)
    order = [dim for dim in found.dims if dim not in ("metric", "definition")]
    answer = answer.assign_coords(metric=list(measured), definition=names)
    answer["barrier"] = found.transpose(*order, "metric", "definition").drop_vars([*found.coords], errors="ignore")
    answer["peak"] = places.transpose(*order, "metric").drop_vars([*places.coords], errors="ignore")
    answer["barrier"].attrs = {"long_name": "barrier", "units": "nats for losses, share of examples for errors"}
    answer["peak"].attrs = {"long_name": f"{along} of the highest value", "units": "1"}
    return answer.assign_attrs(barrier_default=DEFAULT)


def _measured(answer: xr.Dataset, along: str) -> dict[str, xr.DataArray]:
    """Find losses and errors along a path, without names and coordinates that would stand in each other's way."""
    found = {}
    for metric in _METRICS:
        source = metric.replace("error", "accuracy")
        if source in answer and along in answer[source].dims:
            values = answer[source].drop_vars(list(answer[source].coords)).rename(None)
            found[metric] = values if source == metric else 1 - values
    return found


def _between_the_ends(alphas: ArrayLike, values: ArrayLike) -> tuple[Values, Values]:
    places, heights = np.asarray(alphas, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if places.ndim != 1 or places.shape != heights.shape:
        raise ValueError(f"a path has one value a point, got shapes {places.shape} and {heights.shape}.")
    if not (np.diff(places) > 0).all():
        raise ValueError("the points of a path must be in the order of their alpha, each once; sort them.")
    inside = (places >= 0) & (places <= 1)
    places, heights = places[inside], heights[inside]
    if len(places) < 2 or places[0] != 0 or places[-1] != 1:
        raise ValueError("a barrier needs both ends of the path, alpha = 0 and alpha = 1, among its points; add them.")
    return places, heights
