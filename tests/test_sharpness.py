"""Every measure of sharpness against its closed form, and against what must not change it."""

from __future__ import annotations

from math import inf, isnan, nan

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.execution import SerialExecutor, Work, working
from landscape.measure import answered, ask, probe_fields
from landscape.objective import Objective
from landscape.operators import Hessian
from landscape.probes import Sharpness
from landscape.probes.sharpness import FAMILIES
from landscape.sharpness import (
    Point,
    average_case,
    hessian_trace,
    keskar,
    largest_eigenvalue,
    m_sharpness,
    pac_bayes,
    sam,
    sam_one_step,
)
from landscape.sharpness.point import Highest
from landscape.sharpness.scales import sizes
from landscape.store import Store
from landscape.summary import summarize
from landscape.tables import summary
from tests import oracles
from tests.problems import built, network, only_output, quadratic, relu_perceptron, rotated, seeded, vectors

SPECTRUM = [8.0, 3.0, 2.0, 1.0, 0.5, 0.2]


def at_minimum(eigenvalues=SPECTRUM, **options):
    start = torch.zeros(len(eigenvalues), dtype=torch.float64)
    return quadratic(rotated(eigenvalues), **{"start": start, **options})


def diagonal(eigenvalues, start, level=0.0):
    """A diagonal quadratic at its minimum, which is not at zero."""
    values, start = (torch.as_tensor(v, dtype=torch.float64) for v in (eigenvalues, start))
    matrix = torch.diag(values)
    constant = level + (start @ matrix @ start / 2).item()
    return quadratic(matrix, slope=-matrix @ start, constant=constant, start=start)


def classifier(factory=relu_perceptron, dtype=torch.float64, **options):
    inputs, targets = vectors()
    return Objective(built(factory, dtype=dtype), (inputs.to(dtype), targets), loss=F.cross_entropy, **options)


def perceptron():
    return classifier(lambda: network("perceptron")[0])


# Curvature


def test_largest_eigenvalue_and_trace_are_those_of_the_dense_hessian():
    model, data = network("perceptron")
    objective = Objective(model, data, loss=F.cross_entropy)
    exact = torch.linalg.eigvalsh(oracles.dense_hessian(model, data))
    top, trace = largest_eigenvalue(objective), hessian_trace(objective, num_matvecs=40)
    assert top.value == pytest.approx(exact[-1].item(), rel=1e-6)
    assert top.low <= exact[-1].item() <= top.high
    assert abs(trace.value - exact.sum().item()) <= 3 * trace.standard_error < 0.3 * exact.sum().item()
    assert trace.low <= trace.value <= trace.high
    assert hessian_trace(objective, num_matvecs=100).value == pytest.approx(exact.sum().item(), rel=1e-9)
    assert isnan(top.first_order_share)


def test_the_largest_eigenvalue_is_the_algebraically_largest():
    assert largest_eigenvalue(at_minimum([2.0, 1.0, -5.0])).value == pytest.approx(2.0)


def test_an_eigenvalue_that_has_not_converged_says_so():
    values = torch.linspace(1, 2, 300, dtype=torch.float64)
    found = largest_eigenvalue(quadratic(rotated(values)), tol=1e-9, max_matvecs=4)
    assert not found.resolved
    assert "NOT converged" in found.bounds


# SAM


@pytest.mark.parametrize("rho", [1e-3, 0.1, 3.0])
def test_sam_at_a_minimum_is_half_rho_squared_lambda_max(rho):
    found = sam(at_minimum(), rho, steps=40)
    assert found.value == pytest.approx(rho**2 * 8.0 / 2, rel=1e-9)
    assert found.low == pytest.approx(found.high, rel=1e-6)
    assert abs(found.first_order_share) < 1e-9
    assert sam_one_step(at_minimum(), rho).value == 0.0


def test_sam_at_a_slope_is_rho_times_the_gradient():
    slope = torch.tensor([3.0, -4.0], dtype=torch.float64)
    objective = quadratic(torch.zeros(2, 2, dtype=torch.float64), slope=slope)
    for found in (sam(objective, 0.1), sam_one_step(objective, 0.1)):
        assert found.value == pytest.approx(0.5)
        assert found.first_order_share == pytest.approx(1.0)


def test_sam_solves_the_trust_region_problem():
    """Away from a minimum, with negative curvature too: against the secular equation."""
    matrix, slope = rotated([4.0, 1.0, -2.0, -6.0]), torch.tensor([0.3, -0.2, 0.1, 0.5], dtype=torch.float64)
    objective = quadratic(matrix, slope=slope, start=torch.zeros(4, dtype=torch.float64))
    low, high = 4.0 + 1e-12, 1e6
    for _ in range(200):
        mu = (low + high) / 2
        step = torch.linalg.solve(mu * torch.eye(4, dtype=torch.float64) - matrix, slope)
        low, high = (mu, high) if step.norm() > 0.2 else (low, mu)
    exact = (slope @ step + step @ matrix @ step / 2).item()
    assert sam(objective, 0.2, steps=200, restarts=4).value == pytest.approx(exact, rel=1e-6)


