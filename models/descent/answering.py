"""Keep the answer of a plan: measured size by size, analysed once, never computed twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
import xarray as xr

from landscape.descent import TOLERANCE, analysed
from landscape.execution import Answer, Progress, Work, open_executor, resumable_map, working
from landscape.provenance import provenance
from landscape.store import Store
from models.descent.networks import Networks


class Plan(Protocol):
    """What is measured; its values decide the answer."""

    sizes: tuple[int, ...]

    def about(self) -> dict[str, Any]:
        """Return everything that decides the curves, as plain values."""

    def piece(self, size: int) -> Answer:
        """Measure one size."""

    def curves(self, pieces: Sequence[Answer]) -> xr.Dataset:
        """Lay the pieces out, as `landscape.descent.analysed` takes them."""


def answer_name(about: dict[str, Any], tolerance: float) -> str:
    """Name an answer by all that decides it."""
    text = json.dumps({**about, "tolerance": tolerance}, sort_keys=True)
    return f"double-descent-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def sealed(curves: xr.Dataset, about: dict[str, Any], tolerance: float, store: Store) -> xr.Dataset:
    """Analyse curves and keep them with how they were made."""
    answer = analysed(curves, tolerance)
    attrs = {"probe": "double-descent", "probe_fields": json.dumps(about, sort_keys=True), **provenance()}
    name = answer_name(about, tolerance)
    store.write(name, answer.assign_attrs(attrs))
    return store.read(name)


def answer_regression(
    plan: Plan,
    store: Store,
    executor: str | Executor = "serial",
    progress: Progress | None = None,
    tolerance: float = TOLERANCE,
) -> xr.Dataset:
    """Answer from the store, or measure the sizes that are missing and keep the answer.

    Args:
        plan: What is measured.
        store: Where the answer goes.
        executor: Where sizes are measured.
        progress: Called with ("sizes", done, in all).
        tolerance: Training error at the interpolation threshold.

    Raises:
        StoreError: If a file cannot be written or read, or another process is at work here.
        ValueError: If the unfinished answer was begun with another version of torch.
    """
    name = answer_name(plan.about(), tolerance)
    if store.has(name):
        return store.read(name)
    opened = open_executor(executor) if isinstance(executor, str) else nullcontext(executor)
    with store.lock(), store.journal(name) as journal, opened as engine:
        recipe = f"torch {torch.__version__}"
        begun = journal.records().get("recipe", {"recipe": recipe})["recipe"]
        if begun != recipe:
            raise ValueError(
                f"the unfinished answer {journal.path} was begun with {begun}, this is {recipe}; finish it there, or "
                "delete the file to begin anew"
            )
        if "recipe" not in journal.records():
            journal.append("recipe", {"recipe": recipe})
        with working(Work(engine, journal, progress, scratch=store.path)):
            pieces = resumable_map(_piece, plan, plan.sizes, stage="sizes")
        answer = sealed(plan.curves(pieces), plan.about(), tolerance, store)
        journal.discard()
    return answer


def answer_networks(
    plan: Networks,
    store: Store,
    executor: str | Executor = "serial",
    progress: Progress | None = None,
    tolerance: float = TOLERANCE,
) -> tuple[Path, xr.Dataset]:
    """Answer from the store, or train the runs that are missing and keep the answer.

    Args:
        plan: What is trained.
        store: Where the answer goes, and every run into a folder of its own.
        executor: Where runs are trained.
        progress: Called with (stage, runs done, runs in all).
        tolerance: Training error at the interpolation threshold.

    Returns:
        The file and the answer.

    Raises:
        StoreError: If a file cannot be written or read, or another process is at work here.
        ValueError: If the data cannot be loaded, or every run failed.
    """
    name = answer_name(plan.about(), tolerance)
    path = store.path / f"{name}.h5"
    if store.has(name):
        return path, store.read(name)
    with store.lock():
        curves = plan(store.path, executor, progress)
        if curves["test_loss"].isnull().all():
            raise ValueError(f"every run failed; failure.json in the folders below {store.path} says why")
        return path, sealed(curves, plan.about(), tolerance, store)


def _piece(plan: Plan, size: int) -> Answer:
    return plan.piece(size)
