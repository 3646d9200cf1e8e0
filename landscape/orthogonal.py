"""Vectors made orthogonal to a basis, so well that rounding leaves nothing."""

from __future__ import annotations

import torch
from torch import Tensor


def orthogonalize(vectors: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract the projection on a basis, twice: what one pass leaves by rounding, the second takes out.

    Args:
        vectors: (P,) one vector, or (P, K) columns.
        basis: (m, P) orthonormal rows; none are allowed.

    Returns:
        The rest, of the shape of `vectors`, and the coordinates (m,) or (m, K) in the basis, in float64 on the CPU.

    References:
        Giraud, Langou and Rozloznik, "The loss of orthogonality in the Gram-Schmidt orthogonalization process",
        Computers & Mathematics with Applications 50 (2005): twice is enough.
    """
    coordinates = torch.zeros(len(basis), *vectors.shape[1:], dtype=torch.float64)
    for _ in range(2 if len(basis) else 0):
        part = basis @ vectors
        vectors = vectors - basis.T @ part
        coordinates += part.double().cpu()
    return vectors, coordinates
