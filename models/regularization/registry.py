"""The registry that regularizers add themselves to, and how they are put into a network.

A regularizer is a function `(*, options)` that returns a function of a network, which it changes in place: modules that
draw are added or take the place of others, but the names and shapes of all parameters stay, so that weights fit with
it and without it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from models.registry import Registry

Regularizer = Callable[[nn.Module], None]

REGULARIZERS = Registry("regularization")


def check_regularization(text: str) -> None:
    """Refuse regularizers that there are not, that are given twice, or whose options are out of range.

    Raises:
        ValueError: If so.
    """
    names = [name for name, _ in REGULARIZERS.read_all(text)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"regularization {text!r} gives {twice[0]} twice; leave one out")
    REGULARIZERS.build_all(text)


def regularize(network: nn.Module, text: str) -> None:
    """Put regularizers into a network, in place; in evaluation mode it is a fixed function.

    Args:
        network: One of `models.architectures`, with its initial weights or any others.
        text: One of `REGULARIZERS` with its options, several joined by "+", or "none".

    Raises:
        ValueError: If a name or an option is unknown or out of range, or the network has no place for a regularizer.
    """
    check_regularization(text)
    for apply in REGULARIZERS.build_all(text):
        apply(network)


def share(name: str, value: float) -> float:
    """Return a probability of dropping.

    Raises:
        ValueError: If nothing would be left, or it is none.
    """
    if not 0 <= value < 1:
        raise ValueError(f"needs {name} in [0, 1), got {value}")
    return value
