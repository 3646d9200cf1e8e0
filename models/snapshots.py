"""The networks that a run's trajectory has kept."""

from __future__ import annotations

import json
from math import ceil

import torch
from torch import Tensor, nn

from landscape.normalization import batch_norms
from landscape.store import MissingError
from models.normalization import settle_statistics
from models.opened import Run
from models.transfer.freezing import frozen_norms


def steps_per_epoch(run: Run) -> int:
    """Count the optimizer updates of an epoch of a trained run."""
    assert run.config is not None  # only a training has epochs
    batch = run.config.batch_size
    return 1 if batch == "all" else ceil(len(run.data().train.targets) / batch)


def snapshots_of(run: Run) -> dict[int, Tensor]:
    """Read what a run has kept of its trajectory: (P,) by step, in order.

    Raises:
        MissingError: If the run has no trajectory.
    """
    if not run.store.has("trajectory"):
        raise MissingError(f"{run.folder} has no trajectory, so it has no snapshots; give a run that was trained here")
    trajectory = run.store.read("trajectory")
    return dict(zip(trajectory["step"].values.tolist(), torch.from_numpy(trajectory["theta"].values), strict=True))


def network_at(run: Run, step: int) -> nn.Module:
    """Build a run's network as it was after a step, with statistics of BatchNorm of its own."""
    return network_of(run, snapshots_of(run)[step])


def network_of(run: Run, theta: Tensor) -> nn.Module:
    """Build a run's network at parameters of the kind that its trajectory keeps, in eval mode, on the CPU.

    What the run does not train stays as it is; the statistics of BatchNorm are measured again on the training split,
    but for those of frozen layers.

    Args:
        run: The run.
        theta: (P,) the parameters that it trains.
    """
    layout = json.loads(run.store.read("trajectory").attrs["layout"])
    network = run.model()
    parameters = dict(network.named_parameters())
    sizes = [torch.Size(shape).numel() for shape in layout["shapes"]]
    with torch.no_grad():
        for name, values in zip(layout["names"], theta.split(sizes), strict=True):
            parameters[name].copy_(values.view_as(parameters[name]))
    settle(run, network)
    return network


def settle(run: Run, network: nn.Module) -> None:
    """Measure the statistics of BatchNorm on a run's training split, but for those of its frozen layers."""
    if batch_norms(network):
        still = frozen_norms(network, run.config.freeze) if run.config else ()
        settle_statistics(network, run.data().train.inputs, still=still)
