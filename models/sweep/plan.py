"""Which runs a sweep is made of, and in which cell of its answer each of them lies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from models.config import RunConfig
from models.space import MOST_RUNS, Choices, Point, Space

Label = int | float | str

MOST_CELLS = 1_000_000


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep by their place among all cells.

    Attributes:
        dims: Values by field, `seed` last; text where a value is no number.
        runs: By the position of a cell, counted with the last dimension running fastest.
    """

    dims: Mapping[str, tuple[Label, ...]]
    runs: Mapping[int, RunConfig]

    def point(self, position: int) -> dict[str, Label]:
        """Name a cell by its values."""
        found = {}
        for name, values in reversed(self.dims.items()):
            position, index = divmod(position, len(values))
            found[name] = values[index]
        return {name: found[name] for name in self.dims}


def make_plan(space: Space, listed: Sequence[Mapping[str, Any]] = ()) -> Plan:
    """Build every run once, so that what cannot be run is refused before anything is trained.

    A value stands in the answer as the runs that have it hold it (he is he-normal) where that is the same in all of
    them, or else as it was given.

    Args:
        space: Fields with one value, and values of those that are crossed with each other.
        listed: Further fields that are chosen together, one mapping a run; each is crossed with the space.

    Raises:
        ValueError: If nothing varies, a run is there twice or cannot be run, or there are too many cells.
    """
    _require_sweep(space, listed)
    points = list(_points(space, listed))
    labels = _labels(points, list(space.dimensions), listed)
    dims: dict[str, dict[Label, int]] = {name: {} for name in labels[0]}
    for label in labels:
        for name, value in label.items():
            dims[name].setdefault(value, len(dims[name]))
    _require_size(math.prod(map(len, dims.values())))
    runs: dict[int, RunConfig] = {}
    seen: dict[str, dict[str, Label]] = {}
    for (_, config), label in zip(points, labels, strict=True):
        position = 0
        for name, value in label.items():
            position = position * len(dims[name]) + dims[name][value]
        if (before := seen.setdefault(config.hash, label)) is not label:
            raise ValueError(f"a run is there twice: {_written(before)} and {_written(label)} are the same; drop one")
        runs[position] = config
    return Plan({name: tuple(values) for name, values in dims.items()}, runs)


def _require_sweep(space: Space, listed: Sequence[Mapping[str, Any]]) -> None:
    for name, dimension in space.dimensions.items():
        if not isinstance(dimension, Choices):
            shown = f"{dimension.low:g}..{dimension.high:g}"
            raise ValueError(f"a sweep needs values of {name}, got the range {shown}; write {shown}/5 for five values")
    if space.is_point and len(listed) < 2:
        raise ValueError(
            "nothing varies, so there is nothing to sweep; give a field several values, such as lr 0.01,0.1 or several "
            "seeds, or train this one run with landscape train"
        )
    for name in dict.fromkeys(name for run in listed for name in run):
        if name in space.dimensions:
            raise ValueError(f"{name} is given to single runs and to the whole sweep; leave one of them out")
    if (count := num_runs(space, listed)) > MOST_RUNS:
        raise ValueError(f"that makes {count:,} runs, more than the {MOST_RUNS:,} of one sweep; make several of it")


def num_runs(space: Space, listed: Sequence[Mapping[str, Any]]) -> int:
    """How many runs there are, without building any."""
    return (space.size or 0) * max(1, len(listed))


def _require_size(cells: int) -> None:
    if cells > MOST_CELLS:
        raise ValueError(
            f"the fields of the runs span {cells:,} cells, more than the {MOST_CELLS:,} of one answer; list runs that "
            "differ in fewer fields, or make several sweeps"
        )


def _points(space: Space, listed: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Point, RunConfig]]:
    """All points and their runs; seeds are the innermost and need no further check."""
    swept = {name: d.ends for name, d in space.dimensions.items() if name != "seed"}
    seeds = space.dimensions["seed"].ends if "seed" in space.dimensions else None
    for run in listed or ({},):
        for values in itertools.product(*swept.values()):
            point = {**run, **dict(zip(swept, values, strict=True))}
            config = space.config({**point, "seed": seeds[0]} if seeds else point)
            for seed in seeds or (config.seed,):
                yield {**point, "seed": seed}, _with_seed(config, seed)


def _with_seed(config: RunConfig, seed: int) -> RunConfig:
    """Change nothing but the seed; building a run anew takes a millisecond, which thousands of seeds would feel."""
    other = copy(config)
    object.__setattr__(other, "seed", seed)
    return other


def _labels(
    points: list[tuple[Point, RunConfig]], swept: list[str], listed: Sequence[Mapping[str, Any]]
) -> list[dict[str, Label]]:
    """Values of each run by field, in the order of the dimensions."""
    alone = dict.fromkeys(name for run in listed for name in run)
    names = [name for name in dict.fromkeys((*alone, *swept)) if name != "seed"]
    held: dict[str, dict[Any, set[Label]]] = {name: {} for name in swept}
    for point, config in points:
        for name in held:
            held[name].setdefault(point[name], set()).add(label_of(getattr(config, name)))
    same = {name: _told_apart(values) for name, values in held.items()}
    found = []
    for point, config in points:
        label = {}
        for name in names:
            as_given = name in same and not same[name]
            label[name] = label_of(point[name] if as_given else getattr(config, name))
        found.append({**label, "seed": config.seed})
    return found


def _told_apart(held: Mapping[Any, set[Label]]) -> bool:
    """Whether each given value is held as one value, and as another than the others."""
    return all(len(values) == 1 for values in held.values()) and len(set().union(*held.values())) == len(held)


def label_of(value: Any) -> Label:
    """Write a value of a field as a coordinate: a number, or text.

    >>> label_of(None), label_of(True), label_of((0.9, 0.999)), label_of(0.1)
    ('none', 'true', '0.9,0.999', 0.1)
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def _written(label: Mapping[str, Label]) -> str:
    return ", ".join(f"{name}={value}" for name, value in label.items())


def require_seeds(number: int) -> tuple[int, ...]:
    """Return the seeds 0 to number - 1.

    Raises:
        ValueError: If there are none, or more than there may be runs.
    """
    if not 1 <= number <= MOST_RUNS:
        raise ValueError(f"seeds must be a number from 1 to {MOST_RUNS:,}, got {number:,}")
    return tuple(range(number))
