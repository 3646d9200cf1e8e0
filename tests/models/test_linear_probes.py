"""Linear classifiers on what enters each layer: exact on built networks, and unchanged networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from cli import cli
from landscape import Store
from landscape.figures.drawing import draw
from landscape.weights import digest_tensors, save_weights
from models.linear_probes import MOST_FEATURES, LinearProbes, ask_linear_probes, features
from models.opened import open_run
from models.run import RunConfig, train


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("probed") / "run"
    train(
        RunConfig(data="digits", train_size=300, test_size=300, model="mlp", width=32, depth=2, epochs=60, lr=0.3),
        folder,
    )
    return folder


def test_the_last_layer_is_as_good_as_the_network(run):
    answer = LinearProbes(nulls=2)(open_run(run))
    assert answer["layer"].values.tolist() == ["hidden1", "hidden2", "head"]
    assert answer["features"].values.tolist() == [64, 32, 32]
    assert abs(answer["accuracy"].values[0, -1] - answer["network_accuracy"].item()) < 0.05
    assert (answer["accuracy_low"] < answer["accuracy"]).all() and (answer["accuracy"] < answer["accuracy_high"]).all()
    assert answer["null_accuracy"].shape == (2, 1, 3)
    assert (answer["null_accuracy"].values[..., 0] == answer["accuracy"].values[:, 0]).all()  # the raw input
    assert answer["accuracy"].values[0, -1] > answer["null_accuracy"].values[..., -1].max() + 0.02
    assert set(draw(answer.assign_attrs(probe="linear-probes"), "linear-probes-1")) == {"accuracy-by-layer"}


def test_a_layer_that_destroys_its_input_leaves_chance(run, tmp_path):
    opened = open_run(run)
    network = opened.model()
    network.hidden1.weight.data.zero_()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "run.json").write_text((run / "run.json").read_text())
    save_weights(broken / "weights.safetensors", network.state_dict())
    answer = LinearProbes(nulls=0)(open_run(broken))
    assert answer["accuracy"].values[0, 0] > 0.8
    assert answer["accuracy"].values[0, 1:] == pytest.approx(answer["chance"].item(), abs=0.05)


def test_features_are_what_enters_in_the_order_of_the_pass():
    class Residual(nn.Module):
        """Declared backwards; two layers see the same tensor."""

        def __init__(self):
            super().__init__()
            self.last, self.side = nn.Linear(3, 2), nn.Conv2d(4, 3, 1)
            self.main, self.first = nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)

        def forward(self, x):
            h = self.first(x)
            return self.last((self.main(h) + self.side(h)).mean((2, 3)))

    torch.manual_seed(0)
    network, x = Residual().eval(), torch.randn(700, 1, 5, 5)
    before = digest_tensors(network.state_dict())
    found = features(network, x, "mean", 0)
    assert list(found) == ["input", "main", "last"]
    assert found["input"].shape == (700, 25)
    h = network.first(x).detach()
    assert found["main"] == pytest.approx(h.mean((2, 3)).numpy(), abs=1e-6)
    assert features(network, x, "flatten", 0)["main"] == pytest.approx(h.flatten(1).numpy(), abs=1e-6)
    assert digest_tensors(network.state_dict()) == before
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_many_features_are_projected_and_keep_their_distances():
    network, x = nn.Sequential(nn.Flatten(), nn.Linear(5000, 2)), torch.randn(20, 5000)
    found = features(network, x, "mean", 0)
    (projected,) = found.values()
    assert projected.shape == (20, MOST_FEATURES)
    assert np.linalg.norm(projected, axis=1) == pytest.approx(x.norm(dim=1).numpy(), rel=0.1)


def test_what_is_stored_is_not_computed_again(run, tmp_path, monkeypatch):
    probes = LinearProbes(amounts=(50, 100), nulls=0)
    name, answer = ask_linear_probes(probes, open_run(run), None, tmp_path)
    monkeypatch.setattr(LinearProbes, "_fits", lambda *_: pytest.fail("computed again"))
    again, stored = ask_linear_probes(probes, open_run(run), None, tmp_path)
    assert name == again and stored.equals(answer) and Store(tmp_path).names() == [name]
    assert answer["amount"].values.tolist() == [50, 100]
    assert answer["accuracy"].values[1, 0] > answer["accuracy"].values[0, 0]


def test_an_interrupted_call_goes_on(run, tmp_path):
    probes = LinearProbes(amounts=(30, 60), nulls=0)

    class Stop(Exception):
        pass

    def stop(stage, done, total):
        if done == 1:
            raise Stop

    with pytest.raises(Stop):
        ask_linear_probes(probes, open_run(run), None, tmp_path / "cut", stop)
    seen = []
    _, cut = ask_linear_probes(probes, open_run(run), None, tmp_path / "cut", lambda *a: seen.append(a))
    _, whole = ask_linear_probes(probes, open_run(run), None, tmp_path / "whole")
    assert cut.attrs["content_digest"] == whole.attrs["content_digest"] and len(seen) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pool": "max"}, "pool must be mean or flatten, got 'max'"),
        ({"amounts": (5,)}, "at least 20 examples"),
        ({"amounts": (50, 50)}, "different numbers"),
        ({"nulls": -1}, "nulls must be at least 0"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        LinearProbes(**fields)


def test_data_that_does_not_suit(run, tmp_path):
    with pytest.raises(ValueError, match="takes inputs of shape"):
        ask_linear_probes(LinearProbes(), open_run(run), "mnist1d", tmp_path)
    with pytest.raises(ValueError, match="there are 300 training examples"):
        ask_linear_probes(LinearProbes(amounts=(5000,)), open_run(run), None, tmp_path)


def test_the_command(run):
    def call(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ("linear-probes", str(run), *arguments))

    told = call("--amounts", "50", "--nulls", "1")
    assert told.exit_code == 0 and "random weights" in told.output and "network itself" in told.output
    wrong = call("--data", "mnist1d")
    assert wrong.exit_code == 3 and "takes inputs of shape" in wrong.output
