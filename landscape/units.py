"""Units of a layer that are copies of one another."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = 1e-5
"""Two units count as one if their weights differ by less than this share of the largest norm of a unit."""


def distinct_units(rows: Tensor, tol: float = TOLERANCE) -> int:
    """Count the rows (units, weights) that are no copy of an earlier one."""
    close = tol * rows.norm(dim=1).max()
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    return int((~(distances <= close).tril(-1).any(1)).sum())
