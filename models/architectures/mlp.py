"""Multi-layer perceptron."""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import partial

from torch import nn

from models.architectures.registry import ARCHITECTURES
from models.layers import activated


@ARCHITECTURES.register("mlp")
def mlp(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 128,
    depth: int = 2,
    norm: str = "none",
    activation: str = "relu",
) -> nn.Module:
    """Build `depth` hidden layers of `width` units and a linear classifier; inputs are flattened first."""
    network = nn.Sequential(OrderedDict(flatten=nn.Flatten()))
    features = math.prod(input_shape)
    for index in range(1, depth + 1):
        parts = activated(partial(nn.Linear, features), width, 0, norm, activation)
        for name, part in zip(("hidden", "norm", "activation"), parts, strict=True):
            network.add_module(f"{name}{index}", part)
        features = width
    network.add_module("head", nn.Linear(features, num_classes))
    return network
