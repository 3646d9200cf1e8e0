"""What BatchNorm does while an objective is evaluated: one of three policies, stored with every answer."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

POLICIES = ("running", "batch", "recalibrated")

_BatchNorm = nn.modules.batchnorm._BatchNorm


def set_policy(model: nn.Module, policy: str) -> None:
    """Put a model in evaluation mode, with BatchNorm as the policy says.

    ``running`` uses the stored running statistics, ``batch`` those of the batch at hand without touching
    the stored ones, ``recalibrated`` those of the whole data at the point where the model stands
    (see `recalibrate`). Dropout is off under each.

    Raises:
        ValueError: If the policy is none of these.
    """
    if policy not in POLICIES:
        raise ValueError(f"normalization must be one of {', '.join(POLICIES)}, got {policy!r}.")
    model.eval()
    if policy == "batch":
        for layer in batch_norms(model):
            _use_batch_statistics(layer)


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """List the BatchNorm layers that have running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def recalibrated_buffers(model: nn.Module) -> list[str]:
    """Name the buffers that `recalibrate` overwrites."""
    prefixes = [name for name, module in model.named_modules() if module in batch_norms(model)]
    return [".".join(filter(None, (p, b))) for p in prefixes for b in ("running_mean", "running_var")]


def recalibrate(model: nn.Module, run: Callable[[], Any], still: Container[nn.Module] = ()) -> None:
    """Set the running statistics of every BatchNorm layer to those of the data, at the model's parameters.

    Each layer's mean and variance are pooled in float64 over all examples by the law of total variance, with
    Bessel's correction as in torch. While they are collected each layer normalizes by its own batch, so with more
    than one batch the statistics of deeper layers depend slightly on how the data is cut.

    Args:
        model: The model; parameters stay as they are.
        run: Runs the model once over the whole data.
        still: Layers that keep their statistics, and normalize by them.
    """
    layers = [layer for layer in batch_norms(model) if layer not in still]
    pooled = {layer: _Moments() for layer in layers}
    handles = [layer.register_forward_pre_hook(lambda m, inputs: pooled[m].add(inputs[0])) for layer in layers]
    try:
        with torch.no_grad(), _batch_statistics(layers):
            run()
    finally:
        for handle in handles:
            handle.remove()
    for layer in layers:
        pooled[layer].write(layer)


class _Moments:
    """Sum and sum of squares of the channels of everything seen, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Any = 0.0
        self.squares: Any = 0.0

    def add(self, inputs: Tensor) -> None:
        axes = [axis for axis in range(inputs.ndim) if axis != 1]
        values = inputs.detach().double()
        self.count += values.numel() // values.shape[1]
        self.total = self.total + values.sum(axes)
        self.squares = self.squares + values.square().sum(axes)

    def write(self, layer: nn.Module) -> None:
        if not self.count:
            return
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp_min(0.0)
        layer.running_mean.copy_(mean)  # type: ignore[operator]
        layer.running_var.copy_(variance * self.count / max(self.count - 1, 1))  # type: ignore[operator]


def _use_batch_statistics(layer: nn.Module) -> None:
    # With track_running_stats off, torch's BatchNorm in train mode neither reads nor writes its buffers.
    layer.training, layer.track_running_stats = True, False  # type: ignore[assignment]


@contextmanager
def _batch_statistics(layers: list[nn.Module]) -> Iterator[None]:
    before = [(layer.training, layer.track_running_stats) for layer in layers]
    try:
        for layer in layers:
            _use_batch_statistics(layer)
        yield
    finally:
        for layer, (training, tracking) in zip(layers, before, strict=True):
            layer.training, layer.track_running_stats = training, tracking
