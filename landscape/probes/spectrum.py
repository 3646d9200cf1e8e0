"""Both ends of the spectrum of a curvature matrix, and what those of the Hessian say about the point."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import xarray as xr

from landscape.eigen import Eigenpairs, eigenpairs
from landscape.objective import Objective
from landscape.operators import PRECONDITIONED, TITLES, LinearOperator, OperatorName, curvature, require_operator
from landscape.verdict import judge, product_error


@dataclass(frozen=True)
class Spectrum:
    """Largest and smallest eigenvalues of the Hessian of the training loss, with residuals and a verdict.

    Attributes:
        k: Eigenvalues at each end.
        tol: Residuals are driven below tol times the largest eigenvalue magnitude.
        seed: Seed of the random start.
        parameters: Pattern of a block of parameters, such as layer3.*.
        operator: Which matrix: the Hessian, its Gauss-Newton part, the Fisher information with drawn labels or with
            those of the data, or the Hessian in the metric of the run's adaptive optimizer.
        max_matvecs: Budget of Hessian products, at least 2 k; None for 40 k + 300.
    """

    k: int = 10
    tol: float = 1e-3
    seed: int = 0
    parameters: str = "*"
    operator: OperatorName = "hessian"
    max_matvecs: int | None = None

    def __post_init__(self) -> None:
        require_operator(self.operator)
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}.")
        if not 0 < self.tol < 1:
            raise ValueError(f"tol must lie between 0 and 1, got {self.tol}.")
        if self.max_matvecs is not None and self.max_matvecs < 2 * self.k:
            raise ValueError(f"max_matvecs must be at least 2 k = {2 * self.k}, got {self.max_matvecs}.")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}.")

    @property
    def uses_optimizer(self) -> bool:
        """Whether the answer depends on the optimizer's state."""
        return self.operator == PRECONDITIONED

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Compute both ends.

        Returns:
            eigenvalue, residual and converged over (end, rank), rank 0 being the outermost; none_above and
            none_below, beyond which there is no further eigenvalue with probability 99%; gradient_norm, tolerance
            (below which an eigenvalue's sign means nothing), num_matvecs, loss; attributes `verdict` and
            `verdict_reason` (of the Hessian), `products` (how they were computed).

        Raises:
            ValueError: If k exceeds the number of parameters.
            RuntimeError: If a Hessian product is not finite.
        """
        hessian = curvature(objective, self.operator, self.parameters, self.seed)
        if self.k > hessian.size:
            raise ValueError(f"k must lie between 1 and the number of parameters {hessian.size}, got {self.k}.")
        pairs = self._pairs(hessian)
        top, bottom = self._ends(pairs)
        title = {"long_name": f"eigenvalue of the {TITLES[self.operator]}", "units": "nats"}
        answer = xr.Dataset(
            {
                "eigenvalue": (("end", "rank"), np.stack([top[0], bottom[0]]), title),
                "residual": (("end", "rank"), np.stack([top[1], bottom[1]]), {"long_name": "||H v - lambda v||"}),
                "converged": (("end", "rank"), np.stack([top[2], bottom[2]])),
                "gradient_norm": objective.gradient().double().norm().item(),
                "loss": objective.loss().item(),
                "none_above": ((), pairs.none_above, {"long_name": "no further eigenvalue above, probability 99%"}),
                "none_below": ((), pairs.none_below, {"long_name": "no further eigenvalue below, probability 99%"}),
                "tolerance": product_error(objective) * pairs.scale,
                "num_matvecs": pairs.num_matvecs,
            },
            coords={"end": ["largest", "smallest"], "rank": np.arange(self.k)},
        )
        answer.attrs["products"] = json.dumps(hessian.strategy)
        if self.operator in ("hessian", PRECONDITIONED):  # the others are positive by construction
            verdict, reason = judge(answer)
            answer.attrs.update(verdict=verdict, verdict_reason=reason)
        if objective.normalization == "recalibrated":
            answer.attrs["derivatives"] = "with the recalibrated BatchNorm statistics held fixed"
        return answer

    def _pairs(self, hessian: LinearOperator) -> Eigenpairs:
        if 2 * self.k <= hessian.size:
            return eigenpairs(hessian, 2 * self.k, "both", self.tol, self.seed, self.max_matvecs)
        return eigenpairs(hessian, hessian.size, "largest", self.tol, self.seed)

    def _ends(self, pairs: Eigenpairs) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Values, residuals and flags of the largest (descending) and the smallest (ascending)."""
        rows = [pairs.values.numpy(), pairs.residuals.numpy(), pairs.converged.numpy()]
        return [row[: self.k] for row in rows], [row[::-1][: self.k] for row in rows]
