from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.normalization import batch_norms, recalibrated_buffers, set_policy
from landscape.objective import Objective
from tests import oracles
from tests.problems import TinyCNN, built, images, vectors


def by_hand(model: TinyCNN, inputs, mean, variance):
    """The forward pass with these statistics in BatchNorm."""
    hidden = model.conv(inputs)
    shape = (1, -1, 1, 1)
    scaled = (hidden - mean.view(shape)) / (variance.view(shape) + model.norm.eps).sqrt()
    scaled = scaled * model.norm.weight.view(shape) + model.norm.bias.view(shape)
    return model.fc(torch.tanh(scaled).mean(dim=(2, 3)))


@pytest.fixture
def double():
    inputs, targets = images()
    return built(TinyCNN, dtype=torch.float64), inputs.double(), targets


def value(model, inputs, targets, **options) -> float:
    return Objective(model, (inputs, targets), loss=F.cross_entropy, **options).loss().item()


def test_running_uses_the_stored_statistics(double):
    model, inputs, targets = double
    expected = F.cross_entropy(by_hand(model, inputs, model.norm.running_mean, model.norm.running_var), targets)
    assert value(model, inputs, targets) == pytest.approx(expected.item(), rel=1e-12)


def test_batch_uses_those_of_each_batch_with_its_biased_variance(double):
    model, inputs, targets = double
    hidden = model.conv(inputs).detach()
    mean, biased = hidden.mean(dim=(0, 2, 3)), hidden.var(dim=(0, 2, 3), unbiased=False)
    expected = F.cross_entropy(by_hand(model, inputs, mean, biased), targets)
    assert value(model, inputs, targets, normalization="batch") == pytest.approx(expected.item(), rel=1e-12)
    cut = 0.0
    for part in (slice(0, 10), slice(10, 20), slice(20, 23)):
        hidden = model.conv(inputs[part]).detach()
        mean, biased = hidden.mean(dim=(0, 2, 3)), hidden.var(dim=(0, 2, 3), unbiased=False)
        loss = F.cross_entropy(by_hand(model, inputs[part], mean, biased), targets[part])
        cut += loss.item() * len(inputs[part]) / 23
    assert value(model, inputs, targets, normalization="batch", batch_size=10) == pytest.approx(cut, rel=1e-12)


@pytest.mark.parametrize("batch_size", [23, 5, 2])
def test_recalibrated_pools_exactly_whatever_the_batch_size(double, batch_size):
    model, inputs, targets = double
    mean, variance = oracles.pooled_statistics(model.conv(inputs))
    expected = F.cross_entropy(by_hand(model, inputs, mean, variance), targets).item()
    options = {"normalization": "recalibrated", "batch_size": batch_size}
    assert value(model, inputs, targets, **options) == pytest.approx(expected, rel=1e-12)


def test_recalibration_happens_at_each_point(double):
    model, inputs, targets = double
    objective = Objective(model, (inputs, targets), loss=F.cross_entropy, normalization="recalibrated")
    # BatchNorm takes out the scale of what comes before it: but for its eps nothing changes.
    parts = objective.layout.unflatten(objective.theta.clone())
    parts["conv.weight"] *= 1000
    parts["conv.bias"] *= 1000
    assert objective.loss(objective.layout.flatten(parts)).item() == pytest.approx(objective.loss().item(), rel=1e-4)
    running = Objective(model, (inputs, targets), loss=F.cross_entropy)
    assert abs(running.loss(running.layout.flatten(parts)) / running.loss() - 1) > 1e-3  # the control


def test_a_mean_far_from_zero_does_not_cancel():
    """The sum of squares in float32 would lose the variance next to a mean of 1e4."""
    generator = torch.Generator().manual_seed(0)
    inputs = 1e4 + torch.randn(64, 3, generator=generator)
    targets = torch.randint(0, 3, (64,), generator=generator)
    model = nn.Sequential(nn.BatchNorm1d(3))
    objective = Objective(model, (inputs, targets), loss=F.cross_entropy, normalization="recalibrated")
    mean, variance = oracles.pooled_statistics(inputs)
    with objective.at():
        layer = batch_norms(objective._module)[0]
        assert torch.allclose(layer.running_var.double(), variance, rtol=1e-6)  # stored in float32
        assert torch.allclose(layer.running_mean.double(), mean, rtol=1e-7)


@pytest.mark.parametrize("normalization", ["running", "batch", "recalibrated"])
def test_the_users_statistics_stay(normalization):
    model = built(TinyCNN).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    objective = Objective(model, images(), loss=F.cross_entropy, normalization=normalization)
    objective.metrics()
    objective.gradient()
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert model.training
    assert model.norm.training
    assert model.norm.track_running_stats


def test_the_first_point_is_measured_again_after_others():
    for normalization in ("running", "batch", "recalibrated"):
        objective = Objective(built(TinyCNN), images(), loss=F.cross_entropy, normalization=normalization)
        first = objective.loss().item()
        objective.loss(objective.theta + 0.3)
        assert objective.loss().item() == first


@pytest.mark.parametrize("normalization", ["batch", "recalibrated"])
def test_a_single_example_left_at_the_end_has_statistics(normalization):
    model = built(lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)))
    objective = Objective(model, vectors(21), loss=F.cross_entropy, normalization=normalization, batch_size=4)
    assert objective.loss().isfinite()


def test_batch_norm_without_running_statistics_depends_on_cuts():
    def net():
        return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3))

    model = built(net)
    inputs, targets = vectors(50)
    objective = Objective(model, (inputs, targets), loss=F.cross_entropy)
    assert objective.depends_on_cuts
    assert objective.loss().item() == pytest.approx(F.cross_entropy(model(inputs), targets).item(), rel=1e-6)  # float32


def test_two_layers_are_recalibrated_in_one_pass_over_the_whole_data():
    def net():
        return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3), nn.BatchNorm1d(3))

    model = built(net, dtype=torch.float64)
    inputs, targets = vectors(50)
    objective = Objective(model, (inputs.double(), targets), loss=F.cross_entropy, normalization="recalibrated")
    first = model[0](inputs.double())
    normal = F.batch_norm(first, None, None, model[1].weight, model[1].bias, training=True)
    second = model[3](torch.tanh(normal))
    with objective.at():
        for layer, hidden in zip(batch_norms(objective._module), (first, second), strict=True):
            mean, variance = oracles.pooled_statistics(hidden)
            assert torch.allclose(layer.running_mean, mean, atol=1e-12)
            assert torch.allclose(layer.running_var, variance, rtol=1e-12)


def test_names_and_refusals():
    model = built(TinyCNN)
    assert recalibrated_buffers(model) == ["norm.running_mean", "norm.running_var"]
    assert recalibrated_buffers(nn.BatchNorm1d(2)) == ["running_mean", "running_var"]
    with pytest.raises(ValueError, match="normalization must be one of running, batch, recalibrated, got 'eval'"):
        set_policy(model, "eval")


def test_a_layer_that_is_never_run_keeps_its_statistics():
    class Spare(TinyCNN):
        def __init__(self):
            super().__init__()
            self.spare = nn.BatchNorm1d(2)

    objective = Objective(built(Spare), images(), loss=F.cross_entropy, normalization="recalibrated")
    with objective.at():
        assert objective._module.spare.running_var.tolist() == [1, 1]
