"""Fractional max pooling: regions of random size while the network trains, fixed ones afterwards."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from landscape.randomness import Stochastic
from models.regularization.registry import REGULARIZERS, Regularizer

Sequence = Literal["pseudorandom", "random"]


class FractionalMaxPool(Stochastic):
    """Largest value of regions that are cut anew for each batch, for (N, C, L) and (N, C, H, W) alike.

    Attributes:
        ratio: Side of the inputs over side of the outputs, from 1 to 2.
        sequence: How regions are drawn.
        overlapping: Whether a region also takes the first place of the next one.
    """

    def __init__(self, ratio: float, sequence: Sequence, overlapping: bool) -> None:
        super().__init__()
        self.ratio = ratio
        self.sequence = sequence
        self.overlapping = overlapping

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, ...) to the same with each side divided by the ratio."""
        for axis in range(2, x.ndim):
            side = x.shape[axis]
            places = regions(self.bounds(side), side, self.overlapping).to(x.device)
            x = x.index_select(axis, places.flatten()).unflatten(axis, places.shape).max(axis + 1).values
        return x

    def bounds(self, side: int) -> Tensor:
        """Draw where regions begin and the last one ends, (n + 1,) from 0 to `side`; fixed ones in evaluation mode."""
        count = pooled_side(side, self.ratio)
        if self.training and self.sequence == "random":
            steps = torch.ones(count, dtype=torch.long)
            steps[torch.randperm(count)[: side - count]] = 2
            return torch.cat([torch.zeros(1, dtype=torch.long), steps.cumsum(0)])
        shift = float(torch.rand(())) if self.training else 0.5
        cuts = torch.tensor([math.ceil(side / count * (index + shift)) for index in range(count + 1)])
        return cuts - cuts[0]

    def extra_repr(self) -> str:
        """Say the ratio and how regions are drawn."""
        return f"{self.ratio}, {self.sequence}, overlapping={self.overlapping}"


def pooled_side(side: int, ratio: float) -> int:
    """Return side / ratio rounded down, but enough that no region is longer than 2."""
    return max(math.floor(side / ratio), -(-side // 2))


def regions(bounds: Tensor, side: int, overlapping: bool) -> Tensor:
    """List the places of each region, (n, 2) or (n, 3); a short one names its last place again."""
    ends = bounds[1:] if overlapping else bounds[1:] - 1
    reach = torch.arange(3 if overlapping else 2)
    return torch.minimum(bounds[:-1, None] + reach, ends.clamp_max(side - 1)[:, None])


@REGULARIZERS.register("fractional-pool")
def fractional_pool(
    *, ratio: float = 1.5, sequence: Sequence = "pseudorandom", overlapping: bool = True
) -> Regularizer:
    """Pool over regions of random sizes 1 and 2 in place of each max pooling with stride (Graham 2014).

    A side becomes side / ratio, rounded down, where it was halved: the layers after it see more places. The regions are
    one draw for a batch and a pooling. pseudorandom cuts at ceil(a (i + u)) with u uniform and a the exact ratio of the
    sides, random in any order; with overlapping a region takes the place behind it too. In evaluation mode the regions
    are fixed: pseudorandom with u = 1/2.

    Raises:
        ValueError: If the ratio is not in (1, 2), or (from what is returned) the network has no max pooling with
            stride, or its first fully connected layer counts on the sides.
    """
    if not 1 < ratio < 2:
        raise ValueError(f"needs a ratio above 1 and below 2, got {ratio}")

    def apply(network: nn.Module) -> None:
        parents = list(network.modules())
        found = [(p, name) for p in parents for name, child in p.named_children() if _halves(child)]
        if not found or any(isinstance(module, nn.Flatten) for module in parents):
            raise ValueError(
                "regularization 'fractional-pool' takes the place of max poolings in a network that averages over all "
                "places before its classifier, and this one has none or needs its sides; choose cnn, vgg or inception"
            )
        for parent, name in found:
            setattr(parent, name, FractionalMaxPool(ratio, sequence, overlapping))

    return apply


def _halves(module: nn.Module) -> bool:
    return isinstance(module, nn.MaxPool1d | nn.MaxPool2d) and module.stride != 1
