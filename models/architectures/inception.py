"""GoogLeNet's Inception modules for small inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.architectures.registry import ARCHITECTURES
from models.layers import GlobalMean, conv_block, max_pool, spatial_dimensions


class Inception(nn.Module):
    """Four ways through at once, concatenated: 1 x 1, 1 x 1 to 3 x 3, 1 x 1 to 5 x 5, and pooling to 1 x 1.

    They give 4, 8, 2 and 2 units of channels, 16 in all; the 1 x 1 convolutions before 3 x 3 and 5 x 5 have 6 units
    and 1: the proportions of module 3a of GoogLeNet, whose unit is 16.

    Args:
        dimensions: Spatial axes.
        channels_in: Channels of the inputs.
        unit: Channels of a unit.
        norm: A norm with its options.
        activation: An activation with its options.
    """

    def __init__(self, dimensions: int, channels_in: int, unit: int, norm: str, activation: str) -> None:
        super().__init__()

        def block(channels: int, channels_out: int, kernel: int) -> nn.Module:
            return conv_block(dimensions, channels, channels_out, norm, activation, kernel=kernel)

        self.one = block(channels_in, 4 * unit, 1)
        self.three = nn.Sequential(block(channels_in, 6 * unit, 1), block(6 * unit, 8 * unit, 3))
        self.five = nn.Sequential(block(channels_in, unit, 1), block(unit, 2 * unit, 5))
        self.pool = nn.Sequential(max_pool(dimensions, kernel=3, stride=1), block(channels_in, 2 * unit, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, ...) to (N, 16 units, ...)."""
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], dim=1)


@ARCHITECTURES.register("inception")
def inception(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 2,
    depth: int = 3,
    norm: str = "batch",
    activation: str = "relu",
) -> nn.Module:
    """Build a 3 x 3 convolution, `depth` Inception modules of `width` channels a unit, and a linear classifier.

    After the first two modules the sides are halved and the unit doubled, unless no module follows.

    For images of C channels, with batch norm, it has 36 C w + 8 w parameters in the first convolution,
    13 u c + 482 u^2 + 46 u in a module of unit u on c channels, and (c + 1) K in the classifier.

    References:
        Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, figure 2(b) and table 1.
    """
    dimensions = spatial_dimensions(input_shape, "inception")
    network = nn.Sequential()
    network.add_module("stem", conv_block(dimensions, input_shape[0], 4 * width, norm, activation))
    channels, unit = 4 * width, width
    for index in range(1, depth + 1):
        network.add_module(f"inception{index}", Inception(dimensions, channels, unit, norm, activation))
        channels = 16 * unit
        if index <= min(2, depth - 1):
            network.add_module(f"pool{index}", max_pool(dimensions))
            unit *= 2
    network.add_module("mean", GlobalMean())
    network.add_module("head", nn.Linear(channels, num_classes))
    return network
