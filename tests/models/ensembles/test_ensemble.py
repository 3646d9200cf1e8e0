"""Ensembles of runs, snapshots, draws and views: closed forms, refusals, and what a user gets."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from click.testing import CliRunner
from torch import nn
from torch.nn import functional as F

from cli import cli
from landscape.store import MissingError, Store
from landscape.weights import load_weights, save_weights
from models.ensembles import MEMBERS, Ensemble, ask_ensemble
from models.ensembles import ensemble as ensemble_module
from models.ensembles import predictions as predictions_module
from models.ensembles.members import Member, predict
from models.normalization import settle_statistics
from models.run import RunConfig, import_weights, open_run, train

TINY = RunConfig(
    model="mlp", width=8, depth=1, train_size=64, test_size=60, val_fraction=0.1, batch_size=16, epochs=4, lr=0.5
)
CYCLES = replace(TINY, norm="batch", schedule="cosine-restarts:2")
OTHERS = {
    "seed1": replace(TINY, seed=1),
    "cycles": CYCLES,
    "uneven": replace(CYCLES, epochs=3),
    "dropout": replace(TINY, activation="selu:dropout=0.3", lr=0.1),
    "small": replace(TINY, train_size=48),
    "other": replace(TINY, data_seed=1),
}


class Stop(Exception):
    """The power is gone."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ensembles")
    for name, config in {"seed0": TINY, **OTHERS}.items():
        train(config, folder / name)
    shutil.copytree(folder / "seed0", folder / "copy")
    return folder


def ask(home: Path, *names: str, **fields) -> xr.Dataset:
    return Ensemble(**fields)({name: open_run(home / name) for name in names})


# Runs


def test_two_seeds_are_averaged_as_they_are(home):
    answer = ask(home, "seed0", "seed1", per_example=True)
    runs = [open_run(home / name) for name in ("seed0", "seed1")]
    test = runs[0].data().test
    with torch.no_grad():
        p = torch.stack([F.softmax(run.model()(test.inputs).double(), dim=1) for run in runs]).mean(dim=0)
    np.testing.assert_allclose(answer["probability"], p, rtol=1e-6)
    scores = dict(zip(answer["score"].values, answer["ensemble_score"].values, strict=True))
    assert scores["error"] == pytest.approx((p.argmax(1) != test.targets).double().mean().item())
    assert scores["nll"] == pytest.approx(F.nll_loss(p.log(), test.targets).item(), rel=1e-6)
    for position, run in enumerate(runs):
        one = answer["member_score"].isel(member=position)
        assert one.sel(score="error").item() == pytest.approx(1 - run.metrics["test_accuracy"])
        assert one.sel(score="nll").item() == pytest.approx(run.metrics["test_loss"], rel=1e-6)
    assert answer["member_run"].values.tolist() == ["seed0", "seed1"]
    assert answer["baseline"].values.tolist() == ["members"] and answer["member_seed"].values.tolist() == [-1, -1]


def test_a_run_and_its_copy_gain_exactly_nothing(home):
    answer = ask(home, "seed0", "copy")
    assert (answer["gain"].values == 0).all() and answer["disagreement"] == 0
    assert (answer["gain_high"].values[:, :3] == 0).all()


def test_the_same_examples_may_be_standardized_by_other_constants(home):
    answer = ask(home, "seed0", "small")
    run = open_run(home / "small")
    found = answer["member_score"].sel(score="nll").values[1]
    assert found == pytest.approx(run.metrics["test_loss"], rel=1e-6)
    assert not torch.equal(run.data().test.inputs, open_run(home / "seed0").data().test.inputs)


def images(folder: Path, classes: int, examples: int = 40) -> str:
    rng = np.random.default_rng(0)
    labels = np.arange(examples) % classes
    np.savez(folder / f"{classes}.npz", x=rng.random((examples, 1, 8, 8), np.float32), y=labels)
    return f"npz:{folder / f'{classes}.npz'}"


def test_runs_that_do_not_match_are_refused_with_the_reason(home, tmp_path):
    with pytest.raises(ValueError, match=r"other is tested on other examples than seed0 \(data_seed is 1 and 0\); p"):
        ask(home, "seed0", "other")
    train(replace(TINY, data=images(tmp_path, 3), train_size=None, test_size=None), tmp_path / "three")
    three = open_run(tmp_path / "three")
    with pytest.raises(ValueError, match="the data of three have 3 classes, those of seed0 10; an ensemble averages"):
        Ensemble()({"seed0": open_run(home / "seed0"), "three": three})


def wide() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12))


