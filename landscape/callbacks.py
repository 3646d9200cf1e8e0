"""Callbacks for any Lightning Trainer: training dynamics, and probes while a model trains.

They change nothing in the training: not a parameter, gradient, mode or random number. What they record is kept in a
journal as it comes, and sealed when the training ends, however it ends. A training that goes on from a checkpoint
goes on in the same files.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import xarray as xr
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from landscape.dynamics import join_steps, restore_training, restore_trajectory, training_of, trajectory_of
from landscape.examples import Examples
from landscape.execution import SerialExecutor, Work
from landscape.measure import Probe, answered, kebab, probe_fields
from landscape.moments import Moments
from landscape.objective import Objective
from landscape.parameters import ParameterLayout
from landscape.provenance import provenance
from landscape.randomness import preserved_rng
from landscape.rows import Rows, dataset_of, record_of
from landscape.store import Store

_FLUSH = 64  # steps kept in memory before they are written
_LARGEST_TRAJECTORY = 2 * 2**30  # bytes; sealing holds all snapshots in memory at once
_SHARDED = {"FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"}


class _Recording(pl.Callback):
    """The life of a callback that records into a run's folder: begin or go on, record, seal."""

    def __init__(self, out: str | Path, name: str) -> None:
        self.out = Path(out)
        self._name = name
        self._held = ExitStack()
        self._begun = False

    @property
    def state_key(self) -> str:
        """Tell several callbacks in one Trainer apart."""
        return f"{type(self).__name__}:{self._name}"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be recorded before any compute, and lock the folder.

        Raises:
            ValueError: If the folder holds a finished training that this one does not continue.
        """
        if stage != "fit" or not trainer.is_global_zero:
            return
        if type(trainer.strategy).__name__ in _SHARDED:
            raise ValueError(
                f"{type(self).__name__} needs whole parameters in each process, but "
                f"{type(trainer.strategy).__name__} cuts them into pieces; leave it out or choose another strategy"
            )
        self._store = Store(self.out)
        starts_anew = not trainer.ckpt_path and trainer.global_step == 0
        if starts_anew and self._store.has(self._name) and self._store.read(self._name).attrs["finished"]:
            raise ValueError(
                f"{self.out} already holds a finished {self._name}.h5; choose another folder, remove the file, "
                "or go on with trainer.fit(..., ckpt_path=...)"
            )
        self._held.enter_context(self._store.lock())

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin, or go on where a checkpoint stands."""
        if trainer.is_global_zero:
            self._start(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the last step, while the model is still where it was trained."""
        if self._begun:
            self._last(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the last step and seal, also when there was nothing left to train."""
        if trainer.is_global_zero:
            self._start(trainer, pl_module)
            self._last(trainer, pl_module)
            self._seal(finished=True)
            self._discard()
            self._begun = False

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save what there is; a training that goes on from a checkpoint adds to it."""
        try:
            if self._begun:
                self._seal(finished=False)
        finally:
            self._begun = False
            self._held.close()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let go of the folder."""
        self._held.close()

    def _start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._begun:
            self._begin(trainer, pl_module)
            self._begun = True

    def _open(self, name: str, step: int, restore: Callable[[Rows, xr.Dataset], None]) -> Rows:
        """Open the journal of an answer, rewound to a step; a sealed answer is continued."""
        rows = Rows(self._store.journal(name))
        if step == 0:
            rows.discard()
        elif rows.empty and self._store.has(name):
            restore(rows, self._store.read(name))
        if step:
            rows.rewind(step)
        return rows

    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise NotImplementedError

    def _last(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise NotImplementedError

    def _seal(self, finished: bool) -> None:
        raise NotImplementedError

    def _discard(self) -> None:
        raise NotImplementedError


class TrainingDynamics(_Recording):
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
        self._losses.append(_loss_of(outputs, pl_module.device) * trainer.accumulate_grad_batches)
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

        self._step = trainer.global_step
        self._pending, self._finished_epoch = {}, None
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
            self._training.append("step", columns)
            self._buffer.clear()

    def _record_epoch(self, trainer: pl.Trainer) -> None:
        self._flush()
        if self._finished_epoch is None:
            return
        stale = set() if self._validated else self._validation_metrics
        logged = {_plain(name): value for name, value in trainer.callback_metrics.items() if name not in stale}
        columns = {name: np.array([float(value)]) for name, value in logged.items()}
        place = {"epoch": np.array([self._finished_epoch]), "step": np.array([self._step])}
        self._training.append("epoch", {**columns, **place})
        if trainer.current_epoch != self._finished_epoch:
            self._finished_epoch, self._validated = None, False

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
        about = {"finished": finished, "every": self.every, **provenance()}
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


class ProbeEvery(_Recording):
    """Ask a probe while a model trains: at the first and last step, and on a schedule.

    The answers are put together in `<out>/<probe>-by-step-<id>.h5`, each variable with a leading axis `step`.

    Unless `objective` says otherwise, the question is asked of the mean loss that `training_step` returns, over a
    fixed random subset of the training data, evaluated on a copy of the module (dropout off, BatchNorm by its running
    statistics, logging off). Transforms that the module applies to batches on the device are not applied.

    Args:
        probe: The question, a frozen dataclass such as `landscape.probes.Spectrum(k=1)`.
        every: Every so many optimizer updates, or a schedule: "epochs:1", "steps:50", "log:8".
        out: The run's folder.
        objective: From the LightningModule to the `Objective` to ask.
        examples: At most so many training examples.

    Raises:
        ValueError: If the schedule is not one; at the start of training if the training examples cannot be fixed.
    """

    def __init__(
        self,
        probe: Probe,
        every: int | str = 100,
        *,
        out: str | Path,
        objective: Callable[[pl.LightningModule], Objective] | None = None,
        examples: int = 2048,
    ) -> None:
        question = {"fields": probe_fields(probe), "every": str(every), "examples": examples}
        question["probe"] = f"{type(probe).__module__}:{type(probe).__qualname__}"
        digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
        super().__init__(out, f"{kebab(type(probe).__name__)}-by-step-{digest[:12]}")
        if examples < 1:
            raise ValueError(f"examples must be at least 1, got {examples}")
        self.probe = probe
        self.examples = examples
        self._moments = Moments.of(every)
        self._make = objective

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask, if a step was made and one is due."""
        if self._begun and self._moments.at_step(trainer.global_step):
            self._ask(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ask, if one is due after this epoch."""
        if self._begun and self._moments.at_epoch(trainer.current_epoch + 1):
            self._ask(trainer, pl_module)

    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._data: Examples | None = None
        if self._make is None and not pl_module.automatic_optimization:
            raise ValueError(
                f"{type(pl_module).__name__} optimizes by hand, so its training_step is no loss to probe; "
                "give ProbeEvery(objective=lambda module: Objective(...))"
            )
        self._rows = self._open(self._name, trainer.global_step, _restore_answers)
        self._asked = set(self._rows.table("answer").get("step", np.empty(0)).tolist())
        if trainer.global_step == 0:
            self._ask(trainer, pl_module)

    def _ask(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        step = trainer.global_step
        if step in self._asked:
            return
        self._asked.add(step)
        if not all(p.isfinite().all() for p in pl_module.parameters()):
            warnings.warn(f"the parameters are not finite at step {step}; {self._name} skips it", stacklevel=2)
            return
        with preserved_rng(pl_module.device), torch.enable_grad():
            objective = self._make(pl_module) if self._make else self._objective(trainer, pl_module)
            answer = answered(self.probe, objective, Work(SerialExecutor()))
        self._rows.append("answer", {"step": np.array([step]), **record_of(answer)})

    def _objective(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Objective:
        if self._data is None:
            self._data = _fixed_examples(trainer.train_dataloader, self.examples)
        return Objective(pl_module, self._data, step=lambda module, batch: _training_loss(module, batch, trainer))

    def _last(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.train_dataloader is not None or self._make:
            self._ask(trainer, pl_module)

    def _seal(self, finished: bool) -> None:
        answers = {int(block["step"][0]): dataset_of(block) for block in self._rows.blocks("answer")}
        if answers:
            joined = join_steps(dict(sorted(answers.items())))
            self._store.write(self._name, joined.assign_attrs(finished=finished))

    def _discard(self) -> None:
        self._rows.discard()


# --- what is measured ------------------------------------------------------------------------------------------


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


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Stand in for the logging of a copy."""


def _training_loss(module: nn.Module, batch: Any, trainer: pl.Trainer) -> Tensor:
    """Mean loss of a batch as `training_step` of a copied LightningModule computes it, with logging off."""
    assert isinstance(module, pl.LightningModule)
    if module._trainer is None:  # a fresh copy
        module.trainer = trainer
        vars(module).update(log=_ignore, log_dict=_ignore)
    takes_index = len(inspect.signature(module.training_step).parameters) > 1
    output = module.training_step(batch, 0) if takes_index else module.training_step(batch)
    return output["loss"] if isinstance(output, Mapping) else output


def _fixed_examples(loader: Any, number: int) -> Examples:
    """Read a random subset of a loader's dataset once, in its order and without shuffling."""
    dataset: Any = getattr(loader, "dataset", None)
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise ValueError(
            f"ProbeEvery cannot choose examples from a {type(loader).__name__}, which has no indexable dataset; "
            "give objective=lambda module: Objective(module, data, step=...)"
        )
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    chosen = order[:number].sort().values.tolist()
    collate = getattr(loader, "collate_fn", None)
    with preserved_rng():
        return Examples.of(DataLoader(Subset(dataset, chosen), loader.batch_size or 32, collate_fn=collate))


def _restore_answers(rows: Rows, sealed: xr.Dataset) -> None:
    for step in sealed["step"].values:
        answer = sealed.sel(step=step).drop_vars("step")
        rows.append("answer", {"step": np.array([step]), **record_of(answer)})
