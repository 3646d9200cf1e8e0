"""Learning-rate schedules: a factor on the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable

from models.registry import Registry

SCHEDULES = Registry("schedule")
"""Functions `(t, total, warmup)`: the factor `t` steps after warm-up, of `total` such steps."""


@SCHEDULES.register("constant")
def constant(t: int, total: int, warmup: int) -> float:
    """Stay at 1."""
    return 1.0


@SCHEDULES.register("step")
def step_decay(t: int, total: int, warmup: int) -> float:
    """Divide by ten after 30, 60 and 90 percent of the steps (He et al. 2016)."""
    return 0.1 ** sum(t * 100 >= share * total for share in (30, 60, 90))


@SCHEDULES.register("cosine")
def cosine(t: int, total: int, warmup: int) -> float:
    """Fall as (1 + cos(pi t / total)) / 2 (Loshchilov & Hutter 2017, without restarts)."""
    return (1 + math.cos(math.pi * min(t / total, 1))) / 2


@SCHEDULES.register("linear")
def linear(t: int, total: int, warmup: int) -> float:
    """Fall as 1 - t / total."""
    return max(1 - t / total, 0.0)


@SCHEDULES.register("inverse-sqrt")
def inverse_sqrt(t: int, total: int, warmup: int) -> float:
    """Fall as sqrt(w / (w + t)) with w = max(warmup, 1), and so meet the warm-up (Vaswani et al. 2017)."""
    scale = max(warmup, 1)
    return math.sqrt(scale / (scale + t))


def make_schedule(name: str, total: int, warmup: int = 0) -> Callable[[int], float]:
    """Return the factor on the learning rate as a function of the step, counted from 0 (for `LambdaLR`).

    Args:
        name: One of `SCHEDULES`.
        total: Steps of the whole training, warm-up included.
        warmup: Steps of linear warm-up: step k < warmup has the factor (k + 1) / warmup.

    Raises:
        ValueError: If the name is unknown, or `warmup` is negative or leaves no step after it.
    """
    decay = SCHEDULES[name]
    if warmup < 0 or warmup >= max(total, 1):
        raise ValueError(f"warmup must be at least 0 and less than the {total} steps of the training, got {warmup}")

    def factor(step: int) -> float:
        return (step + 1) / warmup if step < warmup else decay(step - warmup, max(total - warmup, 1), warmup)

    return factor
