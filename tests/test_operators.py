from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape import batch_size, execution
from landscape.eigen import eigenpairs
from landscape.execution import SerialExecutor, Work
from landscape.objective import Objective
from landscape.operators import Fisher, GaussNewton, Hessian, Preconditioned, Resumable
from landscape.operators.graphs import Graphs
from tests import oracles
from tests.problems import (
    NETWORKS,
    InterruptedJournal,
    LinearRegression,
    built,
    network,
    perceptron,
    quadratic,
    rotated,
    seeded,
    vectors,
)

# Products in float64 carry a few times 1e-16 of the norm; 1e-10 leaves room for sums over the data.
EXACT = 1e-10


@pytest.mark.parametrize("batch_size", [23, 6])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_hessian_is_the_dense_one(name, batch_size):
    model, data = network(name)
    H = Hessian(Objective(model, data, loss=F.cross_entropy, batch_size=batch_size)).dense()
    assert (H - oracles.dense_hessian(model, data)).abs().max() < EXACT
    assert H.abs().max() > 0.01


def test_linear_regression_has_its_closed_form():
    inputs = torch.randn(9, 5, generator=seeded(0), dtype=torch.float64)
    objective = Objective(built(LinearRegression, dtype=torch.float64), (inputs, inputs[:, 0]), loss=F.mse_loss)
    assert torch.allclose(Hessian(objective).dense(), 2 * inputs.T @ inputs / 9, atol=1e-14)


def test_a_quadratic_has_its_matrix_at_every_point():
    A = rotated([4.0, 1.0, 0.5, -3.0])
    objective = quadratic(A)
    for theta in (None, objective.theta * 0, objective.theta + 3):
        assert torch.allclose(Hessian(objective, theta).dense(), A, atol=1e-14)


def test_the_point_is_the_one_given():
    model, data = network("perceptron")
    objective = Objective(model, data, loss=F.cross_entropy)
    moved = objective.theta + 0.2
    H = Hessian(objective, moved)
    with torch.no_grad():
        for name, part in objective.layout.unflatten(moved).items():
            model.get_parameter(name).copy_(part)
    assert torch.allclose(H.dense(), oracles.dense_hessian(model, data), atol=EXACT)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", ["BatchNorm", "attention", "tied, frozen, unused"])
def test_symmetry_and_linearity(name, dtype, tolerance):
    model, data = network(name, dtype)
    H = Hessian(Objective(model, data, loss=F.cross_entropy))
    u, v = torch.randn(2, H.size, generator=seeded(1), dtype=torch.float64).to(dtype)
    scale = (H @ u).norm() * v.norm()
    assert (u @ (H @ v) - v @ (H @ u)).abs() < tolerance * scale
    assert ((H @ (2 * u - 3 * v)) - (2 * (H @ u) - 3 * (H @ v))).norm() < tolerance * (H @ u).norm() * 10


def test_float32_products_are_close_to_float64():
    model, data = network("BatchNorm", torch.float32)
    single = Hessian(Objective(model, data, loss=F.cross_entropy))
    double = Hessian(Objective(model, data, loss=F.cross_entropy, dtype=torch.float64))
    v = torch.randn(single.size, generator=seeded(0))
    assert (single @ v - double @ v).norm() < 1e-4 * (double @ v).norm()  # 6e-7 was measured


def test_a_product_is_the_slope_of_the_gradient():
    """Smooth networks only: with ReLU the difference sees kinks that the Hessian leaves out."""
    model, data = network("perceptron")
    objective = Objective(model, data, loss=F.cross_entropy)
    H, v = Hessian(objective), torch.randn(objective.size, generator=seeded(0), dtype=torch.float64)
    errors = [
        (oracles.central_difference(objective.gradient, objective.theta, v, step) - H @ v).norm()
        for step in (1e-2, 1e-3)
    ]
    assert errors[1] < 1e-4
    assert 10**1.8 < errors[0] / errors[1] < 10**2.2  # order 2 +- 0.2


