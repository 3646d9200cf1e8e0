"""What an answer depends on, as digests and plain values."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def digest(*tensors: Tensor) -> str:
    """SHA-256 over the type, shape and values of tensors, in order."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        # A tensor of one entry may keep an odd stride through `contiguous`, and then has no view as bytes.
        sha.update(flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def digest_named(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and tensors, whatever their order."""
    parts = [f"{name}:{digest(tensor)}" for name, tensor in sorted(tensors.items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def plain(value: Any) -> Any:
    """Write a value as plain text and numbers that tell it from others; arrays by their digest."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return f"array:{digest(torch.from_numpy(value.copy()))}"
    if isinstance(value, Tensor):
        return f"tensor:{digest(value)}"
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if hasattr(value, "__qualname__"):
        return _name_of(value)
    return re.sub(" at 0x[0-9a-f]+", "", str(value))  # where an object lies in memory says nothing about it


def describe_function(function: Any) -> str:
    """Name a loss or step function with what is bound to it: settings of a module, arguments of a partial."""
    if isinstance(function, functools.partial):
        bound = plain({"args": function.args, **function.keywords})
        return f"{describe_function(function.func)} with {bound}"
    if isinstance(function, nn.Module):
        settings = {n: value for n, value in vars(function).items() if not n.startswith("_") and n != "training"}
        bound = plain({**settings, **function.state_dict()})
        return f"{_name_of(type(function))} with {bound}"
    return _name_of(function if hasattr(function, "__qualname__") else type(function))


def rounded(value: float) -> float:
    """Round to three digits, so that the last bits (threads, batches, GPU kernels) nearly never show."""
    if not math.isfinite(value):
        return value
    return float(f"{value:.3g}") if abs(value) > 1e-6 else 0.0


def _name_of(function: Any) -> str:
    return f"{getattr(function, '__module__', '')}.{function.__qualname__}".removeprefix("torch.nn.")
