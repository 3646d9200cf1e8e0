"""Every architecture, norm, activation and initialization, from its text to a trained run."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from cli import cli
from landscape.weights import load_weights
from models.activations import ACTIVATIONS
from models.architectures import ARCHITECTURES, build_model
from models.data import load_data
from models.initialization import INITIALIZATIONS, initialize
from models.initialization_steps import STEPS
from models.normalization import NORMS, batch_norms
from models.registry import Registry
from models.run import RunConfig, open_run, train
from tests import oracles
from tests.models.test_architectures import SMALL, WRITTEN
from tests.models.test_run import Stop, stop_after
from tests.problems import seeded

TINY = {"train_size": 48, "test_size": 20, "batch_size": 12, "epochs": 2, "lr": 0.05, "snapshots": "none"}
NEEDS_VALUE = {"normal": "normal:0.2", "uniform": "uniform:0.2", "bias": "bias:0.1"}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_trained_by_its_configuration(name, tmp_path):
    config = RunConfig(model=name, width=SMALL.get(name, 3 if name != "vit" else 8), **TINY)
    found = train(config, tmp_path / "run")
    assert found["steps"] == 8 and all(math.isfinite(value) for value in found.values())
    run = open_run(tmp_path / "run")
    assert run.objective().metrics()["loss"] == pytest.approx(found["final_train_loss"], rel=1e-5)


@pytest.mark.parametrize("norm", [*NORMS, "batch:exact"])
def test_every_norm_is_trained_by_its_configuration(norm, tmp_path):
    text = {"ghost-batch": "ghost-batch:4", "batch-renorm": "batch-renorm:start=2,r_end=4,d_end=3"}.get(norm, norm)
    found = train(RunConfig(model="cnn", width=4, norm=text, **TINY), tmp_path / "run")
    assert all(math.isfinite(value) for value in found.values())


def descend(model: torch.nn.Module, steps: int = 25) -> tuple[float, float]:
    """Loss before and after some steps of gradient descent on 32 digits."""
    inputs, targets = load_data("digits", train_size=32, test_size=10).train
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses[0], losses[-1]


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "selu:dropout=0.1"])
def test_every_activation_learns(activation):
    model = build_model("cnn", (1, 8, 8), 10, width=4, activation=WRITTEN.get(activation, activation))
    initialize(model, "he-normal", seeded(0))
    first, last = descend(model)
    assert last < first - 0.05


@pytest.mark.parametrize("text", [*INITIALIZATIONS, *(f"he-normal+{step}" for step in STEPS)])
def test_every_initialization_trains(text):
    *scheme, last = text.split("+")
    text = "+".join([*scheme, NEEDS_VALUE.get(last, last)])
    norm = "none" if text.endswith(("fixup", "zero-last")) else "batch"
    model = build_model("resnet", (1, 8, 8), 10, width=2, norm=norm)
    initialize(model, text, seeded(0), torch.rand(16, 1, 8, 8, generator=seeded(1)))
    first, final = descend(model)
    assert math.isfinite(final)
    assert final < first or text in ("zeros", "constant")


# --- exact statistics ---------------------------------------------------------------------------------------

EXACT = RunConfig(model="cnn", width=3, depth=2, norm="batch:exact", val_fraction=0.2, **{**TINY, "epochs": 3})


def test_exact_statistics_are_those_of_the_training_set_when_training_ends(tmp_path):
    train(EXACT, tmp_path / "run")
    run = open_run(tmp_path / "run")
    model, inputs = run.model(), run.data().train.inputs
    hidden = model.block1.conv(inputs)
    normalized = F.batch_norm(hidden, None, None, model.block1.norm.weight, model.block1.norm.bias, training=True)
    second = model.block2.conv(model.pool1(F.relu(normalized)))
    for norm, values in ((model.block1.norm, hidden), (model.block2.norm, second)):
        mean, variance = oracles.pooled_statistics(values)
        torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-5, atol=1e-6)  # float32
        torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-5, atol=1e-6)
    recalibrated = run.objective(normalization="recalibrated").loss()
    assert run.objective().loss().item() == pytest.approx(recalibrated.item(), rel=1e-5)
    # the control: running averages are not there after twelve steps
    train(RunConfig.from_dict({**EXACT.to_dict(), "norm": "batch"}), tmp_path / "running")
    running = open_run(tmp_path / "running")
    assert abs(running.objective().loss() - running.objective(normalization="recalibrated").loss()) > 0.01


@pytest.mark.parametrize("norm", ["batch:exact", "batch-renorm:start=2,r_end=6,d_end=4", "ghost-batch:4"])
def test_statistics_and_steps_survive_an_interruption(norm, tmp_path):
    config = RunConfig.from_dict({**EXACT.to_dict(), "norm": norm})
    train(config, tmp_path / "whole")
    with pytest.raises(Stop):
        train(config, tmp_path / "cut", progress=stop_after(2))
    train(config, tmp_path / "cut")
    whole, cut = (load_weights(tmp_path / name / "weights.safetensors")[0] for name in ("whole", "cut"))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


def test_validation_sees_the_exact_statistics(tmp_path):
    """One epoch: what is logged is the loss of the network that is kept, statistics included."""
    config = RunConfig.from_dict({**EXACT.to_dict(), "epochs": 1})
    found = train(config, tmp_path / "run")
    run = open_run(tmp_path / "run")
    with torch.no_grad():
        loss = F.cross_entropy(run.model()(run.data().val.inputs), run.data().val.targets)
    assert found["val_loss"] == pytest.approx(loss.item(), rel=1e-5)


# --- configuration and command line -------------------------------------------------------------------------


def test_choices_reach_the_network():
    config = RunConfig(model="vit", width=8, heads=2, patch=4, norm="group:2", activation="leaky-relu:0.2")
    assert config.architecture_options == {
        "width": 8,
        "depth": 2,
        "heads": 2,
        "patch": 4,
        "norm": "group:2",
        "activation": "leaky-relu:0.2",
    }
    assert RunConfig(model="vit").heads == 4 and RunConfig(model="vit").patch is None
    assert RunConfig(model="cnn").heads is None
    linear = RunConfig(model="deep-linear")
    assert linear.architecture_options == {"width": 64, "depth": 3}
    assert linear.name.startswith("digits-deep-linear3-sgd-b128-s0-")
    assert RunConfig(model="cnn", norm="ghost-batch:16").name.startswith("digits-cnn3-ghost-batch-sgd-")


def test_a_later_field_moves_no_hash():
    """The hashes of two configurations, as they were before these choices came."""
    assert RunConfig().hash == "1a6516313135"
    assert RunConfig(model="resnet", activation="leaky-relu:0.1", init="he-normal").hash == "5191ac69cf07"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"norm": "ghost-batch"}, "norm 'ghost-batch' needs its size"),
        ({"norm": "batch-renorm:r_max=0"}, "r_max of at least 1"),
        ({"activation": "selu:dropout=2"}, r"dropout must be in \[0, 1\)"),
        ({"init": "he-normal+zero"}, "unknown step of initialization 'zero'"),
        ({"init": "normal"}, "initialization 'normal' needs its std"),
        ({"model": "deep-linear", "norm": "batch"}, "model 'deep-linear' takes no option norm"),
        ({"model": "resnet", "heads": 2}, "model 'resnet' takes no option heads"),
        ({"model": "vit", "patch": 0}, "patch must be a whole number of at least 1"),
    ],
)
def test_what_a_configuration_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "resnet", "activation": "maxout"}, "model 'resnet' also activates sums"),
        ({"model": "mlp", "norm": "instance"}, "a vector has none of"),
        ({"model": "mlp", "init": "he-normal+zero-last"}, "acts on residual branches"),
        ({"model": "resnet", "init": "he-normal+fixup"}, "'fixup' is for residual networks without norms"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_a_folder_is_made(values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(RunConfig(**values, **TINY), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_line_takes_them(tmp_path):
    words = "--model vit --width 8 --depth 1 --heads 2 --norm batch-renorm:r_max=2,d_max=1 --activation maxout:3"
    size = "--init lecun-normal+bias:0.01 --train-size 40 --test-size 20 --batch-size 20 --epochs 1 --json"
    done = CliRunner().invoke(cli, ["train", *words.split(), *size.split(), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["steps"] == 2
    model = open_run(tmp_path / "run").model()
    assert model.block1.hidden.out_features == 3 * 32
    assert len(batch_norms(model)) == 3
    wrong = CliRunner().invoke(cli, ["train", "--norm", "ghost-batch", "--out", str(tmp_path / "other")])
    assert wrong.exit_code == 3 and "write 'ghost-batch:VALUE'" in wrong.output


def test_help_names_every_choice():
    text = " ".join(CliRunner().invoke(cli, ["train", "--help"]).output.split()).replace("- ", "-")
    for registry in (ARCHITECTURES, NORMS, ACTIVATIONS, INITIALIZATIONS, STEPS):
        left_out = {"swish", "linear"}  # second names
        assert [name for name in registry if name not in text and name not in left_out] == []


# --- options in text ----------------------------------------------------------------------------------------


def test_options_are_read_by_name_or_in_order():
    shapes = Registry("shape")

    @shapes.register("box")
    def box(*, width: int, height: float = 2.0, round: bool = False):
        return width, height, round

    assert shapes.build("box:3") == (3, 2.0, False)
    assert shapes.build("box:3,1.5,yes") == shapes.build("box:round=yes,width=3,height=1.5") == (3, 1.5, True)
    for text, message in [
        ("box", "shape 'box' needs its width, got 'box'; write 'box:VALUE'"),
        ("box:1,2,no,4", "shape 'box' takes no option 4; it takes: width, height, round"),
        ("box:1,width=2", "shape 'box:1,width=2' gives width twice"),
        ("box:", "shape 'box': width: expected int, got ''"),
        ("bx:1", "unknown shape 'bx'; did you mean 'box'"),
    ]:
        with pytest.raises(ValueError, match=message):
            shapes.read(text)


def test_a_network_is_the_same_after_a_copy():
    for name in ARCHITECTURES:
        model = build_model(name, (1, 8, 8), 3).eval()
        x = torch.rand(2, 1, 8, 8, generator=seeded(0))
        assert torch.equal(copy.deepcopy(model)(x), model(x))


# --- what looks at the data -----------------------------------------------------------------------------------


def test_lsuv_starts_training_at_unit_variance_on_the_first_examples_every_time(tmp_path):
    config = RunConfig(model="mlp", width=6, depth=2, init="orthogonal+lsuv", **{**TINY, "epochs": 0})
    for name in ("one", "two"):
        train(config, tmp_path / name)
    run = open_run(tmp_path / "one")
    first = run.data().train.inputs[: config.batch_size]
    model = run.model()
    layer = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))
    assert layer(first.flatten(1)).var(correction=0).item() == pytest.approx(1, abs=2e-3)  # its tolerance is 1e-3
    other = open_run(tmp_path / "two").model()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
