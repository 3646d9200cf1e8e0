"""Training, resuming, opening and importing runs."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from landscape.callbacks import ProbeEvery
from landscape.optimizer_state import OptimizerState
from landscape.probes import Slice, Stability
from landscape.store import DamagedFileError, LockedError, MissingError, NewerSchemaError, Store, UnsafeFileError
from landscape.weights import WeightsError, digest_tensors, load_weights, save_weights
from models.architectures import build_model
from models.classifier import Classifier
from models.data import Examples, TensorLoader, load_data
from models.run import RunConfig, import_weights, open_run, train
from models.training import measure, own_settings

TINY = RunConfig(
    model="mlp",
    width=8,
    depth=1,
    train_size=60,
    test_size=50,
    val_fraction=0.05,
    batch_size=16,
    epochs=4,
    optimizer="adam",
    lr=0.01,
    schedule="cosine",
    warmup=3,
    label_noise=0.1,
)


class Stop(Exception):
    """The power is gone."""


def stop_after(epochs: int, error: type[BaseException] = Stop):
    def progress(stage: str, done: int, total: int) -> None:
        if done == epochs:
            raise error

    return progress


def digests(folder) -> dict[str, str]:
    store = Store(folder)
    found = {name: store.read(name).attrs["content_digest"] for name in ("training", "trajectory")}
    found["optimizer"] = OptimizerState.load(folder / "optimizer.safetensors")[0].digest()
    return {**found, "weights": digest_tensors(load_weights(folder / "weights.safetensors")[0])}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(TINY, folder)
    return folder


def test_what_a_run_leaves(whole):
    names = {path.name for path in whole.iterdir()}
    weights = {"weights.safetensors", "optimizer.safetensors"}
    assert names == {".lock", "run.json", "training.h5", "trajectory.h5"} | weights
    about = json.loads((whole / "run.json").read_text())
    assert about["schema_version"] == 1 and about["kind"] == "trained"
    assert RunConfig.from_dict(about["config"]) == TINY
    training, trajectory = Store(whole).read("training"), Store(whole).read("trajectory")
    assert training.sizes["step"] == 16 and training["epoch"].values.tolist() == [0, 1, 2, 3]
    assert trajectory["step"].values.tolist() == [0, 4, 8, 12, 16]
    assert {"train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss", "test_accuracy"} <= set(training)
    rates = training["learning_rate"].values
    assert rates[:4] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01, 0.01]) and rates[-1] < 0.001


def test_a_run_is_a_function_of_its_configuration(whole, tmp_path):
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    level = logging.getLogger("pytorch_lightning").level
    train(TINY, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(whole)
    assert torch.equal(before, torch.get_rng_state()) and torch.get_num_threads() == threads
    assert logging.getLogger("pytorch_lightning").level == level
    train(replace(TINY, seed=1), tmp_path / "other")
    assert digests(tmp_path / "other")["weights"] != digests(whole)["weights"]


def test_the_test_split_is_measured_after_each_epoch_and_nothing_else_changes(whole, tmp_path):
    config, folder = replace(TINY, test_each_epoch=True), tmp_path / "run"
    assert config.hash != TINY.hash
    with pytest.raises(Stop):
        train(config, folder, progress=stop_after(2))
    train(config, folder)
    train(config, tmp_path / "again")
    assert digests(folder) == digests(tmp_path / "again")
    assert digests(folder)["weights"] == digests(whole)["weights"]
    before, after = Store(whole).read("training"), Store(folder).read("training")
    assert set(after) - set(before) == {"epoch_test_loss", "epoch_test_accuracy"}
    assert all(np.array_equal(before[name], after[name], equal_nan=True) for name in before)
    assert after["epoch_test_loss"].dims == ("epoch",) and after["epoch_test_loss"].attrs["units"] == "nats"
    assert float(after["epoch_test_loss"][-1]) == pytest.approx(float(after["test_loss"]), rel=1e-5)
    assert float(after["epoch_test_accuracy"][-1]) == pytest.approx(float(after["test_accuracy"]))


def test_the_test_split_is_measured_after_each_epoch_without_a_validation_split(tmp_path):
    metrics = train(replace(TINY, val_fraction=0.0, epochs=1, test_each_epoch=True), tmp_path)
    assert metrics["epoch_test_loss"] == pytest.approx(metrics["test_loss"], rel=1e-5) and "val_loss" not in metrics


@pytest.mark.parametrize("epochs", [1, 3, 4])
def test_a_resumed_run_equals_the_uninterrupted_one(whole, tmp_path, epochs):
    folder = tmp_path / "run"
    with pytest.raises(Stop):
        train(TINY, folder, progress=stop_after(epochs))
    assert (folder / "resume.safetensors").exists() and not (folder / "weights.safetensors").exists()
    with pytest.raises(MissingError, match="run the same train command"):
        open_run(folder).model()
    train(TINY, folder)
    assert digests(folder) == digests(whole)


def test_a_killed_run_has_no_sealed_files_and_still_resumes(whole, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(Stop):
        train(TINY, folder, progress=stop_after(2))
    for name in ("training.h5", "trajectory.h5"):
        (folder / name).unlink()
    train(TINY, folder)
    assert digests(folder) == digests(whole)


@pytest.mark.parametrize(
    "changes",
    [
        {
            "model": "cnn",
            "width": 4,
            "depth": 2,
            "norm": "batch",
            "activation": "relu",
            "optimizer": "lion",
            "lr": 1e-3,
        },
        {"optimizer": "nesterov", "lr": 0.1, "betas": None, "schedule": "step", "snapshots": "steps:3"},
        {"optimizer": "nadam", "schedule": "constant", "warmup": 0, "snapshots": "log:4"},
    ],
    ids=["lion", "nesterov", "nadam"],
)
def test_other_states_survive_an_interruption(tmp_path, changes):
    config = RunConfig.from_dict({**TINY.to_dict(), "betas": None, **changes})
    train(config, tmp_path / "whole")
    with pytest.raises(Stop):
        train(config, tmp_path / "cut", progress=stop_after(2))
    train(config, tmp_path / "cut")
    assert digests(tmp_path / "whole") == digests(tmp_path / "cut")


def test_the_optimizer_of_a_run_is_kept(whole):
    run = open_run(whole)
    rule = run.optimizer_state().on(run.objective().layout)
    assert rule.algorithm == "Adam" and (rule.preconditioner > 0).all()
    assert rule.learning_rate < 1e-4  # the cosine schedule has come to its end
    answer = Stability(lr=0.01)(run.objective())
    assert answer.threshold.item() == pytest.approx(38 / 0.01) and 0 < answer.ratio.item() < 100


def test_an_optimizer_state_that_is_not_there_or_not_of_these_weights(whole, tmp_path):
    best = replace(TINY, keep_best=True, lr=0.5, schedule="constant", warmup=0, epochs=6, label_noise=0.4)
    train(best, tmp_path / "best")
    kept = load_weights(tmp_path / "best" / "weights.safetensors")[0]
    last = Store(tmp_path / "best").read("trajectory")["theta"].values[-1]
    assert not np.array_equal(np.concatenate([t.reshape(-1).numpy() for t in kept.values()]), last)
    with pytest.raises(MissingError, match="belongs to its last weights, but those of its best epoch"):
        open_run(tmp_path / "best").optimizer_state()
    shutil.copytree(whole, tmp_path / "old")
    (tmp_path / "old" / "optimizer.safetensors").unlink()
    objective = open_run(tmp_path / "old").objective()  # nobody asks for the optimizer yet
    with pytest.raises(MissingError, match="has no optimizer state .* give --lr and --optimizer sgd"):
        Stability()(objective)
    assert np.isfinite(Stability(lr=0.1, optimizer="sgd")(objective).ratio)


class WithDropout(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = nn.Sequential(nn.Dropout(0.5), body)

    def forward(self, x):
        return self.body(x)


def test_dropout_is_drawn_by_step(tmp_path, monkeypatch):
    monkeypatch.setattr("models.training.build_model", lambda *a, **k: WithDropout(build_model(*a, **k)))
    train(TINY, tmp_path / "whole")
    with pytest.raises(Stop):
        train(TINY, tmp_path / "cut", progress=stop_after(2))
    train(TINY, tmp_path / "cut")
    assert digests(tmp_path / "whole") == digests(tmp_path / "cut")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_caller_and_nothing_is_lost(whole, tmp_path, number):
    class Stopped(KeyboardInterrupt):
        pass

    def handler(*_):
        raise Stopped

    previous = signal.signal(number, handler)
    try:
        with pytest.raises(Stopped):
            train(TINY, tmp_path / "run", progress=lambda stage, done, total: done == 2 and signal.raise_signal(number))
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, previous)
    assert Store(tmp_path / "run").read("training")["epoch"].values.tolist() == [0, 1]
    train(TINY, tmp_path / "run")
    assert digests(tmp_path / "run") == digests(whole)


def test_a_finished_run_is_not_computed_again(whole, monkeypatch):
    monkeypatch.setattr("models.training.Training", None)
    before = {path.name: path.stat().st_mtime_ns for path in whole.iterdir() if path.suffix}
    metrics = train(TINY, whole)
    assert {path.name: path.stat().st_mtime_ns for path in whole.iterdir() if path.suffix} == before
    assert metrics["epochs"] == 4 and metrics["steps"] == 16 and 0 <= metrics["test_accuracy"] <= 1


def test_a_run_made_before_a_field_was_added_is_still_that_run(whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "old")
    about = json.loads((whole / "run.json").read_text())
    assert about["config"].pop("keep_best") is False
    (tmp_path / "old" / "run.json").write_text(json.dumps(about))
    monkeypatch.setattr("models.training.Training", None)
    assert train(TINY, tmp_path / "old")["epochs"] == 4


def test_another_run_is_not_overwritten(whole):
    with pytest.raises(ValueError, match=r"holds another run \(lr is 0.01 there, 0.1 here\); choose another folder"):
        train(replace(TINY, lr=0.1), whole)


def test_a_locked_run(tmp_path):
    hold = "with Store(sys.argv[1]).lock(): print('held', flush=True); time.sleep(60)"
    code = f"import sys, time\nfrom landscape.store import Store\n{hold}"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        started = time.monotonic()
        with pytest.raises(LockedError):
            train(TINY, tmp_path)
        assert time.monotonic() - started < 1
        other.kill()


def test_damaged_checkpoint(tmp_path):
    with pytest.raises(Stop):
        train(TINY, tmp_path, progress=stop_after(2))
    path = tmp_path / "resume.safetensors"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="resume"):
        train(TINY, tmp_path)


def test_changed_data(tmp_path):
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(60, 1, 9)), "y": np.arange(60) % 3}
    np.savez(tmp_path / "data.npz", **data)
    config = replace(TINY, data=f"npz:{tmp_path / 'data.npz'}", train_size=None, test_size=None, epochs=2)
    with pytest.raises(Stop):
        train(config, tmp_path / "run", progress=stop_after(1))
    np.savez(tmp_path / "data.npz", **{**data, "y": data["y"][::-1]})
    with pytest.raises(ValueError, match="has changed since"):
        train(config, tmp_path / "run")
    np.savez(tmp_path / "data.npz", **data)
    train(config, tmp_path / "run")
    np.savez(tmp_path / "data.npz", **{**data, "x": data["x"] + 1e-3 * rng.normal(size=(60, 1, 9))})
    with pytest.raises(ValueError, match="has changed since"):
        open_run(tmp_path / "run").data()


def test_no_epochs(tmp_path):
    metrics = train(replace(TINY, epochs=0, warmup=0, schedule="constant"), tmp_path)
    assert metrics["epochs"] == 0 and metrics["steps"] == 0 and metrics["test_loss"] == pytest.approx(2.3, abs=0.4)
    assert Store(tmp_path).read("trajectory")["step"].values.tolist() == [0]


def test_no_validation(tmp_path):
    metrics = train(replace(TINY, val_fraction=0.0, epochs=1), tmp_path)
    assert "val_loss" not in metrics and "train_loss" in metrics


def overfitting(**changes) -> RunConfig:
    return replace(TINY, lr=0.1, label_noise=0.9, epochs=12, val_fraction=0.2, schedule="constant", warmup=0, **changes)


def test_early_stopping_and_best_weights(tmp_path):
    config = overfitting(early_stopping=2, keep_best=True)
    train(config, tmp_path / "whole")
    training = Store(tmp_path / "whole").read("training")
    losses = training["val_loss"].values
    best = int(losses.argmin())
    assert len(losses) < 12 and len(losses) == best + 3
    run = open_run(tmp_path / "whole")
    assert measure(run.model(), run.data().val)[0] == pytest.approx(losses.min(), rel=1e-5)
    snapshots = Store(tmp_path / "whole").read("trajectory")
    assert len(snapshots["theta"]) == len(losses) + 1
    for cut in (1, len(losses)):
        folder = tmp_path / f"cut{cut}"
        with pytest.raises(Stop):
            train(config, folder, progress=stop_after(cut))
        train(config, folder)
        assert digests(folder) == digests(tmp_path / "whole"), cut


def test_a_diverging_run_ends_as_what_it_is(tmp_path):
    metrics = train(replace(TINY, optimizer="sgd", betas=None, lr=1e30, epochs=2), tmp_path)
    assert np.isnan(metrics["train_loss"])
    with pytest.raises(WeightsError, match="NaN"):
        open_run(tmp_path).model()


def test_one_example_in_a_batch_norm(tmp_path):
    with pytest.raises(ValueError, match="65 training examples leave a batch of one"):
        train(replace(TINY, norm="batch", train_size=65), tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_a_warm_up_longer_than_the_training(tmp_path):
    with pytest.raises(ValueError, match="less than the 16 steps of the training, got 16"):
        train(replace(TINY, warmup=16), tmp_path)


def test_opened(whole):
    run = open_run(whole)
    assert run.config == TINY and run.store.has("training")
    splits = run.data()
    assert [len(part.targets) for part in (splits.train, splits.test)] == [60, 50]
    model = run.model()
    assert not model.training
    objective = run.objective()
    expected = F.cross_entropy(model(splits.train.inputs).double(), splits.train.targets).item()
    metrics = objective.metrics()
    assert metrics["loss"] == pytest.approx(expected, rel=1e-9)
    assert metrics["loss"] == pytest.approx(run.metrics["final_train_loss"], rel=1e-9)
    assert metrics["test_accuracy"] == pytest.approx(run.metrics["test_accuracy"])
    theta = Store(whole).read("trajectory")["theta"].values[-1]
    assert torch.equal(objective.theta, torch.from_numpy(theta))
    assert len(run.objective(examples=16, dtype=torch.float64).examples) == 16


def test_what_cannot_be_opened(whole, tmp_path):
    with pytest.raises(MissingError, match=r"no run\.json"):
        open_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"schema_version": 2}))
    with pytest.raises(NewerSchemaError, match="newer version"):
        open_run(tmp_path)


FACTORIES = """
import torch
from torch import nn

