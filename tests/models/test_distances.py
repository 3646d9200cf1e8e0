"""Distances between trained runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cli import cli
from landscape.store import MissingError
from landscape.weights import load_weights, save_weights
from models.distances import Distances, ask_distances, distance_rows
from models.run import Run, RunConfig, open_run, train


def trained(folder: Path, **factors: object) -> Run:
    given = {"model": "mlp", "width": 8, "epochs": 2, "train_size": 64, "test_size": 50, "lr": 0.1, **factors}
    train(RunConfig(**given), folder)
    return open_run(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    home = tmp_path_factory.mktemp("runs")
    return {name: trained(home / name, seed=seed) for seed, name in enumerate("ab")}


def test_the_ends_of_runs_are_compared(runs: dict[str, Run]):
    answer = Distances()(runs)
    thetas = [torch.cat([p.detach().reshape(-1) for p in run.model().parameters()]) for run in runs.values()]
    assert answer["distance"].values[0, 1] == pytest.approx((thetas[0] - thetas[1]).norm().item(), rel=1e-5)
    starts = [torch.from_numpy(run.store.read("trajectory")["theta"].values[0]) for run in runs.values()]
    ways = [theta - start for theta, start in zip(thetas, starts, strict=True)]
    cosine = torch.nn.functional.cosine_similarity(*ways, dim=0).item()
    assert answer["cosine"].values[0, 1] == pytest.approx(cosine, abs=1e-5)
    data = runs["a"].data().test
    labels = [run.model()(data.inputs).argmax(dim=1) for run in runs.values()]
    assert answer["disagreement"].values[0, 1] == pytest.approx((labels[0] != labels[1]).float().mean().item())
    assert answer["test_error"].values[0] == pytest.approx((labels[0] != data.targets).float().mean().item())


def test_a_run_is_compared_along_its_way(runs: dict[str, Run]):
    answer = Distances(functions=False)({"a": runs["a"]})
    snapshots = runs["a"].store.read("trajectory")
    assert answer["step"].values.tolist() == snapshots["step"].values.tolist()
    theta = snapshots["theta"].values.astype(float)
    assert answer["displacement"].values == pytest.approx(np.linalg.norm(theta - theta[0], axis=1), rel=1e-5)
    assert "disagreement" not in answer
    rows = distance_rows(answer)
    assert len(rows) == len(theta)
    first = Distances(at="0")(runs)
    assert first["displacement"].values == pytest.approx([0, 0])


def test_the_snapshot_of_the_end_is_the_run(runs: dict[str, Run]):
    """BatchNorm aside, the last snapshot is the network that was kept."""
    steps = runs["a"].store.read("trajectory")["step"].values
    ends = Distances(at=str(steps[-1]))(runs)
    kept = Distances()(runs)
    for name in ("distance", "cosine", "disagreement", "random_walk_distance"):
        assert ends[name].values == pytest.approx(kept[name].values, nan_ok=True)


def test_permuted_units_are_far_as_weights_and_the_same_function(runs: dict[str, Run], tmp_path: Path):
    copy = trained(tmp_path / "copy", seed=0)
    path = copy.folder / "weights.safetensors"
    tensors, _ = load_weights(path)
    order = torch.arange(7, -1, -1)
    tensors |= {f"hidden1.{part}": tensors[f"hidden1.{part}"][order] for part in ("weight", "bias")}
    tensors["hidden2.weight"] = tensors["hidden2.weight"][:, order]
    save_weights(path, tensors)
    answer = Distances()({"a": runs["a"], "copy": copy})
    assert answer["disagreement"].values[0, 1] == 0
    assert answer["distance"].values[0, 1] > 1


def test_answers_are_stored_by_their_question(runs: dict[str, Run], tmp_path: Path):
    name, answer = ask_distances(Distances(), runs, tmp_path)
    written = (tmp_path / f"{name}.h5").stat().st_mtime_ns
    again, _ = ask_distances(Distances(), runs, tmp_path)
    assert (again, (tmp_path / f"{name}.h5").stat().st_mtime_ns) == (name, written)
    assert json.loads(answer.attrs["probe_fields"])["at"] == "auto"
    other, unit = ask_distances(Distances(filters="unit"), runs, tmp_path)
    assert other != name
    assert unit["distance"].values[0, 1] != pytest.approx(answer["distance"].values[0, 1])
    assert unit["disagreement"].values == pytest.approx(answer["disagreement"].values)


def test_what_cannot_be_compared_is_refused(runs: dict[str, Run], tmp_path: Path):
    with pytest.raises(ValueError, match="at must be auto, last, all or steps such as 0,100, got 'first'"):
        Distances(at="first")
    with pytest.raises(ValueError, match="filters must be as-is or unit, got 'l1'"):
        Distances(filters="l1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="two points at least, got 1"):
        Distances(at="last")({"a": runs["a"]})
    with pytest.raises(ValueError, match="kept no snapshot at step 999; there are 0, "):
        Distances(at="999")(runs)
    wider = trained(tmp_path / "wider", width=9, epochs=0, snapshots="none")
    with pytest.raises(ValueError, match="wider has other parameters than a: "):
        Distances()({"a": runs["a"], "wider": wider})
    (wider.folder / "trajectory.h5").unlink()
    wider = open_run(wider.folder)
    with pytest.raises(MissingError, match="has no trajectory; train it with --snapshots"):
        Distances(at="all")({"wider": wider})
    tested = trained(tmp_path / "tested", test_size=49, epochs=0)
    with pytest.raises(ValueError, match="tested is tested on other examples than a"):
        Distances()({"a": runs["a"], "tested": tested})


def test_too_many_points_are_refused(runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("models.distances._MOST_POINTS", 3)
    with pytest.raises(ValueError, match="points make matrices too large to read, more than 3"):
        Distances(at="all")(runs)


def test_the_command_tells_stores_and_draws(runs: dict[str, Run], tmp_path: Path):
    folders = [str(run.folder) for run in runs.values()]
    result = CliRunner().invoke(cli, ["distances", *folders, "--out", str(tmp_path)])
    assert "mean_disagreement" in result.output
    assert len(list((tmp_path / "figures").glob("distances-*.png"))) == 2
    result = CliRunner().invoke(cli, ["distances", folders[0], folders[0]])
    assert "is there twice" in result.output
