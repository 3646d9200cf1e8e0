"""One seed, many independent streams."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def derived_seed(seed: int, purpose: str, index: int = 0) -> int:
    """Return the seed of one stream, the same on every machine.

    Args:
        seed: The run's seed, at least 0.
        purpose: What is drawn: streams of different purposes are independent.
        index: Number of an epoch or a step, each its own stream.

    Example:
        >>> derived_seed(0, "order", 1) == derived_seed(0, "order", 1) != derived_seed(0, "order", 2)
        True
    """
    words = np.random.SeedSequence([seed, index, *purpose.encode()]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


@dataclass(frozen=True)
class Fork:
    """Where a training leaves the way that its seed alone decides.

    Attributes:
        step: The first step, from 0, whose draws come from another seed.
        seed: Which of the ways on from there.
    """

    step: int
    seed: int = 0

    def seed_of(self, seed: int) -> int:
        """Return the seed after the fork of a run of this seed."""
        return derived_seed(seed, "fork", self.seed)


def seed_at(step: int, seed: int, fork: Fork | None) -> int:
    """Return the seed of what is random in a step of a run, which may have a fork.

    Example:
        >>> [seed_at(step, 7, Fork(step=2)) == 7 for step in range(4)]
        [True, True, False, False]
    """
    return seed if fork is None or step < fork.step else fork.seed_of(seed)
