"""How many eigenvalues are negative, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from landscape.eigen import Eigenpairs


class Counter(Protocol):
    """What is needed of a spectral density."""

    def count(self, low: float, high: float) -> tuple[float, float, tuple[float, float]]:
        """Estimate how many eigenvalues lie in an interval, with standard error and confidence interval."""


@dataclass(frozen=True)
class Index:
    """The number of eigenvalues below -tau.

    Attributes:
        certified: So many there are at least: on a space of that dimension the quadratic form stays below -tau.
        estimate: How many there are, as far as is known.
        interval: What the estimate can be trusted to; never below what is certified.
        counted_by: ``every eigenvalue``; ``ends``, where the eigenpairs found are with probability 99% all that
            lie below -tau; or ``density``.
    """

    certified: int
    estimate: float
    interval: tuple[float, float]
    counted_by: str


def certified_below(values: Tensor, residuals: Tensor, bound: float) -> int:
    """Count eigenvalues that lie below a bound for certain, from orthonormal Ritz vectors.

    On the span of the vectors V of the m smallest values, x^T H x <= (max value + ||H V - V diag(values)||_F) x^T x.
    Where that stays below the bound, at least m eigenvalues do (Courant and Fischer).

    Args:
        values: (k,) Rayleigh quotients, in any order.
        residuals: (k,) ||H v - value v||.
        bound: What they are to lie below.
    """
    order = values.argsort()
    worst = values[order] + (residuals[order] ** 2).cumsum(0).sqrt()
    return int((worst < bound).sum())


def index_of(pairs: Eigenpairs, size: int, tau: float, density: Counter | None = None) -> Index | None:
    """Count the eigenvalues below -tau.

    Args:
        pairs: Those of the smallest end, or all P of them.
        size: P.
        tau: What counts as zero, at least the error of the products.
        density: Of the same operator, for what lies beyond the pairs.

    Returns:
        The count; None where the pairs do not tell and no density is given.
    """
    values, residuals = pairs.values, pairs.residuals
    certified = certified_below(values, residuals, -tau)
    possible = int((values - residuals < -tau).sum())
    if len(values) == size:
        return Index(certified, int((values < -tau).sum()), (certified, possible), "every eigenvalue")
    # They have converged and, with probability 99%, no other lies below -tau.
    if bool(pairs.converged.all()) and pairs.none_below >= -tau:
        return Index(certified, int((values < -tau).sum()), (certified, possible), "ends")
    if density is None:
        return None
    estimate, _, (low, high) = density.count(-math.inf, -tau)
    low, high = (min(max(bound, certified), size) for bound in (low, high))
    return Index(certified, min(max(estimate, low), high), (low, high), "density")


def smallest(pairs: Eigenpairs, k: int) -> Eigenpairs:
    """Keep the k algebraically smallest pairs."""
    return replace(
        pairs,
        values=pairs.values[-k:],
        vectors=pairs.vectors[:, -k:],
        residuals=pairs.residuals[-k:],
        converged=pairs.converged[-k:],
    )
