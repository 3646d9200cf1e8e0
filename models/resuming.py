"""Training that can be killed at any moment: checkpoints at epoch ends, best weights, and what interrupts it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import CheckpointIO

from landscape.weights import decode_state, encode_state, load_weights, save_weights


class SafetensorsCheckpoints(CheckpointIO):
    """Writes Lightning's checkpoints as safetensors: whole or absent, with a digest, and never a pickle."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        tensors, state = encode_state(checkpoint)
        save_weights(path, tensors, {"state": state})

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, onto the CPU.

        Raises:
            DamagedFileError: If one bit of it differs from what was written.
        """
        tensors, metadata = load_weights(path)
        return decode_state(tensors, metadata.get("state", ""))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)


class EpochCheckpoint(Checkpoint):
    """Save the whole training at the end of every epoch, after all other callbacks."""

    def __init__(self, path: Path, progress: Callable[[str, int, int], None] | None) -> None:
        self._path = path
        self._progress = progress

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, then tell how far training is."""
        trainer.save_checkpoint(self._path)
        if self._progress is not None:
            self._progress("epochs", trainer.current_epoch + 1, trainer.max_epochs or 0)


class BestWeights(pl.Callback):
    """Keep the weights of the lowest validation loss, and stop when it has not fallen for a while.

    Args:
        path: Where to keep the weights of `network`.
        patience: Epochs without a lower loss after which to stop; 0 never stops.
    """

    def __init__(self, path: Path, patience: int) -> None:
        self._path = path
        self._patience = patience
        self._best = float("inf")
        self._best_epoch = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stay stopped when a training that was done goes on."""
        self._stop_if_stale(trainer, trainer.current_epoch - 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare this epoch with the best one; NaN is never better."""
        loss = float(trainer.callback_metrics["val_loss"])
        if loss < self._best:
            self._best, self._best_epoch = loss, trainer.current_epoch
            save_weights(self._path, pl_module.network.state_dict())
        self._stop_if_stale(trainer, trainer.current_epoch)

    def _stop_if_stale(self, trainer: pl.Trainer, epoch: int) -> None:
        if self._patience and epoch - self._best_epoch >= self._patience:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"best": self._best, "best_epoch": self._best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._best, self._best_epoch = state_dict["best"], state_dict["best_epoch"]


class Interruption(pl.Callback):
    """Remember what interrupted a training, since Lightning turns Ctrl-C into `SystemExit`."""

    cause: KeyboardInterrupt | None = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remember."""
        if isinstance(exception, KeyboardInterrupt):
            self.cause = exception
