"""Every way to take a step, trained for a few, alone and combined; interrupted and resumed, the bits are the same."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from click.testing import CliRunner

from cli import cli
from landscape.optimizer_state import OptimizerState
from landscape.store import Store
from landscape.weights import digest_tensors, load_weights
from models.optimizers import OPTIMIZERS
from models.resuming import SafetensorsCheckpoints
from models.run import RunConfig, open_run, train
from models.schedules import LR_SCALINGS, SCHEDULES
from models.training import Training
from tests.models.test_optimizers import RULES
from tests.models.test_schedules import FORMS

TINY = RunConfig(
    model="mlp",
    width=2,
    depth=1,
    norm="batch",
    train_size=32,
    test_size=20,
    val_fraction=0.0,
    batch_size=16,
    epochs=2,
    standardize="pixel",
)
# options of torch's own classes that change numbers alone
NUMBERS = {
    "gd",
    "sgd:momentum=0.8",
    "momentum:0.5",
    "adagrad:eps=0.1",
    "adadelta:rho=0.5,eps=0.01",
    "rmsprop:eps=0.1",
    "adam:eps=0.1",
    "adamw:amsgrad=true",
    "nadam:momentum_decay=1e9",
    "newton:damping=0.5",
}
SCALINGS = ["none", "linear:32", "sqrt:reference=8"]
FACTORS = {
    **{text: {"optimizer": text} for text in RULES if text not in NUMBERS},
    "gd": {"optimizer": "gd", "batch_size": "all"},
    "full-batch adam": {"optimizer": "adam", "batch_size": "all"},
    **{text: {"schedule": text} for text in FORMS},
    **{f"scaled {text}": {"lr_scaling": text} for text in SCALINGS},
    "warm-up of any": {"schedule": "cosine-restarts:2", "warmup": 1},
    "clip_norm": {"clip_norm": 0.1},
    "clip_value": {"clip_value": 0.01},
    "l1": {"l1": 0.01},
    "l2": {"weight_decay": 0.01},
    "elastic net": {"l1": 0.01, "weight_decay": 0.01},
    "decoupled decay": {"optimizer": "nesterov", "weight_decay": 0.01, "decoupled": True},
    "sam": {"sam": 0.05},
    "all at once": {
        "optimizer": "nesterov:form=lookahead",
        "momentum": 0.8,
        "schedule": "triangular:2",
        "warmup": 1,
        "lr_scaling": "sqrt:8",
        "clip_norm": 1.0,
        "clip_value": 0.1,
        "l1": 1e-3,
        "weight_decay": 1e-3,
        "decoupled": True,
        "sam": 0.05,
    },
    "newton, sharpness-aware": {"optimizer": "saddle-free-newton", "sam": 0.01, "l1": 1e-3, "clip_norm": 1.0},
}


class Stop(Exception):
    """The power is gone."""


def stop(stage: str, done: int, total: int) -> None:
    if done == 1:
        raise Stop


def digests(folder) -> dict[str, str]:
    found = {name: Store(folder).read(name).attrs["content_digest"] for name in ("training", "trajectory")}
    found["optimizer"] = OptimizerState.load(folder / "optimizer.safetensors")[0].digest()
    return {**found, "weights": digest_tensors(load_weights(folder / "weights.safetensors")[0])}


def config_of(changes: dict) -> RunConfig:
    left_out = {"lr": None, "momentum": None, "betas": None}
    return RunConfig.from_dict({**TINY.to_dict(), **left_out, **changes})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As `train` does: bits are compared, and other tests leave other numbers of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fitted(config: RunConfig, epochs: int = 2, start=None, end=None) -> Training:
    """Train as `train` does, but without its files: between checkpoints, of the first epoch or of both."""
    training = Training(config)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[SafetensorsCheckpoints()],
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You defined a `validation_step` but have no `val_dataloader`")
        trainer.fit(training.module, training.loader, ckpt_path=start)
    if end:
        trainer.save_checkpoint(end)
    return training


@pytest.fixture(scope="module")
def plain():
    return fitted(TINY)


# in four steps the last one is five cycles of one step, each begun anew
SAME_AS_PLAIN = {"sgd", "constant", "scaled none", "cosine-restarts"}


@pytest.mark.parametrize("name", FACTORS)
def test_a_few_steps_and_a_resumption(name, plain, tmp_path):
    config = config_of(FACTORS[name])
    assert RunConfig.from_dict(config.to_dict()) == config
    whole, path = fitted(config), str(tmp_path / "resume.safetensors")
    moved = digest_tensors(whole.network.state_dict())
    assert (moved == digest_tensors(plain.network.state_dict())) == (name in SAME_AS_PLAIN)
    assert whole.module.trainer.global_step == (2 if config.batch_size == "all" else 4)
    if name in FORMS and name != "swa":
        return  # torch keeps one number of any schedule, the step
    fitted(config, epochs=1, end=path)
    resumed = fitted(config, start=path)
    assert digest_tensors(resumed.network.state_dict()) == moved
    assert all(parameter.isfinite().all() for parameter in whole.network.parameters())
    states = [OptimizerState.of(t.module.trainer.optimizers[0], t.network).digest() for t in (whole, resumed)]
    assert states[0] == states[1]


@pytest.mark.parametrize("name", ["nesterov:form=three-sequence,growing=true", "all at once"])
def test_a_whole_run_is_resumed_bit_for_bit(name, tmp_path):
    config = config_of(FACTORS[name])
    metrics = train(config, tmp_path / "whole")
    with pytest.raises(Stop):
        train(config, tmp_path / "cut", progress=stop)
    train(config, tmp_path / "cut")
    assert digests(tmp_path / "whole") == digests(tmp_path / "cut")
    assert np.isfinite(metrics["train_loss"]) and metrics["steps"] == 4


def test_decoupled_decay_reaches_the_optimizer_once():
    decay = {"weight_decay": 0.1, "lr": 0.01}
    runs = [{"optimizer": "adam", "decoupled": True}, {"optimizer": "adamw"}, {"optimizer": "adamw", "decoupled": True}]
    weights = [digest_tensors(fitted(config_of({**decay, **run})).network.state_dict()) for run in runs]
    assert len(set(weights)) == 1
    coupled = fitted(config_of({**decay, "optimizer": "adam"}))
    assert digest_tensors(coupled.network.state_dict()) not in weights


def test_every_registered_choice_is_trained():
    assert {config_of(changes).optimizer_name for changes in FACTORS.values()} == set(OPTIMIZERS)
    assert {config_of(changes).schedule.partition(":")[0] for changes in FACTORS.values()} == set(SCHEDULES)
    assert {config_of(changes).lr_scaling.partition(":")[0] for changes in FACTORS.values()} == set(LR_SCALINGS)


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "run"
    train(TINY, folder)
    return folder


def test_what_is_recorded_of_a_sharpness_aware_run(plain_run, tmp_path):
    """The first step begins where the plain one does: its loss is the same, its gradient is another one."""
    train(replace(TINY, sam=0.5), tmp_path / "run")
    ours, other = (Store(folder).read("training") for folder in (tmp_path / "run", plain_run))
    assert ours["loss"].values[0] == other["loss"].values[0]
    assert ours["gradient_norm"].values[0] != other["gradient_norm"].values[0]
    with pytest.raises(ValueError, match="sharpness-aware"):
        open_run(tmp_path / "run").optimizer_state().on(open_run(tmp_path / "run").objective().layout)


def test_gradients_are_recorded_before_they_are_clipped(plain_run, tmp_path):
    train(replace(TINY, clip_norm=1e-3), tmp_path / "run")
    ours, other = (Store(folder).read("training") for folder in (tmp_path / "run", plain_run))
    assert ours["gradient_norm"].values[0] == other["gradient_norm"].values[0] > 0.1
    assert (ours["update_ratio"].values[0] < 0.1 * other["update_ratio"].values[0]).all()


@pytest.mark.parametrize(
    ("changes", "rate"),
    [
        ({"lr_scaling": "linear:32"}, 0.05),
        ({"lr_scaling": "sqrt:64"}, 0.05),
        ({"lr_scaling": "linear:16", "optimizer": "gd", "batch_size": "all"}, 0.2),  # 32 examples a step
        ({"lr_scaling": "linear:16", "batch_size": 500}, 0.2),  # no more than there are
    ],
)
def test_the_rate_that_is_recorded_is_the_scaled_one(changes, rate, tmp_path):
    config = config_of({"lr": 0.1, **changes})
    train(config, tmp_path)
    assert Store(tmp_path).read("training")["learning_rate"].values[0] == pytest.approx(rate)
    assert config.lr == 0.1


def test_a_range_test_goes_through_all_rates(tmp_path):
    train(replace(TINY, lr=1.0, schedule="exponential:start=1e-4,end=1"), tmp_path)
    rates = Store(tmp_path).read("training")["learning_rate"].values
    assert rates == pytest.approx(10.0 ** np.linspace(-4, 0, 4))


@pytest.mark.parametrize(
    ("optimizer", "vectors"),
    [("sgd", 0), ("momentum:form=heavy-ball", 1), ("adam:bias_correction=false", 2), ("lion", 1)],
)
def test_the_optimizers_bytes_are_reported(optimizer, vectors, tmp_path):
    metrics = train(config_of({"optimizer": optimizer}), tmp_path)
    parameters = 64 * 2 + 2 + 2 * 10 + 10 + 2 * 2
    size = sum(t.numel() for n, t in load_weights(tmp_path / "weights.safetensors")[0].items() if "running" not in n)
    assert parameters - 2 <= size - 1 <= parameters  # one counts batches; under a norm the layer has no bias
    assert metrics["optimizer_state_bytes"] == 4 * vectors * (size - 1)
    assert open_run(tmp_path).metrics == metrics


def test_the_command_line_takes_them_all_and_shows_what_came_out(tmp_path):
    flags = []
    for name, value in FACTORS["all at once"].items():
        flags += ["--" + name.replace("_", "-")] + ([] if value is True else [str(value)])
    shape = ["--model", "mlp", "--width", "2", "--train-size", "32", "--epochs", "2", "--batch-size", "16"]
    out = str(tmp_path / "run")
    done = CliRunner().invoke(cli, ["train", *shape, *flags, "--out", out], catch_exceptions=False)
    assert done.exit_code == 0
    config = open_run(out).config
    assert config.optimizer_options == {"momentum": 0.8, "form": "lookahead", "growing": False}
    assert (config.sam, config.l1, config.clip_norm, config.clip_value) == (0.05, 1e-3, 1.0, 0.1)
    assert (config.decoupled, config.lr_scaling, config.schedule) == (True, "sqrt:reference=8", "triangular:cycles=2")
    kept = round(open_run(out).metrics["optimizer_state_bytes"])
    assert f"optimizer_state_bytes: {kept}" in done.output
    shown = CliRunner().invoke(cli, ["show", out], catch_exceptions=False).output
    assert f"optimizer_state_bytes: {kept}" in shown and "optimizer: nesterov:form=lookahead" in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "nesterov", "momentum": 0.0}, "nesterov in torch's form needs a momentum above 0"),
        ({"optimizer": "nesterov:growing=true"}, "only the momentum of form=three-sequence can be growing"),
        ({"optimizer": "newton", "width": 64}, "takes at most 2000 parameters; choose a narrower model"),
    ],
)
def test_what_does_not_go_together_fails_before_a_folder_is_made(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(config_of(changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_example_in_a_full_batch(tmp_path):
    with pytest.raises(ValueError, match="1 training examples leave a batch of one"):
        train(config_of({"optimizer": "gd", "batch_size": "all", "train_size": 1}), tmp_path)
