from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.objective import Objective
from landscape.operators import GaussNewton, Hessian
from tests import oracles
from tests.problems import (
    NETWORKS,
    LinearRegression,
    built,
    network,
    perceptron,
    quadratic,
    rotated,
    seeded,
    softmax_regression,
    vectors,
)

EXACT = 1e-10  # products in float64 carry a few times 1e-16 of the norm


def double(data):
    return data[0].double(), data[1]


@pytest.mark.parametrize("batch_size", [23, 6])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_the_dense_one(name, batch_size):
    model, data = network(name)
    G = GaussNewton(Objective(model, data, loss=F.cross_entropy, batch_size=batch_size)).dense()
    exact = oracles.dense_gauss_newton(model, data)
    assert (G - exact).abs().max() < EXACT
    assert G.abs().max() > 0.01
    assert (G - G.T).abs().max() < 1e-14
    assert torch.linalg.eigvalsh(G).min() > -1e-13
    if name not in ("softmax regression",):
        assert (G - oracles.dense_hessian(model, data)).abs().max() > 1e-3  # negative control: it is another matrix


def test_softmax_regression_has_the_hessian():
    model, data = built(softmax_regression, dtype=torch.float64), double(vectors())
    objective = Objective(model, data, loss=nn.CrossEntropyLoss())
    assert torch.allclose(GaussNewton(objective).dense(), Hessian(objective).dense(), atol=1e-14)
    p = (data[0] @ model.weight.T + model.bias).softmax(dim=1)
    blocks = [torch.kron(torch.diag(q) - q.outer(q), x.outer(x)) for q, x in zip(p, data[0], strict=True)]
    G = GaussNewton(objective, parameters="weight").dense()
    assert torch.allclose(G, torch.stack(blocks).mean(dim=0), atol=1e-14)


@pytest.mark.parametrize("loss", [F.mse_loss, nn.MSELoss()])
def test_linear_regression_has_its_closed_form(loss):
    inputs = torch.randn(9, 5, generator=seeded(0), dtype=torch.float64)
    objective = Objective(built(LinearRegression, dtype=torch.float64), (inputs, inputs[:, 0]), loss=loss, batch_size=4)
    assert torch.allclose(GaussNewton(objective).dense(), 2 * inputs.T @ inputs / 9, atol=1e-14)


def half_squared(output, target):
    return 0.5 * (output - F.one_hot(target, 3)).square().sum(dim=1).mean()


