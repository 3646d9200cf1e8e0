"""From a point to a critical point, by minimising the norm of the gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.critical.krylov import Krylov
from landscape.eigen import eigenpairs
from landscape.execution import recalled, report_progress
from landscape.objective import Objective
from landscape.operators import Hessian, Resumable
from landscape.verdict import Nearness

METHODS = ("newton-mr", "levenberg")
_STALLED = 1e-3  # of the gradient norm, gained in so many iterations
_PATIENCE = 10
_ARMIJO = 1e-4
_HALVINGS = 40
POLISHING = 5  # steps beyond tol, as long as each divides the gradient norm by ten

Step = Callable[["_Walk", Krylov], tuple[Tensor, float, Tensor] | None]  # theta, loss and gradient of the next point


@dataclass(frozen=True)
class CriticalPointSearch:
    """Where a search for a critical point ended, and whether that is one.

    A search of this kind minimises ||g||^2, whose own stationary points are where H g = 0: the critical points of
    the loss, and the gradient-flat points, where a gradient that is not zero lies in the kernel of H. On networks
    it mostly ends at the latter.

    Attributes:
        theta: (P,) where it ended.
        loss: There.
        losses: (T + 1,) float64 along the path.
        gradient_norms: (T + 1,) float64 along the path.
        gradient_flatness: ||Hg|| / (||H|| ||g||) where it ended, ||H|| being the largest met on the path; NaN where
            g or H is zero.
        distance: How far a critical point is at least, in lengths of theta; see `landscape.verdict.Nearness`.
        scale: The largest ||H|| met on the path.
        converged: Whether the end is a critical point: distance <= tol.
        gradient_flat: Whether it is a gradient-flat point instead.
        outcome: ``critical``, ``gradient-flat``, ``stalled`` (no further progress) or ``out of iterations``.
        num_matvecs: Hessian products spent.
        num_gradients: Gradients spent.
        path: (T + 1, P) where asked for, else None.

    References:
        Frye et al., "Critical Point-Finding Methods Reveal Gradient-Flat Regions of Deep Network Losses", Neural
        Computation 2021.
    """

    theta: Tensor
    loss: float
    losses: Tensor
    gradient_norms: Tensor
    gradient_flatness: float
    distance: float
    scale: float
    converged: bool
    gradient_flat: bool
    outcome: str
    num_matvecs: int
    num_gradients: int
    path: Tensor | None = None


def find_critical_point(
    objective: Objective,
    theta: Tensor | None = None,
    method: str = "newton-mr",
    tol: float | None = None,
    max_iterations: int = 100,
    max_basis: int = 100,
    seed: int = 0,
    keep_path: bool = False,
) -> CriticalPointSearch:
    """Minimise the gradient norm from a point on.

    Each step is chosen in the Krylov space of the Hessian and the gradient. Newton-MR takes the shortest p that
    minimises ||H p + g|| and searches along it; Levenberg minimises ||H p + g||^2 + mu ||p||^2 and adapts mu. Both
    let ||g|| fall at every step, and neither minds negative curvature.

    Args:
        objective: The function; float64 is recommended.
        theta: (P,) the start; default: where the model stood.
        method: ``newton-mr`` or ``levenberg``.
        tol: A point is critical where `Nearness.distance`, compared with the longer of theta and its start, is at
            most this; default: the root of the floating-point precision, 1.5e-8 in float64.
        max_iterations: Steps at most, and five more while each divides the gradient norm by ten.
        max_basis: Products a step at most, and vectors kept.
        seed: Of the random vector from which ||H|| is estimated at both ends of the path.
        keep_path: Whether to return every point.

    Raises:
        ValueError: If the method is unknown, a number is out of range, or loss or gradient at the start is not finite.
        RuntimeError: If a Hessian product is not finite.

    References:
        Roosta, Liu, Xu and Mahoney, "Newton-MR: Inexact Newton Method with Minimum Residual Sub-problem Solver",
        EURO J. Comput. Optim. 2022.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    tol = torch.finfo(objective.dtype).eps ** 0.5 if tol is None else tol
    if not 0 < tol < 1:
        raise ValueError(f"tol must lie between 0 and 1, got {tol}.")
    if max_iterations < 1 or max_basis < 1:
        raise ValueError(f"max_iterations and max_basis must be at least 1, got {max_iterations} and {max_basis}.")
    start = objective.theta if theta is None else theta.to(objective.device, objective.dtype)
    walk = _Walk(objective, start, seed, max_basis, keep_path)
    step: Step = _newton_mr if method == "newton-mr" else _Levenberg()
    outcome = "out of iterations"
    for iteration in range(max_iterations + 1):
        report_progress("iterations, at most", iteration, max_iterations)
        space = walk.look()
        if space is None or walk.nearness().distance <= tol:
            outcome = "critical"
            walk.polish(step, space)
            break
        if iteration == max_iterations or walk.is_stalled or not walk.go(step(walk, space)):
            outcome = "out of iterations" if iteration == max_iterations else "stalled"
            break
    return walk.ended(outcome, tol, max_iterations)


