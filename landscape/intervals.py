"""The mean of independent samples, its standard error, and how far Student's t interval reaches."""

from __future__ import annotations

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
