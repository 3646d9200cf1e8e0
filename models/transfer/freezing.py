"""Which parameters stay as they are, and which learn more slowly."""

from __future__ import annotations

from typing import Any

from torch import nn

from models.transfer.start import classifier_of, in_classifier


def freeze(network: nn.Module, pattern: str) -> list[nn.Module]:
    """Let parameters stay as they are, bit for bit, and tell which running statistics are to.

    Args:
        network: Changed in place: frozen parameters require no gradient.
        pattern: "none", "trunk" (everything but the last classifier), or beginnings of names, as in "stage1,stage2".

    Returns:
        The frozen layers with running statistics, which must stay in eval mode.

    Raises:
        ValueError: If a word begins no name, or nothing would be left to train.
    """
    words = _words(pattern)
    named = dict(network.named_parameters())
    for word in words:
        if word != "trunk" and not any(_begins(name, word) for name in [*named, *dict(network.named_buffers())]):
            parts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in named))
            raise ValueError(f"freeze: no parameter begins with {word!r}; choose trunk, or of: {parts}")
    head = classifier_of(network)
    for name, parameter in named.items():
        parameter.requires_grad_(not _matches(name, words, head))
    if not any(parameter.requires_grad for parameter in named.values()):
        raise ValueError(f"freeze {pattern!r} leaves no parameter to train; leave a part out")
    return frozen_norms(network, pattern)


def frozen_norms(network: nn.Module, pattern: str) -> list[nn.Module]:
    """List the layers with running statistics that `freeze` leaves as they are; the network stays unchanged."""
    words, head = _words(pattern), classifier_of(network)
    return [m for name, m in network.named_modules() if hasattr(m, "running_mean") and _matches(name, words, head)]


def parameter_groups(network: nn.Module, lr: float, trunk_lr: float) -> list[Any]:
    """Return two groups of parameters for the optimizer: the classifier, and the trunk with its own learning rate.

    Args:
        network: The network; its frozen parameters are left out.
        lr: Learning rate of the classifier.
        trunk_lr: Factor on it for everything else.
    """
    trainable = {name: p for name, p in network.named_parameters() if p.requires_grad}
    head = in_classifier(network)
    parts = [[p for name, p in trainable.items() if (name in head) is inside] for inside in (True, False)]
    groups = [{"params": part, "lr": rate} for part, rate in zip(parts, (lr, lr * trunk_lr), strict=True)]
    return [group for group in groups if group["params"]]


def _words(pattern: str) -> tuple[str, ...]:
    return () if pattern == "none" else tuple(word.strip() for word in pattern.split(","))


def _matches(name: str, words: tuple[str, ...], head: str) -> bool:
    return any(not _begins(name, head) if word == "trunk" else _begins(name, word) for word in words)


def _begins(name: str, word: str) -> bool:
    return name == word or name.startswith(word + ".")
