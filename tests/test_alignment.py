"""Hidden units that trade places: found by watching, matched exactly, and never another function."""

from __future__ import annotations

import copy
from itertools import permutations

import pytest
import torch
from torch import nn

from landscape import Objective
from landscape.paths.alignment import aligned, match_weights, require_same_function
from landscape.paths.tracing import find_units
from landscape.paths.units import Units
from models.architectures import build_model

NETWORKS = [
    ("mlp", (1, 12), {"width": 6, "norm": "batch", "activation": "prelu"}, 2),
    ("lenet", (1, 8, 8), {"width": 3}, 4),
    ("cnn", (1, 8, 8), {"width": 4, "norm": "layer"}, 3),
    ("cnn", (1, 16), {"width": 4, "norm": "ghost-batch:4"}, 3),
    ("vgg", (1, 8, 8), {"width": 4, "norm": "instance"}, 8),
    ("resnet", (1, 8, 8), {"width": 4}, 6),
    ("resnet", (1, 8, 8), {"width": 4, "skip": False}, 7),
    ("preresnet", (1, 8, 8), {"width": 4}, 6),
    ("wideresnet", (1, 8, 8), {"width": 1}, 6),
    ("alexnet", (1, 8, 8), {"width": 4}, 7),
    ("inception", (1, 8, 8), {}, 19),
    ("mobilenet", (1, 8, 8), {"width": 4}, 6),
    ("efficientnet", (1, 8, 8), {"width": 4}, 9),  # where one unit squeezes, nothing moves
    ("vit", (1, 8, 8), {"width": 8, "heads": 2}, 3),
    ("deep-linear", (12,), {"width": 5}, 2),
]


