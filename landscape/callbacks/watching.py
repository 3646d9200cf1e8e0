"""When the flow through a network is watched while it trains, and where what was seen is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import xarray as xr
from torch import Tensor, nn

from landscape.callbacks.answers import flow_of
from landscape.callbacks.loggers import log_numbers
from landscape.callbacks.rows import Rows
from landscape.monitors import WINDOW, Flow, sign_coherence


class FlowWatch:
    """Watches the first batch of every so-many-th update, and writes a row of the table "flow" for each.

    Which units are dead is told from the batches that follow too, until 256 examples have been looked at or the epoch
    ends.

    Args:
        module: What is watched.
        every: Updates from one watched one to the next; the first is watched too.
        rows: Where rows are written, and what earlier ones say of the places.
    """

    def __init__(self, module: nn.Module, every: int, rows: Rows) -> None:
        self.every = every
        self._rows = rows
        self._flow = Flow(module)
        self._row: dict[str, Any] = {}
        self._watched = 0
        places = rows.blocks("places")
        self._has_places = bool(places)
        for block in places:
            self._flow.settle(json.loads(block["names"]))

    def before_batch(self, step: int) -> None:
        """Watch the pass that comes, if it is the first of an update that is due, or more examples are needed."""
        if self._row:
            self._flow.start(whole=False)
        elif (step == 1 or step % self.every == 0) and self._watched != step:
            self._watched = step
            self._flow.start()

    def before_backward(self) -> None:
        """Look at no evaluation beyond that of the batch."""
        self._flow.end_forward()

    def after_backward(self, factor: float) -> None:
        """Keep what was seen; the factor makes gradients those of the loss of the batch."""
        if self._row:
            self._flow.stop()
        elif self._flow.begun:
            self._row = self._flow.finish()
            self._row["backpropagated_norm"] *= factor
            self._row["backpropagated_variance"] *= factor**2

    def before_update(self, gradients: Sequence[Tensor | None]) -> None:
        """Look at the gradients of the weights (L of them), if this update is watched."""
        if not self._row or "sign_coherence" in self._row:
            return
        missing = torch.full((1, 1), torch.nan)
        known = [missing if g is None else g.detach().reshape(len(g) if g.ndim > 1 else 1, -1) for g in gradients]
        found = {"gradient_magnitude": [g.abs().mean() for g in known], "sign_coherence": map(sign_coherence, known)}
        self._row |= {
            name: torch.stack([value.float().cpu() for value in values]).numpy() for name, values in found.items()
        }

    def after_batch(self, trainer: pl.Trainer, step: int, log: bool) -> None:
        """Let go of a pass that had no backward one; write the row once enough examples have been looked at."""
        self._flow.stop()
        if self._row and "sign_coherence" in self._row and step >= self._watched:
            is_due = (step + 1) % self.every == 0
            if self._flow.looked_at >= WINDOW or is_due:
                self.close(trainer if log else None)

    def close(self, log_to: pl.Trainer | None = None) -> None:
        """Write the row that is being made, also before enough examples have been looked at."""
        if not self._row or "sign_coherence" not in self._row:
            return
        row, at = {**self._row, "dead_share": self._flow.dead_shares()}, np.array([self._watched])
        self._row = {}
        if not self._has_places:
            self._has_places = True
            self._rows.append("places", {"step": at, "names": json.dumps(self._flow.places)}, sync=False)
        self._rows.append("flow", {"step": at, **{name: values[None] for name, values in row.items()}}, sync=False)
        if log_to is not None:
            for places in (self._flow.layers, self._flow.activations):
                log_numbers(log_to, self._watched, row, places)

    def stop(self) -> None:
        """Let go of the module, also in the middle of a pass."""
        self._flow.stop()

    def answer(self, layers: list[str]) -> xr.Dataset:
        """Put together what was written, for the weights of these names."""
        return flow_of(self._rows, layers, self._flow)


def can_be_watched(module: nn.Module) -> bool:
    """Whether hooks see what flows and change nothing: not where any part is compiled, itself or a function of it."""
    return not any(
        type(part).__name__ == "OptimizedModule"
        or getattr(part, "_compiled_call_impl", None) is not None
        or any(hasattr(value, "_torchdynamo_orig_callable") for value in vars(part).values())
        for part in module.modules()
    )
