"""What runs in a worker, whatever started it."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Answer = dict[str, float]


@dataclass(frozen=True)
class Parcel:
    """What all pieces of a map need, pickled: where it lies, and what it is.

    Attributes:
        path: A file of the driver's machine. A worker elsewhere may see none, or another one of that name.
        digest: SHA-256 of the content, which alone says that a file is the right one.
    """

    path: str
    digest: str


@dataclass(frozen=True)
class Finished:
    """The answers of one task, in order, with the passes over the data and the seconds that they took."""

    answers: list[Answer]
    passes: int
    seconds: float


@dataclass(frozen=True)
class Undelivered:
    """A worker cannot read the parcel's file; its bytes must be delivered to it."""

    worker: str = ""


_loaded: dict[str, Any] = {}
_received: dict[str, bytes] = {}


def holds(digest: str) -> bool:
    """Whether this worker has a parcel already."""
    return digest in _loaded or digest in _received


def receive(digest: str, content: bytes) -> None:
    """Keep the bytes of a parcel until the next task that needs them."""
    _received.clear()
    _received[digest] = content


def compute_chunk(parcel: Parcel, items: Sequence[Any]) -> Finished | Undelivered:
    """Compute the pieces of one task, each on its own.

    Raises:
        ImportError: If the parcel holds a class or function that this worker cannot import.
    """
    if parcel.digest not in _loaded:
        content = _content(parcel)
        if content is None:
            return Undelivered()
        _loaded.clear()
        _loaded[parcel.digest] = _unpacked(content)
        _received.clear()
    function, shared = _loaded[parcel.digest]
    objective = getattr(shared, "objective", None)
    before, started = getattr(objective, "num_passes", 0), time.monotonic()
    answers = [function(shared, item) for item in items]
    return Finished(answers, getattr(objective, "num_passes", 0) - before, time.monotonic() - started)


def _content(parcel: Parcel) -> bytes | None:
    if parcel.digest in _received:
        return _received[parcel.digest]
    try:
        content = Path(parcel.path).read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == parcel.digest else None


def _unpacked(content: bytes) -> Any:
    try:
        # The bytes come from the driver, whose tasks this worker runs anyway.
        return pickle.loads(content)  # noqa: S301
    except (AttributeError, ImportError) as error:
        raise ImportError(
            f"a worker cannot import what this work needs ({error}); define the model and the loss in a module that "
            "is installed, or on the PYTHONPATH, where the workers run."
        ) from error


# --- processes of our own -----------------------------------------------------------------------------------------


def prepare_process() -> None:
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
