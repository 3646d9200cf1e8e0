"""How many examples to evaluate at once: from the measured memory of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from landscape.structures import tensors_of

_CPU_BUDGET = 16 * 2**20  # bytes of activations; more falls out of the cache and is slower
_CPU_LAYER_BUDGET = 4 * 2**20  # bytes of one layer's inputs and outputs, where nothing is kept for derivatives
_LARGEST = 8192


def measured_batch_size(model: nn.Module, evaluate: Callable[[], Any], total: int, device: torch.device) -> int:
    """Choose a power of two whose activations fit the memory budget of the device.

    It depends on the model and the data alone, never on a clock, so that the same command cuts its batches the
    same way tomorrow.

    Args:
        model: The module whose outputs are counted.
        evaluate: Runs the model once on one example.
        total: The number of examples there are.
        device: On a GPU the budget is one eighth of its memory.
    """
    used = 0

    def count(_module: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal used
        used += sum(t.numel() * t.element_size() for t in tensors_of(output))

    handles = [module.register_forward_hook(count) for module in model.modules()]
    try:
        with torch.no_grad():
            evaluate()
    finally:
        for handle in handles:
            handle.remove()
    return fitting_batch_size(used, total, device)


def fitting_batch_size(bytes_of_one: float, total: int, device: torch.device) -> int:
    """Choose the largest power of two whose examples fit the memory that one batch may use."""
    fitting = max(1, int(activation_budget(device) // max(bytes_of_one, 1)))
    return min(2 ** (fitting.bit_length() - 1), _LARGEST, 2 ** (total - 1).bit_length())


def largest_layer(model: nn.Module, evaluate: Callable[[], Any]) -> int:
    """Bytes of the inputs and outputs of the innermost module that has most of them, for one evaluation."""
    largest = 0

    def count(_module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal largest
        largest = max(largest, sum(t.numel() * t.element_size() for t in tensors_of((inputs, output))))

    innermost = [module for module in model.modules() if not list(module.children())]
    handles = [module.register_forward_hook(count) for module in innermost]
    try:
        with torch.no_grad():
            evaluate()
    finally:
        for handle in handles:
            handle.remove()
    return largest


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the machine ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return "can't allocate memory" in text or "not enough memory" in text


def evaluation_budget(device: torch.device) -> int:
    """Bytes that the largest layer of one batch may use where nothing is kept for derivatives."""
    return activation_budget(device) if device.type == "cuda" else _CPU_LAYER_BUDGET


def activation_budget(device: torch.device) -> int:
    """Bytes that the evaluation of one batch may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 8
    return _CPU_BUDGET
