"""Models that are linear in their inputs or in their parameters: deep linear networks and random features."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from models.activations import make_activation
from models.architectures.registry import ARCHITECTURES
from models.layers import Drawn


@ARCHITECTURES.register("deep-linear")
def deep_linear(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 64,
    depth: int = 3,
) -> nn.Module:
    """Build y = W_L ... W_1 x with `depth` matrices (L), `width` between them, no biases; inputs are flattened first.

    It has d w + (L - 2) w^2 + w K parameters on inputs of d entries; d K with one matrix, which is linear regression.

    References:
        Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks", ICLR 2014.
    """
    network = nn.Sequential(OrderedDict(flatten=nn.Flatten()))
    features = math.prod(input_shape)
    for index in range(1, depth):
        network.add_module(f"linear{index}", nn.Linear(features, width, bias=False))
        features = width
    network.add_module("head", nn.Linear(features, num_classes, bias=False))
    return network


class RandomFeatures(Drawn):
    """Features sqrt(2 / m) f(W x + b) with W and b drawn once and then fixed; W from N(0, 1 / d).

    With the cosine and b from U(0, 2 pi), products of features average exp(-|x - y|^2 / (2 d)); with ReLU and b = 0,
    |x| |y| (sin a + (pi - a) cos a) / (pi d), a the angle between x and y.

    Args:
        inputs: Entries of an input (d).
        features: How many (m).
        activation: "cosine" or "relu".

    References:
        Rahimi & Recht, "Random Features for Large-Scale Kernel Machines", NeurIPS 2007, algorithm 1;
        Cho & Saul, "Kernel Methods for Deep Learning", NeurIPS 2009, section 2 (order 1).
    """

    weight: Tensor
    phase: Tensor

    def __init__(self, inputs: int, features: int, activation: str) -> None:
        super().__init__()
        if activation not in ("cosine", "relu"):
            raise ValueError(f"random features are 'cosine' or 'relu', got activation {activation!r}")
        self.shifts = activation == "cosine"
        self.activation = make_activation(activation, features)
        self.register_buffer("weight", torch.empty(features, inputs))
        self.register_buffer("phase", torch.zeros(features))
        self.draw(torch.Generator().manual_seed(0))

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Draw W and b anew."""
        self.weight.normal_(0, self.weight.shape[1] ** -0.5, generator=generator)
        if self.shifts:
            self.phase.uniform_(0, 2 * math.pi, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, d) to (N, m)."""
        return (2 / len(self.weight)) ** 0.5 * self.activation(nn.functional.linear(x, self.weight, self.phase))


@ARCHITECTURES.register("random-features")
def random_features(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 512,
    activation: str = "cosine",
) -> nn.Module:
    """Build `width` fixed random features and a linear classifier of them without bias, which alone is trained.

    It has w K parameters. The features, with cosine or relu, are drawn with the run's initial weights and are
    buffers of the network.

    Raises:
        ValueError: If the activation is another one.

    References:
        Belkin et al., "Reconciling modern machine-learning practice and the classical bias-variance trade-off",
        PNAS 2019.
    """
    network = nn.Sequential(OrderedDict(flatten=nn.Flatten()))
    network.add_module("features", RandomFeatures(math.prod(input_shape), width, activation))
    network.add_module("head", nn.Linear(width, num_classes, bias=False))
    return network
