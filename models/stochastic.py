"""Modules that draw at random while training, and networks that go on drawing when they predict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_DROPOUTS = nn.modules.dropout._DropoutNd


class Stochastic(nn.Module):
    """A module whose output is drawn at random in training mode, and is a fixed function in eval mode.

    It draws from torch's global generator, which each training step seeds.
    """


def stochastic_modules(network: nn.Module) -> list[nn.Module]:
    """List the modules that draw: ours, and torch's dropouts."""
    return [module for module in network.modules() if isinstance(module, Stochastic | _DROPOUTS)]


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
