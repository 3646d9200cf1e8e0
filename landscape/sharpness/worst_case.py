"""How high the loss can rise within a ball around the point: SAM, ASAM, m-sharpness."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, isfinite, nan, sqrt

import torch
from torch import Tensor

from landscape.directions import gaussian
from landscape.objective import Objective, flat_gradient
from landscape.sharpness.point import Highest, Measured, Point, require_count, require_positive
from landscape.sharpness.scales import REPARAMETRIZATION, by_sizes, sizes

_STARTS = "lowest and highest of the starts; each is a lower bound of the maximum"
_HALVINGS = 8  # of the step length, before an ascent is taken to have arrived


def sam_one_step(
    objective: Objective, rho: float = 0.05, scale: str = "none", p: float = 2.0, *, point: Point | None = None
) -> Measured:
    """Rise of the loss after the one step that sharpness-aware minimization takes.

    L(theta + e) - L(theta) with e = rho g / ||g||; with a scale T, e = rho T^2 g / ||T g|| (p = 2) or
    rho T sign(g) (p = inf). At a point without gradient there is no such step and the answer is 0.

    Args:
        objective: Where.
        rho: Radius of the ball {||T^-1 e||_p <= rho}.
        scale: T: ``none``, ``element`` (|theta_i|) or ``filter`` (norm of each filter, see `sizes`).
        p: 2 or infinity.
        point: The point, where it has been evaluated before.

    Raises:
        ValueError: If rho is not positive, p is neither 2 nor infinity, or the scale is unknown.

    References:
        Foret et al., "Sharpness-Aware Minimization", ICLR 2021; Kwon et al., "ASAM", ICML 2021, eq. 4.
    """
    _require_ball(rho, p)
    T, before = sizes(objective, scale), objective.num_passes
    point, seen = _starting(point, objective)
    step = T * _towards(T * point.gradient, rho, p)
    rise = point.rise(step) if step.any() else 0.0
    return Measured(
        value=rise,
        definition=f"L(theta + e) - L(theta), e the one step of {_ball(scale, p)} along the gradient, rho = {rho:g}",
        scale=_how_it_scales(scale),
        rise=rise,
        first_order_share=point.share_of_slope(step, rise),
        nonfinite=point.nonfinite - seen,
        num_passes=objective.num_passes - before,
        resolved=not abs(rise) <= point.resolution,
    )


def sam(
    objective: Objective,
    rho: float = 0.05,
    steps: int = 20,
    restarts: int = 2,
    seed: int = 0,
    scale: str = "none",
    p: float = 2.0,
    *,
    point: Point | None = None,
) -> Measured:
    """Highest rise of the loss within a ball, max over ||T^-1 e||_p <= rho of L(theta + e) - L(theta).

    Projected gradient ascent in z = T^-1 e. A step as long as the ball is wide is tried first, which on a convex
    loss never descends (it is the power method, so that at a minimum the rise tends to rho^2 lambda_max(T H T) / 2);
    where the loss does descend the step is halved. The first ascent begins at the one step of `sam_one_step`, the
    others at random points of the sphere, and theta itself counts: the value is never below the one step's, nor
    below 0. It is a lower bound of the maximum.

    Args:
        objective: Where.
        rho: Radius of the ball.
        steps: Gradients evaluated in each ascent.
        restarts: Ascents; `low` and `high` are the lowest and highest found by them.
        seed: Of the random starts.
        scale: T: ``none``, ``element`` or ``filter``, as in `sam_one_step`.
        p: 2 or infinity.
        point: The point, where it has been evaluated before.

    Raises:
        ValueError: If rho is not positive, p is neither 2 nor infinity, a count is below 1, or the scale is unknown.

    References:
        Foret et al., "Sharpness-Aware Minimization", ICLR 2021; Kwon et al., "ASAM: Adaptive Sharpness-Aware
        Minimization", ICML 2021; Andriushchenko et al., "A Modern Look at the Relationship between Sharpness and
        Generalization", ICML 2023. Logits are not normalized. The long step: Journee et al., "Generalized Power
        Method for Sparse Principal Component Analysis", JMLR 2010.
    """
    _require_ball(rho, p)
    require_count(1, steps=steps, restarts=restarts)
    T, before = sizes(objective, scale), objective.num_passes
    point, seen = _starting(point, objective)
    best, found = Highest(torch.zeros_like(T)), []
    for start in _starts(T * point.gradient, rho, p, restarts, seed):
        ascent = _ascend(point, T, start, rho, p, steps)
        best.see(ascent.rise, ascent.step)
        found.append(ascent.rise)
        if best.ended:
            break
    return Measured(
        value=best.rise,
        definition=f"max of L(theta + e) - L(theta) over {_ball(scale, p)}, rho = {rho:g}, projected ascent of {steps} "
        f"steps from {restarts} starts; logits not normalized",
        scale=_how_it_scales(scale),
        low=min(found) if restarts > 1 and isfinite(best.rise) else nan,
        high=best.rise if restarts > 1 and isfinite(best.rise) else nan,
        bounds=_STARTS,
        rise=best.rise,
        first_order_share=point.share_of_slope(best.step, best.rise),
        nonfinite=point.nonfinite - seen,
        num_passes=objective.num_passes - before,
        resolved=not best.rise <= point.resolution,
    )


def m_sharpness(objective: Objective, m: int = 128, rho: float = 0.05) -> Measured:
    """Mean over disjoint batches of m examples of the batch loss's own rise after one step along its own gradient.

    Args:
        objective: Where.
        m: Examples a batch; the last one may be smaller and counts by its size.
        rho: Length of the step.

    Raises:
        ValueError: If rho is not positive, m is below 1, or the loss is not the mean of its examples' own.

    References:
        Foret et al., "Sharpness-Aware Minimization", ICLR 2021, section 4 (m-sharpness).
    """
    require_positive(rho=rho)
    require_count(1, m=m)
    require_own_losses(objective)
    rises, slopes, shares = [], [], []
    for batch, number in objective.examples.batches(m):
        with torch.enable_grad(), objective.at():
            loss = objective.batch_loss(batch)
            gradient = flat_gradient(loss, objective.tensors(objective.layout)).double()
        step = _towards(gradient, rho, 2.0)
        with torch.no_grad(), objective.at((objective.theta.double() + step).to(objective.dtype)):
            rises.append(objective.batch_loss(batch).item() - loss.item())
        slopes.append((gradient @ step).item())
        shares.append(number / len(objective.examples))
    objective.num_passes += 2  # one forward and backward, one forward
    value = sum(rise * share for rise, share in zip(rises, shares, strict=True))
    slope = sum(one * share for one, share in zip(slopes, shares, strict=True))
    resolution = 10 * torch.finfo(objective.dtype).eps
    return Measured(
        value=value,
        definition=f"mean over disjoint batches of {m} examples of L_B(theta + e) - L_B(theta), e = rho g_B / ||g_B||, "
        f"rho = {rho:g}",
        scale=_how_it_scales("none"),
        rise=value,
        first_order_share=slope / value if isfinite(value) and value > 0 else nan,
        nonfinite=sum(not isfinite(rise) for rise in rises),
        num_passes=2,
        resolved=not abs(value) <= resolution,
    )


def require_own_losses(objective: Objective) -> None:
    """Refuse a loss of which single batches have no share of their own.

    Raises:
        ValueError: If the loss is not the mean of its examples' own, or the data cannot be cut.
    """
    if objective.depends_on_cuts or objective.normalization == "recalibrated" or not objective.examples.divisible:
        raise ValueError(
            'm-sharpness needs a loss that is the mean over examples whatever the batch; use normalization="running".'
        )


def _starting(point: Point | None, objective: Objective) -> tuple[Point, int]:
    point = point or Point.of(objective)
    return point, point.nonfinite


def _require_ball(rho: float, p: float) -> None:
    require_positive(rho=rho)
    if p not in (2.0, inf):
        raise ValueError(f"p must be 2 or infinity, got {p}.")


def _ball(scale: str, p: float) -> str:
    return f"||{by_sizes('e', scale)}||_{'inf' if p == inf else '2'} <= rho"


def _how_it_scales(scale: str) -> str:
    return f"in the unit of the loss and in proportion to it; {REPARAMETRIZATION[scale]}"


def _towards(direction: Tensor, rho: float, p: float) -> Tensor:
    """The point of the ball that lies farthest along a direction."""
    if p == inf:
        return rho * direction.sign()
    length = direction.norm()
    return rho * direction / length if length > 0 else torch.zeros_like(direction)


def _projected(z: Tensor, rho: float, p: float) -> Tensor:
    if p == inf:
        return z.clamp(-rho, rho)
    return z * min(1.0, rho / z.norm().item())


def _starts(gradient: Tensor, rho: float, p: float, restarts: int, seed: int) -> Iterator[Tensor]:
    """The one step along the gradient, then random points of the sphere."""
    for restart in range(restarts):
        if restart == 0 and gradient.any():
            yield _towards(gradient, rho, p)
        else:
            yield _towards(gaussian(len(gradient), seed, restart).to(gradient), rho, p)


def _ascend(point: Point, T: Tensor, start: Tensor, rho: float, p: float, steps: int) -> Highest:
    """Climb from a start inside the ball and return the highest point met."""
    best, z, length, halvings = Highest(torch.zeros_like(T)), start, inf, 0
    uphill = torch.zeros_like(T)
    here = -inf
    candidate = start
    for _ in range(steps):
        rise, gradient = point.rise_and_gradient(T * candidate)
        best.see(rise, T * candidate)
        if best.ended or not gradient.isfinite().all():
            break
        if rise > here:
            z, here, uphill = candidate, rise, _towards(T * gradient, rho, p)
        else:
            length, halvings = (2.0 if length == inf else length) / 2, halvings + 1
        candidate = uphill if length == inf else _projected(z + length * uphill, rho, p)
        if halvings > _HALVINGS or (candidate - z).norm() <= 1e-7 * rho * sqrt(len(z) if p == inf else 1):
            break
    return best
