"""Averages of weights: closed forms, torch's own average, and what a run keeps of them."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from landscape.store import MissingError, Store
from landscape.weights import digest_tensors, load_weights
from models.averaged import AveragedWeights
from models.averaging import AVERAGES, make_average
from models.normalization import settle_statistics
from models.run import RunConfig, open_run, train
from models.training import Training, measure

TINY = RunConfig(
    model="mlp",
    width=4,
    depth=1,
    norm="batch",
    train_size=64,
    test_size=40,
    val_fraction=0.1,
    batch_size=16,
    epochs=3,
    snapshots="steps:1",
    lr=0.5,
)
AVERAGED = replace(TINY, average="ema:0.8,start=1")
EVERY_KIND = ["ema:0.8", "ema:0.8,warmup=ramp", "ema:0.8,warmup=none", "polyak", "swa:0.5", "swa:1,2", "lawa:2"]
EPOCHS = 3  # of the made-up trainings
ENTER = {"swa:0.5": [20, 30], "swa:1,2": [10, 30], "lawa:2": [20, 30]}  # after which of 30 steps, 10 an epoch


class Stop(Exception):
    """The power is gone."""


def stop(stage: str, done: int, total: int) -> None:
    if done == 2:
        raise Stop


def mean_of(text: str, points: torch.Tensor, steps_per_epoch: int = 10) -> torch.Tensor:
    """What the callback makes of a network whose weights stand at `points` (T, P) after each step."""
    network = nn.Linear(points.shape[1], 1, bias=False).double()
    module = SimpleNamespace(network=network, get_submodule=lambda name: network)
    trainer = SimpleNamespace(global_step=0, max_epochs=EPOCHS)
    trainer.num_training_batches, trainer.accumulate_grad_batches = steps_per_epoch, 1
    average = AveragedWeights(make_average(text))
    average.on_train_start(trainer, module)
    for step, point in enumerate(points, start=1):
        with torch.no_grad():
            network.weight.copy_(point[None])
        trainer.global_step = step
        average.on_train_batch_end(trainer, module, None, None, step)
        average.on_train_batch_end(trainer, module, None, None, step)  # a batch that moves nothing is not counted
    return average.network(network, torch.empty(0)).weight.detach()[0]


def weights_of(text: str, count: int, d: float = 0.8) -> torch.Tensor:
    """(T,) how much each point counts, written out from the definitions."""
    if text in ENTER:
        entered = [step for step in ENTER[text] if step <= count] or [count]  # before the first its own weights
        return torch.tensor([step in entered for step in range(1, count + 1)], dtype=torch.float64) / len(entered)
    ages = torch.arange(count - 1, -1, -1, dtype=torch.float64)
    if text == "polyak":
        return torch.full((count,), 1 / count, dtype=torch.float64)
    if text == "ema:0.8":
        return d**ages / (d**ages).sum()
    weights = torch.ones(1, dtype=torch.float64)
    for n in range(1, count):
        kept = min(d, (n + 1) / (n + 10)) if "ramp" in text else d
        weights = torch.cat([kept * weights, torch.tensor([1 - kept])])
    return weights


@pytest.mark.parametrize("text", EVERY_KIND)
@pytest.mark.parametrize("count", [1, 2, 30])
def test_every_average_is_the_weighted_mean_it_says(text, count):
    points = torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = weights_of(text, count) @ points
    assert torch.allclose(mean_of(text, points), expected, rtol=1e-12)
    assert weights_of(text, count).sum() == pytest.approx(1)


def test_every_average_is_tested():
    assert {"none", *(text.partition(":")[0] for text in EVERY_KIND)} == set(AVERAGES)


def test_descent_on_a_quadratic_has_a_closed_form():
    """theta_t = r^t theta_0, so that its mean is a ratio of geometric sums."""
    r, d, steps = 0.9, 0.8, 25
    points = r ** torch.arange(1, steps + 1, dtype=torch.float64)[:, None]
    exact = (1 - d) / (1 - d**steps) * r * (d**steps - r**steps) / (d - r)
    assert mean_of("ema:0.8", points).item() == pytest.approx(exact, rel=1e-12)


def test_under_a_constant_gradient_the_mean_lags_by_a_constant():
    """theta_t = t, so that the mean lags by d / (1 - d) once the beginning is forgotten."""
    points = torch.arange(1, 301, dtype=torch.float64)[:, None]
    for text in ("ema:0.8", "ema:0.8,warmup=none", "ema:0.8,warmup=ramp"):
        assert mean_of(text, points).item() == pytest.approx(300 - 0.8 / 0.2, abs=1e-9)
    assert mean_of("polyak", points).item() == pytest.approx(150.5)


def test_without_warm_up_it_is_torchs_bit_for_bit():
    points = torch.randn(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    network = nn.Linear(5, 1, bias=False).double()
    theirs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.95))
    for point in points:
        with torch.no_grad():
            network.weight.copy_(point[None])
        theirs.update_parameters(network)
    assert torch.equal(mean_of("ema:0.95,warmup=none", points), theirs.module.weight.detach()[0])
    assert not torch.allclose(mean_of("ema:0.95", points), theirs.module.weight.detach()[0])


def test_it_begins_after_so_many_epochs_and_is_the_weights_themselves_before():
    points = torch.arange(1, 41, dtype=torch.float64)[:, None]
    assert mean_of("polyak:3", points).item() == pytest.approx(35.5)
    assert mean_of("polyak:4", points).item() == 40


def test_the_formula_of_stochastic_weight_averaging_by_hand():
    """w_SWA <- (w_SWA n + w) / (n + 1) at the ends of epochs, from the end of the second of four."""
    points = torch.tensor([[9.0], [1.0], [9.0], [2.0], [9.0], [6.0], [9.0], [4.0]], dtype=torch.float64)
    swa, n = points[3], 1
    for w in (points[5], points[7]):
        swa, n = (swa * n + w) / (n + 1), n + 1
    assert swa.item() == pytest.approx(4)  # (2 + 6 + 4) / 3
    assert mean_of("swa:2", points, 2).item() == pytest.approx(swa.item(), rel=1e-15)


def stationary(h: float, rate: float, noise: float, steps: int, chains: int) -> torch.Tensor:
    """(T, chains) iterates of SGD on h/2 theta^2 with gradient noise, drawn from their stationary distribution."""
    generator = torch.Generator().manual_seed(0)
    r = 1 - rate * h
    theta = torch.randn(chains, dtype=torch.float64, generator=generator) * rate * noise / (1 - r**2) ** 0.5
    found = []
    for _ in range(steps):
        theta = r * theta - rate * noise * torch.randn(chains, dtype=torch.float64, generator=generator)
        found.append(theta)
    return torch.stack(found)


@pytest.mark.parametrize("text", ["ema:0.8", "ema:0.8,warmup=none", "polyak", "swa:0.5", "lawa:2"])
def test_averages_of_descent_with_noise_have_the_exact_variance(text):
    """theta_t is an AR(1) of variance s^2 = (rate noise)^2 / (1 - r^2), whose means vary by sum w_i w_j r^|i-j| s^2."""
    h, rate, noise, steps, chains = 2.0, 0.1, 1.0, 30, 20_000
    r, w = 1 - rate * h, weights_of(text, steps)
    ages = torch.arange(steps)
    correlation = r ** (ages[:, None] - ages[None]).abs().double()
    last = (rate * noise) ** 2 / (1 - r**2)
    exact = (w @ correlation @ w).item() * last
    found = mean_of(text, stationary(h, rate, noise, steps, chains)).square()
    assert found.mean().item() == pytest.approx(exact, abs=4 * found.std().item() / chains**0.5)
    assert exact < last - 4 * found.std().item() / chains**0.5  # less than that of the last iterate


# In a run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("averaged")
    configs = {"plain": TINY, "averaged": AVERAGED, "kept": replace(AVERAGED, keep_average=True)}
    for name, config in configs.items():
        train(config, folder / name)
    return folder


def digest(path):
    return digest_tensors(load_weights(path)[0])


def test_training_does_not_see_it(runs):
    assert digest(runs / "plain/weights.safetensors") == digest(runs / "averaged/weights.safetensors")
    assert "average_test_loss" not in Store(runs / "plain").read("training")


def test_the_average_is_that_of_the_trajectory_with_statistics_of_its_own(runs):
    run = open_run(runs / "averaged")
    points = torch.from_numpy(Store(run.folder).read("trajectory")["theta"].values[5:]).double()  # after one epoch of 4
    assert len(points) == 8
    expected = weights_of("ema:0.8", 8) @ points
    found, _ = load_weights(run.folder / "average.safetensors")
    network = run.model()
    names = [name for name, _ in network.named_parameters()]
    assert torch.allclose(torch.cat([found[name].reshape(-1) for name in names]).double(), expected, atol=1e-6)
    network.load_state_dict(found)
    before = copy.deepcopy(network.state_dict())
    settle_statistics(network, run.data().train.inputs)
    assert digest_tensors(network.state_dict()) == digest_tensors(before)
    assert not torch.equal(before["norm1.running_mean"], run.model().state_dict()["norm1.running_mean"])
    test = measure(network, run.data().test)
    assert (run.metrics["average_test_loss"], run.metrics["average_test_accuracy"]) == test
    assert run.metrics["test_loss"] == measure(run.model(), run.data().test)[0] != test[0]


def test_a_kept_average_changes_places_with_the_last_weights(runs):
    assert digest(runs / "kept/weights.safetensors") == digest(runs / "averaged/average.safetensors")
    assert digest(runs / "kept/last.safetensors") == digest(runs / "averaged/weights.safetensors")
    kept, other = (open_run(runs / name).metrics for name in ("kept", "averaged"))
    assert kept["test_loss"] == kept["average_test_loss"] == other["average_test_loss"]
    assert kept["last_test_loss"] == other["test_loss"] and "last_test_loss" not in other
    assert open_run(runs / "averaged").optimizer_state()
    with pytest.raises(MissingError, match="belongs to its last weights, but those of its best epoch, or an average"):
        open_run(runs / "kept").optimizer_state()


def test_the_best_weights_are_kept_beside_an_average(runs, tmp_path):
    train(replace(AVERAGED, keep_best=True, early_stopping=1), tmp_path / "run")
    assert (tmp_path / "run/average.safetensors").exists() and (tmp_path / "run/best.safetensors").exists()
    assert digest(tmp_path / "run/weights.safetensors") == digest(tmp_path / "run/best.safetensors")


@pytest.mark.parametrize("name", ["averaged", "kept"])
def test_a_resumed_average_is_the_uninterrupted_one(runs, tmp_path, name):
    config = replace(AVERAGED, keep_average=name == "kept")
    with pytest.raises(Stop):
        train(config, tmp_path / "cut", progress=stop)
    train(config, tmp_path / "cut")
    for file in ("weights", "last" if name == "kept" else "average"):
        assert digest(tmp_path / f"cut/{file}.safetensors") == digest(runs / name / f"{file}.safetensors")
    ours, theirs = (Store(folder).read("training") for folder in (tmp_path / "cut", runs / name))
    assert ours.attrs["content_digest"] == theirs.attrs["content_digest"]


def test_a_configuration_writes_averages_in_one_way():
    assert replace(TINY, average="ema:decay=0.99").average == "ema"
    assert replace(TINY, average="ema:0.9").hash != TINY.hash
    assert Training(TINY).averaged is None
    assert replace(AVERAGED, epochs=0).average == "ema:decay=0.8,start=1"  # nothing is averaged, nothing fails


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"average": "emma"}, "unknown average 'emma'; did you mean 'ema'"),
        ({"average": "ema:1"}, r"average 'ema' needs decay in \[0, 1\), got 1.0"),
        ({"average": "ema:0.9,start=-1"}, "average 'ema' needs start of at least 0 epochs, got -1"),
        ({"average": "polyak:-1"}, "average 'polyak' needs start of at least 0 epochs, got -1"),
        ({"average": "ema:0.9,warmup=slow"}, "average 'ema': warmup: expected corrected | ramp | none, got 'slow'"),
        ({"average": "swa:-1"}, "average 'swa' needs start of at least 0, got -1"),
        ({"average": "swa:1.5"}, "average 'swa' needs start below 1, or a whole number of epochs, got 1.5"),
        ({"average": "swa:every=0"}, "average 'swa' needs every of at least 1 epoch, got 0"),
        ({"average": "lawa:0"}, "average 'lawa' needs k of at least 1, got 0"),
        ({"average": "lawa:every=0"}, "average 'lawa' needs every of at least 1 epoch, got 0"),
        ({"average": "lawa:4"}, "takes the last 4 ends of epochs, but there are 3; take fewer, or train for longer"),
        ({"average": "lawa:2,2"}, "takes the last 2 ends of every 2 epochs, but there are 1; take fewer"),
        ({"average": "swa:0.9"}, "starts after 3 epochs, but there are 3; start earlier"),
        ({"average": "ema:start=3"}, "starts after 3 epochs, but there are 3; start earlier"),
        ({"keep_average": True}, "keep_average needs an average to keep; give average, as in ema:0.99"),
        ({"average": "ema", "keep_average": True, "keep_best": True}, "name two sets of weights; choose one"),
    ],
)
def test_what_a_configuration_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


def test_no_epochs_leave_the_first_weights(tmp_path):
    metrics = train(replace(AVERAGED, epochs=0), tmp_path / "run")
    assert metrics["average_test_loss"] == metrics["test_loss"] and np.isfinite(metrics["test_loss"])
