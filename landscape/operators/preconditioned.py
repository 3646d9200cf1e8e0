"""A symmetric matrix in the coordinates of an adaptive optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from landscape.identity import digest
from landscape.operators.base import LinearOperator


class Preconditioned(LinearOperator):
    """P^(-1/2) H P^(-1/2) for a positive diagonal P: symmetric, with the eigenvalues of P^(-1) H.

    An eigenvector u of it stands for the eigenvector P^(-1/2) u of P^(-1) H. With the P of a run's Adam state its
    largest eigenvalue is the preconditioned sharpness (`landscape.optimizer_state`).

    Attributes:
        operator: H.
        diagonal: (P,) float64, the diagonal of P.
    """

    def __init__(self, operator: LinearOperator, diagonal: Tensor):
        """Fix the matrix and the diagonal.

        Args:
            operator: H, symmetric.
            diagonal: (P,) the diagonal of P.

        Raises:
            ValueError: If the diagonal does not have P entries, or one of them is not finite and positive.
        """
        if diagonal.shape != (operator.size,):
            raise ValueError(
                f"expected a diagonal of {operator.size} entries, one a parameter, got shape {tuple(diagonal.shape)}."
            )
        good = diagonal.isfinite() & (diagonal > 0)
        if not good.all():
            bad = int((~good).nonzero()[0])
            raise ValueError(
                f"a preconditioner must be positive and finite, its entry {bad} is {diagonal[bad].item()}; Adam's is "
                "sqrt(v) + eps with eps > 0."
            )
        self.operator = operator
        self.size, self.device, self.dtype = operator.size, operator.device, operator.dtype
        self.diagonal = diagonal.to(operator.device, torch.float64)
        self._scale = self.diagonal.rsqrt().unsqueeze(1)

    @property
    def identity(self) -> str:
        """What tells this matrix from others of the same model and data."""
        return f"{self.operator.identity} preconditioned by {digest(self.diagonal)}"

    @property
    def strategy(self) -> dict[str, Any]:
        """How products have been computed, for the record."""
        return self.operator.strategy

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply K vectors at once: (P, K) -> (P, K)."""
        inner = self.operator.matmat((V.to(self.device).double() * self._scale).to(self.dtype))
        return (inner.double() * self._scale).to(self.dtype)
