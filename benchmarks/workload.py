"""The work that curvature is timed on: a small BatchNorm ResNet (19,810 parameters) and 2,048 images.

Nothing here imports what a peer's environment does not have: torch alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH = 256


def load(path: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """Read a trained network in evaluation mode, and its images and labels."""
    from models.architectures import build_model

    kept = torch.load(path, weights_only=True)
    network = build_model("resnet", tuple(kept["inputs"].shape[1:]), kept["num_classes"], width=8)
    network.load_state_dict(kept["weights"])
    return network.eval(), kept["inputs"], kept["targets"]


def batches(inputs: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Cut the data as the peers get it."""
    return list(zip(inputs.split(BATCH), targets.split(BATCH), strict=True))


def gradient_pass(network: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], Any]:
    """The unit: one gradient of the mean loss over the data in bare PyTorch."""
    parameters = list(network.parameters())

    def run() -> None:
        for x, y in batches(inputs, targets):
            torch.autograd.grad(F.cross_entropy(network(x), y), parameters)

    return run


def seconds_of(work: Callable[[], Any]) -> tuple[float, Any]:
    """Wall time of one run of some work, and its result."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def unit_seconds(network: nn.Module, inputs: Tensor, targets: Tensor, count: int = 5) -> float:
    """Median wall time of the unit."""
    run = gradient_pass(network, inputs, targets)
    run()
    return median(seconds_of(run)[0] for _ in range(count))
