"""Searches, the range test and the recipe: what they try, what they keep, and that they go on where they stopped."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from scipy.stats import kstest
from torch.nn import functional as F

from cli import cli
from landscape import Store
from models.run import RunConfig
from models.space import Choices, Range, read_dimension
from models.training import Training
from models.trials import run_trials
from models.tuning import LrRange, Recipe, Search, Space, best_trials, recipe
from models.tuning import lr_range as ranges
from models.tuning.proposals import Proposals, importances

pytest.importorskip("optuna", reason="needs the extra [tune]")

SMALL = {"data": "digits", "train_size": "100", "model": "mlp", "width": "8", "epochs": "1", "batch_size": "50"}


def small(**more: str) -> Space:
    return Space.read({**SMALL, **more})


# --- what may be chosen ------------------------------------------------------------------------------------


def test_reading_choices_and_ranges():
    assert read_dimension("lr", "0.1,0.01", float | None) == Choices((0.1, 0.01))
    assert read_dimension("lr", "1e-4..1e-1", float | None) == Range(1e-4, 1e-1)
    assert read_dimension("momentum", "uniform:0..0.9", float | None) == Range(0.0, 0.9, log=False)
    assert read_dimension("width", "4..64/3", int | None) == Choices((4, 16, 64))
    assert read_dimension("width", "1..4/8", int | None) == Choices((1, 2, 3, 4))
    assert read_dimension("optimizer", "sgd;adam:amsgrad=true,eps=1e-6", str).values == (
        "sgd",
        "adam:amsgrad=true,eps=1e-6",
    )
    assert read_dimension("skip", "yes,no", bool).values == (True, False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": "0.1,0.1"}, "lr has the value 0.1 twice"),
        ({"lr": "0..1"}, "lr needs a logarithmic range above 0"),
        ({"lr": "1..0.1"}, "lr needs a range from a lower to a higher"),
        ({"lr": "1e-3..1/1"}, "lr needs at least 2 values in a range"),
        ({"lr": ","}, "lr needs at least one value"),
        ({"lr": "fast,slow"}, "lr "),
        ({"learning_rate": "0.1"}, "unknown field of a run's configuration 'learning_rate'"),
        ({"lr": "0.1"}, "nothing varies"),
        ({"data": "digits,mnist1d;mnist1d"}, "data must have one value"),
        ({"lr": "0.1,0.2", "optimizer": "sgdd"}, "did you mean 'sgd'"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_training(fields, message):
    with pytest.raises(ValueError, match=message):
        Search(Space.read({**SMALL, **fields}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "best"}, "sampler must be one of"),
        ({"objective": "loss"}, "objective must be one of"),
        ({"trials": 3}, "a grid has 2 trials by itself"),
        ({"sampler": "random", "trials": 0}, "trials must be at least 1"),
    ],
)
def test_bad_searches(options, message):
    with pytest.raises(ValueError, match=message):
        Search(small(lr="0.1,0.2"), **options)
    with pytest.raises(ValueError, match="a grid needs values of lr"):
        Search(small(lr="0.1..0.2"))
    with pytest.raises(ValueError, match="give val_fraction above 0"):
        Search(small(lr="0.1,0.2", val_fraction="0"))
    with pytest.raises(ValueError, match="give epochs of at least 1"):
        Search(small(lr="0.1,0.2", epochs="0"))


# --- which points are tried --------------------------------------------------------------------------------


def test_a_grid_is_the_product():
    search = Search(small(lr="0.1,0.2,0.3", optimizer="sgd,adam"))
    points = {(point["lr"], point["optimizer"]) for point in search.points()}
    assert points == set(product((0.1, 0.2, 0.3), ("sgd", "adam"))) and len(search.points()) == 6


def test_draws_are_uniform_in_the_logarithm():
    proposals = Proposals({"lr": Range(1e-4, 1e-1), "momentum": Range(0, 1, log=False)}, "random", 0)
    points = [proposals.ask()[1] for _ in range(400)]
    logs = (np.log10([point["lr"] for point in points]) + 4) / 3
    assert kstest(logs, "uniform").pvalue > 0.01
    assert kstest([point["lr"] / 1e-1 for point in points], "uniform").pvalue < 1e-6  # not uniform itself
    assert kstest([point["momentum"] for point in points], "uniform").pvalue > 0.01


def test_random_search_is_better_where_one_of_two_parameters_matters():
    """Bergstra & Bengio 2012: nine points of a grid look at three values of what matters, nine draws at nine."""

    def best(points) -> float:
        return min((point["a"] - peak) ** 2 for point in points)

    grid = Range(0, 1, log=False).spaced(3)
    gains = []
    for seed in range(100):
        peak = np.random.default_rng(seed).uniform()
        drawn = Proposals({name: Range(0, 1, log=False) for name in "ab"}, "random", seed)
        gridded = Proposals({name: grid for name in "ab"}, "grid", seed)
        gains.append(best([gridded.ask()[1] for _ in range(9)]) - best([drawn.ask()[1] for _ in range(9)]))
    assert np.mean(gains) > 3 * np.std(gains) / 10


def test_the_parameter_that_matters_is_found():
    rng = np.random.default_rng(0)
    dimensions = {"lr": Range(1e-4, 1), "weight_decay": Range(1e-6, 1e-2)}
    points = [{"lr": 10 ** rng.uniform(-4, 0), "weight_decay": 10 ** rng.uniform(-6, -2)} for _ in range(40)]
    shares = importances(dimensions, points, [math.log10(point["lr"]) ** 2 for point in points])
    assert shares["lr"] > 0.9 and sum(shares.values()) == pytest.approx(1)
    assert np.isnan(importances(dimensions, points, [1.0] * 40)["lr"])


# --- trials ------------------------------------------------------------------------------------------------


def test_a_search_goes_on_with_the_trials_that_are_missing(tmp_path):
    search = Search(small(lr="0.1,0.2", weight_decay="0,1e-3"))
    whole = search(tmp_path / "whole")
    run_trials([search.space.config(point) for point in search.points()[:2]], tmp_path / "cut")
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").rglob("weights.safetensors")}
    cut = search(tmp_path / "cut")
    assert whole.attrs["content_digest"] == cut.attrs["content_digest"]
    assert len(first) == 2 and all(path.stat().st_mtime_ns == time for path, time in first.items())
    assert search(tmp_path / "cut").equals(cut)


def test_draws_that_learn_go_on_too(tmp_path):
    search = Search(small(lr="1e-3..10"), "tpe", 5)
    whole = search(tmp_path / "whole")
    name = whole["run"].values[0]
    (tmp_path / "cut").mkdir()
    (tmp_path / "whole" / name).rename(tmp_path / "cut" / name)
    assert search(tmp_path / "cut").attrs["content_digest"] == whole.attrs["content_digest"]
    with pytest.raises(ValueError, match="executor must be serial"):
        search(tmp_path / "other", "processes")


def test_failed_and_diverged_trials_are_kept_beside_the_others(tmp_path):
    """Batch normalization cannot take a last batch of one example, which only the data tells."""
    answer = Search(small(lr="0.1,1e20", norm="none,batch", batch_size="89", train_size="90"))(tmp_path)
    rows = {(row["lr"], row["norm"]): row for row in best_trials(answer)}
    assert rows[0.1, "none"]["status"] == "finished" and math.isfinite(rows[0.1, "none"]["objective"])
    assert rows[1e20, "none"]["status"] == "diverged"
    assert rows[0.1, "batch"]["status"] == "failed" and "leave a batch of one" in rows[0.1, "batch"]["error"]
    assert best_trials(answer)[0]["status"] == "finished"


def test_the_objective_is_what_it_says(tmp_path):
    space = small(lr="0.5,1.0", epochs="4")
    for kind in ("best-val-loss", "last-val-loss", "best-val-error", "last-val-error"):
        answer = Search(space, objective=kind)(tmp_path)
        for trial in range(2):
            training = Store(tmp_path / answer["run"].values[trial]).read("training")
            values = training["val_loss"] if kind.endswith("loss") else 1 - training["val_accuracy"]
            expected = values.min() if kind.startswith("best") else values[-1]
            assert answer["objective"].values[trial] == pytest.approx(float(expected))


def test_a_missing_optuna_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'landscape-lab[tune]'")):
        Search(small(lr="0.1,0.2"))(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_data_fails_once(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        Search(small(lr="0.1,0.2", data=f"idx:{tmp_path}/nowhere"))(tmp_path / "out")
    assert not list(tmp_path.rglob("failure.json"))


# --- the range test ----------------------------------------------------------------------------------------


def test_gradient_descent_on_a_quadratic_turns_before_its_edge_of_stability():
    """w <- (1 - lr h) w + lr noise: the loss falls while lr is small, rises with the noise, and breaks beyond 2/h."""
    rng, h, w, losses = np.random.default_rng(0), 4.0, 1.0, []
    rates = np.geomspace(1e-4, 10, 400)
    for rate in rates:
        losses.append(h * w**2 / 2 + 0.05)
        w = (1 - rate * h) * w + rate * 0.1 * rng.standard_normal()
    found = ranges.suggestions(rates, ranges.smooth(np.array(losses)))
    assert 0.1 / h < found["lowest"] < 2 / h < found["diverged"] < 4 / h
    assert found["suggested"] == found["lowest"] / 10 and found["steepest"] < found["lowest"]


def test_a_range_that_breaks_at_once_suggests_nothing():
    found = ranges.suggestions(np.geomspace(1, 10, 30), np.r_[1.0, np.nan, np.ones(28)])
    assert np.isnan(found["suggested"]) and found["diverged"] == pytest.approx(10 ** (1 / 29))


def test_the_range_test_trains_over_the_range(tmp_path):
    test = LrRange(RunConfig(data="digits", train_size=100, batch_size=20, model="mlp"), 1e-4, 10, steps=40, seeds=2)
    answer = test(tmp_path)
    rates = answer["learning_rate"].values
    assert (len(rates), rates[0], rates[-1]) == (40, pytest.approx(1e-4), pytest.approx(10))
    watched = LrRange(replace(test.config, early_stopping=1, keep_best=True, probes="symmetry"), 1e-4, 10, 40)
    assert [(c.early_stopping, c.keep_best, c.probes) for c in watched.configs()] == [(0, False, "none")]
    assert np.diff(np.log(rates)) == pytest.approx(np.log(1e5) / 39)
    assert answer["loss"].shape == (2, 40) and not np.array_equal(*answer["loss"].values)
    assert test(tmp_path).equals(answer)
    for fields, message in (
        ({"lowest": 0}, "must rise"),
        ({"steps": 5}, "steps must be"),
        ({"seeds": 0}, "seeds must be"),
    ):
        with pytest.raises(ValueError, match=message):
            LrRange(test.config, **fields)


# --- the recipe and the commands ---------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch):
    for name, value in (("FEW_EPOCHS", 40), ("COARSE_EPOCHS", 1), ("REFINED_EPOCHS", 2), ("ITERATIONS", 60)):
        monkeypatch.setattr(recipe, name, value)


def test_the_recipe_goes_through_seven_steps_and_goes_on(tmp_path, short):
    config = RunConfig(data="digits", train_size=300, batch_size=30, model="mlp", width=32, lr=0.1)
    seen = []
    steps, best = Recipe(config)(tmp_path, tell=seen.append)
    assert [step.number for step in steps] == list(range(1, 8)) and steps == seen
    assert steps[0].status == "ok" and "log 10 = 2.303" in steps[0].found
    assert "training accuracy" in steps[1].found and steps[2].status == "ok"
    assert best.lr != 0.1 and best.epochs == 2
    assert Recipe(config)(tmp_path)[0] == steps


def test_the_recipe_says_what_is_wrong(tmp_path, short):
    bad = RunConfig(data="digits", train_size=100, batch_size=20, model="mlp", depth=3, init="normal:1.0", lr=1e-6)
    work = recipe._Work(bad, tmp_path, "serial")
    first, second = work.initial_loss(), work.few_batches()
    assert first.status == "problem" and "smaller weights" in first.advice
    assert second.status == "problem" and "lr too low" in second.advice
    with pytest.raises(ValueError, match="val_fraction above 0"):
        Recipe(RunConfig(val_fraction=0.0))


def test_batch_norm_is_measured_with_statistics_of_its_own(tmp_path, short):
    config = RunConfig(data="digits", train_size=256, model="resnet", depth=8, width=8, init="he-normal")
    training = Training(config)
    loss = F.cross_entropy(training.network.train()(training.data.train.inputs), training.data.train.targets).item()
    step = recipe._Work(config, tmp_path, "serial").initial_loss()
    assert float(step.found.split()[1]) == pytest.approx(loss, rel=0.1)


def test_the_command_that_it_ends_with_makes_the_same_run():
    config = RunConfig(model="resnet", skip=False, optimizer="adam", lr=0.3, keep_best=True)
    words = config.command("results/r 0")
    assert words[:2] == ["landscape", "train"] and words[-2:] == ["--out", "results/r 0"]
    assert "--no-skip" in words and "--keep-best" in words and "0.9,0.999" in words
    assert "--epochs" not in words


def call(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == code, result.output
    return result


def flags(**more: str) -> list[str]:
    return [word for name, text in {**SMALL, **more}.items() for word in (f"--{name.replace('_', '-')}", text)]


def test_commands(tmp_path: Path):
    out = str(tmp_path)
    grid = call("tune", "grid", *flags(lr="0.1,0.2"), "--out", out, "--json")
    assert [row["status"] for row in json.loads(grid.stdout)["trials"]] == ["finished"] * 2
    assert "objective" in call("tune", "random", *flags(lr="0.1..0.2"), "--trials", "2", "--out", out).stdout
    test = call("tune", "lr", *flags(), "--steps", "20", "--out", out, "--json")
    assert json.loads(test.stdout)["suggested"] > 0
    assert "3 files" in call("figure", out, "--format", "png").stdout
    assert "nothing varies" in call("tune", "grid", *flags(lr="0.1"), "--out", out, code=3).output
