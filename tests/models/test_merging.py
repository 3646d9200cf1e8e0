"""Averages after training: of snapshots of one run, equal to the callback's, and soups of several runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner, Result

from cli import cli
from landscape.averaging import polyak_average
from landscape.store import MissingError
from landscape.weights import digest_tensors, load_weights
from models.averaging import AVERAGES
from models.ensembles import Ensemble
from models.merging import SOUPS, average_runs, average_snapshots, merge
from models.normalization import settle_statistics
from models.opened import Run, open_run
from models.run import RunConfig, train
from models.snapshots import network_at
from models.training import measure

TINY = RunConfig(
    data="digits",
    model="mlp",
    width=8,
    depth=1,
    norm="batch",
    train_size=80,
    test_size=60,
    val_fraction=0.2,
    batch_size=20,
    epochs=4,
    lr=0.3,
)
AVERAGED = {"swa": "swa:start=0.5", "lawa": "lawa:3", "ema": "ema:0.7,start=1", "polyak": "polyak:2"}
OTHERS = {
    "seed1": replace(TINY, seed=1),
    "weak": replace(TINY, seed=2, lr=1e-4),
    "wider": replace(TINY, width=9, epochs=1),
    "elsewhere": replace(TINY, data_seed=1, epochs=1),
    "sparse": replace(TINY, snapshots="epochs:2"),
    "unheld": replace(TINY, val_fraction=0.0, epochs=1),
    "stopped": replace(TINY, epochs=0),
    "fge": replace(TINY, schedule="fge:tail=0.5,cycles=1"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("merging")
    for name, text in AVERAGED.items():
        train(replace(TINY, snapshots="steps:1", average=text), folder / name)
    for name, config in {"seed0": TINY, **OTHERS}.items():
        train(config, folder / name)
    return folder


def opened(home, *names):
    return {name: open_run(home / name) for name in names}


def digest(path):
    return digest_tensors(load_weights(path)[0])


def run_command(*words) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def parameters(network):
    return torch.cat([p.detach().reshape(-1) for p in network.parameters()])


# Snapshots of one run


@pytest.mark.parametrize("name", AVERAGED)
def test_it_is_the_average_of_the_callback_bit_for_bit_where_both_saw_the_same(home, tmp_path, name):
    run = average_runs(opened(home, name), AVERAGED[name], tmp_path / "average")
    assert digest(run.folder / "weights.safetensors") == digest(home / name / "average.safetensors")
    assert run.metrics["test_loss"] == open_run(home / name).metrics["average_test_loss"]


@pytest.mark.parametrize("name", ["swa", "lawa"])
def test_ends_of_epochs_are_enough_for_averages_over_them(home, tmp_path, name):
    run = average_runs(opened(home, "seed0"), AVERAGED[name], tmp_path / "average")
    assert digest(run.folder / "weights.safetensors") == digest(home / name / "average.safetensors")


def test_every_average_can_be_taken_afterwards():
    assert {text.partition(":")[0] for text in AVERAGED.values()} == set(AVERAGES) - {"none"}


def test_what_entered_is_told(home):
    assert merge(opened(home, "seed0"), "lawa:2").entered == ("step 12", "step 16")
    assert merge(opened(home, "seed0"), "swa:start=0.5").entered == ("step 8", "step 12", "step 16")
    assert merge(opened(home, "sparse"), "polyak").entered == ("step 8", "step 16")
    assert merge(opened(home, "sparse"), "lawa:2,every=2").entered == ("step 8", "step 16")


def test_statistics_are_measured_again_and_without_that_an_average_is_worse(home):
    run = open_run(home / "seed0")
    merged = average_snapshots(run, polyak_average()).network
    stale = run.model()
    with torch.no_grad():
        for parameter, value in zip(stale.parameters(), merged.parameters(), strict=True):
            parameter.copy_(value)
    assert measure(merged, run.data().train)[0] < measure(stale, run.data().train)[0]


# Soups


def test_a_uniform_soup_is_the_mean(home):
    runs = opened(home, "seed0", "seed1", "weak")
    merged = merge(runs, "soup")
    expected = torch.stack([parameters(run.model()) for run in runs.values()]).double().mean(0)
    assert torch.allclose(parameters(merged.network).double(), expected, atol=1e-7)
    assert merged.entered == tuple(runs)


def test_a_soup_of_equal_runs_is_that_run(home, tmp_path):
    shutil.copytree(home / "seed0", tmp_path / "copy")
    runs = {**opened(home, "seed0"), "copy": open_run(tmp_path / "copy")}
    for method in SOUPS:
        assert torch.equal(parameters(merge(runs, method).network), parameters(runs["seed0"].model()))


def settled(run: Run) -> torch.nn.Module:
    """The network of a run with statistics that are measured anew."""
    network = run.model()
    settle_statistics(network, run.data().train.inputs)
    return network


@pytest.mark.parametrize("order", [("seed0", "seed1", "weak"), ("weak", "seed1", "seed0")])
def test_a_greedy_soup_is_never_worse_on_validation_than_the_best_run(home, order):
    runs = opened(home, *order)
    merged = merge(runs, "greedy-soup")
    validation = runs["seed0"].data().val
    best = max(measure(settled(run), validation)[1] for run in runs.values())
    assert measure(merged.network, validation)[1] == merged.scores["val_accuracy"] >= best
    assert merged.scores["best_val_accuracy"] == best
    assert measure(merge(runs, "soup").network, validation)[1] < best  # the uniform one is


def test_a_greedy_soup_does_not_look_at_the_test_split(home, monkeypatch):
    runs = opened(home, "seed0", "seed1", "weak")
    seen = []
    monkeypatch.setattr("models.training.measure", lambda n, e, *rest: (seen.append(len(e.targets)), (0.0, 1.0))[1])
    assert len(merge(runs, "greedy-soup").entered) == 3
    data = runs["seed0"].data()
    assert set(seen) == {len(data.val.targets)} and len(data.val.targets) not in (len(data.test.targets), 0)


# The run that is made


def test_what_takes_a_run_takes_an_average(home, tmp_path):
    run = average_runs(opened(home, "seed0"), "swa:start=0.5", tmp_path / "average")
    about = json.loads((run.folder / "run.json").read_text())
    assert about["kind"] == "averaged" and about["method"] == "swa:start=0.5"
    assert about["sources"]["seed0"]["weights_sha256"] == digest_tensors(open_run(home / "seed0").weights())
    assert about["entered"] == ["step 8", "step 12", "step 16"]
    assert run.metrics["test_loss"] == run.objective().metrics()["test_loss"] == run.test_metrics()["loss"]
    answer = Ensemble()({**opened(home, "seed0"), "average": run})
    assert answer.sizes["member"] == 2
    with pytest.raises(MissingError, match="no training.h5: its weights were not trained here"):
        run.record()
    with pytest.raises(MissingError, match="were imported, averaged, or trained by an earlier version"):
        run.optimizer_state()
    with pytest.raises(ValueError, match="holds averaged weights, not a training; choose another folder"):
        train(TINY, run.folder)


def test_the_same_average_is_not_made_again_and_another_is_refused(home, tmp_path):
    runs = opened(home, "seed0")
    path = average_runs(runs, "lawa:2", tmp_path / "average").folder / "averaged.h5"
    before = path.stat().st_mtime_ns
    average_runs(runs, "lawa:2", tmp_path / "average")
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="holds another run; choose another folder"):
        average_runs(runs, "lawa:3", tmp_path / "average")
    path.unlink()  # as if it had been killed before the last file
    assert average_runs(runs, "lawa:2", tmp_path / "average").metrics["test_loss"] > 0


def test_middles_of_cycles_make_a_fast_geometric_ensemble(home):
    run = open_run(home / "fge")
    answer = Ensemble(members="snapshots:last=1", views="plain")
    _, asked = answer.plan({**opened(home, "fge"), "again": run})
    assert [one.member.name for one in asked] == ["step 12", "step 12"]  # of 16 steps, in a tail of 8
    assert torch.equal(parameters(asked[0].member.build()), parameters(network_at(run, 12)))


@pytest.mark.parametrize(
    ("names", "method", "message"),
    [
        (["seed0"], "sva", "unknown method of averaging 'sva'; did you mean 'swa'"),
        (["seed0"], "none", "unknown method of averaging 'none'"),
        (["seed0"], "soup", "'soup' averages several runs, got one; give more, or average its snapshots"),
        (["seed0", "seed1"], "swa", "'swa' averages the snapshots of one run, got 2 runs; give one, or choose soup"),
        (["seed0", "wider"], "soup", r"wider has other parameters than seed0: '.*weight' is \(9"),
        (["seed0", "elsewhere"], "soup", "elsewhere was trained on other data than seed0, and an average measures"),
        (["unheld", "unheld2"], "greedy-soup", "chosen on the validation split, and these runs have none"),
        (["seed0"], "swa:start=5", "starts after 5 epochs, and the last snapshot of .*seed0 is after 4; start earlier"),
        (["seed0"], "polyak:4", "starts after 4 epochs, and the last snapshot of .*seed0 is after 4; start earlier"),
        (["stopped"], "swa", "starts after 0 epochs, and the last snapshot of .*stopped is after 0; start earlier"),
        (["seed0"], "lawa:9", "takes the last 9 snapshots at ends of epochs, and .*seed0 has 4; take fewer"),
        (["sparse"], "swa", "kept no snapshot after step 12, the end of an epoch that enters the average; train it"),
    ],
)
def test_what_it_refuses(home, tmp_path, names, method, message):
    runs = {name: open_run(home / name.rstrip("2")) for name in names}
    with pytest.raises(ValueError, match=message):
        average_runs(runs, method, tmp_path / "average")
    assert not (tmp_path / "average").exists()


def test_a_run_without_a_trajectory_is_refused(home, tmp_path):
    shutil.copytree(home / "seed0", tmp_path / "bare")
    (tmp_path / "bare/trajectory.h5").unlink()
    with pytest.raises(MissingError, match="bare has no trajectory, so it has no snapshots; give a run that was train"):
        average_runs(opened(tmp_path, "bare"), "swa", tmp_path / "average")


# The command


def test_the_command(home, tmp_path):
    out = tmp_path / "average"
    text = run_command("average", home / "seed0", home / "seed1", "--method", "greedy-soup", "--out", out).output
    assert "test_loss" in text and "entered" in text
    found = json.loads(
        run_command("average", home / "seed0", "--method", "lawa:2", "--out", tmp_path / "b", "--json").output
    )
    assert found["entered"] == ["step 12", "step 16"] and found["test_loss"] > 0
    listed = json.loads(run_command("list", tmp_path, "--json").output)
    assert {row["run"] for row in listed} == {"average", "b"} and all("test error" in row for row in listed)
    shown = run_command("show", out).output
    assert "kind: averaged" in shown and "measured:\n  test_loss" in shown
    assert run_command("probe", "rays", out, "--rays", 2, "--resolution", 1).exit_code == 0
    refused = run_command("average", home / "seed0", home / "seed0", "--method", "soup", "--out", tmp_path / "c")
    assert refused.exit_code == 3 and "is there twice" in refused.output
