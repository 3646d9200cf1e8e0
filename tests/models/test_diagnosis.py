"""Every check of `diagnose`, on a training that was built to have the fault and on one that has not."""

from __future__ import annotations

import re
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from landscape import Store
from landscape.diagnosis import CHECKS, Record, Symptom, diagnose, recorded
from models.opened import open_run
from models.run import RunConfig, train

SMALL = {
    "data": "digits",
    "train_size": 400,
    "batch_size": 40,
    "epochs": 8,
    "flow_every": 5,
    "model": "mlp",
    "width": 32,
}
NOISE = {"probes": "gradient-noise:every=epochs:4,tails=no,batches=40"}
FAULTS = {
    "initial loss": ({"init": "normal:1.0", "depth": 4}, "problem", r"log 10 = 2\.3"),
    "loss": ({"lr": 1e-8}, "problem", "not below 90% of"),
    "gradient over depth": ({"depth": 8, "activation": "sigmoid"}, "problem", "vanishing from 'hidden"),
    "gradient over depth ": ({"depth": 9, "init": "normal:1.0", "lr": 1e-9}, "problem", "exploding from 'hidden"),
    "dead units": ({"init": "he-normal+bias:-3"}, "problem", "after 'hidden"),
    "dormant units": ({"init": "he-normal+bias:-3"}, "problem", "after 'hidden"),
    "saturated outputs": ({"activation": "tanh", "init": "normal:1.0"}, "problem", "after 'hidden. tanh'"),
    "size of updates": ({"lr": 3.0}, "problem", "smaller learning rate"),
    "size of updates ": ({"lr": 1e-6}, "problem", "larger learning rate"),
    "size of updates  ": ({"optimizer": "gd", "batch_size": "all", "lr": 1e-30}, "problem", "do not move at all"),
    "direction of updates": (
        {"optimizer": "gd", "batch_size": "all", "lr": 0.6, "epochs": 60},
        "problem",
        "undo one another",
    ),
    "signs": ({"activation": "sigmoid", "batch_size": 1, "epochs": 1}, "note", "zig-zag"),
    "symmetry": ({"init": "constant:0.1"}, "problem", "of the units of"),
    "train/validation gap": (
        {"train_size": 60, "label_noise": 0.4, "epochs": 60, "lr": 0.3},
        "problem",
        "training accuracy",
    ),
    "validation loss": ({"train_size": 60, "label_noise": 0.4, "epochs": 60, "lr": 0.3}, "note", "stop there"),
    "sharpness against 2/eta": (
        {"lr": 0.6, "probes": "stability:every=epochs:10", "epochs": 60, "optimizer": "gd", "batch_size": "all"},
        "note",
        "overshoots",
    ),
    "gradient noise": ({"batch_size": "all", "train_size": 1200, **NOISE}, "note", "hardly help"),
}
HEALTHY = {"lr": 0.05, "epochs": 20, "probes": f"stability:every=epochs:5+{NOISE['probes']}"}


def trained(folder: Path, **factors) -> dict[str, Symptom]:
    train(RunConfig(**{**SMALL, **factors}), folder)
    return {symptom.check: symptom for symptom in diagnose(open_run(folder).record())}


@cache
def healthy() -> dict[str, Symptom]:
    with tempfile.TemporaryDirectory() as folder:
        return trained(Path(folder) / "run", **HEALTHY)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_training_with_the_fault_and_one_without(fault, tmp_path):
    factors, status, words = FAULTS[fault]
    check = fault.strip()
    found = trained(tmp_path / "run", **factors)[check]
    assert found.status == status, found.detail
    assert re.search(words, found.detail), found.detail
    if check != "saturated outputs":  # of a relu network there is nothing to say
        assert healthy()[check].status == "ok", healthy()[check].detail


def test_a_loss_that_is_not_finite(tmp_path):
    found = trained(tmp_path / "run", lr=1e8)
    assert found["loss"].status == "problem" and "not finite from step" in found["loss"].detail


def test_every_check_has_a_fault():
    assert len(CHECKS) <= len({fault.strip() for fault in FAULTS}) + 1  # a burst is made up below


def test_a_burst(tmp_path):
    trained(tmp_path / "run")
    training = Store(tmp_path / "run").read("training").copy(deep=True)
    training["gradient_norm"][30] = 1e4
    found = {s.check: s for s in diagnose(Record(training))}["gradient bursts"]
    assert found.status == "note" and f"at step {training['step'].values[30]}" in found.detail
    assert healthy()["gradient bursts"].status == "ok"


def test_what_was_not_recorded_is_left_out(tmp_path):
    trained(tmp_path / "run", flow_every=0, epochs=1)
    record = recorded(Store(tmp_path / "run"))
    checks = {symptom.check for symptom in diagnose(record)}
    assert checks == {"loss", "size of updates", "symmetry", "train/validation gap"}


def test_a_training_without_steps():
    with pytest.raises(ValueError, match="no recorded step"):
        diagnose(Record(xr.Dataset({"loss": ("step", np.empty(0))})))
