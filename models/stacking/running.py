"""Train a stack of runs. Lightning is imported only to train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from landscape.store import Store
from models.config import RunConfig
from models.opened import open_run
from models.run import is_finished
from models.stacking.grouping import MAY_DIFFER, stackable

if TYPE_CHECKING:
    from landscape.execution import Progress

STACK_FILE = "stack"
"""In the folder of the first run of an unfinished stack: `stack.json` says where its runs are, beside checkpoint and
journal. That run is sealed last."""


def train_stack(
    configs: Sequence[RunConfig], folders: Sequence[str | Path], progress: Progress | None = None
) -> list[dict[str, float]]:
    """Train runs together and leave a normal run folder for each, as `models.run.train` does.

    Each has its own weights, examples and rates, and what it becomes is what it would have become alone, up to the
    rounding of sums in another order: within 1e-5 of the loss of each of the first steps. A long training in which
    rounding grows drifts apart from that alone, as it does on another machine: an mlp of 32 on MNIST-1D agreed within
    1e-6 for 800 steps and within 3e-3 after 1,600. What is recorded is what a run alone records but for what
    `training.h5` names in its attribute `not_recorded`; `stacked_with` there and in `run.json` is the number of runs
    that were trained together.

    Interrupted at any moment and called again, training goes on from the last whole epoch that was saved and ends with
    the same bits. A run that is finished is not trained again; the rest is then a smaller stack.

    Args:
        configs: Runs that `stackable` puts into one group.
        folders: The folder of each.
        progress: Called with ("epochs", epochs done, epochs in all).

    Returns:
        What `train` returns, for each run.

    Raises:
        ValueError: If the runs cannot be trained together (with the reason), two are the same, a folder holds another
            run or its data has changed.
        LockedError: If another process is at work in one of the folders.
        KeyboardInterrupt: If one came; what is finished is saved.
    """
    _require_one_stack(configs, folders)
    stores = {config.hash: Store(folder) for config, folder in zip(configs, folders, strict=True)}
    with ExitStack() as held:
        for store in stores.values():
            held.enter_context(store.lock())
        left = [config for config in configs if not is_finished(stores[config.hash], config)]
        members = _interrupted(left, stores) or sorted(
            ((config, stores[config.hash]) for config in left),
            key=lambda member: (member[0].lr or 0.0, member[0].weight_decay, member[0].hash),  # equal rates together
        )
        if members:
            from models.stacking.training import StackTraining

            StackTraining(*zip(*members, strict=True)).run(progress)
        for store in stores.values():
            for suffix in ("journal", "safetensors", "json"):
                (store.path / f"{STACK_FILE}.{suffix}").unlink(missing_ok=True)
    return [open_run(folder).metrics for folder in folders]


def _require_one_stack(configs: Sequence[RunConfig], folders: Sequence[str | Path]) -> None:
    if not configs or len(configs) != len(folders):
        raise ValueError(f"expected one folder for each of at least one run, got {len(configs)} and {len(folders)}")
    groups = stackable(configs)
    if reasons := [group.reason for group in groups if group.reason]:
        raise ValueError(f"a run cannot be trained in a stack: {reasons[0]}; train it alone")
    if len(groups) > 1:
        first, other = (group.configs[0].to_dict() for group in groups[:2])
        names = [name for name in first if name not in MAY_DIFFER and first[name] != other[name]]
        parts = [f"{name} is {first[name]!r} and {other[name]!r}" for name in names]
        raise ValueError(f"these runs are {len(groups)} stacks ({'; '.join(parts)}); train the groups of stackable()")
    if len({config.hash for config in configs}) < len(configs):
        raise ValueError("two of the runs are the same; leave one out")


def _interrupted(left: Sequence[RunConfig], stores: Mapping[str, Store]) -> list[tuple[RunConfig, Store]]:
    """The members of the stack that was interrupted, if they are all that are left and others that are finished."""
    names = {config.hash for config in left}
    for home in (stores[config.hash] for config in left):
        if not (home.path / f"{STACK_FILE}.json").exists():
            continue
        places = home.load_json(STACK_FILE)["members"]
        runs = [open_run(home.path / place) for place in places.values() if (home.path / place / "run.json").exists()]
        members = [(run.config, stores.get(run.config.hash, run.store)) for run in runs if run.config is not None]
        others = [member for member in members if member[0].hash not in names]
        if names <= set(places) and len(members) == len(places) and all(is_finished(s, c) for c, s in others):
            return members
    return []
