"""Networks for small images and one-dimensional signals, built by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from models.architectures import (  # noqa: F401 (each registers what it builds)
    alexnet,
    inception,
    lenet,
    linear,
    mlp,
    mobilenet,
    plain,
    resnet,
    vgg,
    vit,
)
from models.architectures.registry import ARCHITECTURES

__all__ = ["ARCHITECTURES", "build_model"]


def build_model(name: str, input_shape: tuple[int, ...], num_classes: int, **options: Any) -> nn.Module:
    """Build a network with torch's default weights; the global random state stays untouched.

    Args:
        name: One of `ARCHITECTURES`.
        input_shape: Shape of one example, without the batch: (C, H, W), (C, L), or any for "mlp".
        num_classes: Number of outputs.
        **options: What the architecture takes of `width`, `depth`, `norm`, `activation`, `skip`, `heads`, `patch`.

    Returns:
        The network, (N, *input_shape) -> (N, num_classes) logits.

    Raises:
        ValueError: If the name, an option or a value is not one that the architecture takes.
    """
    ARCHITECTURES.check(name, options)
    for option in ("width", "depth"):
        if options.get(option, 1) < 1:
            raise ValueError(f"{option} must be at least 1, got {options[option]}")
    with torch.random.fork_rng(devices=[]):
        return ARCHITECTURES[name](tuple(input_shape), num_classes, **options)
