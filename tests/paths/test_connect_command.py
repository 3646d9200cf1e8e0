"""The command `connect`, as a user types it."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli import cli
from landscape.paths import Curve
from landscape.store import Journal, Store
from models.run import RunConfig, train
from tests.commands import landscape, start

FEW = ("--steps", 20, "--points", 5, "--plane", 3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one architecture, one that is wider."""
    folder = tmp_path_factory.mktemp("runs")
    for name, width, seed in (("a", 8, 0), ("b", 8, 1), ("wide", 9, 0)):
        config = RunConfig(model="mlp", width=width, epochs=2, train_size=64, test_size=16, seed=seed)
        train(config, folder / name)
    return folder


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["connect", *map(str, arguments)])
    if result.exit_code != code:
        raise AssertionError(f"exit {result.exit_code}, expected {code}\n{result.output}") from result.exception
    return result


def test_a_curve_is_stored_drawn_and_printed_and_not_trained_again(runs: Path, tmp_path: Path):
    asked = (runs / "a", runs / "b", "--curve", "bezier", *FEW, "--out", tmp_path)
    printed = call(*asked).output
    (path,), (plane,) = tmp_path.glob("connection-*.h5"), tmp_path.glob("curve-plane-*.h5")
    rows = [line.split() for line in printed.splitlines()]
    assert [
        "path",
        "of",
        "first",
        "last",
        "max",
        "min",
        "mean",
        "frankle",
        "linear",
        "above-higher",
        "above-lower",
    ] in rows
    assert [row[:2] for row in rows if row[0] == "line"] == [
        ["line", "loss"], ["line", "error"], ["line", "test_loss"], ["line", "test_error"]
    ]  # fmt: skip
    assert "ends trained alone for as many steps" in printed
    drawn = {file.name for file in (tmp_path / "figures").iterdir()}
    assert drawn == {
        *(f"{path.stem}-{figure}.png" for figure in ("profile", "descent")),
        *(f"{plane.stem}-{figure}.png" for figure in ("plane", "plane-error")),
    }
    before = path.stat().st_mtime_ns
    assert call(*asked).output == printed and path.stat().st_mtime_ns == before
    answer = Store(tmp_path).read(path)
    assert answer.attrs["normalization"] == "recalibrated" and answer.attrs["torch"]
    curve = Curve.load(path)
    assert curve.kind == "bezier" and curve.tensors(0.5).keys() == dict(curve.layout.unflatten(curve.points[0])).keys()


def test_a_band_in_the_folder_of_the_first_run_as_json(runs: Path, tmp_path: Path):
    first = tmp_path / "a"
    shutil.copytree(runs / "a", first)
    found = json.loads(call(first, runs / "b", "--curve", "neb", "--bends", 3, *FEW, "--plane", 0, "--json").output)
    assert Path(found["file"]).parent == first and len(found["figures"]) == 2
    assert {row["path"] for row in found["rows"]} == {"curve", "line"}
    assert not list(first.glob("curve-plane-*")) and not list(first.glob("*.journal"))


@pytest.mark.parametrize(
    ("first", "second", "options", "message"),
    [
        ("a", "wide", (), "compare runs of equal architectures"),
        ("a", "a", (), "must be finite and another point than this one; give another run"),
        ("a", "nowhere", (), "there is no run in"),
        ("a", "b", ("--bends", 0), "bends must be at least 1, got 0"),
        ("a", "b", ("--lr", -1), "lr must be above 0"),
    ],
)
def test_mistakes_are_told_and_leave_nothing_behind(
    runs: Path, tmp_path: Path, first: str, second: str, options: tuple, message: str
):
    output = call(runs / first, runs / second, *options, "--out", tmp_path / "new", code=3).output
    assert message in output and not list(tmp_path.rglob("*.h5")) and not list(tmp_path.rglob("*.journal"))


@pytest.mark.slow
def test_a_curve_killed_in_mid_training_goes_on_to_the_same_bits(runs: Path, tmp_path: Path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    asked = ("connect", runs / "a", runs / "b", "--steps", 4000, "--plane", 0)
    assert landscape(*asked, "--out", whole).returncode == 0
    for least in (2, 6):
        process = start(*asked, "--out", killed)
        while process.poll() is None and not any(len(Journal(p).records()) > least for p in killed.glob("*.journal")):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=20)
        assert list(killed.glob("*.journal")) and not list(killed.glob("*.h5"))
    assert landscape(*asked, "--out", killed).returncode == 0
    (name,) = Store(whole).names("connection-*")
    resumed, uninterrupted = Store(killed).read(name), Store(whole).read(name)
    assert resumed.attrs["content_digest"] == uninterrupted.attrs["content_digest"]
    np.testing.assert_array_equal(resumed["control_point"], uninterrupted["control_point"])
