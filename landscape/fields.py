"""Dataclass fields as text, so that a command line or a plan can fill in any probe or configuration."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from dataclasses import dataclass
from typing import Any

_SECTION = re.compile(r"^(Args|Attributes):\s*$")
_ENTRY = re.compile(r"^(\w+)(?:\s*\([^)]*\))?:\s*(.*)$")


@dataclass(frozen=True)
class Field:
    """One field of a dataclass, as its reader sees it."""

    name: str
    annotation: Any
    default: Any  # dataclasses.MISSING where a value must be given
    help: str
    group: str = ""

    @property
    def required(self) -> bool:
        """Whether a value must be given."""
        return self.default is dataclasses.MISSING


def fields_of(cls: type) -> list[Field]:
    """List the fields that `cls(...)` takes, with the help its docstring or metadata gives.

    Args:
        cls: A dataclass; help is read from `field(metadata={"help": ..., "group": ...})` or else
            from the `Args:` or `Attributes:` section of its docstring.

    Raises:
        TypeError: If `cls` is not a dataclass.
    """
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise TypeError(f"expected a dataclass whose fields are its options, got {cls!r}; decorate it with @dataclass")
    hints, helps = typing.get_type_hints(cls), docstring_entries(inspect.getdoc(cls) or "")
    return [
        Field(
            name=f.name,
            annotation=hints[f.name],
            default=_default(f),
            help=f.metadata.get("help", helps.get(f.name, "")),
            group=f.metadata.get("group", ""),
        )
        for f in dataclasses.fields(cls)
        if f.init
    ]


def docstring_entries(docstring: str) -> dict[str, str]:
    """Read the `Args:` or `Attributes:` section of a Google-style docstring.

    >>> docstring_entries(inspect.getdoc(parse))["text"]
    'What somebody typed: `51`, `1e-3`, `none`, `51,31`.'
    """
    entries: dict[str, str] = {}
    inside, name = False, ""
    for line in docstring.splitlines():
        if line and not line.startswith(" "):
            inside = bool(_SECTION.match(line))
        elif inside and line.strip():
            start = _ENTRY.match(line.strip()) if _indent(line) == 4 else None
            name, text = (start[1], start[2]) if start else (name, line.strip())
            entries[name] = f"{entries.get(name, '')} {text}".strip()
    return entries


def settle(instance: Any) -> None:
    """Write the numbers of a frozen dataclass in one form, so that equal questions have one name: 1 and 1.0.

    Fields annotated float, float | None or tuple[float, ...] become so; others stay as they are.
    """
    hints = typing.get_type_hints(type(instance))
    for field in dataclasses.fields(instance):
        value, members = getattr(instance, field.name), alternatives(hints[field.name])
        if float in members and isinstance(value, int | float):
            object.__setattr__(instance, field.name, float(value))
        elif tuple[float, ...] in members and value is not None and not isinstance(value, str):
            object.__setattr__(instance, field.name, tuple(map(float, value)))


def parse(text: str, annotation: Any) -> Any:
    """Read a value of the annotated type from text.

    Args:
        text: What somebody typed: `51`, `1e-3`, `none`, `51,31`.
        annotation: int, float, str, bool, None, Literal, tuple, or a union of these.

    Raises:
        ValueError: If no alternative of the annotation can be read from the text.

    >>> parse("51,31", int | tuple[int, int]), parse("none", float | None), parse("3", float)
    ((51, 31), None, 3.0)
    """
    for alternative in alternatives(annotation):
        try:
            return _parse_one(text, alternative)
        except ValueError:
            continue
    raise ValueError(f"expected {type_name(annotation)}, got {text!r}")


def type_name(annotation: Any) -> str:
    """Say in words what may be typed for the annotation.

    >>> type_name(int | tuple[int, int] | None)
    'int | int,int | none'
    """
    return " | ".join(_name_one(alternative) for alternative in alternatives(annotation))


def is_text(annotation: Any) -> bool:
    """Whether a value of this type can be written as text, so that it can be an option."""
    return any(_readable(alternative) for alternative in alternatives(annotation))


def alternatives(annotation: Any) -> list[Any]:
    """The members of a union, text last, since any text would fit it."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    members = list(typing.get_args(annotation)) if is_union else [annotation]
    return sorted((m for m in members if not is_union or _readable(m)), key=lambda member: member is str)


def _parse_one(text: str, annotation: Any) -> Any:
    if typing.get_origin(annotation) is tuple:
        return _parse_tuple(text, typing.get_args(annotation))
    if annotation in (int, float, str):
        return annotation(text)
    choices = _choices(annotation)
    if text.lower() not in choices:
        raise ValueError(text)
    return choices[text.lower()]


def _choices(annotation: Any) -> dict[str, Any]:
    """The few words that stand for a value, in lower case."""
    if annotation is bool:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if annotation in (None, type(None)):
        return {"none": None}
    return {str(choice).lower(): choice for choice in typing.get_args(annotation)}


def _parse_tuple(text: str, members: tuple[Any, ...]) -> tuple[Any, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(members) == 2 and members[1] is Ellipsis:
        members = (members[0],) * len(parts)
    if len(parts) != len(members):
        raise ValueError(text)
    return tuple(parse(part, member) for part, member in zip(parts, members, strict=True))


def _name_one(annotation: Any) -> str:
    if annotation in (None, type(None)):
        return "none"
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(map(str, typing.get_args(annotation)))
    if typing.get_origin(annotation) is tuple:
        return ",".join("..." if member is Ellipsis else type_name(member) for member in typing.get_args(annotation))
    return getattr(annotation, "__name__", str(annotation))


def _readable(annotation: Any) -> bool:
    if typing.get_origin(annotation) is tuple:
        return all(member is Ellipsis or is_text(member) for member in typing.get_args(annotation))
    simple = annotation in (int, float, str, bool, None, type(None))
    return simple or typing.get_origin(annotation) is typing.Literal


def _default(field: dataclasses.Field[Any]) -> Any:
    factory = field.default_factory
    return field.default if isinstance(factory, dataclasses._MISSING_TYPE) else factory()


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
