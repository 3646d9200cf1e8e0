"""The size of each parameter, by which adaptive measures scale their steps."""

from __future__ import annotations

import torch
from torch import Tensor

from landscape.objective import Objective

SCALES = ("none", "element", "filter")
_SIZE = {"none": "", "element": "|theta|", "filter": "||filter||"}
REPARAMETRIZATION = {
    "none": "changes when a layer is rescaled and the next one divided by as much (Dinh et al. 2017)",
    "element": "does not change when a layer, or one unit, is rescaled and what follows divided by as much",
    "filter": "does not change when a whole layer is rescaled and the next one divided by as much",
}


def in_sizes(noise: str, scale: str) -> str:
    """Write T noise in words.

    >>> in_sizes("xi", "none"), in_sizes("xi", "element")
    ('xi', '|theta| xi')
    """
    return f"{_SIZE[scale]} {noise}".strip()


def by_sizes(step: str, scale: str) -> str:
    """Write T^-1 step in words.

    >>> by_sizes("e", "none"), by_sizes("e", "filter")
    ('e', 'e / ||filter||')
    """
    return f"{step} / {_SIZE[scale]}" if _SIZE[scale] else step


def sizes(objective: Objective, scale: str) -> Tensor:
    """The diagonal (P,) of T in float64: 1, |theta_i|, or the norm of the filter that the entry belongs to.

    Entries of parameters with fewer than two axes (biases, normalization scales) have no filter and count by
    themselves. An entry or a filter that is zero has size zero and is not moved.

    Raises:
        ValueError: If the scale is unknown, or every size is zero.
    """
    theta = objective.theta.double()
    if scale == "none":
        return torch.ones_like(theta)
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}.")
    found = theta.abs() if scale == "element" else _filter_norms(theta, objective.layout.filter_index())
    if not found.any():
        raise ValueError("every parameter is zero, so an adaptive step has no size; use one that is not adaptive.")
    return found


def _filter_norms(theta: Tensor, index: Tensor) -> Tensor:
    # Sums by group are not deterministic on a GPU, and a resumed measure needs the same bits: add on the CPU.
    values = theta.cpu()
    inside = index >= 0
    totals = torch.zeros(int(index.max()) + 2, dtype=values.dtype)
    totals.index_add_(0, index[inside], values[inside].square())
    return torch.where(inside, totals[index].sqrt(), values.abs()).to(theta.device)
