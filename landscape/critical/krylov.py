"""The Krylov space of a Hessian and a gradient, in which every step here is chosen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.lanczos import finite
from landscape.operators import LinearOperator
from landscape.orthogonal import orthogonalize


@dataclass(frozen=True)
class Krylov:
    """An orthonormal basis V (m, P) of span{g, Hg, ..., H^(m-1) g}, and H in it.

    H V^T y = U^T (projected y), where U is V and, unless the space is invariant, one vector more. So the norm of
    H p + g is known for every p in the space without a further product.

    Attributes:
        basis: (m, P) rows; the first is g / ||g||.
        projected: (m + 1, m) float64.
        length: ||g||.
        num_matvecs: Products spent.
    """

    basis: Tensor
    projected: Tensor
    length: float
    num_matvecs: int

    @classmethod
    def of(cls, operator: LinearOperator, gradient: Tensor, most: int, residual: float = 0.0) -> Krylov:
        """Grow the space by Lanczos steps, each new vector made orthogonal to all earlier ones twice.

        Args:
            operator: H.
            gradient: (P,) g, not zero.
            most: Vectors at most.
            residual: Enough when some p in the space has ||H p + g|| <= residual ||g||.

        Raises:
            RuntimeError: If a product is not finite.
        """
        most, length = min(most, operator.size), gradient.double().norm().item()
        basis = torch.empty(most, operator.size, dtype=operator.dtype, device=operator.device)
        basis[0] = gradient / length
        projected = torch.zeros(most + 1, most, dtype=torch.float64)
        for step in range(1, most + 1):
            product = finite(operator.matvec(basis[step - 1]))
            norm = product.double().norm().item()
            product, projected[:step, step - 1] = orthogonalize(product, basis[:step])
            rest = product.double().norm().item()
            # What is left is rounding: the space is invariant.
            if rest <= 1e3 * torch.finfo(operator.dtype).eps * norm or step == operator.size:
                break
            projected[step, step - 1] = rest
            if step == most or (
                residual and step % 5 == 0 and _relative_residual(projected[: step + 1, :step]) <= residual
            ):
                break
            basis[step] = product / rest
        return cls(basis[:step], projected[: step + 1, :step], length, step)

    @property
    def product_norm(self) -> float:
        """||Hg||, from the first product."""
        return self.projected[:, 0].norm().item() * self.length

    @property
    def scale(self) -> float:
        """A lower estimate of ||H||."""
        return torch.linalg.matrix_norm(self.projected, 2).item()

    @property
    def symmetric(self) -> Tensor:
        """V H V^T, (m, m) float64."""
        square = self.projected[:-1]
        return (square + square.T) / 2

    def expand(self, coordinates: Tensor) -> Tensor:
        """Write coordinates (m,) as a vector (P,)."""
        return self.basis.T @ coordinates.to(self.basis.device, self.basis.dtype)

    def minimal_residual(self, cutoff: float) -> Tensor:
        """Coordinates of the shortest p that minimises ||H p + g||, with singular values below the cutoff left out.

        This is what MINRES-QLP computes by recurrence; the basis is kept here, so a small decomposition does it.

        References:
            Choi, Paige and Saunders, "MINRES-QLP: A Krylov Subspace Method for Indefinite or Singular Symmetric
            Systems", SIAM J. Sci. Comput. 33 (2011).
        """
        U, S, Vh = torch.linalg.svd(self.projected, full_matrices=False)
        kept = cutoff * S.max() < S
        inverse = torch.where(kept, 1 / torch.where(kept, S, torch.ones_like(S)), torch.zeros_like(S))
        return -self.length * (Vh.T * inverse) @ U[0]

    def damped(self, damping: float) -> Tensor:
        """Coordinates of the p that minimises ||H p + g||^2 + damping ||p||^2."""
        U, S, Vh = torch.linalg.svd(self.projected, full_matrices=False)
        return -self.length * (Vh.T * (S / (S**2 + damping))) @ U[0]

    def product_length(self, coordinates: Tensor) -> float:
        """||H p||."""
        return (self.projected @ coordinates).norm().item()

    def residual(self, coordinates: Tensor) -> float:
        """||H p + g||."""
        image = self.projected @ coordinates
        image[0] += self.length
        return image.norm().item()


def _relative_residual(projected: Tensor) -> float:
    """Least ||projected y + e_1||."""
    U, S, _ = torch.linalg.svd(projected, full_matrices=False)
    U = U[:, torch.finfo(torch.float64).eps * S.max() < S]
    rest = -(U @ U[0])
    rest[0] += 1
    return rest.norm().item()