def test_the_one_step_is_the_published_one():
    objective = classifier()
    g, theta = objective.gradient(), objective.theta
    for scale, T in (("none", torch.ones_like(theta)), ("element", theta.abs())):
        step = 0.1 * T**2 * g / (T * g).norm()
        rise = (objective.loss(theta + step) - objective.loss()).item()
        found = sam_one_step(objective, 0.1, scale)
        assert found.value == pytest.approx(rise, rel=1e-9)
        assert found.first_order_share == pytest.approx((g @ step).item() / rise, rel=1e-9)


@pytest.mark.parametrize("scale", ["none", "element", "filter"])
@pytest.mark.parametrize("p", [2.0, inf])
@pytest.mark.parametrize("rho", [0.01, 0.3])
def test_many_steps_never_end_below_one_step_nor_below_zero(scale, p, rho):
    objective = perceptron()
    one, many = sam_one_step(objective, rho, scale, p), sam(objective, rho, 5, 1, scale=scale, p=p)
    assert many.value >= one.value - 1e-12
    assert many.value >= 0
    assert isnan(many.low), "one start has no spread"


def test_at_a_maximum_nothing_rises():
    objective = at_minimum([-1.0, -2.0, -3.0])
    for found in (sam(objective, 0.1), keskar(objective)):
        assert found.value == 0.0
        assert isnan(found.first_order_share)
        assert not found.resolved


def record_steps(monkeypatch):
    steps, plain = [], Point._moved

    def moved(self, step):
        steps.append(step)
        return plain(self, step)

    monkeypatch.setattr(Point, "_moved", moved)
    return steps


@pytest.mark.parametrize("scale", ["none", "element", "filter"])
@pytest.mark.parametrize("p", [2, inf])
def test_the_ball_is_never_left(monkeypatch, scale, p):
    objective = perceptron()
    T = sizes(objective, scale)
    steps = record_steps(monkeypatch)
    sam(objective, 0.7, scale=scale, p=p, restarts=3)
    lengths = torch.stack([(step / T).norm(p=p) for step in steps])
    assert len(steps) > 10
    assert lengths.max() <= 0.7 * (1 + 1e-12)
    assert lengths.max() >= 0.7 * (1 - 1e-9)


def test_m_sharpness_is_the_mean_over_batches():
    objective = classifier()
    inputs, targets = vectors()
    model = built(relu_perceptron, dtype=torch.float64)
    total, slope = 0.0, 0.0
    for start in range(0, 23, 6):
        part = (inputs[start : start + 6].double(), targets[start : start + 6])
        batch = Objective(model, part, loss=F.cross_entropy)
        found = sam_one_step(batch, 0.1)
        total += found.value * len(part[1]) / 23
        slope += found.value * found.first_order_share * len(part[1]) / 23
    found = m_sharpness(objective, 6, 0.1)
    assert found.value == pytest.approx(total, rel=1e-9)
    assert found.first_order_share == pytest.approx(slope / total, rel=1e-9)
    assert m_sharpness(objective, 23, 0.1).value == pytest.approx(sam_one_step(objective, 0.1).value, rel=1e-9)


# Adaptive


class TwoFactors(nn.Module):
    """loss = c (a b - 3/2)^2 / 2 at its minimum; the scalar of claim C16."""

    def __init__(self, alpha):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([alpha * 1.5**0.5], dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor([1.5**0.5 / alpha], dtype=torch.float64))

    def forward(self, inputs):
        return 4.1861 / 4.5 / 2 * (self.a * self.b - 1.5) ** 2 + 0 * inputs.sum()


