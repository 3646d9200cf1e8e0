"""The callback that averages weights while they are trained."""

from __future__ import annotations

import copy
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from landscape.normalization import batch_norms
from models.averaging import WeightAverage
from models.normalization import settle_statistics
from models.transfer.freezing import frozen_norms


class AveragedWeights(pl.Callback):
    """Keep the average of the trainable parameters of `network`; training itself does not see it.

    It goes into every checkpoint, so that a training that resumes ends with the same bits.

    Args:
        average: What enters, and with which share.
        freeze: Which part of the network is frozen, as `RunConfig.freeze` writes it; its statistics stay.

    Attributes:
        count: How many weights have entered.
    """

    def __init__(self, average: WeightAverage, freeze: str = "none") -> None:
        self._average = average
        self._freeze = freeze
        self._mean: list[Tensor] = []
        self._step = 0
        self.count = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count steps from where training stands."""
        self._step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let the weights enter, if a step has moved them."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        steps_per_epoch = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
        if not self._average.takes(self._step, steps_per_epoch):
            return
        self.count += 1
        weights = _trainable(pl_module.network)
        if self.count == 1:
            self._mean = [weight.detach().clone() for weight in weights]
            return
        share = self._average.share(self.count)
        for position, weight in enumerate(weights):
            self._mean[position] = self._mean[position].to(weight.device).lerp_(weight, share)

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
        with torch.no_grad():
            for weight, mean in zip(_trainable(averaged), self._mean, strict=bool(self._mean)):
                weight.copy_(mean)
        if self._mean and batch_norms(averaged):
            there = inputs.to(next(averaged.parameters()).device)
            settle_statistics(averaged, there, batch_size, frozen_norms(averaged, self._freeze))
        return averaged

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"count": self.count, "mean": self._mean}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.count, self._mean = state_dict["count"], state_dict["mean"]


def _trainable(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]