def test_networks_with_other_outputs_are_refused(tmp_path):
    runs = {}
    for name, outputs in (("wide", 12), ("narrow", 10)):
        torch.manual_seed(0)
        save_weights(
            tmp_path / f"{name}.safetensors", {"1.weight": torch.randn(outputs, 64), "1.bias": torch.zeros(outputs)}
        )
    runs["wide"] = import_weights(tmp_path / "wide.safetensors", f"{__name__}:wide", "digits", tmp_path / "wide")
    runs["narrow"] = import_weights(
        tmp_path / "narrow.safetensors", f"{__name__}:narrow", "digits", tmp_path / "narrow"
    )
    with pytest.raises(
        ValueError, match="narrow tells 10 classes apart and wide 12; an ensemble averages over the same"
    ):
        Ensemble()(runs)
    with pytest.raises(MissingError, match="wide has no trajectory, so it has no snapshots; give a run that was"):
        Ensemble(members="snapshots")(runs)


def narrow() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def test_a_prediction_that_is_not_finite_names_its_run(home, tmp_path):
    shutil.copytree(home / "seed1", tmp_path / "huge")
    weights, _ = load_weights(tmp_path / "huge/weights.safetensors")
    save_weights(tmp_path / "huge/weights.safetensors", {name: 1e30 * tensor for name, tensor in weights.items()})
    with pytest.raises(ValueError, match="huge predicts values that are not finite on the test data; leave it out"):
        Ensemble()({"seed0": open_run(home / "seed0"), "huge": open_run(tmp_path / "huge")})


# Snapshots


def test_the_ends_of_cycles_are_snapshots(home):
    run = open_run(home / "cycles")
    answer = ask(home, "cycles", members="snapshots")
    assert answer["member_name"].values.tolist() == ["step 8", "step 16"]
    assert answer["baseline"].values.tolist() == ["members", "plain"]
    assert answer.attrs["normalization"] == "recalibrated"
    network = run.model()
    settle_statistics(network, run.data().train.inputs)  # as for every snapshot, whose statistics are not kept
    test = run.data().test
    expected = F.cross_entropy(network(test.inputs).double(), test.targets).item()
    assert answer["member_score"].sel(score="nll").values[-1] == pytest.approx(expected, rel=1e-6)
    assert expected != pytest.approx(run.metrics["test_loss"], rel=1e-3)  # the running ones are others


def test_the_last_snapshots_need_no_cycles(home):
    run = open_run(home / "seed0")
    answer = ask(home, "seed0", members="snapshots:2,moments=kept")
    assert answer["member_name"].values.tolist() == ["step 12", "step 16"]
    nll = answer["member_score"].sel(score="nll").values
    assert nll[-1] == pytest.approx(run.metrics["test_loss"], rel=1e-6) != nll[0]
    assert ask(home, "seed0", members="snapshots:moments=kept").sizes["member"] == 4
    both = ask(home, "cycles", "seed0", members="snapshots:1,moments=kept")
    assert both["member_run"].values.tolist() == ["cycles", "seed0"]


@pytest.mark.parametrize(
    ("name", "members", "message"),
    [
        ("seed0", "snapshots", "trained under schedule 'constant', which has no cycles; take its last snapshots, as"),
        ("seed0", "snapshots:5,moments=kept", "has 4 snapshots after its first step, fewer than last=5; take fewer"),
        ("cycles", "snapshots:3", "has 2 cycles, fewer than last=3; take fewer"),
        ("cycles", "snapshots:-1", "need last of at least 1, or 0 for all, got -1"),
        (
            "uneven",
            "snapshots",
            r"kept no snapshot after step 6, where the rate of a cycle is lowest \(it is after 6, 12\); train",
        ),
        ("seed0", "dropout:3", "nothing in the network of .*seed0 draws at random, so all draws would be the same"),
        ("dropout", "dropout:0", "need draws of at least 1 and a seed of at least 0, got 0 and 0"),
        ("dropout", "dropout:3,seed=-1", "need draws of at least 1 and a seed of at least 0, got 3 and -1"),
        ("seed0", "runs", "an ensemble needs at least two members, got one; give several runs, or choose"),
    ],
)
def test_members_that_do_not_suit_a_run(home, name, members, message):
    with pytest.raises(ValueError, match=message):
        ask(home, name, members=members)


def test_predictions_that_memory_cannot_hold_are_refused_before_they_are_made(home, monkeypatch):
    monkeypatch.setattr(ensemble_module, "_MOST_BYTES", 8 * 60 * 10 * 3)
    assert ask(home, "dropout", members="dropout:3").sizes["member"] == 3
    with pytest.raises(ValueError, match="the predictions of 4 members would take 0.0 GiB, more than 2; choose fewer"):
        ask(home, "dropout", members="dropout:4")