def random_network(name, shape, options, seed=0):
    """A network none of whose scales, shifts and statistics are at their plain beginning."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_model(name, shape, 3, **options).eval()
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape) / (tensor[0].numel() if tensor.ndim > 1 else 1) ** 0.5)
        for layer in network.modules():
            if getattr(layer, "running_var", None) is not None:
                layer.running_var.uniform_(0.5, 2)
    return network


def shuffled(units, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {group: torch.randperm(n, generator=generator) for group, n in units.groups.items()}


@pytest.mark.parametrize(("name", "shape", "options", "groups"), NETWORKS)
def test_units_that_are_found_can_trade_places_and_are_found_again(name, shape, options, groups):
    network, inputs = random_network(name, shape, options).double(), torch.randn(5, *shape, dtype=torch.float64)
    before = copy.deepcopy(network.state_dict())
    units = find_units(network, inputs[:2])
    assert len(units.groups) == groups
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    orders = shuffled(units)
    moved = copy.deepcopy(network)
    moved.load_state_dict(units.permuted(network.state_dict(), orders))
    with torch.no_grad():
        assert torch.allclose(moved(inputs), network(inputs), rtol=1e-9, atol=1e-9)
    matching = match_weights(units, dict(moved.named_parameters()), dict(network.named_parameters()))
    assert matching.converged
    back = units.permuted(network.state_dict(), matching.permutations)
    assert all(torch.equal(back[key], tensor) for key, tensor in moved.state_dict().items())


def test_what_has_no_units_to_trade_says_so():
    with pytest.raises(ValueError, match="no hidden units of Sequential were found"):
        find_units(build_model("random-features", (4,), 2, width=6), torch.randn(2, 4))
    with pytest.raises(ValueError, match="no hidden units of Linear were found"):
        find_units(nn.Linear(4, 2), torch.randn(2, 4))


def test_channels_that_a_group_norm_takes_apart_stay_and_others_move():
    network = nn.Sequential(nn.Linear(3, 8), nn.GroupNorm(4, 8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    assert find_units(network, torch.randn(2, 3)).groups == {"2": 6}


def test_a_layer_that_is_used_twice_and_a_weight_that_is_computed_are_not_taken_apart():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.again, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
            self.other = nn.Linear(4, 4)

        def forward(self, x):
            h = self.first(torch.relu(nn.functional.linear(x, 2 * self.other.weight)))
            return self.out(self.again(torch.tanh(self.again(torch.tanh(h)))))

    network, inputs = Twice().double(), torch.randn(6, 4, dtype=torch.float64)
    units = find_units(network, inputs)
    assert list(units.groups.values()) == [4]  # those before and after the layer that is used twice are one group
    moved = copy.deepcopy(network)
    moved.load_state_dict(units.permuted(network.state_dict(), shuffled(units)))
    assert torch.allclose(moved(inputs), network(inputs))


def test_one_hidden_layer_is_matched_to_the_optimum_of_all_permutations():
    one, two = (random_network("mlp", (1, 3), {"width": 5, "depth": 1}, seed) for seed in (0, 1))
    units = find_units(one, torch.randn(2, 1, 3))
    still, moving = (dict(network.named_parameters()) for network in (one, two))
    matching = match_weights(units, still, moving)

    def product(order):
        moved = units.permuted(moving, {"hidden1": torch.tensor(order)})
        return sum(float((still[name] * moved[name]).sum().detach()) for name in units.axes)

    assert matching.products[-1] == pytest.approx(max(map(product, permutations(range(5)))))
    assert matching.products[-1] > matching.products[0]


def test_no_sweep_makes_the_inner_product_smaller():
    for seed in range(5):
        one, two = (random_network("resnet", (1, 8, 8), {"width": 4}, 2 * seed + n) for n in (0, 1))
        units = find_units(one, torch.randn(2, 1, 8, 8))
        found = match_weights(units, dict(one.named_parameters()), dict(two.named_parameters()), seed)
        assert list(found.products) == sorted(found.products) and found.converged


def test_a_wrong_specification_is_noticed_before_it_is_used():
    one, two = (random_network("mlp", (1, 3), {"width": 5, "depth": 1}, seed) for seed in (0, 1))
    data = (torch.randn(20, 1, 3), torch.arange(20) % 3)
    objective = Objective(one, data, nn.functional.cross_entropy)
    other = objective.layout.current(two)
    forgets_the_bias = Units.read({"hidden1.weight": ["h", None], "head.weight": [None, "h"]}, one.state_dict())
    with pytest.raises(ValueError, match="the permuted network is another function"):
        aligned(objective, forgets_the_bias, objective.theta, other)
    right = find_units(one, data[0][:2])
    require_same_function(objective, other, aligned(objective, right, objective.theta, other))


def test_a_written_specification_is_read_with_repeats_and_sums():
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros(4, 1), "c": torch.zeros(5, 2 * 3 + 4 + 6)}
    units = Units.read({"a": ["h", None], "b": ["g", None], "c": [None, "h*3+g+=6"]}, tensors)
    assert units.groups == {"h": 2, "g": 4}
    entries = torch.arange(16.0).expand(5, 16)
    moved = units.permuted({"c": entries}, {"h": torch.tensor([1, 0]), "g": torch.tensor([3, 2, 1, 0])})["c"]
    assert moved[0].tolist() == [3, 4, 5, 0, 1, 2, 9, 8, 7, 6, *range(10, 16)]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"x": ["h"]}, "'x', which is no tensor"),
        ({"a": ["h"]}, "gives it 1 axes"),
        ({"a": ["h", None], "b": ["h", None]}, "do not fit 'h'"),
        ({"a": [None, "h*2"]}, "do not fit"),
        ({"a": ["h**", None]}, "cannot read"),
        ({"a": ["h+g", None]}, "only part of sums"),
        ({"a": ["h", "h+=2"]}, "stands for 4 entries, 'a' has 3"),
    ],
)
def test_specifications_that_do_not_fit_are_refused(written, message):
    with pytest.raises(ValueError, match=message):
        Units.read(written, {"a": torch.zeros(2, 3), "b": torch.zeros(4, 1)})


def test_what_is_no_permutation_is_refused():
    units = Units.read({"a": ["h"]}, {"a": torch.zeros(3)})
    for orders in ({"h": torch.tensor([0, 0, 1])}, {"g": torch.arange(3)}):
        with pytest.raises(ValueError, match="expected a permutation"):
            units.permuted({"a": torch.zeros(3)}, orders)
    with pytest.raises(ValueError, match="sweeps must be at least 1"):
        match_weights(units, {}, {}, sweeps=0)
