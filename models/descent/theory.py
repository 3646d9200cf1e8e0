"""Exact and asymptotic risks of linear least squares on Gaussian data, which measured curves are held against."""

from __future__ import annotations

import math


def least_squares_risk(n: int, p: int, d: int, signal: float, noise: float) -> float:
    """Expected squared error on a new label, of the minimum-norm fit to `p` random ones of `d` Gaussian features.

    Labels are y = <x, beta> + e with x from N(0, I_d) and e from N(0, noise); the fit sees p coordinates, drawn
    uniformly without replacement, of n examples. The expectation is over examples, noise and the choice:

    - p <= n - 2: ((1 - p/d) signal + noise) (1 + p/(n - p - 1))
    - n - 1 <= p <= n + 1: infinite (unless the bracket is zero, where the fit is exact)
    - p >= n + 2: signal (1 - n/p) p/d + ((1 - p/d) signal + noise) (1 + n/(p - n - 1))

    Args:
        n: Examples.
        p: Features that are fitted, from 1 to d.
        d: Features that there are.
        signal: |beta|^2.
        noise: Variance of e.

    References:
        Belkin, Hsu & Xu, "Two models of double descent for weak features", SIAM J. Math. Data Sci. 2020, theorem 1 and
        corollary 1, equation 2.

    >>> least_squares_risk(n=40, p=20, d=100, signal=1.0, noise=0.0) == 0.8 * (1 + 20 / 19)
    True
    """
    unexplained = (1 - p / d) * signal + noise
    if p <= n - 2:
        return unexplained * (1 + p / (n - p - 1))
    lost = signal * max(1 - n / p, 0.0) * p / d
    if unexplained == 0:
        return lost
    return lost + unexplained * (1 + n / (p - n - 1)) if p >= n + 2 else math.inf


def ridge_risk(n: int, p: int, d: int, signal: float, noise: float, penalty: float) -> float:
    """Limit of the same error, with `penalty` |b|^2 added to the sum of squares, as n, p and d grow in proportion.

    With g = p/n, t = penalty/n and s^2 = (1 - p/d) signal + noise, what the fit cannot explain, the error is
    s^2 + (p/d) signal t^2 m'(-t) + s^2 g (m(-t) - t m'(-t)), where m is the Stieltjes transform of the
    Marchenko-Pastur law. It is off by O(1/n) and, without penalty near p = n, by more.

    Args:
        n: Examples.
        p: Features that are fitted.
        d: Features that there are.
        signal: |beta|^2.
        noise: Variance of the labels about <x, beta>.
        penalty: Above 0.

    References:
        Hastie, Montanari, Rosset & Tibshirani, "Surprises in high-dimensional ridgeless least squares interpolation",
        Annals of Statistics 2022, on ridge with isotropic features; Dobriban & Wager, "High-dimensional asymptotics
        of prediction", Annals of Statistics 2018, theorem 2.1.
    """
    ratio, t = p / n, penalty / n
    unexplained = (1 - p / d) * signal + noise
    a = 1 - ratio + t
    root = math.sqrt(a**2 + 4 * ratio * t)
    m = (root - a) / (2 * ratio * t)  # m(-t), the positive root of ratio t m^2 + (1 - ratio + t) m - 1
    slope = (ratio * m**2 + m) / root  # dm/dz at z = -t, by differentiating that equation
    return unexplained * (1 + ratio * (m - t * slope)) + p / d * signal * t**2 * slope


def best_penalty(p: int, d: int, signal: float, noise: float) -> float:
    """The penalty of least risk where beta has no preferred direction: p times what is unexplained over what is fitted.

    References:
        Hastie et al., cited above, on optimal ridge: t = s^2 g / r^2, with r^2 = (p/d) signal.
    """
    unexplained = (1 - p / d) * signal + noise
    return p * unexplained / (p / d * signal)
