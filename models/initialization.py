"""Initial weights, by name, from an explicit generator.

A scheme fills the weights of linear and convolutional layers; their biases become zero and the scales and
shifts of norms keep their ones and zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import init

from models.registry import Registry

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

INITIALIZATIONS = Registry("initialization")
"""Functions `(weight, generator)` that fill one weight in place."""

Fill = Callable[[Tensor, torch.Generator], object]


@INITIALIZATIONS.register("default")
def default(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill as torch does: uniform in +-1 / sqrt(fan_in); the bias is drawn from the same interval."""
    return init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)


@INITIALIZATIONS.register("zeros")
def zeros(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill with 0, a critical point of every network with a hidden layer."""
    return init.zeros_(weight)


@INITIALIZATIONS.register("constant")
def constant(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill with 0.1: all units of a layer stay equal for ever."""
    return init.constant_(weight, 0.1)


@INITIALIZATIONS.register("small-normal")
def small_normal(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill from N(0, 0.01^2)."""
    return init.normal_(weight, std=0.01, generator=generator)


@INITIALIZATIONS.register("large-normal")
def large_normal(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill from N(0, 1), far beyond what keeps activations in range."""
    return init.normal_(weight, std=1.0, generator=generator)


@INITIALIZATIONS.register("xavier-uniform")
def xavier_uniform(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill uniformly in +-sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010, equation 16)."""
    return init.xavier_uniform_(weight, generator=generator)


@INITIALIZATIONS.register("xavier-normal")
def xavier_normal(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill from N(0, 2 / (fan_in + fan_out)) (Glorot & Bengio 2010, equation 12)."""
    return init.xavier_normal_(weight, generator=generator)


@INITIALIZATIONS.register("he-uniform")
def he_uniform(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill uniformly in +-sqrt(6 / fan_in), the variance of "he-normal"."""
    return init.kaiming_uniform_(weight, generator=generator)


@INITIALIZATIONS.register("he-normal")
def he_normal(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill from N(0, 2 / fan_in) (He et al. 2015, equation 10)."""
    return init.kaiming_normal_(weight, generator=generator)


@INITIALIZATIONS.register("orthogonal")
def orthogonal(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill with a random orthogonal matrix, filters as rows (Saxe et al. 2014)."""
    return init.orthogonal_(weight, generator=generator)


@torch.no_grad()
def initialize(model: nn.Module, name: str, generator: torch.Generator) -> None:
    """Draw all weights of a model anew.

    Args:
        model: Any module; its linear and convolutional layers are filled, in the order of `model.modules()`.
        name: One of `INITIALIZATIONS`.
        generator: On the device of the weights. The global random state stays untouched.

    Raises:
        ValueError: If the name is unknown.
    """
    fill: Fill = INITIALIZATIONS[name]
    for layer in model.modules():
        if not isinstance(layer, WEIGHTED):
            continue
        fill(layer.weight, generator)
        if layer.bias is None:
            continue
        if name == "default":
            bound = 1 / math.sqrt(layer.weight[0].numel())
            init.uniform_(layer.bias, -bound, bound, generator=generator)
        else:
            init.zeros_(layer.bias)