@pytest.mark.parametrize("alpha", [1, 2, 10])
def test_the_scalar_example_of_dinh(alpha):
    data = (torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    objective = Objective(TwoFactors(alpha), data, loss=only_output)
    rho = 1e-4
    assert 2 / rho**2 * sam(objective, rho, scale="element").value == pytest.approx(4.1861, rel=1e-3)
    lambda_max = 4.1861 / 3 * (alpha**2 + alpha**-2)
    assert largest_eigenvalue(objective).value == pytest.approx(lambda_max, rel=1e-6)
    assert 2 / rho**2 * sam(objective, rho).value == pytest.approx(lambda_max, rel=1e-2)


def rescaled(alpha):
    """Two ReLU layers without bias, the first times alpha, the second divided by it: the same function."""
    model = built(relu_perceptron, dtype=torch.float64)
    with torch.no_grad():
        model[0].weight *= alpha
        model[2].weight /= alpha
    inputs, targets = vectors()
    return Objective(model, (inputs.double(), targets), loss=F.cross_entropy)


ADAPTIVE = {
    "asam": lambda o: sam(o, 0.3, scale="element"),
    "asam one step": lambda o: sam_one_step(o, 0.3, scale="element"),
    "asam infinity": lambda o: sam(o, 0.05, scale="element", p=inf),
    "asam filter": lambda o: sam(o, 0.1, scale="filter"),
    "average": lambda o: average_case(o, 0.1, 10, scale="element"),
    "average filter": lambda o: average_case(o, 0.05, 10, scale="filter"),
    "pac-bayes": lambda o: pac_bayes(o, 0.1, 10, scale="element"),
}
PLAIN = {
    "eigenvalue": lambda o: largest_eigenvalue(o),
    "sam": lambda o: sam(o, 0.3),
    "average": lambda o: average_case(o, 0.3, 10),
    "pac-bayes": lambda o: pac_bayes(o, 0.1, 10),
    "keskar": lambda o: keskar(o, 5e-2),
}


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("alpha", [0.1, 5.0, 50.0])
def test_adaptive_measures_do_not_see_a_rescaling(name, alpha):
    measure = ADAPTIVE[name]
    assert measure(rescaled(alpha)).value == pytest.approx(measure(rescaled(1.0)).value, rel=1e-3)


@pytest.mark.parametrize("name", PLAIN)
def test_other_measures_do(name):
    """Negative control: the function is the same, the number is not."""
    before, after = (PLAIN[name](rescaled(alpha)).value for alpha in (1.0, 10.0))
    assert rescaled(10.0).loss().item() == pytest.approx(rescaled(1.0).loss().item(), rel=1e-12)
    assert abs(after / before - 1) > 0.3
    if name == "eigenvalue":
        assert after > 10 * before


def test_a_filter_is_scaled_by_its_norm_and_a_bias_by_itself():
    model, data = network("transposed convolution")
    objective = Objective(model, data, loss=F.cross_entropy)
    found = objective.layout.unflatten(sizes(objective, "filter"))
    up = dict(model.named_parameters())["up.weight"]
    norms = up.detach().square().sum(dim=(0, 2, 3), keepdim=True).sqrt().expand_as(up)
    assert torch.allclose(found["up.weight"], norms)
    assert torch.equal(found["head.bias"], model.head.bias.detach().abs())
    assert torch.equal(sizes(objective, "element"), objective.theta.abs())


# Keskar's box


@pytest.mark.parametrize("epsilon", [1e-3, 5e-4])
@pytest.mark.parametrize("level", [0.0, 2.0])
def test_keskar_on_a_diagonal_quadratic(epsilon, level):
    start = torch.randn(40, generator=seeded(1), dtype=torch.float64)
    eigenvalues = torch.linspace(0.5, 9, 40, dtype=torch.float64)
    exact = 50 * epsilon**2 * (eigenvalues * (start.abs() + 1) ** 2).sum().item() / (1 + level)
    found = keskar(diagonal(eigenvalues, start, level), epsilon)
    assert found.value == pytest.approx(exact, rel=1e-6)
    assert abs(found.first_order_share) < 1e-6


def test_keskar_at_a_slope_is_of_first_order():
    objective = classifier()
    theta, g, loss = objective.theta, objective.gradient(), objective.loss().item()
    found = keskar(objective, 1e-6)
    exact = 100 * 1e-6 * (g.abs() * (theta.abs() + 1)).sum().item() / (1 + loss)
    assert found.value == pytest.approx(exact, rel=1e-4)
    assert found.first_order_share == pytest.approx(1.0, rel=1e-3)


def test_keskar_in_a_subspace_finds_the_best_corner():
    """In few dimensions every corner can be tried; on a convex loss the maximum is at one."""
    start = torch.randn(30, generator=seeded(3), dtype=torch.float64)
    objective = diagonal(torch.linspace(0.5, 9, 30), start)
    A = torch.stack([gaussian_column(30, 7, column) for column in range(4)], dim=1)
    bounds = 1e-3 * ((torch.linalg.pinv(A) @ start).abs() + 1)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 4) * bounds
    exact = 100 * max((objective.loss(start + A @ corner) - objective.loss()).item() for corner in corners)
    found = keskar(objective, 1e-3, subspace=4, restarts=12, seed=7)
    assert found.value == pytest.approx(exact, rel=1e-9)
    assert found.low <= found.value == found.high
    assert "subspace of 4 dimensions" in found.definition


def gaussian_column(size, seed, column):
    from landscape.directions import gaussian

    return gaussian(size, seed, 10_000 + column)


