"""The comparison of averages of weights with the last iterate and with decayed SGD."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from click.testing import CliRunner

from cli import cli
from landscape.figures import draw
from landscape.probes import Rays
from landscape.store import MissingError, Store
from landscape.weights import digest_tensors
from models.opened import open_run
from models.run import RunConfig
from models.schedules import make_schedule
from models.swa import MEASURES, POINTS, AveragingStudy, differences, rows

TINY = RunConfig(model="mlp", width=4, depth=1, norm="batch", train_size=80, test_size=40, batch_size=20, lr=0.3)
TINY = replace(TINY, epochs=4, flow_every=0)
STUDY = AveragingStudy(TINY, seeds=(3,), tail=0.5, cycles=2, k=2, rays=2, radius=1.0, resolution=3)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swa")
    STUDY(folder)
    return folder


@pytest.fixture(scope="module")
def answer(home) -> xr.Dataset:
    return STUDY(home)


def run_of(home, arm, seed=3):
    return open_run(home / STUDY.configs(seed)[arm].hash)


def test_all_runs_have_one_start_and_one_budget(home):
    runs = {arm: run_of(home, arm) for arm in STUDY.configs(3)}
    thetas = {arm: run.store.read("trajectory")["theta"].values for arm, run in runs.items()}
    assert all(np.array_equal(theta[0], thetas["last"][0]) for theta in thetas.values())
    assert np.array_equal(thetas["cyclic"][:3], thetas["last"][:3])  # up to the tail, after 2 of 4 epochs
    assert not np.array_equal(thetas["cyclic"][3], thetas["last"][3])
    assert np.array_equal(thetas["ema"], thetas["last"])
    assert {run.metrics["steps"] for run in runs.values()} == {16}


def test_rates_are_high_or_cycle_in_the_tail_and_decay_elsewhere():
    factors = {arm: make_schedule(config.schedule, 160) for arm, config in STUDY.configs(3).items()}
    assert {factors["last"](t) for t in range(80, 160)} == {0.5}
    assert [factors["cyclic"](t) for t in (80, 119, 120, 159)] == pytest.approx([0.5, 0.06125, 0.5, 0.06125], rel=0.01)
    assert factors["decayed"](159) == pytest.approx(0.01)


def test_values_are_those_of_the_networks(home, answer):
    averaged = run_of(home, "last")
    for point, folder in (("last", averaged.folder), ("swa", home / f"{averaged.folder.name}-swa-start-2")):
        metrics = open_run(folder).objective(normalization="recalibrated").metrics()
        found = answer["value"].sel(seed=3, point=point)
        assert found.sel(measure="test_loss").item() == pytest.approx(metrics["test_loss"], rel=1e-6)
        assert found.sel(measure="test_error").item() == pytest.approx(1 - metrics["test_accuracy"])
    assert answer["point"].values.tolist() == list(POINTS) and answer["measure"].values.tolist() == list(MEASURES)


def test_the_exponential_average_is_the_one_of_the_training(home, answer):
    run = run_of(home, "ema")
    assert (run.folder / "last.safetensors").exists()
    found = answer["value"].sel(seed=3, point="ema", measure="test_loss").item()
    assert found == pytest.approx(run.metrics["test_loss"], rel=1e-5)


def test_rises_are_the_means_over_one_set_of_rays_a_seed(home, answer):
    objective = run_of(home, "decayed").objective(normalization="recalibrated")
    rays = Rays(2, radius=1.0, seed=3)(objective)
    found = answer["rise"].sel(seed=3, point="decayed")
    assert found.sel(metric="train_loss").values == pytest.approx(rays["mean_loss_rise"].values, rel=1e-5, abs=1e-7)
    assert found.sel(metric="test_error").values == pytest.approx(rays["mean_test_error_rise"].values, abs=1e-9)
    last = answer["value"].sel(seed=3, point="decayed", measure="train_loss_rise").item()
    assert last == found.sel(metric="train_loss").values[-1]


def test_lines_end_at_the_networks(answer):
    for reference in ("last", "decayed"):
        line = answer["line"].sel(reference=reference, metric="train_loss")
        assert line["alpha"].values == pytest.approx([-0.5, 0, 0.5, 1, 1.5])
        for place, point in ((0.0, "swa"), (1.0, reference)):
            expected = answer["value"].sel(point=point, measure="train_loss").values
            assert line.sel(alpha=place, method="nearest").values == pytest.approx(expected, rel=1e-4)


def test_the_average_of_three_lies_in_their_plane(answer):
    """The tail is two epochs long, so that SWA is the mean of just the three iterates that span the plane."""
    assert answer["mark"].values.tolist() == ["SGD, step 8", "SGD, step 12", "SGD, step 16", "mean of the three", "SWA"]
    assert answer["mark_off_plane"].values == pytest.approx(np.zeros(5), abs=1e-5)
    for axis in ("mark_x", "mark_y"):
        assert answer[axis].values[3:] == pytest.approx([answer[axis].values[:3].mean()] * 2, abs=1e-5)
    assert answer["plane"].shape == (2, 3, 3) and np.isfinite(answer["plane"]).all()


def test_differences_are_paired_by_seed():
    """By hand: 1, 2 and 4 points less than the last, though the values themselves vary far more."""
    value = xr.DataArray(np.zeros((3, 3, 1)), dims=("seed", "point", "measure"))
    value = value.assign_coords(point=["last", "decayed", "swa"], measure=["test_loss"])
    value.loc[{"point": "last"}] = np.array([[10.0], [20.0], [90.0]])
    value.loc[{"point": "swa"}] = np.array([[9.0], [18.0], [86.0]])
    found = differences(value).sel(point="swa", reference="last", measure="test_loss")
    assert found["difference_mean"].item() == pytest.approx(-7 / 3)
    reach = 4.3027 * np.std([1, 2, 4], ddof=1) / 3**0.5
    assert found["difference_high"].item() == pytest.approx(-7 / 3 + reach, rel=1e-4)
    assert found["lower"].item() == 1
    alone = differences(value.isel(seed=[0])).sel(point="swa", reference="last", measure="test_loss")
    assert alone["difference_mean"].item() == -1 and np.isnan(alone["difference_low"].item())


def test_figures_and_tables(answer):
    figures = draw(answer, "swa-123456789012")
    assert set(figures) == {"averages", "differences"}
    values, compared = rows(answer)
    assert [row["network"] for row in values] == list(POINTS)
    assert {"swa - last", "swa - decayed"} < {row["less"] for row in compared} and len(compared) == 10


def test_the_same_question_goes_on_where_it_stopped(home, answer, tmp_path, monkeypatch):
    shutil.copytree(home, tmp_path / "cut")
    (tmp_path / f"cut/{STUDY.name}.h5").unlink()
    monkeypatch.setattr("models.trials._train", None)  # nothing is trained again
    again = STUDY(tmp_path / "cut")
    assert again.attrs["content_digest"] != "" and again["value"].equals(answer["value"])
    assert again["plane"].equals(answer["plane"])


@pytest.mark.slow
def test_a_radius_of_its_own_is_where_the_decayed_loss_has_risen_by_log_2(home, tmp_path):
    shutil.copytree(home, tmp_path / "auto")
    found = replace(STUDY, radius="auto")(tmp_path / "auto")
    rise = found["rise"].sel(seed=3, point="decayed", metric="train_loss").values[-1]
    assert rise == pytest.approx(np.log(2), rel=0.5)  # other rays than it was found by


def test_a_run_that_failed_is_named(home, tmp_path):
    shutil.copytree(home, tmp_path / "failed")
    folder = tmp_path / "failed" / STUDY.configs(3)["cyclic"].hash
    (tmp_path / f"failed/{STUDY.name}.h5").unlink()
    Store(folder).save_json("failure", {"error": "ValueError: no"})
    with pytest.raises(MissingError, match=r"could not be trained \(ValueError: no\); remove the folder once"):
        STUDY(tmp_path / "failed")


def test_a_run_that_diverged_is_named(home, monkeypatch):
    monkeypatch.setattr("models.opened.Run.metrics", {"test_loss": np.nan, "final_train_loss": 0.0})
    with pytest.raises(MissingError, match="diverged, so it has no landscape; choose a lower learning rate"):
        replace(STUDY, rays=3)(home)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": ()}, r"seeds must be different and at least one, got \(\)"),
        ({"seeds": (0, 0)}, "seeds must be different"),
        ({"tail": 1.0}, "tail must be a share of the epochs between 0 and 1, got 1.0"),
        ({"resolution": 2}, "resolution must be at least 3, got 2"),
        ({"tail": 0.25}, "a tail of 0.25 of 4 epochs has 1, and a plane needs the ends of at least 2"),
        ({"cycles": 0}, "the 2 epochs of the tail are not 0 cycles of whole epochs"),
        ({"cycles": 3}, "the 2 epochs of the tail are not 3 cycles of whole epochs; choose cycles that divide 2"),
        ({"k": 5}, "takes the last 5 ends of epochs, but there are 4"),
        ({"rays": 1}, "rays must be at least 2, got 1"),
        ({"config": replace(TINY, schedule="cosine")}, "schedule is set by the comparison, which gives every run the"),
        ({"high": 2.0}, "needs high above 0 and at most 1, got 2.0"),
    ],
)
def test_what_it_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(STUDY, **changes)


@pytest.mark.slow
def test_the_command_takes_what_is_trained(home, tmp_path):
    shutil.copytree(home, tmp_path / "swa")
    words = "swa --model mlp --width 4 --depth 1 --norm batch --train-size 80 --test-size 40 --batch-size 20 --lr 0.3"
    words += " --epochs 4 --flow-every 0 --seeds 3,4 --tail 0.5 --cycles 2 --k 2 --rays 2 --radius 1 --resolution 3"
    before = (run_of(tmp_path / "swa", "last").folder / "training.h5").stat().st_mtime_ns
    found = CliRunner().invoke(cli, [*words.split(), "--out", str(tmp_path / "swa")])
    assert found.exit_code == 0, found.output
    assert "swa - decayed" in found.output and "±" in found.output
    assert (run_of(tmp_path / "swa", "last").folder / "training.h5").stat().st_mtime_ns == before
    listed = CliRunner().invoke(cli, ["list", str(tmp_path / "swa"), "--json"])
    assert len(json.loads(listed.output)) == 14  # and the folder of the answers is no run


def test_the_command_refuses_before_it_makes_a_folder(tmp_path):
    refused = CliRunner().invoke(cli, ["swa", "--epochs", "4", "--out", str(tmp_path / "new")])
    assert refused.exit_code == 3 and "a plane needs the ends of at least 2" in refused.output
    assert not (tmp_path / "new").exists()


def test_averages_made_for_it_are_those_of_a_callback(home):
    averaged = open_run(home / f"{run_of(home, 'last').folder.name}-swa-start-2")
    thetas = torch.from_numpy(run_of(home, "last").store.read("trajectory")["theta"].values[2:])
    flat = torch.cat([p.detach().reshape(-1) for p in averaged.model().parameters()])
    assert torch.allclose(flat, thetas.mean(0), atol=1e-6) and len(thetas) == 3
    assert digest_tensors(averaged.weights()) != digest_tensors(run_of(home, "last").weights())
