"""What a worker does with one run of a sweep: train it, ask the probes, and say what came of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from landscape.measure import ask
from landscape.store import DiskFullError, LockedError, StoreError, UnwritableError
from landscape.sweeps import FAILURE, PLAN, Row, read_run
from models.config import RunConfig
from models.opened import Run, open_run
from models.planes import objective_and_probe
from models.trials import in_one_line, is_done, train_or_record
from models.watching import read_probe

_SHORT = 10  # numbers of a row that get a variable each


@dataclass(frozen=True)
class Job:
    """What all runs of a sweep share.

    Attributes:
        out: The folder of the sweep.
        digest: SHA-256 of its plan, by which a worker knows that it sees the same folder.
        probes: What is asked of each run, as it is written.
    """

    out: str
    digest: str
    probes: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """One run, and what the journal knows of it.

    Attributes:
        config: The run.
        wall_seconds: What its training took before now; None if that is not known.
        retry: Whether to train it again although it has failed.
    """

    config: RunConfig
    wall_seconds: float | None = None
    retry: bool = False


def settle(job: Job, task: Task) -> Row:
    """Train a run unless it is done, ask what has not been asked, and return its row of the journal.

    What goes wrong with this run alone is a part of the row, so that the others go on.

    Raises:
        RuntimeError: If this process sees another folder than the one that asks.
        DiskFullError: If there is no space left.
        UnwritableError: If the operating system refuses to write.
    """
    _require_same_folder(job)
    folder = Path(job.out) / task.config.hash
    row: Row = {} if task.wall_seconds is None else {"wall_seconds": task.wall_seconds}
    try:
        if task.retry:
            (folder / f"{FAILURE}.json").unlink(missing_ok=True)
        if not is_done(folder):
            started = time.monotonic()
            train_or_record(task.config, folder)
            row["wall_seconds"] = time.monotonic() - started
        answers, error = _answers(job, folder)
    except LockedError as locked:
        return {"status": "missing", "error": str(locked), "files": ""}
    except (DiskFullError, UnwritableError):
        raise
    except StoreError as damaged:
        answers, error = {}, in_one_line(damaged)
    found = read_run(folder)
    return {**row, **found, "error": found["error"] or error, "probes": json.dumps(answers)}


def _require_same_folder(job: Job) -> None:
    try:
        seen = digest_of(Path(job.out))
    except OSError:
        seen = ""
    if seen != job.digest:
        raise RuntimeError(
            f"a worker does not see the sweep in {job.out}; runs are trained into a folder that all workers "
            "share: give --out on a shared disk, under the same path on every machine"
        )


def digest_of(out: Path) -> str:
    """Return the SHA-256 of the plan of a sweep, as it lies there."""
    return sha256((out / f"{PLAN}.json").read_bytes()).hexdigest()


def _answers(job: Job, folder: Path) -> tuple[dict[str, dict[str, float]], str]:
    """Ask every probe of a finished run; what one of them raises is returned, and the others go on."""
    if not job.probes or read_run(folder)["status"] != "finished":
        return {text: {} for text in job.probes}, ""
    answers: dict[str, dict[str, float]] = {}
    errors = []
    run = open_run(folder)
    with _one_thread():
        for text in job.probes:
            try:
                answers[text] = _numbers(_asked(text, run))
            except StoreError:
                raise
            except Exception as error:
                answers[text] = {}
                errors.append(f"probe {text}: {in_one_line(error)}")
    return answers, "; ".join(errors)


def _asked(text: str, run: Run) -> xr.Dataset:
    objective, probe = objective_and_probe(read_probe(text), run)
    return ask(probe, objective, run.store)


def _numbers(answer: xr.Dataset) -> dict[str, float]:
    """The variables of an answer that are one number, and each number of short rows."""
    found: dict[str, float] = {}
    for name, variable in answer.data_vars.items():
        values = np.atleast_1d(variable.values.squeeze())
        if values.dtype.kind not in "biuf" or values.ndim > 1 or values.size > _SHORT:
            continue
        names = [str(name)] if values.size == 1 else [f"{name}_{index}" for index in range(values.size)]
        found |= dict(zip(names, map(float, values), strict=True))
    return found


@contextmanager
def _one_thread() -> Iterator[None]:
    """Measure as in a process of a pool, so that the bits are the same wherever it is done."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_failed(row: dict[str, Any]) -> bool:
    """Whether a run or one of its probes has failed."""
    return bool(row) and bool(row["error"])
