"""Plans of sweeps as TOML files."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landscape.fields import fields_of, is_text, parse
from models.config import RunConfig
from models.registry import unknown
from models.space import Choices, Range, Space, read_dimension
from models.sweep.plan import num_runs, require_seeds
from models.sweep.sweep import Sweep
from models.trials import Stack

KEYS = ("out", "seeds", "probes", "stack", "fixed", "sweep", "runs")


@dataclass(frozen=True)
class Written:
    """A sweep as somebody wrote it, before its runs are built.

    Attributes:
        space: As for `Sweep`.
        probes: As for `Sweep`.
        runs: As for `Sweep`.
        stack: As for `Sweep`.
        out: Its folder, if it has one.
    """

    space: Space
    probes: tuple[str, ...] = ()
    runs: tuple[Mapping[str, Any], ...] = ()
    stack: Stack = "auto"
    out: Path | None = None

    @property
    def num_runs(self) -> int:
        """How many runs it is about to build."""
        return num_runs(self.space, self.runs)

    @property
    def sweep(self) -> Sweep:
        """Build and check all runs.

        Raises:
            ValueError: As `Sweep` does.
        """
        return Sweep(self.space, self.probes, self.runs, self.stack)


def read_options(texts: Mapping[str, str], seeds: int | None = None, probes: Sequence[str] = ()) -> Written:
    """Read a sweep from the options of the command line.

    Args:
        texts: Values by field, as `Space.read` takes them.
        seeds: How many seeds, from 0 on.
        probes: What is asked of each run.

    Raises:
        ValueError: If seeds are given twice, or as `Space.read` does.
    """
    if seeds is not None and "seed" in texts:
        raise ValueError("seeds and seed are both given; leave one of them out")
    more = {} if seeds is None else {"seed": ",".join(map(str, require_seeds(seeds)))}
    return Written(Space.read({**texts, **more}), tuple(probes))


def read_file(path: str | Path, probes: Sequence[str] = ()) -> Written:
    """Read a sweep from a TOML file.

    Args:
        path: A file with the keys `seeds` (a number N, for 0 to N - 1, or a list), `probes` (a list), `stack` (auto,
            never or always), `out` (a folder), and the tables `[fixed]` (one value by field), `[sweep]` (values by
            field, a list or text such as "1e-4..1e-1/4") and `[[runs]]` (fields of single runs, each crossed with the
            others). All may be left out.
        probes: What else is asked of each run.

    Returns:
        The sweep; its folder is `out`, or results/ and the name of the file.

    Raises:
        ValueError: If there is no such file, it is no TOML, has an unknown key or field (with the nearest one), or a
            value cannot be read; and as `Space` does.
    """
    path = Path(path)
    content = _content(path)
    for key in content:
        if key not in KEYS:
            raise ValueError(f"{path}: {unknown('key of a plan', key, KEYS)}")
    for key, (kind, words) in _KINDS.items():
        if not isinstance(content.get(key, kind()), kind):
            raise ValueError(f"{path}: {key} must be {words}, got {content[key]!r}")
    try:
        runs = tuple(_fixed(run) for run in content.get("runs", ()))
        asked = tuple(map(str, content.get("probes", ())))
        out = Path(content.get("out", Path("results") / path.stem))
        return Written(_space(content), asked + tuple(probes), runs, content.get("stack", "auto"), out)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


_KINDS: dict[str, tuple[type, str]] = {
    "out": (str, "text"),
    "probes": (list, "a list"),
    "stack": (str, "text"),
    "fixed": (dict, "a table"),
    "sweep": (dict, "a table"),
    "runs": (list, "a list of tables"),
}


def _content(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ValueError(f"there is no plan {path} to read ({error.strerror}); give the path of a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML: {error}") from None


def _space(content: Mapping[str, Any]) -> Space:
    dimensions: dict[str, Choices | Range] = {}
    fixed = _fixed(content.get("fixed", {}))
    for name, values in content.get("sweep", {}).items():
        if name in fixed:
            raise ValueError(f"{name} is fixed and swept; leave one of them out")
        dimensions[name] = _dimension(name, values)
    if "seeds" in content:
        if "seed" in dimensions or "seed" in fixed:
            raise ValueError("seeds and seed are both given; leave one of them out")
        dimensions["seed"] = _seeds(content["seeds"])
    alone = {name: d.ends[0] for name, d in dimensions.items() if len(d.ends) == 1}
    return Space({name: d for name, d in dimensions.items() if name not in alone}, {**fixed, **alone})


def _dimension(name: str, values: Any) -> Choices | Range:
    annotation = _annotation(name)
    try:
        if isinstance(values, list):
            return Choices(tuple(parse(_text(value), annotation) for value in values))
        return read_dimension(name, _text(values), annotation)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _seeds(value: Any) -> Choices:
    if type(value) is int:
        return Choices(require_seeds(value))
    if isinstance(value, list) and all(type(seed) is int for seed in value):
        return Choices(tuple(value))
    raise ValueError(f"seeds must be a whole number, or a list of them, got {value!r}")


def _fixed(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"each of runs must be a table, got {values!r}; write [[runs]] before each")
    found = {}
    for name, value in values.items():
        annotation = _annotation(name)
        try:
            found[name] = parse(_text(value), annotation)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return found


def _annotation(name: str) -> Any:
    known = {field.name: field.annotation for field in fields_of(RunConfig) if is_text(field.annotation)}
    if name not in known:
        raise ValueError(unknown("field of a run's configuration", name, known))
    return known[name]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
