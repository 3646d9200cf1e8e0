"""Eigenpairs of a symmetric operator, each with its true residual."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from landscape.execution import report_progress
from landscape.operators import LinearOperator

ENDS = ("largest", "smallest", "both")
_DENSE_BELOW = 100  # at most this many parameters: write the matrix out, which is cheaper and complete
_CHECK_EVERY = 5  # Lanczos steps between looks at the Ritz values
_SECOND_LOOK = 20  # steps from a fresh random vector before converged values are believed


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues and eigenvectors with what is known about their error.

    A residual r certifies that an eigenvalue lies within r of the value given; it does not certify that none
    was missed.

    Attributes:
        values: (k,) float64, in descending order; "largest" means algebraically largest.
        vectors: (P, k) orthonormal columns; the entry of largest magnitude of each is positive.
        residuals: (k,) float64, ||H v - lambda v|| recomputed for each pair.
        converged: (k,) bool, residual <= tol * scale.
        scale: Largest magnitude of a Ritz value seen, an estimate of ||H||.
        num_matvecs: How many products were spent.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    converged: Tensor
    scale: float
    num_matvecs: int


def eigenpairs(
    operator: LinearOperator,
    k: int = 10,
    which: str = "largest",
    tol: float = 1e-3,
    seed: int = 0,
    max_matvecs: int | None = None,
    max_basis: int | None = None,
) -> Eigenpairs:
    """Compute eigenpairs at the ends of the spectrum by Lanczos with full reorthogonalization.

    Every new vector is made orthogonal to all earlier ones twice, the projected matrix is kept in float64, and
    the basis is restarted from its best Ritz vectors when it is full (thick restart). One start vector meets one
    vector of each eigenspace, so when the values have converged a new random vector goes on for some steps, until
    that finds no further copy of a multiple eigenvalue.

    Args:
        operator: The symmetric operator (P, P).
        k: How many pairs; for ``both`` the larger half from the top, the rest from the bottom.
        which: ``largest``, ``smallest`` (algebraically) or ``both`` ends.
        tol: Residuals are driven below tol times the largest magnitude of a Ritz value.
        seed: Of the random start.
        max_matvecs: Budget, at least k; default 20 k + 300. What is not converged when it ends is returned and
            marked. The residuals take k more.
        max_basis: Vectors kept, at least k + 2; default 4 k + 60.

    Raises:
        ValueError: If k is not between 1 and P, a bound is too small for k, or `which` is unknown.
        RuntimeError: If a product is not finite.

    References:
        Wu and Simon, "Thick-Restart Lanczos Method for Large Symmetric Eigenvalue Problems", SIAM J. Matrix
        Anal. Appl. 22 (2000).
    """
    if which not in ENDS:
        raise ValueError(f"which must be one of {', '.join(ENDS)}, got {which!r}.")
    if not 1 <= k <= operator.size:
        raise ValueError(f"k must lie between 1 and the number of parameters {operator.size}, got {k}.")
    budget = 20 * k + 300 if max_matvecs is None else max_matvecs
    capacity = 4 * k + 60 if max_basis is None else max_basis
    if budget < k:
        raise ValueError(f"max_matvecs must be at least k={k}, got {budget}.")
    if capacity < k + 2:
        raise ValueError(f"max_basis must be at least k + 2 = {k + 2}, got {capacity}.")
    if operator.size <= max(_DENSE_BELOW, 2 * k):
        return _dense(operator, k, which, tol)
    return _search(_Lanczos(operator, seed, capacity), k, which, tol, budget)


def fix_signs(vectors: Tensor) -> Tensor:
    """Choose the sign of each column (P, k) so that its entry of largest magnitude is positive."""
    peaks = vectors.abs().argmax(dim=0, keepdim=True)
    signs = vectors.gather(0, peaks).sign()
    return vectors * torch.where(signs == 0, torch.ones_like(signs), signs)


def _search(lanczos: _Lanczos, k: int, which: str, tol: float, budget: int) -> Eigenpairs:
    """Grow the basis until the wanted values have converged and a second look finds the same ones."""
    seen, look_at = None, 0
    while True:
        lanczos.extend(min(_CHECK_EVERY, budget - lanczos.num_matvecs))
        report_progress("products, at most", lanczos.num_matvecs, budget)
        values, small = torch.linalg.eigh(lanczos.projected())
        chosen = _select(len(values), min(k, len(values)), which)
        margin = tol * values.abs().max().item()
        converged = len(values) >= k and lanczos.errors(small[:, chosen]).max().item() <= margin
        ended = lanczos.num_matvecs >= budget or lanczos.exhausted
        confirmed = seen is not None and len(values) >= k and bool(((values[chosen] - seen).abs() <= margin).all())
        if ended or (converged and confirmed and lanczos.num_matvecs >= look_at):
            pairs = _measured(lanczos, small[:, chosen], values, tol)
            if ended or pairs.converged.all():
                return pairs
        if lanczos.full:
            lanczos.restart(small[:, _keep(len(values), k, which)])
        if converged and not confirmed and lanczos.num_matvecs >= look_at:
            seen, look_at = values[chosen], lanczos.num_matvecs + _SECOND_LOOK
            lanczos.start_again()


class _Lanczos:
    """An orthonormal basis V (P, m) grown by products, V^T H V in float64, and directions still to follow.

    With the directions p_i and their couplings c_i, H V = V (V^T H V) + sum_i p_i c_i^T. Plain Lanczos follows one
    direction, the residual of its last product; every fresh start adds another.
    """

    def __init__(self, operator: LinearOperator, seed: int, max_basis: int):
        self.operator = operator
        self.capacity = min(max_basis, operator.size)
        self.generator = torch.Generator(device="cpu").manual_seed(seed)
        self.basis = torch.empty(self.capacity, operator.size, dtype=operator.dtype, device=operator.device)
        self.matrix = torch.zeros(self.capacity, self.capacity, dtype=torch.float64)
        self.size = 0
        self.num_matvecs = 0
        self.pending: list[tuple[Tensor, Tensor]] = []
        self._draw()

    @property
    def full(self) -> bool:
        return self.size == self.capacity

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans the whole space."""
        return not self.pending

    @property
    def _negligible(self) -> float:
        """Norm below which the rest of a unit vector is rounding."""
        return 1e3 * torch.finfo(self.basis.dtype).eps

    def projected(self) -> Tensor:
        return self.matrix[: self.size, : self.size]

    def errors(self, small: Tensor) -> Tensor:
        """Bounds on the residual norms of Ritz pairs with these coordinates: sum_i |c_i^T s|."""
        couplings = [coupling[: self.size] for _, coupling in self.pending]
        return torch.stack([*couplings, torch.zeros(self.size, dtype=torch.float64)]).matmul(small).abs().sum(dim=0)

    def ritz_vectors(self, small: Tensor) -> Tensor:
        return self.basis[: self.size].T @ small.to(self.basis.dtype).to(self.basis.device)

    def extend(self, steps: int) -> None:
        for _ in range(steps):
            if self.full or self.exhausted:
                return
            self._step()

    def restart(self, small: Tensor) -> None:
        """Keep the Ritz vectors with these coordinates; the pending directions go on from them."""
        ritz_values = small.T @ self.projected() @ small
        kept = small.shape[1]
        # What the whole basis already holds of a direction is no residual; the smaller one would take it for one.
        pending = [(self._orthogonalize(direction)[0], coupling) for direction, coupling in self.pending]
        self.basis[:kept] = self.ritz_vectors(small).T
        self.matrix.zero_()
        self.matrix[:kept, :kept] = torch.diag(ritz_values.diagonal())
        self.pending = [
            (rest / rest.norm(), self._padded(rest.norm().item() * (small.T @ coupling[: self.size])))
            for rest, coupling in pending
            if rest.norm() > self._negligible
        ]
        self.size = kept

    def start_again(self) -> None:
        """Follow a random direction beside the others."""
        self._draw()

    def _draw(self) -> None:
        direction = self._random()
        if direction is not None:
            self.pending.append((direction, self._padded(torch.zeros(0, dtype=torch.float64))))

    def _step(self) -> None:
        direction, _ = self.pending.pop(0)
        rest, _ = self._orthogonalize(direction)
        if rest.norm() > self._negligible:  # else the basis has grown to hold it meanwhile
            self._follow(rest / rest.norm())
        if not self.pending:
            self._draw()

    def _follow(self, direction: Tensor) -> None:
        column = self.size
        self.basis[column] = direction
        self.size += 1
        product = self.operator.matvec(direction)
        self.num_matvecs += 1
        if not product.isfinite().all():
            raise RuntimeError("a Hessian product is not finite; the loss overflows here, or its gradient does.")
        rest, coordinates = self._orthogonalize(product)
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

    def _orthogonalize(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Subtract the projection on the basis twice; return the rest and the coordinates (m,) in float64."""
        basis = self.basis[: self.size]
        coordinates = torch.zeros(self.size, dtype=torch.float64)
        for _ in range(2):
            part = basis @ vector
            vector = vector - basis.T @ part
            coordinates += part.double().cpu()
        return vector, coordinates

    def _random(self) -> Tensor | None:
        """Draw a unit vector orthogonal to the basis, or None where the basis already spans the space."""
        vector = torch.randn(self.operator.size, generator=self.generator, dtype=torch.float64)
        vector = vector.to(self.operator.device, self.operator.dtype)
        rest, _ = self._orthogonalize(vector / vector.norm())
        length = rest.norm()
        return rest / length if length > self._negligible else None


def _select(available: int, k: int, which: str) -> list[int]:
    """Positions of the wanted values among ascending ones, wanted order: descending value."""
    bottom = {"largest": 0, "smallest": k, "both": k // 2}[which]
    ascending = [*range(bottom), *range(available - (k - bottom), available)]
    return ascending[::-1]


def _keep(available: int, k: int, which: str) -> list[int]:
    """Positions kept at a restart: the wanted ones and as many again beyond them, where there is room."""
    return sorted(_select(available, min(2 * k + 10, max(k, available // 2)), which))


def _measured(lanczos: _Lanczos, small: Tensor, ritz: Tensor, tol: float) -> Eigenpairs:
    vectors = torch.linalg.qr(lanczos.ritz_vectors(small)).Q
    scale = ritz.abs().max().item()
    lanczos.num_matvecs += vectors.shape[1]
    return _with_residuals(vectors, lanczos.operator.matmat(vectors), scale, tol, lanczos.num_matvecs)


def _dense(operator: LinearOperator, k: int, which: str, tol: float) -> Eigenpairs:
    matrix = operator.dense()
    if not matrix.isfinite().all():
        raise RuntimeError("a Hessian product is not finite; the loss overflows here, or its gradient does.")
    exact = matrix.double()
    values, vectors = torch.linalg.eigh((exact + exact.T) / 2)
    chosen = vectors[:, _select(len(values), k, which)]
    pairs = _with_residuals(chosen, exact @ chosen, values.abs().max().item(), tol, operator.size)
    return replace(pairs, vectors=pairs.vectors.to(operator.dtype))


def _with_residuals(vectors: Tensor, products: Tensor, scale: float, tol: float, num_matvecs: int) -> Eigenpairs:
    """Rayleigh quotients and true residuals of unit vectors, in float64."""
    V, HV = vectors.double(), products.double()
    values = (V * HV).sum(dim=0)
    residuals = (HV - V * values).norm(dim=0)
    order = values.argsort(descending=True)
    return Eigenpairs(
        values=values[order].cpu(),
        vectors=fix_signs(vectors[:, order]),
        residuals=residuals[order].cpu(),
        converged=(residuals[order] <= tol * scale).cpu(),
        scale=scale,
        num_matvecs=num_matvecs,
    )
