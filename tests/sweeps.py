"""Sweeps with the layout of real ones and effects that are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr


def sweep_of(
    factors: Mapping[str, Sequence[Any]],
    mean: Any = 0.0,
    seeds: int = 4,
    noise: float = 0.0,
    of_seed: float = 0.0,
    draw: int = 0,
    epochs: int = 0,
) -> xr.Dataset:
    """A sweep whose test accuracy is `mean` (broadcast over the factors), plus an effect of each seed and noise."""
    rng = np.random.default_rng(draw)
    shape = tuple(len(levels) for levels in factors.values())
    dims = (*factors, "seed")
    values = np.broadcast_to(np.asarray(mean, float)[..., None], (*shape, seeds)).copy()
    values += noise * rng.standard_normal(values.shape) + of_seed * rng.standard_normal(seeds)
    coords = {name: (name, np.asarray(levels)) for name, levels in factors.items()} | {"seed": np.arange(seeds)}
    sweep = xr.Dataset(
        {
            "test_accuracy": (dims, values),
            "test_loss": (dims, 2.5 - 2 * values, {"units": "nats"}),
            "wall_seconds": (dims, np.full(values.shape, 1.5)),
            "status": (dims, np.full(values.shape, "finished", dtype="U9")),
            "run": (dims, np.full(values.shape, "0123456789ab")),
        },
        coords=coords,
    )
    if epochs:
        curve = sweep["test_loss"].values[..., None] + 2.0 / np.arange(1, epochs + 1)
        for name, shift in (("train_loss", -0.1), ("val_loss", 0.1)):
            sweep[name] = ((*dims, "epoch"), curve + shift, {"units": "nats"})
        sweep = sweep.assign_coords(epoch=np.arange(epochs))
    return sweep


def lost(sweep: xr.Dataset, status: str, **where: Any) -> xr.Dataset:
    """The sweep without the numbers of some runs, which diverged, failed or are missing."""
    chosen = xr.ones_like(sweep["status"], dtype=bool)
    for name, value in where.items():
        chosen = chosen & (sweep[name] == value)
    masked = sweep.copy(deep=True)
    for name, variable in sweep.data_vars.items():
        if variable.dtype.kind == "f":
            masked[name] = variable.where(~chosen)
    masked["status"] = sweep["status"].where(~chosen, status)
    return masked
