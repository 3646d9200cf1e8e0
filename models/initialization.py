"""Initial weights, by name, from an explicit generator.

A scheme fills the weights of linear and convolutional layers; their biases become zero and the scales and
shifts of norms keep their ones and zeros. Steps may follow it, one after the other, as in
"he-normal+zero-last-gamma" or "orthogonal+lsuv+bias:0.01" (see `models.initialization_steps`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import init

from models.initialization_steps import STEPS, WEIGHTED
from models.layers import Drawn
from models.registry import Registry

INITIALIZATIONS = Registry("initialization")
"""Functions `(weight, generator, *, options)` that fill one weight in place."""

SHORT = {"he": "he-normal", "xavier": "xavier-normal"}
"""Short names of schemes."""

Fill = Callable[..., object]


@INITIALIZATIONS.register("default")
def default(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill as torch does: uniform in +-1 / sqrt(fan_in); the bias is drawn from the same interval."""
    return init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)


@INITIALIZATIONS.register("zeros")
def zeros(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill with 0, a critical point of every network with a hidden layer."""
    return init.zeros_(weight)


@INITIALIZATIONS.register("constant")
def constant(weight: Tensor, generator: torch.Generator, *, value: float = 0.1) -> Tensor:
    """Fill with one value: all units of a layer stay equal for ever."""
    return init.constant_(weight, value)


@INITIALIZATIONS.register("normal")
def normal(weight: Tensor, generator: torch.Generator, *, std: float) -> Tensor:
    """Fill from N(0, std^2), whatever the width.

    Raises:
        ValueError: If the deviation is negative.
    """
    return init.normal_(weight, std=_not_negative("normal", "std", std), generator=generator)


@INITIALIZATIONS.register("uniform")
def uniform(weight: Tensor, generator: torch.Generator, *, bound: float) -> Tensor:
    """Fill uniformly in +-bound, whatever the width.

    Raises:
        ValueError: If the bound is negative.
    """
    bound = _not_negative("uniform", "bound", bound)
    return init.uniform_(weight, -bound, bound, generator=generator)


@INITIALIZATIONS.register("small-normal")
def small_normal(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill from N(0, 0.01^2)."""
    return init.normal_(weight, std=0.01, generator=generator)


@INITIALIZATIONS.register("large-normal")
def large_normal(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill from N(0, 1), far beyond what keeps activations in range."""
    return init.normal_(weight, std=1.0, generator=generator)


@INITIALIZATIONS.register("lecun-uniform")
def lecun_uniform(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill uniformly in +-sqrt(3 / fan_in), the variance of "lecun-normal"."""
    return init.kaiming_uniform_(weight, nonlinearity="linear", generator=generator)


@INITIALIZATIONS.register("lecun-normal")
def lecun_normal(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill from N(0, 1 / fan_in), which linear layers and SELU preserve (LeCun et al. 1998, section 4.6)."""
    return init.kaiming_normal_(weight, nonlinearity="linear", generator=generator)


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
def orthogonal(weight: Tensor, generator: torch.Generator, *, gain: float = 1.0) -> Tensor:
    """Fill with `gain` times a random orthogonal matrix, filters as rows (Saxe et al. 2014)."""
    return init.orthogonal_(weight, gain=gain, generator=generator)


def written_out(text: str) -> str:
    """Write the short name of a scheme as the scheme that it stands for, so that equal runs have one hash.

    >>> written_out("he"), written_out("xavier+zero-last"), written_out("orthogonal:2")
    ('he-normal', 'xavier-normal+zero-last', 'orthogonal:2')
    """
    scheme, *steps = text.split("+")
    return "+".join([SHORT.get(scheme, scheme), *steps])


def check_initialization(text: str) -> None:
    """Refuse a scheme or step that there is not, or whose options cannot be read.

    Raises:
        ValueError: If so.
    """
    scheme, *steps = text.split("+")
    if scheme.partition(":")[0] in STEPS:
        raise ValueError(f"{scheme!r} follows a scheme that fills the weights; write 'he-normal+{text}'")
    INITIALIZATIONS.build(scheme, torch.empty(1, 1), torch.Generator())
    for step in steps:
        STEPS.read(step)


@torch.no_grad()
def initialize(model: nn.Module, text: str, generator: torch.Generator, inputs: Tensor | None = None) -> None:
    """Draw all weights of a model anew.

    Args:
        model: Any module; its linear and convolutional layers are filled, and its modules that are `Drawn` draw
            themselves, in the order of `model.modules()`.
        text: One of `INITIALIZATIONS` with its options, then any of `STEPS`, as in "he-normal+zero-last".
        generator: On the device of the weights. The global random state stays untouched.
        inputs: (N, ...) examples, on the device of the weights; only "lsuv" looks at them.

    Raises:
        ValueError: If a name or an option is unknown, a step finds nothing to act on, or inputs are missing.
    """
    check_initialization(text)
    scheme, *steps = text.split("+")
    name, options = INITIALIZATIONS.read(scheme)
    fill: Fill = INITIALIZATIONS[name]
    for layer in model.modules():
        if isinstance(layer, Drawn):
            layer.draw(generator)
        if not isinstance(layer, WEIGHTED):
            continue
        fill(layer.weight, generator, **options)
        if layer.bias is None:
            continue
        if name == "default":
            bound = 1 / math.sqrt(layer.weight[0].numel())
            init.uniform_(layer.bias, -bound, bound, generator=generator)
        else:
            init.zeros_(layer.bias)
    for step in steps:
        STEPS.build(step, model, generator, inputs)


def _not_negative(name: str, option: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"initialization {name!r}: {option} must be at least 0 and finite, got {value}")
    return value
