"""Landscape measures every architecture and layer: admission, Hessian products, and no side effects."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape import GaussNewton, Hessian, Objective
from models.activations import ACTIVATIONS
from models.architectures import ARCHITECTURES, build_model
from models.initialization import initialize
from models.normalization import NORMS
from tests import oracles
from tests.models.test_architectures import SMALL, WITH_MAXOUT, WITH_NORM, WRITTEN
from tests.problems import seeded

TINY = {"alexnet": 1, "cnn": 2, "vgg": 1, "resnet": 2, "preresnet": 2, "mobilenet": 2, "efficientnet": 2, "vit": 4}


def network(name: str, **options) -> nn.Module:
    """A small network in float64 that has been trained for a few batches, so that its statistics are of data."""
    width = TINY.get(name, min(SMALL.get(name, 3), 3))
    model = build_model(name, (1, 8, 8), 3, **{"width": width, **options}).double()
    initialize(model, "lecun-normal+bias-uniform", seeded(0))
    inputs, targets = data()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        optimizer = torch.optim.SGD(model.train().parameters(), lr=0.05)
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    return model


def data() -> tuple[Tensor, Tensor]:
    inputs = torch.randn(9, 1, 8, 8, generator=seeded(1), dtype=torch.float64)
    return inputs, torch.randint(0, 3, (9,), generator=seeded(2))


def check_product(model: nn.Module) -> None:
    """One product with the Hessian against differences of the gradient, and the user's model as it was."""
    before = copy.deepcopy(model.state_dict())
    objective = Objective(model, data(), loss=F.cross_entropy, batch_size=4)
    loss = objective.loss()
    assert not objective.depends_on_cuts and objective.loss() == loss
    v = torch.randn(objective.size, generator=seeded(3), dtype=torch.float64)
    v /= v.norm()
    slope = oracles.central_difference(objective.gradient, objective.theta, v, 1e-5)
    product = Hessian(objective) @ v
    # step^2 times fourth derivatives, and rounding of the gradient over the step
    assert (product - slope).norm() < 1e-5 * slope.norm() + 1e-8
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


# Kinks would spoil the differences: an activation without them stands for the others, which are tried below.
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("name", WITH_NORM)
def test_hessian_products_of_every_architecture(name, norm):
    check_product(network(name, norm=norm, activation="softplus"))


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in WITH_NORM])
def test_hessian_products_of_models_without_norms(name):
    check_product(network(name, width=6))


@pytest.mark.parametrize("norm", NORMS)
def test_hessian_products_under_every_norm(norm):
    check_product(network("cnn", norm=WRITTEN.get(norm, norm), activation="tanh"))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_hessian_products_with_every_activation(activation):
    """Those with kinks too: none lies within the step here, as the seed has it."""
    check_product(network("mlp", activation=WRITTEN.get(activation, activation)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"width": 3, "depth": 1, "norm": "batch-renorm", "activation": "maxout"}),
        ("mlp", {"width": 3, "depth": 2, "norm": "batch:exact", "activation": "selu:dropout=0.2"}),
        ("vit", {"width": 4, "depth": 1, "heads": 2, "activation": "prelu"}),
        ("inception", {"width": 1, "depth": 1, "norm": "none", "activation": "gelu"}),
        ("efficientnet", {"width": 1, "depth": 1}),
        ("mobilenet", {"width": 2, "depth": 2, "norm": "ghost-batch:3", "activation": "silu"}),
        ("deep-linear", {"width": 2, "depth": 3}),
        ("random-features", {"width": 5}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hessian_and_gauss_newton_against_the_dense_oracle(name, options):
    model = network(name, **options)
    objective = Objective(model, data(), loss=F.cross_entropy, batch_size=4)
    V = torch.randn(objective.size, 2, generator=seeded(3), dtype=torch.float64)
    for operator, dense in ((Hessian, oracles.dense_hessian), (GaussNewton, oracles.dense_gauss_newton)):
        exact = dense(copy.deepcopy(model), data()) @ V
        assert (operator(objective).matmat(V) - exact).norm() < 1e-11 * exact.norm()


def test_random_features_have_a_convex_loss_and_a_deep_linear_network_has_not():
    lowest = {}
    for name in ("random-features", "deep-linear"):
        H = Hessian(Objective(network(name, width=4), data(), loss=F.cross_entropy)).dense()
        lowest[name] = torch.linalg.eigvalsh(H)[0] / torch.linalg.eigvalsh(H)[-1]
    assert lowest["random-features"] > -1e-12
    assert lowest["deep-linear"] < -1e-3


@pytest.mark.parametrize("name", WITH_MAXOUT)
def test_maxout_networks_are_measured(name):
    objective = Objective(network(name, activation="maxout"), data(), loss=F.cross_entropy)
    assert objective.loss().isfinite() and objective.gradient().any()


@pytest.mark.parametrize("norm", ["batch", "ghost-batch:3", "batch-renorm", "group"])
@pytest.mark.parametrize("policy", ["batch", "recalibrated"])
def test_further_policies_move_nothing(norm, policy):
    model = network("resnet", norm=norm)
    before = copy.deepcopy(model.state_dict())
    objective = Objective(model, data(), loss=F.cross_entropy, normalization=policy)
    assert objective.loss() == objective.loss(objective.theta)
    objective.gradient()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
