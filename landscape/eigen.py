"""Eigenpairs of a symmetric operator, each with its true residual."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from landscape.execution import report_progress
from landscape.lanczos import Lanczos, finite
from landscape.operators import LinearOperator

ENDS = ("largest", "smallest", "both")
_DENSE_BELOW = 100  # at most this many parameters: write the matrix out, which is cheaper and complete
_FEWEST_STEPS, _MOST_STEPS = 8, 40  # steps from a fresh random vector before converged values are believed
_OVERLOOKED = 0.1  # a look ends when no value that much of the scale beyond the k-th can have been missed
_CONFIDENCE = 0.99


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues and eigenvectors with what is known about their error.

    A residual r certifies that an eigenvalue lies within r of the value given. That none was missed can be known
    with a probability only: `none_above` and `none_below` say how far beyond what was found it is known.

    Attributes:
        values: (k,) float64, in descending order; "largest" means algebraically largest.
        vectors: (P, k) orthonormal columns; the entry of largest magnitude of each is positive.
        residuals: (k,) float64, ||H v - lambda v||, checked by a product that the search has not made.
        converged: (k,) bool, residual <= tol * scale.
        scale: Largest magnitude of a Ritz value seen, an estimate of ||H||.
        num_matvecs: How many products were spent.
        none_above: With probability 99%, H has no further eigenvalue above this; infinite where nothing is known.
        none_below: The same from below.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    converged: Tensor
    scale: float
    num_matvecs: int
    none_above: float = math.inf
    none_below: float = -math.inf


def eigenpairs(
    operator: LinearOperator,
    k: int = 10,
    which: str = "largest",
    tol: float = 1e-3,
    seed: int = 0,
    max_matvecs: int | None = None,
    max_basis: int | None = None,
    start: Tensor | None = None,
) -> Eigenpairs:
    """Compute eigenpairs at the ends of the spectrum by Lanczos with full reorthogonalization.

    Every new vector is made orthogonal to all earlier ones twice, the projected matrix is kept in float64, and
    the basis is restarted from its best Ritz vectors when it is full (thick restart). Several start vectors make it a
    block method that follows, at each step, the direction on which the wanted residuals depend most.

    A start vector that is poor in an eigenvector finds it late, and one vector meets one direction of each eigenspace.
    So when the values have converged, a new random vector goes on for some steps in what is left, until a value that
    exceeds the k-th by a tenth of the scale would have been seen with probability 99% (and for at most 40 steps).

    The residuals follow from the products that were made; one fresh product, of a random combination of the vectors,
    checks all of them at once (Freivalds' test): k times the square of what it finds, an estimate of all their errors
    together, is added to the square of each. Where it finds more than a tenth
    of `tol` they are computed anew, one product each.

    Args:
        operator: The symmetric operator (P, P).
        k: How many pairs; for ``both`` the larger half from the top, the rest from the bottom.
        which: ``largest``, ``smallest`` (algebraically) or ``both`` ends.
        tol: Residuals are driven below tol times the largest magnitude of a Ritz value.
        seed: Of the random start.
        max_matvecs: Budget, at least k; default 20 k + 300. What is not converged when it ends is returned and
            marked. The check takes one more, or k + 1.
        max_basis: Vectors kept, at least k + 2; default 4 k + 60.
        start: (P, j) vectors to begin from, such as eigenvectors of an earlier checkpoint or of a subset of the data;
            default: one random vector.

    Raises:
        ValueError: If k is not between 1 and P, a bound is too small for k, `tol` is not positive, `which` is unknown,
            or `start` does not have P rows of finite numbers.
        RuntimeError: If a product is not finite.

    References:
        Wu and Simon, "Thick-Restart Lanczos Method for Large Symmetric Eigenvalue Problems", SIAM J. Matrix
        Anal. Appl. 22 (2000). Kuczynski and Wozniakowski, "Estimating the Largest Eigenvalue by the Power and Lanczos
        Algorithms with a Random Start", SIAM J. Matrix Anal. Appl. 13 (1992), theorem 4.2.
    """
    if which not in ENDS:
        raise ValueError(f"which must be one of {', '.join(ENDS)}, got {which!r}.")
    if not isinstance(k, int) or not 1 <= k <= operator.size:
        raise ValueError(f"k must lie between 1 and the number of parameters {operator.size}, got {k}.")
    if not 0 < tol < math.inf:
        raise ValueError(f"tol must be positive and finite, got {tol}.")
    budget = 20 * k + 300 if max_matvecs is None else max_matvecs
    capacity = 4 * k + 60 if max_basis is None else max_basis
    if budget < k:
        raise ValueError(f"max_matvecs must be at least k={k}, got {budget}.")
    if capacity < k + 2:
        raise ValueError(f"max_basis must be at least k + 2 = {k + 2}, got {capacity}.")
    if start is not None:
        _require_vectors(start, operator.size)
    if operator.size <= max(_DENSE_BELOW, 2 * k):
        return _dense(operator, k, which, tol)
    lanczos = Lanczos(operator, seed, capacity)
    if start is None:
        lanczos.start_again()
    else:
        lanczos.begin(start)
    return _search(lanczos, k, which, tol, budget)


def fix_signs(vectors: Tensor) -> Tensor:
    """Choose the sign of each column (P, k) so that its entry of largest magnitude is positive."""
    peaks = vectors.abs().argmax(dim=0, keepdim=True)
    signs = vectors.gather(0, peaks).sign()
    return vectors * torch.where(signs == 0, torch.ones_like(signs), signs)


def _search(lanczos: Lanczos, k: int, which: str, tol: float, budget: int) -> Eigenpairs:
    """Grow the basis until the wanted values have converged and a second look finds the same ones."""
    small: Tensor | None = None
    look: _Look | None = None
    while True:
        if lanczos.num_matvecs < budget:
            lanczos.step(None if look else small)
        report_progress("products, at most", lanczos.num_matvecs, budget)
        values, coordinates = torch.linalg.eigh(lanczos.projected())
        chosen = _select(len(values), min(k, len(values)), which)
        small, scale = coordinates[:, chosen], values.abs().max().item()
        # A look moves the pairs a little; from half the tolerance they stay within it.
        limit = tol * scale if look else 0.5 * tol * scale
        converged = len(values) >= k and lanczos.errors(small).max().item() <= limit
        if look and not (converged and look.finds_the_same(values[chosen], tol * scale)):
            look = None
        ended = lanczos.num_matvecs >= budget or lanczos.exhausted
        if ended or (look and look.suffices(which, scale)):
            pairs = _measured(lanczos, values, coordinates, chosen, tol, look)
            if ended or pairs.converged.all():
                return pairs
            look = None
        if converged and not look:
            if lanczos.room < _MOST_STEPS:
                small = _restarted(lanczos, coordinates, k, which)
            look = _Look(lanczos, small, values[chosen])
        elif not lanczos.room:
            small, look = _restarted(lanczos, coordinates, k, which), None


def _restarted(lanczos: Lanczos, coordinates: Tensor, k: int, which: str) -> Tensor:
    """Keep the best Ritz vectors; return the coordinates of the wanted ones among them."""
    available = coordinates.shape[1]
    kept = _keep(available, k, which)
    lanczos.restart(coordinates[:, kept])
    positions = [kept.index(n) for n in _select(available, min(k, available), which)]
    return torch.eye(len(kept), dtype=torch.float64)[:, positions]


class _Look:
    """A search by a random vector in all that the basis does not hold, for values that were missed.

    In the basis let the wanted Ritz vectors X be known, and let the others have the projection Theta; outside the basis
    H acts as B. A random start and a number of steps bound the extremes b of B. With W, what couples the others to
    the directions not followed, every eigenvalue of H beside those of X lies between the extremes of
    [[Theta, W], [W^T, b I]] and b, to within the residual of X.
    """

    def __init__(self, lanczos: Lanczos, small: Tensor, found: Tensor):
        self.lanczos, self.found, self.first = lanczos, found, lanczos.size
        rests = lanczos.rests().double()
        root = torch.linalg.svd(rests, full_matrices=False)
        lengths = (root.Vh.T * root.S).cpu()  # (rests' Gram matrix)^1/2, up to a rotation
        couplings = lanczos.couplings()
        others = torch.linalg.qr(small, mode="complete").Q[:, small.shape[1] :]
        self.theta = others.T @ lanczos.projected() @ others
        self.coupled = (couplings @ others).T @ lengths
        self.leak = torch.linalg.matrix_norm((couplings @ small).T @ lengths).item()
        lanczos.start_again()

    @property
    def steps(self) -> int:
        return self.lanczos.size - self.first

    def finds_the_same(self, values: Tensor, margin: float) -> bool:
        return len(values) == len(self.found) and bool(((values - self.found).abs() <= margin).all())

    def suffices(self, which: str, scale: float) -> bool:
        """Whether a value well beyond those found would have been seen, or there is no more room to look."""
        if self.steps >= _MOST_STEPS or not self.lanczos.room:
            return True
        low, high = self.bounds()
        margin, bottom = _OVERLOOKED * scale, _from_below(len(self.found), which)
        top = len(self.found) - bottom
        above = not top or high <= self.found[top - 1].item() + margin
        below = not bottom or low >= self.found[top].item() - margin
        return self.steps >= _FEWEST_STEPS and above and below

    def bounds(self) -> tuple[float, float]:
        """Between which values every further eigenvalue lies, with probability 99%."""
        fresh = torch.linalg.eigvalsh(self.lanczos.projected()[self.first :, self.first :])
        low, high = extremes(fresh, self.lanczos.operator.size - self.first)
        if not math.isfinite(high):
            return low, high
        return self._with_the_others(low).min().item() - self.leak, self._with_the_others(high).max().item() + self.leak

    def _with_the_others(self, extreme: float) -> Tensor:
        corner = torch.full((self.coupled.shape[1],), extreme, dtype=torch.float64)
        arrow = torch.cat(
            [
                torch.cat([self.theta, self.coupled], dim=1),
                torch.cat([self.coupled.T, corner.diag()], dim=1),
            ]
        )
        return torch.cat([torch.linalg.eigvalsh(arrow), torch.tensor([extreme], dtype=torch.float64)])


def extremes(ritz_values: Tensor, size: int, confidence: float = _CONFIDENCE) -> tuple[float, float]:
    """Bound the extreme eigenvalues of a symmetric matrix from a Lanczos run with a random start.

    With n the size, m the number of steps and lambda_1, lambda_n the extremes, the largest Ritz value lies below
    lambda_1 - epsilon (lambda_1 - lambda_n) with probability at most 1.648 sqrt(n) exp(-sqrt(epsilon) (2 m - 1)).

    Args:
        ritz_values: All Ritz values of the run, (m,).
        size: Of the matrix.
        confidence: Probability with which both bounds hold.

    Returns:
        Lower and upper bound; infinite after too few steps.
    """
    steps = len(ritz_values)
    if not steps:
        return -math.inf, math.inf
    low, high = ritz_values.min().item(), ritz_values.max().item()
    if steps >= size:
        return low, high
    epsilon = (math.log(1.648 * math.sqrt(size) * 2 / (1 - confidence)) / (2 * steps - 1)) ** 2
    if epsilon >= 0.5:
        return -math.inf, math.inf
    beyond = epsilon * (high - low) / (1 - 2 * epsilon)
    return low - beyond, high + beyond


def _from_below(k: int, which: str) -> int:
    """How many of k pairs come from the bottom of the spectrum."""
    return {"largest": 0, "smallest": k, "both": k // 2}[which]


def _select(available: int, k: int, which: str) -> list[int]:
    """Positions of the wanted values among ascending ones, wanted order: descending value."""
    bottom = _from_below(k, which)
    ascending = [*range(bottom), *range(available - (k - bottom), available)]
    return ascending[::-1]


def _keep(available: int, k: int, which: str) -> list[int]:
    """Positions kept at a restart: the wanted ones and as many again beyond them, where there is room."""
    return sorted(_select(available, min(2 * k + 10, max(k, available // 2)), which))


def _measured(
    lanczos: Lanczos, ritz: Tensor, coordinates: Tensor, chosen: list[int], tol: float, look: _Look | None
) -> Eigenpairs:
    """Eigenpairs with their residuals, checked by one product; where that finds them wrong, they are made anew."""
    small, values, scale = coordinates[:, chosen], ritz[chosen], ritz.abs().max().item()
    ritz_vectors = lanczos.ritz_vectors(small)
    vectors = torch.linalg.qr(ritz_vectors).Q
    vectors = vectors * (vectors * ritz_vectors).sum(dim=0).sign()
    rests = lanczos.rests().double() @ (lanczos.couplings() @ small).to(vectors.device)
    mix = torch.randn(len(chosen), generator=lanczos.generator, dtype=torch.float64)
    mix = (mix / mix.norm()).to(vectors.device)
    expected = vectors.double() @ (values.to(vectors.device) * mix) + rests @ mix
    mixture = (vectors.double() @ mix).to(vectors.dtype)
    error = (lanczos.product(mixture).double() - expected).norm().item()
    if math.sqrt(len(chosen)) * error <= 0.1 * tol * scale:
        # A random mixture of k error vectors has on average 1/k of the sum of their squares.
        residuals = rests.norm(dim=0).cpu().square().add(len(chosen) * error**2).sqrt()
        pairs = _ordered(values, vectors, residuals, scale, tol)
    else:
        lanczos.num_matvecs += len(chosen)
        pairs = _with_residuals(vectors, lanczos.operator.matmat(vectors), scale, tol)
    pairs = replace(pairs, num_matvecs=lanczos.num_matvecs)
    if lanczos.exhausted:
        others = ritz[sorted(set(range(len(ritz))) - set(chosen))]
        return _with_bounds(pairs, others)
    if look is None:
        return pairs
    low, high = look.bounds()
    return replace(pairs, none_below=low, none_above=high)


def _dense(operator: LinearOperator, k: int, which: str, tol: float) -> Eigenpairs:
    exact = finite(operator.dense()).double()
    values, vectors = torch.linalg.eigh((exact + exact.T) / 2)
    chosen = _select(len(values), k, which)
    pairs = _with_residuals(vectors[:, chosen], exact @ vectors[:, chosen], values.abs().max().item(), tol)
    pairs = replace(pairs, vectors=pairs.vectors.to(operator.dtype), num_matvecs=operator.size)
    return _with_bounds(pairs, values[sorted(set(range(len(values))) - set(chosen))])


def _with_bounds(pairs: Eigenpairs, others: Tensor) -> Eigenpairs:
    """Where all eigenvalues are known, nothing lies beyond the others."""
    if not len(others):
        return replace(pairs, none_above=-math.inf, none_below=math.inf)
    return replace(pairs, none_above=others.max().item(), none_below=others.min().item())


def _with_residuals(vectors: Tensor, products: Tensor, scale: float, tol: float) -> Eigenpairs:
    """Rayleigh quotients and residuals of unit vectors from their products, in float64."""
    V, HV = vectors.double(), products.double()
    values = (V * HV).sum(dim=0)
    return _ordered(values, vectors, (HV - V * values).norm(dim=0), scale, tol)


def _ordered(values: Tensor, vectors: Tensor, residuals: Tensor, scale: float, tol: float) -> Eigenpairs:
    order = values.argsort(descending=True)
    return Eigenpairs(
        values=values[order].cpu(),
        vectors=fix_signs(vectors[:, order.to(vectors.device)]),
        residuals=residuals[order].cpu(),
        converged=(residuals[order] <= tol * scale).cpu(),
        scale=scale,
        num_matvecs=0,
    )


def _require_vectors(start: Tensor, size: int) -> None:
    if start.ndim != 2 or len(start) != size or not start.shape[1] or not start.isfinite().all():
        raise ValueError(
            f"start must hold finite vectors as columns of a ({size}, j) matrix, got {tuple(start.shape)}."
        )
    if not start.norm(dim=0).all():
        raise ValueError("a start vector is zero; leave it out.")
