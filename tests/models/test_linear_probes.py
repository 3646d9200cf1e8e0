"""Linear classifiers on the outputs of frozen layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from landscape.figures import accuracy_matrices, draw, first_task, linear_probes
from landscape.store import Store
from models.data import load_data
from models.run import RunConfig, import_weights, open_run, train
from models.transfer.continual import Continual
from models.transfer.linear_probes import LinearProbes, answer_linear_probes, layer_outputs

SMALL = RunConfig(
    model="cnn", width=4, depth=2, epochs=8, batch_size=32, optimizer="adam", lr=0.01, train_size=400, snapshots="none"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probes") / "run"
    train(SMALL, folder)
    return open_run(folder)


def test_features_are_the_outputs_of_the_parts(run):
    network, inputs = run.model(), run.data().test.inputs[:7]
    features = layer_outputs(network, inputs, batch_size=3)
    assert len(features) == 1 + len(list(network.children()))
    with torch.no_grad():
        assert np.allclose(features[-1], network(inputs).numpy(), atol=1e-6)
        assert np.allclose(features[1], network.block1(inputs).flatten(1).numpy(), atol=1e-6)
    assert not any(module._forward_hooks for module in network.modules())


def test_large_outputs_are_averaged_over_space():
    network = nn.Sequential(nn.Conv2d(1, 40, 1))
    inputs = torch.randn(3, 1, 8, 8)
    _, features = layer_outputs(network, inputs)
    assert features.shape == (3, 40)
    assert np.allclose(features, network(inputs).mean((2, 3)).detach().numpy(), atol=1e-6)


def test_training_makes_the_last_layers_readable(run):
    answer, path = answer_linear_probes(LinearProbes(), run)
    trained, null = answer["accuracy"].values, answer["random_accuracy"].values
    assert answer["layer"].values[0] == "input" and trained[0] == null[0]
    assert trained[-1] > null[-1] + 0.1
    # the largest logit is itself a linear classifier of logits, which a fitted one need not lose to
    assert trained[-1] > float(answer["network_accuracy"]) - 0.05
    assert float(answer["chance"]) < 0.15 < null.min()
    before = path.stat().st_mtime_ns
    answer_linear_probes(LinearProbes(), run)
    assert path.stat().st_mtime_ns == before
    assert list(draw(answer, path.stem)) == ["linear-probes"]
    assert len(linear_probes(answer).axes[0].lines) == 4


def test_other_data_is_probed_too(run, tmp_path):
    splits = load_data("digits", val_fraction=0.2)
    arrays = {"x": splits.train.inputs.numpy(), "y": splits.train.targets.numpy() % 2}
    np.savez(tmp_path / "odd.npz", **arrays)
    answer = LinearProbes(most=100)(run, f"npz:{tmp_path / 'odd.npz'}")
    assert "network_accuracy" not in answer and answer["accuracy"].max() > 0.8


def test_what_cannot_be_probed(run, tmp_path):
    with pytest.raises(ValueError, match="most at least 10, got 0 and 3"):
        LinearProbes(most=3)
    with pytest.raises(ValueError, match="mnist1d has inputs of shape"):
        LinearProbes()(run, "mnist1d")
    train(replace(SMALL, val_fraction=0.0, epochs=0), tmp_path / "no-val")
    with pytest.raises(ValueError, match="no validation split to choose the penalty on"):
        LinearProbes()(open_run(tmp_path / "no-val"))
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    torch.save(network.state_dict(), tmp_path / "w.pt")
    imported = import_weights(
        tmp_path / "w.pt", "tests.models.test_linear_probes:flat", "digits", tmp_path / "imported"
    )
    with pytest.raises(ValueError, match="holds imported weights"):
        LinearProbes()(imported)


def flat() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def test_figures_of_continual_learning():
    plan = Continual(SMALL, ("all", "permuted:1"), ("none", "ewc:1"), (0, 1))
    answer = plan._answer(np.array([0.9, 0.1, 0.4, 0.8] * 4).reshape(2, 2, 2, 2)).assign_attrs(probe="continual")
    assert list(draw(answer, "continual-1")) == ["accuracy-matrices", "first-task"]
    texts = [text.get_text() for text in accuracy_matrices(answer).axes[0].texts]
    assert texts == ["90", "10", "40", "80"]
    assert [line.get_ydata().tolist() for line in first_task(answer).axes[0].lines[:1]] == [[90.0, 40.0]]


def test_answers_survive_the_store(tmp_path):
    plan = Continual(SMALL, ("all", "permuted:1"), ("none", "ewc:1"), (0,))
    store = Store(tmp_path / "s")
    store.write("continual-1", plan._answer(np.full((2, 1, 2, 2), 0.5)))
    assert float(store.read("continual-1")["accuracy"].sel(strategy="ewc:1", after=1, task=0)[0]) == 0.5
