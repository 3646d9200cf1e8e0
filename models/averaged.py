"""The callback that averages the weights of a run while they are trained."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from landscape.averaging import WeightAverage
from landscape.callbacks import WeightAveraging
from landscape.normalization import batch_norms
from models.normalization import settle_statistics
from models.transfer.freezing import frozen_norms


class AveragedWeights(WeightAveraging):
    """Keep the average of the trainable parameters of `network`; training itself does not see it.

    Args:
        average: What enters, and with which share.
        freeze: Which part of the network is frozen, as `RunConfig.freeze` writes it; its statistics stay.
    """

    def __init__(self, average: WeightAverage, freeze: str = "none") -> None:
        super().__init__(average, "network")
        self._freeze = freeze

    def network(self, trained: nn.Module, inputs: Tensor, batch_size: int = 1024) -> nn.Module:
        """Return a copy of the trained network at the average; where nothing has entered, at its own weights.

        Statistics of BatchNorm belong to the weights they were collected under, so they are measured again on the
        training set, but for those of frozen layers.

        Args:
            trained: The network that was averaged.
            inputs: (N, ...) the training set.
            batch_size: Examples evaluated at a time.
        """
        averaged = copy.deepcopy(trained)
        self._put_into(averaged)
        if self.count and batch_norms(averaged):
            there = inputs.to(next(averaged.parameters()).device)
            settle_statistics(averaged, there, batch_size, frozen_norms(averaged, self._freeze))
        return averaged
