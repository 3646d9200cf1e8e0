"""Spectral density of a curvature matrix, with its outliers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from landscape.density import DECADES, Density, spectral_density
from landscape.eigen import eigenpairs
from landscape.fields import settle
from landscape.objective import Objective
from landscape.operators import PRECONDITIONED, TITLES, LinearOperator, OperatorName, curvature, require_operator
from landscape.verdict import product_error


@dataclass(frozen=True)
class SpectralDensity:
    """Spectral density of the Hessian of the training loss, or of the matrix that operator names, with its outliers.

    The spread over the probes is the error of the density; the outliers at both ends are computed by themselves.

    Attributes:
        steps: Lanczos steps of each probe.
        num_probes: Random vectors; their spread is the error.
        k: Outliers at each end that are computed as eigenpairs; 0 for none.
        tol: Residuals of the outliers are driven below tol times the largest eigenvalue magnitude.
        sigma: Width of the smoothing Gaussian; None for 0.3% of the range.
        seed: Seed of the probes.
        parameters: Pattern of a block of parameters, such as layer3.*.
        operator: Which matrix: the Hessian, its Gauss-Newton part, the Fisher information with drawn labels or with
            those of the data, or the Hessian in the metric of the run's adaptive optimizer.
    """

    steps: int = 80
    num_probes: int = 10
    k: int = 5
    tol: float = 1e-3
    sigma: float | None = None
    seed: int = 0
    parameters: str = "*"
    operator: OperatorName = "hessian"

    def __post_init__(self) -> None:
        require_operator(self.operator)
        if self.steps < 1 or self.num_probes < 1:
            raise ValueError(f"steps and num_probes must be at least 1, got {self.steps} and {self.num_probes}.")
        if self.k < 0 or self.seed < 0:
            raise ValueError(f"k and seed must be at least 0, got {self.k} and {self.seed}.")
        if not 0 < self.tol < 1:
            raise ValueError(f"tol must lie between 0 and 1, got {self.tol}.")
        if self.sigma is not None and not 0 < self.sigma < float("inf"):
            raise ValueError(f"sigma must be positive and finite, got {self.sigma}.")
        settle(self)

    @property
    def uses_optimizer(self) -> bool:
        """Whether the answer depends on the optimizer's state."""
        return self.operator == PRECONDITIONED

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Compute the density and the outliers.

        Returns:
            density and density_standard_error over `curvature`; the same per decade over `magnitude`, as
            log_density_positive and log_density_negative with their standard errors, and near_zero, the share closer
            to zero than the probes resolve, between near_zero_low and near_zero_high; ritz_value, weight, diagonal
            and off_diagonal over (probe, node), from which all else follows; eigenvalue, residual and converged over
            (end, rank) where k is not 0; num_negative, how many eigenvalues lie below -tolerance, with
            num_negative_low and num_negative_high; tolerance, sigma, num_matvecs, loss.

        Raises:
            ValueError: If 2 k exceeds the number of parameters.
            RuntimeError: If a Hessian product is not finite.
        """
        hessian = curvature(objective, self.operator, self.parameters, self.seed)
        if 2 * self.k > hessian.size:
            raise ValueError(f"k must be at most half the number of parameters {hessian.size}, got {self.k}.")
        found = spectral_density(hessian, self.steps, self.num_probes, self.seed, self.sigma)
        outliers, spent = self._outliers(hessian)
        tolerance = product_error(objective) * found.nodes.abs().max().item()
        negative = found.count(high=-tolerance)
        answer = _dataset(found, f"eigenvalue of the {TITLES[self.operator]}").assign(
            outliers
            | {
                "num_negative": ((), negative.estimate, {"long_name": "eigenvalues below -tolerance"}),
                "num_negative_low": negative.interval[0],
                "num_negative_high": negative.interval[1],
                "tolerance": tolerance,
                "sigma": ((), found.sigma, {"long_name": "width of the smoothing Gaussian", "units": "nats"}),
                "num_matvecs": found.num_matvecs + spent,
                "loss": objective.loss().item(),
            }
        )
        answer.attrs["products"] = json.dumps(hessian.strategy)
        answer.attrs["num_eigenvalues"] = hessian.size
        return answer

    def _outliers(self, hessian: LinearOperator) -> tuple[dict[str, Any], int]:
        if not self.k:
            return {}, 0
        pairs = eigenpairs(hessian, 2 * self.k, "both", self.tol, self.seed)
        rows = {
            "eigenvalue": (pairs.values, {"long_name": f"eigenvalue of the {TITLES[self.operator]}", "units": "nats"}),
            "residual": (pairs.residuals, {"long_name": "||H v - lambda v||", "units": "nats"}),
            "converged": (pairs.converged, {}),
        }
        ends = {
            name: (("end", "rank"), np.stack([row.numpy()[: self.k], row.numpy()[::-1][: self.k]]), attrs)
            for name, (row, attrs) in rows.items()
        }
        return {**ends, "end": ["largest", "smallest"], "rank": np.arange(self.k)}, pairs.num_matvecs


def _dataset(found: Density, title: str) -> xr.Dataset:
    logs = found.logarithmic()
    by_probe, per_decade = ("probe", "node"), {"units": "1 / decade"}
    return xr.Dataset(
        {
            "density": ("curvature", found.density.numpy(), {"long_name": "share per unit", "units": "1 / nats"}),
            "density_standard_error": ("curvature", found.standard_error.numpy()),
            "log_density_positive": ("magnitude", logs.positive.numpy(), per_decade),
            "log_density_positive_standard_error": ("magnitude", logs.positive_error.numpy(), per_decade),
            "log_density_negative": ("magnitude", logs.negative.numpy(), per_decade),
            "log_density_negative_standard_error": ("magnitude", logs.negative_error.numpy(), per_decade),
            "near_zero": ((), logs.near_zero, {"long_name": "share closer to zero than the probes resolve"}),
            "near_zero_low": logs.near_zero_interval[0],
            "near_zero_high": logs.near_zero_interval[1],
            "ritz_value": (by_probe, found.nodes.numpy(), {"long_name": "Ritz value", "units": "nats"}),
            "weight": (by_probe, found.weights.numpy(), {"long_name": "squared first component"}),
            "diagonal": (by_probe, found.diagonal.numpy()),
            "off_diagonal": (by_probe, found.off_diagonal.numpy()),
        },
        coords={
            "curvature": (
                "curvature",
                found.grid.numpy(),
                {"long_name": title, "units": "nats"},
            ),
            "magnitude": ("magnitude", logs.magnitude.numpy(), {"units": "nats", "decades": DECADES}),
        },
    )
