"""Is this machine, and is this model, fit to be measured? Every finding says what to do."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from landscape.normalization import batch_norms
from landscape.objective import Objective
from landscape.randomness import drawing_modules

OK, NOTE, PROBLEM = "ok", "note", "problem"

_DISTRIBUTIONS = ("landscape-lab", "torch", "pytorch-lightning", "h5py", "xarray", "numpy", "pyhessian")
_DROPOUTS = nn.modules.dropout._DropoutNd


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: What was looked at.
        status: ``ok``, ``note`` (good to know) or ``problem`` (nothing can be measured before it is solved).
        detail: What was found, and what to do.
    """

    check: str
    status: str
    detail: str


def environment() -> list[Finding]:
    """Look at this machine: versions, device, and packages that break others."""
    return [
        Finding("python", OK, platform.python_version()),
        *(_version(name) for name in _DISTRIBUTIONS),
        _device(),
        Finding("threads", OK, f"{torch.get_num_threads()} of torch"),
        _torchvision(),
    ]


def examine(model: nn.Module, data: Any, loss: Callable[..., Tensor], **options: Any) -> list[Finding]:
    """Look at a model and its data: whatever would make a measurement fail, or mean something else.

    Args:
        model: Any module.
        data: What `Objective` takes.
        loss: Mean loss of outputs and targets.
        **options: Further options of `Objective`.
    """
    try:
        objective = Objective(model, data, loss=loss, **options)
    except (ValueError, TypeError) as error:
        return [*_layers(model), Finding("objective", PROBLEM, str(error))]
    return [*_layers(model), *_values(model, objective)]


def _layers(model: nn.Module) -> Iterator[Finding]:
    norms, drawing = len(batch_norms(model)), drawing_modules(model)
    dropouts = sum(isinstance(m, _DROPOUTS) for m in drawing)
    if norms:
        yield Finding(
            "batch normalization",
            NOTE,
            f"{norms} layers; normalization=running uses the stored statistics, which hold near the "
            "checkpoint; use recalibrated for averages and points far away",
        )
    if dropouts:
        yield Finding("dropout", NOTE, f"{dropouts} layers; switched off while measuring")
    if others := len(drawing) - dropouts:
        yield Finding("random layers", NOTE, f"{others} that draw while training; they are fixed while measuring")
    if any(isinstance(m, nn.ReLU) for m in model.modules()):
        yield Finding("kinks", NOTE, "ReLU: the Hessian leaves its kinks out, so surfaces curve more than it says")


def _values(model: nn.Module, objective: Objective) -> Iterator[Finding]:
    frozen = sum(p.numel() for p in model.parameters()) - objective.size
    yield Finding("parameters", OK, f"{objective.size} vary" + (f", {frozen} are kept fixed" if frozen else ""))
    yield Finding("data", OK, f"{len(objective.examples)} examples, finite; labels fit the outputs")
    yield _determinism(objective.device)
    measured = objective.metrics()
    is_finite = torch.tensor(list(measured.values())).isfinite().all().item()
    values = ", ".join(f"{name} {value:.4g}" for name, value in measured.items())
    advice = "" if is_finite else "; start from a checkpoint whose loss is finite"
    yield Finding("loss here", OK if is_finite else PROBLEM, values + advice)
    gradient = objective.layout.unflatten(objective.gradient())
    unused = [name for name, value in gradient.items() if not value.any()]
    if unused:
        shown = ", ".join(unused[:5]) + (f" and {len(unused) - 5} more" if len(unused) > 5 else "")
        yield Finding("unused parameters", NOTE, f"the gradient is exactly zero for {shown}")


def _determinism(device: torch.device) -> Finding:
    """What an objective has made sure of when it was made: equal bits on the CPU, 1e-6 of the loss elsewhere."""
    agreement = "gave the same bits" if device.type == "cpu" else "agreed within 1e-6 of the loss"
    return Finding("determinism", OK, f"two evaluations {agreement}")


def _version(distribution: str) -> Finding:
    try:
        return Finding(distribution, OK, metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return Finding(distribution, NOTE, "not installed as a package")


def _device() -> Finding:
    if torch.cuda.is_available():
        return Finding("device", OK, f"cuda: {torch.cuda.get_device_name()}")
    return Finding("device", OK, f"cpu ({platform.machine()}), no CUDA device")


def _torchvision() -> Finding:
    """A torchvision that was built for another torch breaks every `import pytorch_lightning`."""
    if find_spec("torchvision") is None:
        return Finding("torchvision", OK, "not installed, and not needed")
    try:
        return Finding("torchvision", OK, importlib.import_module("torchvision").__version__)
    except Exception as error:
        return Finding(
            "torchvision",
            PROBLEM,
            f"is installed but cannot be imported ({type(error).__name__}: {error}): it was built for "
            "another torch; uninstall it, Landscape does not need it, or install the one for this torch",
        )
