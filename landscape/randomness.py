"""Keep random number generators as they were, and name what is random in a model."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape.structures import tensors_of

_BATCH_NORM = nn.modules.batchnorm._BatchNorm
_DROPOUT = nn.modules.dropout._DropoutNd


class Stochastic(nn.Module):
    """A module whose output is drawn at random in training mode, and is a fixed function in eval mode.

    It draws from torch's global generator.
    """


def drawing_modules(network: nn.Module) -> list[nn.Module]:
    """List the modules that draw while they train: torch's dropouts, and those that say so of themselves."""
    return [module for module in network.modules() if isinstance(module, Stochastic | _DROPOUT)]


@contextmanager
def preserved_rng(device: torch.device | None = None) -> Iterator[None]:
    """Give the generators of Python, NumPy and torch (CPU and `device`) back as they were."""
    devices = [device] if device is not None and device.type == "cuda" else []
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def name_the_random_part(model: nn.Module, evaluate: Callable[[], Any]) -> str:
    """Say which part of a model gives different outputs for equal inputs, and what to do.

    Args:
        model: The module whose parts are watched.
        evaluate: Runs the model once on fixed data.
    """
    first, second = _record(model, evaluate), _record(model, evaluate)
    for (name, module, inputs, output), (_, _, inputs_again, output_again) in zip(first, second, strict=False):
        if _equal(inputs, inputs_again) and not _equal(output, output_again):
            return _describe(name, module)
    return (
        "the random part lies in the loss or step function or in functional code of the model; "
        "make it depend on its arguments alone, for example F.dropout(x, training=self.training)."
    )


def moved_buffers(before: dict[str, Tensor], model: nn.Module) -> list[str]:
    """List the buffers that an evaluation has changed."""
    return [n for n, b in model.named_buffers() if n in before and not torch.equal(before[n], b)]


def _describe(name: str, module: nn.Module) -> str:
    where = f"{type(module).__name__} {name!r}" if name else type(module).__name__
    if isinstance(module, Stochastic | _DROPOUT):
        return f"{where} is in train mode; do not switch it to train mode inside the forward or step function."
    if isinstance(module, _BATCH_NORM):
        return f"{where} is in train mode; let normalization= choose its statistics instead."
    return (
        f"{where} draws random numbers in its forward pass; make it deterministic in evaluation mode, "
        "for example F.dropout(x, training=self.training)."
    )


def _record(model: nn.Module, evaluate: Callable[[], Any]) -> list[tuple[str, nn.Module, list[Tensor], list[Tensor]]]:
    """Run once and record every module's inputs and outputs, innermost modules first."""
    record: list[tuple[str, nn.Module, list[Tensor], list[Tensor]]] = []
    handles = [
        module.register_forward_hook(
            lambda m, inputs, output, name=name: record.append(
                (name, m, [t.clone() for t in tensors_of(inputs)], [t.clone() for t in tensors_of(output)])
            )
        )
        for name, module in model.named_modules()
    ]
    try:
        evaluate()
    finally:
        for handle in handles:
            handle.remove()
    return record


def _equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def gaussian_columns(size: int, numbers: Iterable[int], seed: int, stream: str) -> Tensor:
    """Draw (size, K) standard normal columns in float64, column i from (seed, stream, i) alone.

    So a column is the same whatever is drawn beside it, in one block or in several.

    Args:
        size: Entries of a column.
        numbers: Which columns.
        seed: At least 0.
        stream: Columns of different streams are independent.
    """
    drawn = [np.random.default_rng([seed, number, *stream.encode()]).standard_normal(size) for number in numbers]
    return torch.from_numpy(np.stack(drawn, axis=1))
