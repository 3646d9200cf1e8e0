"""DropConnect: weights that are set to zero at random while the network trains."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.randomness import Stochastic
from models.regularization.registry import REGULARIZERS, Regularizer, share
from models.regularization.units import dense_layers


class _Dropping(Stochastic):
    """A weighted layer that drops some of its weights while it trains.

    Attributes:
        p: Share that is dropped.
        weight: Of the layer.
    """

    p: float
    weight: nn.Parameter

    def drawn(self) -> Tensor:
        """Return the weight as it is in evaluation mode; while training with one mask for the whole batch."""
        return F.dropout(self.weight, self.p) if self.training else self.weight


class _Linear(_Dropping, nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.drawn(), self.bias)


class _Conv1d(_Dropping, nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.drawn(), self.bias)


class _Conv2d(_Dropping, nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.drawn(), self.bias)


_DROPPING: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: _Linear, nn.Conv1d: _Conv1d, nn.Conv2d: _Conv2d}


@REGULARIZERS.register("dropconnect")
def dropconnect(*, p: float = 0.5, where: Literal["dense", "head", "all"] = "dense") -> Regularizer:
    """Set each weight to zero with probability p while training and divide the others by 1 - p (Wan et al. 2013).

    Biases stay. One mask is drawn for a batch, where the paper draws one for each example: the mean is the same, the
    noise of a batch is shared. In evaluation mode a layer uses its whole weight, the mean over all masks; the paper
    instead draws the inputs of the activations from a Gaussian of their mean and variance.

    dense takes the fully connected layers at the end (all of an MLP), head the classifier, all every linear and
    convolutional layer.

    Raises:
        ValueError: If p is not in [0, 1).
    """
    share("p", p)

    def apply(network: nn.Module) -> None:
        layers = [m for m in network.modules() if type(m) in _DROPPING] if where == "all" else dense_layers(network)
        for layer in layers[-1:] if where == "head" else layers:
            layer.__class__ = _DROPPING[type(layer)]
            layer.p = p  # type: ignore[assignment]

    return apply


def variance(layer: nn.Linear, inputs: Tensor, p: float) -> Tensor:
    """Return the variance of a linear layer's outputs over all masks, p / (1 - p) sum_j (w_ij x_j)^2.

    Args:
        layer: With weight (outputs, inputs).
        inputs: (N, inputs).
        p: Share of weights dropped.

    References:
        Wan et al., "Regularization of Neural Networks using DropConnect", ICML 2013, section 3.2 (there without the
        division by 1 - p).
    """
    with torch.no_grad():
        return inputs.square() @ layer.weight.square().T * (p / (1 - p))
