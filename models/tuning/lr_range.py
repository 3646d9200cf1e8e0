"""The range test: the loss while the learning rate rises by equal factors, and what it says of a good rate."""

from __future__ import annotations

import hashlib
import json
import math
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from landscape.execution import Progress
from landscape.provenance import provenance
from landscape.store import Store
from models.config import RunConfig
from models.data import load_data
from models.trials import run_trials

SMOOTHING = 0.9  # of the exponential mean of the losses, corrected for its start at zero
DIVERGED = 4.0  # times the lowest smoothed loss so far, after which nothing is looked at
MARGIN = 10.0  # the suggested rate is that of the lowest loss over this


@dataclass(frozen=True)
class LrRange:
    """Train from fresh weights while the learning rate rises from a start to an end by equal factors.

    Attributes:
        config: Everything else; its own rate, schedule, epochs, early stopping, averages and probes do not count.
        lowest: First learning rate.
        highest: Last one.
        steps: At least so many optimizer updates, made up to whole epochs.
        seeds: Trainings from this many seeds, beginning with that of the configuration; their losses are averaged.

    References:
        Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3.
    """

    config: RunConfig
    lowest: float = 1e-5
    highest: float = 10.0
    steps: int = 200
    seeds: int = 1

    def __post_init__(self) -> None:
        """Refuse what is no range.

        Raises:
            ValueError: If the rates do not rise from above zero, or a number is too small.
        """
        if not 0 < self.lowest < self.highest < math.inf:
            raise ValueError(f"the learning rate must rise from above 0, got {self.lowest:g} to {self.highest:g}")
        for name, least in (("steps", 20), ("seeds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def name(self) -> str:
        """The answer's name, by everything its values depend on."""
        text = json.dumps({**asdict(self), "config": self.config.to_dict()}, sort_keys=True)
        return f"lr-range-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def __call__(
        self, out: str | Path, executor: str | Executor = "serial", progress: Progress | None = None
    ) -> xr.Dataset:
        """Train what is missing, and look at the losses.

        Args:
            out: Folder of the answer and of the runs.
            executor: Where the seeds are trained.
            progress: Called with ("trials", runs done, runs in all).

        Returns:
            By (step): learning_rate, smoothed_loss (exponential mean of the mean over seeds); loss by (seed, step).
            The rates: lowest (of the smoothed loss), steepest (where it falls most a decade, before that), suggested (a
            tenth of the lowest), diverged (where the smoothed loss first exceeds four times its lowest value so far, or
            is not finite; NaN if nowhere).

        Raises:
            ValueError: If the data cannot be loaded.
            StoreError: If a file cannot be written or read.
        """
        store = Store(out)
        if store.has(self.name):
            return store.read(self.name)
        configs = self.configs()
        with store.lock():
            run_trials(configs, store.path, executor, progress)
            trainings = [Store(store.path / c.hash, create=False).read("training") for c in configs]
            store.write(self.name, self._answer(trainings).assign_attrs(provenance()))
        return store.read(self.name)

    def configs(self) -> list[RunConfig]:
        """The runs, one a seed."""
        data = load_data(self.config.data, **self.config.data_options)
        size = len(data.train.targets)
        batch = size if self.config.batch_size == "all" else min(self.config.batch_size, size)
        rising = replace(
            self.config,
            lr=self.highest,
            lr_scaling="none",
            schedule=f"exponential:start={self.lowest / self.highest!r},end=1.0",
            warmup=0,
            epochs=math.ceil(self.steps / math.ceil(size / batch)),
            snapshots="none",
            probes="none",
            early_stopping=0,
            keep_best=False,
            average="none",
            keep_average=False,
        )
        return [replace(rising, seed=self.config.seed + number) for number in range(self.seeds)]

    def _answer(self, trainings: list[xr.Dataset]) -> xr.Dataset:
        rates = trainings[0]["learning_rate"].values.astype(float)
        losses = np.array([training["loss"].values for training in trainings], dtype=float)
        smoothed = smooth(losses.mean(0))
        units = {"units": "nats"}
        return xr.Dataset(
            {
                "loss": (("seed", "step"), losses, units),
                "smoothed_loss": ("step", smoothed, units),
                "learning_rate": ("step", rates),
                **suggestions(rates, smoothed),
            },
            {"step": trainings[0]["step"].values, "seed": [self.config.seed + n for n in range(self.seeds)]},
            {"probe": "lr-range", "probe_fields": json.dumps({**asdict(self), "config": self.config.to_dict()})},
        )


def smooth(losses: NDArray[np.float64], beta: float = SMOOTHING) -> NDArray[np.float64]:
    """Exponential mean (steps,), each divided by 1 - beta^t so that the first is the first loss.

    >>> smooth(np.array([2.0, 2.0, 2.0])).tolist()
    [2.0, 2.0, 2.0]
    """
    mean, found = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = beta * mean + (1 - beta) * loss
        found.append(mean / (1 - beta**number))
    return np.array(found)


def suggestions(rates: NDArray[np.float64], smoothed: NDArray[np.float64]) -> dict[str, float]:
    """Where the loss is lowest, falls fastest and diverges, and which rate follows.

    Args:
        rates: (steps,) rising learning rates.
        smoothed: (steps,) smoothed losses.
    """
    lowest_so_far = np.fmin.accumulate(np.where(np.isfinite(smoothed), smoothed, np.inf))
    broken = ~np.isfinite(smoothed) | (smoothed > DIVERGED * lowest_so_far)
    end = int(np.argmax(broken)) if broken.any() else len(rates)
    diverged = float(rates[end]) if end < len(rates) else math.nan
    if end < 3:
        return {"lowest": math.nan, "steepest": math.nan, "suggested": math.nan, "diverged": diverged}
    lowest = int(np.argmin(smoothed[:end]))
    falls = np.gradient(smoothed[: max(lowest, 2) + 1], np.log10(rates[: max(lowest, 2) + 1]))
    return {
        "lowest": float(rates[lowest]),
        "steepest": float(rates[int(np.argmin(falls))]),
        "suggested": float(rates[lowest]) / MARGIN,
        "diverged": diverged,
    }
