"""The mean rise of the loss under Gaussian noise on the parameters."""

from __future__ import annotations

from math import isfinite, nan

import numpy as np
from torch import Tensor

from landscape.directions import gaussian
from landscape.intervals import CONFIDENCE, mean_and_error, student_factor
from landscape.objective import Objective
from landscape.sharpness.point import Measured, Point, require_count, require_positive
from landscape.sharpness.scales import REPARAMETRIZATION, in_sizes, sizes


def average_case(
    objective: Objective,
    sigma: float = 0.01,
    draws: int = 20,
    seed: int = 0,
    scale: str = "none",
    *,
    point: Point | None = None,
) -> Measured:
    """Mean rise of the loss under Gaussian noise, E L(theta + sigma T xi) - L(theta) with xi standard normal.

    Each draw is used with both signs, which leaves its mean as it is and cancels the gradient and every other odd
    term, so that the first-order share is 0 and the spread that of the curvature alone. To second order the value
    is sigma^2 tr(T H T) / 2.

    Args:
        objective: Where.
        sigma: Standard deviation of the noise, in units of the parameters, or of their sizes under a scale.
        draws: Pairs of points, at least 2; the standard error and Student's t interval are over the pairs.
        seed: Of the draws.
        scale: T: ``none``, ``element`` (|theta_i|) or ``filter`` (norm of each filter, see `sizes`).
        point: The point, where it has been evaluated before.

    Raises:
        ValueError: If sigma is not positive, there are fewer than 2 draws, or the scale is unknown.

    References:
        Andriushchenko et al., "A Modern Look at the Relationship between Sharpness and Generalization", ICML 2023,
        eq. 1 and 2 (average-case, standard and adaptive); logits are not normalized here.
    """
    require_positive(sigma=sigma)
    require_count(2, draws=draws)
    T, before = sizes(objective, scale), objective.num_passes
    point = point or Point.of(objective)
    seen = point.nonfinite
    rises = paired_rises(point, sigma * T, draws, seed)
    value, error, half = mean_with_interval(rises)
    return Measured(
        value=value,
        definition=f"E L(theta + sigma {in_sizes('xi', scale)}) - L(theta), xi standard normal, "
        f"sigma = {sigma:g}, {draws} draws with both signs",
        scale=f"in the unit of the loss and in proportion to it; {REPARAMETRIZATION[scale]}",
        standard_error=error,
        low=value - half,
        high=value + half,
        bounds=f"{CONFIDENCE:.0%} Student t interval over {draws} draws",
        rise=value,
        first_order_share=0.0 if isfinite(value) else nan,
        nonfinite=point.nonfinite - seen,
        num_passes=objective.num_passes - before,
        resolved=not abs(value) <= point.resolution,
    )


def paired_rises(point: Point, deviation: Tensor, draws: int, seed: int) -> np.ndarray:
    """(draws,) the rise under each draw of noise, averaged over its two signs.

    Args:
        point: Where.
        deviation: (P,) standard deviation of the noise of each entry.
        draws: How many.
        seed: The same seed gives the same directions whatever their deviation (common random numbers).
    """
    rises = []
    for draw in range(draws):
        step = deviation * gaussian(len(deviation), seed, draw).to(deviation)
        rises.append((point.rise(step) + point.rise(-step)) / 2)
    return np.array(rises)


def mean_with_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, its standard error, and half the width of Student's t interval; NaN where a value is not finite."""
    if not np.isfinite(values).all():
        return nan if np.isnan(values).any() else float(values.mean()), nan, nan
    value, error = map(float, mean_and_error(values))
    return value, error, student_factor(len(values)) * error
