"""A map over independent pieces that can be resumed, on any executor."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from landscape.execution.engines import SerialExecutor
from landscape.execution.work import Work, current_work
from landscape.execution.worker import Answer, compute_chunk
from landscape.store.disk import PARTIAL, explained

_CHUNK = 8  # items that one task of a remote executor computes, to pay its message once


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
    work = current_work() or Work(SerialExecutor())
    stage = work.open_stage(stage)
    keys = [f"{stage}/{number}" for number in range(len(items))]
    known = work.journal.records() if work.journal else {}
    found: dict[str, Answer] = {key: known[key] for key in keys if key in known}
    work.report(stage, len(found), len(keys))
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
        work.report(stage, len(found), len(keys))
    return [found[key] for key in keys]


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
                running[executor.submit(compute_chunk, str(path), [item for _, item in chunk])] = chunk
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
