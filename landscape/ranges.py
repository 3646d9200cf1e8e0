"""How far a slice should reach: to where the loss has risen by a stated factor."""

from __future__ import annotations

from collections.abc import Callable

START = 0.1  # in units of the direction
_LARGEST = 2.0**12
_STEPS = 7  # halvings of the bracket, which is a factor of two wide: the radius is right to 1%


def radius_of_rise(loss: Callable[[float], float], wanted: float) -> float:
    """Find the radius at which the loss first reaches a value, by doubling and halving.

    Args:
        loss: The larger of the losses at +r and -r, for a radius r. A value that is not finite counts as risen.
        wanted: The value to reach.

    Returns:
        A radius r with loss(r) >= wanted that is at most 1% above one where it is lower. Where the loss rises and falls
        between the radii that are tried (a factor of two apart), a smaller one may exist.

    Raises:
        ValueError: If the loss stays below `wanted` up to a radius of 3277, or has reached it at one of 2e-5 already.
    """
    low, high = 0.0, START
    while not _has_risen(loss(high), wanted):
        low, high = high, 2 * high
        if high > _LARGEST:
            raise ValueError(
                f"the loss stays below {wanted:.4g} up to a radius of {low:.4g}, so no automatic range can be found; "
                "give radius as a number, or lower rise."
            )
    if low == 0.0:  # risen at once: go inwards
        while _has_risen(loss(high / 2), wanted):
            high /= 2
            if high < START / _LARGEST:
                raise ValueError(
                    f"the loss has risen above {wanted:.4g} at a radius of {high:.4g} already, so no automatic range "
                    "can be found; give radius as a number, or raise rise."
                )
        low = high / 2
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if _has_risen(loss(middle), wanted) else (middle, high)
    return high


def _has_risen(value: float, wanted: float) -> bool:
    return not value < wanted  # NaN is never below
