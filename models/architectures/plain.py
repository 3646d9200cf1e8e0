"""A small plain convolutional network."""

from __future__ import annotations

from torch import nn

from models.architectures.registry import ARCHITECTURES
from models.layers import GlobalMean, conv_block, max_pool, spatial_dimensions


@ARCHITECTURES.register("cnn")
def cnn(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 16,
    depth: int = 3,
    norm: str = "batch",
    activation: str = "relu",
) -> nn.Module:
    """Build `depth` convolutions, the first with `width` channels, global averaging and a linear classifier.

    After the first two convolutions the sides are halved and the channels doubled.
    """
    dimensions = spatial_dimensions(input_shape, "cnn")
    network = nn.Sequential()
    channels_in, channels = input_shape[0], width
    for index in range(1, depth + 1):
        network.add_module(f"block{index}", conv_block(dimensions, channels_in, channels, norm, activation))
        channels_in = channels
        if index <= min(2, depth - 1):
            network.add_module(f"pool{index}", max_pool(dimensions))
            channels *= 2
    network.add_module("mean", GlobalMean())
    network.add_module("head", nn.Linear(channels_in, num_classes))
    return network
