"""One seam for independent work, `concurrent.futures.Executor`, and a map over it that can be resumed."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from landscape.store.disk import PARTIAL, explained

_SYNC_SECONDS = 1.0  # a sequence of short steps waits for the disk at most this often
_CHUNK = 8  # items that one task of a remote executor computes, to pay its message once

Answer = dict[str, float]


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


class SerialExecutor(Executor):
    """Computes each task in this process when it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run at once; an exception is kept for `Future.result`, an interruption is not."""
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


_current: ContextVar[Work | None] = ContextVar("work", default=None)


@contextmanager
def working(work: Work) -> Iterator[Work]:
    """Let every `resumable_map` inside the context use this executor and journal."""
    token = _current.set(work)
    try:
        yield work
    finally:
        _current.reset(token)


@contextmanager
def open_executor(name: str = "serial") -> Iterator[Executor]:
    """Start the executor that a name stands for and stop it at the end.

    Args:
        name: ``serial``; ``processes`` (one a core) or ``processes:N``: fresh processes with one torch thread each,
            talking over pipes, no open port.

    Raises:
        ValueError: If the name is unknown.
    """
    kind, _, argument = name.partition(":")
    if kind == "serial" and not argument:
        yield SerialExecutor()
        return
    if kind != "processes" or not (argument.isdigit() and int(argument) > 0 if argument else True):
        raise ValueError(f"executor must be serial, processes or processes:N, got {name!r}.")
    import torch.multiprocessing

    pool = ProcessPoolExecutor(
        max_workers=int(argument) if argument else os.cpu_count(),
        mp_context=torch.multiprocessing.get_context("spawn"),
        initializer=_prepare_worker,
    )
    try:
        yield pool
    except BaseException:
        _terminate(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _terminate(pool: ProcessPoolExecutor) -> None:
    """End the workers at once; a worker asked politely ends its whole chunk first, which may take minutes."""
    for process in list((pool._processes or {}).values()):  # `terminate_workers` from Python 3.14 on
        process.terminate()


def num_workers() -> int:
    """How many processes share the work of the current `working` context; 1 where it is done in this one."""
    work = _current.get()
    if work is None or isinstance(work.executor, SerialExecutor):
        return 1
    return getattr(work.executor, "_max_workers", None) or os.cpu_count() or 1


def wanted_threads() -> int | None:
    """Threads of torch that the user of the current `working` context asked for; None for no wish."""
    work = _current.get()
    return None if work is None else work.threads


def report_progress(stage: str, done: int, total: int) -> None:
    """Tell whoever watches the current `working` context how far a stage is; total is an upper bound."""
    work = _current.get()
    if work is not None:
        _report(work, stage, done, total)


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


def resumable_map(
    function: Callable[[Any, Any], Answer], shared: Any, items: Sequence[Any], stage: str = "point"
) -> list[Answer]:
    """Compute function(shared, item) for every item, in order of the items.

    Pieces that the journal of the current `working` context holds are not computed again; every new one is
    journalled as it arrives. Outside such a context everything is computed here.

    Args:
        function: A module-level function; its answer depends on its arguments alone.
        shared: What all items need, sent once to each process.
        items: Small things that can be sent.
        stage: Names these pieces in the journal and the progress display.

    Raises:
        ValueError: If `shared` cannot be sent to another process.
        TypeError: If an answer is not a dict of numbers.
    """
    work = _current.get() or Work(SerialExecutor())
    stage = work.open_stage(stage)
    keys = [f"{stage}/{number}" for number in range(len(items))]
    known = work.journal.records() if work.journal else {}
    found: dict[str, Answer] = {key: known[key] for key in keys if key in known}
    _report(work, stage, len(found), len(keys))
    todo = [(key, item) for key, item in zip(keys, items, strict=True) if key not in found]
    for key, answer in _computed(work, function, shared, todo):
        if not isinstance(answer, dict):
            raise TypeError(
                f"a piece of work must answer with a dict of numbers such as {{'loss': 0.5}}, "
                f"got {type(answer).__name__}."
            )
        if work.journal:
            work.journal.append(key, answer)
        found[key] = answer
        _report(work, stage, len(found), len(keys))
    return [found[key] for key in keys]


def _report(work: Work, stage: str, done: int, total: int) -> None:
    if work.progress:
        work.progress(stage, done, total)


def _computed(
    work: Work, function: Callable[[Any, Any], Answer], shared: Any, todo: Sequence[tuple[str, Any]]
) -> Iterator[tuple[str, Answer]]:
    if isinstance(work.executor, SerialExecutor):
        for key, item in todo:
            yield key, function(shared, item)
        return
    with _shared_file(function, shared, work.scratch) as path:
        chunks = [todo[start : start + _CHUNK] for start in range(0, len(todo), _CHUNK)]
        for chunk, (answers, passes) in _completed(work.executor, path, chunks):
            work.remote_passes += passes
            yield from zip([key for key, _ in chunk], answers, strict=True)


def _completed(executor: Executor, path: Path, chunks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Keep a few tasks in flight and yield each as it ends."""
    waiting = list(reversed(chunks))
    running: dict[Future, Any] = {}
    try:
        while waiting or running:
            while waiting and len(running) < 2 * (os.cpu_count() or 1):
                chunk = waiting.pop()
                running[executor.submit(_compute_chunk, str(path), [item for _, item in chunk])] = chunk
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        for future in running:
            future.cancel()


@contextmanager
def _shared_file(function: Any, shared: Any, scratch: Path | None) -> Iterator[Path]:
    """Write what all pieces need where the workers read it, for nobody else's eyes."""
    try:
        content = pickle.dumps((function, shared))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"this work cannot be sent to other processes ({error}); define the model and the loss at the top level "
            "of a module (no lambda), or use the serial executor."
        ) from error
    with tempfile.NamedTemporaryFile(prefix=".shared-", suffix=PARTIAL, dir=scratch) as file:
        path = Path(file.name)
        with explained(path):
            file.write(content)
            file.flush()
        yield path


# --- in the worker --------------------------------------------------------------------------------------------

_loaded: dict[str, Any] = {}


def _compute_chunk(path: str, items: Sequence[Any]) -> tuple[list[Answer], int]:
    if path not in _loaded:
        _loaded.clear()
        # The file was written by the parent process, which alone may read and write it.
        _loaded[path] = pickle.loads(Path(path).read_bytes())  # noqa: S301
    function, shared = _loaded[path]
    objective = getattr(shared, "objective", None)
    before = getattr(objective, "num_passes", 0)
    answers = [function(shared, item) for item in items]
    return answers, getattr(objective, "num_passes", 0) - before


def _prepare_worker() -> None:
    """One torch thread; leave signals to the parent; end when the parent ends, however it ended."""
    import multiprocessing

    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
