"""What a sweep will cost, before it is begun."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from landscape.store import Store
from landscape.sweeps import PLAN
from models.config import RunConfig
from models.run import train
from models.sweep.job import Task
from models.trials import in_one_line

_PILOTS = 3


@dataclass(frozen=True)
class Estimate:
    """How long a training takes.

    Attributes:
        seconds: A run, on one core; NaN where nothing could be timed.
        source: What was timed.
    """

    seconds: float
    source: str


def estimate(store_path: Path, names: Sequence[str], left: Sequence[Task]) -> Estimate:
    """Estimate the seconds of a run from those that are finished, or else from a short pilot.

    Args:
        store_path: The folder of the sweep; it need not exist.
        names: The folders of its runs.
        left: What is to be trained.
    """
    rows = Store(store_path, create=False).journal(PLAN).records() if store_path.is_dir() else {}
    known = [rows[name]["wall_seconds"] for name in names if "wall_seconds" in rows.get(name, {})]
    if known:
        return Estimate(float(np.mean(known)), f"the mean of {len(known)} finished runs")
    return _pilot([config for task in left for config in task.configs])


def _pilot(configs: Sequence[RunConfig]) -> Estimate:
    """Time one epoch of a few runs, spread over the sweep, in a folder that is thrown away."""
    import models.training  # noqa: F401 (its import takes seconds and is no part of a run)

    if not configs:
        return Estimate(0.0, "nothing is left to train")
    places = sorted({round(place) for place in np.linspace(0, len(configs) - 1, _PILOTS)})
    seconds, problems = [], []
    for config in (configs[place] for place in places):
        short = replace(config, epochs=min(1, config.epochs), average="none", keep_average=False, probes="none")
        try:
            with tempfile.TemporaryDirectory() as folder:
                train(short, Path(folder) / "warm-up")  # the first training of a process takes longer
                started = time.monotonic()
                train(short, Path(folder) / "timed")
        except Exception as error:
            problems.append(in_one_line(error))
            continue
        seconds.append((time.monotonic() - started) * max(1, config.epochs))
    if not seconds:
        return Estimate(float("nan"), f"nothing: no pilot run could be trained ({problems[0]})")
    return Estimate(float(np.mean(seconds)), f"a pilot of one epoch of {len(seconds)} runs, times their epochs")
