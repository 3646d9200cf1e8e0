"""Text from files: one printable line, whoever wrote it."""

from __future__ import annotations

import doctest

import pytest

from landscape import text
from landscape.text import clean


def test_doctests_of_the_module_hold():
    assert doctest.testmod(text).failed == 0


@pytest.mark.parametrize("steering", ["\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\u200b", "\ue000"])
def test_what_could_steer_is_left_out(steering: str):
    assert clean(f"a{steering}b") == "ab"


@pytest.mark.parametrize("space", ["\n", "\t", "\r", "\u2028", "\xa0"])
def test_a_space_of_any_kind_is_a_space(space: str):
    assert clean(f"a{space}b") == "a b"


def test_a_long_text_is_cut_and_says_so():
    assert clean("x" * 100_000) == "x" * 199 + "…"
    assert clean("x" * 200) == "x" * 200
