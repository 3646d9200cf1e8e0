"""The averages of weights that a run may keep, by name."""

from __future__ import annotations

from landscape.averaging import (
    WeightAverage,
    exponential_average,
    latest_average,
    polyak_average,
    stochastic_weight_average,
)
from models.registry import Registry

AVERAGES = Registry("average")
"""Functions `(*, options)` that build a `WeightAverage`, or None."""


@AVERAGES.register("none")
def none() -> None:
    """Average nothing."""


AVERAGES.register("ema")(exponential_average)
AVERAGES.register("polyak")(polyak_average)
AVERAGES.register("swa")(stochastic_weight_average)
AVERAGES.register("lawa")(latest_average)


def make_average(text: str) -> WeightAverage | None:
    """Build an average, written with its options as in "ema:0.999,start=5"; None for "none".

    Raises:
        ValueError: If the name is unknown, or an option is not taken or out of range.
    """
    built: WeightAverage | None = AVERAGES.build(text)
    return built


def check_average(text: str, epochs: int) -> None:
    """Refuse an average that a training of so many epochs does not reach.

    Raises:
        ValueError: As `make_average` does, or if no weights, or too few, would enter.
    """
    average = make_average(text)
    if average is None or not epochs:
        return
    if average.first_epoch(epochs) >= epochs:
        raise ValueError(
            f"average {text!r} starts after {average.first_epoch(epochs)} epochs, but there are {epochs}; start earlier"
        )
    if average.window * average.every > epochs:
        raise ValueError(
            f"average {text!r} takes the last {average.window} ends of "
            f"{f'every {average.every} epochs' if average.every > 1 else 'epochs'}, but there are "
            f"{epochs // average.every}; take fewer, or train for longer"
        )
