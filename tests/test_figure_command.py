"""The command `figure`: every format from stored answers, and runs side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli import cli
from landscape.store import Store
from tests.answers import curvature_answer, slice_answer, surface_answer


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def run_with(folder: Path, config: dict, **answers) -> Path:
    store = Store(folder)
    store.save_json("run", {"schema_version": 1, "kind": "trained", "config": config})
    for name, answer in answers.items():
        store.write(name.replace("_", "-"), answer)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    small = surface_answer(resolution=(7, 5), trajectory=True).assign_attrs(probe_fields="{}")
    return [
        run_with(tmp_path / "skip", {"skip": True, "lr": 0.1}, surface_1=small, slice_1=slice_answer()),
        run_with(tmp_path / "plain", {"skip": False, "lr": 0.1}, surface_1=small, surface_2=curvature_answer()),
    ]


def test_every_format_goes_beside_the_pictures(runs: list[Path]):
    result = call("figure", runs[0], "--format", "png,csv, vtk,gif,html", "--json")
    written = {Path(path).name for path in json.loads(result.stdout)["files"]}
    assert {"surface-1-contour.png", "surface-1.csv", "surface-1.vts", "surface-1.gif", "surface-1.html"} <= written
    assert {"slice-1-slice.png", "slice-1.csv"} <= written
    assert written == {path.name for path in (runs[0] / "figures").iterdir()}


def test_a_format_that_suits_no_answer_is_an_error_and_leaves_nothing(tmp_path: Path):
    run = run_with(tmp_path / "run", {}, slice_1=slice_answer())
    result = call("figure", run, "--format", "vtk,gif", code=3)
    assert "nothing was written: vtk, gif suits none of 1 answers" in result.stderr and result.stdout == ""
    assert not (run / "figures").exists()
    assert "1 files" in call("figure", run, "--format", "csv,gif").stdout
    assert "0 files" in call("figure", run_with(tmp_path / "none", {}), "--format", "csv").stdout


def test_an_unknown_format_is_named(runs: list[Path]):
    assert "got bmpx" in call("figure", runs[0], "--format", "pdf,bmpx", code=3).stderr
    assert not (runs[0] / "figures").exists()


def test_mp4_without_ffmpeg_is_refused_before_anything_is_drawn(runs: list[Path], monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "install it" in call("figure", runs[0], "--format", "pdf,mp4", code=3).stderr
    assert not (runs[0] / "figures").exists()


def test_runs_stand_side_by_side_in_the_folder_that_holds_them(runs: list[Path], tmp_path: Path):
    result = call("figure", *runs, "--side-by-side", "--format", "png", "--width", "double", "--json")
    names = [Path(path).name for path in json.loads(result.stdout)["files"]]
    assert len(names) == 2 and names[0].endswith("-side-by-side.png") and names[1].endswith("-side-by-side-3d.png")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == set(names)
    assert not (runs[0] / "figures").exists()


def test_side_by_side_needs_surfaces_in_common_and_a_picture(runs: list[Path], tmp_path: Path):
    alone = run_with(tmp_path / "alone", {}, slice_1=slice_answer())
    found = call("figure", runs[0], alone, "--side-by-side", code=3)
    assert "at least two runs with the same options" in found.stderr
    assert "side by side are pictures" in call("figure", *runs, "--side-by-side", "--format", "csv", code=3).stderr


def test_a_damaged_answer_is_left_out_side_by_side_and_reported(runs: list[Path]):
    path = runs[1] / "surface-2.h5"
    path.write_bytes(path.read_bytes()[:-7])
    result = call("figure", *runs, "--side-by-side", "--format", "png", code=4)
    assert "not drawn" in result.stderr and "side-by-side.png" in result.stdout
