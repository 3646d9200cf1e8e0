"""The command `race`, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli import cli
from landscape.store import Store


def call(*arguments: object, code: int = 0) -> Result:
    """Run `race` in this process and expect an exit code."""
    result = CliRunner().invoke(cli, ["race", *map(str, arguments)])
    if result.exit_code != code:
        raise AssertionError(f"exit {result.exit_code}, expected {code}\n{result.output}") from result.exception
    return result


def test_a_race_is_stored_drawn_and_printed_and_not_run_again(tmp_path: Path):
    asked = ("--optimizers", "sgd,momentum:form=ema,adadelta@1", "--lr", 0.01, "--steps", 800, "--out", tmp_path)
    printed = call(*asked, "--format", "png").output
    (path,) = tmp_path.glob("race-*.h5")
    row = next(line.split() for line in printed.splitlines() if line.startswith("sgd"))
    assert row[:3] == ["sgd", "0.01", "698"] and row[-1] == "no"
    assert {p.name.removeprefix(path.stem) for p in (tmp_path / "figures").iterdir()} == {"-paths.png", "-losses.png"}
    before = path.stat().st_mtime_ns
    assert call(*asked, "--format", "png").output == printed and path.stat().st_mtime_ns == before
    answer = Store(tmp_path).read(path)
    assert answer.attrs["torch"] and answer["optimizer"].values.tolist() == ["sgd", "momentum:form=ema", "adadelta@1"]


def test_the_other_races(tmp_path: Path):
    out = ("--out", tmp_path, "--format", "png")
    swept = call("--sweep", "--lr", "0.1,1", "--optimizers", "sgd,adam", "--steps", 100, *out).output
    assert "lr 0.1" in swept and "steps-by-rate.png" in swept
    ends = json.loads(call("--toy", "tanh", "--starts", 10, "--optimizers", "gd@0.5", *out, "--json").output)
    assert ends["rows"][0]["minimum"] == "100.0%" and len(ends["figures"]) == 1
    met = call("--toy", "reddi-mod3", *out).output
    assert "at the worst point" in met and "at the best point" in met


def test_the_list_shows_every_toy(tmp_path: Path):
    rows = json.loads(call("--list", "--json").output)
    assert {"tanh", "beale", "saddle", "reddi-online"} <= {row["name"] for row in rows}
    text = call("--list", "--out", tmp_path / "none").output
    assert "Beale 1958" in text and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--toy", "sadle"), "unknown toy 'sadle'; did you mean 'saddle'"),
        (("--optimizers", "sgdd"), "unknown optimizer 'sgdd'"),
        (("--lr", "0.1,0.2"), "expected one learning rate, got 2; --sweep races with each of them"),
        (("--format", "bmpp"), "expected figure formats among"),
        (("--lr", "-1"), "needs lr >= 0, got -1.0"),
    ],
)
def test_mistakes_leave_nothing_behind(arguments: tuple[str, ...], message: str, tmp_path: Path):
    output = call(*arguments, "--out", tmp_path / "r", code=3).output
    assert message in output and not (tmp_path / "r").exists()


def test_a_race_is_no_run(tmp_path: Path):
    call("--optimizers", "sgd", "--steps", 5, "--format", "png", "--out", tmp_path / "race")
    listed = CliRunner().invoke(cli, ["list", str(tmp_path)]).output
    assert "no runs" in listed
    report = CliRunner().invoke(cli, ["report", str(tmp_path), "--out", str(tmp_path / "report.html")])
    assert report.exit_code == 0 and "Paths of optimizers" in (tmp_path / "report.html").read_text()
