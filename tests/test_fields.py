"""Any dataclass can be filled in from text."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from typing import Literal

import pytest

from landscape import fields


@dataclass(frozen=True)
class Settled:
    """Numbers that may be written in several ways."""

    width: float = 1.0
    limit: float | None = None
    steps: tuple[float, ...] = ()
    count: int = 3
    word: str = "1"
    rates: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        fields.settle(self)


def test_numbers_are_settled_in_one_form():
    one, same = Settled(2, 3, [1, 2], 4), Settled(2.0, 3.0, (1.0, 2.0), 4)
    assert repr(one) == repr(same) == "Settled(width=2.0, limit=3.0, steps=(1.0, 2.0), count=4, word='1', rates=None)"
    assert Settled().limit is None and Settled(rates=[1]).rates == (1.0,)


@dataclass(frozen=True)
class Sample:
    """A sample.

    Attributes:
        resolution: Points along each axis,
            or along both.
        kind (str): Which kind.

    References:
        resolution: not this one.
    """

    resolution: int | tuple[int, int]
    kind: Literal["random", "filter"] = "random"
    tol: float | None = field(default=None, metadata={"help": "From metadata.", "group": "Numerics"})
    hook: Callable[[], None] | None = None
    names: tuple[str, ...] = field(default_factory=tuple)


def test_doctests_of_the_module_hold():
    assert doctest.testmod(fields).failed == 0


def test_fields_carry_help_defaults_and_groups():
    resolution, kind, tol, _, names = fields.fields_of(Sample)
    assert (resolution.help, resolution.required, resolution.default) == (
        "Points along each axis, or along both.",
        True,
        MISSING,
    )
    assert (kind.help, kind.default) == ("Which kind.", "random")
    assert (tol.help, tol.group) == ("From metadata.", "Numerics")
    assert names.default == ()


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("51", int | tuple[int, int], 51),
        ("51,31", int | tuple[int, int], (51, 31)),
        ("1e-3", float, 1e-3),
        ("None", float | None, None),
        ("pca", str | int, "pca"),
        ("3", str | int, 3),
        ("a,b,c", tuple[str, ...], ("a", "b", "c")),
        ("filter", Literal["random", "filter"], "filter"),
        ("no", bool, False),
    ],
)
def test_parse_reads_the_first_alternative_that_fits(text, annotation, value):
    parsed = fields.parse(text, annotation)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "annotation"),
    [("1.5", int), ("1,2,3", tuple[int, int]), ("maybe", bool), ("x", Literal["y"]), ("x", int | None)],
)
def test_parse_says_what_was_expected(text, annotation):
    with pytest.raises(ValueError, match=r"expected .*, got"):
        fields.parse(text, annotation)


def test_only_what_text_can_say_becomes_an_option():
    assert fields.is_text(int | tuple[int, int])
    assert fields.is_text(str | Callable)
    assert not fields.is_text(Callable[[], None])
    assert not fields.is_text(tuple[object, int])


def test_a_plain_class_is_refused():
    with pytest.raises(TypeError, match="decorate it with @dataclass"):
        fields.fields_of(int)
