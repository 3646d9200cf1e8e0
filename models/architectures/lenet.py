"""LeNet-5."""

from __future__ import annotations

import math
from functools import partial

from torch import nn

from models.architectures.registry import ARCHITECTURES
from models.layers import activated, conv, mean_pool, spatial_dimensions


@ARCHITECTURES.register("lenet")
def lenet(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 6,
    norm: str = "none",
    activation: str = "tanh",
) -> nn.Module:
    """Build LeNet-5 with all channels connected: two convolutions of width five, then 120 and 84 units.

    `width` is the number of channels of the first convolution (6 in the paper); everything else grows with
    it. Inputs below the paper's 32 x 32 are padded, so that 28 x 28 gives the classic 61,706 parameters
    and 8 x 8 still fits.

    References:
        LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE 1998, sec. II.B.
    """
    dimensions = spatial_dimensions(input_shape, "lenet")
    network, channels, sides = nn.Sequential(), input_shape[0], input_shape[1:]
    for index, (channels_out, full_side) in enumerate(((width, 32), (round(width * 16 / 6), 10)), start=1):
        padding = 2 if min(sides) < full_side else 0
        convolve = partial(conv, dimensions, channels, kernel=5, padding=padding)
        parts = activated(convolve, channels_out, dimensions, norm, activation)
        for name, part in zip(("conv", "norm", "activation"), parts, strict=True):
            network.add_module(f"{name}{index}", part)
        network.add_module(f"pool{index}", mean_pool(dimensions))
        channels, sides = channels_out, tuple((side + 2 * padding - 4) // 2 for side in sides)
    network.add_module("flatten", nn.Flatten())
    features = channels * math.prod(sides)
    for index, units in enumerate((20 * width, 14 * width), start=3):
        hidden, _, active = activated(partial(nn.Linear, features), units, 0, "none", activation)
        network.add_module(f"hidden{index}", hidden)
        network.add_module(f"activation{index}", active)
        features = units
    network.add_module("head", nn.Linear(features, num_classes))
    return network
