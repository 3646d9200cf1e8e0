"""Units that can be rescaled without changing the function, and what that does to slices."""

from __future__ import annotations

import copy
import doctest
from functools import cache
from math import nan

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape import free_units as free
from landscape import rescaling
from landscape.directions import directions_for
from landscape.free_units import FreeUnits, free_units, rescale
from landscape.objective import Objective
from landscape.probes import Slice
from landscape.rescaling import (
    RescalingTest,
    balanced_scales,
    invariance_warning,
    moved_parameters,
    patterns,
    unit_rescaling,
)
from tests import oracles
from tests.problems import TinyCNN, built, images, perceptron, relu_perceptron, seeded, two_layer_linear, vectors


def sequence(*layers) -> nn.Module:
    return nn.Sequential(*layers)


def mlp() -> nn.Module:
    return sequence(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.LeakyReLU(0.2), nn.Linear(4, 3))


def cnn() -> nn.Module:
    return sequence(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 6, 3, padding=1), nn.PReLU(6), nn.Dropout(0.5), nn.AvgPool2d(1), nn.Flatten(), nn.Linear(54, 4)),
    )


def normalized_cnn(norm=nn.BatchNorm2d) -> nn.Module:
    """Statistics and scales that are not the default ones."""
    model = sequence(
        *(nn.Conv2d(1, 4, 3, padding=1, bias=False), norm(4), nn.ReLU(), nn.Conv2d(4, 6, 3), norm(6), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
    )
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.uniform_(-0.3, 0.3)
                if isinstance(layer, nn.BatchNorm2d):
                    layer.running_mean.uniform_(-0.3, 0.3)
                    layer.running_var.uniform_(0.5, 1.5)
    return model


def group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(2, channels)


class Written(nn.Module):
    """As people write forward methods: functions, methods, means over places."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 3), nn.Linear(5, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.max_pool2d(self.first(inputs).relu(), kernel_size=2)
        hidden = torch.relu(self.second(F.interpolate(hidden, scale_factor=2.0)))
        return self.head(hidden.mean(dim=(2, 3)))


class Residual(nn.Module):
    """A block with a BatchNorm inside; the sum ends what comes to it."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = (
            nn.Conv2d(1, 4, 3),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.Conv2d(6, 4, 3, padding=1),
        )
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        stream = F.relu(self.stem(inputs))
        stream = stream + self.second(F.relu(self.norm(self.first(stream))))
        return self.head(F.adaptive_avg_pool2d(F.relu(stream), 1).flatten(1))


class Grouped(nn.Module):
    """Depthwise and grouped convolutions."""

    def __init__(self):
        super().__init__()
        self.first, self.depth = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3, groups=4, padding=1)
        self.pairs, self.head = nn.Conv2d(8, 6, 1, groups=2), nn.Linear(6, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.pairs(F.relu(self.depth(F.relu(self.first(inputs))))))
        return self.head(hidden.flatten(2).mean(2))


