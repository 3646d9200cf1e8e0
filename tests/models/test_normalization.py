"""Every norm against its formula written out in float64, and what landscape's policies and folding make of it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape import Hessian, Objective
from landscape.normalization import batch_norms, set_policy
from models.architectures import build_model
from models.normalization import NORMS, exact_norms, make_norm, settle_statistics
from tests import oracles
from tests.problems import seeded

EPS = 1e-5
SHAPES = {0: (12, 4), 1: (12, 4, 5), 2: (12, 4, 5, 3)}
BATCH_LIKE = ["batch", "batch:exact", "ghost-batch:4", "batch-renorm:start=0,r_end=0,d_end=0"]


def example(dimensions: int, seed: int = 0) -> Tensor:
    """Activations far from normalized, each channel in its own way."""
    shape = SHAPES[dimensions]
    column = torch.arange(1.0, 5.0, dtype=torch.float64).view(1, 4, *(1,) * dimensions)
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64) * column + column.square()


def standardized(x: Tensor, axes: list[int]) -> Tensor:
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(axes, keepdim=True) + EPS).sqrt()


def affine(x: Tensor, norm: nn.Module) -> Tensor:
    """Scale and shift by the norm's own, which are drawn anew."""
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 2.0, -1.0, 1.5]))
        norm.bias.copy_(torch.tensor([1.0, -1.0, 0.25, 3.0]))
    shape = (1, -1, *(1,) * (x.ndim - 2))
    return x * norm.weight.view(shape) + norm.bias.view(shape)


def over_groups(x: Tensor, groups: int) -> Tensor:
    grouped = x.unflatten(1, (groups, -1))
    return standardized(grouped, list(range(2, grouped.ndim))).flatten(1, 2)


FORMULAS = {
    "none": lambda x: x,
    "batch": lambda x: standardized(x, [0, *range(2, x.ndim)]),
    "batch:exact": lambda x: standardized(x, [0, *range(2, x.ndim)]),
    "ghost-batch:4": lambda x: torch.cat([standardized(part, [0, *range(2, x.ndim)]) for part in x.split(4)]),
    "layer": lambda x: standardized(x, list(range(1, x.ndim))),
    "instance": lambda x: standardized(x, list(range(2, x.ndim))),
    "group:2": lambda x: over_groups(x, 2),
}


@pytest.mark.parametrize("dimensions", SHAPES)
@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name, dimensions):
    if name == "instance" and not dimensions:
        pytest.skip("vectors have no places to average over")
    x = example(dimensions)
    norm = make_norm(name, 4, dimensions).double()
    expected = FORMULAS[name](x)
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)
    if name != "none":
        expected = affine(expected, norm)
        torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["layer", "instance"])
def test_without_scale_and_shift_as_the_lectures_print_it(name):
    norm = make_norm(f"{name}:affine=no", 4, 2).double()
    assert not list(norm.parameters())
    torch.testing.assert_close(norm(example(2)), FORMULAS[name](example(2)), rtol=1e-12, atol=1e-12)
    assert not list(make_norm("layer:affine=no", 4, 0).parameters())


class RenormByHand:
    """Algorithm 1 of Ioffe 2017, in its own words."""

    def __init__(self, r_max: float, d_max: float, momentum: float) -> None:
        self.mu = torch.zeros(4, dtype=torch.float64)
        self.sigma = (torch.ones(4, dtype=torch.float64) + EPS).sqrt()
        self.r_max, self.d_max, self.momentum = r_max, d_max, momentum

    def __call__(self, x: Tensor, r_max: float | None = None, d_max: float | None = None) -> Tensor:
        r_max, d_max = self.r_max if r_max is None else r_max, self.d_max if d_max is None else d_max
        axes, shape = [0, *range(2, x.ndim)], (1, -1, *(1,) * (x.ndim - 2))
        mean = x.mean(axes)
        deviation = (EPS + (x - mean.view(shape)).square().mean(axes)).sqrt()
        r = (deviation / self.sigma).clamp(1 / r_max, r_max).detach()
        d = ((mean - self.mu) / self.sigma).clamp(-d_max, d_max).detach()
        self.mu = self.mu + self.momentum * (mean.detach() - self.mu)
        self.sigma = self.sigma + self.momentum * (deviation.detach() - self.sigma)
        return (x - mean.view(shape)) / deviation.view(shape) * r.view(shape) + d.view(shape)


