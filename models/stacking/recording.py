"""What is recorded of the runs of a stack while they train, all of them at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from landscape.callbacks.rows import Rows
from landscape.execution import Progress
from landscape.moments import Moments
from models.stacking.batches import StackedExamples
from models.stacking.module import StackedClassifier
from models.stacking.rows import learning_rates

CHECKPOINT_SECONDS = 5.0
"""Least time between two checkpoints: where an epoch takes less, several are done again after an interruption."""

NOT_RECORDED = ("turn_cosine", "distance_from_start")
"""Of what `TrainingDynamics` records by step; each would be another pass over all parameters. Nor is what flows."""


class StackRecording(Checkpoint):
    """Record by step, by epoch and at snapshots what becomes of every run, and save the stack at ends of epochs.

    Rows come into the journal before the checkpoint that counts on them.

    Args:
        rows: Where to keep what is recorded: the tables "step", "epoch" and "snapshot" with an axis of runs.
        checkpoint: The file of the whole training.
        snapshots: When to keep the parameters.
        watched: The splits to measure after each epoch, by the name of their metrics.
        progress: Called with ("epochs", epochs done, epochs in all).
    """

    def __init__(
        self,
        rows: Rows,
        checkpoint: Path,
        snapshots: str,
        watched: Mapping[str, StackedExamples],
        progress: Progress | None = None,
    ) -> None:
        self._rows = rows
        self._checkpoint = checkpoint
        self._moments = Moments.of(snapshots)
        self._watched = watched
        self._progress = progress
        self._steps: list[dict[str, Any]] = []
        self._kept: set[int] = set()

    def on_train_start(self, trainer: pl.Trainer, module: StackedClassifier) -> None:
        """Begin, or go on where the checkpoint stands."""
        if trainer.global_step:
            self._rows.rewind(trainer.global_step)
            self._kept = set(self._rows.table("snapshot")["step"].tolist())
        else:
            self._rows.discard()
            self._snapshot(module, 0, 0)
        self._before = torch.empty_like(module.theta.data)
        self._saved_at = time.monotonic()

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: StackedClassifier, optimizer: Any) -> None:
        """Measure the gradient, and remember where the parameters are."""
        self._before.copy_(module.theta.data)
        self._steps.append(
            {
                "epoch_of_step": trainer.current_epoch,
                "loss": module.losses,
                "learning_rate": learning_rates(optimizer),
                "gradient_norms": _norms(module, module.gradient),
                "parameter_norms": _norms(module, self._before),
            }
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: StackedClassifier, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the update."""
        step = trainer.global_step
        torch.sub(module.theta.data, self._before, out=self._before)
        self._steps[-1] |= {"step": step, "update_norms": _norms(module, self._before)}
        if self._moments.at_step(step):
            self._snapshot(module, step, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: StackedClassifier) -> None:
        """Measure the splits, and save everything if it is time; the last epoch's end always is."""
        done, step = trainer.current_epoch + 1, trainer.global_step
        self._record_epoch(module, trainer.current_epoch, step)
        if self._moments.at_epoch(done) or done == trainer.max_epochs:
            self._snapshot(module, step, done)
        if done == trainer.max_epochs or time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS:
            self._flush()
            trainer.save_checkpoint(self._checkpoint)
            self._saved_at = time.monotonic()
        if self._progress is not None:
            self._progress("epochs", done, trainer.max_epochs or 0)

    def _record_epoch(self, module: StackedClassifier, epoch: int, step: int) -> None:
        parts = {"train": module.means.values()}
        parts |= {part: module.evaluate(examples) for part, examples in self._watched.items()}
        found = {f"{part}_{name}": v[None].cpu().numpy() for part, means in parts.items() for name, v in means.items()}
        self._rows.append("epoch", {"epoch": np.array([epoch]), "step": np.array([step]), **found}, sync=False)

    def _snapshot(self, module: StackedClassifier, step: int, epoch: int) -> None:
        if step in self._kept:
            return
        theta = module.theta.detach().float().cpu().numpy()
        self._rows.append(
            "snapshot", {"step": np.array([step]), "epoch": np.array([epoch]), "theta": theta[None]}, False
        )
        self._kept.add(step)

    def _flush(self) -> None:
        columns = {name: _column([row[name] for row in self._steps]) for name in self._steps[0]}
        self._rows.append("step", columns)
        self._steps.clear()


@dataclass(frozen=True)
class MemberTables:
    """What was recorded of one run, in the form of `TrainingDynamics`.

    Attributes:
        tables: Of all runs.
        member: Number of the run.
        layers: Which of the parameters are layers.
    """

    tables: Mapping[str, Mapping[str, np.ndarray]]
    member: int
    layers: list[int]

    def table(self, table: str) -> dict[str, np.ndarray]:
        """Take what is of this run; norms of all parameters become those by layer and of the whole."""
        columns = {name: v if v.ndim == 1 else v[:, self.member] for name, v in self.tables[table].items()}
        if table != "step":
            return columns
        gradient, weights, update = (columns.pop(f"{part}_norms") for part in ("gradient", "parameter", "update"))
        with np.errstate(divide="ignore", invalid="ignore"):  # of weights that are zero, or of a run that diverged
            ratio = update[:, self.layers] / weights[:, self.layers]
        return columns | {
            "gradient_norm": np.linalg.norm(gradient, axis=1),
            "layer_gradient_norm": gradient[:, self.layers],
            "parameter_norm": weights[:, self.layers],
            "update_ratio": ratio,
            "chord_length": np.linalg.norm(update, axis=1),
        }


def _norms(module: StackedClassifier, vectors: Tensor) -> Tensor:
    """Euclidean norms of the parts of vectors (M, P) that belong to each parameter: (M, L)."""
    parts = vectors.split(module.layout.sizes, dim=1)
    return torch.stack([torch.linalg.vector_norm(part, dim=1) for part in parts], dim=1)


def _column(values: list[Any]) -> np.ndarray:
    """One value a step as one array, the steps along its first axis."""
    return torch.stack(values).cpu().numpy() if isinstance(values[0], Tensor) else np.array(values)