# Draws


def drawn(network: nn.Module, inputs: torch.Tensor, seed: int = 0) -> np.ndarray:
    with Member("", lambda: network.eval(), seed).predicting(torch.device("cpu")) as drawing:
        return predict(drawing, inputs).double().numpy()


def test_dropout_before_a_linear_layer_has_the_mean_and_the_variance_it_must():
    """y = sum of w_i x_i m_i / (1 - p), with m_i Bernoulli(1 - p): mean w x, variance p / (1 - p) sum (w_i x_i)^2."""
    p, number = 0.3, 40_000
    network = nn.Sequential(nn.Dropout(p), nn.Linear(5, 1, bias=False))
    x = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0])
    parts = (network[1].weight.detach()[0] * x).double().numpy()
    y = drawn(network, x.expand(number, 5))[:, 0]
    variance = p / (1 - p) * (parts**2).sum()
    assert abs(y.mean() - parts.sum()) < 4 * np.sqrt(variance / number)
    spread = np.sqrt(((y - y.mean()) ** 2).var() / number)  # standard error of a variance
    assert abs(y.var() - variance) < 4 * spread
    assert abs(y.var() - p * (parts**2).sum()) > 10 * spread  # the control: without 1 / (1 - p)


def test_without_a_share_to_drop_a_draw_is_the_plain_prediction():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Dropout(0.0), nn.Linear(5, 3), nn.BatchNorm1d(3))
    inputs = torch.randn(8, 5)
    network(inputs)  # statistics other than those it starts with
    before = torch.get_rng_state()
    assert np.array_equal(drawn(network, inputs), network.eval()(inputs).detach().double().numpy())
    assert torch.equal(before, torch.get_rng_state())


def test_draws_are_many_and_come_again_by_their_seed(home):
    answer = ask(home, "dropout", members="dropout:4")
    assert len(set(answer["member_seed"].values.tolist())) == 4
    assert 0 < answer["mutual_information"] < answer["predictive_entropy"]
    xr.testing.assert_identical(answer, ask(home, "dropout", members="dropout:draws=4"))
    other = ask(home, "dropout", members="dropout:4,seed=1")
    assert not (other["member_score"].values == answer["member_score"].values).all()
    plain = answer["baseline_score"].sel(baseline="plain", score="nll").item()
    assert plain == pytest.approx(open_run(home / "dropout").metrics["test_loss"], rel=1e-6)


# Views


def test_one_view_that_changes_nothing_is_the_plain_prediction(home):
    answers = [ask(home, "seed0", "seed1", views=views) for views in ("plain", "crops:scales=1,places=center")]
    assert np.array_equal(*(answer["ensemble_score"].values for answer in answers))
    assert (answers[1]["gain"].sel(baseline="members") == answers[1]["gain"].sel(baseline="plain")).all()


def test_views_multiply_members(home):
    answer = ask(home, "seed0", "seed1", views="crops:scales=1/1.25,flips=forced")
    assert answer.sizes["member"] == 2 * 2 * (1 + 5)
    assert answer["member_view"].values[:2].tolist() == ["8x8 center", "8x8 center flipped"]
    plain = ask(home, "seed0", "seed1")
    first = answer["member_score"].isel(member=[0, 12]).values
    assert np.array_equal(first, plain["member_score"].values)
    with pytest.raises(ValueError, match="on digits, a mirrored digit is another sign"):
        ask(home, "seed0", views="crops:flips=yes")


