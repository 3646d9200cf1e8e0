"""AlexNet for small inputs."""

from __future__ import annotations

import math
from functools import partial

from torch import nn

from models.architectures.registry import ARCHITECTURES
from models.layers import activated, conv_block, max_pool, spatial_dimensions

CONVOLUTIONS = ((5, 1, True), (5, 3, True), (3, 6, False), (3, 4, False), (3, 4, True))
"""Width of the kernel (first 11 with stride 4 in the paper), channels over `width`, and whether a pooling follows."""


@ARCHITECTURES.register("alexnet")
def alexnet(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 16,
    norm: str = "none",
    activation: str = "relu",
) -> nn.Module:
    """Build AlexNet with `width` channels in its first convolution (64 in the one-tower form) and no stride there.

    Five convolutions with overlapping poolings after the first, second and fifth, as long as at least two places are
    left on each side, then two hidden layers of 16 times `width` units (64 times in the paper). Without the paper's
    local response normalization, which a norm stands for; its dropout is a regularization of its own.

    For images of C channels that end with S places, without norm, it has
    25 C w + 597 w^2 + 18 w + (4 w S + 1) h + (h + 1) h + (h + 1) K parameters, h = 16 w.

    References:
        Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", NeurIPS 2012;
        Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014 (the one-tower form).
    """
    dimensions = spatial_dimensions(input_shape, "alexnet")
    network, channels_in, sides = nn.Sequential(), input_shape[0], input_shape[1:]
    for index, (kernel, factor, pools) in enumerate(CONVOLUTIONS, start=1):
        block = conv_block(dimensions, channels_in, factor * width, norm, activation, kernel=kernel)
        network.add_module(f"block{index}", block)
        channels_in = factor * width
        if pools and min(sides) >= 4:
            network.add_module(f"pool{index}", max_pool(dimensions, kernel=3, stride=2))
            sides = tuple((side + 1) // 2 for side in sides)
    network.add_module("flatten", nn.Flatten())
    features = channels_in * math.prod(sides)
    for index in (6, 7):
        hidden, _, active = activated(partial(nn.Linear, features), 16 * width, 0, "none", activation)
        network.add_module(f"hidden{index}", hidden)
        network.add_module(f"activation{index}", active)
        features = 16 * width
    network.add_module("head", nn.Linear(features, num_classes))
    return network
