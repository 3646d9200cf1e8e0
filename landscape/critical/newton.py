"""Newton's method, saddle-free Newton and gradient descent, to be compared on small problems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.critical.krylov import Krylov
from landscape.lanczos import finite
from landscape.objective import Objective
from landscape.operators import Hessian

_DENSE_BELOW = 500  # at most this many parameters: the Hessian is written out


@dataclass(frozen=True)
class Descent:
    """The points a method went through.

    Attributes:
        thetas: (T + 1, P).
        losses: (T + 1,) float64.
        gradient_norms: (T + 1,) float64.
        converged: Whether the gradient norm fell to tol times its first value before the steps ran out; false where
            the path left the finite numbers, which end it.
    """

    thetas: Tensor
    losses: Tensor
    gradient_norms: Tensor
    converged: bool

    @property
    def theta(self) -> Tensor:
        """(P,) the last point."""
        return self.thetas[-1]


def newton(
    objective: Objective,
    theta: Tensor | None = None,
    damping: float | Sequence[float] = 0.0,
    steps: int = 100,
    tol: float = 1e-10,
    subspace: int | None = None,
) -> Descent:
    """Newton's method, theta - (H + mu I)^-1 g: drawn to saddles and maxima as much as to minima.

    Args:
        objective: The function.
        theta: (P,) the start; default: where the model stood.
        damping: mu in multiples of the largest curvature magnitude at each point, so that the unit of the loss does
            not matter; of several the one that gives the lowest loss is taken at each step.
        steps: At most.
        tol: Ends where the gradient norm is tol times its first value.
        subspace: Step in a Krylov space of so many dimensions; default: the whole space up to 500 parameters, else 100.

    Raises:
        ValueError: If a number is out of range, or loss or gradient at the start is not finite.
        RuntimeError: If a Hessian product is not finite.
    """
    return _curved(objective, theta, damping, steps, tol, subspace, saddle_free=False)


def saddle_free_newton(
    objective: Objective,
    theta: Tensor | None = None,
    damping: float | Sequence[float] = 0.05,
    steps: int = 100,
    tol: float = 1e-10,
    subspace: int | None = None,
) -> Descent:
    """Saddle-free Newton, theta - (|H| + mu I)^-1 g, where |H| has the absolute eigenvalues: repelled by saddles.

    Args:
        objective: The function.
        theta: (P,) the start; default: where the model stood.
        damping: As for `newton`.
        steps: At most.
        tol: As for `newton`.
        subspace: As for `newton`.

    Raises:
        ValueError: If a number is out of range, or loss or gradient at the start is not finite.
        RuntimeError: If a Hessian product is not finite.

    References:
        Dauphin et al., "Identifying and attacking the saddle point problem in high-dimensional non-convex
        optimization", NeurIPS 2014, section 6.
    """
    return _curved(objective, theta, damping, steps, tol, subspace, saddle_free=True)


def newton_step(
    values: Tensor, vectors: Tensor, gradient: Tensor, damping: float = 0.0, saddle_free: bool = False
) -> Tensor:
    """What a step of Newton's kind subtracts, (H + mu I)^-1 g or (|H| + mu I)^-1 g; nothing where that has no inverse.

    Args:
        values: (m,) float64, eigenvalues of H.
        vectors: (m, P) float64, its eigenvectors as rows.
        gradient: (P,).
        damping: mu in multiples of the largest curvature magnitude.
        saddle_free: Whether curvature counts by its magnitude.

    Returns:
        (P,) float64.
    """
    coordinates, unit = vectors @ gradient.double(), values.abs().max().item()
    divisor = (values.abs() if saddle_free else values) + damping * unit
    kept = divisor.abs() > torch.finfo(torch.float64).eps * unit
    return vectors.T @ torch.where(kept, coordinates / torch.where(kept, divisor, torch.ones_like(divisor)), 0.0)


def decomposed(hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (P,) and eigenvectors (P, P), as rows, of a Hessian (P, P) that is symmetric up to rounding."""
    values, vectors = torch.linalg.eigh((hessian + hessian.T) / 2)
    return values, vectors.T


