"""Learning tasks one after the other: the accuracy on each after each, and what was forgotten."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from landscape.provenance import provenance
from landscape.store import Store
from models.architectures import build_model
from models.config import RunConfig
from models.opened import open_run
from models.registry import Registry
from models.run import train
from models.transfer.anchors import check_anchor
from models.transfer.freezing import freeze

SEQUENCES = Registry("tasks")
"""Functions `(num_classes, *, options)`: the tasks of a sequence, as `RunConfig.task` writes them."""


@SEQUENCES.register("classes")
def split_classes(num_classes: int, *, number: int) -> list[str]:
    """So many tasks of equally many classes, in order; classes left over go to the first tasks (Zenke et al. 2017)."""
    if not 2 <= number <= num_classes:
        raise ValueError(f"tasks 'classes' needs 2 to {num_classes} tasks of {num_classes} classes, got {number}")
    return [f"classes:{'/'.join(map(str, part))}" for part in np.array_split(np.arange(num_classes), number)]


@SEQUENCES.register("permuted")
def permutations(num_classes: int, *, number: int) -> list[str]:
    """The data, then so many less one fixed permutations of its places (Goodfellow et al. 2014)."""
    if number < 2:
        raise ValueError(f"tasks 'permuted' needs at least 2 tasks, got {number}")
    return ["all", *(f"permuted:{seed}" for seed in range(1, number))]


@dataclass(frozen=True)
class Continual:
    """A sequence of trainings, each from the weights of the one before, by method and seed.

    Attributes:
        config: Of every training; its `task`, `start`, `anchor` and `freeze` are set here.
        tasks: Of each training, as `RunConfig.task` writes them, at least 2.
        methods: none, some of `ANCHORS` joined by +, freeze:NAMES (from the second task on), or joint (all
            tasks so far at once, from scratch, the upper bound; only for tasks that are classes).
        seeds: Of weights and order, each a repetition.
    """

    config: RunConfig
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            ValueError: If a field is empty or repeats itself, or a method or a task cannot be used.
        """
        if len(self.tasks) < 2:
            raise ValueError(f"continual learning needs at least 2 tasks, got {len(self.tasks)}")
        for name in ("methods", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must be different and at least one, got {values}")
        for method in self.methods:
            self._check_method(method)
        if self.config.task != "all" or self.config.start or self.config.anchor != "none":
            raise ValueError("task, start and anchor are set for each task; leave them out, and name methods")

    def _check_method(self, method: str) -> None:
        if method == "joint":
            if not all(task.startswith("classes:") for task in self.tasks):
                raise ValueError("method 'joint' trains on several classes at once; leave it out for other tasks")
        elif method.startswith("freeze:"):
            replace(self.config, freeze=method.removeprefix("freeze:"))
        else:
            check_anchor(method)

    def configs(self, method: str, seed: int, folder: Path) -> list[RunConfig]:
        """Return the configuration of each training, in order.

        Args:
            method: One of `methods`.
            seed: One of `seeds`.
            folder: Where the trainings lie, as task0, task1, ...
        """
        found = []
        for index, task in enumerate(self.tasks):
            changes: dict[str, Any] = {"task": task, "seed": seed}
            if method == "joint":
                changes["task"] = "classes:" + "/".join(t.removeprefix("classes:") for t in self.tasks[: index + 1])
            elif index:
                changes["start"] = str(folder / f"task{index - 1}")
                frozen = method.startswith("freeze:")
                changes |= {"freeze": method.removeprefix("freeze:")} if frozen else {"anchor": method}
            found.append(replace(self.config, **changes))
        return found

    def __call__(self, out: Path, progress: Callable[[str, int, int], None] | None = None) -> xr.Dataset:
        """Train what is missing and measure; each training is a run of its own and is never made twice.

        Args:
            out: Where the runs go, as METHOD-sSEED/taskINDEX.
            progress: Called with ("tasks", trainings done, trainings in all).

        Returns:
            accuracy (strategy, seed, after, task), the share of the test examples of `task` that are right after
            training on the task `after`; and what `accuracy_metrics` makes of it.
        """
        shape = (len(self.methods), len(self.seeds), len(self.tasks), len(self.tasks))
        accuracy, done, total = np.full(shape, np.nan), 0, int(np.prod(shape[:3]))
        for m, method in enumerate(self.methods):
            for s, seed in enumerate(self.seeds):
                folder = out / f"{method.replace(':', '-').replace('=', '').replace(',', '-')}-s{seed}"
                for after, config in enumerate(self.configs(method, seed, folder)):
                    train(config, folder / f"task{after}")
                    accuracy[m, s, after] = self._accuracies(folder / f"task{after}")
                    done += 1
                    if progress is not None:
                        progress("tasks", done, total)
        return self._answer(accuracy)

    def _accuracies(self, folder: Path) -> list[float]:
        """Accuracy on the test split of each task, standardized as its own training data is."""
        from models.data import load_data
        from models.training import measure

        network = open_run(folder).model()
        splits = [load_data(self.config.data, **{**self.config.data_options, "task": task}) for task in self.tasks]
        return [measure(network, each.test)[1] for each in splits]

    def _answer(self, accuracy: np.ndarray) -> xr.Dataset:
        dims = ("strategy", "seed")
        return xr.Dataset(
            {
                "accuracy": ((*dims, "after", "task"), accuracy),
                **{name: (dims, values) for name, values in accuracy_metrics(accuracy).items()},
            },
            coords={
                "strategy": list(self.methods),
                "seed": list(self.seeds),
                "after": np.arange(len(self.tasks)),
                "task": np.arange(len(self.tasks)),
                "task_name": ("task", list(self.tasks)),
            },
        )


def accuracy_metrics(accuracy: np.ndarray) -> dict[str, np.ndarray]:
    """Summarize an accuracy matrix A[i, j], the accuracy on task j after training on task i, of T tasks from 0.

    - average_accuracy: 1/T sum_j A[T-1, j].
    - backward_transfer: 1/(T-1) sum_{j<T-1} (A[T-1, j] - A[j, j]); negative where tasks are forgotten.
    - forgetting: 1/(T-1) sum_{j<T-1} (max_{j<=i<T-1} A[i, j] - A[T-1, j]).

    Args:
        accuracy: (..., T, T), T at least 2.

    Returns:
        Each of shape (...).

    References:
        Lopez-Paz & Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017, section 2.2; Chaudhry et
        al., "Riemannian walk for incremental learning", ECCV 2018, equation 3 (forgetting).
    """
    last, count = accuracy[..., -1, :], accuracy.shape[-1]
    learned = np.diagonal(accuracy, axis1=-2, axis2=-1)
    best = np.stack([accuracy[..., j:-1, j].max(-1) for j in range(count - 1)], -1)
    return {
        "average_accuracy": last.mean(-1),
        "backward_transfer": (last - learned)[..., :-1].mean(-1),
        "forgetting": (best - last[..., :-1]).mean(-1),
    }


def sequence(text: str, config: RunConfig, methods: Sequence[str], seeds: Sequence[int]) -> Continual:
    """Put continual learning together from how the command line writes it.

    Args:
        text: One of `SEQUENCES`, as in "classes:5" or "permuted:3".
        config: Of every training.
        methods: See `Continual`.
        seeds: See `Continual`.

    Raises:
        ValueError: If something is unknown or cannot be trained.
    """
    from models.data import load_data

    data = load_data(config.data, **config.data_options)
    plan = Continual(config, tuple(SEQUENCES.build(text, data.num_classes)), tuple(methods), tuple(seeds))
    for method in methods:
        if method.startswith("freeze:"):  # names that no parameter has fail here, not after the first task
            network = build_model(config.model, data.input_shape, data.num_classes, **config.architecture_options)
            freeze(network, method.removeprefix("freeze:"))
    return plan


def answer_continual(
    plan: Continual, store: Store, progress: Callable[[str, int, int], None] | None = None
) -> tuple[xr.Dataset, Path]:
    """Answer from the store, or train what is missing and keep the answer.

    Returns:
        The answer, and its file.
    """
    fields = {**asdict(plan), "config": plan.config.to_dict()}
    about = json.dumps(fields, sort_keys=True)
    name = f"continual-{hashlib.sha256(about.encode()).hexdigest()[:12]}"
    if not store.has(name):
        answer = plan(store.path, progress)
        store.write(name, answer.assign_attrs(probe="continual", probe_fields=about, **provenance()))
    return store.read(name), store.path / f"{name}.h5"
