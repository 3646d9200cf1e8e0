"""The table of factors says what the registries hold, and the page in docs/ is up to date."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
from click.testing import CliRunner

from cli import cli
from landscape.fields import fields_of
from models.config import RunConfig
from models.factors import REGISTRIES, Factor, factors, overview, page
from models.registry import Registry

PAGE = Path(__file__).parents[2] / "docs" / "factors.md"

COLOURS = Registry("colour")


@COLOURS.register("blue")
def blue(canvas, *, shade: Literal["navy", "sky"] = "sky", depth: float, wet: bool = False, pair: tuple = (1, 2)):
    """Paint as the sea (Homer 1884, the second | version).

    More than one would read.
    """


@COLOURS.register("red")
def red(canvas):
    """Paint as blood (which is red)."""


def test_a_row_is_read_from_the_function():
    first, second = factors([COLOURS])
    options = ("shade=sky|navy", "depth=VALUE", "wet=false", "pair=1,2")
    assert first == Factor("colour", "blue", options, "Paint as the sea.", "Homer 1884, the second | version")
    assert second == Factor("colour", "red", (), "Paint as blood (which is red).", "")


def test_a_page_is_a_table():
    lines = page([COLOURS]).splitlines()
    start = lines.index("## colour")
    assert lines[start + 2] == "| name | what it does | options | source |"
    row = r"| `blue` | Paint as the sea. | `shade=sky\|navy`, `depth=VALUE`, `wet=false`, `pair=1,2` |"
    assert lines[start + 4] == rf"{row} Homer 1884, the second \| version |"


def test_every_choice_of_every_kind_explains_itself():
    rows = factors()
    assert len(rows) == sum(map(len, REGISTRIES)) and len({(row.kind, row.name) for row in rows}) == len(rows)
    for row in rows:
        assert row.summary.endswith(".") and "\n" not in row.summary, row


def test_every_optimizer_and_scaling_has_a_source():
    without = {"newton", "none"}
    assert {row.name for row in factors() if row.kind in ("optimizer", "lr_scaling") and not row.source} == without


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "run: landscape factors --markdown > docs/factors.md"


def test_the_page_names_every_field():
    assert all(f"| `{field.name}` |" in page() for field in fields_of(RunConfig))


def test_the_command():
    runner = CliRunner()
    text = runner.invoke(cli, ["factors", "optimizer"]).output
    assert "saddle-free-newton" in text and "cosine" not in text
    rows = json.loads(runner.invoke(cli, ["factors", "schedule", "lr_scaling", "--json"]).output)
    assert {row["kind"] for row in rows} == {"schedule", "lr_scaling"}
    assert runner.invoke(cli, ["factors", "--markdown"]).output == page()
    failed = runner.invoke(cli, ["factors", "colour"])
    assert failed.exit_code == 3 and "unknown kind 'colour'; choose model," in failed.output


@pytest.mark.parametrize("kind", [registry.kind for registry in REGISTRIES])
def test_a_kind_is_a_field_or_tells_its_field(kind):
    fields = {field.name for field in fields_of(RunConfig)}
    assert kind in fields | {"initialization", "step of initialization", "toy"}


def test_the_front_page_lists_every_choice():
    front = (PAGE.parents[1] / "README.md").read_text()
    assert overview() in front, f"put this table into README.md:\n{overview()}"
