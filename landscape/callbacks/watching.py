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
from landscape.monitors import Flow, sign_coherence


class FlowWatch:
    """Watches the first batch of every so-many-th update, and writes a row of the table "flow" for each.

    Args:
        module: What is watched.
        every: Updates from one watched one to the next; the first is watched too.
        rows: Where rows are written, and what earlier ones say of the places.
        state: What a checkpoint kept of `state_dict`.
    """

    def __init__(self, module: nn.Module, every: int, rows: Rows, state: dict[str, Any]) -> None:
        self.every = every
        self._rows = rows
        self._flow = Flow(module)
        self._flow.load_state_dict(state)
        self._row: dict[str, Any] = {}
        self._watched = 0
        places = rows.blocks("places")
        self._has_places = bool(places)
        for block in places:
            self._flow.settle(json.loads(block["names"]))

    def before_batch(self, step: int) -> None:
        """Watch the pass that comes, if it is the first of an update that is to be looked at."""
        if (step == 1 or step % self.every == 0) and not self._row and self._watched != step:
            self._watched = step
            self._flow.start()

    def before_backward(self) -> None:
        """Look at no evaluation beyond that of the batch."""
        self._flow.end_forward()

    def after_backward(self, factor: float) -> None:
        """Keep what was seen; the factor makes gradients those of the loss of the batch."""
        if self._flow.begun:
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

    def after_update(self, trainer: pl.Trainer, step: int, log: bool) -> None:
        """Write the row of an update that was watched."""
        if not self._row:
            return
        at = np.array([step])
        if not self._has_places:
            self._has_places = True
            self._rows.append("places", {"step": at, "names": json.dumps(self._flow.places)}, sync=False)
        columns = {name: values[None] for name, values in self._row.items()}
        self._rows.append("flow", {"step": at, **columns}, sync=False)
        for places in (self._flow.layers, self._flow.activations) if log else ():
            log_numbers(trainer, step, self._row, places)
        self._row = {}

    def stop(self) -> None:
        """Let go of the module, also in the middle of a pass."""
        self._flow.stop()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return self._flow.state_dict()

    def answer(self, layers: list[str]) -> xr.Dataset:
        """Put together what was written, for the weights of these names."""
        return flow_of(self._rows, layers, self._flow)


def can_be_watched(module: nn.Module) -> bool:
    """Whether hooks see what flows: not in a compiled module."""
    return not any(type(part).__name__ == "OptimizedModule" for part in module.modules())
