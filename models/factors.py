"""Every choice that a run can be made of, read from the registries: for the command line and the page in docs/."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from landscape.fields import fields_of
from models.activations import ACTIVATIONS
from models.architectures import ARCHITECTURES
from models.augmentation import AUGMENTATIONS
from models.averaging import AVERAGES
from models.config import RunConfig
from models.data import TASKS
from models.data.standardization import STANDARDIZATIONS
from models.initialization import INITIALIZATIONS
from models.initialization_steps import STEPS
from models.normalization import NORMS
from models.optimizers import OPTIMIZERS
from models.registry import Registry
from models.regularization import REGULARIZERS
from models.schedules import LR_SCALINGS, SCHEDULES
from models.toys import TOYS
from models.transfer.anchors import ANCHORS

REGISTRIES = (
    ARCHITECTURES,
    INITIALIZATIONS,
    STEPS,
    NORMS,
    ACTIVATIONS,
    OPTIMIZERS,
    SCHEDULES,
    LR_SCALINGS,
    REGULARIZERS,
    AUGMENTATIONS,
    STANDARDIZATIONS,
    AVERAGES,
    TASKS,
    ANCHORS,
    TOYS,
)
"""A new kind of choice is added here; toys are what optimizers race over, not a part of a run."""

_SOURCE = re.compile(r" ?\(([^()]*\b(?:18|19|20)\d\d\b[^()]*)\)")
_OPENING = """\
# Every factor of training

Written by `landscape factors --markdown` from the code; a test fails where it is not up to date. A choice with options
is written `name:option=value,option=value`, or by position, `name:value`; what is left out has the default below.
Regularizations, augmentations and anchors are joined by `+`.
"""


@dataclass(frozen=True)
class Factor:
    """One choice.

    Attributes:
        kind: What is chosen: "model", "optimizer", ...
        name: What it is called.
        options: What it takes, as one would write it, with its default; without one it must be given.
        summary: What it does, in a line.
        source: Author and year, where its docstring names them.
    """

    kind: str
    name: str
    options: tuple[str, ...]
    summary: str
    source: str


def factors(registries: Iterable[Registry] = REGISTRIES) -> list[Factor]:
    """List all choices, registry by registry.

    Args:
        registries: What is chosen from; the first paragraph of each choice's docstring says what it does, and the first
            bracket with a year in it is its source.
    """
    return [_factor(registry, name) for registry in registries for name in registry]


def page(registries: Sequence[Registry] = REGISTRIES) -> str:
    """Write all choices, and then all fields of a run's configuration, as a page of Markdown."""
    sections = [
        f"## {registry.kind}\n\n"
        + _table(
            ("name", "what it does", "options", "source"),
            [(f"`{f.name}`", f.summary, ", ".join(f"`{o}`" for o in f.options), f.source) for f in factors([registry])],
        )
        for registry in registries
    ]
    rows = [(f"`{f.name}`", f.help, f"`{f.default}`") for f in fields_of(RunConfig)]
    fields = "## Fields of a run\n\n" + _table(("field", "what it is", "default"), rows)
    return "\n".join([_OPENING, *sections, fields])


def overview() -> str:
    """Write the kinds of choices with their names as a table of Markdown, for the front page."""
    rows = [(registry.kind, ", ".join(f"`{name}`" for name in registry)) for registry in REGISTRIES]
    return _table(("what is chosen", "names"), rows)


def _factor(registry: Registry, name: str) -> Factor:
    words = " ".join((inspect.getdoc(registry[name]) or "").split("\n\n")[0].split())
    found = _SOURCE.search(words)
    summary = words.replace(found[0], "", 1) if found else words
    return Factor(registry.kind, name, _options(registry, name), summary.strip(), found[1] if found else "")


def _options(registry: Registry, name: str) -> tuple[str, ...]:
    choice, written = registry[name], []
    hints = typing.get_type_hints(choice) if inspect.isfunction(choice) else {}
    for option, default in registry.options(name).items():
        others = [str(word) for word in typing.get_args(hints.get(option)) if word != default]
        is_words = typing.get_origin(hints.get(option)) is typing.Literal
        shown = "VALUE" if default is inspect.Parameter.empty else _shown(default)
        written.append(f"{option}={'|'.join([shown, *others]) if is_words else shown}")
    return tuple(written)


def _shown(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return str(default).lower() if isinstance(default, bool | None) else str(default)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