class Upward(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up, self.head = nn.Conv2d(1, 3, 3), nn.ConvTranspose2d(3, 5, 2), nn.Linear(5, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(F.relu(self.up(F.relu(self.down(inputs)))).sum(dim=(2, 3)))


class Tokens(nn.Module):
    """Rows of an image as tokens: LayerNorm before a linear layer on the last axis."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.wide, self.head = nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 7), nn.Linear(7, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.embed(inputs[:, 0])
        return self.head(F.relu(self.wide(self.norm(tokens))).mean(dim=1))


def data_of(data) -> tuple[Tensor, Tensor]:
    inputs, targets = data()
    return inputs.double(), targets


@cache
def trained(factory, data) -> nn.Module:
    """A network near a minimum, where rises are positive along every direction."""
    model, (inputs, targets) = built(factory, dtype=torch.float64).eval(), data_of(data)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return model


def copied(model: nn.Module, parts: dict[str, Tensor]) -> nn.Module:
    """The same network with other parameters."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.copy_(parts[name])
    return other


def objective_of(factory, data=images, **options) -> Objective:
    inputs, targets = data()
    return Objective(built(factory, dtype=torch.float64), (inputs.double(), targets), loss=F.cross_entropy, **options)


FREE = {
    "perceptron": (mlp, vectors, ["0.weight -> 2.weight", "2.weight -> 4.weight"]),
    "without bias": (relu_perceptron, vectors, ["0.weight -> 2.weight"]),
    "linear": (two_layer_linear, vectors, ["0.weight -> 1.weight"]),
    "convolutions": (cnn, images, ["0.weight -> 3.weight", "3.weight -> 8.weight"]),
    "BatchNorm": (normalized_cnn, images, ["1.weight + 1.bias -> 3.weight", "4.weight + 4.bias -> 8.weight"]),
    "GroupNorm": (
        lambda: normalized_cnn(group_norm),
        images,
        ["1.weight + 1.bias -> 3.weight", "4.weight + 4.bias -> 8.weight"],
    ),
    "written": (Written, images, ["second.weight -> head.weight"]),  # what enters the interpolation is not followed
    "residual": (Residual, images, ["norm.weight + norm.bias -> second.weight"]),
    "grouped": (
        Grouped,
        images,
        ["first.weight -> depth.weight", "depth.weight -> pairs.weight", "pairs.weight -> head.weight"],
    ),
    "transposed": (Upward, images, ["down.weight -> up.weight", "up.weight -> head.weight"]),
    "transformer": (lambda: nn.TransformerEncoderLayer(5, 1, 4), vectors, ["linear1.weight -> linear2.weight"]),
    "tokens": (Tokens, images, ["norm.weight + norm.bias -> wide.weight", "wide.weight -> head.weight"]),
}


@pytest.mark.parametrize("name", FREE)
def test_free_units_are_found_and_are_free(name):
    """Whatever the scales, the function is the same: here the losses of single examples."""
    factory, data, expected = FREE[name]
    objective = objective_of(factory, data)
    found = free_units(objective)
    assert [units.name for units in found] == expected
    generator = seeded(1)
    scales = [torch.rand(units.size, generator=generator).mul(4).sub(2).exp() for units in found]
    moved = rescale(objective.theta, objective.layout, found, scales)
    assert not torch.allclose(moved, objective.theta, rtol=0.1)
    for number in (0, 11):
        one = Objective(
            built(factory, dtype=torch.float64),
            tuple(t[number : number + 2] for t in data_of(data)),
            loss=F.cross_entropy,
        )
        assert one.loss(moved).item() == pytest.approx(one.loss().item(), rel=1e-11)


@pytest.mark.parametrize("policy", ["batch", "recalibrated"])
def test_free_units_do_not_depend_on_the_statistics_of_batch_norm(policy):
    found = free_units(objective_of(normalized_cnn, normalization=policy))
    assert [units.name for units in found] == FREE["BatchNorm"][2]


# --- what is not free, or cannot be known to be -------------------------------------------------------------------


class Gated(nn.Module):
    """The output of the first layer also goes where `use` takes it."""

    def __init__(self, use):
        super().__init__()
        self.use, self.first, self.last = use, nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.first(inputs))
        return self.last(hidden) + self.use(self, hidden)


USES = {
    "sum": lambda _, h: h.sum(dim=1, keepdim=True),
    "sigmoid": lambda _, h: torch.sigmoid(h)[:, :3],
    "detached": lambda _, h: h.detach()[:, :3],
    "data": lambda _, h: h.data[:, :3],
    "compared": lambda _, h: (h > 0.1)[:, :3].double(),
    "numpy": lambda _, h: torch.from_numpy(h.detach().numpy().copy())[:, :3],
    "numbers": lambda _, h: h.new_tensor([[max(row)] for row in h.tolist()]),
    "concatenated": lambda _, h: torch.cat([h, h], dim=1)[:, :3],
    "weight read again": lambda m, h: m.last.weight.square().sum() + 0 * h[:, :3],
    "added in place": lambda _, h: h.add_(0.1)[:, :3],
    "norm of units": lambda _, h: F.normalize(h, dim=1)[:, :3],
    "a weight that is computed": lambda _, h: F.linear(torch.ones(len(h), 6).double(), h.mean(dim=0, keepdim=True)),
}


@pytest.fixture(params=["verified", "watched"])
def trusting(request, monkeypatch):
    """Once with and once without the check on the data, so that neither hides what the other lets through."""
    if request.param == "watched":
        monkeypatch.setattr(free, "_is_same", lambda *_: True)


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("name", USES)
def test_what_goes_elsewhere_ends_the_chain(name):
    assert free_units(objective_of(lambda: Gated(USES[name]), vectors)) == []


def test_a_control_for_these_uses():
    found = free_units(objective_of(lambda: Gated(lambda _, h: 0.0), vectors))
    assert [units.name for units in found] == ["first.weight -> last.weight"]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 5, bias=False), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(F.relu(self.first(F.relu(self.first(inputs)))))


class Fickle(nn.Module):
    """ReLU on small batches, which are watched, and tanh on what follows."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        return self.last(F.relu(hidden) if inputs[0, 0] == vectors()[0][0, 0] else torch.tanh(hidden))


class AcrossUnits(nn.Module):
    """Means and pools over the units themselves, which mix them."""

    def __init__(self, mix):
        super().__init__()
        self.mix, self.first, self.last = mix, nn.Linear(5, 6), nn.Linear(3, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.mix(F.relu(self.first(inputs))))


MIXES = {
    "mean over units": lambda h: h.mean(dim=1, keepdim=True).expand(-1, 3),
    "mean over all": lambda h: h.mean().expand(len(h), 3),
    "pooled": lambda h: F.max_pool1d(h.unsqueeze(1), 2).squeeze(1),
    "cut in two": lambda h: h.view(-1, 2, 3).sum(dim=1),
    "dropped at random": lambda h: F.dropout(h, 0.0, training=True)[:, :3],
    "chosen": lambda h: h[:, :3],
    "pooled with places": lambda h: F.max_pool1d(h.unsqueeze(2), 1, return_indices=True)[0].squeeze(2)[:, :3],
}


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("name", MIXES)
def test_units_that_are_mixed_are_not_free(name):
    assert free_units(objective_of(lambda: AcrossUnits(MIXES[name]), vectors)) == []


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize(
    ("factory", "data"),
    [
        (perceptron, vectors),  # tanh
        (TinyCNN, images),  # BatchNorm, then tanh
        (Tied, vectors),
        (lambda: sequence(nn.Linear(5, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU(), nn.Linear(6, 3)), vectors),
        (lambda: sequence(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 3)), vectors),
        (lambda: sequence(nn.Linear(5, 3)), vectors),
        (lambda: sequence(nn.Linear(5, 6), nn.Softplus(), nn.Linear(6, 3)), vectors),
    ],
)
def test_networks_without_free_units(factory, data):
    assert free_units(objective_of(factory, data)) == []


def test_what_holds_on_one_batch_only_is_dropped(monkeypatch):
    objective = objective_of(Fickle, vectors, batch_size=5)
    assert free_units(objective) == []
    monkeypatch.setattr(free, "_is_same", lambda *_: True)
    assert len(free_units(objective)) == 1  # the control: the watch alone is taken in


def test_a_wrong_layer_does_not_take_the_right_ones_with_it(monkeypatch):
    objective = objective_of(mlp, vectors)
    right = free_units(objective)
    wrong = FreeUnits("wrong", 6, right[0].incoming, {})
    monkeypatch.setattr(free._Watch, "found", lambda _: [wrong, *right])
    assert [units.name for units in free_units(objective)] == [units.name for units in right]


@pytest.mark.usefixtures("trusting")
def test_only_parameters_that_vary_count():
    whole = objective_of(mlp, vectors, parameters=["0.*", "2.weight"])
    assert [units.name for units in free_units(whole)] == ["0.weight -> 2.weight"]
    assert free_units(objective_of(mlp, vectors, parameters=["*.weight"])) == []  # biases that stay would have to move
    assert free_units(objective_of(mlp, vectors, parameters=["0.*"])) == []


# --- balancing ----------------------------------------------------------------------------------------------------


def test_balanced_units_have_equal_norms_on_both_sides():
    objective = objective_of(cnn)
    found = free_units(objective)
    scales = balanced_scales(objective.theta, objective.layout, found)
    parts = objective.layout.unflatten(rescale(objective.theta, objective.layout, found, scales))
    for scale in scales:
        assert scale.log().mean().item() == pytest.approx(0, abs=1e-10)  # whole layers keep their scale
    first, second, head = parts["0.weight"], parts["3.weight"], parts["8.weight"]
    for incoming, outgoing in (
        (first.flatten(1).norm(dim=1), second.transpose(0, 1).flatten(1).norm(dim=1)),
        (second.flatten(1).norm(dim=1), head.view(4, 6, 9).transpose(0, 1).flatten(1).norm(dim=1)),
    ):
        ratio = incoming / outgoing
        assert torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-9)
    again = balanced_scales(objective.layout.flatten(parts), objective.layout, found)
    assert all(torch.allclose(one, torch.ones_like(one), atol=1e-9) for one in again)


def test_a_unit_with_a_dead_side_keeps_its_scale():
    objective = objective_of(relu_perceptron, vectors)
    theta = objective.theta.clone()
    objective.layout.unflatten(theta)["2.weight"][:, 2] = 0.0
    objective.layout.unflatten(theta)["2.weight"][:, 3] = 1e-30
    (scales,) = balanced_scales(theta, objective.layout, free_units(objective))
    assert scales[2] == 1.0
    assert scales.isfinite().all() and scales.min() == pytest.approx(1e-4)


# --- what it does to slices ---------------------------------------------------------------------------------------


def moved_to(objective: Objective, model: nn.Module, theta: Tensor, data, **options) -> Objective:
    return Objective(copied(model, objective.layout.unflatten(theta)), data_of(data), loss=F.cross_entropy, **options)


def unbalanced(factory, data, spread: float, seed: int = 0, **options) -> Objective:
    """A network whose units are scaled by exp(spread * normal), one by one; the function stays."""
    model = trained(factory, data)
    plain = Objective(model, data_of(data), loss=F.cross_entropy)
    found, generator = free_units(plain), seeded(seed)
    scales = [(spread * torch.randn(units.size, generator=generator)).exp() for units in found]
    return moved_to(plain, model, rescale(plain.theta, plain.layout, found, scales), data, **options)


def balanced(objective: Objective, factory, data) -> Objective:
    found = free_units(objective)
    scales = balanced_scales(objective.theta, objective.layout, found)
    theta = rescale(objective.theta, objective.layout, found, scales)
    return moved_to(objective, trained(factory, data), theta, data)


@pytest.mark.parametrize(("factory", "data"), [(mlp, vectors), (cnn, images), (normalized_cnn, images)])
def test_slices_see_single_units_rescaled_and_weight_normalized_ones_do_not(factory, data):
    plain = Objective(trained(factory, data), data_of(data), loss=F.cross_entropy)
    other = unbalanced(factory, data, 1.0)
    assert other.loss().item() == pytest.approx(plain.loss().item(), rel=1e-12)
    for kind in ("filter", "layer"):
        rises = [Slice(kind, resolution=2, radius=0.3)(one).loss.values - one.loss().item() for one in (plain, other)]
        assert np.abs(rises[1] / rises[0] - 1).max() > 0.1
    rises = [Slice("weight", resolution=3, radius=0.3)(one).loss.values for one in (plain, other)]
    assert np.allclose(*rises, rtol=1e-10)


def test_whole_layers_rescaled_change_nothing():
    """The negative control: c for a whole layer is what filter normalization is made for."""
    objective = unbalanced(mlp, vectors, 1.0)
    found = free_units(objective)
    whole = [torch.full((units.size,), c) for units, c in zip(found, (8.0, 0.1), strict=True)]
    theta = rescale(objective.theta, objective.layout, found, whole)
    other = moved_to(objective, trained(mlp, vectors), theta, vectors)
    first, second = unit_rescaling(objective), unit_rescaling(other)
    assert second.rise == pytest.approx(first.rise, rel=1e-9)
    assert second.change == pytest.approx(first.change, rel=1e-6)
    assert second.imbalances == pytest.approx(first.imbalances, rel=1e-9)


def deep_linear() -> nn.Module:
    return sequence(nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 3))


def linear_cnn() -> nn.Module:
    return sequence(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(5, 4)
    )


@pytest.mark.parametrize(("factory", "data"), [(deep_linear, vectors), (linear_cnn, images)])
def test_the_change_is_that_of_the_expected_curvature(factory, data):
    """E[d H d] = sum over filters of |theta_f|^2 / n_f * tr H_f, before and after, with H written out.

    Without kinks, so that rises of small steps are those of the Hessian.
    """
    objective = unbalanced(factory, data, 0.7)
    test = unit_rescaling(objective, draws=80, step=1e-3)
    expected = []
    for one in (objective, balanced(objective, factory, data)):
        model = copied(trained(factory, data), one.layout.unflatten(one.theta))
        diagonal, index = oracles.dense_hessian(model, data_of(data)).diagonal(), one.layout.filter_index()
        insides = [index == number for number in range(int(index.max()) + 1)]
        expected.append(sum((one.theta[i].square().mean() * diagonal[i].sum()).item() for i in insides))
    measured = [test.rise, test.rescaled_rise]
    assert measured == pytest.approx([0.5 * test.step**2 * one for one in expected], rel=0.2)  # 80 draws
    assert abs(expected[1] / expected[0] - 1) > 0.4  # the control: 20% tells them apart
    assert test.loss_change < 1e-12


def test_a_balanced_network_is_not_warned_of_and_an_unbalanced_one_is():
    other = unbalanced(mlp, vectors, 1.5)
    settled = balanced(other, mlp, vectors)
    test = unit_rescaling(settled)
    assert test.change == pytest.approx(0, abs=1e-7)
    assert test.imbalances == pytest.approx((1.0, 1.0), abs=1e-8)
    assert not test.matters
    assert invariance_warning(settled) == ""
    said = invariance_warning(other)
    assert said.startswith("not invariant: a rescaling of single units that leaves the function as it is (balancing ")
    assert "weight -> " in said and "and 1 more, by factors of typically" in said
    assert "multiplies the rise of the loss at alpha = ±0.1 by 0.0" in said and "(3 directions)" in said
    assert said.endswith("weight-normalized directions (directions=weight) follow every such rescaling.")


@pytest.mark.parametrize("kind", ["weight", "hessian", "pca", "between"])
def test_of_other_directions_nothing_is_said(kind):
    assert invariance_warning(unbalanced(mlp, vectors, 1.5), kind) == ""


def test_without_free_units_there_is_no_test():
    assert unit_rescaling(objective_of(perceptron, vectors)) is None
    assert invariance_warning(objective_of(perceptron, vectors)) == ""


def test_the_direction_is_that_of_the_slice():
    """One draw, both sides: the rise of the slice with this seed."""
    objective = unbalanced(cnn, images, 1.0)
    test = unit_rescaling(objective, seed=5, draws=1, step=0.2)
    line = Slice(resolution=3, radius=0.2, seed=5)(objective).loss.values
    assert test.rise == pytest.approx((line[0] + line[2]) / 2 - line[1], rel=1e-12)
    assert np.isnan(test.standard_error)


def test_a_direction_that_falls_has_no_ratio():
    """At a random start half of the directions lead down; a maximum has none that rises."""
    untrained = unit_rescaling(objective_of(mlp, vectors), draws=12)
    assert 0 < untrained.draws < 12
    inputs, targets = data_of(vectors)
    top = Objective(trained(mlp, vectors), (inputs, targets), loss=downwards)
    assert unit_rescaling(top).draws == 0
    assert np.isnan(unit_rescaling(top).change)
    assert invariance_warning(top) == ""


def downwards(output: Tensor, target: Tensor) -> Tensor:
    return -F.cross_entropy(output, target)


def test_what_matters_is_beyond_its_error():
    fields = {
        "layers": ("a",),
        "imbalances": (2.0,),
        "loss_change": 0.0,
        "step": 0.1,
        "rise": 1.0,
        "rescaled_rise": 1.2,
    }
    assert RescalingTest(**fields, change=0.2, standard_error=0.05, draws=3).matters
    assert not RescalingTest(**fields, change=0.2, standard_error=0.15, draws=3).matters
    assert not RescalingTest(**fields, change=0.04, standard_error=0.001, draws=3).matters
    assert not RescalingTest(**fields, change=nan, standard_error=nan, draws=3).matters


def test_single_precision_is_enough():
    double = unbalanced(cnn, images, 1.0)
    single = unbalanced(cnn, images, 1.0, dtype=torch.float32)
    assert [u.name for u in free_units(single)] == [u.name for u in free_units(double)]
    one, other = unit_rescaling(single), unit_rescaling(double)
    assert one.change == pytest.approx(other.change, abs=1e-3)  # float32 losses over rises of 1e-2
    assert one.loss_change < 1e-6


@pytest.mark.parametrize(
    ("fields", "message"), [({"draws": 0}, "draws must be at least 1"), ({"step": 0.0}, "step must be positive")]
)
def test_fields_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        unit_rescaling(objective_of(mlp, vectors), **fields)


# --- what moves ---------------------------------------------------------------------------------------------------


def test_what_a_direction_moves_is_said_in_words():
    objective = objective_of(TinyCNN)
    plane = directions_for("filter", objective, 2)
    assert moved_parameters(objective, plane.vectors) == (
        "conv.weight, fc.weight: 39 of 52 parameters (75%); fixed: conv.bias, norm.weight, norm.bias, fc.bias; "
        "BatchNorm keeps its stored statistics"
    )
    with_biases = directions_for("filter", objective, 2, one_dimensional="copy")
    assert moved_parameters(objective, with_biases.vectors).startswith(
        "conv.weight, conv.bias, norm.weight, norm.bias, fc.weight, fc.bias: 52 of 52 parameters (100%); "
    )


def test_patterns_policies_and_parts_are_said():
    objective = objective_of(mlp, vectors, parameters="*.weight")
    vector = torch.zeros(1, objective.size, dtype=torch.float64)
    assert moved_parameters(objective, vector).startswith("nothing: 0 of 66 parameters (0%); fixed: *.weight (3)")
    vector[0, 0] = 1.0
    assert moved_parameters(objective, vector) == (
        "0.weight: 1 of 66 parameters (1.52%); only in part: 0.weight; fixed: *.weight (2); "
        "other parameters than *.weight do not vary"
    )
    batch = objective_of(TinyCNN, normalization="batch")
    assert moved_parameters(batch, torch.ones(1, batch.size)).endswith("BatchNorm uses the statistics of each batch")
    again = objective_of(TinyCNN, normalization="recalibrated")
    assert moved_parameters(again, torch.ones(1, again.size)).endswith("BatchNorm is recalibrated at each point")


def test_names_that_differ_in_numbers_are_one_pattern():
    assert patterns(["a.0.weight", "a.1.weight", "b.weight"]) == "a.*.weight (2), b.weight"
    assert patterns([f"{letter}.w" for letter in "abcdefgh"]) == "a.w, b.w, c.w, d.w, e.w, f.w and 2 more"
    assert patterns([]) == ""
    assert doctest.testmod(rescaling).failed == 0
