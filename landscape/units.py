"""Units of a layer that are copies of one another."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

TOLERANCE = 1e-5
"""Two units count as one if their weights differ by less than this share of the largest norm of a unit."""


def unit_rows(
    named: Mapping[str, Tensor], axes: Mapping[str, int] | None = None, *, biases: bool = True
) -> dict[str, Tensor]:
    """Write each weight of two or more axes as a matrix (units, weights).

    Args:
        named: Parameters by name; the bias of "conv.weight" is "conv.bias".
        axes: The axis of the units, where it is not the first.
        biases: Whether the unit's bias is its last column, where it has one.
    """
    found = {}
    for name, weight in named.items():
        if weight.ndim < 2:
            continue
        rows = weight.movedim((axes or {}).get(name, 0), 0).flatten(1)
        bias = named.get(f"{name.removesuffix('weight')}bias")
        fits = biases and name.endswith("weight") and bias is not None and bias.shape == (len(rows),)
        found[name] = torch.cat([rows, bias[:, None]], 1) if fits and bias is not None else rows
    return found


def distinct_units(rows: Tensor, tol: float = TOLERANCE) -> int:
    """Count the rows (units, weights) that are no copy of an earlier one."""
    close = tol * rows.norm(dim=1).max()
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    return int((~(distances <= close).tril(-1).any(1)).sum())
