"""How likely a random symmetric matrix is definite: why critical points of many parameters are saddles."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from landscape.intervals import wilson


@dataclass(frozen=True)
class DefiniteShare:
    """A share of random matrices with its 95% interval.

    Attributes:
        share: Of matrices whose eigenvalues are all above zero.
        low: Lower end of Wilson's interval.
        high: Its upper end.
        independent: What it would be if the signs of eigenvalues were tossed coins, 2^-size.
    """

    share: float
    low: float
    high: float
    independent: float


def definite_share(size: int, samples: int = 100_000, seed: int = 0) -> DefiniteShare:
    """Estimate how many matrices of the Gaussian orthogonal ensemble are positive definite.

    Eigenvalues repel each other, so that these are fewer than tossed coins would give: (2 - sqrt 2) / 4 = 0.1464
    of size 2 instead of 0.25, and of a large size N about exp(-N^2 log(3) / 4) instead of 2^-N.

    Args:
        size: N, rows and columns.
        samples: Matrices that are drawn.
        seed: Of the draws.

    Raises:
        ValueError: If there is no row or no sample.

    References:
        Dean & Majumdar, "Large deviations of extreme eigenvalues of random matrices", PRL 2006; Dauphin et al.,
        "Identifying and attacking the saddle point problem in high-dimensional non-convex optimization", NeurIPS 2014.
    """
    if size < 1 or samples < 1:
        raise ValueError(f"expected a size and a number of samples of at least 1, got {size} and {samples}")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(samples, size, size, generator=generator, dtype=torch.float64)
    definite = int((torch.linalg.cholesky_ex(drawn + drawn.mT).info == 0).sum())
    return DefiniteShare(definite / samples, *wilson(definite, samples), 2.0**-size)
