"""Both ends of the Hessian's spectrum, and what they say about the point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from landscape.eigen import Eigenpairs, eigenpairs
from landscape.objective import Objective
from landscape.operators import Hessian
from landscape.verdict import judge, product_error


@dataclass(frozen=True)
class Spectrum:
    """Largest and smallest eigenvalues of the Hessian of the training loss, with residuals and a verdict.

    Attributes:
        k: Eigenvalues at each end.
        tol: Residuals are driven below tol times the largest eigenvalue magnitude.
        seed: Seed of the random start.
        parameters: Pattern of a block of parameters, such as layer3.*.
        max_matvecs: Budget of Hessian products, at least 2 k; None for 40 k + 300.
    """

    k: int = 10
    tol: float = 1e-3
    seed: int = 0
    parameters: str = "*"
    max_matvecs: int | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}.")
        if not 0 < self.tol < 1:
            raise ValueError(f"tol must lie between 0 and 1, got {self.tol}.")
        if self.max_matvecs is not None and self.max_matvecs < 2 * self.k:
            raise ValueError(f"max_matvecs must be at least 2 k = {2 * self.k}, got {self.max_matvecs}.")

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Compute both ends.

        Returns:
            eigenvalue, residual and converged over (end, rank), rank 0 being the outermost; gradient_norm,
            tolerance (below which an eigenvalue's sign means nothing), num_matvecs, loss; attributes `verdict`
            and `verdict_reason`.

        Raises:
            ValueError: If k exceeds the number of parameters.
            RuntimeError: If a Hessian product is not finite.
        """
        hessian = Hessian(objective, parameters=self.parameters)
        if self.k > hessian.size:
            raise ValueError(f"k must lie between 1 and the number of parameters {hessian.size}, got {self.k}.")
        top, bottom, num_matvecs, scale = self._ends(hessian)
        tolerance = product_error(objective) * scale
        answer = xr.Dataset(
            {
                "eigenvalue": (("end", "rank"), np.stack([top[0], bottom[0]]), {"long_name": "Hessian eigenvalue"}),
                "residual": (("end", "rank"), np.stack([top[1], bottom[1]]), {"long_name": "||H v - lambda v||"}),
                "converged": (("end", "rank"), np.stack([top[2], bottom[2]])),
                "gradient_norm": objective.gradient().double().norm().item(),
                "loss": objective.loss().item(),
                "tolerance": tolerance,
                "num_matvecs": num_matvecs,
            },
            coords={"end": ["largest", "smallest"], "rank": np.arange(self.k)},
        )
        verdict, reason = judge(answer)
        answer.attrs.update(verdict=verdict, verdict_reason=reason)
        if objective.normalization == "recalibrated":
            answer.attrs["derivatives"] = "with the recalibrated BatchNorm statistics held fixed"
        return answer

    def _ends(self, hessian: Hessian) -> tuple[list[np.ndarray], list[np.ndarray], int, float]:
        """Largest (descending) and smallest (ascending) values, residuals, flags; products spent; scale."""
        if 2 * self.k <= hessian.size:
            pairs = eigenpairs(hessian, 2 * self.k, "both", self.tol, self.seed, self.max_matvecs)
        else:
            pairs = eigenpairs(hessian, hessian.size, "largest", self.tol, self.seed)
        rows = _rows(pairs)
        return [r[: self.k] for r in rows], [r[::-1][: self.k] for r in rows], pairs.num_matvecs, pairs.scale


def _rows(pairs: Eigenpairs) -> list[np.ndarray]:
    return [pairs.values.numpy(), pairs.residuals.numpy(), pairs.converged.numpy()]
