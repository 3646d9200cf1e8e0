"""Trace and Frobenius norm of a curvature matrix, each with an interval."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import xarray as xr

from landscape.eigen import eigenpairs
from landscape.fields import settle
from landscape.objective import Objective
from landscape.operators import PRECONDITIONED, TITLES, OperatorName, curvature, require_operator
from landscape.traces import check_settings, trace


@dataclass(frozen=True)
class Trace:
    """Trace and Frobenius norm of the Hessian of the training loss, or of the matrix that operator names.

    Each has an interval.

    Attributes:
        num_matvecs: Products to spend; the most to spend where rtol is given. None for 100, or 10,000.
        rtol: Half width of the interval that is wanted, relative to the trace, such as 0.01.
        method: How outliers are found and taken out of the random part.
        k: Eigenpairs from both ends that are computed first and taken out too; krylov mostly does as well without.
        confidence: Of the intervals.
        seed: Seed of the random vectors.
        parameters: Pattern of a block of parameters, such as layer3.*.
        operator: Which matrix: the Hessian, its Gauss-Newton part, the Fisher information with drawn labels or with
            those of the data, or the Hessian in the metric of the run's adaptive optimizer.
    """

    num_matvecs: int | None = None
    rtol: float | None = None
    method: Literal["krylov", "hutch++", "hutchinson"] = "krylov"
    k: int = 0
    confidence: float = 0.95
    seed: int = 0
    parameters: str = "*"
    operator: OperatorName = "hessian"

    def __post_init__(self) -> None:
        require_operator(self.operator)
        check_settings(self.num_matvecs, self.method, self.seed, self.confidence, self.rtol)
        if self.k < 0:
            raise ValueError(f"k must be at least 0, got {self.k}.")
        settle(self)

    @property
    def uses_optimizer(self) -> bool:
        """Whether the answer depends on the optimizer's state."""
        return self.operator == PRECONDITIONED

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Estimate both.

        Returns:
            trace, its standard error, low and high end of its interval; frobenius_norm with its interval;
            mean_eigenvalue; exact_part, the trace on the `basis_size` dimensions where it was computed exactly;
            num_samples, num_matvecs (the eigenpairs included), loss. All are scalars.

        Raises:
            ValueError: If k exceeds the number of parameters, or the products do not suffice.
            RuntimeError: If a Hessian product is not finite.
        """
        hessian = curvature(objective, self.operator, self.parameters, self.seed)
        if self.k > hessian.size:
            raise ValueError(f"k must lie between 0 and the number of parameters {hessian.size}, got {self.k}.")
        pairs = eigenpairs(hessian, self.k, "both" if self.k > 1 else "largest", seed=self.seed) if self.k else None
        found = trace(
            hessian,
            self.num_matvecs,
            self.method,
            self.seed,
            deflate=pairs,
            confidence=self.confidence,
            rtol=self.rtol,
        )
        title = TITLES[self.operator]
        error = {"long_name": "standard error of the trace", "units": "nats"}
        norm = {"long_name": f"Frobenius norm of the {title}", "units": "nats"}
        answer = xr.Dataset(
            {
                "trace": ((), found.value, {"long_name": f"trace of the {title}", "units": "nats"}),
                "trace_standard_error": ((), found.standard_error, error),
                "trace_low": found.interval[0],
                "trace_high": found.interval[1],
                "frobenius_norm": ((), found.frobenius_norm, norm),
                "frobenius_low": found.frobenius_interval[0],
                "frobenius_high": found.frobenius_interval[1],
                "mean_eigenvalue": found.value / hessian.size,
                "exact_part": found.exact,
                "basis_size": found.basis_size,
                "num_samples": found.num_samples,
                "num_matvecs": found.num_matvecs + (pairs.num_matvecs if pairs else 0),
                "loss": objective.loss().item(),
            }
        )
        answer.attrs["products"] = json.dumps(hessian.strategy)
        if found.reached is not None:
            answer["reached"] = found.reached
        return answer