def gradient_descent(
    objective: Objective, theta: Tensor | None = None, rate: float = 0.1, steps: int = 1000, tol: float = 1e-10
) -> Descent:
    """Plain gradient descent, theta - rate * g, for comparison.

    Args:
        objective: The function.
        theta: (P,) the start; default: where the model stood.
        rate: Step size.
        steps: At most.
        tol: As for `newton`.

    Raises:
        ValueError: If a number is out of range, or loss or gradient at the start is not finite.
    """
    if not rate > 0:
        raise ValueError(f"rate must be positive, got {rate}.")
    return _follow(objective, theta, steps, tol, lambda at, gradient: at - rate * gradient)


def _curved(
    objective: Objective,
    theta: Tensor | None,
    damping: float | Sequence[float],
    steps: int,
    tol: float,
    subspace: int | None,
    saddle_free: bool,
) -> Descent:
    dampings = [float(d) for d in (damping if isinstance(damping, Sequence) else [damping])]
    if not dampings or not all(0 <= d < float("inf") for d in dampings):
        raise ValueError(f"damping must be at least 0 and finite, got {damping}.")
    if subspace is not None and subspace < 1:
        raise ValueError(f"subspace must be at least 1, got {subspace}.")

    def move(at: Tensor, gradient: Tensor) -> Tensor:
        values, vectors = _decomposed(objective, at, gradient, subspace)
        points = [at - newton_step(values, vectors, gradient, each, saddle_free).to(at.dtype) for each in dampings]
        if len(points) == 1:
            return points[0]
        losses = objective.losses(torch.stack(points)).nan_to_num(nan=float("inf"))
        return points[int(losses.argmin())]

    return _follow(objective, theta, steps, tol, move)


def _decomposed(objective: Objective, theta: Tensor, gradient: Tensor, subspace: int | None) -> tuple[Tensor, Tensor]:
    """Eigenvalues (m,) and eigenvectors (m, P), as rows, of the Hessian or of its part in a Krylov space; float64."""
    hessian = Hessian(objective, theta)
    if subspace is None and hessian.size <= _DENSE_BELOW:
        matrix = finite(hessian.dense()).double()
        return decomposed(matrix)
    space = Krylov.of(hessian, gradient, subspace or 100)
    values, small = torch.linalg.eigh(space.symmetric)
    return values.to(theta.device), small.T.to(theta.device) @ space.basis.double()


def _follow(
    objective: Objective, theta: Tensor | None, steps: int, tol: float, move: Callable[[Tensor, Tensor], Tensor]
) -> Descent:
    if steps < 1 or not 0 <= tol < 1:
        raise ValueError(f"steps must be at least 1 and tol at least 0 and below 1, got {steps} and {tol}.")
    at = objective.theta if theta is None else theta.to(objective.device, objective.dtype)
    thetas, losses, norms = [at], [objective.loss(at).item()], []
    gradient = objective.gradient(at)
    norms.append(gradient.double().norm().item())
    if not torch.tensor([losses[0], norms[0]]).isfinite().all():
        raise ValueError(
            f"the loss at the start is {losses[0]} and its gradient has norm {norms[0]}; both must be finite."
        )
    while len(norms) <= steps and norms[-1] > tol * norms[0] and torch.tensor(norms[-1]).isfinite():
        at = move(at, gradient)
        gradient = objective.gradient(at)
        thetas.append(at)
        losses.append(objective.loss(at).item())
        norms.append(gradient.double().norm().item())
    return Descent(
        thetas=torch.stack(thetas),
        losses=torch.tensor(losses, dtype=torch.float64),
        gradient_norms=torch.tensor(norms, dtype=torch.float64),
        converged=norms[-1] <= tol * norms[0],
    )