def network(outputs=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))

def few():
    return network(4)

def nothing():
    return None

def wide():
    return nn.Linear(63, 10)
"""


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """A module of somebody's own in the folder at hand."""
    (tmp_path / "mynets.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "mynets:network"
    sys.modules.pop("mynets", None)


def test_import(factory, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    torch.save(network.state_dict(), tmp_path / "net.pt")
    run = import_weights(tmp_path / "net.pt", factory, "digits", tmp_path / "mine")
    assert run.config is None and run.metrics == {} and run.about["kind"] == "imported"
    assert torch.equal(open_run(tmp_path / "mine").model()[1].weight, network[1].weight)
    assert np.isfinite(run.objective().loss().item())
    # Nobody has said that the network was trained on standardized inputs.
    assert torch.equal(run.data().train.inputs.amin(), torch.tensor(0.0)) and run.data().train.inputs.max() == 1
    assert not any(str(tmp_path) in str(value) for value in run.about.values())
    with pytest.raises(ValueError, match="holds a run already"):
        import_weights(tmp_path / "net.pt", factory, "digits", tmp_path / "mine")
    with pytest.raises(ValueError, match="holds imported weights"):
        train(TINY, tmp_path / "mine")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("mynets", "expected 'package.module:name', got 'mynets'"),
        ("mynet:network", "there is no module 'mynet'"),
        ("mynets:netwrk", "has nothing called 'netwrk'; did you mean 'network'"),
        ("mynets:nothing", "made a NoneType, expected a torch.nn.Module"),
        ("mynets:few", "4"),
        ("mynets:wide", "weight"),
    ],
)
def test_what_cannot_be_imported(factory, tmp_path, model, message):
    save_weights(tmp_path / "net.safetensors", nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict())
    with pytest.raises(ValueError, match=message):
        import_weights(tmp_path / "net.safetensors", model, "digits", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_labels_beyond_the_outputs(factory, tmp_path):
    save_weights(tmp_path / "few.safetensors", nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).state_dict())
    with pytest.raises(ValueError, match="the labels go to 9, the model has 4 outputs"):
        import_weights(tmp_path / "few.safetensors", "mynets:few", "digits", tmp_path / "mine")


