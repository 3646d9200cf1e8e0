"""Runs that draw while they train: each regularizer and augmentation, alone and combined, resumed and measured."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

from cli import cli
from landscape import GaussNewton, Hessian
from landscape.store import Store
from landscape.weights import digest_tensors, load_weights
from models.augmentation import AUGMENTATIONS
from models.classifier import Classifier
from models.data.standardization import STANDARDIZATIONS
from models.losses import make_loss
from models.regularization import REGULARIZERS
from models.run import RunConfig, open_run, train
from models.training import Training, measure
from tests.models.test_training_of_factors import Stop, digests, fitted, stop

TINY = RunConfig(
    model="resnet",
    width=2,
    train_size=32,
    test_size=20,
    val_fraction=0.0,
    batch_size=16,
    epochs=2,
    lr=0.05,
)
CHANGES = {
    **{text: {"regularization": text} for text in REGULARIZERS if text != "fractional-pool"},
    "fractional-pool": {"model": "cnn", "width": 4, "regularization": "fractional-pool"},
    "classic": {"model": "mlp", "width": 8, "norm": "none", "regularization": "dropout:0.3,mode=classic,inputs=0.2"},
    **{text: {"augment": text} for text in AUGMENTATIONS if text != "flip"},
    "flip": {"augment": "flip:force=yes"},
    **{f"inputs by {text}": {"standardize": text} for text in STANDARDIZATIONS if text != "channel"},
    "smoothed": {"label_smoothing": 0.1},
    "dropout, depth, crop, mixup": {
        "regularization": "dropout:0.2+stochastic-depth:0.3",
        "augment": "crop:pad=1+mixup:0.2",
    },
    "sharpness-aware": {"sam": 0.05, "regularization": "dropout+stochastic-depth", "augment": "random:2+mixup"},
    "momentum that looks ahead": {
        "optimizer": "nesterov:form=lookahead",
        "regularization": "stochastic-depth:0.9",
        "augment": "rotate:10",
        "weight_decay": 0.01,
    },
    "newton": {
        "model": "vit",
        "width": 2,
        "depth": 1,
        "heads": 1,
        "optimizer": "newton:damping=1",
        "regularization": "stochastic-depth:0.9",
        "epochs": 1,
    },
    "signals": {"data": "mnist1d", "model": "cnn", "augment": "crop+jitter+mixup", "regularization": "dropconnect"},
    "exact statistics": {"norm": "batch:exact", "augment": "cutout+mixup", "regularization": "dropout"},
    "all at once": {
        "regularization": "dropout:0.1+dropconnect:0.1,where=all+stochastic-depth:0.2",
        "augment": "crop:pad=1+rotate+stretch+shear+lens+jitter+cutout+mixup",
        "standardize": "whiten:eps=1e-3",
        "label_smoothing": 0.1,
        "sam": 0.01,
        "clip_norm": 1.0,
        "batch_size": "all",
    },
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config_of(changes: dict) -> RunConfig:
    own = {} if changes.get("model", TINY.model) == TINY.model else {"norm": "default", "activation": "default"}
    own |= {"depth": None} if own else {}
    left_out = {"lr": None, "momentum": None} if "optimizer" in changes else {}
    return RunConfig.from_dict({**TINY.to_dict(), **own, **left_out, **changes})


def moved(config: RunConfig, **options) -> str:
    return digest_tensors(fitted(config, **options).network.state_dict())


@pytest.fixture(scope="module")
def plain() -> str:
    return moved(TINY)


def test_every_choice_is_trained():
    tried = " ".join(str(changes) for changes in CHANGES.values())
    assert [n for registry in (REGULARIZERS, AUGMENTATIONS, STANDARDIZATIONS) for n in registry if n not in tried] == [
        "channel"
    ]


@pytest.mark.parametrize("name", CHANGES)
def test_a_few_steps_and_a_resumption(name, plain, tmp_path):
    config = config_of(CHANGES[name])
    assert RunConfig.from_dict(config.to_dict()) == config
    whole, path = fitted(config), str(tmp_path / "resume.safetensors")
    assert all(value.isfinite().all() for value in whole.network.state_dict().values())
    end = digest_tensors(whole.network.state_dict())
    assert end != plain
    if config.epochs == 1:
        return
    fitted(config, epochs=1, end=path)
    assert moved(config, start=path) == end


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", ["all at once", "fractional-pool", "random"])
def test_draws_on_a_gpu_are_those_of_the_seed(name, tmp_path):
    config = config_of({**CHANGES[name], "device": "cuda"})
    train(config, tmp_path / "one")
    train(config, tmp_path / "two")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


@pytest.mark.parametrize("changes", [{"regularization": "dropout"}, {"augment": "translate"}])
def test_draws_are_those_of_the_seed(changes):
    first, again, other = (moved(config_of({**changes, "seed": seed})) for seed in (1, 1, 2))
    assert first == again != other


def test_a_whole_run_is_resumed_bit_for_bit(tmp_path):
    config = config_of({**CHANGES["dropout, depth, crop, mixup"], "val_fraction": 0.2, "epochs": 3})
    train(config, tmp_path / "whole")
    with pytest.raises(Stop):
        train(config, tmp_path / "cut", progress=stop)
    train(config, tmp_path / "cut")
    assert digests(tmp_path / "whole") == digests(tmp_path / "cut")


def test_the_network_begins_as_it_does_without():
    weights = [Training(config_of({"regularization": text})).network.state_dict() for text in ("none", "dropconnect")]
    assert digest_tensors(weights[0]) == digest_tensors(weights[1])


def test_augmentation_leaves_the_draws_of_the_network_as_they_are():
    """A shift by nothing changes inputs by rounding alone, so the masks of dropout must be the same."""
    without, with_it = (
        fitted(config_of({"regularization": "dropout", "augment": text})).network for text in ("none", "translate:0")
    )
    for one, other in zip(without.parameters(), with_it.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


# --- what is measured --------------------------------------------------------------------------------------------


def test_what_is_measured_is_the_clean_data_and_a_fixed_function(tmp_path):
    changes = CHANGES["dropout, depth, crop, mixup"]
    found = train(config_of(changes), tmp_path / "run")
    run = open_run(tmp_path / "run")
    objective = run.objective()
    assert objective.loss().item() == pytest.approx(found["final_train_loss"], rel=1e-5)
    assert objective.metrics()["test_loss"] == pytest.approx(found["test_loss"], rel=1e-5)
    assert run.data().digest == Training(TINY).data.digest
    # by hand: as published, branches are scaled by how often they survive
    clean, inputs = run.data().train, run.data().train.inputs
    network = run.model()
    with torch.no_grad():
        assert F.cross_entropy(network(inputs), clean.targets).item() == pytest.approx(found["final_train_loss"])
        survivals = [gate.survival for block in network.body.modules() for gate in getattr(block, "gates", [])]
        assert survivals == pytest.approx([0.9, 0.8, 0.7])


def test_before_the_first_step_augmentation_and_inverted_draws_are_nowhere(tmp_path):
    nothing = {"epochs": 0}
    drawn = {**nothing, "augment": "crop+mixup", "regularization": "dropout+dropconnect:0.2"}
    found = [train(config_of(changes), tmp_path / str(n)) for n, changes in enumerate((nothing, drawn))]
    assert found[0] == found[1]


def test_logged_accuracy_with_mixup_counts_the_larger_share():
    logits, shares = torch.tensor([[3.0, 0, 0], [0, 3, 0], [0, 0, 3]]), torch.tensor([[0.6, 0.4, 0], [0.6, 0.4, 0]])
    module = Classifier(nn.Linear(1, 1), torch.optim.SGD)
    logged = {}
    module.log_dict = lambda metrics, **options: logged.update(metrics)
    module._log_means("train", [(logits[:2], shares), (logits[2:], torch.tensor([[0, 0.1, 0.9]]))])
    assert logged["train_accuracy"].item() == pytest.approx(2 / 3)
    expected = F.cross_entropy(logits, torch.cat([shares, torch.tensor([[0, 0.1, 0.9]])]))
    assert torch.equal(logged["train_loss"], expected)


def test_a_skipped_branch_has_the_gradient_zero():
    training = Training(config_of({"regularization": "stochastic-depth:0.99"}))
    module, network = training.module, training.network.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs, targets = training.data.train
        module._loss_of(network(inputs), targets).backward()
    skipped = network.body.stage3[0].conv1.weight.grad
    assert skipped is not None and not skipped.any()
    assert network.head.weight.grad.any()


# --- label smoothing ----------------------------------------------------------------------------------------------


def test_smoothed_cross_entropy():
    logits, labels = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0])
    shares = 0.7 * F.one_hot(labels, 4) + 0.3 / 4
    expected = -(shares * logits.log_softmax(1)).sum(1).mean()
    assert torch.allclose(make_loss(0.3)(logits, labels), expected)
    assert torch.allclose(make_loss(0.3)(logits, F.one_hot(labels, 4).float()), expected)
    assert make_loss() is F.cross_entropy


def test_the_smoothed_loss_is_the_runs_own(tmp_path):
    found = train(config_of({"label_smoothing": 0.2, "val_fraction": 0.2, "epochs": 1}), tmp_path / "run")
    run = open_run(tmp_path / "run")
    objective = run.objective()
    assert objective.loss().item() == pytest.approx(found["final_train_loss"], rel=1e-5)
    assert objective.metrics()["accuracy"] == pytest.approx(found["final_train_accuracy"])
    assert measure(run.model(), run.data().val, make_loss(0.2))[0] == pytest.approx(found["val_loss"], rel=1e-5)
    assert run.test_metrics()["loss"] == pytest.approx(found["test_loss"], rel=1e-5)
    plain = measure(run.model(), run.data().train)[0]
    assert abs(plain - found["final_train_loss"]) > 1e-3
    v = torch.ones(objective.size)
    assert Hessian(objective).matvec(v).isfinite().all() and v @ GaussNewton(objective).matvec(v) > 0


# --- configuration and command line ---------------------------------------------------------------------------------


def test_choices_are_written_in_one_way_and_move_the_hash():
    config = RunConfig(regularization="dropout:0.5+stochastic-depth:p=0.2", augment="crop:pad=2+mixup:1.0")
    assert (config.regularization, config.augment) == ("dropout+stochastic-depth:p=0.2", "crop:pad=2+mixup")
    assert RunConfig(standardize="whiten:1e-5,zca").standardize == "whiten"
    hashes = {RunConfig(**changes).hash for changes in ({}, {"augment": "crop"}, {"label_smoothing": 0.1})}
    assert len(hashes) == 3 and RunConfig().hash == "1a6516313135"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regularization": "dropout:2"}, r"regularization 'dropout' needs p in \[0, 1\), got 2.0"),
        ({"regularization": "drop"}, "unknown regularization 'drop'"),
        ({"augment": "crop:-1"}, "augment 'crop' needs pad of at least 0"),
        ({"augment": "none+crop"}, "unknown augment 'none'"),
        ({"label_smoothing": 1.5}, "label_smoothing must be a number from 0 to 1, got 1.5"),
        ({"standardize": "whiten:eps=-1"}, "needs eps of at least 0"),
    ],
)
def test_what_a_configuration_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": "flip"}, "augment 'flip' is refused on this data: a mirrored digit"),
        ({"regularization": "fractional-pool"}, "takes the place of max poolings"),
        (
            {"model": "mlp", "norm": "none", "regularization": "stochastic-depth"},
            "this network has none; choose",
        ),
        ({"data": "mnist1d", "augment": "rotate"}, "augment 'rotate' turns images"),
    ],
)
def test_what_does_not_fit_the_data_or_the_network_fails_before_a_folder_is_made(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(config_of(changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_line_takes_them_and_what_is_trained_can_be_probed(tmp_path: Path):
    out = str(tmp_path / "run")
    words = "--model resnet --width 2 --train-size 40 --test-size 20 --batch-size 20 --epochs 1 --json"
    draws = "--regularization dropout:0.2+dropconnect:0.1,where=all+stochastic-depth:0.2 --augment random:2+mixup:0.4"
    own = "--label-smoothing 0.1 --standardize whiten:eps=1e-3"

    def call(*arguments: str) -> str:
        done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    found = json.loads(call("train", *f"{words} {draws} {own}".split(), "--out", out))
    assert found["steps"] == 2 and math.isfinite(found["final_train_loss"])
    call("probe", "spectrum", out, "--k", "1", "--tol", "0.1")
    call("probe", "slice", out, "--resolution", "3")
    store = Store(out)
    (name,) = (name for name in store.names() if name.startswith("slice"))
    middle = float(store.read(name)["loss"][1])
    assert middle == pytest.approx(found["final_train_loss"], rel=1e-5)
    report = call("doctor", out)
    assert "dropout" in report and "that draw while training; they are fixed while measuring" in report
    assert "augment: random+mixup:alpha=0.4" in call("show", out)
    weights = load_weights(tmp_path / "run" / "weights.safetensors")[0]
    assert not any("gates" in name or "dropout" in name for name in weights)
