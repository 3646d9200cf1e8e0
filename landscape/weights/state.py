"""Nested states, such as a Lightning checkpoint, as tensors and a string, so that they need no pickle."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from landscape.store.errors import DamagedFileError

_SCALARS = (type(None), bool, int, float, str)
_MAPPINGS = {kind.__name__: kind for kind in (dict, OrderedDict, Counter)}


def encode_state(state: Any) -> tuple[dict[str, Tensor], str]:
    """Split a nested state into its tensors and a JSON string that says where they belong.

    Args:
        state: Dicts (ordered or counting ones too; keys are strings, numbers, bools or None), lists, tuples,
            tensors, strings, numbers, bools and None, nested in any way.

    Returns:
        The tensors by name, and the string; `decode_state` restores values and types from them exactly.

    Raises:
        TypeError: If there is anything else in the state, with the way to it.

    Example:
        >>> encode_state({"epoch": 3, "betas": (0.9, 0.999)})
        ({}, '{"dict": [["epoch", 3], ["betas", {"tuple": [0.9, 0.999]}]]}')
    """
    tensors: dict[str, Tensor] = {}
    return tensors, json.dumps(_encode(state, "state", tensors))


def decode_state(tensors: Mapping[str, Tensor], text: str) -> Any:
    """Restore what `encode_state` split.

    Raises:
        DamagedFileError: If `text` is not from `encode_state`, or a tensor is missing.
    """
    try:
        return _decode(json.loads(text), tensors)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DamagedFileError(f"the state was not written by landscape ({error!r}); restore a copy of it") from error


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if isinstance(value, Tensor):
        name = f"{len(tensors)}:{path}"
        tensors[name] = value
        return {"tensor": name}
    if kind in (list, tuple):
        items = [_encode(item, f"{path}.{index}", tensors) for index, item in enumerate(value)]
        return items if kind is list else {"tuple": items}
    if kind in _MAPPINGS.values():
        return {
            kind.__name__: [[_key(key, path), _encode(item, f"{path}.{key}", tensors)] for key, item in value.items()]
        }
    raise TypeError(
        f"{path} is a {kind.__name__}, which a checkpoint without pickles does not hold; "
        "use dicts, lists, tuples, tensors, strings, numbers, bools and None"
    )


def _key(key: Any, path: str) -> Any:
    if type(key) in _SCALARS:
        return key
    raise TypeError(f"{path} has a key of type {type(key).__name__}; use strings or numbers as keys")


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_decode(item, tensors) for item in content)
    return _MAPPINGS[kind]({key: _decode(item, tensors) for key, item in content})