def test_inputs_that_do_not_fit(factory, tmp_path):
    save_weights(tmp_path / "net.safetensors", nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict())
    with pytest.raises(ValueError, match=r"cannot take inputs of shape \(1, 40\)"):
        import_weights(tmp_path / "net.safetensors", factory, "mnist1d", tmp_path / "mine")


def test_a_pickle_with_code_is_refused(factory, tmp_path):
    torch.save(nn.Linear(64, 10), tmp_path / "whole.pt")
    with pytest.raises(UnsafeFileError):
        import_weights(tmp_path / "whole.pt", factory, "digits", tmp_path / "mine")


def test_a_classifier_works_alone():
    module = Classifier(nn.Linear(3, 2), torch.optim.SGD)
    assert module(torch.zeros(4, 3)).shape == (4, 2)


def test_a_classifier_takes_another_loss():
    def margin(logits, targets):
        return F.multi_margin_loss(logits, targets)

    batch = Examples(torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))
    module = Classifier(nn.Linear(3, 2), torch.optim.SGD, loss=margin)
    expected = margin(module(batch.inputs), batch.targets)
    assert torch.equal(module.training_step(batch, 0), expected)
    module.log_dict = lambda metrics, **_: logged.update(metrics)
    logged = {}
    module._log_means("train", module._outputs)
    assert logged["train_loss"] == expected
    assert measure(module.network, batch, margin)[0] == pytest.approx(expected.item(), rel=1e-6)


