"""Trials: normal runs in folders named by their configuration, so that none is trained twice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr

from landscape.execution import Answer, Progress, Work, open_executor, progress_within, resumable_map, working
from landscape.store import Store, StoreError
from models.config import RunConfig
from models.run import train
from models.stacking import pays, stackable, train_stack

Stack = Literal["auto", "never", "always"]
STACKS: tuple[Stack, ...] = ("auto", "never", "always")
MOST_STACKED = 16  # runs of one stack; larger ones gain little more and lose more when they are interrupted

Objective = Literal["best-val-loss", "last-val-loss", "best-val-error", "last-val-error"]
OBJECTIVES: dict[str, str] = {
    "best-val-loss": "validation loss (nats) of the best epoch",
    "last-val-loss": "validation loss (nats) of the last epoch",
    "best-val-error": "validation error of the best epoch",
    "last-val-error": "validation error of the last epoch",
}


@dataclass(frozen=True)
class Outcome:
    """What became of a trial.

    Attributes:
        status: finished; diverged, where the last training or validation loss is not finite; or failed.
        value: The objective, the lower the better; NaN unless finished.
        epoch: The epoch that it was taken from, counted from 0; -1 unless finished.
        error: Why a trial failed.
    """

    status: Literal["finished", "diverged", "failed"]
    value: float = math.nan
    epoch: int = -1
    error: str = ""


def run_trials(
    configs: Sequence[RunConfig],
    out: Path,
    executor: str | Executor = "serial",
    progress: Progress | None = None,
) -> None:
    """Train every run that is not finished yet in its own folder, named by its configuration's hash.

    What a run raises is written into its folder as `failure.json`, and the others go on; such a run is not tried again
    before its folder is removed. An interrupted run goes on from its last whole epoch.

    Args:
        configs: The runs; equal ones are trained once.
        out: The folder that holds the folders of the runs.
        executor: Where runs are trained, as `landscape.execution.open_executor` names it, or one that is open.
        progress: Called with ("trials", trials done, trials in all).

    Raises:
        StoreError: If a run cannot be written, or another process is at work on it.
    """
    unique = {config.hash: config for config in configs}
    todo = [config for name, config in unique.items() if not is_done(out / name)]
    done = len(unique) - len(todo)
    if progress is not None and not todo:
        progress("trials", done, len(unique))
    if not todo:
        return
    Store(out)  # makes the folder
    opened = open_executor(executor) if isinstance(executor, str) else nullcontext(executor)
    within = progress_within("trials", done, len(unique))
    with opened as engine, working(Work(engine, progress=progress, scratch=out)), within:
        resumable_map(_train, str(out), todo, stage="trials")


def is_done(folder: Path) -> bool:
    """Whether a run has finished or failed."""
    if (folder / "failure.json").exists():
        return True
    store = Store(folder, create=False) if folder.is_dir() else None
    return store is not None and store.has("training") and bool(store.read("training").attrs["finished"])


def outcome(folder: Path, objective: Objective) -> Outcome:
    """Read what became of a trial that is done.

    Raises:
        StoreError: If it is not done, or a file of it is damaged.
    """
    store = Store(folder, create=False)
    if (folder / "failure.json").exists():
        return Outcome("failed", error=str(store.load_json("failure")["error"]))
    training = store.read("training")
    values = _by_epoch(training, objective)
    if not (np.isfinite(values[-1]) and np.isfinite(training["train_loss"].values[-1])):
        return Outcome("diverged")
    epoch = len(values) - 1 if objective.startswith("last") else int(np.nanargmin(values))
    return Outcome("finished", float(values[epoch]), epoch)


def _by_epoch(training: xr.Dataset, objective: Objective) -> np.ndarray:
    if objective.endswith("loss"):
        return np.asarray(training["val_loss"].values, dtype=np.float64)
    # an accuracy is finite whatever the loss is
    return np.where(np.isfinite(training["val_loss"].values), 1.0 - training["val_accuracy"].values, np.nan)


def _train(out: str, config: RunConfig) -> Answer:
    train_or_record(config, Path(out) / config.hash)
    return {}


def train_or_record(config: RunConfig, folder: Path) -> None:
    """Train a run; what it raises is written into its folder as `failure.json`.

    Raises:
        StoreError: If the run cannot be written, or another process is at work on it.
    """
    try:
        train(config, folder)
    except StoreError:
        raise
    except Exception as error:
        Store(folder).save_json("failure", {"error": in_one_line(error), "config": config.to_dict()})


@dataclass(frozen=True)
class Batch:
    """Runs that one worker trains: together as a stack, or a single one.

    Attributes:
        configs: The runs.
        reason: Why a single one is not stacked.
    """

    configs: tuple[RunConfig, ...]
    reason: str = ""


def batches(configs: Sequence[RunConfig], stack: Stack = "auto") -> list[Batch]:
    """Decide which runs are trained together.

    That follows from the runs alone, not from the workers or from what is finished, so that a job which was interrupted
    goes on to the same bits.

    Args:
        configs: All runs of a job.
        stack: auto, where a measurement says that it pays; never; or always, wherever it is possible.

    Raises:
        ValueError: If `stack` is another word.
    """
    if stack not in STACKS:
        raise ValueError(f"stack must be one of {', '.join(STACKS)}, got {stack!r}")
    if stack == "never":
        return [Batch((config,)) for config in configs]
    found = []
    for group in stackable(configs):
        number = math.ceil(len(group.configs) / MOST_STACKED)
        for part in (group.configs[start::number] for start in range(number)):  # of about the same size
            reason = group.reason or _why_not_together(part, stack)
            found += [Batch((config,), reason) for config in part] if reason else [Batch(part)]
    return found


def _why_not_together(part: Sequence[RunConfig], stack: Stack) -> str:
    if len(part) == 1:
        return "no other run differs from it in seed, initialization or rates alone"
    if stack == "auto" and not pays(part[0], len(part)):
        return f"{len(part)} runs of model {part[0].model!r} are not trained faster together"
    return ""


def train_batch(configs: Sequence[RunConfig], out: Path) -> None:
    """Train what is not done of runs that belong together; one by one if they cannot be trained as a stack after all.

    Raises:
        StoreError: If a run cannot be written, or another process is at work on it.
    """
    left = [config for config in configs if not is_done(out / config.hash)]
    if len(left) > 1:
        try:
            train_stack(left, [out / config.hash for config in left])
        except StoreError:
            raise
        except Exception:  # what is wrong belongs to single runs, each of which says so itself
            left = [config for config in left if not is_done(out / config.hash)]
        else:
            return
    for config in left:
        train_or_record(config, out / config.hash)


def in_one_line(error: Exception) -> str:
    """Write an error with its kind."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