def test_blocks_are_the_blocks_of_the_whole():
    model, data = network("BatchNorm")
    objective = Objective(model, data, loss=F.cross_entropy)
    whole = Hessian(objective).dense()
    kept = torch.cat([torch.full((p.numel(),), n.startswith("fc.")) for n, p in model.named_parameters()])
    block = Hessian(objective, parameters="fc.*")
    assert block.size == 16
    assert torch.allclose(block.dense(), whole[kept][:, kept], atol=1e-14)
    both = Hessian(objective, parameters=["conv.weight", "fc.bias"])
    assert both.size == 27 + 4


def test_many_vectors_at_once_are_the_same_as_one_by_one():
    model, data = network("attention")
    H = Hessian(Objective(model, data, loss=F.cross_entropy))
    V = torch.randn(H.size, 5, generator=seeded(0), dtype=torch.float64)
    one_by_one = torch.stack([H.matvec(v) for v in V.T], dim=1)
    assert (H @ V - one_by_one).abs().max() <= 1e-14 * one_by_one.abs().max() * H.size  # sums in another order
    assert torch.equal(H.dense(block=7), H.dense())


def test_what_is_kept_does_not_change_the_product():
    model, data = network("BatchNorm")
    objective = Objective(model, data, loss=F.cross_entropy, batch_size=4)
    v = torch.randn(objective.size, generator=seeded(0), dtype=torch.float64)
    kept, fresh = Hessian(objective), Hessian(objective, memory=0)
    products = [kept @ v, kept @ v, fresh @ v, fresh @ v]
    assert all(torch.equal(products[0], product) for product in products)
    assert kept.strategy["graphs_kept"] == 6
    assert fresh.strategy["graphs_kept"] == 0
    some = Hessian(objective, memory=kept.graphs._used // 2)
    assert torch.equal(some @ v, products[0])
    assert 0 < some.strategy["graphs_kept"] < 6


def test_derivatives_choose_their_own_batches_where_that_changes_nothing(monkeypatch):
    model, (inputs, targets) = network("BatchNorm", torch.float32)
    many = (inputs.repeat(400, 1, 1, 1), targets.repeat(400))
    free = Hessian(Objective(model, many, loss=F.cross_entropy))
    monkeypatch.setattr(batch_size, "_CPU_BUDGET", 2**18)
    v = torch.ones(free.size)
    products = free @ v
    size = free.objective.batch_size
    assert size == batch_size.fitting_batch_size(free.graphs.bytes_of_one, len(many[0]), free.device)
    assert size < free.source.batch_size  # which counts the outputs of the modules, not what derivatives keep
    given = Hessian(Objective(model, many, loss=F.cross_entropy, batch_size=1000))
    assert torch.allclose(given @ v, products, atol=1e-5 * products.abs().max())
    assert given.objective.batch_size == 1000
    cut = Hessian(Objective(model, many, loss=F.cross_entropy, normalization="batch"))
    cut @ v
    assert cut.objective.batch_size == len(many[0])


def test_kept_graphs_outlive_a_look_elsewhere():
    """The objective goes on moving its own copy of the model while an operator stays at its point."""
    model, data = network("BatchNorm")
    objective = Objective(model, data, loss=F.cross_entropy)
    H, v = Hessian(objective), torch.ones(objective.size, dtype=torch.float64)
    product = H @ v
    objective.loss(objective.theta + 1)
    other = Hessian(objective, objective.theta + 1) @ v
    assert torch.equal(H @ v, product)
    assert not torch.allclose(other, product)


def test_graphs_are_dropped_when_memory_runs_out(monkeypatch):
    model, data = network("BatchNorm")
    objective = Objective(model, data, loss=F.cross_entropy, batch_size=8)
    v = torch.ones(objective.size, dtype=torch.float64)
    expected = Hessian(objective) @ v

    class Scarce(Hessian):
        def linearize(self, batch, tensors):
            if len(batch[1]) > 4:
                raise torch.OutOfMemoryError("out of memory")
            return super().linearize(batch, tensors)

    H = Scarce(objective)
    assert torch.allclose(H @ v, expected, rtol=1e-12)
    assert H.strategy["batch_size"] == 4
    assert H.strategy["graphs_kept"] == 0
    assert objective.batch_size == 8


@pytest.mark.parametrize("make", [lambda: nn.GRU(5, 4, batch_first=True), lambda: nn.LSTM(5, 4, batch_first=True)])
def test_recurrent_layers(make):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = make(), nn.Linear(4, 3)

        def forward(self, inputs):
            return self.head(self.layer(inputs)[0][:, -1])

    model = built(Recurrent, dtype=torch.float64)
    data = (torch.randn(7, 3, 5, generator=seeded(0), dtype=torch.float64), vectors(7)[1])
    exact = oracles.dense_hessian(model, data)
    H = Hessian(Objective(model, data, loss=F.cross_entropy))
    assert (H.dense() - exact).abs().max() < 1e-12


def test_derivatives_exist_in_inference_mode_too():
    model, (inputs, targets) = network("BatchNorm")
    outside = Objective(model, (inputs, targets), loss=F.cross_entropy)
    exact, slope = Hessian(outside).dense(), outside.gradient()
    with torch.inference_mode():
        for objective in (outside, Objective(model, (inputs + 0, targets), loss=F.cross_entropy)):
            assert torch.equal(objective.gradient(), slope)
            assert torch.allclose(Hessian(objective).dense(), exact, atol=1e-14)
            assert torch.allclose(Hessian(objective, objective.theta + 0).dense(), exact, atol=1e-14)
            assert eigenpairs(Hessian(objective), k=1).values[0] > 0.1


def test_a_wrong_second_derivative_of_torch_is_refused():
    model = built(lambda: nn.Sequential(nn.Linear(5, 30), nn.Tanh(), nn.Linear(30, 3)), dtype=torch.float64)
    nn.utils.parametrizations.weight_norm(model[0])
    inputs, targets = vectors()
    H = Hessian(Objective(model, (inputs.double(), targets), loss=F.cross_entropy))
    with pytest.raises(RuntimeError, match="the Hessian of this model is not symmetric .* torch's weight_norm is one"):
        H @ torch.ones(H.size, dtype=torch.float64)


def test_the_operator_keeps_the_point_it_was_given():
    objective = quadratic(rotated([2.0, 1.0]), start=torch.ones(2, dtype=torch.float64))
    model, data = network("perceptron")
    objective = Objective(model, data, loss=F.cross_entropy)
    theta = objective.theta.clone()
    H, before = Hessian(objective, theta), Hessian(objective).dense()
    theta.add_(1)
    assert torch.equal(H.dense(), before)


def test_products_of_one_matrix_are_not_taken_for_those_of_another():
    model, data = network("perceptron")
    objective = Objective(model, data, loss=F.cross_entropy)
    metric = torch.linspace(1, 2, objective.size, dtype=torch.float64)
    operators = [
        Hessian(objective),
        Hessian(objective, objective.theta + 1),
        GaussNewton(objective),
        Fisher(objective, seed=1),
        Fisher(objective, seed=2),
        Preconditioned(Hessian(objective), metric),
        Preconditioned(Hessian(objective), 2 * metric),
    ]
    v = torch.ones(objective.size, dtype=torch.float64)
    journal = InterruptedJournal()
    for operator in operators:  # each is the first in its own work, so the places in the journal are the same
        with execution.working(Work(SerialExecutor(), journal)):
            assert torch.equal(Resumable(operator) @ v, operator @ v)


def test_what_did_not_fit_is_not_tried_again():
    model, data = network("BatchNorm")
    objective = Objective(model, data, loss=F.cross_entropy)
    tried = []

    class Scarce(Hessian):
        def linearize(self, batch, tensors):
            tried.append(len(batch[1]))
            if len(batch[1]) > 8:
                raise torch.OutOfMemoryError("out of memory")
            return super().linearize(batch, tensors)

    H, v = Scarce(objective), torch.ones(objective.size, dtype=torch.float64)
    expected = Hessian(objective) @ v
    assert torch.allclose(H @ v, expected, rtol=1e-12)
    assert max(tried) > 8
    tried.clear()
    assert torch.allclose(H @ v, expected, rtol=1e-12)
    assert max(tried) <= 8


class NoBatches(torch.autograd.Function):
    """Squares, without a rule for several vectors at once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return 2 * NoBatches2.apply(x) * slope


class NoBatches2(torch.autograd.Function):
    """The identity, that cannot be vectorized either."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        return torch.from_numpy(slope.detach().numpy().copy())


def test_what_cannot_take_several_vectors_at_once_takes_them_one_by_one():
    objective = Objective(
        built(lambda: nn.Linear(5, 3), dtype=torch.float64),
        (vectors()[0].double(), vectors()[1]),
        step=lambda model, batch: NoBatches.apply(model(batch[0])).mean(),
    )
    H = Hessian(objective)
    V = torch.randn(H.size, 4, generator=seeded(0), dtype=torch.float64)
    products = H @ V
    assert H.strategy["vectors_at_once"] == 1
    assert torch.allclose(products, torch.stack([H @ v for v in V.T], dim=1), rtol=1e-12)
    assert products.any()


def test_small_graphs_take_several_vectors_at_once(monkeypatch):
    model, data = network("perceptron")
    H = Hessian(Objective(model, data, loss=F.cross_entropy))
    V = torch.randn(H.size, 4, generator=seeded(0), dtype=torch.float64)
    together = H @ V
    assert H.strategy["vectors_at_once"] > 4
    swept = []
    original = Graphs._together
    monkeypatch.setattr(Graphs, "_together", lambda *arguments: swept.append(1) or original(*arguments))
    H @ V
    assert len(swept) == 1
    H.graphs.at_once = 1
    assert torch.allclose(H @ V, together, rtol=1e-12)
    assert len(swept) == 1


def test_products_are_counted_as_passes_over_the_data():
    model, data = network("perceptron")
    objective = Objective(model, data, loss=F.cross_entropy)
    H = Hessian(objective)
    before = objective.num_passes
    H @ torch.ones(H.size, 3, dtype=torch.float64)
    assert objective.num_passes == before + 1


def test_a_constant_gradient_has_no_curvature():
    objective = Objective(built(lambda: nn.Linear(5, 3)), vectors(), loss=lambda output, target: output.mean())
    H = Hessian(objective)
    assert objective.gradient().any()
    assert not H.dense().any()


def test_a_loss_without_parameters_has_no_curvature():
    objective = Objective(built(perceptron), vectors(), step=lambda model, batch: batch[0].mean())
    assert not (Hessian(objective) @ torch.ones(objective.size)).any()


def test_products_work_where_gradients_are_switched_off():
    H = Hessian(quadratic(rotated([2.0, 1.0])))
    with torch.no_grad():
        assert (H @ torch.ones(2)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scipy_finds_the_same_eigenvalues(dtype):
    model, data = network("attention", dtype)
    H = Hessian(Objective(model, data, loss=F.cross_entropy))
    wrapped = H.to_scipy()
    assert wrapped.shape == (H.size, H.size)
    assert wrapped.dtype == (np.float32 if dtype == torch.float32 else np.float64)
    model, data = network("attention")
    exact = torch.linalg.eigvalsh(oracles.dense_hessian(model, data)).flip(0)[:4].numpy()
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    assert np.allclose(oracles.scipy_eigenvalues(wrapped, 4, "LA"), exact, atol=tolerance)
    block = wrapped @ np.ones((H.size, 2), dtype=wrapped.dtype)
    assert np.allclose(block[:, 0], wrapped.rmatvec(np.ones((H.size, 1), dtype=wrapped.dtype))[:, 0], atol=1e-6)


def test_refusals():
    objective = quadratic(rotated([2.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match=r"vectors as columns of a \(3, K\) matrix, got \(2, 1\)"):
        Hessian(objective) @ torch.ones(2)
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        Hessian(objective).matmat(torch.ones(3))
    with pytest.raises(ValueError, match=r"got \(3, 0\)"):
        Hessian(objective) @ torch.ones(3, 0)
    with pytest.raises(ValueError, match="matches no trainable parameter"):
        Hessian(objective, parameters="layer3.*")
    with pytest.raises(ValueError, match="expected a vector of 3 parameters"):
        Hessian(objective, torch.ones(4)) @ torch.ones(3)
