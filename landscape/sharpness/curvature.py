"""The two numbers of the Hessian that are called sharpness: its largest eigenvalue and its trace."""

from __future__ import annotations

from landscape.eigen import eigenpairs
from landscape.objective import Objective
from landscape.operators import Hessian, LinearOperator
from landscape.sharpness.point import Measured
from landscape.sharpness.scales import REPARAMETRIZATION
from landscape.traces import trace

_SCALE = f"in proportion to the loss, and to 1 / parameters^2; {REPARAMETRIZATION['none']}"


def largest_eigenvalue(
    objective: Objective,
    tol: float = 1e-3,
    seed: int = 0,
    max_matvecs: int | None = None,
    *,
    operator: LinearOperator | None = None,
) -> Measured:
    """The algebraically largest eigenvalue of the Hessian of the training loss.

    Args:
        objective: Where.
        tol: Of the residual, relative to the largest magnitude of an eigenvalue.
        seed: Of the random start.
        max_matvecs: Budget of products; default: that of `eigenpairs`.
        operator: The Hessian, where products are to be resumed; default: made here.

    Returns:
        The eigenvalue between its value less and plus the true residual ||H v - lambda v||: some eigenvalue lies
        there; that none above was missed rests on a second random start.

    Raises:
        RuntimeError: If a Hessian product is not finite.
    """
    before = objective.num_passes
    pairs = eigenpairs(operator or Hessian(objective), 1, "largest", tol, seed, max_matvecs)
    value, residual = pairs.values[0].item(), pairs.residuals[0].item()
    return Measured(
        value=value,
        definition="largest eigenvalue of the Hessian, algebraically; Lanczos with full reorthogonalization",
        scale=_SCALE,
        low=value - residual,
        high=value + residual,
        bounds=f"value less and plus the residual ||H v - lambda v||{'' if pairs.converged[0] else ', NOT converged'}",
        num_passes=objective.num_passes - before,
        resolved=bool(pairs.converged[0]),
    )


def hessian_trace(
    objective: Objective,
    num_matvecs: int = 60,
    seed: int = 0,
    *,
    operator: LinearOperator | None = None,
) -> Measured:
    """The trace of the Hessian of the training loss, by random vectors beside a Krylov space that holds the outliers.

    Args:
        objective: Where.
        num_matvecs: Products to spend, see `landscape.traces.trace`.
        seed: Of the random probes.
        operator: The Hessian, where products are to be resumed; default: made here.

    Raises:
        ValueError: If there are too few products for an error (4).
        RuntimeError: If a Hessian product is not finite.
    """
    before = objective.num_passes
    found = trace(operator or Hessian(objective), num_matvecs, seed=seed)
    low, high = found.interval
    return Measured(
        value=found.value,
        definition=f"trace of the Hessian, {found.method} with {found.num_matvecs} products",
        scale=_SCALE,
        standard_error=found.standard_error,
        low=low,
        high=high,
        bounds=f"{found.confidence:.0%} Student t interval over {found.num_samples} samples; none where it is exact",
        num_passes=objective.num_passes - before,
    )