@pytest.mark.parametrize("subspace", [None, 5])
def test_the_box_is_never_left(monkeypatch, subspace):
    objective = perceptron()
    theta = objective.theta
    steps = record_steps(monkeypatch)
    keskar(objective, 0.1, subspace, restarts=6, iterations=20)
    assert len(steps) > 10
    if subspace is None:
        inside = torch.stack(steps).abs() / (0.1 * (theta.abs() + 1))
    else:
        A = torch.stack([gaussian_column(len(theta), 0, column) for column in range(5)], dim=1)
        assert max((A @ (torch.linalg.pinv(A) @ step) - step).norm() for step in steps) < 1e-9
        bounds = 0.1 * ((torch.linalg.pinv(A) @ theta).abs() + 1)
        inside = torch.stack([torch.linalg.pinv(A) @ step for step in steps]).abs() / bounds
    assert inside.max() <= 1 + 1e-9
    assert inside.max() >= 1 - 1e-6


def test_a_subspace_has_at_most_as_many_dimensions_as_the_space():
    assert "of 6 dimensions" in keskar(at_minimum(), subspace=100).definition


@pytest.mark.parametrize("subspace", [None, 4])
def test_the_search_of_keskar_is_given_the_gradient_in_the_units_of_its_box(monkeypatch, subspace):
    """Against central differences of what the search minimizes; sizes of parameters differ, so those of the box do."""
    start = torch.tensor([3.0, -1.0, 0.2, 40.0, 7.0, 0.0], dtype=torch.float64)
    checked = []

    def compare(function, u, **_settings):
        u = u + 0.3
        slope = function(u)[1]
        h = 1e-4
        differences = [(function(u + h * e)[0] - function(u - h * e)[0]) / (2 * h) for e in np.eye(len(u))]
        checked.append(np.abs(slope - differences).max() / np.abs(slope).max())

    monkeypatch.setattr("scipy.optimize.minimize", compare)
    keskar(quadratic(rotated(SPECTRUM), start=start), 0.01, subspace)
    assert len(checked) == 1
    assert checked[0] < 1e-6  # a quadratic has no third derivative, so what is left is rounding


@pytest.mark.parametrize("loss", [-1.0, -3.0])
def test_keskar_has_no_percent_of_a_loss_at_or_below_minus_one(loss):
    objective = at_minimum(constant=loss)
    message = f"percent of 1 [+] loss, which must be positive, but the loss is {loss:g}; add a constant"
    with pytest.raises(ValueError, match=message):
        keskar(objective)
    before = objective.num_passes
    with pytest.raises(ValueError, match=message):
        Sharpness(measures="sam,keskar-subspace")(objective)
    assert objective.num_passes == before + 2  # loss and gradient of the point, and its metrics
    assert keskar(at_minimum(constant=-0.9)).value > 0


def test_among_all_measures_those_that_do_not_suit_are_left_out_and_say_so():
    from landscape import figures

    answer = Sharpness(**QUICK)(at_minimum(constant=-30.0, start=torch.ones(6, dtype=torch.float64)))
    value = answer["value"].to_series()
    assert value.index[value.isna()].tolist() == [name for name in value.index if name.startswith("keskar")]
    assert "percent of 1 + loss" in answer.attrs["remark"]
    assert answer["definition"].sel(measure="keskar-0.001").item() == f"not measured: {answer.attrs['remark']}"
    text = summary(answer)
    assert "not measured" in text
    shown = [t.get_text() for t in figures.sharpness_table(answer).axes[0].texts]
    assert shown.count("nan ?") == 0
    assert not any("?: within the rounding" in one for one in shown)
    assert "remark: Keskar's sharpness is in percent" in text
    recalibrated = Sharpness(**QUICK)(classifier(normalization="recalibrated"))
    assert np.isnan(recalibrated["value"].sel(measure="m-sharpness"))
    assert recalibrated.attrs["remark"].startswith("m-sharpness needs a loss that is the mean over examples")
    with pytest.raises(ValueError, match="m-sharpness needs a loss that is the mean over examples"):
        Sharpness(measures="m-sharpness")(classifier(normalization="recalibrated"))
    assert "remark" not in Sharpness(measures="sam-one-step")(perceptron()).attrs


# The average


def test_the_error_of_the_average_is_that_of_a_mean_of_three():
    """The rise of a quadratic under one draw with both signs is known, so the three samples are too."""
    from landscape.directions import gaussian

    A = rotated(SPECTRUM)
    found = average_case(at_minimum(), 0.1, 3)
    rises = [0.005 * (xi @ A @ xi).item() for xi in (gaussian(6, 0, draw) for draw in range(3))]
    mean = sum(rises) / 3
    error = (sum((rise - mean) ** 2 for rise in rises) / 2 / 3) ** 0.5
    assert found.value == pytest.approx(mean)
    assert found.standard_error == pytest.approx(error)
    assert found.high - found.value == pytest.approx(4.302653 * error)  # t(0.975) with 2 degrees of freedom


