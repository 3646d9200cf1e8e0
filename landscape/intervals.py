"""The mean of independent samples with its standard error and Student's interval, and the interval of a share."""

from __future__ import annotations

import math
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
