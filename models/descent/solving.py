"""Least squares by singular values: the minimum-norm fit and its ridge path, for many problems at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Solved:
    """Fits of one problem a seed.

    Attributes:
        weights: (seeds, penalties, features, outputs); penalty 0 is the fit of least norm among those of least squares.
        rank: (seeds,) numerical rank of the features.
    """

    weights: Tensor
    rank: Tensor


def solve(features: Tensor, targets: Tensor, penalties: tuple[float, ...] = (0.0,)) -> Solved:
    """Minimize |features w - targets|^2 + penalty |w|^2 for every penalty, by one decomposition.

    Without penalty, singular values below max(n, m) eps times the largest count as zero: what rounding alone makes of a
    zero. (A coarser cut-off, such as that of a least-squares solver in single precision, would regularize, and hide
    the peak at m = n; the normal equations would square the condition number.)

    Args:
        features: (seeds, n, m) in float64.
        targets: (seeds, n, outputs) in float64.
        penalties: Each at least 0.
    """
    u, s, vt = torch.linalg.svd(features, full_matrices=False)
    tolerance = s[:, :1] * max(features.shape[1:]) * torch.finfo(s.dtype).eps
    is_kept = s > tolerance
    projected = u.mT @ targets
    weights = []
    for penalty in penalties:
        filtered = torch.where(is_kept, s / (s**2 + penalty).where(is_kept, torch.ones_like(s)), torch.zeros_like(s))
        weights.append(vt.mT @ (filtered[..., None] * projected))
    return Solved(torch.stack(weights, 1), is_kept.sum(1))
