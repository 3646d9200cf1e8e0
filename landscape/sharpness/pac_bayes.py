"""How much Gaussian noise the parameters bear before the loss has risen by a stated amount."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, inf, isfinite, log, nan
from typing import Any

import numpy as np

from landscape.intervals import CONFIDENCE, student_factor
from landscape.objective import Objective
from landscape.sharpness.average import mean_with_interval, paired_rises
from landscape.sharpness.point import Measured, Point, require_count, require_positive
from landscape.sharpness.scales import REPARAMETRIZATION, in_sizes, sizes

_FACTOR = 2.0  # between the deviations at which the crossing is looked for
_MOST = 60  # such steps, in either direction
_TOLERANCE = 1e-3  # of log sigma, to which the crossing is found
_FAR = 20.0  # of log(rise / target): a rise that is negative, or not finite, counts as so far below, or above
_SLOPE_STEP = 0.1  # of log sigma, over which the slope of the rise is taken


def pac_bayes(
    objective: Objective,
    target: float = 0.1,
    draws: int = 20,
    seed: int = 0,
    scale: str = "none",
    *,
    point: Point | None = None,
) -> Measured:
    """PAC-Bayes flatness 1 / sigma^2: sigma is the noise under which the mean loss rises by `target`.

    sigma is where E L(theta + sigma T xi) - L(theta) first exceeds the target, as sigma is doubled from small values
    and then narrowed down; where the rise grows with sigma it is the largest deviation that keeps to the target. The
    same draws, each with both signs, serve every sigma, so that the rise is a smooth function of it. The error is that
    of the rise over the draws, divided by the rise's slope. To second order 1 / sigma^2 is tr(T H T) / (2 target). The
    published measure lets the training error rise by 0.1; here it is the loss.

    Args:
        objective: Where.
        target: By how much the loss may rise, in its own unit.
        draws: Pairs of points, at least 2.
        seed: Of the draws.
        scale: T: ``none``; ``element`` (|theta_i|, magnitude-aware) or ``filter`` (see `sizes`).
        point: The point, where it has been evaluated before.

    Returns:
        1 / sigma^2, inf where no noise at all keeps to the target and 0 where any does.

    Raises:
        ValueError: If the target is not positive, there are fewer than 2 draws, or the scale is unknown.

    References:
        Jiang et al., "Fantastic Generalization Measures and Where to Find Them", ICLR 2020, appendix C.4 (PAC-Bayesian
        flatness, and magnitude-aware); Dziugaite et al., "In Search of Robust Measures of Generalization", NeurIPS
            2020.
    """
    from scipy.optimize import brentq

    require_positive(target=target)
    require_count(2, draws=draws)
    T, before = sizes(objective, scale), objective.num_passes
    point = point or Point.of(objective)
    seen, known = point.nonfinite, dict[float, np.ndarray]()

    def rises(log_sigma: float) -> np.ndarray:
        if log_sigma not in known:
            known[log_sigma] = paired_rises(point, exp(log_sigma) * T, draws, seed)
        return known[log_sigma]

    def excess(log_sigma: float) -> float:
        """log(rise / target): negative within the target; NaN and infinity are beyond it."""
        rise = mean_with_interval(rises(log_sigma))[0]
        if not rise < inf:
            return _FAR
        return min(max(log(rise / target), -_FAR), _FAR) if rise > 0 else -_FAR

    typical = (point.theta.double().square().mean().sqrt().item() or 1.0) if scale == "none" else 1.0
    bracket = _bracket(excess, log(1e-2 * typical))
    given: dict[str, Any] = {
        "definition": f"1 / sigma^2 with E L(theta + sigma {in_sizes('xi', scale)}) - L(theta) = {target:g}, "
        f"xi standard normal, {draws} draws with both signs",
        "scale": "1 / sigma^2, sigma "
        + ("in the unit of the parameters; " if scale == "none" else "relative to the parameters; ")
        + REPARAMETRIZATION[scale],
        "bounds": f"{CONFIDENCE:.0%} interval from Student's t of the rise over {draws} draws",
    }
    if bracket is None:
        value = inf if excess(log(1e-2 * typical)) > 0 else 0.0
        return Measured(
            value=value, nonfinite=point.nonfinite - seen, num_passes=objective.num_passes - before, **given
        )
    # As sigma^2 for small sigma, so nearly a line in these logarithms.
    at = float(brentq(excess, *bracket, xtol=_TOLERANCE))
    value, error, low, high = _inverse_square(at, rises, student_factor(draws))
    return Measured(
        value=value,
        standard_error=error,
        low=low,
        high=high,
        rise=mean_with_interval(rises(at))[0],
        first_order_share=0.0,
        nonfinite=point.nonfinite - seen,
        num_passes=objective.num_passes - before,
        resolved=target > point.resolution,
        **given,
    )


def _bracket(excess: Callable[[float], float], start: float) -> tuple[float, float] | None:
    """Two neighbours on the grid of factors of two: within the target, and beyond it."""
    step = log(_FACTOR)
    if excess(start) > 0:
        for number in range(1, _MOST):
            if excess(start - number * step) <= 0:
                return start - number * step, start - (number - 1) * step
        return None
    for number in range(1, _MOST):
        if excess(start + number * step) > 0:
            return start + (number - 1) * step, start + number * step
    return None


def _inverse_square(
    log_sigma: float, rises: Callable[[float], np.ndarray], quantile: float
) -> tuple[float, float, float, float]:
    """1 / sigma^2, its standard error and interval, by the slope of the rise in log sigma."""
    value, (_, error, _) = exp(-2 * log_sigma), mean_with_interval(rises(log_sigma))
    below, above = (mean_with_interval(rises(log_sigma + sign * _SLOPE_STEP))[0] for sign in (-1, 1))
    if not (isfinite(below) and isfinite(above) and above > below and isfinite(error)):
        return value, nan, nan, nan
    of_log_sigma = error / ((above - below) / (2 * _SLOPE_STEP)) + _TOLERANCE
    return (
        value,
        2 * value * of_log_sigma,
        value * exp(-2 * quantile * of_log_sigma),
        value * exp(2 * quantile * of_log_sigma),
    )
