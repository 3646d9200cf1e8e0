"""Executors by name: this process, fresh processes, or the workers of a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from landscape.execution.worker import Parcel, prepare_process


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


class Engine(Executor):
    """An executor whose workers are other processes, and what a map must know about them."""

    @property
    def num_workers(self) -> int:
        """How many tasks are computed at a time."""
        return os.cpu_count() or 1

    @property
    def num_in_flight(self) -> int:
        """How many tasks to submit at a time."""
        return self.num_workers

    def deaths(self, error: BaseException) -> int:
        """Count the workers that died over a task which ended with this error; 0 for an error of the task's own."""
        return 0

    def require_alive(self) -> None:
        """Raise a RuntimeError if no task can end any more."""

    def deliver(self, parcel: Parcel, worker: str) -> None:
        """Bring the bytes of a parcel to a worker that cannot read its file.

        Raises:
            RuntimeError: If workers of this kind share our disk, so that the file is gone for everybody.
        """
        raise RuntimeError(f"a worker cannot read {parcel.path}, which was removed or changed; run the command again.")


class Adopted(Engine):
    """An executor that somebody else opened. Workers that it loses, it has to replace itself."""

    def __init__(self, executor: Executor):
        self._executor = executor

    @property
    def num_workers(self) -> int:
        """What it says, or one a core."""
        return getattr(self._executor, "_max_workers", None) or super().num_workers

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Hand the task over."""
        return self._executor.submit(fn, *args, **kwargs)


class Processes(Engine):
    """Fresh processes, each started with its first task; one that dies is replaced with the next.

    Every process is a `ProcessPoolExecutor` of its own: the standard library gives up a whole pool with one worker,
    and does not say over whose task.
    """

    def __init__(self, number: int):
        self._pools: list[ProcessPoolExecutor | None] = [None] * number
        self._given: list[list[Future]] = [[] for _ in range(number)]

    @property
    def num_workers(self) -> int:
        """As many as were asked for."""
        return len(self._pools)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Give the task to the process with the fewest, the first of them."""
        self._given = [[future for future in given if not future.done()] for given in self._given]
        place = min(range(len(self._given)), key=lambda place: len(self._given[place]))
        try:
            future = self._pool(place).submit(fn, *args, **kwargs)
        except BrokenExecutor:
            self._pools[place] = None
            future = self._pool(place).submit(fn, *args, **kwargs)
        self._given[place].append(future)
        return future

    def deaths(self, error: BaseException) -> int:
        """One, if the process broke."""
        return int(isinstance(error, BrokenExecutor))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ask every process to leave after the task it is at."""
        for pool in filter(None, self._pools):
            pool.shutdown(wait=False, cancel_futures=cancel_futures)
        for pool in filter(None, self._pools):
            pool.shutdown(wait=wait, cancel_futures=cancel_futures)

    def terminate(self) -> None:
        """End the processes at once; one asked politely ends its whole task first, which may take minutes."""
        for pool in filter(None, self._pools):
            for process in list((pool._processes or {}).values()):  # `terminate_workers` from Python 3.14 on
                process.terminate()

    def _pool(self, place: int) -> ProcessPoolExecutor:
        import torch.multiprocessing

        pool = self._pools[place]
        if pool is None:
            context = torch.multiprocessing.get_context("spawn")
            pool = self._pools[place] = ProcessPoolExecutor(1, mp_context=context, initializer=prepare_process)
        return pool


def engine_of(executor: Executor) -> Engine:
    """Return an executor as what a map needs."""
    return executor if isinstance(executor, Engine) else Adopted(executor)


@contextmanager
def open_executor(name: str = "serial") -> Iterator[Executor]:
    """Start the executor that a name stands for and stop it at the end; an exception stops it at once.

    All of them give the same bits.

    Args:
        name: Where the work is done.

            ``serial``: in this process.

            ``processes`` (one a core) or ``processes:N``: in fresh processes with one torch thread each, talking over
            pipes, no open port. One that dies is replaced.

            ``dask:ADDRESS``, such as ``dask:tcp://head:8786``: by the workers of a Dask cluster that is already
            running, one task a worker process at a time with one torch thread, from the same versions of landscape and
            torch as here. Needs ``pip install 'landscape-lab[dask]'``. ``dask:ADDRESS?resources=GPU=1`` uses only
            workers that were started with such resources. Whoever can connect to a scheduler can run code on its
            workers, and this process trusts what they answer: see docs/clusters.md.

    Raises:
        ValueError: If the name is unknown, or its address no address.
        ImportError: If Dask is asked for and not installed.
        ConnectionError: If no scheduler answers at the address within seconds.
        RuntimeError: If a worker has other versions than this process.
    """
    kind, _, argument = name.partition(":")
    if kind == "serial" and not argument:
        yield SerialExecutor()
    elif kind == "processes" and (not argument or (argument.isdigit() and int(argument) > 0)):
        with _open_processes(int(argument) if argument else os.cpu_count() or 1) as processes:
            yield processes
    elif kind == "dask" and argument:
        from landscape.execution.cluster import open_cluster

        with open_cluster(argument) as cluster:
            yield cluster
    else:
        raise ValueError(f"executor must be serial, processes, processes:N or dask:ADDRESS, got {name!r}.")


@contextmanager
def _open_processes(number: int) -> Iterator[Processes]:
    processes = Processes(number)
    try:
        yield processes
    except BaseException:
        processes.terminate()
        raise
    finally:
        processes.shutdown(wait=True, cancel_futures=True)
