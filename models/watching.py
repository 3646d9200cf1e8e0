"""Probes that are asked while a run trains, written as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from landscape.fields import fields_of, is_text, parse
from landscape.moments import Moments
from landscape.naming import named_object
from landscape.probes import BUILT_IN
from models.registry import unknown

if TYPE_CHECKING:
    from landscape.measure import Probe

DEFAULT_SCHEDULE = "epochs:1"


@dataclass(frozen=True)
class Watch:
    """A probe and when to ask it.

    Attributes:
        probe: The question.
        every: The schedule: "epochs:1", "steps:50", "log:8".
    """

    probe: Probe
    every: str


def read_watches(text: str) -> list[Watch]:
    """Read which probes are asked while training.

    Args:
        text: "none", or probes joined by +, each with its fields and `every`, as in
            "stability:every=steps:50+gradient-noise:batches=32". A probe is a built-in one or a user's own,
            "package.module/Class".

    Raises:
        ValueError: If a probe or a field is unknown, a value does not fit, a schedule is none, or a probe is there
            twice.
    """
    watches = [] if text == "none" else [_read(word) for word in text.split("+")]
    for watch in watches:
        if watches.count(watch) > 1:
            raise ValueError(f"probes has {type(watch.probe).__name__} twice with the same fields; ask it once")
    return watches


def _read(word: str) -> Watch:
    name, _, written = word.partition(":")
    parts = [part.strip() for part in written.split(",") if part.strip()]
    given = [part.partition("=")[2] for part in parts if part.startswith("every=")]
    fields = ",".join(part for part in parts if not part.startswith("every="))
    every = given[-1] if given else DEFAULT_SCHEDULE
    every = f"steps:{every}" if every.isdecimal() else every
    probe = _made(name, fields, more=("every",))
    Moments.of(every)
    return Watch(probe, every)


def read_probe(text: str) -> Probe:
    """Read a probe that is asked of finished runs.

    Args:
        text: As `read_watches` reads one, without `every`, such as "spectrum:k=1"; a user's own also as
            "package.module:Class:field=value".

    Raises:
        ValueError: If the probe or a field is unknown, or a value does not fit.
    """
    name, _, written = text.partition(":")
    if "." in name and "/" not in name:
        cls, _, written = written.partition(":")
        name = f"{name}/{cls}"
    return _made(name, written)


def _made(name: str, written: str, more: tuple[str, ...] = ()) -> Probe:
    if name not in BUILT_IN and "/" not in name:
        raise ValueError(f"{unknown('probe', name, BUILT_IN)}, or write package.module/Class")
    cls: Any = named_object(BUILT_IN.get(name, name.replace("/", ":")))
    known = {field.name: field.annotation for field in fields_of(cls) if is_text(field.annotation)}
    values: dict[str, Any] = {}
    for part in filter(None, written.split(",")):
        field, equals, value = part.partition("=")
        if not equals or field not in known:
            listed = ", ".join((*more, *known))
            raise ValueError(f"probe {name!r} takes no {part!r}; write field=value, with a field of: {listed}")
        try:
            values[field] = parse(value, known[field])
        except ValueError as error:
            raise ValueError(f"probe {name!r}: {field}: {error}") from None
    made: Probe = cls(**values)
    return made
