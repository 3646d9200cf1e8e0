"""Nested tuples, lists and dicts of tensors, the form in which a batch comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def map_tensors(function: Callable[[Tensor], Any], structure: Any) -> Any:
    """Apply a function to every tensor of a structure; everything else stays as it is."""
    if isinstance(structure, Tensor):
        return function(structure)
    if isinstance(structure, dict):
        return {key: map_tensors(function, value) for key, value in structure.items()}
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(map_tensors(function, value) for value in structure))
    if isinstance(structure, list | tuple):
        return type(structure)(map_tensors(function, value) for value in structure)
    return structure


def tensors_of(structure: Any) -> list[Tensor]:
    """List the tensors of a structure, in order."""
    found: list[Tensor] = []
    map_tensors(found.append, structure)
    return found


def count_examples(batch: Any) -> int:
    """Length of the first axis of the last tensor of a batch, usually the targets; 1 where there is none."""
    lengths = [len(tensor) for tensor in tensors_of(batch) if tensor.ndim]
    return lengths[-1] if lengths else 1
