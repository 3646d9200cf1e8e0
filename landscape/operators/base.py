"""Symmetric matrices that are known by their products and never written out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape.objective import Objective

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator as ScipyOperator


class LinearOperator(ABC):
    """A symmetric matrix (P, P) that is known by its products.

    Attributes:
        size: P.
        device: Where vectors live.
        dtype: The floating-point type of products.
    """

    size: int
    device: torch.device
    dtype: torch.dtype

    @abstractmethod
    def matmat(self, V: Tensor) -> Tensor:
        """Multiply K vectors at once: (P, K) -> (P, K)."""

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply one vector: (P,) -> (P,)."""
        return self.matmat(v.unsqueeze(1)).squeeze(1)

    def __matmul__(self, V: Tensor) -> Tensor:
        return self.matvec(V) if V.ndim == 1 else self.matmat(V)

    def dense(self, block: int = 64) -> Tensor:
        """Write the matrix out, (P, P), `block` columns at a time; for small P."""
        eye = torch.eye(self.size, dtype=self.dtype, device=self.device)
        return torch.cat([self.matmat(columns) for columns in eye.split(block, dim=1)], dim=1)

    def to_scipy(self) -> ScipyOperator:
        """Wrap as a `scipy.sparse.linalg.LinearOperator`."""
        from scipy.sparse.linalg import LinearOperator as ScipyOperator

        def multiply(V: Any) -> Any:
            tensor = torch.as_tensor(V, dtype=self.dtype, device=self.device)
            return (self @ tensor).cpu().numpy()

        def multiply_one(v: Any) -> Any:
            return multiply(v.reshape(-1))

        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return ScipyOperator(
            (self.size, self.size), matvec=multiply_one, rmatvec=multiply_one, matmat=multiply, dtype=dtype
        )


Multiply = Callable[[Tensor], Tensor]


class ObjectiveOperator(LinearOperator):
    """A symmetric matrix (P, P) that is a mean over the examples of an objective, at one point.

    A subclass says, in `linearize`, what one batch contributes.

    Attributes:
        objective: The function whose curvature it is.
        theta: (P,) the point.
        layout: The block of parameters that the matrix belongs to.
    """

    def __init__(
        self, objective: Objective, theta: Tensor | None = None, parameters: str | Sequence[str] | None = None
    ):
        """Fix the point and, optionally, a block of parameters.

        Args:
            objective: The function to differentiate.
            theta: (P,) the point; default: where the model stood.
            parameters: Names or patterns of a block of the objective's parameters; default: all of them.

        Raises:
            ValueError: If a pattern matches none of the objective's parameters.
        """
        self.objective = objective
        self.theta = objective.theta if theta is None else theta
        self.layout = objective.layout if parameters is None else objective.layout.matching(parameters)
        self.size, self.device, self.dtype = self.layout.size, objective.device, objective.dtype

    @abstractmethod
    def linearize(self, batch: Any, tensors: list[Tensor]) -> Multiply:
        """Do the work of a batch that no vector enters, where the objective's copy of the model stands.

        Args:
            batch: Of the objective's examples.
            tensors: The parameters of the block, for automatic differentiation.

        Returns:
            From vectors (P, K) to products (P, K); it may be called many times, so graphs must be retained.
        """

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply K vectors at once: (P, K) -> (P, K).

        Raises:
            ValueError: If V does not have P rows, or no columns.
        """
        if V.ndim != 2 or V.shape[0] != self.size or not V.shape[1]:
            raise ValueError(f"expected vectors as columns of a ({self.size}, K) matrix, got {tuple(V.shape)}.")
        V = V.to(self.device, self.dtype)
        # Fused attention has no second derivative, its plain form has.
        with torch.enable_grad(), self.objective.at(self.theta), sdpa_kernel(SDPBackend.MATH):
            tensors = self.objective.tensors(self.layout)
            (products,) = self.objective.average(lambda batch: [self.linearize(batch, tensors)(V)])
        return products.to(self.dtype)