def test_the_average_of_a_quadratic_is_half_sigma_squared_trace():
    found = average_case(at_minimum(), 0.1, 2000)
    exact = 0.01 * sum(SPECTRUM) / 2
    assert abs(found.value - exact) < 3 * found.standard_error
    assert found.standard_error < 0.04 * exact
    exact_error = 0.01 / 2 * (2 * sum(v**2 for v in SPECTRUM) / 2000) ** 0.5
    assert found.standard_error == pytest.approx(exact_error, rel=0.1)
    assert found.low < exact < found.high
    assert found.first_order_share == 0.0


def test_the_average_does_not_see_a_slope():
    slope = torch.full((6,), 50.0, dtype=torch.float64)
    sloping = quadratic(rotated(SPECTRUM), slope=slope, start=torch.zeros(6, dtype=torch.float64))
    flat = average_case(at_minimum(), 0.1, 5)
    assert average_case(sloping, 0.1, 5).value == pytest.approx(flat.value, rel=1e-9)
    assert sam(sloping, 0.1).first_order_share > 0.9


def test_the_adaptive_average_is_half_sigma_squared_trace_of_the_scaled_hessian():
    start = torch.linspace(0.1, 3, 12, dtype=torch.float64)
    objective = diagonal(torch.linspace(1, 4, 12), start)
    exact = 0.01 * (torch.linspace(1, 4, 12) * start**2).sum().item() / 2
    found = average_case(objective, 0.1, 2000, scale="element")
    assert abs(found.value - exact) < 3 * found.standard_error < 0.1 * exact


@pytest.mark.slow
def test_coverage_of_the_average():
    """95% intervals over 20 draws hold the truth in 926 to 971 of 1,000 (99.9% of a binomial)."""
    eigenvalues = torch.linspace(0.2, 4, 40, dtype=torch.float64)
    objective = at_minimum(eigenvalues.tolist())
    exact, point = 0.01 * eigenvalues.sum().item() / 2, Point.of(at_minimum(eigenvalues.tolist()))
    answers = [average_case(objective, 0.1, 20, seed, point=point) for seed in range(1000)]
    held = sum(found.low <= exact <= found.high for found in answers)
    assert 926 <= held <= 971
    narrower = sum(abs(found.value - exact) <= found.standard_error for found in answers)
    assert narrower < 800, "negative control"


# PAC-Bayes


def test_pac_bayes_of_a_quadratic_is_its_trace_over_twice_the_target():
    found = pac_bayes(at_minimum(), 0.1, 300)
    exact = sum(SPECTRUM) / 0.2
    assert abs(found.value - exact) < 3 * found.standard_error < 0.3 * exact
    assert found.low < exact < found.high
    assert found.rise == pytest.approx(0.1, rel=3e-3)
    relative_error = (2 * sum(v**2 for v in SPECTRUM) / 300) ** 0.5 / sum(SPECTRUM)
    assert found.standard_error == pytest.approx(exact * relative_error, rel=0.2)
    assert found.high / found.value == pytest.approx(found.value / found.low)
    assert np.log(found.high / found.value) == pytest.approx(1.97 * relative_error, rel=0.2)


def test_pac_bayes_goes_with_the_target():
    few, many = (pac_bayes(at_minimum(), target, 10).value for target in (1e-6, 1e3))
    assert few / many == pytest.approx(1e9, rel=0.01)


def test_pac_bayes_knows_no_end_where_nothing_rises():
    assert pac_bayes(at_minimum([-1.0, -2.0]), 0.1, 3).value == 0.0


@pytest.mark.slow
def test_coverage_of_pac_bayes():
    """Over 250 seeds: a quarter of the thousand, for each takes 360 losses."""
    eigenvalues = torch.linspace(0.2, 4, 40, dtype=torch.float64)
    objective = at_minimum(eigenvalues.tolist())
    point = Point.of(objective)
    answers = [pac_bayes(objective, 0.1, 20, seed, point=point) for seed in range(250)]
    held = sum(found.low <= eigenvalues.sum().item() / 0.2 <= found.high for found in answers)
    assert 224 <= held <= 247  # 99.9% of a binomial


# Laws

EVERY = {
    **ADAPTIVE,
    **PLAIN,
    "keskar subspace": lambda o: keskar(o, 1e-2, subspace=5),
    "m": lambda o: m_sharpness(o, 5, 0.1),
}


def permuted():
    """The hidden units of `rescaled(1.0)` in another order."""
    model = built(relu_perceptron, dtype=torch.float64)
    order = torch.randperm(6, generator=seeded(2))
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight[order].clone())
        model[2].weight.copy_(model[2].weight[:, order].clone())
    inputs, targets = vectors()
    return Objective(model, (inputs.double(), targets), loss=F.cross_entropy)


