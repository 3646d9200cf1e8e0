"""Runs whose weights can be compared, joined or averaged: those of one architecture."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.opened import Run

_MOST_NAMED = 3


def require_compatible(runs: Mapping[str, Run]) -> None:
    """Refuse runs between whose weights there is no way: every point on it must be a network like the runs' own.

    All must have the same tensors, buffers included, and, as far as their configurations say, the same architecture:
    networks that differ in their activation have equal tensors, but equal weights are not equal functions there.

    Args:
        runs: By the names that the error gives them; each is compared with the first.

    Raises:
        MissingError: If one has no weights yet.
        ValueError: If two differ, with the tensors or the fields in which they do.
    """
    (first, reference), *others = runs.items()
    tensors = reference.weights()
    for name, run in others:
        require_equal_tensors(run.weights(), tensors, name, first)
        fields = _architecture(reference)
        for field, value in _architecture(run).items():
            if field in fields and fields[field] != value:
                raise ValueError(
                    f"{name} has the tensors of {first} but computes another function of them: {field} is {value!r} "
                    f"there, {fields[field]!r} in {first}; compare runs of equal architectures."
                )


def require_equal_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str = "one", other: str = "the other"
) -> None:
    """Refuse tensors with other names or shapes than expected.

    Args:
        tensors: By name, such as a state dict.
        expected: The same of what they are compared with.
        name: What the error calls the first.
        other: What it calls the second.

    Raises:
        ValueError: If they differ, with the tensors that do.
    """
    differing = differing_tensors(tensors, expected)
    if not differing:
        return
    named = [
        f"{tensor!r} is only in {name if theirs is None else other}"
        if ours is None or theirs is None
        else f"{tensor!r} is {ours} there and {theirs} in {other}"
        for tensor, (ours, theirs) in itertools.islice(differing.items(), _MOST_NAMED)
    ]
    more = f" ({len(differing)} differ)" if len(differing) > _MOST_NAMED else ""
    raise ValueError(
        f"{name} has other parameters than {other}: {'; '.join(named)}{more}; compare runs of equal architectures."
    )


def differing_tensors(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor]
) -> dict[str, tuple[tuple[int, ...] | None, tuple[int, ...] | None]]:
    """Return the shapes of the tensors that are not in both or differ in shape; None where there is none.

    >>> import torch
    >>> differing_tensors({"bias": torch.zeros(3)}, {"bias": torch.zeros(4), "scale": torch.zeros(())})
    {'bias': ((3,), (4,)), 'scale': (None, ())}
    """
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (first, second)]
    names = [*first, *(name for name in second if name not in first)]
    pairs = {name: (shapes[0].get(name), shapes[1].get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _architecture(run: Run) -> dict[str, Any]:
    if run.config is None:
        return {}  # a factory's name says nothing about what it builds
    return {"model": run.config.model, **run.config.architecture_options}
