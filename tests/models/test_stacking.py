"""Runs trained together: against closed forms, against training alone, and through interruptions."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from landscape.optimizer_state import OptimizerState
from landscape.parameters import ParameterLayout
from landscape.store import LockedError, Store
from landscape.weights import digest_tensors, load_weights
from models.architectures import build_model
from models.data import Examples, TensorLoader, load_data
from models.gradients import GradientRules
from models.optimizers import OPTIMIZERS, build_optimizer
from models.run import RunConfig, open_run, train
from models.stacking import MAY_DIFFER, grouping, pays, recording, stackable, train_stack
from models.stacking.batches import StackedExamples, StackedLoader
from models.stacking.module import StackedClassifier
from models.stacking.rows import Rates, apply_rules, copy_member, give_gradient, rows_optimizer

TINY = RunConfig(
    model="mlp",
    width=6,
    depth=1,
    train_size=60,
    test_size=50,
    val_fraction=0.05,
    batch_size=16,
    epochs=3,
    lr=0.1,
    momentum=0.9,
    flow_every=0,
)
THREE = [TINY, replace(TINY, seed=1, lr=0.03), replace(TINY, seed=2, init="he-normal")]
BY_ENTRY = [
    "sgd",
    "momentum:form=sutskever",
    "momentum:form=ema",
    "momentum:form=heavy-ball",
    "nesterov",
    "nesterov:form=lookahead",
    "nesterov:form=three-sequence",
    "nesterov:form=three-sequence,growing=true",
    "adagrad",
    "adagrad:eps_inside=true",
    "adadelta",
    "rmsprop:momentum=0.5,centered=true",
    "rmsprop:eps_inside=true",
    "adam",
    "adam:bias_correction=false",
    "adam:amsgrad=true",
    "adamw",
    "nadam",
    "nadam:form=constant",
    "radam",
    "lion",
]


class Stop(Exception):
    """The power is gone."""


def stop_after(epochs: int, error: type[BaseException] = Stop):
    def progress(stage: str, done: int, total: int) -> None:
        if done == epochs:
            raise error

    return progress


@pytest.fixture(autouse=True)
def _checkpoint_every_epoch(monkeypatch):
    monkeypatch.setattr(recording, "CHECKPOINT_SECONDS", 0.0)


def folders(out: Path, configs=THREE) -> list[Path]:
    return [out / config.hash for config in configs]


def digests(folder: Path) -> dict[str, str]:
    store = Store(folder)
    found = {name: store.read(name).attrs["content_digest"] for name in ("training", "trajectory")}
    found["optimizer"] = OptimizerState.load(folder / "optimizer.safetensors")[0].digest()
    return {**found, "weights": digest_tensors(load_weights(folder / "weights.safetensors")[0])}


@pytest.fixture(scope="module")
def stacked(tmp_path_factory):
    out = tmp_path_factory.mktemp("stack")
    train_stack(THREE, folders(out))
    return out


# --- what a stack is ------------------------------------------------------------------------------------------------


def test_runs_are_sorted_into_stacks_and_those_that_train_alone():
    wide = replace(TINY, width=7)
    groups = stackable([TINY, wide, replace(TINY, sam=0.1), replace(TINY, seed=5), replace(wide, label_noise=0.1)])
    assert [group.members for group in groups] == [(0, 3), (1, 4), (2,)]
    assert [bool(group.reason) for group in groups] == [False, False, True]
    assert groups[0].configs == (TINY, replace(TINY, seed=5))
    assert stackable([]) == []


def test_each_field_that_may_differ_leaves_runs_in_one_stack_and_any_other_parts_them():
    others = {"init": "zeros", "lr": 0.5, "seed": 3, "weight_decay": 0.1, "label_noise": 0.2, "data_seed": 1}
    assert set(others) == set(MAY_DIFFER)
    assert len(stackable([TINY, *(replace(TINY, **{name: value}) for name, value in others.items())])) == 1
    parting = {"train_size": 50, "batch_size": 8, "epochs": 2, "schedule": "cosine", "momentum": 0.5, "threads": 2}
    for name, value in parting.items():
        assert len(stackable([TINY, replace(TINY, **{name: value})])) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "mobilenet", "width": None, "depth": None, "norm": "none"}, "model 'mobilenet' is not known"),
        ({"norm": "batch"}, "norm 'batch' keeps running statistics"),
        ({"norm": "ghost-batch:8"}, "norm 'ghost-batch:8' keeps running statistics"),
        ({"activation": "selu:dropout=0.1"}, "activation 'selu:dropout=0.1' draws at random"),
        ({"regularization": "dropout:0.2"}, "regularization 'dropout:.*' draws at random"),
        ({"augment": "scale"}, "augment 'scale.*' draws at random"),
        ({"optimizer": "newton", "momentum": None}, "one step for all entries together"),
        ({"sam": 0.05}, "sam takes a second gradient"),
        ({"start": "r0"}, "starts from another run"),
        ({"start": "r0", "anchor": "l2-sp:1"}, "starts from another run"),
        ({"freeze": "trunk"}, "different learning rates"),
        ({"trunk_lr": 0.1}, "different learning rates"),
        ({"early_stopping": 2}, "early_stopping ends each run"),
        ({"keep_best": True}, "keep_best keeps"),
        ({"average": "ema:0.9"}, "average 'ema:.*' is not kept"),
        ({"probes": "trace:every=5"}, "probes 'trace:every=5' ask about one run"),
        ({"logger": "csv"}, "logger 'csv' writes of one run"),
        ({"fork_step": 3}, "order of examples forks"),
        ({"epochs": 0}, "nothing to train"),
    ],
    ids=str,
)
def test_what_cannot_be_stacked_says_why(changes, reason, tmp_path):
    (group,) = stackable([replace(TINY, **changes)])
    assert re.search(reason, group.reason)
    with pytest.raises(ValueError, match=reason):
        train_stack(group.configs, [tmp_path / "run"])
    assert not list(tmp_path.iterdir())


def test_a_field_that_nobody_has_thought_of_parts_a_run_from_its_stack(monkeypatch):
    monkeypatch.setattr("models.stacking.grouping._TAKEN", grouping._TAKEN - {"label_smoothing"})
    first, second = stackable([TINY, replace(TINY, label_smoothing=0.1)])
    assert not first.reason and second.reason == "label_smoothing is not known in a stack"


def test_what_is_no_stack_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"are 2 stacks \(width is 6 and 7; batch_size is 16 and 8\)"):
        train_stack([TINY, replace(TINY, width=7, batch_size=8)], [tmp_path / "a", tmp_path / "b"])
    with pytest.raises(ValueError, match="two of the runs are the same"):
        train_stack([TINY, TINY], [tmp_path / "a", tmp_path / "b"])
    with pytest.raises(ValueError, match="one folder for each of at least one run, got 1 and 0"):
        train_stack([TINY], [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "members", "answer"),
    [
        ({"width": 128, "depth": 2}, 16, True),
        ({"width": 128, "depth": 2}, 3, False),
        ({"width": 600, "depth": 2, "batch_size": 100}, 8, True),
        ({"width": 1000, "depth": 2, "batch_size": 100}, 8, False),
        ({"width": 600, "depth": 2, "batch_size": "all", "train_size": 2000}, 8, False),
        ({"model": "cnn", "width": 16, "norm": "group"}, 8, True),
        ({"model": "cnn", "width": 64, "norm": "group"}, 8, False),
        ({"model": "wideresnet", "width": 2, "depth": 10, "norm": "group"}, 8, True),
        ({"model": "wideresnet", "width": 4, "depth": 10, "norm": "group"}, 8, False),
    ],
    ids=str,
)
def test_a_stack_pays_where_its_arithmetic_is_small(changes, members, answer):
    assert pays(replace(TINY, device="cpu", **changes), members) is answer


def test_a_stack_on_a_gpu_pays_whatever_its_size(monkeypatch):
    monkeypatch.setattr("models.stacking.cost.find_device", torch.device)
    wide = replace(TINY, width=4000, device="cuda")
    assert pays(wide, 2) and not pays(wide, 1)


# --- exactness ------------------------------------------------------------------------------------------------------


def test_softmax_regression_takes_the_known_steps_of_gradient_descent(tmp_path):
    base = RunConfig(
        data="digits", model="deep-linear", depth=1, optimizer="gd", train_size=40, test_size=20, epochs=4, init="zeros"
    )
    configs = [replace(base, lr=lr, label_noise=noise, seed=7) for lr, noise in ((0.5, 0.0), (0.1, 0.5), (2.0, 0.0))]
    configs[2] = replace(configs[2], weight_decay=0.1, data_seed=3)
    found = train_stack(configs, folders(tmp_path, configs))
    for config, folder, metrics in zip(configs, folders(tmp_path, configs), found, strict=True):
        data = load_data("digits", **config.data_options).train
        x = data.inputs.flatten(1).double().numpy()
        wanted, w, losses = np.eye(10)[data.targets.numpy()], np.zeros((64, 10)), []
        for _ in range(4):
            logits = x @ w
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            losses.append(-np.log((p * wanted).sum(1)).mean())
            w -= config.lr * (x.T @ (p - wanted) / 40 + config.weight_decay * w)
        training = Store(folder).read("training")
        assert training["loss"].values == pytest.approx(losses, rel=2e-6)  # float32 against float64
        assert metrics["train_loss"] == pytest.approx(losses[-1], rel=2e-6)
        (weight,) = load_weights(folder / "weights.safetensors")[0].values()
        assert np.allclose(weight.numpy().T, w, atol=2e-6)


def test_every_optimizer_but_those_of_second_order_is_checked():
    assert {text.partition(":")[0] for text in BY_ENTRY} == set(OPTIMIZERS) - {"gd", "newton", "saddle-free-newton"}


@pytest.mark.parametrize("text", BY_ENTRY)
def test_rows_move_as_each_would_alone_and_hold_the_same_state(text):
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    layout = ParameterLayout.of(network)
    rates = [Rates(0.01), Rates(0.01), Rates(0.02, 0.1), Rates(0.3, 0.1)]
    theta = torch.randn(4, layout.size, generator=torch.Generator().manual_seed(1)).requires_grad_()
    start = theta.detach().clone()
    name, options = OPTIMIZERS.read(text)
    stack = rows_optimizer(theta, rates, name, options)
    for _ in range(4):
        stack.step(lambda: give_gradient(stack, theta.detach().sin()))
    assert len(stack.param_groups) == 3
    for number, rate in enumerate(rates):
        alone = _alone(network, layout, start[number], rate, text)
        moved = layout.current(network)
        assert torch.equal(moved, theta[number]), (moved - theta[number]).abs().max()
        copied = build_optimizer(text, list(network.parameters()), 1.0)
        copy_member(stack, number, copied, layout)
        assert OptimizerState.of(copied, network).digest() == OptimizerState.of(alone, network).digest()


def _alone(network, layout, start, rate, text):
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), layout.unflatten(start).values(), strict=True):
            parameter.copy_(value)
    optimizer = build_optimizer(text, list(network.parameters()), rate.lr, rate.weight_decay)

    def closure() -> None:
        for parameter in network.parameters():
            parameter.grad = parameter.detach().sin()

    for _ in range(4):
        optimizer.step(closure)
    return optimizer


def test_rules_are_those_of_each_run():
    gradients = torch.tensor([[3.0, 4.0], [0.3, 0.4], [30.0, -4.0]])
    start = torch.tensor([[1.0, -1.0], [2.0, 2.0], [-1.0, 0.5]])
    rates = [Rates(0.1, decay=0.5), Rates(0.1, decay=0.5), Rates(0.2)]
    theta = start.clone()
    stack = rows_optimizer(theta, rates, "sgd", {})
    give_gradient(stack, gradients.clone())
    apply_rules(GradientRules(clip_value=5.0, clip_norm=2.0, l1=0.1), stack)
    given = torch.cat([group["params"][0].grad for group in stack.param_groups])
    for number, rate in enumerate(rates):
        parameter = torch.nn.Parameter(start[number].clone())
        parameter.grad = gradients[number].clone()
        GradientRules(5.0, 2.0, 0.1, rate.decay).apply(torch.optim.SGD([parameter], lr=rate.lr))
        assert torch.allclose(given[number], parameter.grad, atol=1e-7)
        assert torch.allclose(theta[number], parameter.detach(), atol=1e-7)


@pytest.mark.parametrize("name", grouping._TOGETHER)
@pytest.mark.parametrize("norm", ["none", "group", "layer"])
def test_a_stack_computes_what_its_networks_do(name, norm):
    shape = (3, 16, 16) if name != "mlp" else (1, 40)
    options = {"width": 1 if name == "wideresnet" else 8, "norm": norm}
    if name in ("deep-linear", "random-features", "lenet"):
        options = {}
    torch.manual_seed(0)
    networks = [build_model(name, shape, 4, **options).double() for _ in range(3)]
    module = StackedClassifier(networks, lambda theta: torch.optim.SGD([theta], 0.1))
    inputs = torch.randn(3, 5, *shape, dtype=torch.float64)
    logits = module(inputs)
    (gradient,) = torch.autograd.grad(logits.square().sum(), module.theta)
    for number, network in enumerate(networks):
        alone = network(inputs[number])
        assert torch.allclose(logits[number], alone, rtol=1e-10)
        parameters = [p for p in network.parameters() if p.requires_grad]
        own = torch.cat([g.flatten() for g in torch.autograd.grad(alone.square().sum(), parameters)])
        assert (gradient[number] - own).norm() < 1e-10 * own.norm()


def test_a_loader_gives_each_run_the_batches_of_its_own():
    parts = [load_data("digits", train_size=20, seed=seed).train for seed in (0, 1)]
    noisy = Examples(parts[0].inputs.clone(), parts[0].targets.flip(0))
    parts.append(noisy)
    loaders = [TensorLoader(part, 8, shuffle=True, seed=seed) for part, seed in zip(parts, (3, 3, 4), strict=True)]
    examples = StackedExamples(parts)
    assert len(examples.inputs) == 40  # those of the third are those of the first
    loader = StackedLoader(loaders, examples)
    loader.set_epoch(2)
    assert len(loader) == 3
    for batch, *alone in zip(loader, *loaders, strict=True):
        for number, own in enumerate(alone):
            assert torch.equal(batch.inputs[number], own.inputs) and torch.equal(batch.targets[number], own.targets)
    for chosen in (parts, parts[::2]):
        whole = [torch.cat(pieces, dim=1) for pieces in zip(*StackedExamples(chosen).batches(7), strict=True)]
        assert torch.equal(whole[0], torch.stack([part.inputs for part in chosen]))
        assert torch.equal(whole[1], torch.stack([part.targets for part in chosen]))


STEADY = {"val_loss", "epoch_test_loss", "train_loss", "test_loss", "final_train_loss", "optimizer_state_bytes"}
KINDS = {
    "mlp": replace(
        TINY, schedule="cosine", warmup=3, label_smoothing=0.1, test_each_epoch=True, clip_norm=1.0, l1=1e-4
    ),
    "adamw": replace(
        TINY, optimizer="adamw", lr=0.01, momentum=None, norm="layer", weight_decay=0.1, width=8, epochs=2
    ),
    "cnn": replace(TINY, model="cnn", width=4, depth=2, norm="group", decoupled=True, weight_decay=0.02, epochs=2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_is_its_runs_trained_alone(kind, tmp_path):
    """Within 1e-5 at each of the first steps, and 1e-4 at the end of some ten: only the order of sums differs."""
    base = KINDS[kind]
    configs = [base, replace(base, seed=1, lr=base.lr / 3, label_noise=0.2), replace(base, seed=2, data_seed=4)]
    configs[1] = replace(configs[1], init="xavier-uniform")
    together = train_stack(configs, folders(tmp_path / "stack", configs))
    for config, metrics in list(zip(configs, together, strict=True))[0 if kind == "mlp" else 1 :]:
        alone = train(config, tmp_path / "alone")
        assert metrics.keys() == alone.keys() and STEADY - {"epoch_test_loss"} <= alone.keys()
        assert metrics == pytest.approx(alone, rel=1e-4)
        pair = [Store(out).read("training") for out in (tmp_path / "stack" / config.hash, tmp_path / "alone")]
        for name in ("loss", "gradient_norm", "layer_gradient_norm", "parameter_norm", "update_ratio", "chord_length"):
            assert np.allclose(pair[0][name][:8], pair[1][name][:8], rtol=1e-5, atol=1e-7), name
        assert np.array_equal(pair[0]["learning_rate"], pair[1]["learning_rate"])
        for name in ("step", "epoch", "layer", "epoch_of_step"):
            assert np.array_equal(pair[0][name], pair[1][name])
        paths = [Store(out).read("trajectory") for out in (tmp_path / "stack" / config.hash, tmp_path / "alone")]
        assert np.array_equal(paths[0]["theta"][0], paths[1]["theta"][0])
        assert np.allclose(paths[0]["theta"], paths[1]["theta"], atol=1e-4)
        assert paths[0]["step"].equals(paths[1]["step"]) and paths[0].attrs["layout"] == paths[1].attrs["layout"]
        shutil.rmtree(tmp_path / "alone")


def test_a_run_that_diverges_leaves_the_others_bit_for_bit(stacked, tmp_path):
    configs = [THREE[0], THREE[1], replace(THREE[2], lr=1e18)]
    found = train_stack(configs, folders(tmp_path, configs))
    assert np.isnan(found[2]["train_loss"])
    for config in configs[:2]:
        assert digests(tmp_path / config.hash) == digests(stacked / config.hash)


def test_a_stack_may_have_a_single_run(tmp_path):
    (metrics,) = train_stack([TINY], [tmp_path / "stack"])
    assert metrics == pytest.approx(train(TINY, tmp_path / "alone"), rel=1e-5)
    assert open_run(tmp_path / "stack").about["stacked_with"] == 1


# --- what it leaves -------------------------------------------------------------------------------------------------


def test_each_run_is_a_normal_one_that_says_it_was_stacked(stacked):
    for config in THREE:
        folder = stacked / config.hash
        run, training = open_run(folder), Store(folder).read("training")
        names = {path.name for path in folder.iterdir()}
        weights = {"weights.safetensors", "optimizer.safetensors"}
        assert names == {".lock", "run.json", "training.h5", "trajectory.h5"} | weights
        assert run.config == config and run.about["stacked_with"] == training.attrs["stacked_with"] == 3
        assert training.attrs["not_recorded"] == "turn_cosine distance_from_start flow"
        assert run.test_metrics()["loss"] == pytest.approx(run.metrics["test_loss"], rel=1e-5)
        assert run.optimizer_state().digest()
        assert run.record() is not None
        assert train(config, folder) == run.metrics  # it is finished


# --- interruptions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "error"), [(1, Stop), (2, KeyboardInterrupt), (3, Stop)])
def test_a_resumed_stack_equals_the_uninterrupted_one(stacked, tmp_path, epochs, error):
    with pytest.raises(error):
        train_stack(THREE, folders(tmp_path), stop_after(epochs, error))
    seen = []
    train_stack(THREE, folders(tmp_path), lambda stage, done, total: seen.append((stage, done, total)))
    assert seen == [("epochs", done, 3) for done in range(epochs + 1, 4)]
    for config in THREE:
        assert digests(tmp_path / config.hash) == digests(stacked / config.hash)
        assert {path.name for path in (tmp_path / config.hash).iterdir()} == {
            path.name for path in (stacked / config.hash).iterdir()
        }


def test_what_was_recorded_beyond_the_last_checkpoint_is_recorded_again(stacked, tmp_path, monkeypatch):
    config = replace(TINY, snapshots="steps:3")
    configs = [config, replace(config, seed=1)]
    train_stack(configs, folders(tmp_path / "whole", configs))
    save = recording.StackRecording._flush

    def flush(self) -> None:
        save(self)
        if self._rows.table("step")["step"].max() > 4:
            raise Stop

    monkeypatch.setattr(recording.StackRecording, "_flush", flush)
    with pytest.raises(Stop):
        train_stack(configs, folders(tmp_path / "cut", configs))
    monkeypatch.setattr(recording.StackRecording, "_flush", save)
    train_stack(configs, folders(tmp_path / "cut", configs))
    for config in configs:
        assert digests(tmp_path / "cut" / config.hash) == digests(tmp_path / "whole" / config.hash)


def test_a_stack_that_ends_while_it_is_sealed_goes_on_there(stacked, tmp_path, monkeypatch):
    write, count = Store.write, []

    def failing(self, name, dataset):
        count.append(name)
        if len(count) == 4:
            raise Stop
        return write(self, name, dataset)

    monkeypatch.setattr(Store, "write", failing)
    with pytest.raises(Stop):
        train_stack(THREE, folders(tmp_path))
    monkeypatch.setattr(Store, "write", write)
    done = [folder for folder in folders(tmp_path) if (folder / "training.h5").exists()]
    before = (done[0] / "training.h5").stat().st_mtime_ns
    left = [config for config in THREE if not (tmp_path / config.hash / "training.h5").exists()]
    train_stack(left, folders(tmp_path, left))  # of the one that is finished nobody needs to speak
    assert len(done) == 1 and (done[0] / "training.h5").stat().st_mtime_ns == before
    for config in THREE:
        assert digests(tmp_path / config.hash) == digests(stacked / config.hash)


def test_a_finished_run_is_not_trained_again_and_another_stack_begins_anew(tmp_path):
    with pytest.raises(Stop):
        train_stack(THREE[:2], folders(tmp_path, THREE[:2]), stop_after(1))
    train(THREE[0], folders(tmp_path)[0])
    before = digests(folders(tmp_path)[0])
    train_stack(THREE, folders(tmp_path))
    assert digests(folders(tmp_path)[0]) == before
    found = [open_run(folder).about.get("stacked_with") for folder in folders(tmp_path)]
    assert found == [None, 2, 2]
    assert train_stack(THREE, folders(tmp_path), stop_after(1)) == [open_run(f).metrics for f in folders(tmp_path)]


def test_a_folder_of_another_run_or_in_use_is_refused(stacked, tmp_path):
    with pytest.raises(ValueError, match="holds another run"):
        train_stack([replace(TINY, seed=9)], [stacked / TINY.hash])
    code = f"import sys; from landscape.store import Store; s = Store({str(tmp_path / 'b')!r})\n"
    code += "with s.lock(): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError):
            train_stack([TINY, replace(TINY, seed=9)], [tmp_path / "a", tmp_path / "b"])
        holder.communicate("")


@pytest.mark.slow
def test_a_killed_stack_resumes_with_the_same_bits(stacked, tmp_path):
    code = f"""
import os, signal
from models.stacking import recording, train_stack
from tests.models.test_stacking import THREE, folders, Path
recording.CHECKPOINT_SECONDS = 0.0
def progress(stage, done, total):
    if done == 2: os.kill(os.getpid(), signal.SIGKILL)
train_stack(THREE, folders(Path({str(tmp_path)!r})), progress)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], env=dict(os.environ), check=False
    )
    assert ended.returncode == -signal.SIGKILL
    train_stack(THREE, folders(tmp_path))
    for config in THREE:
        assert digests(tmp_path / config.hash) == digests(stacked / config.hash)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_stack_on_a_gpu_is_that_on_the_processor(stacked, tmp_path):
    configs = [replace(config, device="cuda") for config in THREE]
    found = train_stack(configs, folders(tmp_path, configs))
    for config, metrics in zip(THREE, found, strict=True):
        assert metrics == pytest.approx(open_run(stacked / config.hash).metrics, rel=1e-3)
