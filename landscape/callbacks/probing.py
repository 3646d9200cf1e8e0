"""Probes while a model trains."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import xarray as xr
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from landscape.callbacks.answers import join_steps
from landscape.callbacks.loggers import log_numbers
from landscape.callbacks.recording import Recording
from landscape.callbacks.rows import Rows, dataset_of, record_of
from landscape.examples import Examples
from landscape.execution import SerialExecutor, Work
from landscape.measure import Probe, answered, kebab, probe_fields
from landscape.moments import Moments
from landscape.objective import Objective
from landscape.optimizer_state import NoStepError
from landscape.randomness import preserved_rng


class ProbeEvery(Recording):
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
        name: Tells two callbacks apart that ask the same probe of different objectives; part of the file's name.
        examples: At most so many training examples.
        log: Also send the numbers of each answer to the Trainer's loggers.

    Raises:
        ValueError: If the schedule is not one, or `name` cannot be part of a file's name; at the start of training if
            the training examples cannot be fixed.
    """

    def __init__(
        self,
        probe: Probe,
        every: int | str = 100,
        *,
        out: str | Path,
        objective: Callable[[pl.LightningModule], Objective] | None = None,
        examples: int = 2048,
        name: str = "",
        log: bool = False,
    ) -> None:
        question = {"fields": probe_fields(probe), "every": str(every), "examples": examples}
        question["probe"] = f"{type(probe).__module__}:{type(probe).__qualname__}"
        digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
        if name and not re.fullmatch(r"[\w-]+", name):
            raise ValueError(f"name must consist of letters, digits, - and _, got {name!r}")
        word = kebab(type(probe).__name__)
        super().__init__(out, f"{word}-by-step-{name + '-' if name else ''}{digest[:12]}")
        if examples < 1:
            raise ValueError(f"examples must be at least 1, got {examples}")
        self.probe = probe
        self.examples = examples
        self.log = log
        self._moments = Moments.of(every)
        self._make = objective
        self._memory: dict[str, Tensor] = {}
        self._last_asked = -1

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: what the probe remembers, and from which step."""
        return {"memory": dict(self._memory), "step": self._last_asked}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._memory, self._last_asked = dict(state_dict["memory"]), state_dict["step"]

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
        self._asked = {int(block["step"][0]) for block in self._rows.blocks("answer")}
        if trainer.global_step == 0:
            self._memory, self._last_asked = {}, -1
            self._ask(trainer, pl_module)
        elif self._memory and self._last_asked < trainer.global_step in self._asked:
            # The checkpoint was written just before this step's answer, so its memory is that of the answer before.
            self._asked.remove(trainer.global_step)
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
            try:
                answer = answered(self.probe, objective, Work(SerialExecutor(), memory=self._memory))
            except NoStepError as error:  # an adaptive optimizer has no metric before its first step
                warnings.warn(f"{error}; {self._name} skips step {step}", stacklevel=2)
                return
        self._last_asked = step
        self._rows.append("answer", {"step": np.array([step]), **record_of(answer)})
        if self.log:
            word = kebab(type(self.probe).__name__)
            scalars = {str(n): v.values for n, v in answer.data_vars.items() if v.ndim == 0 and v.dtype.kind in "biuf"}
            log_numbers(trainer, step, {f"{word}/{name}": value for name, value in scalars.items()})

    def _objective(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Objective:
        if self._data is None:
            self._data = _fixed_examples(trainer.train_dataloader, self.examples)
        return Objective(
            pl_module,
            self._data,
            step=lambda module, batch: _training_loss(module, batch, trainer),
            optimizer=trainer.optimizers[0] if getattr(self.probe, "uses_optimizer", False) else None,
        )

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


def _training_loss(module: nn.Module, batch: Any, trainer: pl.Trainer) -> Tensor:
    """Mean loss of a batch as `training_step` of a copied LightningModule computes it, with logging off."""
    assert isinstance(module, pl.LightningModule)
    if module._trainer is None:  # a fresh copy
        module.trainer = trainer
        vars(module).update(log=_ignore, log_dict=_ignore)
    takes_index = len(inspect.signature(module.training_step).parameters) > 1
    output = module.training_step(batch, 0) if takes_index else module.training_step(batch)
    loss = output["loss"] if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor):
        raise ValueError(
            f"training_step returned {type(loss).__name__}, no loss to probe; give ProbeEvery(objective=...)"
        )
    return loss


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Stand in for the logging of a copy."""


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
    size, collate = getattr(loader, "batch_size", None), getattr(loader, "collate_fn", None)
    with preserved_rng():
        return Examples.of(DataLoader(Subset(dataset, chosen), size or 32, collate_fn=collate))


def _restore_answers(rows: Rows, sealed: xr.Dataset) -> None:
    for step in sealed["step"].values:
        answer = sealed.sel(step=step).drop_vars("step")
        rows.append("answer", {"step": np.array([step]), **record_of(answer)})
