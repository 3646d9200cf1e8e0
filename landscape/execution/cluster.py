"""The workers of a Dask cluster that is already running, as an executor. The only file that imports Dask."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from landscape.execution.engines import Engine
from landscape.execution.worker import Parcel, Undelivered, holds, receive

_PATIENCE = 5.0  # seconds for the scheduler to answer
_COUNTED = 2.0  # seconds for which a number of workers is good


class Cluster(Engine):
    """Sends tasks to the workers of a Dask scheduler.

    Args:
        client: A `distributed.Client`; whoever made it closes it.
        resources: What a worker must have been started with, such as {"GPU": 1}.

    Raises:
        RuntimeError: If a worker has another version of landscape or torch than this process.
    """

    def __init__(self, client: Any, resources: dict[str, float] | None = None):
        self._client = client
        self._executor = client.get_executor(pure=False, **({"resources": resources} if resources else {}))
        self._versions = versions()
        self._counted: tuple[float, int] = (float("-inf"), 0)
        self._require_versions()

    @property
    def num_workers(self) -> int:
        """Worker processes there are now, at least 1; clusters grow and shrink."""
        if time.monotonic() - self._counted[0] > _COUNTED:
            self.require_alive()
            try:
                self._counted = (time.monotonic(), len(self._client.nthreads()))
            except OSError as error:
                raise RuntimeError(self._lost()) from error
        return max(1, self._counted[1])

    @property
    def num_in_flight(self) -> int:
        """Two a worker, so that none waits for a message to cross the network."""
        return 2 * self.num_workers

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Hand the task to the scheduler, with a check of the versions in front of it."""
        return self._executor.submit(run_guarded, self._versions, fn, *args, **kwargs)

    def deaths(self, error: BaseException) -> int:
        """As many as the scheduler allows (`allowed-failures`) and one more, if it gave the task up.

        Raises:
            RuntimeError: If the task was cancelled, since we did not do it.
        """
        if isinstance(error, CancelledError):
            raise RuntimeError(self._lost()) from error
        killed = import_module("distributed").KilledWorker
        return error.allowed_failures + 1 if isinstance(error, killed) else 0

    def require_alive(self) -> None:
        """Raise a RuntimeError if the scheduler is gone."""
        if self._client.status != "running":
            raise RuntimeError(self._lost())

    def deliver(self, parcel: Parcel, worker: str) -> None:
        """Send the bytes of a parcel to a worker that has not got them; one that has died by now is passed over."""
        held = self._client.run(holds, parcel.digest, workers=[worker], on_error="ignore")
        if held.get(worker) is False:
            content = Path(parcel.path).read_bytes()
            self._client.run(receive, parcel.digest, content, workers=[worker], on_error="ignore")

    def _lost(self) -> str:
        address = self._client.scheduler.address if self._client.scheduler else "its address"
        return (
            f"the Dask scheduler at {address} was lost or dropped our tasks; what is finished is saved: once a "
            "scheduler runs again, the same command goes on."
        )

    def _require_versions(self) -> None:
        def found() -> dict[str, str] | str:  # sent by value, so that it answers also where landscape is missing
            try:
                from landscape.execution.cluster import versions
            except ImportError as error:
                return str(error)
            return versions()

        for worker, there in self._client.run(found, on_error="ignore").items():
            _require_same(self._versions, there, worker)


def versions() -> dict[str, str]:
    """What must be the same in driver and worker, or the bits could differ."""
    import torch

    from landscape.provenance import version_of

    return {"landscape": f"{version_of('landscape-lab')} (source {_source()})", "torch": str(torch.__version__)}


@cache
def _source() -> str:
    """Digest of this package's source, since a version says little about a checkout."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def _require_same(here: dict[str, str], there: dict[str, str] | str, worker: str) -> None:
    if isinstance(there, str):
        raise RuntimeError(f"Dask worker {worker} cannot import landscape ({there}); install the same version there.")
    differing = [f"{name} {there[name]}, here it is {here[name]}" for name in here if there[name] != here[name]]
    if differing:
        raise RuntimeError(
            f"Dask worker {worker} has {' and '.join(differing)}; their numbers may differ in the last bits. "
            "Install the same versions on both sides and start the worker again."
        )


@contextmanager
def open_cluster(target: str) -> Iterator[Cluster]:
    """Connect to a scheduler, ``ADDRESS`` or ``ADDRESS?resources=NAME=NUMBER,...``; disconnect at the end.

    Raises:
        ImportError: If Dask is not installed.
        ValueError: If the address or the resources cannot be read.
        ConnectionError: If no scheduler answers within seconds.
        RuntimeError: If a worker has another version of landscape or torch than this process.
    """
    address, _, options = target.partition("?")
    resources = _resources(options)
    client = _connected(address)
    try:
        yield Cluster(client, resources)
    finally:
        client.close(timeout=2)


def _connected(address: str) -> Any:
    try:
        distributed = import_module("distributed")
    except ImportError as error:
        raise ImportError(f"executor dask needs Dask ({error}); pip install 'landscape-lab[dask]'.") from error
    try:
        return distributed.Client(address, timeout=_PATIENCE, set_as_default=False, name="landscape")
    except ValueError as error:
        raise ValueError(
            f"executor dask needs the address of a scheduler, such as dask:tcp://127.0.0.1:8786, got {address!r} "
            f"({error})."
        ) from error
    except OSError as error:
        raise ConnectionError(
            f"no Dask scheduler answers at {address} ({error}); start one, or correct the address that it printed."
        ) from error


def _resources(options: str) -> dict[str, float]:
    if not options:
        return {}
    try:
        name, _, values = options.partition("=")
        if name != "resources":
            raise ValueError(name)
        return {key: float(number) for key, number in (value.split("=") for value in values.split(","))}
    except ValueError as error:
        raise ValueError(
            f"after the ? of a Dask address may stand resources=GPU=1 or resources=GPU=1,MEMORY=8e9, got {options!r}."
        ) from error


# --- in the worker ------------------------------------------------------------------------------------------------

_one_at_a_time = threading.Lock()


def run_guarded(expected: dict[str, str], fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a task in a Dask worker: with the driver's versions, one torch thread, and no other task beside it.

    A worker may have several threads of its own, but an objective is one object that is changed while it computes.

    Raises:
        RuntimeError: If this worker has another version of landscape or torch than the driver.
    """
    import torch
    from distributed import get_worker

    address = get_worker().address
    _require_same(expected, versions(), address)
    with _one_at_a_time:
        torch.set_num_threads(1)  # of this thread of the worker
        answer = fn(*args, **kwargs)
    return replace(answer, worker=address) if isinstance(answer, Undelivered) else answer
