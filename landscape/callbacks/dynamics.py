"""Losses, gradients and updates by step, metrics by epoch, and snapshots of the parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from landscape.callbacks.answers import restore_training, restore_trajectory, training_of, trajectory_of
from landscape.callbacks.loggers import log_numbers
from landscape.callbacks.recording import Recording
from landscape.callbacks.watching import FlowWatch, can_be_watched
from landscape.moments import Moments
from landscape.monitors import ParameterPath
from landscape.parameters import ParameterLayout
from landscape.provenance import provenance

_FLUSH = 64  # steps kept in memory before they are written
_BLOCK = 8  # steps that are measured together: eight times fewer calls, in memory that fits a cache
_MOST_NUMBERS = 2**23  # of the parameters before and after the steps of a block
_LARGEST_TRAJECTORY = 2 * 2**30  # bytes; sealing holds all snapshots in memory at once


class TrainingDynamics(Recording):
    """Record how training goes, step by step, and where the parameters were.

    `<out>/training.h5` holds, by optimizer update (`step`, from 1):
    the `loss` of the batch as `training_step` returned it (the mean over accumulated batches), the `learning_rate` of
    the first parameter group, the `gradient_norm` before clipping over all parameters and by layer
    (`layer_gradient_norm`), `parameter_norm` before the update, and `update_ratio`, the norm of the *actual*
    difference that the update made over the norm of the parameter, both by layer. A layer is a weight, a parameter
    of two or more axes. Of the way through parameter space: `chord_length` from the point recorded before,
    `turn_cosine` between this chord and the one before, `distance_from_start`. By `epoch` (from 0): every number that
    the module logged.

    Every `flow_every` updates (`flow_step`, the first one among them), of the batch of that step, without another pass:
    by `module` with a weight, mean and variance of its output, norm and variance of the gradient of the loss by it, and
    the `gradient_slope` over depth; by `activation`, mean, variance, a histogram, and the shares that are saturated,
    dead and dormant; by layer, the coherence of the signs of its gradient (see `landscape.monitors`).

    `<out>/trajectory.h5` holds the trainable parameters as flat float32 vectors (`theta`), at the first and last step
    and on a schedule.

    Args:
        out: The run's folder.
        every: Record every so many optimizer updates.
        flow_every: Look at activations and back-propagated gradients every so many updates; 0 never does.
        snapshots: When to keep the parameters: "epochs:1", "steps:50", "log:8" (points a decade), or "none" for the
            first and the last step alone.
        log: Also send what is recorded to the Trainer's loggers (TensorBoard, CSV, ...), every so many steps as the
            Trainer logs.
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
        flow_every: int = 50,
        snapshots: str = "epochs:1",
        *,
        log: bool = False,
        submodule: str = "",
        results: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        super().__init__(out, "training")
        if every < 1:
            raise ValueError(f"every must be at least 1 step, got {every}")
        if flow_every < 0:
            raise ValueError(f"flow_every must be at least 0 steps, got {flow_every}")
        self.every = every
        self.flow_every = flow_every
        self.snapshots = snapshots
        self.log = log
        self._moments = Moments.of(snapshots)
        self._submodule = submodule
        self._results = results
        self._step = 0
        self._flattened: list[Tensor] = []
        self._pending: dict[str, Any] = {}
        self._flow: FlowWatch | None = None
        self._remembered: dict[str, Any] = {}
        self._losses: list[Tensor] = []
        self._block: list[dict[str, Any]] = []
        self._buffer: list[dict[str, Tensor]] = []
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

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the last point and chord of the path."""
        if not self._begun:
            return {}
        self._measure()
        self._close_flow()
        return {"last": self._path.last, "chord": self._path.chord}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._remembered = dict(state_dict)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Watch the pass of this batch, if it is the first of an update that is to be looked at."""
        if self._flow is not None and self._begun:
            self._flow.before_batch(self._step + 1)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Look at no evaluation beyond that of the batch."""
        if self._flow is not None:
            self._flow.before_backward()

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what has been seen."""
        if self._flow is not None:
            scaler = getattr(trainer.precision_plugin, "scaler", None)  # of half precision
            self._flow.after_backward(trainer.accumulate_grad_batches / (scaler.get_scale() if scaler else 1.0))

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Measure the gradient, and remember where the parameters were."""
        step = self._step + 1
        if not self._begun:
            return
        if self._flow is not None:
            self._flow.before_update([self._parameters[index].grad for index in self._chosen])
        if step % self.every or (self._pending and self._pending["step"] == step):
            return
        gradients = [torch.zeros((), device=p.device) if p.grad is None else p.grad for p in self._parameters]
        self._pending = {
            "step": step,
            "epoch_of_step": trainer.current_epoch,
            "learning_rate": float(optimizer.param_groups[0]["lr"]),
            "before": self._position(),
            "gradient_norms": _norms(gradients),
        }

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the update that was made, if one was."""
        if not self._begun:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):  # of a batch that was skipped, or optimized by hand, there is none
            self._losses.append(loss.detach().float())
        step = trainer.global_step  # a chain of properties; looked at once a batch
        if self._flow is not None:
            self._flow.after_batch(trainer, step, self.log)
        if step == self._step:
            return
        self._step = step
        if self._pending:  # of several updates in one batch, made by hand, the row is that of the last
            self._record(trainer, {**self._pending, "step": step})
        self._losses.clear()
        if self._moments.at_step(self._step):
            self._snapshot(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of the module, and save what there is."""
        if self._flow is not None:
            self._flow.stop()
        super().on_exception(trainer, pl_module, exception)

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
        self._close_flow()
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
        self._trainer = trainer
        module = pl_module.get_submodule(self._submodule)
        layout = ParameterLayout.of(module)
        named = dict(module.named_parameters())
        self._module, self._layout = module, layout
        self._parameters = [named[name] for name in layout.names]
        self._flattened = []  # views of them, made once: to reshape each at every step takes as long as all the rest
        chosen = [index for index, shape in enumerate(layout.shapes) if len(shape) > 1]
        self._chosen = chosen or list(range(len(layout.names)))
        self._refuse_too_many_snapshots(trainer)

        self._device = pl_module.device
        self._step = trainer.global_step
        self._pending, self._finished_epoch, self._recorded = {}, None, None
        self._losses.clear()
        self._block.clear()
        self._buffer.clear()
        self._block_size = max(1, min(_BLOCK, _MOST_NUMBERS // (2 * layout.size)))
        self._training = self._open("training", self._step, restore_training)
        self._trajectory = self._open("trajectory", self._step, restore_trajectory)
        self._kept = set(self._trajectory.table("snapshot").get("step", np.empty(0)).tolist())
        if self._step == 0:
            self._remembered = {}
            self._snapshot(trainer)
        self._begin_path()
        is_watched = self.flow_every and can_be_watched(module)
        self._flow = FlowWatch(module, self.flow_every, self._training) if is_watched else None
        if self.flow_every and not is_watched:
            rank_zero_warn("the module is compiled, so what flows through it is not recorded (flow_every)")

    def _begin_path(self) -> None:
        start = self._trajectory.table("snapshot").get("theta")
        here = self._position()
        origin = here if self._step == 0 or start is None else torch.from_numpy(start[0]).to(here)
        known = {name: self._remembered[name].to(here) for name in ("last", "chord") if name in self._remembered}
        self._path = ParameterPath(origin, known.get("last", here), known.get("chord"))

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

    @property
    def _layers(self) -> list[str]:
        return [self._layout.names[index] for index in self._chosen]

    def _position(self) -> Tensor:
        """Copy the trainable parameters into one vector (P,), in single precision or better."""
        if any(v.data_ptr() != p.data_ptr() for v, p in zip(self._flattened, self._parameters, strict=False)):
            self._flattened = []  # somebody has given the parameters other memory
        if not self._flattened and all(p.is_contiguous() and p.device == self._device for p in self._parameters):
            self._flattened = [p.detach().view(-1) for p in self._parameters]
        flat = torch.cat(self._flattened or [p.detach().reshape(-1).to(self._device) for p in self._parameters])
        return flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat

    def _of_weights(self, vectors: Tensor) -> Tensor:
        """Euclidean norms of the parts of vectors (K, P) that belong to each layer: (K, L)."""
        parts = vectors.split(self._layout.sizes, dim=1)
        return torch.stack([torch.linalg.vector_norm(parts[index], dim=1) for index in self._chosen], dim=1)

    def _record(self, trainer: pl.Trainer, row: dict[str, Any]) -> None:
        """Remember where an update has led; what that means is measured for several updates together."""
        parts = trainer.accumulate_grad_batches
        known = self._losses or [torch.full((), torch.nan, device=self._device)]
        row["loss"] = known[0] if parts == 1 else torch.stack(known).mean() * parts
        row["after"] = self._position()
        self._pending = {}
        self._block.append(row)
        if len(self._block) >= self._block_size:
            self._measure()
        if len(self._buffer) * self._block_size >= _FLUSH:
            self._flush()

    def _measure(self) -> None:
        """Measure the updates of a block, and send them to loggers."""
        if not self._block:
            return
        rows = {name: [row[name] for row in self._block] for name in self._block[0]}
        self._block.clear()
        before, after, gradients = (torch.stack(rows.pop(name)) for name in ("before", "after", "gradient_norms"))
        norms = self._of_weights(before)
        columns = {name: _column(values) for name, values in rows.items()}
        columns |= {
            "parameter_norm": norms,
            "gradient_norm": torch.linalg.vector_norm(gradients, dim=1),
            "layer_gradient_norm": gradients[:, self._chosen],
            "update_ratio": self._of_weights(after - before) / norms,
            **self._path.move(after),
        }
        self._buffer.append(columns)
        if self.log:
            self._send(columns)

    def _send(self, columns: dict[str, Tensor]) -> None:
        every = self._trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by the Trainer's logger connector
        shown = {name: column for name, column in columns.items() if name not in ("step", "epoch_of_step")}
        for index, step in enumerate(columns["step"].tolist()):
            if step % every == 0:
                log_numbers(self._trainer, step, {n: column[index] for n, column in shown.items()}, self._layers)

    def _close_flow(self) -> None:
        if self._flow is not None:
            self._flow.close(self._trainer if self.log else None)

    def _flush(self) -> None:
        self._measure()
        if self._buffer:
            names = self._buffer[0]
            columns = {name: torch.cat([block[name] for block in self._buffer]).cpu().numpy() for name in names}
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
        self._close_flow()
        self._flush()
        every = {"every": self.every, "flow_every": self.flow_every}
        about = {"finished": finished, **every, **provenance(self._device)}
        training = training_of(self._training, self._layers)
        if self._flow is not None:
            training = training.merge(self._flow.answer(self._layers), combine_attrs="override")
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
    norms = torch.stack(torch._foreach_norm(tensors))
    return norms.float() if norms.dtype in (torch.float16, torch.bfloat16) else norms


def _column(values: list[Any]) -> Tensor:
    """One value a step as one tensor, numbers in their full precision."""
    if isinstance(values[0], Tensor):
        return torch.stack(values)
    return torch.from_numpy(np.array(values))


def _plain(name: str) -> str:
    """A metric's name as a variable's name: "val/loss" -> "val_loss"."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)
