"""What is seen inside a training step, on networks whose statistics are known, and built to have the fault."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from landscape.monitors import BINS, Flow, ParameterPath, depth_slope, sign_coherence, sign_coherence_by_chance
from landscape.monitors.statistics import Silence, dormant_share, histogram, saturated_share


def watched(network: nn.Module, inputs: torch.Tensor, loss=lambda output: output.square().mean()) -> tuple[Flow, dict]:
    flow = Flow(network)
    flow.start()
    value = loss(network(inputs))
    flow.end_forward()
    value.backward()
    return flow, flow.finish()


def deep(width: int, depth: int, scale: float, activation=nn.Identity) -> nn.Sequential:
    """A deep network of square layers with entries N(0, scale^2 / width)."""
    generator = torch.Generator().manual_seed(0)
    layers = []
    for _ in range(depth):
        layer = nn.Linear(width, width, bias=False)
        layer.weight.data = scale * torch.randn(width, width, generator=generator) / math.sqrt(width)
        layers += [layer, activation()]
    return nn.Sequential(*layers)


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_variance_and_gradient_travel_as_in_theory(scale):
    """In a linear net each layer multiplies the variance, and the squared norm of the gradient, by scale^2."""
    flow, seen = watched(deep(300, 8, scale), normal(400, 300), loss=lambda z: (z * normal(400, 300, seed=2)).mean())
    grown = np.diff(np.log(seen["output_variance"]))
    assert grown == pytest.approx(2 * math.log(scale), abs=0.15)
    slope = depth_slope(seen["backpropagated_norm"][None], np.arange(8))[0]
    assert slope == pytest.approx(math.log10(scale), abs=0.02)
    assert [flow.depth[name] for name in flow.layers] == list(range(8))


def test_what_is_seen_is_what_a_hand_computes():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = normal(5, 3)
    flow, seen = watched(network, x)
    z = network[0](x)
    z.retain_grad()
    a = torch.relu(z)
    network[2](a).square().mean().backward()
    assert flow.layers == ["0", "2"] and flow.activations == ["0 relu"]
    assert seen["output_mean"][0] == pytest.approx(z.mean().item(), rel=1e-6, abs=1e-7)  # a mean may cancel
    assert seen["output_variance"][0] == pytest.approx(z.var(correction=0).item(), rel=1e-6)
    assert seen["backpropagated_norm"][0] == pytest.approx(z.grad.norm().item(), rel=1e-6)
    assert seen["backpropagated_variance"][0] == pytest.approx(z.grad.var(correction=0).item(), rel=1e-6)
    assert seen["activation_mean"][0] == pytest.approx(a.mean().item(), rel=1e-6)
    counts, edges = np.histogram(a.detach().numpy(), bins=BINS)
    assert seen["histogram"][0] == pytest.approx(counts / a.numel())
    assert (seen["histogram_low"][0], seen["histogram_high"][0]) == pytest.approx((edges[0], edges[-1]))


def test_the_module_is_left_as_it_was():
    network, x = (
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 2)),
        normal(4, 1, 4, 4),
    )
    network(x).square().mean().backward()
    plain = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    _, seen = watched(network, x)
    assert all(torch.equal(a, p.grad) for a, p in zip(plain, network.parameters(), strict=True))
    assert not any(part._forward_hooks or part._backward_hooks for part in network.modules())
    assert np.isfinite(seen["backpropagated_norm"]).all()  # although relu worked in place on what was watched


def test_activations_are_found_without_modules():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 6), nn.Linear(6, 6)

        def forward(self, x):
            x = torch.tanh(self.one(x)) + self.one(-x[:, :3]).sigmoid()
            return F.gelu(F.relu(self.two(x)))

    flow, seen = watched(Plain(), normal(5, 3))
    assert flow.activations == ["one tanh", "one sigmoid", "two relu", "two gelu"]
    assert list(flow.silence) == ["two relu"]
    assert np.isnan(seen["saturated_share"]).tolist() == [False, False, True, True]


def test_what_is_computed_without_gradients_is_not_the_pass_that_trains():
    class WithTeacher(nn.Module):
        def __init__(self):
            super().__init__()
            self.student, self.teacher = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x):
            with torch.no_grad():
                hint = torch.relu(self.teacher(x))
            return torch.relu(self.student(x)) - hint

    flow, seen = watched(WithTeacher(), normal(5, 3))
    assert flow.activations == ["student relu"]
    assert np.isnan(seen["output_mean"]).tolist() == [False, True]


def test_attention_and_sequences():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    flow, seen = watched(layer, normal(3, 5, 8))
    assert np.isfinite(seen["backpropagated_norm"][flow.layers.index("linear1")])
    assert flow.silence["linear1 relu"].silent.shape == (16,)  # units are the last axis after a linear layer


@pytest.mark.parametrize("shape", [(64, 4), (64, 4, 5), (64, 4, 5, 5)])
def test_dead_units_are_those_that_are_silent_for_all_examples(shape):
    layer = {2: nn.Linear(3, 4), 3: nn.Conv1d(3, 4, 1), 4: nn.Conv2d(3, 4, 1)}[len(shape)]
    layer.weight.data.fill_(0.1)
    layer.bias.data = torch.tensor([1.0, -100.0, 1.0, -100.0])
    network = nn.Sequential(layer, nn.ReLU())
    x = normal(shape[0], 3, *shape[2:])
    flow, seen = watched(network, x)
    assert flow.dead_shares()[0] == 0.5 == seen["dormant_share"][0]
    layer.bias.data.fill_(1.0)
    assert watched(network, x)[0].dead_shares()[0] == 0


def test_a_unit_is_dead_that_is_silent_in_all_batches_of_a_round():
    silence = Silence(torch.ones(3, dtype=torch.bool))
    silence.look_at(torch.tensor([1.0, 0.0, 0.0]), 32)
    assert math.isnan(silence.dead_share)  # so few examples tell nothing
    silence.look_at(torch.tensor([0.0, 0.0, 0.0]), 96)
    assert silence.dead_share == pytest.approx(2 / 3)
    silence.look_at(torch.tensor([0.0, 0.0, 1.0]), 128)
    assert silence.dead_share == pytest.approx(1 / 3)


@pytest.mark.parametrize("case", ["permuted", "transposed"])
def test_units_are_found_after_a_transposition(case):
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv1d(3, 4, 1) if case == "permuted" else nn.Linear(3, 4)
            self.layer.bias.data = torch.tensor([100.0, -100.0, 100.0, -100.0])

        def forward(self, x):
            turned = self.layer(x if case == "permuted" else x.transpose(1, 2)).transpose(1, 2)
            return torch.relu(turned)

    flow, _ = watched(Turned(), normal(70, 3, 6))
    assert flow.dead_shares()[0] == 0.5


def test_saturation_is_where_the_derivative_vanishes():
    x = torch.linspace(-6, 6, 10_001, dtype=torch.float64)
    for kind, function in (("tanh", torch.tanh), ("sigmoid", torch.sigmoid)):
        point = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(point).sum(), point)
        expected = (slope < (1 - 0.97**2) * slope.max()).double().mean()
        assert saturated_share(kind, function(x)) == pytest.approx(expected.item(), abs=2e-4)
    assert saturated_share("relu", x).isnan()


def test_large_weights_saturate_and_small_ones_do_not():
    x = normal(256, 100)
    assert watched(deep(100, 3, 20.0, nn.Tanh), x)[1]["saturated_share"].min() > 0.85
    assert watched(deep(100, 3, 0.5, nn.Tanh), x)[1]["saturated_share"].max() < 0.01


def test_dormant_units_are_relative_to_their_layer():
    assert dormant_share(torch.tensor([1.0, 1.0, 0.01, 0.0])) == 0.5
    assert dormant_share(torch.tensor([1e-9, 1e-9])) == 0
    assert dormant_share(torch.zeros(3)) == 1


def test_histograms_of_large_and_of_broken_values():
    shares, low, high = histogram(normal(100_000))
    assert shares.sum() == pytest.approx(1) and low < -3 and high > 3
    assert histogram(torch.full((4,), torch.nan))[0].isnan().all()
    shares, low, high = histogram(torch.tensor([1.0, torch.inf, 1.0]))
    assert (shares[0], low, high) == (1, 1, 1)


def test_signs_agree_for_one_example_with_positive_inputs():
    layer = nn.Linear(20, 7)

    def coherence(inputs):
        layer.zero_grad()
        layer(inputs).square().mean().backward()
        return sign_coherence(layer.weight.grad).item()

    assert coherence(normal(1, 20).abs()) == 1
    assert sign_coherence(torch.tensor([[1.0, torch.nan]])).isnan()
    assert coherence(normal(1, 20)) < 0.7
    assert coherence(normal(1, 20).abs() - 0.8) < 0.7  # the same values, centred


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9])
def test_coherence_by_chance_is_the_mean_over_all_signs(n):
    exact = np.mean([abs(np.mean(signs)) for signs in product((-1, 1), repeat=n)])
    assert sign_coherence_by_chance(n) == pytest.approx(exact, rel=1e-12)
    assert sign_coherence_by_chance(10_000) == pytest.approx(math.sqrt(2 / (math.pi * 10_000)), rel=1e-4)


def test_slopes_leave_out_what_has_no_logarithm():
    depth = np.array([0, 1, 2, -1])
    slopes = depth_slope(np.array([[1e-3, 1e-2, 1e-1, 7], [0, 1e-2, 1e-1, 7], [np.nan, 0, 1, 7.0]]), depth)
    assert slopes[:2] == pytest.approx([-1, -1]) and np.isnan(slopes[2])


@pytest.mark.parametrize("cuts", [[3], [1, 1, 1], [2, 1]])
def test_geometry_of_a_square_walk(cuts):
    path = ParameterPath(torch.zeros(2))
    points = torch.tensor([[3.0, 0.0], [3.0, 4.0], [3.0, 0.0]])
    parts = [path.move(block) for block in points.split(cuts)]
    walked = {name: torch.cat([part[name] for part in parts]).tolist() for name in parts[0]}
    assert walked["chord_length"] == [3, 4, 4] and walked["distance_from_start"] == [3, 5, 3]
    assert math.isnan(walked["turn_cosine"][0]) and walked["turn_cosine"][1:] == [0, -1]