@pytest.mark.parametrize(
    "name", ["asam", "asam one step", "asam infinity", "asam filter", "eigenvalue", "sam", "keskar"]
)
def test_the_order_of_hidden_units_does_not_matter(name):
    assert EVERY[name](permuted()).value == pytest.approx(EVERY[name](rescaled(1.0)).value, rel=2e-2)


def test_the_order_of_hidden_units_changes_an_average_within_its_error():
    here, there = (average_case(o, 0.3, 300) for o in (rescaled(1.0), permuted()))
    assert abs(here.value - there.value) < 4 * (here.standard_error**2 + there.standard_error**2) ** 0.5


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, outputs, targets):
        return self.factor * F.cross_entropy(outputs, targets)


@pytest.mark.parametrize("factor", [2.0**-20, 2.0**20])
@pytest.mark.parametrize("name", ["eigenvalue", "sam", "asam", "asam filter", "average", "m"])
def test_proportion_to_the_loss(name, factor):
    inputs, targets = vectors()
    data = (inputs.double(), targets)
    objectives = [Objective(built(relu_perceptron, dtype=torch.float64), data, loss=Scaled(f)) for f in (1.0, factor)]
    before, after = (EVERY[name](objective).value for objective in objectives)
    assert after / before == pytest.approx(factor, rel=1e-6)


def test_the_search_of_keskar_does_not_depend_on_the_unit_of_the_loss():
    rises = []
    for factor in (1.0, 2.0**-20, 2.0**20):
        inputs, targets = vectors()
        model = built(relu_perceptron, dtype=torch.float64)
        rises.append(keskar(Objective(model, (inputs.double(), targets), loss=Scaled(factor)), 1e-2).rise / factor)
    assert rises[1:] == pytest.approx(rises[:1] * 2, rel=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_float32_agrees_with_float64(name):
    double, single = (EVERY[name](classifier(dtype=dtype)).value for dtype in (torch.float64, torch.float32))
    assert single == pytest.approx(double, rel=2e-3)


@pytest.mark.parametrize("name", EVERY)
def test_cutting_into_batches_changes_nothing(name):
    whole, ragged = (EVERY[name](classifier(batch_size=size)).value for size in (23, 5))
    assert ragged == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("name", ["average", "pac-bayes", "keskar subspace"])
def test_seeds(name):
    draws = {
        "average": lambda seed: average_case(classifier(), 0.1, 3, seed),
        "pac-bayes": lambda seed: pac_bayes(classifier(), 0.1, 3, seed),
        "keskar subspace": lambda seed: keskar(classifier(), 1e-2, 5, seed=seed),
    }[name]
    assert draws(0).value == draws(0).value
    assert draws(0).value != draws(1).value


def test_nothing_happens_to_the_model():
    objective = perceptron()
    before = objective.identity()
    random_state = torch.get_rng_state()
    Sharpness(draws=2, steps=2, restarts=1, matvecs=20)(objective)
    assert objective.identity() == before
    assert torch.equal(torch.get_rng_state(), random_state)


# Losses that are not finite


class Cliff(nn.Module):
    """A quadratic that ends: beyond |w| = 1 the loss is `beyond`."""

    def __init__(self, beyond):
        super().__init__()
        self.beyond = beyond
        self.w = nn.Parameter(torch.full((4,), 0.1, dtype=torch.float64))

    def forward(self, inputs):
        height = self.w @ self.w / 2 + 0 * inputs.sum()
        return torch.where(self.w.norm() > 1, torch.full_like(height, self.beyond), height)


@pytest.mark.parametrize("beyond", [nan, inf])
def test_losses_that_are_not_finite_are_kept_and_counted(beyond):
    data = (torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    objective = Objective(Cliff(beyond), data, loss=only_output)
    measured = [
        sam(objective, 2.0),
        sam_one_step(objective, 2.0),
        keskar(objective, 3.0),
        average_case(objective, 2.0, 5),
    ]
    for found in (*measured, m_sharpness(objective, 3, 2.0)):
        assert found.nonfinite >= 1
        assert found.value == inf if beyond == inf else isnan(found.value)
    assert all(found.resolved for found in measured)
    pac = pac_bayes(objective, 10.0, 5)
    assert pac.value > 0 and pac.nonfinite > 0 and isnan(pac.standard_error)
    near = sam(objective, 0.1)
    assert near.nonfinite == 0 and near.value > 0
    answer = Sharpness(measures="sam,average", rho=2.0)(objective)
    assert "losses not finite" in summary(answer)


def test_the_highest_keeps_what_is_not_finite():
    highest = Highest(torch.zeros(1))
    assert not highest.see(-1.0, torch.ones(1))
    assert highest.see(1.0, torch.ones(1)) and highest.rise == 1.0
    assert highest.see(nan, torch.ones(1)) and highest.ended
    assert not highest.see(5.0, torch.ones(1))


# Refusals


def test_refusals():
    objective = at_minimum()
    for name, measure in {
        "rho": [sam, sam_one_step, m_sharpness],
        "sigma": [average_case],
        "epsilon": [keskar],
        "target": [pac_bayes],
    }.items():
        for bad in (0.0, -1.0, nan, inf):
            for function in measure:
                with pytest.raises(ValueError, match=f"{name} must be positive and finite, got"):
                    function(objective, **{name: bad})
    with pytest.raises(ValueError, match="p must be 2 or infinity, got 1"):
        sam(objective, p=1)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        sam(objective, steps=0)
    with pytest.raises(ValueError, match="restarts must be at least 1, got 0"):
        sam(objective, restarts=0)
    with pytest.raises(ValueError, match="m must be at least 1, got 0"):
        m_sharpness(objective, 0)
    with pytest.raises(ValueError, match="draws must be at least 2, got 1"):
        average_case(objective, draws=1)
    with pytest.raises(ValueError, match="draws must be at least 2, got 1"):
        pac_bayes(objective, draws=1)
    with pytest.raises(ValueError, match="subspace must be at least 1, got 0"):
        keskar(objective, subspace=0)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        keskar(objective, iterations=0)
    with pytest.raises(ValueError, match="num_matvecs"):
        hessian_trace(objective, 0)
    with pytest.raises(ValueError, match="scale must be one of none, element, filter, got 'layer'"):
        sam(objective, scale="layer")
    with pytest.raises(ValueError, match="every parameter is zero, so an adaptive step has no size"):
        sam(objective, scale="element")
    with pytest.raises(ValueError, match="m-sharpness needs a loss that is the mean over examples"):
        m_sharpness(classifier(normalization="recalibrated"))


def test_a_point_whose_loss_or_gradient_is_not_finite_is_refused():
    data = (torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="the loss is inf at the checkpoint itself"):
        Point.of(quadratic(rotated([1.0, 2.0]), constant=inf))

    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))

        def forward(self, inputs):
            return self.w.square().sum().sqrt() + 0 * inputs.sum()

    with pytest.raises(ValueError, match="the gradient is not finite at the checkpoint itself"):
        Sharpness(measures="sam")(Objective(Root(), data, loss=only_output))


