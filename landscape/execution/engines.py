"""Executors by name: this process, fresh processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from landscape.execution.worker import prepare_process


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
        initializer=prepare_process,
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
