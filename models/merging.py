"""One network from the weights of several: of the snapshots of one run, or of several runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from landscape.averaging import RunningMean, WeightAverage, polyak_average
from landscape.provenance import provenance
from landscape.store import Store
from landscape.weights import digest_tensors, save_weights
from models.averaging import AVERAGES
from models.compatible import require_compatible
from models.data import Examples
from models.losses import make_loss
from models.opened import AVERAGED, SCHEMA_VERSION, Run, open_run
from models.registry import Registry, unknown
from models.snapshots import network_of, settle, snapshots_of, steps_per_epoch

SOUPS = Registry("soup")
"""Functions `(runs, *, options)`: the `Merged` network of several runs."""


@dataclass(frozen=True)
class Merged:
    """A network made of others.

    Attributes:
        network: In eval mode, with statistics of BatchNorm of its own.
        entered: What it is the mean of: runs, or steps of one.
        scores: What was measured to choose them, by name.
    """

    network: nn.Module
    entered: tuple[str, ...]
    scores: dict[str, float] = field(default_factory=dict)


@SOUPS.register("soup")
def uniform_soup(runs: Mapping[str, Run]) -> Merged:
    """The mean of the weights of several runs (Wortsman et al. 2022)."""
    return Merged(_mean(list(runs.values())), tuple(runs))


@SOUPS.register("greedy-soup")
def greedy_soup(runs: Mapping[str, Run]) -> Merged:
    """Runs enter, the best first, where that does not lower validation accuracy (Wortsman et al. 2022).

    The soup is never worse on the validation split than the best run. Single runs too are judged with statistics of
    BatchNorm that are measured anew, so that no mixture has a head start. The test split takes no part in the choice.

    Raises:
        ValueError: If the runs have no validation split.
    """
    from models.training import measure

    first = next(iter(runs.values()))
    validation = first.data().val
    if validation is None:
        raise ValueError(
            "a greedy soup is chosen on the validation split, and these runs have none; train them with val_fraction "
            "above 0, or take the uniform soup"
        )

    def accuracy(network: nn.Module) -> float:
        return measure(network, validation)[1]

    own = {name: accuracy(_mean([run])) for name, run in runs.items()}
    best, *others = sorted(runs, key=lambda name: -own[name])
    entered, reached, network = [best], own[best], _mean([runs[best]])
    for name in others:
        candidate = _mean([runs[each] for each in (*entered, name)])
        if (score := accuracy(candidate)) >= reached:
            entered, reached, network = [*entered, name], score, candidate
    return Merged(network, tuple(entered), {"val_accuracy": reached, "best_val_accuracy": own[best]})


def average_snapshots(run: Run, average: WeightAverage) -> Merged:
    """Average what a run has kept of its trajectory, as the same average would have done while it trained.

    Averages at ends of epochs take the snapshots that were kept there. One over steps takes every snapshot that was
    kept after its start; where that is not after every step, a decay is that from one snapshot to the next.

    Raises:
        MissingError: If the run has no trajectory.
        ValueError: If none of its snapshots enters, one that should was not kept, or a window has fewer.
    """
    thetas, per_epoch = snapshots_of(run), steps_per_epoch(run)
    assert run.config is not None  # only a training leaves a trajectory
    epochs, last = run.config.epochs, max(thetas)
    wanted = [step for step in range(1, last + 1) if average.takes(step, per_epoch, epochs)]
    entered = [step for step in wanted if step in thetas]
    if not wanted or not entered:
        raise ValueError(
            f"the average starts after {average.first_epoch(epochs)} epochs, and the last snapshot of {run.folder} is "
            f"after {last / per_epoch:g}; start earlier"
        )
    if average.every:
        _require_kept(run, wanted, entered, average.window)
    running = RunningMean(average)
    for step in entered:
        running.add([thetas[step].clone()])
    counted = entered[-average.window :] if average.window else entered
    return Merged(network_of(run, running.mean()[0]), tuple(f"step {step}" for step in counted))


def _require_kept(run: Run, wanted: list[int], entered: list[int], window: int) -> None:
    if window > len(wanted):
        raise ValueError(
            f"the average takes the last {window} snapshots at ends of epochs, and {run.folder} has {len(entered)}; "
            "take fewer"
        )
    if missing := sorted(set(wanted[-window:]) - set(entered)):
        raise ValueError(
            f"{run.folder} kept no snapshot after step {missing[0]}, the end of an epoch that enters the average; "
            "train it with snapshots=epochs:1, or average over fewer epochs"
        )


def merge(runs: Mapping[str, Run], method: str) -> Merged:
    """Make one network of the weights of one run's snapshots, or of several runs.

    Args:
        runs: By the names that messages and the result give them.
        method: One of `AVERAGES` for one run, or of `SOUPS` for several, with its options.

    Raises:
        MissingError: If a run has no weights, or no trajectory where that is averaged.
        ValueError: If the method is unknown or does not suit the runs, or these differ in architecture or data.
    """
    name = method.partition(":")[0]
    if name in SOUPS:
        _require_soup(runs, method)
        found: Merged = SOUPS.build(method, runs)
        return found
    if name not in AVERAGES or name == "none":
        raise ValueError(unknown("method of averaging", name, [*SOUPS, *(each for each in AVERAGES if each != "none")]))
    if len(runs) > 1:
        raise ValueError(
            f"{name!r} averages the snapshots of one run, got {len(runs)} runs; give one, or choose soup or greedy-soup"
        )
    return average_snapshots(next(iter(runs.values())), AVERAGES.build(method))


def average_runs(runs: Mapping[str, Run], method: str, out: Path) -> Run:
    """Make a run of an average, which everything that takes a run takes; one that is there is not made again.

    Its folder holds the weights; `run.json` with the method, what entered, and the digests of what it was made of; and
    what it was measured to be on the training and test split, in `averaged.h5`.

    Raises:
        MissingError: As `merge` does.
        ValueError: As `merge` does, or if the folder holds another run.
    """
    sources = {name: _identity(run) for name, run in runs.items()}
    question = {"method": method, "sources": sources}
    if (out / "run.json").exists() and not _is_there(out, question):
        raise ValueError(f"{out} holds another run; choose another folder")
    if (out / f"{AVERAGED}.h5").exists():
        return open_run(out)
    merged = merge(runs, method)
    first = next(iter(runs.values()))
    copied = ("config", "model", "data", "data_options", "data_sha256", "examples_sha256")
    about = {name: first.about[name] for name in copied if name in first.about}
    store = Store(out)
    with store.lock():
        save_weights(out / "weights.safetensors", merged.network.state_dict())
        kind = {"schema_version": SCHEMA_VERSION, "kind": AVERAGED}
        store.save_json("run", {**kind, **question, "entered": list(merged.entered), **about})
        answer = xr.Dataset({**_measured(first, merged.network), **merged.scores})
        answer.attrs = {"method": method, "sources": json.dumps(sources, sort_keys=True), **provenance()}
        store.write(AVERAGED, answer)
    return open_run(out)


def _is_there(out: Path, question: dict[str, Any]) -> bool:
    about = open_run(out).about
    return {name: about.get(name) for name in question} == question


def _identity(run: Run) -> dict[str, str]:
    """What an average depends on."""
    has_trajectory = run.store.has("trajectory")
    trajectory = str(run.store.read("trajectory").attrs["content_digest"]) if has_trajectory else ""
    return {"weights_sha256": digest_tensors(run.weights()), "trajectory": trajectory}


def _require_soup(runs: Mapping[str, Run], method: str) -> None:
    if len(runs) < 2:
        raise ValueError(
            f"{method!r} averages several runs, got one; give more, or average its snapshots, as in swa:start=0.75"
        )
    require_compatible(runs)
    (first, reference), *others = runs.items()
    for name, run in others:
        if run.about["data_sha256"] != reference.about["data_sha256"]:
            raise ValueError(
                f"{name} was trained on other data than {first}, and an average measures its BatchNorm, and is chosen, "
                "on one training and validation split; average runs of equal data options and data_seed"
            )


def _mean(runs: list[Run]) -> nn.Module:
    """The network at the mean of the parameters, with statistics of its own."""
    network = runs[0].model()
    running = RunningMean(polyak_average())
    for run in runs:
        running.add(_parameters(run.model()))
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), running.mean(), strict=True):
            parameter.copy_(value)
    settle(runs[0], network)
    return network


def _parameters(network: nn.Module) -> Iterable[Tensor]:
    return (parameter.detach() for parameter in network.parameters())


def _measured(run: Run, network: nn.Module) -> dict[str, float]:
    """Measure a network as a training measures what it keeps."""
    from models.training import measure

    loss = make_loss(run.config.label_smoothing) if run.config else make_loss()
    data, found = run.data(), {}
    splits: list[tuple[str, Examples | None]] = [("test", data.test), ("final_train", data.train), ("val", data.val)]
    for name, examples in splits:
        if examples is not None:
            found[f"{name}_loss"], found[f"{name}_accuracy"] = measure(network, examples, loss)
    return found
