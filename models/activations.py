"""Activations, by name: functions `(channels, *, options) -> nn.Module` from (N, C, ...) to the same shape.

Maxout alone takes several times the channels that it gives (see `pieces_of`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.registry import Registry

ACTIVATIONS = Registry("activation")


class Cosine(nn.Module):
    """The cosine of every entry."""

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to itself."""
        return x.cos()


class Maxout(nn.Module):
    """The largest of several linear pieces: channel c of C is the maximum of channels c, C + c, 2C + c, ...

    Attributes:
        pieces: How many.
    """

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, pieces * C, ...) to (N, C, ...)."""
        largest, *others = x.chunk(self.pieces, dim=1)
        for other in others:
            largest = torch.maximum(largest, other)
        return largest

    def extra_repr(self) -> str:
        """Say how many pieces."""
        return f"pieces={self.pieces}"


@ACTIVATIONS.register("relu")
def relu(channels: int) -> nn.Module:
    """max(0, x)."""
    return nn.ReLU()


@ACTIVATIONS.register("tanh")
def tanh(channels: int) -> nn.Module:
    """2 sigmoid(2x) - 1."""
    return nn.Tanh()


@ACTIVATIONS.register("sigmoid")
def sigmoid(channels: int) -> nn.Module:
    """1 / (1 + exp(-x))."""
    return nn.Sigmoid()


@ACTIVATIONS.register("leaky-relu")
def leaky_relu(channels: int, *, negative_slope: float) -> nn.Module:
    """max(0, x) + negative_slope * min(0, x); the literature has two slopes, 0.01 and 0.1, so none is the default."""
    return nn.LeakyReLU(negative_slope)


@ACTIVATIONS.register("prelu")
def prelu(channels: int, *, start: float = 0.25) -> nn.Module:
    """max(0, x) + a_c min(0, x) with one learned slope a channel (He et al. 2015); `channels` more parameters."""
    return nn.PReLU(channels, init=start)


@ACTIVATIONS.register("elu")
def elu(channels: int, *, alpha: float = 1.0) -> nn.Module:
    """X where positive, alpha (exp(x) - 1) elsewhere (Clevert et al. 2016)."""
    return nn.ELU(alpha)


@ACTIVATIONS.register("selu")
def selu(channels: int, *, dropout: float = 0.0) -> nn.Module:
    """1.0507 times ELU with alpha 1.6733, whose fixed point is mean 0 and variance 1 under "lecun-normal" weights.

    With `dropout` that share of activations is set to the negative saturation value while training, and the rest
    mapped so that mean and variance stay (alpha dropout).

    Raises:
        ValueError: If the share is not in [0, 1).

    References:
        Klambauer et al., "Self-Normalizing Neural Networks", NeurIPS 2017: equation 2,
        and "New Dropout Technique".
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"activation 'selu': dropout must be in [0, 1), got {dropout}")
    return nn.Sequential(nn.SELU(), nn.AlphaDropout(dropout)) if dropout else nn.SELU()


@ACTIVATIONS.register("gelu")
def gelu(channels: int) -> nn.Module:
    """X times the standard normal distribution function of x (Hendrycks & Gimpel 2016)."""
    return nn.GELU()


@ACTIVATIONS.register("silu")
@ACTIVATIONS.register("swish")
def silu(channels: int) -> nn.Module:
    """X sigmoid(x)."""
    return nn.SiLU()


@ACTIVATIONS.register("softplus")
def softplus(channels: int) -> nn.Module:
    """log(1 + exp(x))."""
    return nn.Softplus()


@ACTIVATIONS.register("cosine")
def cosine(channels: int) -> nn.Module:
    """cos(x), of random Fourier features."""
    return Cosine()


@ACTIVATIONS.register("maxout")
def maxout(channels: int, *, pieces: int = 2) -> nn.Module:
    """max(w1 x + b1, w2 x + b2): the layer before it, and its norm, have `pieces` times the parameters.

    Raises:
        ValueError: If there are fewer than two pieces.

    References:
        Goodfellow et al., "Maxout Networks", ICML 2013.
    """
    if pieces < 2:
        raise ValueError(f"activation 'maxout' needs at least two pieces, got {pieces}")
    return Maxout(pieces)


@ACTIVATIONS.register("identity")
@ACTIVATIONS.register("linear")
def identity(channels: int) -> nn.Module:
    """X: the network is linear in its inputs, but for its norms."""
    return nn.Identity()


def make_activation(text: str, channels: int) -> nn.Module:
    """Build an activation for (N, `channels`, ...), written with its options as in "leaky-relu:0.01".

    Raises:
        ValueError: If the name or an option is unknown, missing or out of range.
    """
    return ACTIVATIONS.build(text, channels)


def pieces_of(text: str) -> int:
    """How many times its own channels an activation takes: 1, and more for maxout alone.

    Raises:
        ValueError: If there is no such activation.
    """
    module = make_activation(text, 1)
    return module.pieces if isinstance(module, Maxout) else 1


def require_entrywise(text: str, model: str) -> None:
    """Refuse maxout where the layer before an activation cannot be widened.

    Raises:
        ValueError: If it takes more channels than it gives.
    """
    if pieces_of(text) > 1:
        raise ValueError(
            f"model {model!r} also activates sums or single channels, where maxout has no linear pieces to choose "
            "from; use it with mlp, lenet, cnn, vgg, alexnet, inception or vit"
        )