# The question and its answer


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"members": "run"}, "unknown members 'run'; did you mean 'runs'"),
        ({"members": "dropout"}, "members 'dropout' needs its draws, got 'dropout'; write 'dropout:VALUE'"),
        ({"views": "crop"}, "unknown views 'crop'; did you mean 'crops'"),
        ({"subsets": 0}, "subsets must be at least 1, got 0"),
        ({"resamples": 10}, "resamples must be at least 100, got 10"),
        ({"bins": 0}, "bins must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_what_cannot_be_asked(fields, message):
    with pytest.raises(ValueError, match=message):
        Ensemble(**fields)


def test_equal_questions_are_written_in_one_way():
    assert Ensemble("dropout:draws=3,seed=0", "crops:1/1.143") == Ensemble("dropout:3", "crops")


def test_every_kind_of_members_is_tested():
    assert set(MEMBERS) == {"runs", "snapshots", "dropout"}


def test_an_interrupted_ensemble_goes_on_with_the_same_bits(home, tmp_path, monkeypatch):
    runs = {"dropout": open_run(home / "dropout")}
    wanted = Ensemble(members="dropout:5", views="crops:scales=1/1.25")
    whole = wanted(runs)

    def stop(stage: str, done: int, total: int) -> None:
        assert (stage, total) == ("members", 5)
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        ask_ensemble(wanted, runs, tmp_path, progress=stop)
    computed = []
    predict_as_ever = predictions_module.predict
    monkeypatch.setattr(predictions_module, "predict", lambda *given: computed.append(given) or predict_as_ever(*given))
    name, answer = ask_ensemble(wanted, runs, tmp_path)
    assert len(computed) == 2 * 6 + 1  # two members of six views, and the network as it is
    xr.testing.assert_equal(answer.drop_attrs(), whole.drop_attrs())
    assert {"created_utc", "command", "git_commit", "device", "runs", "probe_fields"} <= set(answer.attrs)
    assert ask_ensemble(wanted, runs, tmp_path)[0] == name and len(computed) == 13
    assert not list(tmp_path.glob("*.journal"))
    assert ask_ensemble(replace(wanted, seed=1), runs, tmp_path)[0] != name


def test_predictions_of_another_machine_are_not_mixed_in(home, tmp_path, monkeypatch):
    runs = {"dropout": open_run(home / "dropout")}
    wanted = Ensemble(members="dropout:2")

    def stop(stage: str, done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        ask_ensemble(wanted, runs, tmp_path, progress=stop)
    computed = []
    predict_as_ever = predictions_module.predict
    monkeypatch.setattr(predictions_module, "predict", lambda *given: computed.append(given) or predict_as_ever(*given))
    monkeypatch.setattr(predictions_module, "device_name", lambda device: "another one")
    ask_ensemble(wanted, runs, tmp_path)
    assert len(computed) == 2 + 1


def test_the_command(home, tmp_path):
    runner = CliRunner()
    folders = [str(home / name) for name in ("seed0", "seed1")]
    shown = runner.invoke(cli, ["ensemble", *folders, "--out", str(tmp_path / "e")])
    assert shown.exit_code == 0, shown.output
    seed0 = open_run(home / "seed0").metrics
    assert f"{1 - seed0['test_accuracy']:.4g}" in next(line for line in shown.output.splitlines() if "seed0" in line)
    for words in ("gain over members", "95% bootstrap intervals over test examples, not over seeds", "mutual_inform"):
        assert words in shown.output
    (name,) = Store(tmp_path / "e", create=False).names()
    assert {path.name for path in (tmp_path / "e/figures").iterdir()} == {
        f"{name}-{kind}.{suffix}" for kind in ("growth", "reliability") for suffix in ("pdf", "png")
    }
    again = json.loads(runner.invoke(cli, ["ensemble", *folders, "--out", str(tmp_path / "e"), "--json"]).output)
    assert again["file"].endswith(f"{name}.h5") and len(again["figures"]) == 4
    assert "gain over members" in runner.invoke(cli, ["show", str(tmp_path / "e" / f"{name}.h5")]).output
    assert runner.invoke(cli, ["figure", str(tmp_path / "e"), "--format", "png"]).exit_code == 0


def test_the_folder_of_an_ensemble_is_no_run(home):
    runner = CliRunner()
    asked = runner.invoke(cli, ["ensemble", str(home / "seed0"), str(home / "seed1")])
    assert asked.exit_code == 0 and (home / "ensemble").is_dir()
    assert "ensemble" not in runner.invoke(cli, ["list", str(home)]).output
    alone = runner.invoke(cli, ["ensemble", str(home / "dropout"), "--members", "dropout:3"])
    assert alone.exit_code == 0 and list((home / "dropout").glob("ensemble-*.h5"))
    assert "dropout" in runner.invoke(cli, ["list", str(home)]).output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("seed0",), 3, "an ensemble needs at least two members"),
        (("seed0", "seed0"), 3, "is there twice; name each run once"),
        (("seed0", "nowhere"), 3, "there is no run in"),
        (("seed0", "seed1", "--members", "snapshots"), 3, "which has no cycles"),
        (("seed0", "seed1", "--device", "cuda:99"), 3, "cuda:99"),
        (("seed0", "seed1", "--average", "votes"), 2, "votes"),
    ],
)
def test_mistakes_get_one_line_and_leave_no_folder(home, tmp_path, arguments, code, message):
    words = [str(home / word) if word in ("seed0", "seed1", "nowhere") else word for word in arguments]
    failed = CliRunner().invoke(cli, ["ensemble", *words, "--out", str(tmp_path / "new")])
    assert failed.exit_code == code and message in " ".join(failed.output.split())
    assert not (tmp_path / "new").exists()
