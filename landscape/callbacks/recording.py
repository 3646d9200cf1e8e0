"""The life of a callback that records into a run's folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import xarray as xr

from landscape.callbacks.rows import Rows
from landscape.store import Store

_SHARDED = {"FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"}


class Recording(pl.Callback, ABC):
    """The life of a callback that records into a run's folder: begin or go on, record, seal."""

    def __init__(self, out: str | Path, name: str) -> None:
        self.out = Path(out)
        self._name = name
        self._held = ExitStack()
        self._begun = False
        self._continues = False

    @property
    def state_key(self) -> str:
        """Tell several callbacks in one Trainer apart."""
        return f"{type(self).__name__}:{self._name}"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a strategy that cannot be recorded before any compute, and lock the folder.

        Raises:
            ValueError: If the strategy cuts parameters into pieces.
        """
        if stage != "fit" or not trainer.is_global_zero:
            return
        if type(trainer.strategy).__name__ in _SHARDED:
            raise ValueError(
                f"{type(self).__name__} needs whole parameters in each process, but "
                f"{type(trainer.strategy).__name__} cuts them into pieces; leave it out or choose another strategy"
            )
        self._store = Store(self.out)
        self._continues = trainer.global_step > 0
        self._held.enter_context(self._store.lock())

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note that this training goes on from a checkpoint."""
        self._continues = True

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to write over what is finished, before any compute.

        Raises:
            ValueError: If the folder holds a finished training that this one does not continue.
        """
        if not trainer.is_global_zero or self._continues:
            return
        if self._store.has(self._name) and self._store.read(self._name).attrs["finished"]:
            raise ValueError(
                f"{self.out} already holds a finished {self._name}.h5; choose another folder, remove the file, "
                "or go on with trainer.fit(..., ckpt_path=...)"
            )

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

    @abstractmethod
    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to record, or go on from what lies in the folder."""

    @abstractmethod
    def _last(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record what is due after the last step."""

    @abstractmethod
    def _seal(self, finished: bool) -> None:
        """Write the answers of what has been recorded."""

    @abstractmethod
    def _discard(self) -> None:
        """Remove the journals of sealed answers."""
