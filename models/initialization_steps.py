"""What may follow a scheme of initial weights: zero ends of residual branches, Fixup, LSUV, biases."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import init

from landscape.normalization import set_policy
from models.layers import Branch, Residual
from models.registry import Registry

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

STEPS = Registry("step of initialization")
"""Functions `(model, generator, inputs, *, options)` that change a model that a scheme has filled."""

_MOST_PASSES = 10


@STEPS.register("bias")
def bias(model: nn.Module, generator: torch.Generator, inputs: Tensor | None, *, value: float) -> None:
    """Set the bias of every linear and convolutional layer to one value."""
    for layer in _weighted(model):
        if layer.bias is not None:
            init.constant_(layer.bias, value)


@STEPS.register("bias-uniform")
def bias_uniform(model: nn.Module, generator: torch.Generator, inputs: Tensor | None) -> None:
    """Draw biases as torch does, uniformly in +-1 / sqrt(fan_in)."""
    for layer in _weighted(model):
        if layer.bias is not None:
            bound = 1 / math.sqrt(layer.weight[0].numel())
            init.uniform_(layer.bias, -bound, bound, generator=generator)


@STEPS.register("zero-last-gamma")
def zero_last_gamma(model: nn.Module, generator: torch.Generator, inputs: Tensor | None) -> None:
    """Set the scale of the norm that ends each residual branch to zero, so that blocks begin as their shortcuts.

    Raises:
        ValueError: If no branch ends with a norm that has a scale.

    References:
        Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017, section 5.1.
    """
    for branch in _branches(model, "zero-last-gamma"):
        scale = dict(branch.norms[-1].named_parameters()).get("weight") if branch.ends_with_norm else None
        if scale is None:
            raise ValueError(
                "'zero-last-gamma' needs residual branches that end with a norm that has a scale; use 'zero-last'"
            )
        init.zeros_(scale)


@STEPS.register("zero-last")
def zero_last(model: nn.Module, generator: torch.Generator, inputs: Tensor | None) -> None:
    """Set the last layer of each residual branch to zero, so that blocks begin as their shortcuts.

    Raises:
        ValueError: If there is no residual branch, or a norm comes after its last layer: around zero it would multiply
            gradients by 1 / sqrt(eps).
    """
    for branch in _branches(model, "zero-last"):
        if branch.ends_with_norm and _normalizes(branch.norms[-1]):
            raise ValueError(
                "'zero-last' would feed zeros to the norm that ends each branch, whose gradient is 1 / sqrt(eps) "
                "there; use 'zero-last-gamma', or norm 'none'"
            )
        _zero(branch.layers[-1])


@STEPS.register("fixup")
def fixup(model: nn.Module, generator: torch.Generator, inputs: Tensor | None) -> None:
    """Scale residual branches for training without norms.

    With L branches of m layers each, the last layer of every branch and of the model becomes zero, and the other
    layers of a branch are multiplied by L^(-1 / (2 m - 2)): rules 1 and 2 of the paper. Its rule 3, scalar biases and
    multipliers between the layers, is part of an architecture, where every convolution has a bias already.

    Raises:
        ValueError: If there is no residual branch, or one has a norm.

    References:
        Zhang, Dauphin & Ma, "Fixup Initialization: Residual Learning Without Normalization", ICLR 2019, section 3.
    """
    branches = _branches(model, "fixup")
    if any(_normalizes(norm) for branch in branches for norm in branch.norms):
        raise ValueError("'fixup' is for residual networks without norms; choose norm 'none', or 'zero-last-gamma'")
    for branch in branches:
        *inner, last = branch.layers
        for layer in inner:
            layer.weight.mul_(len(branches) ** (-1 / (2 * len(inner))))
        _zero(last)
    _zero(_weighted(model)[-1])


@STEPS.register("lsuv")
def lsuv(model: nn.Module, generator: torch.Generator, inputs: Tensor | None, *, tolerance: float = 1e-3) -> None:
    """Divide each weight, from first to last, until the variance of its layer's output on `inputs` is 1.

    The paper starts from "orthogonal". The variance is that of all entries of an output; with biases of zero it is 1
    up to rounding after one division. BatchNorm uses the statistics of the inputs, and its running ones stay; dropout
    is off. The same inputs give the same weights. A layer that is called several times is scaled by its first call.

    Raises:
        ValueError: If there are no inputs, an output has no variance, or its variance does not come within `tolerance`
            of 1 in ten passes.

    References:
        Mishkin & Matas, "All you need is a good init", ICLR 2016, algorithm 1.
    """
    if inputs is None:
        raise ValueError("'lsuv' looks at examples to scale the weights; pass inputs= to initialize")
    scaled = copy.deepcopy(model)
    set_policy(scaled, "batch")
    done: set[nn.Module] = set()
    for name, module in scaled.named_modules():
        if isinstance(module, WEIGHTED):
            module.register_forward_hook(_Unit(name, tolerance, done))
    scaled(inputs)
    for own, other in zip(_weighted(model), _weighted(scaled), strict=True):
        own.weight.copy_(other.weight)


class _Unit:
    """A forward hook that scales a layer to unit variance at its first call, and gives its new output."""

    def __init__(self, name: str, tolerance: float, done: set[nn.Module]) -> None:
        self.name, self.tolerance, self.done = name, tolerance, done

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if layer in self.done:
            return output
        self.done.add(layer)
        for passes in range(_MOST_PASSES + 1):
            variance = output.var(correction=0)
            if not variance > 0 or not variance.isfinite():
                raise ValueError(
                    f"'lsuv' finds a variance of {variance.item()} in the output of {self.name!r}, which no scale "
                    "makes 1; choose a scheme before it that fills every weight, and steps that make zeros after it"
                )
            if passes and abs(variance - 1) <= self.tolerance:
                return output
            layer.weight.div_(variance.sqrt())
            output = layer.forward(*inputs)
        raise ValueError(
            f"'lsuv' cannot bring the variance of {self.name!r} within {self.tolerance} of 1 in {_MOST_PASSES} passes; "
            "its bias has too much of it; start with zero biases"
        )


def _weighted(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, WEIGHTED)]


def _branches(model: nn.Module, step: str) -> list[Branch]:
    found = [branch for block in model.modules() if isinstance(block, Residual) for branch in block.branches()]
    if not found:
        raise ValueError(f"{step!r} acts on residual branches, and this model has none; leave it out")
    return found


def _normalizes(norm: nn.Module) -> bool:
    return not isinstance(norm, nn.Identity)


def _zero(layer: nn.Module) -> None:
    init.zeros_(layer.weight)
    if layer.bias is not None:
        init.zeros_(layer.bias)
