"""Averages of the weights over the steps of a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from models.registry import Registry

AVERAGES = Registry("average")
"""Functions `(*, options)` that build a `WeightAverage`, or None."""


@dataclass(frozen=True)
class WeightAverage:
    """A mean of the weights that is kept up while they move: mean <- mean + share (weights - mean).

    Attributes:
        share: The share of the n-th weights that enter, counted from 1; that of the first is 1, so that they are
            copied.
        start: Epochs before the first weights enter.
    """

    share: Callable[[int], float]
    start: int = 0

    def takes(self, step: int, steps_per_epoch: int) -> bool:
        """Whether the weights after a step, counted from 1, enter the mean."""
        return step > self.start * steps_per_epoch


@AVERAGES.register("none")
def none() -> None:
    """Average nothing."""


@AVERAGES.register("ema")
def exponential_average(
    *, decay: float = 0.99, start: int = 0, warmup: Literal["corrected", "ramp", "none"] = "corrected"
) -> WeightAverage:
    """Forget old weights by a factor each step, from an epoch on (Polyak & Juditsky 1992; Tarvainen & Valpola 2017).

    A decay d remembers about 1 / (1 - d) steps. The first weights would count 1 / (1 - d) times as much as any other:
    `corrected` weighs all by d to the power of their age (the bias correction of Adam), `ramp` lets the decay grow as
    (n + 1) / (n + 10) after n steps, `none` leaves it so (`torch.optim.swa_utils.get_ema_multi_avg_fn`).
    """
    _require(0 <= decay < 1, "ema", "decay in [0, 1)", decay)
    _require_start("ema", start)

    def share(count: int) -> float:
        if count == 1:
            return 1.0
        if warmup == "corrected":
            return (1 - decay) / (1 - decay**count)
        return 1 - (min(decay, count / (count + 9)) if warmup == "ramp" else decay)

    return WeightAverage(share, start)


@AVERAGES.register("polyak")
def polyak_average(*, start: int = 0) -> WeightAverage:
    """Weigh all weights alike, from an epoch on (Polyak & Juditsky 1992)."""
    _require_start("polyak", start)
    return WeightAverage(lambda count: 1 / count, start)


def make_average(text: str) -> WeightAverage | None:
    """Build an average, written with its options as in "ema:0.999,start=5"; None for "none".

    Raises:
        ValueError: If the name is unknown, or an option is not taken or out of range.
    """
    built: WeightAverage | None = AVERAGES.build(text)
    return built


def _require_start(name: str, start: int) -> None:
    _require(start >= 0, name, "start of at least 0 epochs", start)


def _require(holds: bool, name: str, what: str, got: object) -> None:
    if not holds:
        raise ValueError(f"average {name!r} needs {what}, got {got}")
