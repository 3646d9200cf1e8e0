"""What a worker does with one run of a sweep: train it, ask the probes, and say what came of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from landscape.measure import ask
from landscape.store import DiskFullError, LockedError, Store, StoreError, UnwritableError
from landscape.sweeps import FAILURE, PLAN, Row, fingerprint, read_run
from models.config import RunConfig
from models.opened import Run, open_run
from models.planes import objective_and_probe
from models.run import is_finished
from models.trials import in_one_line, is_done, train_batch
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
    """Runs that are trained by one worker, and what the journal knows of them.

    Attributes:
        configs: The runs; several are trained together as a stack.
        wall_seconds: What the training of each took, by its name, as far as that is known.
        retry: The names of those that are trained again although they have failed.
    """

    configs: tuple[RunConfig, ...]
    wall_seconds: Mapping[str, float] = field(default_factory=dict)
    retry: frozenset[str] = frozenset()

    def alone(self) -> list[Task]:
        """The same, a run at a time."""
        names = [config.hash for config in self.configs]
        seconds = [{name: self.wall_seconds[name]} if name in self.wall_seconds else {} for name in names]
        return [Task((c,), s, self.retry & {c.hash}) for c, s in zip(self.configs, seconds, strict=True)]


def settle(job: Job, task: Task) -> Row:
    """Train runs unless they are done, ask what has not been asked, and return their rows of the journal.

    What goes wrong with one run is a part of its row, so that the others go on.

    Returns:
        The values of all rows, each under the name of its run, a slash and its own name.

    Raises:
        RuntimeError: If this process sees another folder than the one that asks.
        DiskFullError: If there is no space left.
        UnwritableError: If the operating system refuses to write.
    """
    _require_same_folder(job)
    out, seconds, locked = Path(job.out), dict(task.wall_seconds), ""
    for name in task.retry:
        (out / name / f"{FAILURE}.json").unlink(missing_ok=True)
    left = [config.hash for config in task.configs if not _is_done(out / config.hash)]
    started = time.monotonic()
    try:
        if left:
            train_batch(task.configs, out)
    except LockedError as error:
        locked = str(error)
    except (DiskFullError, UnwritableError):
        raise
    except StoreError:  # a damaged file, which is named when the run is read
        pass
    seconds |= dict.fromkeys(left, (time.monotonic() - started) / max(1, len(left)))
    rows = {config.hash: _row(job, out / config.hash, config, locked) for config in task.configs}
    for name in seconds:
        rows[name]["wall_seconds"] = seconds[name]
    return {f"{run}/{name}": value for run, row in rows.items() for name, value in row.items()}


def settle_lost(job: Job, config: RunConfig) -> Row:
    """Record a run over which worker after worker died, as having failed, and return its row as `settle` does."""
    folder = Path(job.out) / config.hash
    error = "every worker that was given this run died, as from too little memory or a crash in native code"
    row: Row = {}
    if _is_done(folder):  # it is a probe that kills
        row = {"error": error, "probes": json.dumps({text: {} for text in job.probes})}
    else:
        Store(folder).save_json(FAILURE, {"error": error, "config": config.to_dict()})
    return {f"{config.hash}/{name}": value for name, value in {**read_run(folder), **row}.items()}


def unpacked(packed: Row) -> dict[str, Row]:
    """Take apart the rows that `settle` returns."""
    rows: dict[str, Row] = {}
    for key, value in packed.items():
        run, _, name = key.partition("/")
        rows.setdefault(run, {})[name] = value
    return rows


def _is_done(folder: Path) -> bool:
    try:
        return is_done(folder)
    except StoreError:
        return False


def _row(job: Job, folder: Path, config: RunConfig, locked: str) -> Row:
    """Ask of one run what has not been asked, and read what became of it."""
    if other := _other(folder, config):
        return {"status": "failed", "error": other, "files": fingerprint(folder)}
    try:
        answers, error = _answers(job, folder)
    except LockedError as other:
        return {"status": "missing", "error": str(other), "files": ""}
    except (DiskFullError, UnwritableError):
        raise
    except StoreError as damaged:
        answers, error = {}, in_one_line(damaged)
    row = read_run(folder)
    if row["status"] == "missing":
        return {**row, "error": locked or error}
    return {**row, "error": row["error"] or error, "probes": json.dumps({**dict.fromkeys(job.probes), **answers})}


def _other(folder: Path, config: RunConfig) -> str:
    """Say what other run lies in a folder, as where one was trained into it by hand; empty if none does."""
    try:
        is_finished(Store(folder, create=False), config)
    except ValueError as error:
        return str(error)
    except StoreError:
        pass
    return ""


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
        return {}, ""
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
