"""Stochastic depth: residual branches that are skipped at random while the network trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from landscape.randomness import Stochastic
from models.layers import Residual
from models.regularization.registry import REGULARIZERS, Regularizer, share


class Gate(Stochastic):
    """Adds a branch to the way around it, or skips the branch.

    Attributes:
        survival: Probability that a batch goes through the branch.
        is_inverted: Whether a branch that is not skipped is divided by it, rather than multiplied after training.
    """

    def __init__(self, survival: float, is_inverted: bool) -> None:
        super().__init__()
        self.survival = survival
        self.is_inverted = is_inverted

    def forward(self, branch: Callable[[], Tensor], way: Callable[[], Tensor]) -> Tensor:
        """Compute one or both, (N, ...)."""
        if not self.training:
            return (branch() if self.is_inverted else branch() * self.survival) + way()
        if torch.rand(()) >= self.survival:  # on the CPU: no device has to be waited for
            return way()
        return (branch() / self.survival if self.is_inverted else branch()) + way()


@REGULARIZERS.register("stochastic-depth")
def stochastic_depth(*, p: float = 0.5, mode: Literal["classic", "inverted"] = "classic") -> Regularizer:
    """Skip residual branches at random, one draw a branch and batch, the last with probability p (Huang et al. 2016).

    Branch l of L survives with probability 1 - p l / L, so that with p = 1/2 there are (3 L - 1) / 4 on average. A
    skipped branch is not computed: it saves its time, its norms see no batch, and its gradient is zero. A transformer
    block has two branches, and one that changes the shape keeps its shortcut.

    classic, as published, multiplies branches by their survival in evaluation mode; inverted divides those that are not
    skipped by it while training.

    Raises:
        ValueError: If p is not in [0, 1), or (from what is returned) the network has no residual branches.
    """
    share("p", p)

    def apply(network: nn.Module) -> None:
        found = [(block, len(block.branches())) for block in network.modules() if isinstance(block, Residual)]
        total, before = sum(count for _, count in found), 0
        if not total:
            raise ValueError(
                "regularization 'stochastic-depth' skips residual branches, and this network has none; choose resnet, "
                "preresnet, wideresnet, efficientnet or vit, with skips"
            )
        for block, count in found:
            survivals = [1 - p * (before + number + 1) / total for number in range(count)]
            block.gates = nn.ModuleList(Gate(survival, mode == "inverted") for survival in survivals)
            before += count

    return apply


def can_skip(network: nn.Module) -> bool:
    """Whether some parameters may take no part in a step."""
    return any(isinstance(module, Gate) for module in network.modules())
