"""Losses, gradients and updates by step, metrics by epoch, and snapshots of the parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from landscape.callbacks.answers import restore_training, restore_trajectory, training_of, trajectory_of
from landscape.callbacks.recording import Recording
from landscape.moments import Moments
from landscape.parameters import ParameterLayout
from landscape.provenance import provenance

_FLUSH = 64  # steps kept in memory before they are written
_LARGEST_TRAJECTORY = 2 * 2**30  # bytes; sealing holds all snapshots in memory at once


class TrainingDynamics(Recording):
    """Record how training goes, step by step, and where the parameters were.

    `<out>/training.h5` holds, by optimizer update (`step`, from 1):
    the `loss` of the batch as `training_step` returned it (the mean over accumulated batches), the `learning_rate` of
    the first parameter group, the `gradient_norm` before clipping over all parameters and by layer
    (`layer_gradient_norm`), `parameter_norm` before the update, and `update_ratio`, the norm of the *actual*
    difference that the update made over the norm of the parameter, both by layer. A layer is a weight, a parameter
    of two or more axes. By `epoch` (from 0): every number that the module logged.

    `<out>/trajectory.h5` holds the trainable parameters as flat float32 vectors (`theta`), at the first and last step
    and on a schedule.

    Args:
        out: The run's folder.
        every: Record every so many optimizer updates.
        snapshots: When to keep the parameters: "epochs:1", "steps:50", "log:8" (points a decade), or "none" for the
            first and the last step alone.
        submodule: The part of the LightningModule to follow, as in `get_submodule`; all of it by default.
        results: Called when training has ended; its numbers become scalars of training.h5.

    Raises:
        ValueError: If a value is out of range; at the start of training if the module has several optimizers, the
            snapshots would exceed 2 GiB, or the folder holds another finished training.
    """

    def __init__(
        self,
        out: str | Path,
        every: int = 1,
        snapshots: str = "epochs:1",
        *,
        submodule: str = "",
        results: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        super().__init__(out, "training")
        if every < 1:
            raise ValueError(f"every must be at least 1 step, got {every}")
        self.every = every
        self.snapshots = snapshots
        self._moments = Moments.of(snapshots)
        self._submodule = submodule
        self._results = results
        self._step = 0
        self._pending: dict[str, Any] = {}
        self._losses: list[Tensor] = []
        self._buffer: list[dict[str, Any]] = []
        self._finished_epoch: int | None = None
        self._recorded: dict[str, float] | None = None
        self._validated = False
        self._logged_before: set[str] = set()
        self._validation_metrics: set[str] = set()

    # --- hooks of the Trainer ---------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Complete the last epoch by what the module logged after this callback was called."""
        if self._begun:
            self._record_epoch(trainer)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Measure the gradient, and remember where the parameters were."""
        step = trainer.global_step + 1
        if not self._begun or step % self.every or (self._pending and self._pending["step"] == step):
            return
        gradients = [torch.zeros((), device=p.device) if p.grad is None else p.grad for p in self._parameters]
        before = [p.detach().clone() for p in self._weights]
        self._pending = {
            "step": step,
            "epoch_of_step": trainer.current_epoch,
            "learning_rate": float(optimizer.param_groups[0]["lr"]),
            "before": before,
            "parameter_norm": _norms(before),
            "gradient_norms": _norms(gradients),
        }

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the update that was made, if one was."""
        if not self._begun:
            return
        self._losses.append(_loss_of(outputs, self._device) * trainer.accumulate_grad_batches)
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if self._pending and self._pending["step"] == self._step:
            self._measure(self._pending)
        self._losses.clear()
        if self._moments.at_step(self._step):
            self._snapshot(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember what was logged before, to know the numbers of validation."""
        self._logged_before = set(trainer.callback_metrics)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember which numbers come from validation, since it may not run in every epoch."""
        self._validation_metrics |= set(trainer.callback_metrics) - self._logged_before
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record what was logged, and write all steps, so that a checkpoint finds them safe."""
        if not self._begun:
            return
        self._finished_epoch = trainer.current_epoch
        self._record_epoch(trainer)
        if self._moments.at_epoch(trainer.current_epoch + 1):
            self._snapshot(trainer, epochs=trainer.current_epoch + 1)

    # --- inside -----------------------------------------------------------------------------------------------

    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if len(trainer.optimizers) != 1:
            raise ValueError(
                f"TrainingDynamics follows one optimizer, {type(pl_module).__name__} has {len(trainer.optimizers)}; "
                "train the parts one by one, or leave this callback out"
            )
        module = pl_module.get_submodule(self._submodule)
        layout = ParameterLayout.of(module)
        named = dict(module.named_parameters())
        self._module, self._layout = module, layout
        self._parameters = [named[name] for name in layout.names]
        chosen = [index for index, shape in enumerate(layout.shapes) if len(shape) > 1]
        self._chosen = chosen or list(range(len(layout.names)))
        self._weights = [self._parameters[index] for index in self._chosen]
        self._refuse_too_many_snapshots(trainer)

        self._device = pl_module.device
        self._step = trainer.global_step
        self._pending, self._finished_epoch, self._recorded = {}, None, None
        self._losses.clear()
        self._buffer.clear()
        self._training = self._open("training", self._step, restore_training)
        self._trajectory = self._open("trajectory", self._step, restore_trajectory)
        self._kept = set(self._trajectory.table("snapshot").get("step", np.empty(0)).tolist())
        if self._step == 0:
            self._snapshot(trainer)

    def _refuse_too_many_snapshots(self, trainer: pl.Trainer) -> None:
        steps = trainer.estimated_stepping_batches if trainer.train_dataloader is not None else 0
        if not np.isfinite(steps) or (trainer.max_epochs or 0) < 0:
            return
        size = 4 * self._layout.size * self._moments.expected(int(steps), trainer.max_epochs or 0)
        if size > _LARGEST_TRAJECTORY:
            raise ValueError(
                f"the snapshots of {self._layout.size} parameters at {self.snapshots!r} would take {size / 2**30:.1f} "
                'GiB, more than 2; keep fewer with snapshots="epochs:10" or "log:8", or none with "none"'
            )

    def _measure(self, row: dict[str, Any]) -> None:
        moved = _norms([p.detach() - b for p, b in zip(self._weights, row.pop("before"), strict=True)])
        gradients = row.pop("gradient_norms")
        row["gradient_norm"] = torch.linalg.vector_norm(gradients)
        row["layer_gradient_norm"] = gradients[self._chosen]
        row["update_ratio"] = moved / row["parameter_norm"]
        row["loss"] = torch.stack(self._losses).mean()
        self._pending = {}
        self._buffer.append(row)
        if len(self._buffer) >= _FLUSH:
            self._flush()

    def _flush(self) -> None:
        if self._buffer:
            columns = {name: _column([row[name] for row in self._buffer]) for name in self._buffer[0]}
            self._training.append("step", columns, sync=False)
            self._buffer.clear()

    def _record_epoch(self, trainer: pl.Trainer) -> None:
        self._flush()
        if self._finished_epoch is None:
            return
        stale = set() if self._validated else self._validation_metrics
        logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name not in stale}
        if logged != self._recorded:
            place = {"epoch": np.array([self._finished_epoch]), "step": np.array([self._step])}
            self._training.append("epoch", {_plain(name): np.array([logged[name]]) for name in logged} | place)
        self._recorded = logged
        if trainer.current_epoch != self._finished_epoch:
            self._finished_epoch, self._validated, self._recorded = None, False, None

    def _snapshot(self, trainer: pl.Trainer, epochs: int | None = None) -> None:
        if self._step in self._kept:
            return
        theta = self._layout.current(self._module).float().cpu().numpy()
        epoch = trainer.current_epoch if epochs is None else epochs
        row = {"step": np.array([self._step]), "epoch": np.array([epoch]), "theta": theta[None]}
        self._trajectory.append("snapshot", row)
        self._kept.add(self._step)

    def _last(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._record_epoch(trainer)
        self._snapshot(trainer)

    def _seal(self, finished: bool) -> None:
        self._flush()
        about = {"finished": finished, "every": self.every, **provenance(self._device)}
        layers = [self._layout.names[index] for index in self._chosen]
        training = training_of(self._training, layers)
        if finished:
            training = training.assign({name: ((), float(value)) for name, value in self._results().items()})
        trajectory = trajectory_of(self._trajectory, self._layout)
        self._store.write("trajectory", trajectory.assign_attrs(probe="trajectory", **about))
        self._store.write("training", training.assign_attrs(probe="training-dynamics", **about))

    def _discard(self) -> None:
        self._trajectory.discard()
        self._training.discard()


def _norms(tensors: list[Tensor]) -> Tensor:
    """Euclidean norm of each tensor: (L,)."""
    return torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors])


def _loss_of(outputs: Any, device: torch.device) -> Tensor:
    """The loss a step returned; NaN where it returned none."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return loss.detach().float() if isinstance(loss, Tensor) else torch.tensor(torch.nan, device=device)


def _column(values: list[Any]) -> np.ndarray:
    if isinstance(values[0], Tensor):
        return torch.stack(values).cpu().numpy()
    return np.array(values)


def _plain(name: str) -> str:
    """A metric's name as a variable's name: "val/loss" -> "val_loss"."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)
