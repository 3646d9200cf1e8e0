"""Where sharpness is measured, what every measure answers with, and how far losses can be told apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, isfinite, isnan, nan

import torch
from torch import Tensor

from landscape.objective import Objective, flat_gradient

# Losses of float32 networks differ by 1e-8 to 1e-7 from those in float64; ten times that is not told from zero.
_RESOLUTION_IN_EPS = 10


@dataclass(frozen=True)
class Measured:
    """One measure of sharpness with its error, and what it means.

    Attributes:
        value: The measure.
        standard_error: Of `value` where it is a mean over random draws; NaN elsewhere.
        low: Lower end of what `bounds` says; NaN where nothing is known.
        high: Upper end.
        bounds: What lies between `low` and `high`.
        rise: By how much the loss rises (nats, or the unit of the loss) where or on the average that the measure
            looked; NaN for second derivatives.
        first_order_share: The share of that rise which the gradient alone explains, gradient . step / rise: near 1 the
            number is slope, not curvature. NaN where there is no rise or no step.
        nonfinite: How many evaluated losses were NaN or infinite.
        num_passes: Passes over the data that it took.
        definition: The formula, with what was chosen in it.
        scale: How it changes when the loss or the parameters are rescaled.
        resolved: Whether the rise stands out of the rounding of the loss.
    """

    value: float
    definition: str
    scale: str
    standard_error: float = nan
    low: float = nan
    high: float = nan
    bounds: str = ""
    rise: float = nan
    first_order_share: float = nan
    nonfinite: int = 0
    num_passes: int = 0
    resolved: bool = True


@dataclass
class Point:
    """The point where an objective stands: its loss and gradient there, and rises of the loss around it.

    Attributes:
        objective: The function.
        loss: Its value at the point.
        gradient: (P,) in float64.
        nonfinite: How many losses around it were NaN or infinite so far.
    """

    objective: Objective
    loss: float
    gradient: Tensor
    nonfinite: int = field(default=0)

    @classmethod
    def of(cls, objective: Objective) -> Point:
        """Evaluate loss and gradient once.

        Raises:
            ValueError: If the loss or its gradient is not finite at the point itself.
        """
        loss, gradient = _loss_and_gradient(objective, objective.theta)
        if not isfinite(loss) or not gradient.isfinite().all():
            what = f"loss is {loss}" if not isfinite(loss) else "gradient is not finite"
            raise ValueError(f"the {what} at the checkpoint itself, so nothing can rise from it; check the weights.")
        return cls(objective, loss, gradient)

    @property
    def theta(self) -> Tensor:
        """(P,) the point."""
        return self.objective.theta

    @property
    def gradient_norm(self) -> float:
        """Euclidean norm of the gradient."""
        return self.gradient.norm().item()

    @property
    def resolution(self) -> float:
        """Rises of the loss below this are rounding."""
        return _RESOLUTION_IN_EPS * torch.finfo(self.objective.dtype).eps * max(1.0, abs(self.loss))

    def rise(self, step: Tensor) -> float:
        """L(theta + step) - L(theta) for a step (P,)."""
        return self._checked(self.objective.loss(self._moved(step)).item() - self.loss)

    def rise_and_gradient(self, step: Tensor) -> tuple[float, Tensor]:
        """The rise and the gradient (P,) there, in one pass over the data."""
        loss, gradient = _loss_and_gradient(self.objective, self._moved(step))
        return self._checked(loss - self.loss), gradient

    def share_of_slope(self, step: Tensor, rise: float) -> float:
        """Gradient . step / rise, NaN where the loss does not rise."""
        return (self.gradient @ step.double()).item() / rise if isfinite(rise) and rise > 0 else nan

    def _moved(self, step: Tensor) -> Tensor:
        return (self.theta.double() + step.double()).to(self.objective.dtype)

    def _checked(self, rise: float) -> float:
        self.nonfinite += not isfinite(rise)
        return rise


@dataclass
class Highest:
    """The highest rise seen so far and the step (P,) that leads there; no step, no rise, to begin with."""

    step: Tensor
    rise: float = 0.0

    def see(self, rise: float, step: Tensor) -> bool:
        """Look at a candidate; answer whether it is the highest so far. NaN and infinity stay for good."""
        if isnan(self.rise) or self.rise == inf:
            return False
        if rise > self.rise or not isfinite(rise):
            self.rise, self.step = (inf if rise == inf else nan) if not isfinite(rise) else rise, step
            return True
        return False

    @property
    def ended(self) -> bool:
        """Whether the loss was not finite somewhere, so that the search is over."""
        return not isfinite(self.rise)


def require_positive(**numbers: float) -> None:
    """Refuse what is not positive and finite.

    Raises:
        ValueError: With the name and the value.
    """
    for name, number in numbers.items():
        if not (isfinite(number) and number > 0):
            raise ValueError(f"{name} must be positive and finite, got {number}.")


def require_count(least: int, **numbers: int) -> None:
    """Refuse a count that is too small.

    Raises:
        ValueError: With the name and the value.
    """
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}.")


def _loss_and_gradient(objective: Objective, theta: Tensor) -> tuple[float, Tensor]:
    with torch.enable_grad(), objective.at(theta):
        tensors = objective.tensors(objective.layout)

        def both(batch: object) -> list[Tensor]:
            loss = objective.batch_loss(batch)
            return [loss, flat_gradient(loss, tensors)]

        loss, gradient = objective.average(both)
    return loss.item(), gradient
