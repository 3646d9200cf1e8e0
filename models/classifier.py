"""The LightningModule that every run trains: a network, a loss, an optimizer and a schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from models.data import Examples
from models.normalization import exact_norms, settle_statistics
from models.seeds import derived_seed

Loss = Callable[[Tensor, Tensor], Tensor]


class Classifier(pl.LightningModule):
    """Minimizes the loss of a network, cross-entropy if no other is given.

    Loss (nats) and accuracy of training and validation are logged once an epoch as `train_loss`,
    `train_accuracy`, `val_loss` and `val_accuracy`, averaged over examples; those of training as the epoch went on,
    with the parameters moving. Batches that are already on the device are not moved again.

    Where the network has norms with exact statistics, they are measured on the training set after the last step of each
    epoch, before it is validated or kept.

    Whatever is random in a step (dropout) is drawn from (seed, step) alone, so that a training that resumes goes on
    as it would have gone.

    Attributes:
        network: The bare network, inputs (N, ...) -> logits (N, K).
        seed: Seed of what is random in a step.
        loss: The mean loss of logits (N, K) and targets (N,).
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Callable[[int], float] | None = None,
        seed: int = 0,
        loss: Loss = F.cross_entropy,
    ) -> None:
        """Put a training together.

        Args:
            network: The network to train.
            optimizer: Builds the optimizer of the parameters it is given.
            schedule: Factor on the learning rate as a function of the step, from 0; constant if None.
            seed: Seed of what is random in a step.
            loss: The mean loss of logits (N, K) and targets (N,), a scalar.
        """
        super().__init__()
        self.network = network
        self.seed = seed
        self.loss = loss
        self._optimizer = optimizer
        self._schedule = schedule
        self._outputs: list[tuple[Tensor, Tensor]] = []

    def __setattr__(self, name: str, value: Any) -> None:
        """Spare Lightning's note of the running hook, set forty times a step, torch's checks for parameters."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute logits (N, K)."""
        return self.network(inputs)

    def configure_optimizers(self) -> Any:
        """Build the optimizer and, unless the learning rate is constant, its schedule by step."""
        optimizer = self._optimizer(self.network.parameters())
        if self._schedule is None:
            return optimizer
        scheduler = LambdaLR(optimizer, self._schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave a batch that is already there alone."""
        if isinstance(batch, Examples) and batch.inputs.device == device:
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_train_batch_start(self, batch: Examples, batch_idx: int) -> None:
        """Seed what is random in this step by (seed, step)."""
        seed = derived_seed(self.seed, "step", self.global_step)
        # torch.manual_seed would record a stack trace for every kind of accelerator, a thousand times the cost
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def training_step(self, batch: Examples, batch_idx: int) -> Tensor:
        """Return the mean loss of a batch."""
        inputs, targets = batch
        logits = self.network(inputs)
        if self.training:
            self._outputs.append((logits.detach(), targets))
        return self.loss(logits, targets)

    def on_train_batch_end(self, outputs: Any, batch: Examples, batch_idx: int) -> None:
        """After an epoch's last batch measure exact statistics and log the means, so that callbacks find them."""
        if not self.trainer.is_last_batch:
            return
        if exact_norms(self.network):
            settle_statistics(self.network, self.trainer.train_dataloader.dataset.tensors[0])
        if self._outputs:
            self._log_means("train")

    def on_train_epoch_start(self) -> None:
        """Forget what an interrupted epoch has left."""
        self._outputs.clear()

    def on_validation_epoch_start(self) -> None:
        """Start over."""
        self._outputs.clear()

    def validation_step(self, batch: Examples, batch_idx: int) -> None:
        """Evaluate a batch."""
        inputs, targets = batch
        self._outputs.append((self.network(inputs), targets))

    def on_validation_epoch_end(self) -> None:
        """Log the means over the validation split."""
        self._log_means("val")

    def _log_means(self, part: str) -> None:
        logits, targets = (torch.cat(parts) for parts in zip(*self._outputs, strict=True))
        self._outputs.clear()
        accuracy = (logits.argmax(1) == targets).float().mean()
        metrics = {f"{part}_loss": self.loss(logits, targets), f"{part}_accuracy": accuracy}
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=1)
