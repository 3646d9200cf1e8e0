"""The operator that a probe is asked about, by its word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from landscape.objective import Objective
from landscape.operators.base import ObjectiveOperator
from landscape.operators.fisher import EmpiricalFisher, Fisher
from landscape.operators.gauss_newton import GaussNewton
from landscape.operators.hessian import Hessian
from landscape.operators.preconditioned import Preconditioned
from landscape.operators.resumable import Resumable

OperatorName = Literal["hessian", "gauss-newton", "fisher", "empirical-fisher", "preconditioned"]
PRECONDITIONED = "preconditioned"

TITLES = {
    "hessian": "Hessian",
    "gauss-newton": "Gauss-Newton matrix",
    "fisher": "Fisher information",
    "empirical-fisher": "empirical Fisher information",
    PRECONDITIONED: "preconditioned Hessian",
}
_OF: dict[str, type[ObjectiveOperator]] = {
    "hessian": Hessian,
    "gauss-newton": GaussNewton,
    "fisher": Fisher,
    "empirical-fisher": EmpiricalFisher,
    PRECONDITIONED: Hessian,
}


def require_operator(name: str) -> None:
    """Refuse a word that names no operator.

    Raises:
        ValueError: If it does not.
    """
    if name not in _OF:
        raise ValueError(f"operator must be one of {', '.join(get_args(OperatorName))}, got {name!r}.")


def curvature(
    objective: Objective, name: str = "hessian", parameters: str | Sequence[str] = "*", seed: int = 0
) -> Resumable:
    """Make the operator of a word for an objective, with products that survive an interruption.

    ``fisher`` draws its labels with `seed`; ``preconditioned`` is P^(-1/2) H P^(-1/2) with the metric P of the
    objective's optimizer.

    Raises:
        ValueError: If a pattern matches nothing; or, for ``preconditioned``, the objective knows no adaptive optimizer.
        TypeError: If the operator needs the model's output, which a step= objective hides.
    """
    require_operator(name)
    if name == "fisher":
        return Resumable(Fisher(objective, parameters=parameters, seed=seed))
    operator = _OF[name](objective, parameters=parameters)
    if name != PRECONDITIONED:
        return Resumable(operator)
    rule = objective.optimizer_state.on(operator.layout)
    if rule.preconditioner is None:
        raise ValueError(f"{rule.algorithm} has no metric to precondition with; ask about the hessian.")
    return Resumable(Preconditioned(operator, rule.preconditioner))
