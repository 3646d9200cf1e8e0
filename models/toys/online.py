"""The counter-examples to Adam: convex losses that change at every step, on which it goes to the worst point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.optimizers import OPTIMIZERS, check_optimizer
from models.toys.registry import TOYS, OnlineToy

FORMS = ("adam", "adam:amsgrad=true")
ARRIVED = 0.9
"""From here on x is said to be at an end of [-1, 1]."""
_KEPT = 2000  # places of a path that an answer keeps


@TOYS.register("reddi-online")
def reddi_online() -> OnlineToy:
    """Lines 1010 x at every 101st step and -10 x at all others, best at x = -1 (Reddi et al. 2018, section 3)."""

    def slopes(steps: int, seed: int) -> NDArray[np.float64]:
        return np.where(np.arange(1, steps + 1) % 101 == 1, 1010.0, -10.0)

    return OnlineToy(slopes, 10 / 101, (0.9, 0.99), 0.5, 200_000)


@TOYS.register("reddi-mod3")
def reddi_mod3(*, big: float = 4.0) -> OnlineToy:
    """Lines C x at every third step and -x at the two others, C = big, best at x = -1 (Reddi et al. 2018, theorem 1).

    Adam has no momentum here, and beta2 = 1 / (1 + C^2).

    Raises:
        ValueError: If big is not above 2, for which the theorem holds.
    """
    if not 2 < big < math.inf:
        raise ValueError(f"toy 'reddi-mod3' needs a finite big above 2, got {big}")

    def slopes(steps: int, seed: int) -> NDArray[np.float64]:
        return np.where(np.arange(1, steps + 1) % 3 == 1, big, -1.0)

    return OnlineToy(slopes, (big - 2) / 3, (0.0, 1 / (1 + big**2)), 0.1, 6000)


@TOYS.register("reddi-stochastic")
def reddi_stochastic() -> OnlineToy:
    """Lines 1010 x with probability 0.01 and -10 x else, drawn anew each step (Reddi et al. 2018, section 5)."""

    def slopes(steps: int, seed: int) -> NDArray[np.float64]:
        return np.where(np.random.default_rng(seed).random(steps) < 0.01, 1010.0, -10.0)

    return OnlineToy(slopes, 0.2, (0.9, 0.99), 0.5, 1_000_000)


def online(
    toy: str,
    optimizers: Sequence[str] = FORMS,
    lr: float | None = None,
    steps: int | None = None,
    *,
    seed: int = 0,
) -> xr.Dataset:
    """Let forms of Adam meet an online problem, from x = 0, with the learning rate lr / sqrt(t) and x held in [-1, 1].

    Args:
        toy: One of the online problems among `TOYS`, with its options.
        optimizers: Forms of "adam", with its options.
        lr: Learning rate of the first step; None takes the problem's.
        steps: None takes the problem's.
        seed: Of a problem that draws its losses.

    Returns:
        Dims (optimizer, step): `x` and `regret`, the mean over steps of f_t(x_t) - f_t(-1), at up to 2,000 steps evenly
        spread in the logarithm; `final_x` and `verdict`.

    Raises:
        ValueError: If the toy is not such a problem, an optimizer is no form of Adam, or a number cannot be used.

    References:
        Reddi, Kale, Kumar, "On the convergence of Adam and beyond", ICLR 2018.
    """
    problem = TOYS.build(toy)
    if not isinstance(problem, OnlineToy):
        raise ValueError(f"toy {toy!r} is a surface, not an online problem; race it with race()")
    lr, steps = problem.lr if lr is None else lr, problem.steps if steps is None else steps
    if steps < 1 or not 0 < lr < math.inf:
        raise ValueError(f"an online problem needs at least 1 step and lr above 0, got {steps} and {lr}")
    if len(set(optimizers)) < len(optimizers) or not optimizers:
        raise ValueError(f"expected different forms of adam, got {', '.join(optimizers) or 'none'}")
    slopes = problem.slopes(steps, seed)
    kept = np.unique(np.geomspace(1, steps, _KEPT).round().astype(np.int64))
    paths = np.stack([adam_path(slopes, lr, **adam_options(text, problem.betas)) for text in optimizers])
    regrets = np.cumsum(slopes * (paths[:, :-1] + 1), axis=1) / np.arange(1, steps + 1)
    return xr.Dataset(
        {
            "x": (("optimizer", "step"), paths[:, kept]),
            "regret": (("optimizer", "step"), regrets[:, kept - 1]),
            "final_x": ("optimizer", paths[:, -1]),
            "verdict": ("optimizer", [verdict(x) for x in paths[:, -1]]),
        },
        {"optimizer": list(optimizers), "step": kept},
        {
            "probe": "race-online",
            "toy": TOYS.write(*TOYS.read(toy)),
            "lr": lr,
            "steps": steps,
            "seed": seed,
            "mean_slope": problem.mean_slope,
            "beta1": problem.betas[0],
            "beta2": problem.betas[1],
        },
    )


def adam_options(text: str, betas: tuple[float, float]) -> dict[str, Any]:
    """The options of a form of Adam, as `adam_path` takes them.

    Raises:
        ValueError: If it is no form of Adam.
    """
    name, given = check_optimizer(text, 0.0)
    if name != "adam":
        raise ValueError(f"online problems race forms of adam, got {text!r}; write adam or adam:amsgrad=true")
    return {**OPTIMIZERS.options(name), "betas": betas, **given}


def adam_path(
    slopes: NDArray[np.float64],
    lr: float,
    betas: tuple[float, float],
    eps: float,
    bias_correction: bool,
    amsgrad: bool,
) -> NDArray[np.float64]:
    """(T + 1,) where Adam goes from 0 on losses c_t x, with the rate lr / sqrt(t), projected to [-1, 1].

    The optimizer "adam" of one parameter, in plain numbers, since 200,000 steps of tensors would take minutes.

    References:
        Reddi et al., "On the convergence of Adam and beyond", ICLR 2018, algorithms 1 and 2.
    """
    beta1, beta2 = betas
    x = mean = second = largest = 0.0
    left1 = left2 = 1.0  # beta1^t and beta2^t
    path = np.empty(len(slopes) + 1)
    path[0] = x
    for t, gradient in enumerate(slopes.tolist(), 1):
        mean = beta1 * mean + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient * gradient
        largest = max(largest, second)
        left1, left2 = left1 * beta1, left2 * beta2
        used = largest if amsgrad else second
        if bias_correction:
            step = mean / (1 - left1) / (math.sqrt(used / (1 - left2)) + eps)
        else:
            step = mean / (math.sqrt(used) + eps)
        x = min(1.0, max(-1.0, x - lr / math.sqrt(t) * step))
        path[t] = x
    return path


def verdict(x: float) -> str:
    """What it means where a path ended.

    >>> verdict(0.99), verdict(-1.0), verdict(-0.2)
    ('at the worst point', 'at the best point', 'at neither end')
    """
    if x >= ARRIVED:
        return "at the worst point"
    return "at the best point" if x <= -ARRIVED else "at neither end"
