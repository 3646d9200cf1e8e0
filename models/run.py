"""Runs: train one, open one, or make one of somebody else's weights. Lightning is imported only to train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape.store import Store
from landscape.text import clean
from models.config import RunConfig
from models.opened import Run, import_weights, open_run
from models.transfer.start import require_unchanged

if TYPE_CHECKING:
    from landscape.execution import Progress
    from models.training import Training

__all__ = ["Run", "RunConfig", "import_weights", "open_run", "train"]


def train(config: RunConfig, out: str | Path, progress: Progress | None = None) -> dict[str, float]:
    """Train a network and leave everything it did in a folder; the same call goes on where it stopped.

    The result is a function of the configuration alone: interrupted at any moment and run again, training goes on
    from the last whole epoch and ends with the same bits. A finished run is not computed again. The global random
    state stays untouched.

    Args:
        config: Every factor of the run.
        out: The run's folder: `run.json`, `weights.safetensors`, `optimizer.safetensors`, `training.h5`,
            `trajectory.h5`; where weights are averaged `average.safetensors`, or `last.safetensors` if the average is
            kept; and while it trains `resume.safetensors` and journals.
        progress: Called with ("epochs", epochs done, epochs in all).

    Returns:
        The last value of everything measured by epoch, and test and training loss (nats) and accuracy of the weights
        that were kept.

    Raises:
        ValueError: If the folder holds another run or the data has changed, or the configuration does not fit the
            data.
        LockedError: If another process is at work in this folder.
        KeyboardInterrupt: If one came; what is finished is saved.
    """
    # what does not fit fails before a folder is made
    prepared = None if Path(out).exists() else _prepared(config)
    store = Store(out)
    with store.lock():
        if not is_finished(store, config):
            (prepared or _prepared(config)).run(store, progress)
        for name in ("training", "trajectory"):
            store.journal(name).discard()
        (store.path / "resume.safetensors").unlink(missing_ok=True)
    return open_run(out).metrics


def _prepared(config: RunConfig) -> Training:
    from models.training import Training

    return Training(config)


def is_finished(store: Store, config: RunConfig) -> bool:
    """Whether this run is done.

    Raises:
        ValueError: If the folder holds another run.
    """
    if not (store.path / "run.json").exists():
        return False
    about = store.load_json("run")
    if about.get("kind") != "trained":
        kind = clean(str(about.get("kind")), limit=20)
        raise ValueError(f"{store.path} holds {kind} weights, not a training; choose another folder")
    # a run made before a field was added has the default of that field
    old, new = _without_places(RunConfig.from_dict(about["config"])), _without_places(config)
    if old != new:
        changes = [f"{name} is {old[name]!r} there, {value!r} here" for name, value in new.items()]
        listed = "; ".join(c for c, (name, value) in zip(changes, new.items(), strict=True) if old[name] != value)
        raise ValueError(f"{store.path} holds another run ({listed}); choose another folder")
    require_unchanged(config, about, store.path)
    return store.has("training") and bool(store.read("training").attrs["finished"])


def _without_places(config: RunConfig) -> dict[str, Any]:
    """The fields; of another run's folder only its name, since its weights are known by their digest."""
    fields = config.to_dict()
    places = {name: Path(fields[name]).name for name in ("start", "teacher") if fields[name] is not None}
    return {**fields, **places}
