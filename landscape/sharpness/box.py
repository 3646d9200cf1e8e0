"""The epsilon-sharpness of Keskar et al.: how high the loss rises in a box around the point."""

from __future__ import annotations

from contextlib import suppress
from math import isfinite, nan

import numpy as np
import torch
from torch import Tensor

from landscape.directions import gaussian
from landscape.objective import Objective
from landscape.sharpness.point import Highest, Measured, Point, require_count, require_positive

# The largest slope that L-BFGS-B sees first, in boxes, is 1 / unit. Steep starts reach the corners that the gradient
# points to (15% higher after 10 iterations on a trained network), gentle ones the best corner around an exact minimum.
_UNITS = (1e-3, 1.0)  # of the first start, of the second, and so on in turn
_START = 1e-3  # of the box: a minimum itself is a stationary point, from which no ascent begins


class _NotFinite(Exception):
    """The loss was not finite, so the search is over."""


def keskar(
    objective: Objective,
    epsilon: float = 1e-3,
    subspace: int | None = None,
    iterations: int = 10,
    restarts: int = 1,
    seed: int = 0,
    *,
    point: Point | None = None,
) -> Measured:
    """Sharpness of Keskar et al., in their percent: 100 (max L(x + A y) - L(x)) / (1 + L(x)) over a box of y.

    The box is |y_i| <= epsilon (|(A^+ x)_i| + 1), with A the identity, or (P, p) standard normal entries for a random
    subspace. The maximizer is L-BFGS-B from a random start of a thousandth of the box, run in the units of the box
    and of the first gradient, so that the answer does not depend on the unit of the loss. What it finds is a
    lower bound of the maximum. At a minimum the rise is of second order in epsilon; where a gradient is left it is of
    first order, 100 epsilon sum |g_i| (|x_i| + 1) / (1 + L), and says little of curvature.

    Args:
        objective: Where. The published setting is the whole training set.
        epsilon: 1e-3 and 5e-4 are published.
        subspace: Dimensions p of a random subspace, 100 as published (at most P); None for the full space.
        iterations: Of L-BFGS-B, 10 as published.
        restarts: Searches from different starts (and, in a subspace, the same A); `low` and `high` are the lowest and
            highest of them. One is published.
        seed: Of the start and of A.
        point: The point, where it has been evaluated before.

    Raises:
        ValueError: If epsilon is not positive, a count is below 1, or the loss is at or below -1.

    References:
        Keskar et al., "On Large-Batch Training for Deep Learning: Generalization Gap and Sharp Minima", ICLR 2017,
        Metric 2.1 and section 2.2.2.
    """
    require_positive(epsilon=epsilon)
    require_count(1, iterations=iterations, restarts=restarts, **({} if subspace is None else {"subspace": subspace}))
    before = objective.num_passes
    point = point or Point.of(objective)
    require_percent(point)
    seen = point.nonfinite
    space = _Space(objective.theta.double(), epsilon, subspace, seed)
    best, found = Highest(torch.zeros_like(space.theta)), []
    for restart in range(restarts):
        highest = _search(point, space, iterations, seed, restart)
        best.see(highest.rise, highest.step)
        found.append(highest.rise)
        if best.ended:
            break
    per_rise = 100 / (1 + point.loss)
    spread = restarts > 1 and isfinite(best.rise)
    where = "the full space" if space.basis is None else f"a random subspace of {len(space.bounds)} dimensions"
    return Measured(
        value=per_rise * best.rise,
        definition=f"100 (max L(x + A y) - L(x)) / (1 + L(x)) over |y_i| <= epsilon (|(A^+ x)_i| + 1), {where}, "
        f"epsilon = {epsilon:g}, L-BFGS-B, {iterations} iterations, {restarts} start(s)",
        scale="percent of 1 + loss, so not in proportion to the loss; changes when a layer is rescaled and the next "
        "one divided by as much",
        low=per_rise * min(found) if spread else nan,
        high=per_rise * best.rise if spread else nan,
        bounds="lowest and highest of the starts; each is a lower bound of the maximum",
        rise=best.rise,
        first_order_share=point.share_of_slope(best.step, best.rise),
        nonfinite=point.nonfinite - seen,
        num_passes=objective.num_passes - before,
        resolved=not best.rise <= point.resolution,
    )


def require_percent(point: Point) -> None:
    """Refuse a loss of which the measure cannot be a percentage: its denominator 1 + L must be positive.

    Raises:
        ValueError: If the loss is at or below -1.
    """
    if point.loss <= -1:
        raise ValueError(
            f"Keskar's sharpness is in percent of 1 + loss, which must be positive, but the loss is {point.loss:.6g}; "
            "add a constant to the loss so that it is not negative, or choose another measure, such as sam."
        )


class _Space:
    """The box and the linear map from it into parameter space.

    Attributes:
        theta: (P,) the point, float64.
        basis: (P, p) the matrix A; None for the identity.
        bounds: (p,) half widths of the box.
    """

    def __init__(self, theta: Tensor, epsilon: float, subspace: int | None, seed: int):
        self.theta, self.basis = theta, None
        coordinates = theta
        if subspace is not None:
            columns = min(subspace, len(theta))
            # Drawn on the CPU, so that every device has the same; axis numbers far from those of the starts.
            drawn = [gaussian(len(theta), seed, 10_000 + column) for column in range(columns)]
            self.basis = torch.stack(drawn, dim=1).to(theta)
            coordinates = torch.linalg.lstsq(self.basis, theta.unsqueeze(1)).solution.squeeze(1)
        self.bounds = epsilon * (coordinates.abs() + 1)

    def step(self, unit: Tensor) -> Tensor:
        """From the unit box [-1, 1]^p to a step (P,)."""
        inside = unit.clamp(-1, 1) * self.bounds
        return inside if self.basis is None else self.basis @ inside

    def pulled_back(self, gradient: Tensor) -> Tensor:
        """From a gradient (P,) to one with respect to the unit box."""
        return (gradient if self.basis is None else self.basis.T @ gradient) * self.bounds


def _search(point: Point, space: _Space, iterations: int, seed: int, restart: int) -> Highest:
    from scipy.optimize import minimize

    highest = Highest(torch.zeros_like(space.theta))
    unit = gaussian(len(space.bounds), seed, restart).to(space.bounds)
    start = _START * unit / unit.abs().max()
    unit_of_loss = None

    def fall(u: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal unit_of_loss
        step = space.step(torch.as_tensor(u).to(space.bounds))
        rise, gradient = point.rise_and_gradient(step)
        highest.see(rise, step)
        if highest.ended or not gradient.isfinite().all():
            raise _NotFinite
        slope = space.pulled_back(gradient).cpu().numpy()
        if unit_of_loss is None:
            unit_of_loss = _UNITS[restart % len(_UNITS)] * float(np.abs(slope).max()) or 1.0
        return -rise / unit_of_loss, -slope / unit_of_loss

    box = [(-1.0, 1.0)] * len(space.bounds)
    options = {"maxiter": iterations, "ftol": 0.0, "gtol": 0.0}
    with suppress(_NotFinite):
        minimize(fall, start.cpu().numpy(), jac=True, method="L-BFGS-B", bounds=box, options=options)
    return highest
