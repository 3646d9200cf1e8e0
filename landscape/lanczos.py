"""An orthonormal basis that grows by products with a symmetric operator."""

from __future__ import annotations

import torch
from torch import Tensor

from landscape.operators import LinearOperator
from landscape.orthogonal import orthogonalize


class NotFiniteError(RuntimeError):
    """A product of an operator is NaN or infinite, so it has no eigenvalues."""


def finite(products: Tensor) -> Tensor:
    """Give back products of an operator, of any shape.

    Raises:
        NotFiniteError: If one is not finite.
    """
    if not products.isfinite().all():
        raise NotFiniteError("a Hessian product is not finite; the loss overflows here, or its gradient does.")
    return products


class Lanczos:
    """An orthonormal basis V (P, m) grown by products, V^T H V in float64, and directions still to follow.

    With the directions p_i and their couplings c_i, H V = V (V^T H V) + sum_i q_i c_i^T, where q_i is the part of p_i
    outside the basis. Plain Lanczos follows one direction, the residual of its last product; every further start
    adds another.

    Attributes:
        size: m.
        num_matvecs: Products made so far.
        pending: Directions and their couplings (capacity,), the latest last.
    """

    def __init__(self, operator: LinearOperator, seed: int, max_basis: int):
        """Make an empty basis; `begin` or `start_again` gives it a direction."""
        self.operator = operator
        self.capacity = min(max_basis, operator.size)
        self.generator = torch.Generator(device="cpu").manual_seed(seed)
        self.basis = torch.empty(self.capacity, operator.size, dtype=operator.dtype, device=operator.device)
        self.matrix = torch.zeros(self.capacity, self.capacity, dtype=torch.float64)
        self.size = 0
        self.num_matvecs = 0
        self.pending: list[tuple[Tensor, Tensor]] = []

    @property
    def room(self) -> int:
        """How many more vectors fit."""
        return self.capacity - self.size

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans the whole space."""
        return not self.pending

    @property
    def negligible(self) -> float:
        """Norm below which the rest of a unit vector is rounding."""
        return 1e3 * torch.finfo(self.basis.dtype).eps

    def begin(self, start: Tensor) -> None:
        """Follow the columns of (P, j) first, as far as they are independent."""
        for column in start.to(self.basis.device, self.basis.dtype).T:
            self.pending.append((column / column.norm(), self._padded(torch.zeros(0, dtype=torch.float64))))

    def start_again(self) -> None:
        """Follow a random direction beside the others."""
        direction = self.random_direction()
        if direction is not None:
            self.pending.append((direction, self._padded(torch.zeros(0, dtype=torch.float64))))

    def projected(self) -> Tensor:
        """V^T H V, (m, m) in float64."""
        return self.matrix[: self.size, : self.size]

    def errors(self, small: Tensor) -> Tensor:
        """Bounds on the residual norms of Ritz pairs with these coordinates (m, k): sum_i |c_i^T s|, (k,)."""
        return self.couplings().matmul(small).abs().sum(dim=0)

    def couplings(self) -> Tensor:
        """The couplings of the directions still to follow, (number, m)."""
        rows = [coupling[: self.size] for _, coupling in self.pending]
        return torch.stack(rows) if rows else torch.zeros(0, self.size, dtype=torch.float64)

    def rests(self) -> Tensor:
        """What the directions still to follow have outside the basis, (P, number)."""
        columns = [self.orthogonalize(direction)[0] for direction, _ in self.pending]
        return torch.stack(columns, dim=1) if columns else self.basis.new_zeros(self.basis.shape[1], 0)

    def ritz_vectors(self, small: Tensor) -> Tensor:
        """Vectors (P, k) from their coordinates (m, k)."""
        return self.basis[: self.size].T @ small.to(self.basis.dtype).to(self.basis.device)

    def step(self, wanted: Tensor | None = None) -> None:
        """Follow one direction, by one product.

        Args:
            wanted: Coordinates (m, k) of Ritz vectors: the direction is taken on which their residuals depend
                most, after any that has not been followed yet; default: the latest.
        """
        number = len(self.pending) - 1 if wanted is None else self._most_needed(wanted)
        direction, _ = self.pending.pop(number)
        rest, _ = self.orthogonalize(direction)
        if rest.norm() > self.negligible:  # else the basis has grown to hold it meanwhile
            self._follow(rest / rest.norm())
        if not self.pending:
            self.start_again()

    def restart(self, small: Tensor) -> None:
        """Keep the Ritz vectors with these coordinates; the pending directions go on from them."""
        ritz_values = small.T @ self.projected() @ small
        kept = small.shape[1]
        # What the whole basis already holds of a direction is no residual; the smaller one would take it for one.
        pending = [(self.orthogonalize(direction)[0], coupling) for direction, coupling in self.pending]
        self.basis[:kept] = self.ritz_vectors(small).T
        self.matrix.zero_()
        self.matrix[:kept, :kept] = torch.diag(ritz_values.diagonal())
        self.pending = [
            (rest / rest.norm(), self._padded(rest.norm().item() * (small.T @ coupling[: self.size])))
            for rest, coupling in pending
            if rest.norm() > self.negligible
        ]
        self.size = kept
        if not self.pending:
            self.start_again()

    def orthogonalize(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Subtract the projection on the basis twice; return the rest and the coordinates (m,) in float64."""
        return orthogonalize(vector, self.basis[: self.size])

    def random_direction(self) -> Tensor | None:
        """Draw a unit vector orthogonal to the basis, or None where the basis already spans the space."""
        vector = torch.randn(self.operator.size, generator=self.generator, dtype=torch.float64)
        vector = vector.to(self.operator.device, self.operator.dtype)
        rest, _ = self.orthogonalize(vector / vector.norm())
        length = rest.norm()
        return rest / length if length > self.negligible else None

    def product(self, vector: Tensor) -> Tensor:
        """Multiply one vector (P,).

        Raises:
            RuntimeError: If the product is not finite.
        """
        product = self.operator.matvec(vector)
        self.num_matvecs += 1
        return finite(product)

    def _most_needed(self, wanted: Tensor) -> int:
        couplings = self.couplings()
        unfollowed = (couplings == 0).all(dim=1).nonzero()
        if len(unfollowed):
            return int(unfollowed[0])
        return int((couplings @ wanted).norm(dim=1).argmax())

    def _follow(self, direction: Tensor) -> None:
        column = self.size
        self.basis[column] = direction
        self.size += 1
        rest, coordinates = self.orthogonalize(self.product(direction))
        self.matrix[column, : self.size] = coordinates
        self.matrix[: self.size, column] = coordinates
        beta = rest.norm().item()
        noise = 10 * torch.finfo(self.basis.dtype).eps * self.projected().abs().max().item()
        if beta > noise:
            coupling = torch.zeros(self.size, dtype=torch.float64)
            coupling[column] = beta
            self.pending.append((rest / beta, self._padded(coupling)))

    def _padded(self, coupling: Tensor) -> Tensor:
        return torch.nn.functional.pad(coupling, (0, self.capacity - len(coupling)))
