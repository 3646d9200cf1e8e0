"""Averages of the weights for any Lightning Trainer, with statistics of BatchNorm of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from landscape.averaging import RunningMean, WeightAverage
from landscape.normalization import batch_norms, recalibrate


def first_of(network: nn.Module, batch: Any) -> Any:
    """Run a network on a batch, or on the first part of one that has several, such as (inputs, targets)."""
    return network(batch[0] if isinstance(batch, tuple | list) else batch)


class WeightAveraging(pl.Callback):
    """Keep an average of the trainable parameters; training itself does not see it.

    It goes into every checkpoint, so that a training that resumes ends with the same bits. When training has ended,
    `apply` puts it into the module, and `applied` for a while:

        averaging = WeightAveraging(stochastic_weight_average(start=0.75))
        trainer = pl.Trainer(max_epochs=20, callbacks=[averaging])
        trainer.fit(module, loader)
        with averaging.applied(module, loader):
            trainer.test(module, test_loader)

    Running statistics of BatchNorm belong to the weights they were collected under. They are measured again, pooled
    over the batches that are given; without batches, a module that has some is refused.

    Args:
        average: Which weights enter, and with which share; see `landscape.averaging`.
        submodule: The part of the LightningModule to average, as in `get_submodule`; all of it by default.
    """

    def __init__(self, average: WeightAverage, submodule: str = "") -> None:
        self._submodule = submodule
        self._running = RunningMean(average)
        self._step = 0

    @property
    def count(self) -> int:
        """How many weights have entered."""
        return self._running.count

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count steps from where training stands.

        Raises:
            ValueError: If epochs cannot be counted.
        """
        self._step = trainer.global_step
        if not math.isfinite(trainer.num_training_batches):
            raise ValueError(
                "an average counts epochs, but the training data has no length; give limit_train_batches to the Trainer"
            )
        self._running.average.first_epoch(trainer.max_epochs)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let the weights enter, if a step has moved them."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        steps_per_epoch = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
        if self._running.average.takes(self._step, steps_per_epoch, trainer.max_epochs):
            self._running.add(_trainable(pl_module.get_submodule(self._submodule)))

    def apply(
        self,
        module: nn.Module,
        batches: Iterable[Any] | None = None,
        forward: Callable[[nn.Module, Any], Any] = first_of,
    ) -> None:
        """Put the average into a module, and measure its statistics of BatchNorm again.

        Args:
            module: The LightningModule, or one with equal parameters, changed in place.
            batches: The training data; read once, where there is BatchNorm.
            forward: Runs the averaged part on a batch, which is on its device.

        Raises:
            ValueError: If nothing has entered yet, or there is BatchNorm and no batches.
        """
        network = module.get_submodule(self._submodule)
        if not self.count:
            raise ValueError("no weights have entered the average yet; let it start earlier, or train for longer")
        if batch_norms(network) and batches is None:
            raise ValueError(
                "the running statistics of BatchNorm are not those of the averaged weights; give the training data, "
                "to measure them again"
            )
        self._put_into(network)
        if batches is not None:
            _settle(network, batches, forward)

    @contextmanager
    def applied(
        self,
        module: nn.Module,
        batches: Iterable[Any] | None = None,
        forward: Callable[[nn.Module, Any], Any] = first_of,
    ) -> Iterator[None]:
        """Put the average into a module for a while, as `apply` does; then it is what it was."""
        network = module.get_submodule(self._submodule)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        try:
            self.apply(module, batches, forward)
            yield
        finally:
            network.load_state_dict(before)

    @torch.no_grad()
    def _put_into(self, network: nn.Module) -> None:
        mean = self._running.mean()
        for weight, value in zip(_trainable(network), mean, strict=bool(mean)):
            weight.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"count": self._running.count, "mean": self._running.kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._running.count, self._running.kept = state_dict["count"], state_dict["mean"]


def _settle(network: nn.Module, batches: Iterable[Any], forward: Callable[[nn.Module, Any], Any]) -> None:
    """Pool the statistics of BatchNorm over batches, with dropout off."""
    modes = {module: module.training for module in network.modules()}
    device = next(network.parameters()).device
    network.eval()
    recalibrate(network, lambda: [forward(network, _on(device, batch)) for batch in batches])
    for module, mode in modes.items():
        module.training = mode


def _on(device: torch.device, batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, tuple | list):
        return [_on(device, part) for part in batch]
    if isinstance(batch, dict):
        return {name: _on(device, part) for name, part in batch.items()}
    return batch


def _trainable(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]