# The probe

QUICK = {"draws": 3, "steps": 3, "matvecs": 20, "subspace": 5}


def test_the_probe_answers_with_every_measure():
    objective = perceptron()
    probe = Sharpness(**QUICK)
    answer = probe(objective)
    names = answer["measure"].values.tolist()
    assert names[:6] == [
        "eigenvalue",
        "trace",
        "keskar-0.001",
        "keskar-0.0005",
        "keskar-subspace-0.001",
        "keskar-subspace-0.0005",
    ]
    assert names[6:] == list(FAMILIES[4:])
    assert answer["loss"].item() == objective.loss().item()
    assert answer["gradient_norm"].item() == pytest.approx(objective.gradient().norm().item())
    assert answer["accuracy"].item() == objective.metrics()["accuracy"]
    for name, expected in {
        "eigenvalue": largest_eigenvalue(objective),
        "keskar-0.0005": keskar(objective, 5e-4, restarts=2),
        "keskar-subspace-0.001": keskar(objective, 1e-3, 5, restarts=2),
        "sam-one-step": sam_one_step(objective, 0.05),
        "sam": sam(objective, 0.05, 3),
        "asam": sam(objective, 0.5, 3, scale="element"),
        "asam-filter": sam(objective, 0.05, 3, scale="filter"),
        "asam-infinity": sam(objective, 0.002, 3, scale="element", p=inf),
        "average": average_case(objective, 0.01, 3),
        "average-adaptive": average_case(objective, 0.1, 3, scale="element"),
        "pac-bayes": pac_bayes(objective, 0.1, 3),
        "pac-bayes-adaptive": pac_bayes(objective, 0.1, 3, scale="element"),
        "m-sharpness": m_sharpness(objective, 128, 0.05),
    }.items():
        one = answer.sel(measure=name)
        assert one["value"].item() == expected.value, name
        assert one["definition"].item() == expected.definition
        for field in ("standard_error", "low", "high", "first_order_share"):
            assert one[field].item() == pytest.approx(getattr(expected, field), nan_ok=True), (name, field)


def test_some_measures_by_name():
    answer = Sharpness(measures="average, eigenvalue", draws=2)(perceptron())
    assert answer["measure"].values.tolist() == ["eigenvalue", "average"]


