"""Objects by name: where they are searched, and what a name that leads nowhere gets."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path

import pytest

from landscape import naming
from landscape.naming import named_object
from tests.commands import ROOT


def test_doctests_of_the_module_hold():
    assert doctest.testmod(naming).failed == 0


def test_the_folder_at_hand_is_searched_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "models.py").write_text("raise RuntimeError('shadowed')")
    (tmp_path / "theirs_only.py").write_text("def net(): return 1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    assert named_object("theirs_only:net")() == 1
    assert sys.path[-1] == str(tmp_path)
    with pytest.raises(ValueError, match=r"nothing called 'nett'; did you mean 'net'"):
        named_object("theirs_only:nett")
    with pytest.raises(ValueError, match="there is no module 'nowhere_at_all', wanted for 'nowhere_at_all:net'"):
        named_object("nowhere_at_all:net")


@pytest.mark.parametrize("target", ["math", "math:", ":floor"])
def test_what_names_nothing(target: str):
    with pytest.raises(ValueError, match=f"expected 'package.module:name', got '{target}'"):
        named_object(target)


def test_a_module_that_is_no_file():
    with pytest.raises(ValueError, match="module 'builtins' has nothing called 'flaot'; did you mean 'float'"):
        named_object("builtins:flaot")