LOSSES = {
    "class weights": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5])),
    "label smoothing": nn.CrossEntropyLoss(label_smoothing=0.2),
    "partial": partial(F.cross_entropy, label_smoothing=0.1),
    "ignored labels": nn.CrossEntropyLoss(ignore_index=1),
    "half squared": half_squared,
    "huber": lambda output, target: F.huber_loss(output, F.one_hot(target, 3).to(output)),
    "quartic": lambda output, target: (output - target.unsqueeze(1)).pow(4).mean(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_any_loss_is_differentiated_twice(name):
    model, data = built(perceptron, dtype=torch.float64), double(vectors())
    G = GaussNewton(Objective(model, data, loss=LOSSES[name])).dense()
    loss = LOSSES[name].double() if isinstance(LOSSES[name], nn.Module) else LOSSES[name]
    assert (G - oracles.dense_gauss_newton(model, data, loss)).abs().max() < EXACT


def test_labels_that_torch_ignores_by_default_do_not_count():
    model, (inputs, targets) = built(perceptron, dtype=torch.float64), double(vectors())
    targets[::3] = -100
    G = GaussNewton(Objective(model, (inputs, targets), loss=F.cross_entropy)).dense()
    assert (G - oracles.dense_gauss_newton(model, (inputs, targets))).abs().max() < EXACT


def test_class_probabilities_are_targets_too():
    model, (inputs, targets) = built(perceptron, dtype=torch.float64), double(vectors())
    soft = F.one_hot(targets, 3).double() * 0.7 + 0.1
    G = GaussNewton(Objective(model, (inputs, soft), loss=F.cross_entropy)).dense()
    assert (G - oracles.dense_gauss_newton(model, (inputs, soft))).abs().max() < EXACT


class Sequences(nn.Module):
    """Outputs (N, C, length), as cross-entropy wants them for sequences."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))

    def forward(self, inputs):
        return self.inner(inputs).transpose(1, 2)


@pytest.mark.parametrize("batch_size", [11, 4])
def test_sequences_have_a_mean_over_their_positions_too(batch_size):
    model = built(Sequences, dtype=torch.float64)
    inputs = torch.randn(11, 5, 2, generator=seeded(0), dtype=torch.float64)
    targets = torch.randint(0, 3, (11, 5), generator=seeded(1))
    G = GaussNewton(Objective(model, (inputs, targets), loss=F.cross_entropy, batch_size=batch_size)).dense()
    assert (G - oracles.dense_gauss_newton(model, (inputs, targets))).abs().max() < EXACT


def test_batch_statistics_are_part_of_the_model():
    model, data = network("BatchNorm")
    G = GaussNewton(Objective(model, data, loss=F.cross_entropy, normalization="batch")).dense()
    running = GaussNewton(Objective(model, data, loss=F.cross_entropy)).dense()
    assert (G - running).abs().max() > 1e-3
    assert torch.linalg.eigvalsh(G).min() > -1e-13


def test_blocks_points_and_many_vectors():
    model, data = network("BatchNorm")
    objective = Objective(model, data, loss=F.cross_entropy)
    whole = GaussNewton(objective).dense()
    assert torch.allclose(GaussNewton(objective, parameters="fc.*").dense(), whole[-16:, -16:], atol=1e-14)
    moved = objective.theta + 0.2
    G = GaussNewton(objective, moved)
    V = torch.randn(G.size, 4, generator=seeded(0), dtype=torch.float64)
    assert torch.allclose(G @ V, torch.stack([G.matvec(v) for v in V.T], dim=1), atol=1e-14)
    with torch.no_grad():
        for name, part in objective.layout.unflatten(moved).items():
            model.get_parameter(name).copy_(part)
    assert (G.dense() - oracles.dense_gauss_newton(model, data)).abs().max() < EXACT


def test_float32_products_are_close_to_float64():
    model, data = network("attention", torch.float32)
    single = GaussNewton(Objective(model, data, loss=F.cross_entropy))
    exact = GaussNewton(Objective(model, data, loss=F.cross_entropy, dtype=torch.float64))
    v = torch.randn(single.size, generator=seeded(0))
    assert (single @ v - exact @ v).norm() < 1e-5 * (exact @ v).norm()


def test_no_curvature_is_zero():
    model, data = built(perceptron), vectors()
    linear = Objective(model, data, loss=lambda output, target: output.mean())
    assert not GaussNewton(linear).dense().any()
    blind = Objective(model, data, loss=lambda output, target: target.double().mean())
    assert not GaussNewton(blind).dense().any()
    deaf = GaussNewton(Objective(Deaf(), data, loss=F.cross_entropy))
    assert not deaf.dense().any()
    # of a quadratic in the parameters with a linear loss all the curvature is the model's
    assert not GaussNewton(quadratic(rotated([2.0, 1.0]))).dense().any()


class Deaf(nn.Module):
    """An output that no parameter moves."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))

    def forward(self, inputs):
        return inputs[:, :3]


def test_refusals():
    objective = Objective(built(perceptron), vectors(), step=lambda m, batch: F.cross_entropy(m(batch[0]), batch[1]))
    with pytest.raises(TypeError, match="GaussNewton needs the model's output .* which step= hides"):
        GaussNewton(objective)
    objective = Objective(built(perceptron), vectors(), loss=F.cross_entropy)
    with pytest.raises(ValueError, match="matches no trainable parameter"):
        GaussNewton(objective, parameters="layer3.*")
