"""Instability after a fork: what is trained, what is measured, and what the numbers say on made-up lines."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from cli import cli
from landscape import Store
from landscape.figures.drawing import draw
from models.config import RunConfig
from models.forking import Forks, instabilities
from models.joining import path_between

TINY = RunConfig(
    data="digits",
    train_size=40,
    test_size=20,
    model="mlp",
    width=4,
    depth=1,
    lr=0.5,
    epochs=3,
    batch_size=16,
    flow_every=0,
    snapshots="none",
)  # nine steps


def lines_of(heights):
    """Lines (fork_step, seed, pair, alpha) that are zero at both ends and as high as given half way."""
    values = np.zeros((*np.shape(heights), 1, 3))
    values[..., 0, 1] = heights
    dims = ("fork_step", "seed", "pair", "alpha")
    coords = {"fork_step": [0, 10, 100][: len(heights)], "seed": range(len(heights[0])), "alpha": [0.0, 0.5, 1.0]}
    return xr.Dataset({"loss": (dims, values), "accuracy": (dims, 1 - values)}, {**coords, "pair": ["0-1"]})


def test_instability_is_the_mean_over_seeds_with_students_interval():
    answer = instabilities(lines_of([[0.3, 0.5], [0.01, 0.02], [0.0, 0.0]]))
    assert answer["instability"].sel(metric="error").values == pytest.approx([0.4, 0.015, 0.0])
    reach = 12.7062 * 0.1  # Student's factor for one degree of freedom, times the standard error
    assert answer["instability_high"].sel(metric="error", fork_step=0).item() == pytest.approx(0.4 + reach, rel=1e-5)
    assert answer["spearman"].values == pytest.approx(-1.0)
    assert answer["seed_spearman"].shape == (2, 2)
    assert answer["stable_from"].sel(metric="error") == 10 and np.isnan(answer["stable_from"].sel(metric="loss"))


def test_stable_means_stable_at_all_later_forks_too():
    assert np.isnan(instabilities(lines_of([[0.0], [0.0], [0.3]]))["stable_from"].sel(metric="error"))
    assert instabilities(lines_of([[0.0], [0.0], [0.0]]))["stable_from"].sel(metric="error") == 0
    one = instabilities(lines_of([[0.3]]))
    assert np.isnan(one["spearman"]).all() and np.isnan(one["instability_low"]).all()


def test_forks_are_runs_of_their_own_and_lines_between_their_ends(tmp_path):
    forks = Forks(TINY, (4, 0, 4), seeds=2, copies=2, points=3)
    assert forks.steps == (0, 4) and len({config.hash for config in forks.configs()}) == 8
    answer = forks(tmp_path)
    assert answer["loss"].dims == ("fork_step", "seed", "pair", "alpha") and answer["loss"].shape == (2, 2, 1, 3)
    ends = [tmp_path / forks.run_config(4, 1, copy).hash for copy in (0, 1)]
    probe, objective = path_between(ends, False, None, {"points": 3, "refine": 0})
    assert (probe(objective)["loss"].values[0] == answer["loss"].sel(fork_step=4, seed=1).values[0]).all()
    assert set(draw(answer, forks.name)) == {"instability"}
    stored = (tmp_path / f"{forks.name}.h5").stat().st_mtime_ns
    assert forks(tmp_path).equals(answer) and (tmp_path / f"{forks.name}.h5").stat().st_mtime_ns == stored


def test_an_interrupted_answer_trains_nothing_twice(tmp_path):
    forks = Forks(TINY, (3,), seeds=2, points=3)

    def stop(stage, done, total):
        if stage == "line" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forks(tmp_path, progress=stop)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/weights.safetensors")}
    seen = []
    forks(tmp_path, progress=lambda stage, done, total: seen.append((stage, done)))
    assert len(before) == 4 and all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert ("line", 1) in seen and ("line", 0) not in seen


def test_a_way_that_failed_is_missing_and_the_others_go_on(tmp_path):
    forks = Forks(TINY, (0, 3), seeds=1, points=3)
    failed = forks.run_config(0, 0, 1)
    Store(tmp_path / failed.hash).save_json("failure", {"error": "made up", "config": failed.to_dict()})
    answer = forks(tmp_path)
    assert np.isnan(answer["loss"].sel(fork_step=0)).all() and np.isfinite(answer["loss"].sel(fork_step=3)).all()
    assert np.isnan(answer["spearman"]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": ()}, "steps must be numbers of at least 0"),
        ({"steps": (-1,)}, "steps must be numbers of at least 0"),
        ({"seeds": 0}, "at least one seed and two copies"),
        ({"copies": 1}, "at least one seed and two copies"),
        ({"points": 1}, "points must be at least 2"),
        ({"config": replace(TINY, fork_step=1)}, "leave out fork_step"),
        ({"config": replace(TINY, keep_best=True)}, "train to the same end"),
    ],
)
def test_forks_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(Forks(TINY, (0,)), **changes)


def test_a_fork_after_the_end_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match="a fork after step 9 is not before the end .* 9 steps"):
        Forks(TINY, (0, 9))(tmp_path / "late")
    assert not (tmp_path / "late").exists()


def test_the_command_says_from_where_on_it_is_stable(tmp_path):
    options = {"train-size": 40, "model": "mlp", "width": 4, "depth": 1, "epochs": 2, "batch-size": 20}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    arguments = ["fork", "--steps", "0,2", "--seeds", "1", "--points", "3", *words, "--flow-every", "0"]
    found = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path), "--json"])
    assert found.exit_code == 0, found.output
    assert [row["fork_step"] for row in json.loads(found.output)["rows"]] == [0, 2]
    again = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path)])
    assert "stable_from" in again.output
