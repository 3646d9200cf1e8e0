"""Directions that only runs can tell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from landscape.directions import Directions, coordinates
from landscape.probes import Surface
from landscape.store import MissingError
from models.planes import directions_of
from models.run import Run, RunConfig, open_run, train


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    made = []
    for seed in range(3):
        config = RunConfig(model="mlp", width=8, epochs=3, train_size=64, test_size=16, seed=seed)
        train(config, folder / f"seed{seed}")
        made.append(open_run(folder / f"seed{seed}"))
    return made


def of(word: str, run: Run, **options: object) -> str | Directions:
    return directions_of(word, run, run.objective(**options))


def test_other_words_are_left_to_the_probe(runs: list[Run]):
    assert of("filter", runs[0]) == "filter"


def test_toward_another_run_ends_there(runs: list[Run]):
    objective = runs[0].objective()
    made = of(f"to:{runs[1].folder}", runs[0])
    assert isinstance(made, Directions)
    reached = objective.loss(objective.theta + made.vectors[0]).item()
    # theta + (other - theta) rounds each entry once.
    assert reached == pytest.approx(runs[1].objective().loss().item(), rel=1e-5)


def test_a_plane_goes_through_three_runs(runs: list[Run]):
    made = of(f"to:{runs[1].folder},{runs[2].folder}", runs[0])
    assert isinstance(made, Directions)
    thetas = torch.stack([run.objective().theta for run in runs])
    _, off = coordinates(thetas, thetas[0], made.vectors)
    assert off.max() < 1e-6
    with pytest.raises(ValueError, match="names 3 others; name one or two"):
        of(f"to:{runs[1].folder},{runs[2].folder},{runs[2].folder}", runs[0])


def test_the_trajectory_ends_at_the_checkpoint(runs: list[Run]):
    made = of("pca", runs[0])
    assert isinstance(made, Directions)
    answer = Surface(directions=made, resolution=3)(runs[0].objective())
    assert answer["trajectory_alpha"].values[-1] == pytest.approx(0, abs=1e-6)
    assert answer["trajectory_loss"].values[-1] == pytest.approx(float(answer["center_loss"]), rel=1e-6)
    snapshots = runs[0].store.read("trajectory")
    names = json.loads(snapshots.attrs["layout"])["names"]
    block = of("pca", runs[0], parameters=names[0].removeprefix("network."))
    assert isinstance(block, Directions)
    assert block.vectors.shape == (2, json.loads(snapshots.attrs["layout"])["shapes"][0][0] * 64)


def test_runs_that_do_not_fit_are_refused(runs: list[Run], tmp_path: Path):
    train(RunConfig(model="mlp", width=9, epochs=0, train_size=64, test_size=16), tmp_path / "wider")
    with pytest.raises(ValueError, match=r"wider has other parameters than .*: .* compare runs of equal architectures"):
        of(f"to:{tmp_path / 'wider'}", runs[0])
    with pytest.raises(MissingError):
        of(f"to:{tmp_path / 'nowhere'}", runs[0])
