"""How heavy the tails of a distribution are: the index of stable noise, Hill's estimate, kurtosis, and a Gaussian null.

Noise comes as (draws, coordinates): independent draws, symmetric about zero, in each coordinate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_HILL_SHARE = 0.1


def inverse_stable_index(noise: Floats, pooled: bool = False) -> float:
    """Estimate 1/alpha, for the index alpha of symmetric alpha-stable noise: 1/2 for Gaussian tails, 1 for Cauchy's.

    Sums of K1 draws are K1^(1/alpha) times as wide as one draw: 1/alpha = (mean log |sums| - mean log |draws|) /
    log K1, with K1 the root of the number of draws, rounded down. The mean is over draws and coordinates.

    Args:
        noise: (draws, coordinates), none of it exactly zero.
        pooled: Throw the coordinates together, as the published code does. The sums then mix coordinates of different
            widths, and exactly Gaussian noise looks heavy-tailed (1.55 for log-widths of deviation 1); by coordinate it
            does not.

    Raises:
        ValueError: If there are fewer than 4 draws.

    References:
        Mohammadi, Mohammadpour and Ogata, "On estimating the tail index and the spectral measure of multivariate
        alpha-stable distributions", Metrika 2015, corollary 2.4.
    """
    values = noise.reshape(-1, 1) if pooled else noise
    block = int(np.sqrt(len(values)))
    if block < 2:
        raise ValueError(f"a tail index needs at least 4 draws, got {len(values)}.")
    count = block * (len(values) // block)
    sums = values[:count].reshape(-1, block, values.shape[1]).sum(1)
    return float((_mean_log(sums) - _mean_log(values[:count])) / np.log(block))


def stable_index(noise: Floats, pooled: bool = False) -> float:
    """Estimate the index alpha itself; infinite where sums are no wider than draws, as by chance among few of them."""
    inverse = inverse_stable_index(noise, pooled)
    return 1 / inverse if inverse > 0 else np.inf


def gaussian_indices(noise: Floats, number: int, rng: np.random.Generator, pooled: bool = False) -> tuple[float, float]:
    """Index of Gaussian noise with all second moments of the noise, and its standard deviation over so many copies.

    Both are carried over from 1/alpha, which is finite.
    """
    inverse = [inverse_stable_index(gaussian_like(noise, rng), pooled) for _ in range(number)]
    mean = float(np.mean(inverse))
    return 1 / mean, float(np.std(inverse, ddof=1)) / mean**2


def hill_index(noise: Floats, share: float = _HILL_SHARE) -> float:
    """Hill's estimate from the largest tenth of the magnitudes of each coordinate, scaled by its own deviation.

    Larger is lighter: Gaussian noise gives about 5 here, not infinity, since a tenth of the draws is not yet tail.
    """
    scaled = np.abs(noise) / np.sqrt((noise**2).mean(0))
    ordered = np.sort(scaled, axis=None)[::-1]
    kept = max(2, int(share * ordered.size))
    return float(1 / np.log(ordered[: kept - 1] / ordered[kept - 1]).mean())


def excess_kurtosis(noise: Floats) -> float:
    """Mean over coordinates of the fourth moment over the squared second, less 3n / (n + 2), that of Gaussian noise."""
    draws = len(noise)
    ratio = (noise**4).mean(0) / (noise**2).mean(0) ** 2
    return float(ratio.mean() - 3 * draws / (draws + 2))


def gaussian_like(noise: Floats, rng: np.random.Generator) -> Floats:
    """Draw Gaussian noise with all second moments of the noise, the null model of every estimate here.

    Each draw is a Gaussian combination of all draws, so that coordinates are as correlated as they are in the noise: an
    estimate over thousands of correlated coordinates is no surer than one over the few that they amount to.
    """
    draws = len(noise)
    return rng.standard_normal((draws, draws)) @ noise / np.sqrt(draws)


def _mean_log(values: Floats) -> float:
    magnitudes = np.abs(values)
    return float(np.log(magnitudes[magnitudes > 0]).mean())