def test_the_probe_refuses():
    for settings, message in {
        "measures=flatness": "measures must be all, or some of eigenvalue, trace, .*; got flatness",
        "measures= ,": "measures must be all, or some of .*; got nothing",
    }.items():
        with pytest.raises(ValueError, match=message):
            Sharpness(measures=settings.partition("=")[2])
    for name in ("rho", "adaptive_rho", "filter_rho", "infinity_rho", "sigma", "adaptive_sigma", "target"):
        with pytest.raises(ValueError, match=f"{name} must be positive and finite, got 0"):
            Sharpness(**{name: 0.0})
    with pytest.raises(ValueError, match="epsilon must be positive and finite, got -1"):
        Sharpness(epsilon=(1e-3, -1.0))
    for epsilon in ((), (1e-3, 1e-3)):
        with pytest.raises(ValueError, match="epsilon needs one or several different numbers"):
            Sharpness(epsilon=epsilon)
    for name, least in {
        "subspace": 1,
        "m": 1,
        "draws": 2,
        "steps": 1,
        "restarts": 1,
        "iterations": 1,
        "matvecs": 20,
    }.items():
        with pytest.raises(ValueError, match=f"{name} must be at least {least}, got 0"):
            Sharpness(**{name: 0})
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        Sharpness(seed=-1)
    for tol in (0.0, 1.0, nan):
        with pytest.raises(ValueError, match="tol must lie between 0 and 1"):
            Sharpness(tol=tol)


def test_equal_questions_are_equal():
    assert Sharpness(rho=1, sigma=2, epsilon=[1]) == Sharpness(rho=1.0, sigma=2.0, epsilon=(1.0,))
    assert probe_fields(Sharpness(rho=1, epsilon=[1])) == probe_fields(Sharpness(rho=1.0, epsilon=(1.0,)))
    assert isinstance(Sharpness(rho=1).rho, float)  # in the name of an answer 1 and 1.0 are two
    assert isinstance(Sharpness(m=64).m, int)
    assert Sharpness(measures="sam,trace") == Sharpness(measures=" trace, sam,")
    assert Sharpness(measures=",".join(FAMILIES)) == Sharpness(measures="all ") == Sharpness()


def test_a_stored_answer_reads_back_and_is_shown(tmp_path):
    store, probe = Store(tmp_path), Sharpness(**QUICK)
    answer = ask(probe, perceptron(), store)
    assert answer.attrs["probe"] == "sharpness"
    text = summary(answer)
    assert "pac-bayes-adaptive" in text
    assert "slope" in text
    assert summarize({"sharpness-1": answer})["loss"].value == answer["loss"].item()


class Killed(BaseException):
    pass


class Dying:
    """A journal that ends the process after some records."""

    def __init__(self, journal, lives):
        self.journal, self.lives = journal, lives

    def records(self):
        return self.journal.records()

    def append(self, *args, **kwargs):
        self.journal.append(*args, **kwargs)
        self.lives -= 1
        if not self.lives:
            raise Killed


@pytest.mark.parametrize("lives", [1, 3, 10, 15])
def test_resumed_is_uninterrupted_and_does_less(tmp_path, lives):
    probe, store = Sharpness(**QUICK), Store(tmp_path)
    whole = answered(probe, perceptron(), Work(SerialExecutor()))
    with store.lock(), store.journal("x") as journal:
        with pytest.raises(Killed):
            answered(probe, perceptron(), Work(SerialExecutor(), Dying(journal, lives)))
        objective = perceptron()
        with working(Work(SerialExecutor(), journal)):
            resumed = probe(objective)
    for name in whole.variables:
        assert np.array_equal(whole[name], resumed[name], equal_nan=whole[name].dtype.kind == "f"), name
    fresh = perceptron()
    probe(fresh)
    assert objective.num_passes <= fresh.num_passes - lives


def test_sharpness_while_training(tmp_path):
    """As a callback: texts, measures and steps come back, and the figure shows shares of the largest value."""
    from landscape import figures
    from landscape.callbacks import ProbeEvery
    from tests.test_callbacks import fit
    from tests.test_figures import drawn

    probe = Sharpness(measures="sam,average,eigenvalue", draws=2, steps=2)
    fit(tmp_path, ProbeEvery(probe, every="epochs:1", out=tmp_path))
    store = Store(tmp_path)
    (name,) = store.names("sharpness-by-step-*")
    answer = store.read(name)
    assert answer["value"].dims == ("step", "measure")
    assert answer["measure"].values.tolist() == ["eigenvalue", "sam", "average"]
    (figure,) = figures.draw(answer, name).values()
    values = answer["value"].sel(measure="sam").values
    np.testing.assert_allclose(drawn(figure, "sam")[:, 1], values / values.max())


def test_products_of_the_hessian_are_those_of_the_operator():
    """Negative control for the one above: without a journal nothing is recalled."""
    objective = perceptron()
    before = objective.num_passes
    largest_eigenvalue(objective, operator=Hessian(objective))
    assert objective.num_passes > before
