"""The noise of mini-batch gradients against sums over single examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from landscape import Objective
from landscape.probes import GradientNoise, Symmetry
from tests.problems import seeded

N = 48


def regression(**options) -> Objective:
    """Softmax regression; the gradient of an example is (p - y) x^T."""
    x = torch.randn(N, 3, generator=seeded(0), dtype=torch.float64)
    y = torch.arange(N) % 4
    model = nn.Linear(3, 4).double()
    model.weight.data = torch.randn(4, 3, generator=seeded(1), dtype=torch.float64)
    model.bias.data = torch.zeros(4, dtype=torch.float64)
    return Objective(model, (x, y), loss=F.cross_entropy, **options)


def of_examples(objective: Objective) -> np.ndarray:
    """Gradients (N, P) of single examples, by hand."""
    (batch, _) = next(objective.examples.batches(N))
    x, y = batch
    weight, bias = objective.layout.unflatten(objective.theta).values()
    error = torch.softmax(x @ weight.T + bias, 1) - F.one_hot(y, 4)
    return torch.cat([(error[:, :, None] * x[:, None]).flatten(1), error], 1).numpy()


def truth(objective: Objective) -> tuple[np.ndarray, float, float]:
    g = of_examples(objective)
    return g, np.trace(np.cov(g.T)), float((g.mean(0) ** 2).sum())


def test_single_examples_give_the_exact_noise():
    objective = regression()
    _, noise, squared = truth(objective)
    answer = GradientNoise(batches=N, tails=False)(objective)
    assert answer["noise"].item() == pytest.approx(noise, rel=1e-10)
    assert answer["gradient_norm"].item() ** 2 == pytest.approx(squared, rel=1e-10)
    assert answer["noise_scale"].item() == pytest.approx(noise / squared, rel=1e-10)
    assert answer["population_noise_scale"].item() == pytest.approx(noise / (squared - noise / N), rel=1e-10)
    assert answer["gradient_norm"].item() == pytest.approx(objective.gradient().norm().item(), rel=1e-10)


def test_mini_batches_without_replacement_are_unbiased():
    """Forgetting that they are drawn without replacement would be off by b/N, here a sixth."""
    objective = regression()
    noise = truth(objective)[1]
    found = np.array(
        [GradientNoise(batches=6, tails=False, seed=seed)(objective)["noise"].item() for seed in range(150)]
    )
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert abs(found.mean() - noise) < 3 * error < noise / 12
    assert abs(found.mean() * (1 - 8 / N) - noise) > 3 * error


def test_layers_add_up_and_have_their_own_signal():
    objective = regression()
    g = of_examples(objective)
    answer = GradientNoise(batches=N, tails=False)(objective)
    assert answer["layer"].values.tolist() == ["weight", "bias"]
    assert answer["layer_noise"].sum().item() == pytest.approx(answer["noise"].item())
    bias = g[:, 12:]
    expected = (bias.mean(0) ** 2).sum() / np.trace(np.cov(bias.T))
    assert answer["signal_to_noise"].values[1] == pytest.approx(expected, rel=1e-10)


def test_noise_that_curvature_weighs():
    objective = regression()
    g = of_examples(objective)
    H = torch.autograd.functional.hessian(_loss_of(objective), objective.theta).numpy()
    answer = GradientNoise(batches=N, curvature=True, tails=False)(objective)
    assert answer["curvature_noise"].item() == pytest.approx(np.trace(H @ np.cov(g.T)), rel=1e-8)
    mean = g.mean(0)
    assert answer["curvature_noise_scale"].item() == pytest.approx(
        np.trace(H @ np.cov(g.T)) / (mean @ H @ mean), rel=1e-8
    )


def test_gaussian_noise_has_no_tails_and_heavy_inputs_do():
    def linear(noise: torch.Tensor) -> Objective:
        """loss = mean of theta . x: the gradient of an example is x."""
        model = nn.Linear(noise.shape[1], 1, bias=False).double()
        return Objective(model, (noise, torch.zeros(len(noise), 1)), loss=lambda out, _: out.mean())

    rng = np.random.default_rng(0)
    widths = np.exp(rng.standard_normal(400))
    normal = GradientNoise(batches=128)(linear(torch.from_numpy(rng.standard_normal((1024, 400)) * widths)))
    away = abs(normal["tail_index"] - normal["tail_index_gaussian"]) / normal["tail_index_gaussian_deviation"]
    assert away.item() < 4
    assert normal["tail_index_gaussian"].item() == pytest.approx(2, abs=0.1)
    assert normal["pooled_tail_index_gaussian"].item() < 1.8  # what pooling does to exactly Gaussian noise
    heavy = GradientNoise(batches=128)(linear(torch.from_numpy(rng.standard_cauchy((1024, 400)))))
    assert heavy["tail_index"].item() == pytest.approx(1, abs=0.1)
    assert heavy["excess_kurtosis"].item() > 5


def test_no_noise_at_all():
    model = nn.Linear(2, 1, bias=False)
    objective = Objective(model, (torch.ones(8, 2), torch.ones(8, 1)), loss=F.mse_loss)
    answer = GradientNoise(batches=8)(objective)
    assert answer["noise"].item() == answer["noise_scale"].item() == 0 and np.isnan(answer["tail_index"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batches": 3}, "batches must be at least 4, got 3"),
        ({"batches": 7}, "a tail index needs 8 batches or more, got 7; ask for more, or tails=False"),
        ({"minibatch": 0}, "minibatch must be at least 1 example, got 0"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        GradientNoise(**fields)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="64 mini-batches of 1 need 64 examples, there are 48"):
        GradientNoise()(regression())
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))
    x, y = torch.randn(N, 3, generator=seeded(0), dtype=torch.float64), torch.arange(N) * 4 // N
    with pytest.raises(ValueError, match="depends on how the data is cut"):
        GradientNoise(batches=8)(Objective(nn.Linear(3, 4).double(), (x, y), loss=weighted))
    whole = Objective(nn.Linear(5, 3), Uncut(), step=lambda model, b: F.cross_entropy(model(b["inputs"]), b["targets"]))
    with pytest.raises(ValueError, match="cannot be cut"):
        GradientNoise(batches=8)(whole)
    with pytest.raises(ValueError, match="take more than 2 GiB"):
        GradientNoise(batches=N)(_Large(regression()))


class Uncut:
    """Batches whose tensors do not all count examples."""

    def __iter__(self):
        for _ in range(2):
            yield {"inputs": torch.ones(4, 5), "all": torch.ones(1), "targets": torch.tensor([0, 1, 2, 0])}


class _Large:
    """An objective that says that it has ten million parameters."""

    def __init__(self, objective: Objective):
        self.objective, self.size = objective, 10_000_000

    def __getattr__(self, name):
        return getattr(self.objective, name)


def _loss_of(objective: Objective):
    x, y = next(objective.examples.batches(N))[0]

    def loss(theta):
        return F.cross_entropy(x @ theta[:12].view(4, 3).T + theta[12:], y)

    return loss


def two_layers(rows: torch.Tensor, same_bias: bool = False) -> Objective:
    model = nn.Sequential(nn.Linear(rows.shape[1], len(rows)), nn.Tanh(), nn.Linear(len(rows), 2))
    model[0].weight.data = rows
    if same_bias:
        model[0].bias.data.fill_(0.1)
    return Objective(model, (torch.randn(6, rows.shape[1]), torch.arange(6) % 2), loss=F.cross_entropy)


def test_copies_of_units_are_counted_once():
    row = torch.tensor([1.0, 2.0, 3.0])
    answer = Symmetry()(two_layers(torch.stack([row, row, -row, row * (1 + 1e-8), torch.tensor([3.0, 0, 1])]), True))
    first = answer.sel(layer="0.weight")
    assert (first["units"].item(), first["distinct_units"].item(), first["rank"].item()) == (5, 3, 2)
    assert answer["distinct_share"].item() == 0.6


def test_ranks_of_known_matrices():
    answer = Symmetry()(two_layers(torch.eye(4))).sel(layer="0.weight")
    assert answer["stable_rank"].item() == pytest.approx(4) and answer["effective_rank"].item() == pytest.approx(4)
    constant = Symmetry()(two_layers(torch.full((4, 3), 0.5))).sel(layer="0.weight")
    assert constant["rank"].item() == 1 and constant["distinct_units"].item() == 4  # their biases differ
    assert constant["effective_rank"].item() == pytest.approx(1, abs=1e-5)
    zero = Symmetry()(two_layers(torch.zeros(4, 3))).sel(layer="0.weight")
    assert (zero["rank"].item(), zero["effective_rank"].item()) == (0, 0)


def test_symmetry_needs_units():
    with pytest.raises(ValueError, match="tol must lie between 0 and 1"):
        Symmetry(tol=0)
    with pytest.raises(ValueError, match="two or more axes"):
        Symmetry()(regression(parameters="bias"))
