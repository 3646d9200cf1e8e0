"""Where work runs and what becomes of it: the context that probes find their executor and journal in."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from landscape.execution.engines import SerialExecutor, engine_of

_SYNC_SECONDS = 1.0  # a sequence of short steps waits for the disk at most this often


class Journal(Protocol):
    """What a map needs of a journal: finished pieces by key, and a way to add one."""

    def records(self) -> dict[str, dict[str, Any]]:
        """Read the finished pieces."""

    def append(self, key: str, arrays: dict[str, Any], sync: bool = True) -> None:
        """Add a finished piece; `sync` waits for the disk."""


Progress = Callable[[str, int, int], None]


@dataclass
class Work:
    """Where a probe's independent pieces run and what becomes of them.

    Attributes:
        executor: Computes them.
        journal: Keeps finished pieces, so that the same work goes on after an interruption; None keeps nothing.
        progress: Called with (stage, pieces done, pieces in all).
        remote_passes: Passes over the data that were made in other processes.
        scratch: Folder for what is sent to workers; a run's folder clears what a killed process left there. None for
            the system's own.
        stages: How many maps, or pieces of a sequence, have used each stage name.
        threads: Threads of torch that the user asked for; None leaves the choice to a measurement.
        memory: What earlier answers to the same probe left for the next one, while a model trains (`remember`).
    """

    executor: Executor
    journal: Journal | None = None
    progress: Progress | None = None
    remote_passes: int = 0
    scratch: Path | None = None
    stages: Counter[str] = field(default_factory=Counter)
    synced: float = 0.0
    threads: int | None = None
    memory: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def found(self) -> dict[str, dict[str, Any]]:
        """What the journal held when this work began."""
        return dict(self.journal.records()) if self.journal else {}

    def open_stage(self, name: str) -> str:
        """Name the pieces of one map, so that two maps of a probe do not take each other's."""
        self.stages[name] += 1
        return name if self.stages[name] == 1 else f"{name}-{self.stages[name]}"

    def report(self, stage: str, done: int, total: int) -> None:
        """Tell whoever watches how far a stage is."""
        if self.progress:
            self.progress(stage, done, total)


_current: ContextVar[Work | None] = ContextVar("work", default=None)


@contextmanager
def working(work: Work) -> Iterator[Work]:
    """Let every `resumable_map` inside the context use this executor and journal."""
    token = _current.set(work)
    try:
        yield work
    finally:
        _current.reset(token)


def current_work() -> Work | None:
    """Return the work of the current `working` context."""
    return _current.get()


def num_workers() -> int:
    """How many processes share the work of the current `working` context; 1 where it is done in this one."""
    work = _current.get()
    if work is None or isinstance(work.executor, SerialExecutor):
        return 1
    return engine_of(work.executor).num_workers


def wanted_threads() -> int | None:
    """Threads of torch that the user of the current `working` context asked for; None for no wish."""
    work = _current.get()
    return None if work is None else work.threads


def report_progress(stage: str, done: int, total: int) -> None:
    """Tell whoever watches the current `working` context how far a stage is; total is an upper bound."""
    work = _current.get()
    if work is not None:
        work.report(stage, done, total)


@contextmanager
def progress_within(stage: str, before: int, total: int) -> Iterator[None]:
    """Let the maps inside report as a part of one stage, of whose `total` pieces, an upper bound, `before` are done."""
    work = _current.get()
    if work is None or work.progress is None:
        yield
        return
    shown = work.progress
    work.progress = lambda _stage, done, _total: shown(stage, before + done, total)
    try:
        yield
    finally:
        work.progress = shown


@contextmanager
def quiet_progress() -> Iterator[None]:
    """Let nothing inside report its progress: to a loop over solvers each of them is one step of its own stage.

    Their stages have the same name every time, so that a display would step back at each.
    """
    work = _current.get()
    if work is None:
        yield
        return
    shown, work.progress = work.progress, None
    try:
        yield
    finally:
        work.progress = shown


def recalled(stage: str, of: bytes, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Compute the next piece of a sequence, or take it from the journal of the current `working` context.

    A deterministic algorithm whose expensive steps all go through here is resumable: run again, it takes the same
    steps and finds those it has made. Outside such a context every piece is computed.

    Args:
        stage: Names the sequence; each call is its next piece.
        of: What the piece is computed from, or a digest of it. A piece found for anything else is not used.
        compute: The step; its answer holds numbers, text and arrays of numbers.
    """
    work = _current.get()
    if work is None or work.journal is None:
        return compute()
    work.stages[stage] += 1
    key, digest = f"{stage}/{work.stages[stage] - 1}", hashlib.sha256(of).hexdigest()
    found = work.found.get(key)
    if found is not None and found["of"] == digest:
        return {name: value for name, value in found.items() if name != "of"}
    answer = compute()
    # Without waiting for the disk a piece survives the death of the process; power is lost less often.
    sync = time.monotonic() - work.synced > _SYNC_SECONDS
    work.journal.append(key, {**answer, "of": digest}, sync=sync)
    work.synced = time.monotonic() if sync else work.synced
    return answer


def remember(name: str, value: Any) -> None:
    """Leave a tensor for the next answer of the same probe in a series, such as `ProbeEvery` asks for.

    What is remembered is saved and resumed with the training, so an answer may depend on it: the eigenvectors of an
    earlier step make a good start. Outside a series it is forgotten.
    """
    work = _current.get()
    if work is not None:
        work.memory[name] = value.detach().cpu()


def remembered(name: str) -> Any:
    """Find the tensor that the last answer of this series left under a name, on the CPU; None for the first."""
    work = _current.get()
    return None if work is None else work.memory.get(name)
