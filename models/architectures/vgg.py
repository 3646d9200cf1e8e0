"""VGG for small inputs."""

from __future__ import annotations

from torch import nn

from models.architectures.registry import ARCHITECTURES
from models.layers import GlobalMean, conv_block, max_pool, spatial_dimensions

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions in each of the five stages (configurations A, B, D and E of the paper), by depth."""


@ARCHITECTURES.register("vgg")
def vgg(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 16,
    depth: int = 11,
    norm: str = "batch",
    activation: str = "relu",
) -> nn.Module:
    """Build VGG-`depth` with `width` channels in its first stage (64 in the paper) and one linear classifier.

    A stage ends by halving the sides as long as at least two places are left on each.

    Raises:
        ValueError: If `depth` is not 11, 13, 16 or 19.

    References:
        Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
        ICLR 2015, table 1.
    """
    if depth not in CONVOLUTIONS:
        raise ValueError(f"model 'vgg' has depth 11, 13, 16 or 19, got {depth}")
    dimensions = spatial_dimensions(input_shape, "vgg")
    network = nn.Sequential()
    channels_in, side = input_shape[0], min(input_shape[1:])
    for index, repeats in enumerate(CONVOLUTIONS[depth]):
        stage, channels = nn.Sequential(), width * min(2**index, 8)
        for _ in range(repeats):
            stage.append(conv_block(dimensions, channels_in, channels, norm, activation))
            channels_in = channels
        if side >= 4:
            stage.append(max_pool(dimensions))
            side //= 2
        network.add_module(f"stage{index + 1}", stage)
    network.add_module("mean", GlobalMean())
    network.add_module("head", nn.Linear(channels_in, num_classes))
    return network
