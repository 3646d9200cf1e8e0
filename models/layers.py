"""Building blocks that every architecture shares, for vectors, signals and images alike.

`dimensions` is the number of spatial axes: 0 for vectors (N, C), 1 for signals (N, C, L), 2 for images
(N, C, H, W).
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from models.registry import Registry

ACTIVATIONS = Registry("activation")
ACTIVATIONS.update(
    {
        "relu": nn.ReLU,
        "tanh": nn.Tanh,
        "sigmoid": nn.Sigmoid,
        "leaky-relu": nn.LeakyReLU,
        "elu": nn.ELU,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
        "identity": nn.Identity,
    }
)

NORMS = Registry("norm")


@NORMS.register("none")
def no_norm(channels: int, dimensions: int) -> nn.Module:
    """Leave activations as they are."""
    return nn.Identity()


@NORMS.register("batch")
def batch_norm(channels: int, dimensions: int) -> nn.Module:
    """Normalize each channel over the batch (Ioffe & Szegedy 2015)."""
    return nn.BatchNorm2d(channels) if dimensions == 2 else nn.BatchNorm1d(channels)


@NORMS.register("layer")
def layer_norm(channels: int, dimensions: int) -> nn.Module:
    """Normalize each example over all its channels and places (Ba et al. 2016)."""
    return nn.GroupNorm(1, channels) if dimensions else nn.LayerNorm(channels)


@NORMS.register("instance")
def instance_norm(channels: int, dimensions: int) -> nn.Module:
    """Normalize each channel of each example over its places (Ulyanov et al. 2016)."""
    if not dimensions:
        raise ValueError("norm 'instance' averages over places, which a vector has none of; choose 'layer'")
    kind = nn.InstanceNorm2d if dimensions == 2 else nn.InstanceNorm1d
    return kind(channels, affine=True)


@NORMS.register("group")
def group_norm(channels: int, dimensions: int) -> nn.Module:
    """Normalize each example over groups of channels (Wu & He 2018): eight, or fewer where eight do not fit.

    A group holds at least two channels, since one alone has no spread in a vector.
    """
    groups = math.gcd(channels, 8)
    return nn.GroupNorm(groups if channels // groups > 1 else max(groups // 2, 1), channels)


def make_norm(name: str, channels: int, dimensions: int) -> nn.Module:
    """Build a normalization layer.

    Raises:
        ValueError: If the name is unknown, or the norm cannot work on these axes.
    """
    return NORMS[name](channels, dimensions)


def make_activation(name: str) -> nn.Module:
    """Build an activation; the slope of a leaky ReLU stands in its name, as in "leaky-relu:0.01".

    There is no default slope, because the literature has two (0.01 and 0.1).

    Raises:
        ValueError: If the name is unknown, or a slope is missing, unreadable or misplaced.
    """
    kind, _, slope = name.partition(":")
    build = ACTIVATIONS[kind]
    if kind != "leaky-relu":
        if slope:
            raise ValueError(f"activation {kind!r} takes no slope, got {name!r}; write {kind!r}")
        return build()
    try:
        return build(float(slope))
    except ValueError:
        raise ValueError(f"activation 'leaky-relu' needs its slope, as in 'leaky-relu:0.01', got {name!r}") from None


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


def conv(dimensions: int, channels_in: int, channels_out: int, kernel: int, **options) -> nn.Module:
    """Build a convolution over `dimensions` axes."""
    return (nn.Conv2d if dimensions == 2 else nn.Conv1d)(channels_in, channels_out, kernel, **options)


def conv_block(dimensions: int, channels_in: int, channels_out: int, norm: str, activation: str) -> nn.Sequential:
    """Build convolution of width three, norm, activation; there is a bias only where no norm follows."""
    block = nn.Sequential()
    block.add_module("conv", conv(dimensions, channels_in, channels_out, 3, padding=1, bias=norm == "none"))
    block.add_module("norm", make_norm(norm, channels_out, dimensions))
    block.add_module("activation", make_activation(activation))
    return block


def max_pool(dimensions: int) -> nn.Module:
    """Build a pooling that halves each side."""
    return nn.MaxPool2d(2) if dimensions == 2 else nn.MaxPool1d(2)


def mean_pool(dimensions: int) -> nn.Module:
    """Build an averaging over pairs of places, which halves each side."""
    return nn.AvgPool2d(2) if dimensions == 2 else nn.AvgPool1d(2)


class GlobalMean(nn.Module):
    """Average over all places: (N, C, ...) -> (N, C); unlike adaptive pooling, deterministic on every device."""

    def forward(self, x: Tensor) -> Tensor:
        """Average over every axis but the first two."""
        return x.flatten(2).mean(2)
