"""What runs in a worker process."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Answer = dict[str, float]

_loaded: dict[str, Any] = {}


def compute_chunk(path: str, items: Sequence[Any]) -> tuple[list[Answer], int]:
    """Compute the pieces of one task; answers, and how many passes over the data they took."""
    if path not in _loaded:
        _loaded.clear()
        # The file was written by the parent process, which alone may read and write it.
        _loaded[path] = pickle.loads(Path(path).read_bytes())  # noqa: S301
    function, shared = _loaded[path]
    objective = getattr(shared, "objective", None)
    before = getattr(objective, "num_passes", 0)
    answers = [function(shared, item) for item in items]
    return answers, getattr(objective, "num_passes", 0) - before


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
