from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.objective import Objective
from landscape.operators import EmpiricalFisher, Fisher, GaussNewton
from tests import oracles
from tests.problems import NETWORKS, built, network, perceptron, seeded, vectors
from tests.test_gauss_newton import EXACT, Sequences, half_squared


@pytest.mark.parametrize("batch_size", [23, 6])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_empirical_fisher_is_that_of_a_loop_over_examples(name, batch_size):
    model, data = network(name)
    E = EmpiricalFisher(Objective(model, data, loss=F.cross_entropy, batch_size=batch_size)).dense()
    assert (E - oracles.dense_empirical_fisher(model, data)).abs().max() < EXACT
    assert torch.linalg.eigvalsh(E).min() > -1e-13
    assert (E - oracles.dense_gauss_newton(model, data)).abs().max() > 1e-3  # negative control


@pytest.mark.parametrize("loss", [half_squared, nn.CrossEntropyLoss(label_smoothing=0.2)])
def test_the_empirical_fisher_takes_any_mean(loss):
    model, (inputs, targets) = built(perceptron, dtype=torch.float64), vectors()
    data = (inputs.double(), targets)
    E = EmpiricalFisher(Objective(model, data, loss=loss)).dense()
    assert (E - oracles.dense_empirical_fisher(model, data, loss)).abs().max() < EXACT


def sequences():
    inputs = torch.randn(11, 5, 2, generator=seeded(0), dtype=torch.float64)
    return built(Sequences, dtype=torch.float64), (inputs, torch.randint(0, 3, (11, 5), generator=seeded(1)))


def test_an_example_may_be_a_sequence():
    model, data = sequences()
    E = EmpiricalFisher(Objective(model, data, loss=F.cross_entropy, batch_size=4)).dense()
    assert (E - oracles.dense_empirical_fisher(model, data)).abs().max() < EXACT


def regression():
    inputs = torch.randn(23, 5, generator=seeded(0), dtype=torch.float64)
    targets = torch.randn(23, 3, generator=seeded(1), dtype=torch.float64)
    return built(perceptron, dtype=torch.float64), (inputs, targets)


@pytest.mark.parametrize("name", ["perceptron", "attention", "regression", "BatchNorm"])
def test_the_fisher_has_the_gauss_newton_matrix_as_its_mean(name):
    model, data = regression() if name == "regression" else network(name)
    options = {"normalization": "recalibrated"} if name == "BatchNorm" else {}
    objective = Objective(model, data, loss=F.mse_loss if name == "regression" else F.cross_entropy, **options)
    G = GaussNewton(objective)
    v = torch.randn(G.size, generator=seeded(2), dtype=torch.float64)
    draws = torch.stack([v @ (Fisher(objective, seed=seed, num_samples=4) @ v) for seed in range(200)])
    error = draws.std() / 200**0.5
    assert (draws.mean() - v @ (G @ v)).abs() < 3 * error
    assert error < 0.05 * (v @ (G @ v))  # sharp enough to tell them apart:
    if not options:
        empirical = v @ (EmpiricalFisher(objective) @ v)
        assert (draws.mean() - empirical).abs() > 3 * error


def test_draws_belong_to_seed_and_example():
    model, data = network("perceptron")
    whole, cut = (
        Fisher(Objective(model, data, loss=F.cross_entropy, batch_size=size), seed=5, num_samples=2).dense()
        for size in (23, 6)
    )
    assert torch.allclose(whole, cut, atol=1e-14)
    objective = Objective(model, data, loss=F.cross_entropy)
    assert torch.equal(Fisher(objective, seed=5).dense(), Fisher(objective, seed=5).dense())
    assert not torch.allclose(Fisher(objective, seed=6).dense(), Fisher(objective, seed=5).dense())


def test_one_drawn_label_is_the_empirical_fisher_of_that_label():
    """Drawn labels and their second moment, against a loop over the examples with the same labels."""
    model, (inputs, targets) = network("perceptron")
    fisher = Fisher(Objective(model, (inputs, targets), loss=F.cross_entropy), seed=3)
    (_, drawn), _ = next(fisher.source.examples.batches(len(inputs)))
    exact = oracles.dense_empirical_fisher(model, (inputs, drawn[:, 0]))
    assert (fisher.dense() - exact).abs().max() < EXACT
    assert not torch.equal(drawn[:, 0], targets)


def test_labels_are_drawn_with_the_probabilities_of_the_model():
    class Certain(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.log(torch.tensor([0.1, 0.0, 0.6, 0.3]) + 1e-30))

        def forward(self, inputs):
            return self.logits.expand(len(inputs), 4)

    data = (torch.zeros(500, 1), torch.zeros(500, dtype=torch.long))
    fisher = Fisher(Objective(Certain(), data, loss=F.cross_entropy), num_samples=20)
    (_, drawn), _ = next(fisher.source.examples.batches(500))
    assert drawn.shape == (500, 20)
    shares = torch.bincount(drawn.reshape(-1), minlength=4) / 10_000
    assert shares[1] == 0
    assert (shares - torch.tensor([0.1, 0.0, 0.6, 0.3])).abs().max() < 3 * 0.005  # sqrt(.6 * .4 / 10^4) = .005


def test_passes_are_counted_and_the_objective_stays_as_it_was():
    model, data = network("perceptron")
    objective = Objective(model, data, loss=F.cross_entropy)
    before, loss = objective.num_passes, objective.loss()
    fisher = Fisher(objective)
    fisher @ torch.ones(fisher.size)
    assert objective.num_passes == before + 3  # the loss above, the draws, the product
    assert objective.loss() == loss and objective.loss_function is F.cross_entropy


def test_refusals():
    model, data = network("perceptron")
    hidden = Objective(model, data, step=lambda m, batch: F.cross_entropy(m(batch[0]), batch[1]))
    weighted = Objective(model, data, loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.1])))
    plain = Objective(model, data, loss=F.cross_entropy)
    for operator in (EmpiricalFisher, Fisher):
        with pytest.raises(TypeError, match=f"{operator.__name__} needs the model's output"):
            operator(hidden)
    with pytest.raises(ValueError, match="EmpiricalFisher needs the gradient of every example alone"):
        EmpiricalFisher(weighted)
    batchnorm, pictures = network("BatchNorm")
    with pytest.raises(ValueError, match="Fisher needs the gradient of every example alone"):
        Fisher(Objective(batchnorm, pictures, loss=F.cross_entropy, normalization="batch"))
    with pytest.raises(TypeError, match="negative log likelihood of a known distribution"):
        Fisher(weighted)
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        Fisher(plain, num_samples=0)
    model, data = sequences()
    with pytest.raises(ValueError, match=r"one label an example from outputs \(N, C\), got shape \(11, 3, 5\)"):
        Fisher(Objective(model, data, loss=F.cross_entropy))
    doubled = Objective(built(Doubled), vectors(), loss=lambda output, target: output.square().mean())
    with pytest.raises(ValueError, match=r"one output an example along the first axis, got shape \(4, 3\) for 2"):
        EmpiricalFisher(doubled) @ torch.ones(doubled.size)


class Doubled(nn.Module):
    """Two outputs an example, one after the other."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(5, 3)

    def forward(self, inputs):
        return self.inner(torch.cat([inputs, inputs]))
