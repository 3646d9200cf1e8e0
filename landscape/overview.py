"""One line about a run: its state and the numbers people compare runs by, read from what it left behind."""

from __future__ import annotations

import fcntl
from typing import Any

import numpy as np
import xarray as xr

from landscape.store import Store

WIDTH_RISE = 0.5  # nats above the centre at which the width of a slice is read off


def overview(store: Store, name: str) -> dict[str, Any]:
    """Collect the row of one run; what was never measured is None.

    Args:
        store: The folder of the run.
        name: What to call it.
    """
    row: dict[str, Any] = {"run": name, "state": state(store)}
    row |= {"epochs": None, "train loss": None, "test error": None, "sharpness": None, "most negative": None}
    if store.has("training"):
        row |= _training(store.read("training"))
    for spectrum in map(store.read, store.names("spectrum-*")):
        row |= _spectrum(spectrum)
    for answer in map(store.read, store.names("slice-*")):
        row["width"] = width(answer)
    return row


def state(store: Store) -> str:
    """Say whether a run is running, interrupted or finished, from its lock and its journals.

    No field says so that a killed process could leave behind wrong.
    """
    if _is_locked(store):
        return "running"
    is_trained = store.path.joinpath("resume.safetensors").exists() and not store.has("training")
    return "interrupted" if is_trained or any(store.path.glob("*.journal")) else "finished"


def width(answer: xr.Dataset) -> float | None:
    """Length of the interval around 0 on which a slice stays within `WIDTH_RISE` of its centre.

    Directions are filter-normalized by default, so the length is in units of the filters' norms. Several
    directions give the median loss. None where the loss does not rise that far on either side.
    """
    loss = answer["loss"].median("seed") if "seed" in answer["loss"].dims else answer["loss"]
    alpha, rise = (
        answer["alpha"].values,
        loss.values - loss.sel(alpha=0.0, method="nearest").item() - WIDTH_RISE,
    )
    right = _crossing(alpha[alpha >= 0], rise[alpha >= 0])
    left = _crossing(-alpha[alpha <= 0][::-1], rise[alpha <= 0][::-1])
    return None if right is None or left is None else right + left


def _crossing(distance: np.ndarray, rise: np.ndarray) -> float | None:
    """The first distance at which `rise` reaches zero, interpolated; NaN and inf count as risen."""
    risen = np.flatnonzero(~(rise < 0))
    if not risen.size:
        return None
    last = risen[0]
    below, above = rise[last - 1], rise[last]
    share = below / (below - above) if last and np.isfinite(above) else 0.0
    return float(distance[last - 1] + share * (distance[last] - distance[last - 1])) if last else 0.0


def _training(answer: xr.Dataset) -> dict[str, Any]:
    def last(name: str) -> float | None:
        return float(answer[name].values[-1]) if name in answer and answer[name].size else None

    accuracy = next((a for a in (last("test_accuracy"), last("val_accuracy")) if a is not None), None)
    return {
        "epochs": answer.sizes.get("epoch"),
        "train loss": last("train_loss"),
        "test error": None if accuracy is None else 1 - accuracy,
    }


def _spectrum(answer: xr.Dataset) -> dict[str, Any]:
    values = answer["eigenvalue"]
    return {"sharpness": float(values.max()), "most negative": float(values.min())}


def _is_locked(store: Store) -> bool:
    """Whether a process holds the run's lock. A shared lock is tried and given back at once."""
    path = store.path / ".lock"
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
