"""What a search or a sweep chooses from: values or ranges for some fields of a run, one value for each other one."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.fields import alternatives, fields_of, parse
from models.config import RunConfig
from models.registry import unknown

Point = dict[str, Any]

MOST_CORNERS = 1024
MOST_RUNS = 100_000
_RANGE = re.compile(r"(?:(log|uniform):)?([^/]+?)\.\.([^/]+?)(?:/(\d+))?")


@dataclass(frozen=True)
class Choices:
    """A few values of a field.

    Attributes:
        values: At least one, all different.
    """

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("needs at least one value, got none; write values such as 0.01,0.1")
        if len(set(self.values)) < len(self.values):
            value = next(value for value in self.values if self.values.count(value) > 1)
            raise ValueError(f"has the value {value} twice; write each value once")

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that have to be possible: all of them."""
        return self.values


@dataclass(frozen=True)
class Range:
    """An interval of a number.

    Attributes:
        low: Its lower end.
        high: Its upper end, above `low`.
        log: Whether draws are uniform in the logarithm; uniform in the number itself otherwise.
        whole: Whether the number is a whole one.
    """

    low: float
    high: float
    log: bool = True
    whole: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"needs a range from a lower to a higher finite number, got {self.low:g}..{self.high:g}; "
                "write for example 1e-4..1e-1"
            )
        if self.log and self.low <= 0:
            raise ValueError(
                f"needs a logarithmic range above 0, got {self.low:g}..{self.high:g}; raise its lower end, or write "
                f"uniform:{self.low:g}..{self.high:g}"
            )

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that have to be possible: both ends."""
        return (self.low, self.high)

    def spaced(self, count: int) -> Choices:
        """Take so many values from end to end, by equal factors or equal steps, to four significant digits."""
        if count < 2:
            raise ValueError(f"needs at least 2 values in a range, got {count}; write one value without a range")
        if count > MOST_RUNS:
            raise ValueError(f"takes at most {MOST_RUNS:,} values of a range, got {count:,}; write fewer")
        values = (np.geomspace if self.log else np.linspace)(self.low, self.high, count)
        rounded = (round(v) if self.whole else float(f"{v:.4g}") for v in values.tolist())
        return Choices(tuple(dict.fromkeys(rounded)))  # whole numbers may coincide


@dataclass(frozen=True)
class Space:
    """Fields that vary, and fields that do not.

    Attributes:
        dimensions: Choices or a range by field.
        fixed: One value by field; what is left out takes the default of `RunConfig`, but no snapshots are kept.
    """

    dimensions: Mapping[str, Choices | Range]
    fixed: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse what cannot be run: each value of choices, and both ends of ranges, must make a run.

        Raises:
            ValueError: If a field is unknown, there are too many combinations, or one of them cannot be run.
        """
        known = [field.name for field in fields_of(RunConfig)]
        for name in (*self.dimensions, *self.fixed):
            if name not in known:
                raise ValueError(unknown("field of a run's configuration", name, known))
        if self.size is not None and self.size > MOST_RUNS:
            raise ValueError(
                f"the values make {self.size:,} runs, more than the {MOST_RUNS:,} of one answer; give fewer values"
            )
        for point in self.corners():
            self.config(point)

    @classmethod
    def read(cls, texts: Mapping[str, str]) -> Space:
        """Read the fields that were typed.

        Args:
            texts: By field: a value; values by commas, or by semicolons where a value has commas itself; LOW..HIGH, a
                range whose logarithm is uniform, or uniform:LOW..HIGH; LOW..HIGH/COUNT for so many values of a range.

        Raises:
            ValueError: If a field is unknown or a value cannot be read, naming the field.
        """
        annotations = {field.name: field.annotation for field in fields_of(RunConfig)}
        dimensions: dict[str, Choices | Range] = {}
        fixed: dict[str, Any] = {}
        for name, text in texts.items():
            if name not in annotations:
                raise ValueError(unknown("field of a run's configuration", name, annotations))
            try:
                dimension = read_dimension(name, text, annotations[name])
            except ValueError as error:
                raise ValueError(f"{name} {error}") from None
            if len(dimension.ends) > 1:
                dimensions[name] = dimension
            else:
                fixed[name] = dimension.ends[0]
        return cls(dimensions, fixed)

    def config(self, point: Point) -> RunConfig:
        """Build the run at a point.

        Raises:
            ValueError: If it cannot be run, naming the point.
        """
        try:
            return RunConfig(**{"snapshots": "none", **self.fixed, **point})
        except ValueError as error:
            chosen = ", ".join(f"{name}={value}" for name, value in point.items())
            raise ValueError(f"{error} (for {chosen})" if chosen else str(error)) from None

    @property
    def is_point(self) -> bool:
        """Whether nothing varies."""
        return not any(len(dimension.ends) > 1 for dimension in self.dimensions.values())

    @property
    def size(self) -> int | None:
        """How many points there are; None where a range has no end of them."""
        dimensions = self.dimensions.values()
        if not all(isinstance(dimension, Choices) for dimension in dimensions):
            return None
        return math.prod(len(dimension.ends) for dimension in dimensions)

    def corners(self) -> Iterator[Point]:
        """All combinations of values and ends, or if those are too many, each value beside the first of the others."""
        ends = {name: dimension.ends for name, dimension in self.dimensions.items()}
        if "seed" in ends:  # one whole number is as good as another
            ends["seed"] = tuple(dict.fromkeys((min(ends["seed"]), max(ends["seed"]))))
        if math.prod(map(len, ends.values())) <= MOST_CORNERS:
            yield from (dict(zip(ends, values, strict=True)) for values in itertools.product(*ends.values()))
            return
        first = {name: values[0] for name, values in ends.items()}
        yield from ({**first, name: value} for name, values in ends.items() for value in values)


def read_dimension(name: str, text: str, annotation: Any) -> Choices | Range:
    """Read what may be chosen for one field.

    Args:
        name: The field.
        text: As `Space.read` says.
        annotation: The type of the field's values.

    Raises:
        ValueError: If a value cannot be read, is there twice, or a range is empty or has no logarithm.

    Example:
        >>> read_dimension("lr", "1e-4..1e-1", float | None)
        Range(low=0.0001, high=0.1, log=True, whole=False)
        >>> read_dimension("lr", "1e-4..1e-1/4", float | None)
        Choices(values=(0.0001, 0.001, 0.01, 0.1))
        >>> read_dimension("norm", "none,ghost-batch:16,batch-renorm:r_max=2,d_max=1", str).values
        ('none', 'ghost-batch:16', 'batch-renorm:r_max=2,d_max=1')
    """
    types = alternatives(annotation)
    found = _RANGE.fullmatch(text.strip()) if {int, float} & set(types) else None
    if found is None:
        return Choices(tuple(parse(part, annotation) for part in _parts(name, text, annotation)))
    kind, low, high, count = found.groups()
    whole = float not in types
    ends = [parse(end.strip(), int if whole else float) for end in (low, high)]
    span = Range(ends[0], ends[1], log=kind != "uniform", whole=whole)
    return span.spaced(int(count)) if count else span


def _parts(name: str, text: str, annotation: Any) -> list[str]:
    """Cut a text into values; a part like d_max=1 is an option of the value before it."""
    if ";" in text:
        parts = text.split(";")
    elif name in ("data", "betas"):
        parts = [text]
    else:
        parts = []
        for part in text.split(","):
            if parts and re.match(r"\s*\w+=", part):
                parts[-1] += f",{part}"
            else:
                parts.append(part)
    return [part.strip() for part in parts if part.strip()]