class _Walk:
    """A path along which the gradient norm falls, and what was spent on it."""

    def __init__(self, objective: Objective, theta: Tensor, seed: int, max_basis: int, keep_path: bool):
        self.objective, self.seed, self.max_basis = objective, seed, max_basis
        self.eps = torch.finfo(objective.dtype).eps
        self.num_matvecs = self.num_gradients = 0
        self.theta = theta
        self.loss, self.gradient = self.evaluate(theta)
        self.losses, self.norms = [self.loss], [self.norm]
        if not self.gradient.isfinite().all() or not torch.tensor(self.loss).isfinite():
            raise ValueError(
                f"the loss at the start is {self.loss} and its gradient has norm {self.norm}; start from a point where "
                "both are finite."
            )
        self.path = [theta] if keep_path else None
        self.length = theta.double().norm().item()
        self.scale = 0.0
        self.product_norm = 0.0
        self.measure_scale()

    @property
    def norm(self) -> float:
        return self.gradient.double().norm().item()

    @property
    def is_stalled(self) -> bool:
        return len(self.norms) > _PATIENCE and self.norm > (1 - _STALLED) * self.norms[-1 - _PATIENCE]

    def evaluate(self, theta: Tensor) -> tuple[float, Tensor]:
        """Loss and gradient at a point, or what the journal holds of them."""
        self.num_gradients += 1

        def compute() -> dict[str, object]:
            loss, gradient = self.objective.loss(theta), self.objective.gradient(theta)
            return {"loss": loss.item(), "gradient": gradient.cpu().numpy()}

        found = recalled("gradient", theta.cpu().contiguous().numpy().tobytes(), compute)
        return float(found["loss"]), torch.from_numpy(found["gradient"]).to(theta)

    def hessian(self) -> Resumable:
        return Resumable(Hessian(self.objective, self.theta))

    def measure_scale(self) -> None:
        """||H|| by a random start: from the gradient alone nothing is seen of H where that lies in its kernel."""
        pairs = eigenpairs(self.hessian(), 1, "largest", tol=0.1, seed=self.seed)
        self.num_matvecs += pairs.num_matvecs
        self.scale = max(self.scale, pairs.scale)

    def look(self) -> Krylov | None:
        """The Krylov space at hand, solved the better the nearer the goal; None where the gradient is zero."""
        if self.norm == 0:
            self.product_norm = 0.0
            return None
        forcing = min(0.1, (self.norm / self.norms[0]) ** 0.5)
        space = Krylov.of(self.hessian(), self.gradient, self.max_basis, forcing)
        self.num_matvecs += space.num_matvecs
        self.scale, self.product_norm = max(self.scale, space.scale), space.product_norm
        return space

    def nearness(self) -> Nearness:
        """How near a critical point is to where `look` was called last."""
        length = max(self.length, self.theta.double().norm().item())
        return Nearness.of(self.norm, self.product_norm, self.scale, length, self.eps)

    def go(self, found: tuple[Tensor, float, Tensor] | None) -> bool:
        if found is None:
            return False
        self.theta, self.loss, self.gradient = found
        self.losses.append(self.loss)
        self.norms.append(self.norm)
        if self.path is not None:
            self.path.append(self.theta)
        return True

    def polish(self, step: Step, space: Krylov | None) -> None:
        """Go on while that is nearly free: off a degenerate critical point zero eigenvalues look like negative ones."""
        for _ in range(POLISHING):
            if space is None or self.nearness().distance == 0:
                return
            found = step(self, space)
            if found is None or found[2].double().norm().item() > 0.1 * self.norm:
                return
            self.go(found)
            space = self.look()

    def ended(self, outcome: str, tol: float, max_iterations: int) -> CriticalPointSearch:
        report_progress("iterations, at most", max_iterations, max_iterations)
        self.measure_scale()
        near = self.nearness()  # every way to the end has looked from where it stands
        flat = outcome != "critical" and near.is_flat
        return CriticalPointSearch(
            theta=self.theta,
            loss=self.loss,
            losses=torch.tensor(self.losses, dtype=torch.float64),
            gradient_norms=torch.tensor(self.norms, dtype=torch.float64),
            gradient_flatness=near.flatness,
            distance=near.distance,
            scale=self.scale,
            converged=near.distance <= tol,
            gradient_flat=flat,
            outcome="gradient-flat" if flat else outcome,
            num_matvecs=self.num_matvecs,
            num_gradients=self.num_gradients,
            path=None if self.path is None else torch.stack(self.path),
        )


def _newton_mr(walk: _Walk, space: Krylov) -> tuple[Tensor, float, Tensor] | None:
    """Halve the step until ||g||^2 falls by a share of what its slope 2 g.Hp = -2 ||Hp||^2 promises."""
    coordinates = space.minimal_residual(cutoff=walk.eps**0.5)
    direction, promised = space.expand(coordinates), 2 * space.product_length(coordinates) ** 2
    for halvings in range(_HALVINGS):
        share = 0.5**halvings
        theta = walk.theta + share * direction
        loss, gradient = walk.evaluate(theta)
        if gradient.double().norm().item() ** 2 <= walk.norm**2 - _ARMIJO * share * promised and promised > 0:
            return theta, loss, gradient
    return None


class _Levenberg:
    """Damped steps on ||g||^2, whose Gauss-Newton matrix is H^2; the damping is kept from step to step."""

    def __init__(self) -> None:
        self.damping = 1e-3  # in units of ||H||^2

    def __call__(self, walk: _Walk, space: Krylov) -> tuple[Tensor, float, Tensor] | None:
        for _ in range(_HALVINGS):
            coordinates = space.damped(self.damping * walk.scale**2)
            theta = walk.theta + space.expand(coordinates)
            loss, gradient = walk.evaluate(theta)
            promised = walk.norm**2 - space.residual(coordinates) ** 2
            gained = walk.norm**2 - gradient.double().norm().item() ** 2
            self.damping *= 0.1 if gained > 0.75 * promised else 1.0 if gained > 0.25 * promised else 10.0
            if promised > 0 and gained > _ARMIJO * promised:
                return theta, loss, gradient
        return None