@pytest.mark.parametrize("dimensions", SHAPES)
def test_batch_renormalization_step_by_step(dimensions):
    norm = make_norm("batch-renorm:r_max=1.5,d_max=2,start=0,r_end=0,d_end=0,momentum=0.2", 4, dimensions).double()
    by_hand = RenormByHand(1.5, 2.0, 0.2)
    for seed in range(8):  # the first steps are clipped, the last ones in part not
        x = example(dimensions, seed)
        expected = affine(by_hand(x), norm)
        torch.testing.assert_close(norm(x), expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(norm.running_mean, by_hand.mu, rtol=1e-12, atol=0)
    torch.testing.assert_close((norm.running_var + EPS).sqrt(), by_hand.sigma, rtol=1e-12, atol=0)
    x = example(dimensions, 9)
    shape = (1, -1, *(1,) * dimensions)
    expected = (x - by_hand.mu.view(shape)) / by_hand.sigma.view(shape)
    torch.testing.assert_close(norm.eval()(x), affine(expected, norm), rtol=1e-12, atol=1e-12)


def test_no_gradient_passes_through_the_correction():
    norm = make_norm("batch-renorm:start=0,r_end=0,d_end=0", 4, 0).double()
    x, weights = example(0).requires_grad_(), torch.randn(12, 4, generator=seeded(5), dtype=torch.float64)
    (ours,) = torch.autograd.grad((norm(x) * weights).sum(), x)
    (by_hand,) = torch.autograd.grad((RenormByHand(3.0, 5.0, 0.01)(x) * weights).sum(), x)
    torch.testing.assert_close(ours, by_hand, rtol=1e-11, atol=1e-13)
    # the control: batch normalization's gradient, without the factor r
    (plain,) = torch.autograd.grad((standardized(x, [0]) * weights).sum(), x)
    assert not torch.allclose(ours, plain, rtol=0.1)


def test_unclipped_renormalization_equals_the_running_statistics():
    norm = make_norm("batch-renorm:r_max=1e9,d_max=1e9,start=0,r_end=0,d_end=0", 4, 0).double()
    x = example(0)
    torch.testing.assert_close(norm(x), x / (1 + EPS) ** 0.5, rtol=1e-10, atol=1e-10)


def test_limits_follow_their_schedule():
    norm = make_norm("batch-renorm:start=2,r_end=6,d_end=4", 4, 0)
    limits = []
    for seed in range(8):
        limits.append(norm.limits())
        norm(example(0, seed).float())
    assert limits == [(1, 0), (1, 0), (1, 0), (1.5, 2.5), (2, 5), (2.5, 5), (3, 5), (3, 5)]
    assert make_norm("batch-renorm", 4, 0).limits() == (1, 0)
    plain = standardized(example(0), [0])
    torch.testing.assert_close(make_norm("batch-renorm", 4, 0).double()(example(0)), plain, rtol=1e-12, atol=1e-12)


def test_ghosts_have_at_least_their_size_and_move_the_running_statistics_in_turn():
    norm = make_norm("ghost-batch:5", 4, 0).double()
    x = example(0)  # 12 examples: two ghosts of 6
    expected = torch.cat([standardized(part, [0]) for part in (x[:6], x[6:])])
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)
    running = torch.zeros(4, dtype=torch.float64)
    for part in (x[:6], x[6:]):
        running = 0.9 * running + 0.1 * part.mean(0)
    torch.testing.assert_close(norm.running_mean, running, rtol=1e-12, atol=0)
    assert norm.num_batches_tracked == 2
    torch.testing.assert_close(norm(x[:3]), standardized(x[:3], [0]), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        norm(x[:1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ghost-batch", "norm 'ghost-batch' needs its size, got 'ghost-batch'; write 'ghost-batch:VALUE'"),
        ("ghost-batch:1", "at least two examples, got 1"),
        ("ghost-batch:half", "norm 'ghost-batch': size: expected int, got 'half'"),
        ("batch:best", "norm 'batch': statistics: expected running | exact, got 'best'"),
        ("batch-renorm:r_max=0.5", "r_max of at least 1 and d_max of at least 0, got 0.5, 5.0"),
        ("batch-renorm:d_max=-1", "got 3.0, -1.0"),
        ("batch-renorm:start=600", "0 <= start <= r_end and d_end, got 600, 800, 500"),
        ("batch-renorm:momentum=0", r"a momentum in \(0, 1\], got 0.0"),
        ("batch-renorm:r_max=2,r_max=3", "gives r_max twice"),
        ("group:0", "at least one group, got 0"),
        ("layer:scale=no", "norm 'layer' takes no option scale; it takes: affine"),
        ("none:1", "norm 'none' takes no option 1; it takes: none"),
        ("bach", "unknown norm 'bach'; did you mean 'batch'"),
    ],
)
def test_what_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        make_norm(name, 4, 2)


@pytest.mark.parametrize("name", ["batch-renorm", "ghost-batch:12"])
def test_other_shapes_are_refused(name):
    with pytest.raises(ValueError, match=r"expected \(N, 4, ...\), got shape \(12, 5\)"):
        make_norm(name, 4, 0)(torch.zeros(12, 5))


def test_layers_say_what_they_are():
    assert "size=4" in repr(make_norm("ghost-batch:4", 4, 2))
    assert "r_max=3.0, d_max=5.0, start=100, r_end=800, d_end=500" in repr(make_norm("batch-renorm", 4, 2))


@pytest.mark.parametrize(("channels", "groups"), [(64, 8), (8, 4), (6, 2), (5, 1), (2, 1)])
def test_group_norm_has_groups_of_at_least_two(channels, groups):
    assert make_norm("group", channels, 2).num_groups == groups


# --- under the policies of landscape ----------------------------------------------------------------------


def network(norm: str) -> nn.Module:
    """A convolution, the norm with statistics and scales of its own, and a linear layer, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), make_norm(norm, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)
        ).double()
        for parameter in model[1].parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)
        if batch_norms(model):
            model[1].running_mean.uniform_(-0.5, 0.5)
            model[1].running_var.uniform_(0.3, 2)
    return model


def data() -> tuple[Tensor, Tensor]:
    inputs = torch.randn(12, 1, 6, 6, generator=seeded(1), dtype=torch.float64)
    return inputs, torch.randint(0, 3, (12,), generator=seeded(2))


def by_hand(model: nn.Module, inputs: Tensor, normalized: Tensor) -> Tensor:
    norm = model[1]
    shape = (1, -1, 1, 1)
    return model[2:](normalized * norm.weight.view(shape) + norm.bias.view(shape))


@pytest.mark.parametrize("norm", BATCH_LIKE)
@pytest.mark.parametrize("policy", ["running", "batch", "recalibrated"])
def test_policies_by_hand(norm, policy):
    model, (inputs, targets) = network(norm), data()
    hidden, shape = model[0](inputs), (1, -1, 1, 1)
    if policy == "batch":
        normalized = FORMULAS["ghost-batch:4" if norm.startswith("ghost") else "batch"](hidden)
    else:
        mean, variance = model[1].running_mean, model[1].running_var
        if policy == "recalibrated":
            mean, variance = oracles.pooled_statistics(hidden)
        normalized = (hidden - mean.view(shape)) / (variance.view(shape) + EPS).sqrt()
    expected = F.cross_entropy(by_hand(model, inputs, normalized), targets).item()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objective = Objective(model.train(), (inputs, targets), loss=F.cross_entropy, normalization=policy)
    assert objective.loss().item() == pytest.approx(expected, rel=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("norm", BATCH_LIKE)
@pytest.mark.parametrize("policy", ["running", "batch"])
def test_derivatives_are_those_of_the_loss(norm, policy):
    """Batch renormalization with its correction would fail here: it has no gradient of its own loss."""
    objective = Objective(network(norm), data(), loss=F.cross_entropy, normalization=policy)
    v = torch.randn(objective.size, generator=seeded(4), dtype=torch.float64)
    slope = oracles.central_difference(objective.loss, objective.theta, v, 1e-5)
    assert (objective.gradient() @ v - slope).abs() < 1e-8  # rounding / step, and step^2 times third derivatives
    curve = oracles.central_difference(objective.gradient, objective.theta, v, 1e-4)
    assert (Hessian(objective) @ v - curve).norm() < 1e-6 * curve.norm()


@pytest.mark.parametrize("norm", [*BATCH_LIKE, "layer", "instance", "group:2", "none"])
def test_only_torchs_own_batch_norm_is_folded(norm):
    model = network(norm)
    objective = Objective(model, data(), loss=F.cross_entropy, batch_size=5)
    frozen = objective.frozen()
    assert len(frozen.folds) == (norm in ("batch", "batch:exact"))
    assert frozen.loss().item() == pytest.approx(objective.loss().item(), rel=1e-13)
    exact = oracles.dense_hessian(model, data())
    assert (Hessian(objective).dense() - exact).abs().max() < 1e-12 * exact.abs().max()


def test_the_policy_batch_leaves_the_layers_own_statistics_and_counter():
    for norm in BATCH_LIKE:
        model = network(norm)
        set_policy(model, "batch")
        before = copy.deepcopy(model.state_dict())
        model(data()[0])
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- exact statistics --------------------------------------------------------------------------------------


def test_settled_statistics_are_those_of_the_whole_set():
    model = build_model("mlp", (6,), 3, width=5, norm="batch:exact").double().train()
    inputs = torch.randn(40, 6, generator=seeded(0), dtype=torch.float64)
    model(inputs[:7])
    settle_statistics(model, inputs)
    first = model.hidden1(inputs)
    second = model.hidden2(F.relu(F.batch_norm(first, None, None, training=True)))
    for layer, hidden in zip(exact_norms(model), (first, second), strict=True):
        mean, variance = oracles.pooled_statistics(hidden)
        torch.testing.assert_close(layer.running_mean, mean, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(layer.running_var, variance, rtol=1e-12, atol=0)
        assert layer.num_batches_tracked == 0
    assert all(module.training for module in model.modules())


def test_statistics_are_settled_without_dropout():
    model = build_model("mlp", (6,), 3, width=5, norm="batch:exact", activation="selu:dropout=0.5").double().train()
    inputs = torch.randn(40, 6, generator=seeded(0), dtype=torch.float64)
    settle_statistics(model, inputs)
    first = F.batch_norm(model.hidden1(inputs), None, None, training=True)
    mean, _ = oracles.pooled_statistics(model.hidden2(F.selu(first)))
    torch.testing.assert_close(model.norm2.running_mean, mean, rtol=1e-12, atol=1e-14)


def test_between_epochs_exact_layers_average_over_the_epoch_so_far():
    layer = make_norm("batch:exact", 4, 0).double()
    settle_statistics(nn.Sequential(layer), example(0))
    for seed in (1, 2):
        layer(example(0, seed))
    expected = (example(0, 1).mean(0) + example(0, 2).mean(0)) / 2
    torch.testing.assert_close(layer.running_mean, expected, rtol=1e-12, atol=0)


def test_every_norm_that_averages_over_examples_is_known_to_landscape():
    written = {"ghost-batch": "ghost-batch:2"}
    found = [name for name in NORMS if batch_norms(nn.Sequential(make_norm(written.get(name, name), 4, 2)))]
    assert found == ["batch", "ghost-batch", "batch-renorm"]
