"""Ask a probe's question of an objective and keep the answer, so that it is computed once and never lost."""

from __future__ import annotations

import hashlib
import json
import re
import time
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import fields, is_dataclass
from typing import Any, Protocol

import torch
import xarray as xr

from landscape.execution import Progress, Work, open_executor, working
from landscape.identity import plain
from landscape.objective import Objective
from landscape.provenance import device_name, provenance
from landscape.store import Journal, LockedError, Store, UnwritableError


class Probe(Protocol):
    """One question: a frozen dataclass whose fields are its whole configuration."""

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Answer with a labelled data set."""


def ask(
    probe: Probe,
    objective: Objective,
    store: Store,
    executor: str | Executor = "serial",
    progress: Progress | None = None,
    threads: int | None = None,
) -> xr.Dataset:
    """Answer a probe's question from the store, computing what is missing.

    A finished answer is read back, never computed again. An unfinished one goes on from its journal; the result is
    bit for bit that of an uninterrupted run.

    Args:
        probe: The question.
        objective: Of what.
        store: The run's folder, where the answer is sealed as ``<probe>-<id>.h5``.
        executor: ``serial``, ``processes``, ``processes:N``, or an executor that is already open.
        progress: Called with (stage, pieces done, pieces in all).
        threads: Threads of torch that points may take; None leaves the choice to a measurement, where it pays.

    Raises:
        LockedError: If another process works in this folder.
        ValueError: If the unfinished answer was begun with another torch version or device.
    """
    name = answer_name(probe, objective)
    if store.has(name):
        _clear_leftover(store, name)
        return store.read(name)
    opened: AbstractContextManager[Executor] = (
        open_executor(executor) if isinstance(executor, str) else nullcontext(executor)
    )
    with store.lock(), store.journal(name) as journal, opened as engine:
        if store.has(name):  # another process has finished it while this one waited
            journal.discard()
            return store.read(name)
        _agree_on_recipe(journal, objective)
        try:
            answer = answered(probe, objective, Work(engine, journal, progress, scratch=store.path, threads=threads))
        except Exception:
            _discard_if_empty(journal)
            raise
        store.write(name, answer)
        journal.discard()
    return store.read(name)


def answered(probe: Probe, objective: Objective, work: Work) -> xr.Dataset:
    """Compute an answer and attach how it was made, without storing it.

    Raises:
        TypeError: If the probe does not return an `xarray.Dataset`.
    """
    identity = _identity(probe, objective)
    started, passes = time.monotonic(), objective.num_passes
    with working(work):
        answer = probe(objective)
    if not isinstance(answer, xr.Dataset):
        raise TypeError(f"{type(probe).__name__} must answer with an xarray.Dataset, got {type(answer).__name__}.")
    return answer.assign_attrs(
        probe=kebab(type(probe).__name__),
        probe_class=f"{type(probe).__module__}:{type(probe).__qualname__}",
        probe_fields=json.dumps(probe_fields(probe), sort_keys=True),
        **{key: _attribute(value) for key, value in identity.items()},
        **provenance(objective.device),
        wall_seconds=time.monotonic() - started,
        data_passes=objective.num_passes - passes + work.remote_passes,
    )


def answer_name(probe: Probe, objective: Objective) -> str:
    """Name an answer by everything its values depend on: ``surface-1a2b3c4d5e6f``."""
    question = {
        "probe": f"{type(probe).__module__}:{type(probe).__qualname__}",
        "fields": probe_fields(probe),
        # How the varying parameters were chosen does not matter beside which they are.
        "objective": {key: value for key, value in _identity(probe, objective).items() if key != "parameters"},
    }
    text = json.dumps(question, sort_keys=True)
    return f"{kebab(type(probe).__name__)}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def probe_fields(probe: Probe) -> dict[str, Any]:
    """Write the fields of a probe as plain values; objects other than numbers, text and arrays by their `str`.

    Raises:
        TypeError: If the probe is not a dataclass, or is the class itself.
    """
    if isinstance(probe, type):
        raise TypeError(f"a probe must be an instance, {probe.__name__} is a class; write {probe.__name__}().")
    if not is_dataclass(probe):
        raise TypeError(
            f"a probe must be a frozen dataclass, {type(probe).__name__} is not; add @dataclass(frozen=True)."
        )
    return {field.name: plain(getattr(probe, field.name)) for field in fields(probe)}


def kebab(name: str) -> str:
    """Write a class name as a word of the command line: WeightNorm -> weight-norm."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower().strip("_")


def _identity(probe: Probe, objective: Objective) -> dict[str, Any]:
    """What an answer's values depend on: of the optimizer only where the probe says `uses_optimizer`.

    So the answers of all other probes keep their names whether or not an optimizer is known.
    """
    identity = objective.identity()
    if getattr(probe, "uses_optimizer", False):
        identity["optimizer_sha256"] = objective.optimizer_state.digest()
    return identity


def _attribute(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def _clear_leftover(store: Store, name: str) -> None:
    """Remove the journal that a process left when it was killed between sealing the answer and discarding it."""
    with store.journal(name) as journal:
        # Whoever holds the lock is at work here; where nothing can be written a left journal does no harm.
        if journal.path.exists():
            with suppress(LockedError, UnwritableError), store.lock():
                journal.discard()


def _discard_if_empty(journal: Journal) -> None:
    """Leave nothing behind where a question was refused before its first piece."""
    if set(journal.records()) <= {"recipe", "plan/0"}:
        journal.discard()


def _agree_on_recipe(journal: Journal, objective: Objective) -> None:
    recipe = f"torch {torch.__version__} on {device_name(objective.device)}"
    begun = journal.records().get("recipe")
    if begun is None:
        journal.append("recipe", {"recipe": recipe})
    elif begun["recipe"] != recipe:
        raise ValueError(
            f"the unfinished answer {journal.path} was begun with {begun['recipe']}, this is {recipe}; their numbers "
            "are not bit-equal. Finish it there, or delete the file to begin anew."
        )
