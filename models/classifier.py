"""The LightningModule that every run trains: a network, a loss, an optimizer and a schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from models.data import Examples
from models.gradients import GradientRules, kept_buffers, sharpness_aware_gradient
from models.losses import Loss
from models.normalization import exact_norms, settle_statistics
from models.optimizers import OwnOptimizer
from models.regularization.depth import can_skip
from models.seeds import Fork, derived_seed, seed_at
from models.transfer.anchors import Anchor


class LeanModule(pl.LightningModule):
    """A LightningModule whose batches may lie on its device already, and that costs little in each step."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Spare Lightning's note of the running hook, set forty times a step, torch's checks for parameters."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave a batch that is already there alone."""
        if isinstance(batch, Examples) and batch.inputs.device == device:
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)


class Classifier(LeanModule):
    """Minimizes the loss of a network, cross-entropy if no other is given.

    Loss (nats) and accuracy of training and validation are logged once an epoch as `train_loss`,
    `train_accuracy`, `val_loss` and `val_accuracy`, averaged over examples; those of training as the epoch went on,
    with the parameters moving. Batches that are already on the device are not moved again.

    The splits that are measured after each epoch are the Trainer's validation loaders, in the order of `splits`.

    Where the network has norms with exact statistics, they are measured on the training set after the last step of each
    epoch, before it is validated or kept.

    Whatever is random in a step (augmentation, dropout) is drawn from (seed, step) alone, so that a training that
    resumes goes on as it would have gone. Where examples are augmented, the loss and accuracy of training are those of
    the augmented ones; of an example whose label is mixed, the class with the larger share counts as right.

    Sharpness-aware, a step takes two gradients: the one at the parameters leads to the worse point where the one that
    counts is taken, of the same batch with the same random draws. Loss, accuracy and the running statistics of
    BatchNorm are those of the first.

    An anchor may add old examples to a batch and a penalty to its loss, whose mean over an epoch is logged as
    `train_penalty`; `train_loss` stays the loss of the examples.

    Attributes:
        network: The bare network, inputs (N, ...) -> logits (N, K).
        seed: Seed of what is random in a step.
        fork: From which step on another seed takes its place; never if None.
        loss: The mean loss of logits (N, K) and targets (N,).
        rules: What is done to gradients before the optimizer steps.
        sam: Radius of sharpness-aware minimization; 0 for none.
        augment: What is done to a batch before a step; nothing if None.
        splits: What each validation loader holds: `<split>_loss` and `<split>_accuracy` are logged.
        anchor: What the network is kept near to; it may be set until training begins.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Callable[[int], float] | None = None,
        seed: int = 0,
        loss: Loss = F.cross_entropy,
        rules: GradientRules | None = None,
        sam: float = 0.0,
        augment: Callable[[Examples], Examples] | None = None,
        still: Sequence[nn.Module] = (),
        splits: Sequence[str] = ("val",),
        fork: Fork | None = None,
    ) -> None:
        """Put a training together.

        Args:
            network: The network to train.
            optimizer: Builds the optimizer of the parameters it is given, those that require a gradient.
            schedule: Factor on the learning rate as a function of the step, from 0; constant if None.
            seed: Seed of what is random in a step.
            loss: The mean loss of logits (N, K) and targets (N,), a scalar; with mixed labels also of (N, K) shares.
            rules: What is done to gradients before the optimizer steps; nothing if None.
            sam: Radius of sharpness-aware minimization; 0 for none.
            augment: From a batch on its device to the one that the step takes, drawn from torch's global generator.
            still: Layers of the network that stay in eval mode.
            splits: What each validation loader holds.
            fork: From which step on what is random comes from another seed; never if None.
        """
        super().__init__()
        self.network = network
        self.seed = seed
        self.fork = fork
        self.loss = loss
        self.rules = rules or GradientRules()
        self.sam = sam
        self.augment = augment
        self._skips = can_skip(network)
        self.anchor = Anchor()
        self.splits = tuple(splits)
        self._still = tuple(still)
        self._optimizer = optimizer
        self._schedule = schedule
        self._outputs: list[tuple[Tensor, Tensor]] = []
        self._measured: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._penalties: list[Tensor] = []
        self._batch: Examples | None = None

    def train(self, mode: bool = True) -> Classifier:
        """Set the mode of all layers but those that stay still."""
        super().train(mode)
        for layer in self._still:
            layer.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute logits (N, K)."""
        return self.network(inputs)

    def configure_optimizers(self) -> Any:
        """Build the optimizer and, unless the learning rate is constant, its schedule by step."""
        optimizer = self._optimizer([p for p in self.network.parameters() if p.requires_grad])
        if self.sam:
            for group in optimizer.param_groups:
                group["sam_radius"] = self.sam  # kept with the optimizer's state, since it moves the edge of stability
        if self._schedule is None:
            return optimizer
        scheduler = LambdaLR(optimizer, self._schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_batch_start(self, batch: Examples, batch_idx: int) -> None:
        """Seed what is random in this step by (seed, step)."""
        self._seed_step()

    def training_step(self, batch: Examples, batch_idx: int) -> Tensor:
        """Return the mean loss of a batch."""
        if self.training:
            extended = self.anchor.extended(batch)
            if self.sam and extended is not batch:
                self._seed_step()  # as the second gradient will, whatever was drawn so far
            batch = extended if self.augment is None else self._augmented(extended)
        loss, logits, penalty = self._anchored(batch)
        if self.training:
            self._outputs.append((logits.detach(), batch.targets))
            self._penalties += [] if penalty is None else [penalty.detach()]
            self._batch = batch if self.sam else None
        return loss

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Take the gradient of a step, where and in the way that the optimizer needs it."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        own = optimizer if isinstance(optimizer, OwnOptimizer) else None
        differentiate = own.take_gradient if own else partial(super().backward, **kwargs)
        if self.sam:
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
            with kept_buffers(self.network):
                sharpness_aware_gradient(loss, parameters, self.sam, self._loss_again, differentiate)
        else:
            differentiate(loss)
        if own:
            own.look_back()

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as the Trainer was told to, then do what the rules say."""
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        self.rules.apply(optimizer)

    def on_train_batch_end(self, outputs: Any, batch: Examples, batch_idx: int) -> None:
        """After an epoch's last batch measure exact statistics and log the means, so that callbacks find them."""
        if not self.trainer.is_last_batch:
            return
        if exact_norms(self.network):
            settle_statistics(self.network, self.trainer.train_dataloader.dataset.tensors[0])
        if self._outputs:
            self._log_means("train", self._outputs)
            self._outputs.clear()
        if self._penalties:
            mean = torch.stack(self._penalties).mean()
            self.log("train_penalty", mean, on_step=False, on_epoch=True, batch_size=1)

    def on_train_epoch_start(self) -> None:
        """Forget what an interrupted epoch has left, and keep still what Lightning has set to training."""
        self._outputs.clear()
        self._penalties.clear()
        self.train(self.training)

    def on_validation_epoch_start(self) -> None:
        """Start over."""
        self._measured.clear()

    def validation_step(self, batch: Examples, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Evaluate a batch of one of the splits."""
        inputs, targets = batch
        self._measured.setdefault(dataloader_idx, []).append((self.network(inputs), targets))

    def on_validation_epoch_end(self) -> None:
        """Log the means over each split."""
        for index, outputs in self._measured.items():
            self._log_means(self.splits[index], outputs)
        self._measured.clear()

    def _augmented(self, batch: Examples) -> Examples:
        """Augment by draws of their own, so that the network draws as it does without."""
        assert self.augment is not None
        self._seed_step("augmentation")
        changed = self.augment(batch)
        self._seed_step()
        return changed

    def _loss_of(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Evaluate the loss; the gradient of a branch that was skipped is zero rather than missing."""
        loss = self.loss(logits, targets)
        if self._skips:
            loss = loss + 0.0 * sum(p.sum() for p in self.network.parameters() if p.requires_grad)
        return loss

    def _seed_step(self, purpose: str = "step") -> None:
        seed = derived_seed(seed_at(self.global_step, self.seed, self.fork), purpose, self.global_step)
        # torch.manual_seed would record a stack trace for every kind of accelerator, a thousand times the cost
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _loss_again(self) -> Tensor:
        """Evaluate the loss of the step's batch once more, with the same random draws."""
        assert self._batch is not None
        self._seed_step()
        return self._anchored(self._batch)[0] / self.trainer.accumulate_grad_batches

    def _anchored(self, batch: Examples) -> tuple[Tensor, Tensor, Tensor | None]:
        """The loss with the anchor's penalty, the logits, and the penalty."""
        inputs, targets = batch
        logits = self.network(inputs)
        loss, penalty = self._loss_of(logits, targets), self.anchor.penalty(self.network, inputs, logits)
        return (loss if penalty is None else loss + penalty), logits, penalty

    def _log_means(self, part: str, outputs: Sequence[tuple[Tensor, Tensor]]) -> None:
        logits, targets = (torch.cat(parts) for parts in zip(*outputs, strict=True))
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        accuracy = (logits.argmax(1) == labels).float().mean()
        metrics = {f"{part}_loss": self.loss(logits, targets), f"{part}_accuracy": accuracy}
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=1)
