"""Grid, random and model-based search over the fields of a run, as one labelled answer."""

from __future__ import annotations

import hashlib
import json
import math
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from landscape.execution import Progress
from landscape.provenance import provenance
from landscape.store import Store
from models.data import load_data
from models.space import Choices, Point, Space
from models.trials import OBJECTIVES, Objective, Outcome, outcome, run_trials
from models.tuning.proposals import SAMPLERS, Proposals, Sampler, import_optuna, importances

DEFAULT_TRIALS = 20
_ONE_VALUE = ("data", "data_seed", "val_fraction", "standardize", "snapshots", "device", "threads")


@dataclass(frozen=True)
class Search:
    """Train runs at points of a space, and compare what they reach on the validation split.

    The answer is a function of these fields: interrupted at any moment and asked again, the search goes on with the
    trials that are missing, and ends with the same answer.

    Attributes:
        space: What may be chosen.
        sampler: grid (every combination), random (independent draws) or tpe (draws that learn from those before).
        trials: Draws of random and tpe, 20 if none; a grid has its own number.
        seed: Of the draws, or of the order of a grid.
        objective: best-val-loss, last-val-loss, best-val-error or last-val-error; the lower the better.
    """

    space: Space
    sampler: Sampler = "grid"
    trials: int | None = None
    seed: int = 0
    objective: Objective = "best-val-loss"

    def __post_init__(self) -> None:
        """Refuse what cannot be searched.

        Raises:
            ValueError: If a name is unknown, nothing varies, a field must have one value, a grid has a range or a
                number of trials, or nothing is validated.
        """
        if self.space.is_point:
            raise ValueError(
                "nothing varies, so there is one point and nothing to search; give a field several values, such as "
                "lr 0.01,0.1, or train this one run with landscape train"
            )
        for name in set(self.space.dimensions) & set(_ONE_VALUE):
            raise ValueError(f"{name} must have one value, since it decides what is measured or how; got several")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {self.objective!r}")
        if self.trials is not None and self.trials < 1:
            raise ValueError(f"trials must be at least 1, got {self.trials}")
        if self.sampler == "grid":
            self._require_grid()
        if self.space.fixed.get("val_fraction", 1) == 0:
            raise ValueError("a search compares runs on the validation split; give val_fraction above 0")
        epochs = self.space.dimensions.get("epochs") or Choices((self.space.fixed.get("epochs", 1),))
        if min(epochs.ends) < 1:
            raise ValueError("a search compares trained runs; give epochs of at least 1, got 0")

    def _require_grid(self) -> None:
        for name, dimension in self.space.dimensions.items():
            if not isinstance(dimension, Choices):
                shown = f"{dimension.low:g}..{dimension.high:g}"
                raise ValueError(
                    f"a grid needs values of {name}, got the range {shown}; write {shown}/5 for five values of it, "
                    "or draw from it with the sampler random"
                )
        if self.trials is not None:
            raise ValueError(f"a grid has {self.space.size} trials by itself; leave trials out, got {self.trials}")

    @property
    def name(self) -> str:
        """The answer's name, by everything its values depend on."""
        text = json.dumps(asdict(self), sort_keys=True, default=str)
        return f"search-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def __call__(
        self, out: str | Path, executor: str | Executor = "serial", progress: Progress | None = None
    ) -> xr.Dataset:
        """Train what is missing, and compare.

        Args:
            out: Folder of the answer and of the trials, each in a folder named by its configuration's hash.
            executor: Where the trials of grid and random are trained: serial, processes, processes:N, dask:ADDRESS.
                Each trial of tpe depends on those before it, so that there is nothing to share.
            progress: Called with ("trials", trials done, trials in all).

        Returns:
            objective, epoch, status, error, run and one variable ``field_NAME`` a dimension over (trial), in the order
            of the draws; importance over (parameter), the share of the objective's variance by fANOVA.

        Raises:
            ImportError: If Optuna is not installed.
            ValueError: If the data cannot be loaded, or trials of tpe should be trained in other processes.
            StoreError: If a file cannot be written or read.
        """
        import_optuna()
        if self.sampler == "tpe" and executor != "serial":
            raise ValueError(
                f"each trial of tpe depends on those before it, so executor must be serial, got {executor!r}; "
                "choose random to train many at a time"
            )
        store = Store(out)
        if store.has(self.name):
            return store.read(self.name)
        base = self.space.config(next(iter(self.space.corners())))
        load_data(base.data, **base.data_options)  # what is missing fails here, once, and not in every trial
        with store.lock():
            learn = self._one_by_one if self.sampler == "tpe" else self._at_once
            points, outcomes = learn(store.path, executor, progress)
            store.write(self.name, self._answer(points, outcomes).assign_attrs(provenance()))
        return store.read(self.name)

    def _at_once(
        self, out: Path, executor: str | Executor, progress: Progress | None
    ) -> tuple[list[Point], list[Outcome]]:
        points = self.points()
        configs = [self.space.config(point) for point in points]
        run_trials(configs, out, executor, progress)
        return points, [outcome(out / config.hash, self.objective) for config in configs]

    def points(self) -> list[Point]:
        """All points of a grid, or the draws of a random search."""
        proposals = Proposals(self.space.dimensions, self.sampler, self.seed)
        return [proposals.ask()[1] for _ in range(self._num_trials())]

    def _one_by_one(
        self, out: Path, executor: str | Executor, progress: Progress | None
    ) -> tuple[list[Point], list[Outcome]]:
        """Ask, train and tell in turn; trials that are on disk are told again, so that the draws after them agree."""
        proposals = Proposals(self.space.dimensions, self.sampler, self.seed)
        points, outcomes = [], []
        for done in range(self._num_trials()):
            number, point = proposals.ask()
            config = self.space.config(point)
            run_trials([config], out)
            points.append(point)
            outcomes.append(outcome(out / config.hash, self.objective))
            proposals.tell(number, outcomes[-1].value)
            if progress is not None:
                progress("trials", done + 1, self._num_trials())
        return points, outcomes

    def _num_trials(self) -> int:
        if self.sampler == "grid":
            assert self.space.size is not None
            return self.space.size
        return self.trials or DEFAULT_TRIALS

    def _answer(self, points: list[Point], outcomes: list[Outcome]) -> xr.Dataset:
        dimensions = self.space.dimensions
        units = {"units": "nats"} if self.objective.endswith("loss") else {}
        values = [one.value for one in outcomes]
        shares = importances(dimensions, points, values, self.seed)
        variables: dict[str, Any] = {
            "objective": ("trial", np.array(values), {"long_name": OBJECTIVES[self.objective], **units}),
            "epoch": ("trial", np.array([one.epoch for one in outcomes])),
            "status": ("trial", [one.status for one in outcomes]),
            "error": ("trial", [one.error for one in outcomes]),
            "run": ("trial", [self.space.config(point).hash for point in points]),
            **{f"field_{name}": ("trial", _column([point[name] for point in points])) for name in dimensions},
            "importance": (
                "parameter",
                np.array(list(shares.values())),
                {"long_name": "share of the objective's variance, by fANOVA"},
            ),
        }
        attrs = {
            "probe": "search",
            "probe_fields": json.dumps(asdict(self), sort_keys=True, default=str),
            "sampler": self.sampler,
            "objective": OBJECTIVES[self.objective],
        }
        return xr.Dataset(variables, {"trial": np.arange(len(points)), "parameter": list(dimensions)}, attrs)


def best_trials(answer: xr.Dataset, most: int = 10) -> list[dict[str, Any]]:
    """List the best trials of a search, best first, and after them those that diverged or failed.

    Args:
        answer: What `Search` answered.
        most: How many of each.
    """
    names = [str(name) for name in answer["parameter"].values]
    rows = []
    for trial in np.argsort(answer["objective"].values, kind="stable"):
        one = answer.isel(trial=int(trial))
        row = {"trial": int(one["trial"]), **{name: one[f"field_{name}"].item() for name in names}}
        value = float(one["objective"])
        row |= {"objective": value if math.isfinite(value) else None, "epoch": int(one["epoch"]) + 1 or None}
        rows.append(
            {**row, "status": str(one["status"].item()), "run": str(one["run"].item()), "error": one["error"].item()}
        )
    good = [row for row in rows if row["status"] == "finished"]
    return good[:most] + [row for row in rows if row["status"] != "finished"][:most]


def _column(values: list[Any]) -> np.ndarray:
    """Values of one field: numbers where all are, else texts."""
    if all(type(value) in (int, float) for value in values):
        return np.array(values)
    return np.array(
        ["none" if value is None else str(value).lower() if type(value) is bool else str(value) for value in values]
    )
