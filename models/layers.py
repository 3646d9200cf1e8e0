"""Building blocks that every architecture shares, for vectors, signals and images alike.

`dimensions` is the number of spatial axes: 0 for vectors (N, C), 1 for signals (N, C, L), 2 for images
(N, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models.activations import make_activation, pieces_of
from models.normalization import make_norm


def spatial_dimensions(input_shape: tuple[int, ...], model: str) -> int:
    """Return 1 for signals (C, L) and 2 for images (C, H, W).

    Raises:
        ValueError: If the shape is neither, or a side is shorter than 8, which can be halved twice.
    """
    if len(input_shape) not in (2, 3):
        raise ValueError(
            f"model {model!r} needs signals (C, L) or images (C, H, W), got shape {input_shape}; use 'mlp'"
        )
    if min(input_shape[1:]) < 8:
        raise ValueError(f"model {model!r} needs sides of at least 8, got shape {input_shape}; use 'mlp'")
    return len(input_shape) - 1


def conv(dimensions: int, channels_in: int, channels_out: int, kernel: int, **options: Any) -> nn.Module:
    """Build a convolution over `dimensions` axes."""
    return (nn.Conv2d if dimensions == 2 else nn.Conv1d)(channels_in, channels_out, kernel, **options)


def activated(
    layer: Callable[[int], nn.Module], channels: int, dimensions: int, norm: str, activation: str
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Build a weighted layer, its norm and its activation, which together give `channels`.

    Args:
        layer: Builds the layer for a number of output channels: more than `channels` before maxout.
        channels: Channels after the activation.
        dimensions: Spatial axes.
        norm: A norm with its options.
        activation: An activation with its options.
    """
    wide = channels * pieces_of(activation)
    return layer(wide), make_norm(norm, wide, dimensions), make_activation(activation, channels)


def conv_block(
    dimensions: int, channels_in: int, channels_out: int, norm: str, activation: str, kernel: int = 3, **options: Any
) -> nn.Sequential:
    """Build convolution, norm, activation; there is a bias only where no norm follows.

    The convolution has odd width and keeps the sides, but for a `stride` among its options.
    """
    options = {"padding": kernel // 2, "bias": norm == "none", **options}
    convolve = partial(conv, dimensions, channels_in, kernel=kernel, **options)
    parts = activated(convolve, channels_out, dimensions, norm, activation)
    block = nn.Sequential()
    for name, part in zip(("conv", "norm", "activation"), parts, strict=True):
        block.add_module(name, part)
    return block


def max_pool(dimensions: int, kernel: int = 2, stride: int = 2) -> nn.Module:
    """Build a pooling: by default one that halves each side; one of odd width also looks beyond the edges."""
    return (nn.MaxPool2d if dimensions == 2 else nn.MaxPool1d)(kernel, stride, padding=kernel // 2 if kernel % 2 else 0)


def mean_pool(dimensions: int) -> nn.Module:
    """Build an averaging over pairs of places, which halves each side."""
    return nn.AvgPool2d(2) if dimensions == 2 else nn.AvgPool1d(2)


class GlobalMean(nn.Module):
    """Average over all places: (N, C, ...) -> (N, C); unlike adaptive pooling, deterministic on every device."""

    def forward(self, x: Tensor) -> Tensor:
        """Average over every axis but the first two."""
        return x.flatten(2).mean(2)


class ChannelsSecond(nn.Module):
    """A layer for (N, C, L), given sequences of vectors (N, L, C).

    Attributes:
        layer: That layer.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, L, C) to (N, L, C')."""
        return self.layer(x.transpose(1, 2)).transpose(1, 2)


class Drawn(nn.Module):
    """A module with tensors of its own that are drawn, not learned from zero: `initialize` calls `draw`."""

    def draw(self, generator: torch.Generator) -> None:
        """Draw them anew, in place."""
        raise NotImplementedError


@dataclass(frozen=True)
class Branch:
    """What a residual block adds to what goes around it.

    Attributes:
        layers: Its weighted layers, from first to last.
        norms: Its norms, from first to last.
        ends_with_norm: Whether the last norm comes after the last layer.
    """

    layers: tuple[nn.Module, ...]
    norms: tuple[nn.Module, ...]
    ends_with_norm: bool


class Residual(nn.Module):
    """A block with residual branches, which initializations and stochastic depth can treat apart.

    Attributes:
        gates: What may skip each of `branches` while training, in their order; empty where nothing does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.ModuleList()

    def branches(self) -> list[Branch]:
        """List the branches; none where the block has no way around them."""
        raise NotImplementedError

    def beside(self, branch: Callable[[], Tensor], way: Callable[[], Tensor], number: int = 0) -> Tensor:
        """Add a branch to the way around it, or do what the gate of that number does with both."""
        return self.gates[number](branch, way) if self.gates else branch() + way()
