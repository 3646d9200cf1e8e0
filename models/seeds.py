"""One seed, many independent streams."""

from __future__ import annotations

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