def test_every_setting_is_given_back_after_training(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with own_settings(1, torch.device("cpu")):
            pl.Trainer(deterministic=True, accelerator="cpu", logger=False, enable_checkpointing=False)
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8" and not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8" and torch.backends.cudnn.benchmark
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
        with own_settings(1, torch.device("cpu")):
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_probe_while_a_classifier_trains(tmp_path):
    data = load_data("digits", train_size=64)
    module = Classifier(build_model("cnn", data.input_shape, 10, width=4, depth=2), torch.optim.SGD)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ProbeEvery(Slice(resolution=3, seeds=1), every="epochs:1", out=tmp_path, examples=32)],
    )
    trainer.fit(module, TensorLoader(data.train, 32, shuffle=True), TensorLoader(data.val, 64))
    (name,) = Store(tmp_path).names()
    answer = Store(tmp_path).read(name)
    assert answer["loss"].dims[0] == "step" and answer["step"].values.tolist() == [0, 2, 4]
    assert np.isfinite(answer["loss"]).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_a_gpu_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="torch finds no CUDA GPU here; use cpu"):
        train(replace(TINY, device="cuda"), tmp_path)


def test_a_device_of_no_known_kind(whole):
    with pytest.raises(ValueError, match="device must be cpu, cuda or cuda:N, got 'gpu0'"):
        open_run(whole).objective(device="gpu0")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_resumed_run_on_a_gpu(tmp_path):
    config = RunConfig.from_dict({**TINY.to_dict(), "model": "resnet", "width": 4, "depth": 8, "device": "cuda"})
    train(config, tmp_path / "whole")
    with pytest.raises(Stop):
        train(config, tmp_path / "cut", progress=stop_after(2))
    train(config, tmp_path / "cut")
    assert digests(tmp_path / "whole") == digests(tmp_path / "cut")
