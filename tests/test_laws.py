"""What must not change, whatever the model: the user's things, the order of points, the units of hidden layers."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape import Hessian, Objective, eigenpairs
from landscape.directions import Directions, directions_for
from landscape.measure import ask
from landscape.probes import Slice, Spectrum, Surface
from landscape.store import Store
from tests.problems import NETWORKS, TinyCNN, built, images, network, perceptron, seeded, vectors


class Fragile(TinyCNN):
    """A BatchNorm network with dropout, a frozen layer and stored gradients that can be made to fail."""

    broken = False

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.fc.bias.requires_grad_(False)

    def forward(self, inputs):
        if Fragile.broken:
            raise ArithmeticError("the model fails")
        return self.drop(super().forward(inputs))


@pytest.fixture
def fragile():
    Fragile.broken = False
    model = built(Fragile).train()
    model.norm.eval()  # a mixture of modes
    F.cross_entropy(model(images()[0]), images()[1]).backward()
    yield model
    Fragile.broken = False


def everything(model: nn.Module, *loaders) -> list:
    """Bits of a model and of every random generator."""
    tensors = [*model.state_dict(keep_vars=True).items(), *((f"{n}.grad", p.grad) for n, p in model.named_parameters())]
    return [
        [(name, None if t is None else t.detach().numpy().tobytes()) for name, t in tensors],
        [(name, module.training, list(module._forward_hooks)) for name, module in model.named_modules()],
        [(name, p.requires_grad, p.data_ptr()) for name, p in model.named_parameters()],
        torch.get_rng_state().numpy().tobytes(),
        np.random.get_state()[1].tobytes(),
        random.getstate(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
    ]


PUBLIC = {
    "loss": lambda o: o.loss(),
    "losses": lambda o: o.losses(o.theta[None]),
    "metrics": lambda o: o.metrics(),
    "gradient": lambda o: o.gradient(),
    "identity": lambda o: o.identity(),
    "product": lambda o: Hessian(o) @ o.theta,
    "dense": lambda o: Hessian(o, parameters="fc.*").dense(),
    "eigenpairs": lambda o: eigenpairs(Hessian(o), k=2),
    "slice": lambda o: Slice(resolution=3, seeds=2)(o),
    "surface": lambda o: Surface("hessian-ends", resolution=3)(o),
    "spectrum": lambda o: Spectrum(k=2)(o),
}


@pytest.mark.parametrize("normalization", ["running", "batch", "recalibrated"])
@pytest.mark.parametrize("name", PUBLIC)
def test_the_users_things_are_left_bit_for_bit(fragile, name, normalization):
    before = everything(fragile)
    objective = Objective(fragile, images(), loss=F.cross_entropy, normalization=normalization)
    assert everything(fragile) == before
    PUBLIC[name](objective)
    assert everything(fragile) == before


@pytest.mark.parametrize("name", PUBLIC)
def test_the_users_things_are_left_after_an_exception(fragile, name):
    objective = Objective(fragile, images(), loss=F.cross_entropy)
    before, first = everything(fragile), objective.loss().item()
    Fragile.broken = True
    with pytest.raises(ArithmeticError, match="the model fails"):
        PUBLIC[name](objective)
    assert everything(fragile) == before
    Fragile.broken = False
    assert objective.loss().item() == first
    PUBLIC[name](objective)


def test_adding_and_subtracting_a_direction_would_not_come_back():
    """Control: this is why points are copied in."""
    theta = torch.randn(1000, generator=seeded(0))
    d = torch.randn(1000, generator=seeded(1))
    assert not torch.equal(theta + d - d, theta)


def test_the_order_of_points_changes_nothing():
    objective = Objective(built(TinyCNN), images(), loss=F.cross_entropy, normalization="recalibrated")
    points = objective.theta + 0.2 * torch.randn(6, objective.size, generator=seeded(0))
    forward = objective.losses(points)
    shuffled = [3, 0, 5, 1, 4, 2]
    assert torch.equal(objective.losses(points[shuffled]), forward[shuffled])


@pytest.mark.parametrize("name", NETWORKS)
def test_cutting_into_batches_changes_neither_loss_nor_gradient_nor_curvature(name):
    model, data = network(name)
    whole, cut = (Objective(model, data, loss=F.cross_entropy, batch_size=size) for size in (23, 4))
    v = torch.randn(whole.size, generator=seeded(0), dtype=torch.float64)
    assert cut.loss().item() == pytest.approx(whole.loss().item(), rel=1e-14)
    assert torch.allclose(cut.gradient(), whole.gradient(), atol=1e-14)
    assert torch.allclose(Hessian(cut) @ v, Hessian(whole) @ v, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_slice_bends_as_the_hessian_says(name):
    """zT (curvature of the surface) z = dT H d, by second differences whose error falls as h^2."""
    model, data = network(name)
    objective = Objective(model, data, loss=F.cross_entropy)
    d = directions_for("filter", objective, 1).vectors
    bend = (d[0] @ (Hessian(objective) @ d[0])).item()
    errors = []
    for h in (4e-2, 2e-2):
        losses = Slice(Directions("own", d, ("d",)), resolution=3, radius=h)(objective).loss.values
        errors.append(abs(losses @ [1, -2, 1] / h**2 - bend))
    assert errors[1] < 0.01 * max(abs(bend), 0.1)
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)


def test_exchanging_hidden_units_exchanges_the_entries_of_everything():
    model = built(perceptron, dtype=torch.float64)
    inputs, targets = vectors()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.copy_(model[0].weight[order])
        other[0].bias.copy_(model[0].bias[order])
        other[2].weight.copy_(model[2].weight[:, order])
    first, second = (Objective(m, (inputs.double(), targets), loss=F.cross_entropy) for m in (model, other))

    def exchanged(vector):
        parts = first.layout.unflatten(vector)
        return first.layout.flatten(
            {
                "0.weight": parts["0.weight"][order],
                "0.bias": parts["0.bias"][order],
                "2.weight": parts["2.weight"][:, order],
                "2.bias": parts["2.bias"],
            }
        )

    assert second.loss().item() == pytest.approx(first.loss().item(), rel=1e-14)
    assert torch.allclose(second.gradient(), exchanged(first.gradient()), atol=1e-14)
    v = torch.randn(first.size, generator=seeded(0), dtype=torch.float64)
    assert torch.allclose(Hessian(second) @ exchanged(v), exchanged(Hessian(first) @ v), atol=1e-13)


def test_a_tied_network_has_the_curvature_of_the_untied_one_on_the_tied_subspace():
    """H_tied = Jᵀ H J, where J copies the shared matrix to both places."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)

        def forward(self, inputs):
            return self.b(torch.tanh(self.a(inputs)))

    tied, untied = built(Twice, dtype=torch.float64), built(Twice, dtype=torch.float64)
    tied.b.weight = tied.a.weight
    with torch.no_grad():
        untied.b.weight.copy_(untied.a.weight)
    inputs, targets = vectors(width=3)
    H, G = (Hessian(Objective(m, (inputs.double(), targets), loss=F.cross_entropy)).dense() for m in (tied, untied))
    J = torch.eye(9, dtype=torch.float64).repeat(2, 1)
    assert torch.allclose(H, J.T @ G @ J, atol=1e-13)


def test_freezing_takes_rows_and_columns_away():
    model, data = network("perceptron")
    whole = Hessian(Objective(model, data, loss=F.cross_entropy)).dense()
    model[0].requires_grad_(False)
    assert torch.allclose(Hessian(Objective(model, data, loss=F.cross_entropy)).dense(), whole[36:, 36:], atol=1e-14)


@pytest.mark.parametrize("probe", [Slice(resolution=5), Surface(resolution=3, seeds=2), Spectrum(k=2)])
def test_the_same_seed_gives_the_same_bits_whatever_was_drawn_before(probe, tmp_path):
    model, data = network("BatchNorm", torch.float32)
    first = probe(Objective(model, data, loss=F.cross_entropy))
    torch.manual_seed(99), np.random.seed(99), random.seed(99)
    torch.rand(5)
    second = probe(Objective(model, data, loss=F.cross_entropy))
    stored = ask(probe, Objective(model, data, loss=F.cross_entropy), Store(tmp_path))
    assert second.identical(first)
    assert stored.equals(first)
