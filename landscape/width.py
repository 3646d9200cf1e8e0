"""The width of a minimum: how far a slice can be followed before the loss has risen by a stated amount."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, inf, log, log10

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from landscape.intervals import mean_and_error

RISE = log(2.0)  # nats: the geometric mean of the probability given to the right class has halved


@dataclass(frozen=True)
class Width:
    """The width of a minimum along several directions, in multiples of the direction (units of alpha)."""

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
    """The length of the interval around alpha = 0 in which the loss has risen by less than `rise`.

    Along each direction, L(alpha) is the piecewise linear function through the points of the slice and through the
    checkpoint's own loss L(0). The interval reaches to either side until L first equals L(0) + rise; it ends
    at the last finite point where the next one is not finite, and at the end of the slice where the loss stays below
    (then the width is a lower bound and is counted as censored). Along a filter-normalized direction this is the
    "filter-normalized width", which does not change when a layer is rescaled and the next one divided by as much.

    Args:
        answer: The answer of the probe Slice: dims (alpha,) or (seed, alpha), with `center_<metric>` or a point at 0.
        rise: How much the loss may rise, in its own units. The default, log 2, is where the geometric mean of the
            probability that the model gives to the right class has halved (for a cross-entropy in nats).
        metric: The variable that is followed.

    Returns:
        The mean over directions with its standard error, smallest and largest, and how many were censored.

    Raises:
        ValueError: If `rise` is not positive, or the loss of the checkpoint is missing or not finite.

    References:
        The region around a minimum in which the loss rises by less than a stated amount: Hochreiter & Schmidhuber,
        "Flat Minima", Neural Computation 1997, section 2. Filter-normalized directions: Li et al., "Visualizing
        the Loss Landscape of Neural Nets", NeurIPS 2018, section 4.
    """
    if not 0 < rise < inf:
        raise ValueError(f"expected a positive, finite rise of the loss; got {rise}")
    alpha = np.asarray(answer["alpha"].values, dtype=np.float64)
    losses = np.atleast_2d(answer[metric].transpose(..., "alpha").values).astype(np.float64)
    sides = [
        _reach(*_half(alpha, loss, side, _center(answer, metric, row)), rise)
        for row, loss in enumerate(losses)
        for side in (1, -1)
    ]
    widths = np.array([right[0] + left[0] for right, left in zip(sides[::2], sides[1::2], strict=True)])
    censored = sum(right[1] or left[1] for right, left in zip(sides[::2], sides[1::2], strict=True))
    mean, error = map(float, mean_and_error(widths))
    return Width(mean, error, float(widths.min()), float(widths.max()), len(widths), censored, rise)


def _center(answer: xr.Dataset, metric: str, row: int) -> float:
    """The loss of the checkpoint."""
    if f"center_{metric}" in answer:
        values = np.atleast_1d(answer[f"center_{metric}"].values)
        value = float(values[row % len(values)])
    else:
        at_zero = np.abs(answer["alpha"].values) <= 1e-12 * np.abs(answer["alpha"].values).max()
        if not at_zero.any():
            raise ValueError(f"the slice has neither 'center_{metric}' nor a point at alpha = 0; use an odd resolution")
        value = float(np.atleast_2d(answer[metric].transpose(..., "alpha").values)[row, at_zero][0])
    if not np.isfinite(value):
        raise ValueError(f"the width needs a finite {metric} at the checkpoint; got {value}")
    return value


def _half(
    alpha: NDArray[np.float64], loss: NDArray[np.float64], side: int, center: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances from the checkpoint outwards and the rise of the loss at them, the checkpoint (0, 0) first."""
    order = np.argsort(side * alpha)
    distance, rises = side * alpha[order], loss[order] - center
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
