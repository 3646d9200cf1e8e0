"""Networks that go on drawing at random when they predict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from landscape.randomness import Stochastic
from landscape.randomness import drawing_modules as stochastic_modules

__all__ = ["Stochastic", "drawing", "stochastic_modules"]


@contextmanager
def drawing(network: nn.Module) -> Iterator[None]:
    """Let a network draw inside while everything else, such as BatchNorm, is in eval mode; then restore all modes."""
    before = [(module, module.training) for module in network.modules()]
    network.eval()
    for module in stochastic_modules(network):
        module.training = True
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode
