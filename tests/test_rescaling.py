from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.directions import random_directions
from landscape.objective import Objective
from landscape.rescaling import Pair, balanced, invariance, rescalable_pairs
from tests.problems import built, images, seeded, vectors


def convolutional(activation: type[nn.Module] = nn.ReLU, norm: bool = False) -> nn.Sequential:
    norms = [nn.BatchNorm2d(5)] if norm else []
    flat = [nn.Flatten(), nn.Linear(4 * 36, 6), activation(), nn.Linear(6, 4)]
    return nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1), *norms, activation(), nn.Conv2d(5, 4, 3, padding=1), activation(), *flat
    )


def objective_of(model: nn.Module, data=None, **options) -> Objective:
    inputs, targets = images() if data is None else data
    return Objective(model.double(), (inputs.double(), targets), loss=F.cross_entropy, **options)


def perturbed(model: nn.Module) -> nn.Module:
    """BatchNorm as after training: other than the identity."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2.0)
                module.bias.uniform_(-0.5, 0.5)
    return model


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Identity, nn.PReLU])
def test_homogeneous_activations_leave_every_unit_free(activation):
    pairs = rescalable_pairs(objective_of(built(lambda: convolutional(activation))))
    assert pairs == [Pair("0", "2", 5), Pair("2", "5", 4), Pair("5", "7", 6)]


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.Sigmoid])
def test_other_activations_do_not(activation):
    objective = objective_of(built(lambda: convolutional(activation)))
    assert rescalable_pairs(objective) == []
    found = invariance(objective)
    assert (found.warning, found.pairs) == ("", ())


def test_behind_batch_norm_its_own_scale_is_free_and_the_weights_before_it_are_not():
    pairs = rescalable_pairs(objective_of(built(lambda: perturbed(convolutional(norm=True)))))
    assert Pair("1", "3", 5) in pairs
    assert not any(pair.first == "0" for pair in pairs)


class Residual(nn.Module):
    """The first layer's units are read twice, so that the second layer alone cannot undo their scale."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, inputs):
        hidden = self.first(inputs).relu()
        return self.head(hidden + self.second(hidden).relu())


def test_units_that_are_read_elsewhere_too_are_not_free():
    assert rescalable_pairs(objective_of(built(Residual), vectors())) == []


def test_frozen_layers_take_no_part():
    objective = objective_of(built(convolutional), parameters=["0.*", "5.*", "7.*"])
    assert rescalable_pairs(objective) == [Pair("5", "7", 6)]


def unbalanced(factor: float) -> nn.Module:
    """One unit in two of the first hidden layer scaled by a power of two, undone behind it."""
    model = built(convolutional)
    with torch.no_grad():
        for unit in range(0, 5, 2):
            model[0].weight[unit] *= factor
            model[0].bias[unit] *= factor
            model[2].weight[:, unit] /= factor
    return model


def test_balancing_leaves_the_function_and_makes_the_norms_equal():
    objective = objective_of(unbalanced(8.0))
    pairs = rescalable_pairs(objective)
    theta = balanced(objective, pairs)
    assert objective.loss(theta).item() == pytest.approx(objective.loss().item(), rel=1e-12)
    tensors = objective.layout.unflatten(theta)
    incoming = tensors["5.weight"].norm(dim=1)
    outgoing = tensors["7.weight"].norm(dim=0)
    assert incoming.tolist() == pytest.approx(outgoing.tolist(), rel=1e-2)  # five sweeps over coupled layers


def test_the_ratio_is_that_of_slices_and_grows_with_the_imbalance():
    """Two networks that are one function, and whose filter-normalized slices differ."""
    even, uneven = objective_of(unbalanced(1.0)), objective_of(unbalanced(32.0))
    assert even.loss().item() == pytest.approx(uneven.loss().item(), rel=1e-12)

    def mean_rise(objective):
        rows = [random_directions(objective.theta, objective.layout, "filter", 1, n)[0] for n in range(8)]
        ends = torch.stack([objective.theta + sign * 0.1 * row for row in rows for sign in (1, -1)])
        return (objective.losses(ends).mean() - objective.loss()).item()

    assert abs(mean_rise(uneven) / mean_rise(even) - 1) > 0.1
    one, other = invariance(even), invariance(uneven)
    assert abs(other.ratio - 1) > abs(one.ratio - 1)
    assert 0 < other.standard_error < 1
    assert "balancing them would multiply the mean rise of the loss by" in other.warning
    assert "15 units (0 to 2, 2 to 5, 5 to 7)" in other.warning


def test_a_layer_rescaled_as_one_changes_no_filter_normalized_slice():
    """The control: the invariance that filter normalization does have."""
    plain = objective_of(built(convolutional), parameters=["0.weight", "2.*", "5.*", "7.*"])
    scaled = built(convolutional)
    with torch.no_grad():
        scaled[0].weight *= 4.0
        scaled[0].bias *= 4.0
        scaled[2].weight /= 4.0
    other = objective_of(scaled, parameters=["0.weight", "2.*", "5.*", "7.*"])
    one = plain.theta + 0.1 * random_directions(plain.theta, plain.layout)[0]
    two = other.theta + 0.1 * random_directions(other.theta, other.layout)[0]
    assert plain.loss(one).item() == pytest.approx(other.loss(two).item(), rel=1e-12)


def test_the_warning_counts_what_it_does_not_name():
    pairs = tuple(Pair(f"a{n}", f"b{n}", 2) for n in range(5))
    found = replace(invariance(objective_of(built(convolutional))), pairs=pairs)
    assert "10 units (a0 to b0, a1 to b1, a2 to b2 and 2 more)" in found.warning


def test_the_objective_stays_as_it_is():
    objective = objective_of(built(convolutional))
    before, passes = objective.theta.clone(), objective.num_passes
    state = seeded(0).get_state(), torch.random.get_rng_state()
    invariance(objective)
    assert torch.equal(objective.theta, before)
    assert objective.num_passes == passes
    assert torch.equal(state[1], torch.random.get_rng_state())
