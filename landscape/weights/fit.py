"""Putting weights into a module, only if they fit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from landscape.weights.errors import WeightsError

_SHOWN = 5


def fit_weights(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
    """Load weights into a module, if each fits; otherwise leave the module as it is.

    Args:
        module: The module.
        tensors: Its parameters and buffers by name. A type may be narrower than the module's (half for
            float32), never wider.
        prefix: Take only the names that begin with this, without it.

    Raises:
        WeightsError: If names are missing or unexpected, shapes or types differ, or values are not finite,
            with the first few of each.
    """
    given = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    wanted = module.state_dict()
    shared = [name for name in wanted if name in given]
    problems = {
        "missing": [name for name in wanted if name not in given],
        "unexpected": [name for name in given if name not in wanted],
        "of another shape": [text for name in shared if (text := _shape_problem(name, given, wanted))],
        "of another type": [text for name in shared if (text := _type_problem(name, given, wanted))],
        "not finite": [text for name in shared if (text := _finite_problem(name, given[name]))],
    }
    if any(problems.values()):
        found = "; ".join(_listed(kind, names) for kind, names in problems.items() if names)
        raise WeightsError(f"the weights do not fit {type(module).__name__}: {found}{_advice(tensors, wanted)}")
    module.load_state_dict(given, strict=True)


def fitting_prefix(module: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """Find what stands before every name of a module in a file (`module.`, `_orig_mod.`, `model.`), "" for nothing."""
    wanted = module.state_dict()
    return "" if all(name in tensors for name in wanted) else _prefix(tensors, wanted)


def _shape_problem(name: str, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    ours, theirs = tuple(wanted[name].shape), tuple(given[name].shape)
    return "" if ours == theirs else f"{name} is {theirs}, expected {ours}"


def _type_problem(name: str, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    ours, theirs = wanted[name].dtype, given[name].dtype
    exact = ours.is_floating_point == theirs.is_floating_point and torch.promote_types(ours, theirs) == ours
    return "" if exact else f"{name} is {theirs}, expected {ours}"


def _finite_problem(name: str, tensor: Tensor) -> str:
    nans, infinities = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    return f"{name} has {nans} NaN and {infinities} infinite of {tensor.numel()}" if nans + infinities else ""


def _listed(kind: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{more})"


def _advice(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    prefix = _prefix(tensors, wanted)
    if prefix:
        return f"; the names would fit without {prefix!r}: give prefix={prefix!r}"
    return "; build the module with the settings the weights were trained with"


def _prefix(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    first = next(iter(wanted), "")
    for name in tensors:
        prefix = name.removesuffix(first)
        if prefix + first == name and prefix and all(prefix + other in tensors for other in wanted):
            return prefix
    return ""
