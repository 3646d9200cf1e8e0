"""Averages of the weights over a training: which weights enter, and how much each counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class WeightAverage:
    """A mean of the weights that is kept up while they move.

    Attributes:
        share: The share of the n-th weights that enter, counted from 1, as in mean <- mean + share (weights - mean);
            that of the first is 1, so that they are copied.
        start: When the first weights enter: below 1 a share of the training, rounded up to whole epochs, from 1 on a
            number of epochs.
        every: Weights enter at the ends of every so many epochs, that of epoch `start` among them; 0 for after each
            step that comes after it.
        window: Only so many of the last weights count, all alike; 0 for all of them as `share` says.
    """

    share: Callable[[int], float]
    start: float = 0
    every: int = 0
    window: int = 0

    def takes(self, step: int, steps_per_epoch: int, epochs: int | None) -> bool:
        """Whether the weights after a step enter the mean.

        Args:
            step: Optimizer updates so far, counted from 1.
            steps_per_epoch: Updates an epoch.
            epochs: Of the whole training; None only where `start` is no share of it.
        """
        begin = self.first_epoch(epochs)
        if not self.every:
            return step > begin * steps_per_epoch
        epoch, within = divmod(step, steps_per_epoch)
        return within == 0 and epoch >= max(begin, 1) and (epoch - begin) % self.every == 0

    def first_epoch(self, epochs: int | None) -> int:
        """Return the number of whole epochs before the first weights enter.

        Raises:
            ValueError: If `start` is a share of a training whose length is not known.
        """
        if not 0 < self.start < 1:
            return int(self.start)
        if epochs is None or epochs < 0:
            raise ValueError(
                f"the average starts after a share of {self.start:g} of the epochs, but their number is not known; "
                "give max_epochs to the Trainer, or start after a number of epochs"
            )
        return math.ceil(self.start * epochs - 1e-9)


@dataclass
class RunningMean:
    """What has entered an average so far.

    Attributes:
        average: Which share each has.
        count: How many weights have entered.
        kept: The mean as tensors; or the last ones of a window, the oldest first.
    """

    average: WeightAverage
    count: int = 0
    kept: list[Any] = field(default_factory=list)

    def add(self, weights: Iterable[Tensor]) -> None:
        """Let weights enter; they are copied."""
        self.count += 1
        if self.average.window:
            copies = [weight.detach().clone() for weight in weights]
            self.kept = [*self.kept, copies][-self.average.window :]
        elif self.count == 1:
            self.kept = [weight.detach().clone() for weight in weights]
        else:
            share = self.average.share(self.count)
            self.kept = _moved(self.kept, weights, share)

    def mean(self) -> list[Tensor]:
        """Return the mean; nothing where no weights have entered."""
        if not self.average.window or not self.kept:
            return self.kept
        mean, *later = self.kept
        found: list[Tensor] = [weight.clone() for weight in mean]
        for number, weights in enumerate(later, start=2):
            found = _moved(found, weights, 1 / number)
        return found


def _moved(mean: Iterable[Tensor], weights: Iterable[Tensor], share: float) -> list[Tensor]:
    return [old.to(new.device).lerp_(new.detach(), share) for old, new in zip(mean, weights, strict=True)]


def exponential_average(
    *, decay: float = 0.99, start: int = 0, warmup: Literal["corrected", "ramp", "none"] = "corrected"
) -> WeightAverage:
    """Forget old weights by a factor each step, from an epoch on (Polyak & Juditsky 1992; Tarvainen & Valpola 2017).

    A decay d remembers about 1 / (1 - d) steps. The first weights would count 1 / (1 - d) times as much as any other:
    `corrected` weighs all by d to the power of their age (the bias correction of Adam), `ramp` lets the decay grow as
    (n + 1) / (n + 10) after n steps, `none` leaves it so (`torch.optim.swa_utils.get_ema_multi_avg_fn`).
    """
    _require(0 <= decay < 1, "ema", "decay in [0, 1)", decay)
    _require(start >= 0, "ema", "start of at least 0 epochs", start)

    def share(count: int) -> float:
        if count == 1:
            return 1.0
        if warmup == "corrected":
            return (1 - decay) / (1 - decay**count)
        return 1 - (min(decay, count / (count + 9)) if warmup == "ramp" else decay)

    return WeightAverage(share, start)


def polyak_average(*, start: int = 0) -> WeightAverage:
    """Weigh all weights alike, from an epoch on (Polyak & Juditsky 1992)."""
    _require(start >= 0, "polyak", "start of at least 0 epochs", start)
    return WeightAverage(_alike, start)


def stochastic_weight_average(*, start: float = 0.75, every: int = 1) -> WeightAverage:
    """Weigh the weights at the ends of epochs or of cycles alike, from a moment on (Izmailov et al. 2018).

    That is w_SWA <- (w_SWA n + w) / (n + 1), equation 2 and algorithm 1, whose first w is the one that it starts with.
    A start below 1 is a share of the training, from 1 on a number of epochs; `every` is the length of a cycle in
    epochs. Choose a schedule whose rate stays high, such as swa:tail=0.25, or cycles, such as swa:tail=0.25,cycles=5.
    """
    _require(start >= 0, "swa", "start of at least 0", start)
    _require(start < 1 or start == int(start), "swa", "start below 1, or a whole number of epochs", start)
    _require(every >= 1, "swa", "every of at least 1 epoch", every)
    return WeightAverage(_alike, start, every)


def latest_average(*, k: int = 5, every: int = 1) -> WeightAverage:
    """Weigh the last k weights at ends of epochs alike (LAWA; Kaddour 2022)."""
    _require(k >= 1, "lawa", "k of at least 1", k)
    _require(every >= 1, "lawa", "every of at least 1 epoch", every)
    return WeightAverage(_alike, 0, every, window=k)


def _alike(count: int) -> float:
    return 1 / count


def _require(holds: bool, name: str, what: str, got: object) -> None:
    if not holds:
        raise ValueError(f"average {name!r} needs {what}, got {got}")
