"""Dropout: units that are set to zero at random while the network trains."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.initialization_steps import WEIGHTED
from models.regularization.registry import REGULARIZERS, Regularizer, share

Places = Literal["dense", "head", "activations"]


class ClassicDropout(nn.Dropout):
    """Dropout as it was first published: drop with probability p while training, then multiply by 1 - p."""

    def forward(self, input: Tensor) -> Tensor:
        """Map any shape to itself."""
        keep = 1 - self.p
        return input * (torch.empty_like(input).bernoulli_(keep) if self.training else keep)


@REGULARIZERS.register("dropout")
def dropout(
    *,
    p: float = 0.5,
    mode: Literal["inverted", "classic"] = "inverted",
    where: Places = "dense",
    inputs: float = 0.0,
) -> Regularizer:
    """Set each unit to zero with probability p while training (Srivastava et al. 2014).

    inverted divides what is left by 1 - p while training, and does nothing afterwards; classic does nothing while
    training and multiplies by the probability of keeping, 1 - p, afterwards. Either way the next layer gets the same on
    average, up to the factor 1 - p.

    dense drops inputs of the classifier and of the fully connected layers before it, but not of a network's first
    layer: in an MLP after each activation, in LeNet and AlexNet also before the hidden layers, elsewhere before the
    classifier. head drops inputs of the classifier alone, activations outputs of every activation. The network's own
    inputs are dropped with a probability of their own, 0.2 in the paper.

    Raises:
        ValueError: If a probability is not in [0, 1), or (from what is returned) there are no activations.
    """
    share("p", p)
    share("inputs", inputs)
    kind = nn.Dropout if mode == "inverted" else ClassicDropout

    def apply(network: nn.Module) -> None:
        for module, is_before in _places(network, where):
            _attach(module, kind(p), is_before)
        if inputs:
            _attach(network, kind(inputs), is_before=True)

    return apply


def dense_layers(network: nn.Module) -> list[nn.Linear]:
    """List the fully connected layers at the end of a network: those that are its own children, the classifier last."""
    return [child for child in network.children() if isinstance(child, nn.Linear)]


def _places(network: nn.Module, where: Places) -> list[tuple[nn.Module, bool]]:
    """List the modules beside which units are dropped, each with whether that is before it."""
    if where == "activations":
        named = network.named_modules()
        found = [(module, False) for name, module in named if name.rpartition(".")[2].startswith("activation")]
        if not found:
            raise ValueError("regularization 'dropout' finds no activations in this network; choose where=dense")
        return found
    *hidden, head = dense_layers(network)
    first = next(module for module in network.modules() if isinstance(module, WEIGHTED))
    return [(layer, True) for layer in [*hidden, head] if layer is head or (where == "dense" and layer is not first)]


class _Hook:
    """Calls a dropout on the input or on the output of the module that holds it; copied with both."""

    def __init__(self, dropout: nn.Module) -> None:
        self.dropout = dropout

    def before(self, module: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
        return self.dropout(inputs[0])

    def after(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return self.dropout(output)


def _attach(module: nn.Module, dropout: nn.Module, is_before: bool) -> None:
    """Put a dropout beside a module, whose child it becomes so that it trains and stops training with it."""
    if isinstance(module, nn.Sequential):  # which calls each child by itself
        if is_before:
            _attach(next(module.children()), dropout, is_before)
        else:
            module.append(dropout)
        return
    taken = sum(name.startswith("dropout") for name, _ in module.named_children())
    module.add_module(f"dropout{taken + 1}", dropout)
    if is_before:
        module.register_forward_pre_hook(_Hook(dropout).before)
    else:
        module.register_forward_hook(_Hook(dropout).after)
