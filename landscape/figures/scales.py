"""When an axis is logarithmic, where its ticks and contour levels stand, and how its numbers read."""

from __future__ import annotations

from math import floor, log10

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

# Round mantissas, finest first; after the last, every 2nd, 3rd, ... decade.
_MANTISSAS = ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def finite(values: ArrayLike) -> NDArray[np.float64]:
    """The finite entries, flat."""
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[np.isfinite(array)]


def is_wide(values: ArrayLike, factor: float = 10.0) -> bool:
    """Whether finite values are all positive and spread over more than `factor`, so that a log axis shows more."""
    numbers = finite(values)
    return bool(numbers.size) and numbers.min() > 0 and numbers.max() / numbers.min() > factor


def log_levels(low: float, high: float, most: int) -> NDArray[np.float64]:
    """Round numbers evenly spread in the logarithm: the finest series of at most `most` that covers [low, high]."""
    decades = range(floor(log10(low)) - 1, floor(log10(high)) + 3)
    series = [np.array([m * 10.0**d for d in decades for m in mantissas]) for mantissas in _MANTISSAS]
    series += [10.0 ** np.arange(step * (decades.start // step), decades.stop + step, step) for step in range(2, 60)]
    for levels in series:
        covering = levels[np.searchsorted(levels, low, "right") - 1 : np.searchsorted(levels, high, "left") + 1]
        if len(covering) <= most:
            return covering
    return np.array([low, high])


def linear_levels(low: float, high: float, most: int) -> NDArray[np.float64]:
    """Round numbers evenly spread that cover [low, high]."""
    return np.asarray(round_ticks(most - 1).tick_values(low, high), dtype=np.float64)


def round_ticks(most: int = 6, integer: bool = False) -> MaxNLocator:
    """Few round ticks chosen by the values alone; by the size of the axes, the layout they decide would decide them."""
    return MaxNLocator(most, integer=integer, steps=[1, 2, 5, 10] if integer else [1, 2, 2.5, 5, 10])


def number(value: float, _position: object = None) -> str:
    """A number for a tick or a label: 0.05, 3, 1,000, 10⁵, 2×10⁻⁷."""
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:,.4g}".replace("-", "−")
    exponent = floor(log10(abs(value)) + 1e-9)
    power = f"10{str(exponent).translate(_SUPERSCRIPTS)}"
    mantissa = f"{value / 10.0**exponent:.3g}".replace("-", "−")
    return {"1": power, "−1": f"−{power}"}.get(mantissa, f"{mantissa}×{power}")


def log_y(ax: Axes, values: ArrayLike, most: int = 6) -> None:
    """Make the y axis logarithmic over the finite values, with few round ticks (never none)."""
    low, high = _with_margins(values)
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    _place_ticks(ax.yaxis, log_ticks(low, high, most))


def log_x(ax: Axes, values: ArrayLike, most: int = 6) -> None:
    """Make the x axis logarithmic over the finite values, with few round ticks (never none)."""
    low, high = _with_margins(values)
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    _place_ticks(ax.xaxis, log_ticks(low, high, most))


def log_ticks(low: float, high: float, most: int) -> NDArray[np.float64]:
    """Round numbers in [low, high], evenly spread in the logarithm."""
    ticks = log_levels(low, high, most + 2)
    return ticks[(ticks >= low) & (ticks <= high)]


def _with_margins(values: ArrayLike) -> tuple[float, float]:
    numbers = finite(values)
    ratio = (numbers.max() / numbers.min()) ** 0.04
    return numbers.min() / ratio, numbers.max() * ratio


def symlog_y(ax: Axes, values: ArrayLike, errors: ArrayLike = 0.0, most: int = 8) -> None:
    """Make the y axis linear around zero and logarithmic beyond what stands out of the errors; bars fit in it."""
    numbers, bars = np.broadcast_arrays(np.asarray(values, dtype=float), np.asarray(errors, dtype=float))
    smallest = np.abs(numbers[numbers != 0]).min()
    threshold = 10.0 ** floor(log10(max(smallest, bars.min())))
    low, high = min((numbers - bars).min(), 0.0), max((numbers + bars).max(), 0.0)
    ax.set_yscale("symlog", linthresh=threshold, linscale=0.5)
    ax.set_ylim(2 * low or -0.5 * threshold, 2 * high or 0.5 * threshold)
    up, down = (1 + floor(log10(max(2 * end / threshold, 0.1))) for end in (high, -low))
    step = -(-(up + down) // most)
    above, below = (threshold * 10.0 ** np.arange(0, decades, step) for decades in (up, down))
    _place_ticks(ax.yaxis, np.array([*(-below[::-1]), 0.0, *above]))


def _place_ticks(axis: Axis, ticks: NDArray[np.float64]) -> None:
    axis.set_major_locator(FixedLocator(ticks.tolist()))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(number))
