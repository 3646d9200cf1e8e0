"""Probes asked while a run trains, and what goes to loggers."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from landscape import Store
from landscape.execution import SerialExecutor, Work
from landscape.measure import answered
from landscape.probes import GradientNoise, Stability, Symmetry
from landscape.weights import digest_tensors, load_weights
from models import training
from models.opened import open_run
from models.run import RunConfig, train
from models.watching import Watch, read_watches

SMALL = {"data": "digits", "train_size": 200, "model": "mlp", "width": 16, "epochs": 2, "batch_size": 50}


def test_reading():
    assert read_watches("none") == []
    assert read_watches("stability:every=100,tol=0.01+symmetry") == [
        Watch(Stability(tol=0.01), "steps:100"),
        Watch(Symmetry(), "epochs:1"),
    ]
    assert read_watches("gradient-noise:every=log:4,minibatch=8") == [Watch(GradientNoise(minibatch=8), "log:4")]
    assert read_watches("landscape.probes.symmetry/Symmetry:tol=0.1") == [Watch(Symmetry(tol=0.1), "epochs:1")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stabilty", "unknown probe 'stabilty'; did you mean 'stability'"),
        ("stability:k=3", "takes no 'k=3'; write field=value, with a field of: every, lr"),
        ("stability:100", "takes no '100'"),
        ("stability:tol=small", "probe 'stability': tol: "),
        ("stability:every=often", "a schedule is"),
        ("gradient-noise:batches=1", "batches must be at least 4"),
        ("gradient-noise:batches=6", "needs 8 batches or more"),
        ("symmetry+symmetry:every=epochs:1", "probes has Symmetry twice"),
        ("", "unknown probe ''"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_training(text, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(probes=text)


@pytest.mark.parametrize("optimizer", [{"optimizer": "lion"}, {"sam": 0.05}])
def test_an_optimizer_whose_stability_is_not_known_is_refused_before_training(optimizer, tmp_path):
    with pytest.raises(ValueError, match="stability|sharpness-aware"):
        train(RunConfig(**SMALL, **optimizer, probes="stability"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_answers_by_step_are_those_of_the_run(tmp_path):
    """At the last step the question is asked of the network that is then saved, on the same data."""
    config = RunConfig(**SMALL, probes="gradient-noise:every=4,batches=20,tails=no+stability:every=epochs:1", lr=0.1)
    train(config, tmp_path / "run")
    store = Store(tmp_path / "run")
    (name,) = store.names("gradient-noise-by-step-*")
    by_step = store.read(name)
    assert by_step["step"].values.tolist() == [0, 4, 8]
    later = answered(
        GradientNoise(batches=20, tails=False), open_run(tmp_path / "run").objective(), Work(SerialExecutor())
    )
    assert by_step["noise_scale"].values[-1] == pytest.approx(later["noise_scale"].item(), rel=1e-5)
    (name,) = store.names("stability-by-step-*")
    assert np.isfinite(store.read(name)["ratio"]).all()


def test_probes_and_loggers_leave_the_training_as_it_is(tmp_path):
    train(RunConfig(**SMALL), tmp_path / "plain")
    watched = RunConfig(**SMALL, probes="symmetry+stability:every=3", flow_every=1, logger="csv")
    train(watched, tmp_path / "watched")
    plain, other = (load_weights(tmp_path / run / "weights.safetensors")[0] for run in ("plain", "watched"))
    assert digest_tensors(plain) == digest_tensors(other)
    with (tmp_path / "watched/logs/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = {name for row in rows for name, value in row.items() if value}
    assert {"train_loss", "symmetry/distinct_share", "stability/ratio", "backpropagated_norm/hidden1"} <= columns


def test_a_resumed_run_has_the_same_record(tmp_path):
    config = RunConfig(**{**SMALL, "epochs": 4}, probes="symmetry", flow_every=3)
    train(config, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(stage, done, total):
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        train(config, tmp_path / "cut", progress=stop)
    train(config, tmp_path / "cut")
    whole, cut = Store(tmp_path / "whole"), Store(tmp_path / "cut")
    for name in whole.names():
        assert whole.read(name).attrs["content_digest"] == cut.read(name).attrs["content_digest"], name


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX", reason="needs the extra [tensorboard]")
    train(RunConfig(**SMALL, logger="tensorboard"), tmp_path / "run")
    assert list((tmp_path / "run/logs/version_0").glob("events.out.*"))


def test_a_missing_tensorboard_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"landscape-lab\[tensorboard\]"):
        train(RunConfig(**SMALL, logger="tensorboard"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
