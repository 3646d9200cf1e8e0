"""Who predicts: the weights of several runs, several snapshots of one, or draws of a network that draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from landscape.store import MissingError
from models.opened import Run
from models.registry import Registry
from models.schedules import cycle_lows
from models.seeds import derived_seed
from models.snapshots import network_at, steps_per_epoch
from models.stochastic import drawing, stochastic_modules

MEMBERS = Registry("members")
"""Functions `(run, *, options)`: a list of `Member`, from one run."""


@dataclass(frozen=True)
class Member:
    """One network that predicts.

    Attributes:
        name: What tells it from the other members of its run; "" if it is the only one.
        build: Makes the network on the CPU, in eval mode.
        seed: Of what it draws while it predicts; None if it draws nothing.
    """

    name: str
    build: Callable[[], nn.Module]
    seed: int | None = None

    @contextmanager
    def predicting(self, device: torch.device) -> Iterator[nn.Module]:
        """Yield the network on a device, ready to predict; what it draws leaves torch's generators as they were."""
        network = self.build().to(device)
        if self.seed is None:
            yield network
            return
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), drawing(network):
            torch.manual_seed(self.seed)
            yield network


@MEMBERS.register("runs")
def kept_weights(run: Run) -> list[Member]:
    """The weights that each run has kept, as those of several seeds (Lakshminarayanan et al. 2017)."""
    return [Member("", run.model)]


@MEMBERS.register("snapshots")
def snapshots(run: Run, *, last: int = 0, moments: Literal["cycles", "kept"] = "cycles") -> list[Member]:
    """What training passed through, where the rate of a cycle was lowest or whenever kept (Huang et al. 2017).

    Of these moments the last so many, or all for 0: the ends of the cycles of cosine-restarts (snapshot ensembles) and
    swa, the middles of those of fge (fast geometric ensembles, Garipov et al. 2018) and triangular. A trajectory keeps
    parameters alone, so the statistics of BatchNorm are measured again on the training split.

    Raises:
        MissingError: If the run has no trajectory.
        ValueError: If its schedule has no cycles, or a snapshot is not there.
    """
    if last < 0:
        raise ValueError(f"members 'snapshots' need last of at least 1, or 0 for all, got {last}")
    if not run.store.has("trajectory"):
        raise MissingError(f"{run.folder} has no trajectory, so it has no snapshots; give a run that was trained here")
    kept = run.store.read("trajectory")["step"].values.tolist()
    steps = _lows_of_cycles(run, kept) if moments == "cycles" else [step for step in kept if step > 0]
    if last > len(steps):
        what = "cycles" if moments == "cycles" else "snapshots after its first step"
        raise ValueError(f"{run.folder} has {len(steps)} {what}, fewer than last={last}; take fewer")
    return [Member(f"step {step}", partial(network_at, run, step)) for step in steps[-last:]]


@MEMBERS.register("dropout")
def dropout(run: Run, *, draws: int, seed: int = 0) -> list[Member]:
    """Draws of dropout, and of all else that draws, while BatchNorm is in eval mode (Gal & Ghahramani 2016).

    Raises:
        ValueError: If there is not at least one draw, or the network has nothing that draws.
    """
    if draws < 1 or seed < 0:
        raise ValueError(f"members 'dropout' need draws of at least 1 and a seed of at least 0, got {draws} and {seed}")
    if not stochastic_modules(run.model()):
        raise ValueError(
            f"nothing in the network of {run.folder} draws at random, so all draws would be the same; give a run with "
            "dropout, as in --activation selu:dropout=0.1, or choose other members"
        )
    return [Member(f"draw {n}", run.model, derived_seed(seed, "draw", n)) for n in range(draws)]


def _lows_of_cycles(run: Run, kept: list[int]) -> list[int]:
    assert run.config is not None  # only a training leaves a trajectory
    schedule = run.config.schedule
    lows = cycle_lows(schedule, run.config.epochs * steps_per_epoch(run), run.config.warmup)
    if not lows:
        raise ValueError(
            f"{run.folder} was trained under schedule {schedule!r}, which has no cycles; "
            "take its last snapshots, as in snapshots:5,moments=kept"
        )
    if missing := [low for low in lows if low not in kept]:
        raise ValueError(
            f"{run.folder} kept no snapshot after step {missing[0]}, where the rate of a cycle is lowest (it is after "
            f"{', '.join(map(str, lows))}); train it to the end with epochs that are a multiple of the cycles (twice "
            "that for fge and triangular), or take its last snapshots, as in snapshots:5,moments=kept"
        )
    return lows


def predict(network: nn.Module, inputs: Tensor, batch_size: int = 1024) -> Tensor:
    """Compute logits (N, K) on the CPU, in batches that are always cut in the same way."""
    device = next(network.parameters()).device
    with torch.no_grad():
        return torch.cat([network(batch.to(device)).float().cpu() for batch in inputs.split(batch_size)])
