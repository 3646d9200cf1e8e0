"""Both ends of the Hessian's spectrum, and what they say about the point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from landscape.eigen import Eigenpairs, eigenpairs
from landscape.objective import Objective
from landscape.operators import Hessian
from landscape.provenance import allows_tf32

# Relative error of float32 Hessian products, measured 6e-7 to 1e-6; ten times that is the tolerance.
_PRODUCT_ERROR_IN_EPS = 100


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
        tolerance = _product_error(objective) * scale
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


def _product_error(objective: Objective) -> float:
    """Bound the relative error of a Hessian product."""
    error = _PRODUCT_ERROR_IN_EPS * torch.finfo(objective.dtype).eps
    if objective.dtype == torch.float32 and allows_tf32(objective.device):
        return max(error, 2.0**-10)  # TF32 keeps ten bits of each factor
    return error


def judge(answer: xr.Dataset) -> tuple[str, str]:
    """Tell minimum, saddle or maximum from the ends of a spectrum, or say why it is undecided.

    A residual r certifies that an eigenvalue lies within r of the value given. So a value below -(tolerance + r)
    proves negative curvature; a minimum also needs the smallest values to be converged and above the tolerance.
    The verdict is about curvature alone: it does not ask whether the gradient vanishes.

    Returns:
        The verdict and one sentence of reason.
    """
    tolerance = float(answer["tolerance"])
    value, residual = answer["eigenvalue"], answer["residual"]
    low, low_error = float(value.sel(end="smallest", rank=0)), float(residual.sel(end="smallest", rank=0))
    high, high_error = float(value.sel(end="largest", rank=0)), float(residual.sel(end="largest", rank=0))
    converged = bool(answer["converged"].sel(rank=0).all())
    negative, positive = low + low_error < -tolerance, high - high_error > tolerance
    bounds = f"smallest {low:.3g} ± {low_error:.1g}, largest {high:.3g} ± {high_error:.1g}, tolerance {tolerance:.1g}"
    if negative and positive:
        return "saddle", f"curvature of both signs: {bounds}"
    if not converged:
        return "undecided", f"the ends of the spectrum have not converged: {bounds}"
    if positive and low - low_error > tolerance:
        return "minimum", f"every curvature is positive: {bounds}"
    if negative and high + high_error < -tolerance:
        return "maximum", f"every curvature is negative: {bounds}"
    return "undecided", f"the smallest curvature cannot be told from zero: {bounds}"


def _rows(pairs: Eigenpairs) -> list[np.ndarray]:
    return [pairs.values.numpy(), pairs.residuals.numpy(), pairs.converged.numpy()]
