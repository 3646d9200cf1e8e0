"""What numbers prove about a point: how far a critical point is, and what the signs of the curvature say."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
import xarray as xr

from landscape.objective import Objective
from landscape.provenance import allows_tf32

# Relative error of float32 Hessian products, measured 6e-7 to 1e-6; ten times that is the tolerance.
_PRODUCT_ERROR_IN_EPS = 100
FLAT = 1e-2  # ||Hg|| / (||H|| ||g||) at most this: the gradient lies in the kernel of H for all practical purposes


def product_error(objective: Objective) -> float:
    """Bound the relative error of a Hessian product."""
    error = _PRODUCT_ERROR_IN_EPS * torch.finfo(objective.dtype).eps
    if objective.dtype == torch.float32 and allows_tf32(objective.device):
        return max(error, 2.0**-10)  # TF32 keeps ten bits of each factor
    return error


@dataclass(frozen=True)
class Nearness:
    """How near a critical point is, from the gradient g and one product Hg.

    Along its gradient a quadratic has its critical point at the distance ||g||^2 / ||Hg|| or farther (exactly there
    where g is an eigenvector). The distance is measured in lengths of theta, so that neither the unit of the loss
    nor that of the parameters matters. It grows without bound where g lies in the kernel of H, however small g is,
    and stays large on a plateau where gradient and curvature die away together.

    Attributes:
        gradient_norm: ||g||.
        flatness: ||Hg|| / (||H|| ||g||) between 0 and 1; NaN where g or H is zero.
        distance: ||g||^2 / (||Hg|| length), 0 where the gradient cannot be told from zero.
    """

    gradient_norm: float
    flatness: float
    distance: float

    @classmethod
    def of(cls, gradient_norm: float, product_norm: float, scale: float, length: float, eps: float) -> Nearness:
        """Measure it.

        Args:
            gradient_norm: ||g||.
            product_norm: ||Hg||.
            scale: ||H||.
            length: ||theta||, or what else a distance is to be compared with.
            eps: Of the floating-point type; rounding theta to it moves the gradient by eps ||H|| ||theta||.
        """
        possible = scale > 0 and gradient_norm > 0
        flatness = product_norm / scale / gradient_norm if possible else float("nan")
        if gradient_norm <= eps * scale * length:
            return cls(gradient_norm, flatness, 0.0)
        if product_norm == 0 or length == 0:
            return cls(gradient_norm, flatness, float("inf"))
        return cls(gradient_norm, flatness, gradient_norm / product_norm * gradient_norm / length)

    @property
    def is_flat(self) -> bool:
        """Whether the gradient, where there is one, lies in the kernel of H."""
        return self.gradient_norm > 0 and not self.flatness > FLAT  # NaN: there is a gradient and H is zero

    def judge(self, tol: float) -> tuple[str, str] | None:
        """Say why this is no critical point, as a verdict with its reason; None if it is one."""
        if self.distance <= tol:
            return None
        far = f"a critical point is at least {self.distance:.1g} ||theta|| away, allowed {tol:.1g}"
        if self.is_flat:
            ratio = f"||g|| = {self.gradient_norm:.2g}, ||Hg|| / (||H|| ||g||) = {self.flatness:.1g}"
            return "not a critical point", f"gradient-flat: {ratio}; {far}"
        return "not a critical point", f"the gradient does not vanish: ||g|| = {self.gradient_norm:.2g}; {far}"


def judge(answer: xr.Dataset) -> tuple[str, str]:
    """Tell minimum, saddle or maximum from the ends of a spectrum, or say why it is undecided.

    A residual r certifies that an eigenvalue lies within r of the value given. So a value below -(tolerance + r)
    proves negative curvature; a minimum also needs the smallest values to be converged and above the tolerance, and
    that none was missed: where the answer has none_below (of every eigenvalue, or with probability 99%), it must not
    reach below -tolerance. For a maximum the same holds of none_above.
    The verdict is about curvature alone: it does not ask whether the gradient vanishes.

    Args:
        answer: eigenvalue, residual and converged over (end, rank), tolerance and, where known, none_below and
            none_above.

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
        missed = _missed("negative", "below", -float(answer.get("none_below", inf)), tolerance)
        return ("undecided", f"{missed}; {bounds}") if missed else ("minimum", f"every curvature is positive: {bounds}")
    if negative and high + high_error < -tolerance:
        missed = _missed("positive", "above", float(answer.get("none_above", -inf)), tolerance)
        return ("undecided", f"{missed}; {bounds}") if missed else ("maximum", f"every curvature is negative: {bounds}")
    return "undecided", f"the smallest curvature cannot be told from zero: {bounds}"


def _missed(sign: str, side: str, reach: float, tolerance: float) -> str:
    """Say what curvature of the other sign may have been missed: some of magnitude up to `reach`; empty if none."""
    if reach <= tolerance:
        return ""
    if reach == inf:
        return f"no {sign} curvature was found, but the products ended before it was looked for; raise max_matvecs"
    bound = -reach if side == "below" else reach
    known = f"no {sign} curvature was found, and none lies {side} {bound:.3g} with probability 99%"
    return f"{known}; one nearer zero may have been missed"
