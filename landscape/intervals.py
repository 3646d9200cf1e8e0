"""The mean of independent samples with its standard error and Student's interval, and the interval of a share."""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95


def mean_and_error(samples: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean over the first axis, and its standard error: the sample deviation over the root of their number.

    Args:
        samples: (n, ...) independent samples, n >= 1.

    Returns:
        Both (...) in float64; the error of a single sample is NaN.

    >>> mean, error = mean_and_error([1.0, 2.0, 3.0])
    >>> float(mean), float(error) == 1 / 3**0.5
    (2.0, True)
    """
    values = np.asarray(samples, dtype=np.float64)
    mean = np.asarray(values.mean(axis=0))
    if len(values) < 2:
        return mean, np.full_like(mean, np.nan)
    return mean, np.asarray(values.std(axis=0, ddof=1)) / np.sqrt(len(values))


def student_factor(count: float, confidence: float = CONFIDENCE) -> float:
    """How many standard errors of a mean of `count` samples make half of its interval by Student's t.

    >>> round(student_factor(20), 3), round(student_factor(10**6), 3)
    (2.093, 1.96)
    """
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, count - 1))


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95% score interval of a share (Wilson 1927).

    >>> [round(end, 4) for end in wilson(9, 10)]
    [0.5958, 0.9821]
    """
    z = NormalDist().inv_cdf(0.975)
    share, weight = successes / trials, z**2 / trials
    center = (share + weight / 2) / (1 + weight)
    reach = math.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
    return max(center - reach, 0.0), min(center + reach, 1.0)


def median_interval(samples: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Median over the first axis, and the interval of its order statistics, whatever the distribution.

    The ends are the k-th smallest and the k-th largest sample, with the largest k that still covers the median in 95%
    of cases, by the binomial distribution. Fewer than six samples cannot: the ends are then the least and the largest,
    and `median_coverage` says how much that covers.

    Args:
        samples: (n, ...) independent samples, n >= 1; NaN wherever any sample is NaN.

    Returns:
        Median, lower and upper end, each (...).

    >>> [float(value) for value in median_interval(range(1, 21))]
    [10.5, 6.0, 15.0]
    """
    values = np.sort(np.asarray(samples, dtype=np.float64), axis=0)
    rank = _median_rank(len(values))
    is_known = np.isfinite(values[-1]) | np.isinf(values[-1])  # NaN is sorted last
    low, high = values[rank], values[len(values) - 1 - rank]
    median = (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2
    return tuple(np.where(is_known, each, np.nan) for each in (median, low, high))  # type: ignore[return-value]


def median_coverage(count: int) -> float:
    """Share of cases in which `median_interval` of so many samples holds the median of a continuous distribution.

    >>> median_coverage(8), median_coverage(3)
    (0.9921875, 0.75)
    """
    return 1 - 2 * _below(count, _median_rank(count))


@cache
def _median_rank(count: int) -> int:
    """How many samples lie outside at each end."""
    rank = 0
    while 2 * (rank + 1) < count and 1 - 2 * _below(count, rank + 1) >= CONFIDENCE:
        rank += 1
    return rank


def _below(count: int, rank: int) -> float:
    """Probability that at most `rank` of so many samples lie below the median."""
    return sum(math.comb(count, k) for k in range(rank + 1)) / 2**count
