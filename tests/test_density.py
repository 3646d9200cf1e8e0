from __future__ import annotations

from dataclasses import replace
from math import inf, sqrt

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from landscape import density as module
from landscape import execution
from landscape.density import spectral_density
from landscape.execution import SerialExecutor, Work
from landscape.objective import Objective
from landscape.probes import SpectralDensity
from landscape.randomness import gaussian_columns
from tests import oracles
from tests.problems import InterruptedJournal, Matrix, network, quadratic, rotated

SIZE = 200
BULK = torch.linspace(-0.5, 1, SIZE, dtype=torch.float64)
OUTLIERS = torch.cat([torch.tensor([40.0, 30, 22, -6, -4], dtype=torch.float64), BULK[5:]])


def probes(size: int, number: int, seed: int = 0) -> torch.Tensor:
    """(P, n) the unit vectors that the density starts from."""
    drawn = gaussian_columns(size, range(number), seed, "density")
    return drawn / drawn.norm(dim=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("power", [1, 2, 3, 5])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_moments_are_those_of_hutchinson_on_the_same_probes(power, dtype, scale):
    matrix = (rotated(OUTLIERS) * scale).to(dtype)
    found = spectral_density(Matrix(matrix), steps=20, num_probes=4)
    z = probes(SIZE, 4)
    exact = (z * (torch.linalg.matrix_power(matrix.double(), power) @ z)).sum(dim=0)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    assert torch.allclose(found.moment(power), exact, rtol=0, atol=tolerance * (40 * scale) ** power)
    assert torch.allclose(found.weights.sum(dim=1), torch.ones(4, dtype=torch.float64), atol=1e-12)
    # The factor P: a moment is a mean over eigenvalues, so that P times the first one estimates the trace.
    assert found.size * found.moment(1).mean().item() == pytest.approx(
        (SIZE * (z * (matrix.double() @ z)).sum(dim=0)).mean().item(), rel=10 * tolerance
    )


def test_moments_up_to_two_steps_less_one_are_exact():
    matrix = rotated(BULK)
    found = spectral_density(Matrix(matrix), steps=4, num_probes=2)
    z = probes(SIZE, 2)
    for power in (6, 7):
        exact = (z * (torch.linalg.matrix_power(matrix, power) @ z)).sum(dim=0)
        assert torch.allclose(found.moment(power), exact, rtol=1e-10)
    beyond = (z * (torch.linalg.matrix_power(matrix, 8) @ z)).sum(dim=0)
    assert not torch.allclose(found.moment(8), beyond, rtol=1e-6)


def ghosts(found, values=(40.0, 30.0, 22.0)) -> int:
    """Nodes at a simple eigenvalue beyond the first, over all probes."""
    copies = [((found.nodes - v).abs() < 1e-2).logical_and(found.weights >= 0).sum(dim=1) - 1 for v in values]
    return int(torch.stack(copies).clamp(min=0).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_simple_eigenvalue_is_one_node(dtype):
    found = spectral_density(Matrix(rotated(OUTLIERS).to(dtype)), steps=120, num_probes=3)
    assert ghosts(found) == 0
    assert found.nodes.min() > -6 - 1e-4 and found.nodes.max() < 40 + 1e-4


def test_without_reorthogonalization_there_are_ghosts(monkeypatch):
    """Control for the test above: only the last two vectors count, as in the textbook recurrence."""

    def recurrence(vector, basis):
        coordinates = torch.zeros(len(basis), dtype=torch.float64)
        part = basis[-2:] @ vector
        coordinates[-2:] = part.double()
        return vector - basis[-2:].T @ part, coordinates

    monkeypatch.setattr(module, "orthogonalize", recurrence)
    found = spectral_density(Matrix(rotated(OUTLIERS).float()), steps=120, num_probes=3)
    assert ghosts(found) > 3


NASTY = {
    "zero": [0.0] * SIZE,
    "identity": [1.0] * SIZE,
    "negative": [-2.0] * SIZE,
    "rank one": [3.0] + [0.0] * (SIZE - 1),
    "two values": [1.0] * 150 + [-4.0] * 50,
    "geometric": torch.logspace(0, -12, SIZE, dtype=torch.float64).tolist(),
    "plus and minus": [s * v for v in torch.linspace(0.1, 7, SIZE // 2).tolist() for s in (1, -1)],
    "huge": [1e8, *BULK[1:].tolist()],
    "small": BULK[:7].tolist(),
    "one": [2.5],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NASTY)
def test_breakdowns(name, dtype):
    """Steps end where the space of a probe does; what is left has weight 0, and the moments stay true."""
    values = torch.tensor(NASTY[name], dtype=torch.float64)
    size, scale = len(values), max(values.abs().max().item(), 1e-30)
    matrix = rotated(values).to(dtype)
    operator = Matrix(matrix)
    found = spectral_density(operator, steps=30, num_probes=3)
    assert found.nodes.shape == found.weights.shape == found.diagonal.shape == found.off_diagonal.shape == (3, 30)
    assert found.num_matvecs == operator.num_matvecs <= 3 * min(30, size)
    assert all(t.isfinite().all() for t in (found.nodes, found.weights, found.grid, found.density))
    assert torch.allclose(found.weights.sum(dim=1), torch.ones(3, dtype=torch.float64), atol=1e-12)
    assert found.nodes.min() >= values.min() - 1e-5 * scale and found.nodes.max() <= values.max() + 1e-5 * scale
    z = probes(size, 3)
    for power in (1, 2, 3):
        exact = (z * (torch.linalg.matrix_power(matrix.double(), power) @ z)).sum(dim=0)
        rounding = 1e-10 if dtype == torch.float64 else 1e-5
        assert torch.allclose(found.moment(power), exact, rtol=0, atol=rounding * scale**power)
    distinct = len(set(NASTY[name]))
    if distinct <= 2 and dtype == torch.float64:
        assert found.num_matvecs == 3 * distinct
        assert (found.weights > 1e-12).sum() == 3 * distinct
        share = (values == values.max()).double().mean().item()
        assert abs(found.count(low=values.max().item() - 0.5).estimate / size - share) < 0.25
    found.logarithmic()


def test_the_density_integrates_to_one_and_holds_the_eigenvalues():
    found = spectral_density(Matrix(rotated(OUTLIERS)), steps=60, num_probes=6)
    assert torch.trapezoid(found.density, found.grid).item() == pytest.approx(1, abs=1e-6)
    assert found.sigma == pytest.approx(sqrt(1e-5) * (found.nodes.max() - found.nodes.min()).item())
    in_bulk = found.grid < 2
    assert torch.trapezoid(found.density[in_bulk], found.grid[in_bulk]).item() == pytest.approx(0.985, abs=0.02)
    curves = torch.stack(
        [
            sum(w * torch.exp(-0.5 * ((found.grid - n) / found.sigma) ** 2) for n, w in zip(*pair, strict=True))
            for pair in zip(found.nodes, found.weights, strict=True)
        ]
    ) / (found.sigma * sqrt(2 * torch.pi))
    assert torch.allclose(found.density, curves.mean(dim=0), atol=1e-12)
    assert torch.allclose(found.standard_error, curves.std(dim=0) / sqrt(6), atol=1e-12)


def test_one_probe_has_no_standard_error():
    assert spectral_density(Matrix(rotated(BULK)), steps=5, num_probes=1).standard_error.isnan().all()


def test_width_and_grid_can_be_chosen():
    grid = torch.linspace(-1, 2, 7)
    found = spectral_density(Matrix(rotated(BULK)), steps=20, num_probes=2, sigma=0.3, grid=grid)
    assert found.sigma == 0.3
    assert torch.equal(found.grid, grid.double()) and found.density.shape == (7,)


@pytest.mark.parametrize("scale", [2.0**-20, 1e-6, 1e3, 1e6])
def test_scaling_the_matrix_scales_the_nodes(scale):
    matrix = rotated(OUTLIERS)
    plain, scaled = (spectral_density(Matrix(m), steps=30, num_probes=2) for m in (matrix, matrix * scale))
    close = {"rtol": 0, "atol": 0 if scale == 2.0**-20 else 1e-9 * scale * 40}
    assert torch.allclose(scaled.nodes, plain.nodes * scale, **close)
    assert torch.allclose(scaled.weights, plain.weights, atol=1e-9)
    assert torch.allclose(scaled.density, plain.density / scale, rtol=1e-6)
    logs, scaled_logs = plain.logarithmic(), scaled.logarithmic()
    assert torch.allclose(scaled_logs.positive, logs.positive, atol=1e-6)
    assert torch.allclose(scaled_logs.magnitude, logs.magnitude * scale, rtol=1e-9)


def test_the_probes_advance_together_and_groups_change_nothing():
    class Widths(Matrix):
        def matmat(self, V):
            widths.append(V.shape[1])
            return super().matmat(V)

    matrix, widths = rotated(OUTLIERS), []
    whole = spectral_density(Widths(matrix), steps=12, num_probes=5)
    assert widths == [5] * 12
    widths.clear()
    grouped = spectral_density(Widths(matrix), steps=12, num_probes=5, max_bytes=2 * 12 * SIZE * 8)
    assert widths == [2] * 24 + [1] * 12
    assert torch.allclose(grouped.nodes, whole.nodes, atol=1e-12)
    assert torch.allclose(grouped.weights, whole.weights, atol=1e-12)


def test_probes_differ_and_depend_on_the_seed_and_their_number_alone():
    matrix = rotated(OUTLIERS)
    first, again, other = (spectral_density(Matrix(matrix), 10, 3, seed) for seed in (0, 0, 1))
    assert torch.equal(first.nodes, again.nodes) and torch.equal(first.weights, again.weights)
    assert not torch.allclose(first.weights, other.weights)
    assert (first.weights[0] - first.weights[1]).abs().max() > 1e-3
    more = spectral_density(Matrix(matrix), 10, 6)
    assert torch.allclose(more.nodes[:3], first.nodes, atol=1e-12)


# --- the logarithmic form --------------------------------------------------------------------------------------


def test_the_logarithmic_form_has_both_halves():
    values = torch.cat([torch.logspace(-2, 1, 150), -torch.logspace(-1, 0, 50)]).double()
    found = spectral_density(Matrix(rotated(values)), steps=100, num_probes=8)
    logs = found.logarithmic()
    decades = logs.magnitude.log10()
    positive, negative = (torch.trapezoid(curve, decades).item() for curve in (logs.positive, logs.negative))
    assert positive + negative + logs.near_zero == pytest.approx(1, abs=0.01)
    assert negative == pytest.approx(0.25, abs=0.05)
    # 50 eigenvalues over each of the three decades, smoothed.
    at = (decades - 0.5).abs().argmin()
    assert logs.positive[at].item() == pytest.approx(0.25, abs=0.1)
    assert logs.negative[at].item() < 0.01
    assert (logs.positive_error >= 0).all()


def test_what_cannot_be_told_from_zero_is_in_neither_half():
    """Most eigenvalues at 1e-6 of the range, of both signs: 20 steps cannot resolve them."""
    values = torch.cat([torch.linspace(-10, 10, 40), 1e-5 * torch.linspace(-1, 1, 160)]).double()
    logs = spectral_density(Matrix(rotated(values)), steps=12, num_probes=4).logarithmic()
    assert logs.near_zero > 0.8
    low, high = logs.near_zero_interval
    assert low < -1e-5 and high > 1e-5
    assert logs.positive.max() < 0.5 and logs.negative.max() < 0.5


@pytest.mark.parametrize(
    ("ratios", "share", "interval"),
    [
        ((0.4, 0.4), 0.0, (0.0, 0.0)),
        ((0.6, 0.4), 0.2, (-3.0, 2.0)),
        ((0.4, 0.6), 0.3, (-1.0, 5.0)),
        ((0.6, 0.9), 0.5, (-3.0, 5.0)),
    ],
)
def test_a_node_whose_residual_is_half_of_it_stands_for_what_lies_up_to_its_neighbours(ratios, share, interval):
    """Of five nodes the two around zero, -1 and 2; the others are far, and their residuals say nothing about zero."""
    nodes = torch.tensor([[-3.0, -1.0, 2.0, 5.0, 9.0]], dtype=torch.float64)
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.3, 0.1]], dtype=torch.float64)
    residuals = torch.tensor([[9.0, ratios[0], 2 * ratios[1], 9.0, 9.0]], dtype=torch.float64)
    plain = spectral_density(Matrix(rotated(BULK)), steps=5, num_probes=1)
    logs = replace(plain, nodes=nodes, weights=weights, residuals=residuals).logarithmic(decades=3, width=0.05)
    below = 9e-3  # the end of the grid counts as near zero too
    assert logs.near_zero == pytest.approx(share)
    assert logs.near_zero_interval == pytest.approx((min(interval[0], -below), max(interval[1], below)))
    decades = logs.magnitude.log10()
    halves = [torch.trapezoid(curve, decades).item() for curve in (logs.negative, logs.positive)]
    assert halves == pytest.approx([0.3 - 0.2 * (ratios[0] > 0.5), 0.7 - 0.3 * (ratios[1] > 0.5)], abs=1e-3)


def test_a_positive_spectrum_has_no_negative_half():
    logs = spectral_density(Matrix(rotated(BULK + 0.6)), steps=60, num_probes=3).logarithmic()
    assert logs.negative.max() < 1e-12
    assert logs.near_zero < 0.02
    assert torch.trapezoid(logs.positive, logs.magnitude.log10()).item() == pytest.approx(1, abs=0.02)


def test_exact_zeros_are_near_zero():
    logs = spectral_density(Matrix(rotated([3.0] * 50 + [0.0] * 150)), steps=10, num_probes=5).logarithmic()
    assert logs.near_zero == pytest.approx(0.75, abs=0.1)
    assert torch.trapezoid(logs.positive, logs.magnitude.log10()).item() == pytest.approx(0.25, abs=0.1)


# --- counting --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "number"),
    [(10, inf, 3), (-inf, -2, 2), (-inf, 2, 197), (25, 35, 1), (-5, -2, 1), (50, inf, 0), (-inf, -50, 0)],
)
def test_counts_in_gaps(low, high, number):
    count = spectral_density(Matrix(rotated(OUTLIERS)), steps=60, num_probes=20).count(low, high, 0.999)
    assert count.interval[0] - 1e-6 <= number <= count.interval[1] + 1e-6
    assert count.interval[0] - 1e-6 <= count.estimate <= count.interval[1] + 1e-6
    assert abs(count.estimate - number) <= 4 * count.standard_error + 1e-6
    assert count.standard_error == pytest.approx(
        SIZE * sqrt(2 * (c := count.estimate / SIZE) * (1 - c) / (20 * (SIZE + 2)))
    )


def test_the_whole_line_holds_every_eigenvalue():
    found = spectral_density(Matrix(rotated(OUTLIERS)), steps=20, num_probes=2)
    assert found.count() == (SIZE, 0.0, (SIZE, SIZE))


@pytest.mark.parametrize("seed", range(6))
def test_a_share_of_more_than_one_by_rounding_is_one(seed):
    """The weights of a quadrature sum to one to within rounding; above one, the standard error had no root."""
    values = torch.cat([-torch.linspace(0.1, 1, SIZE), -9 * torch.ones(1)]).double()
    found = spectral_density(Matrix(rotated(values)), steps=40, num_probes=4, seed=seed)
    for cut in (1e-13, 1e-3, 1.0):
        count = found.count(-inf, cut)
        assert count.estimate == pytest.approx(SIZE + 1, rel=1e-12) and count.estimate <= SIZE + 1
        assert count.standard_error < 1e-4 and count.interval == (SIZE + 1, SIZE + 1)


@pytest.mark.parametrize("cut", [-0.3, 0.0, 0.2, 0.7])
def test_the_bounds_of_the_quadrature_hold_for_each_probe(cut):
    """Chebyshev, Markov, Stieltjes: the true share of each probe lies between them, whatever the steps."""
    matrix = rotated(OUTLIERS)
    values, vectors = torch.linalg.eigh(matrix)
    z = probes(SIZE, 5)
    exact = (vectors.T @ z).square()[values < cut].sum(dim=0)
    widths = []
    for steps in (1, 2, 5, 20, 60, 150):
        least, most = spectral_density(Matrix(matrix), steps, 5)._share_below(cut)
        assert (least <= exact + 1e-9).all() and (exact <= most + 1e-9).all()
        widths.append((most - least).mean().item())
    assert widths[0] > 0.5 > widths[3] > widths[5]
    assert widths[5] < 0.03


def test_a_cut_at_a_node():
    found = spectral_density(Matrix(rotated(BULK)), steps=9, num_probes=1)
    node = found.nodes[0, 4].item()
    least, most = found._share_below(node)
    exact = (probes(SIZE, 1)[:, 0] @ torch.linalg.eigh(rotated(BULK)).eigenvectors).square()[node > BULK].sum()
    assert least - 1e-9 <= exact <= most + 1e-9
    assert (most - least).item() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("low", "high", "number", "is_gap"),
    [(-inf, -2, 2, True), (10, inf, 3, True), (25, 35, 1, True), (-inf, 2, 197, True), (-inf, 0, 64, False)],
)
def test_coverage_of_counts(low, high, number, is_gap):
    """In a gap what is random is the probes alone; inside the bulk the quadrature's own bounds come on top."""
    matrix = rotated(OUTLIERS)
    assert int(((low < OUTLIERS) & (high > OUTLIERS)).sum()) == number
    inside = 0
    for seed in range(1000):
        interval = spectral_density(Matrix(matrix), steps=15, num_probes=5, seed=seed).count(low, high).interval
        inside += interval[0] <= number <= interval[1]
    print(f"\ncoverage of the count between {low} and {high}: {inside / 1000:.3f}")
    assert 926 <= inside <= (971 if is_gap else 1000)


# --- refusals ------------------------------------------------------------------------------------------------


def test_refusals():
    operator = Matrix(rotated(BULK))
    for settings in ({"steps": 0}, {"num_probes": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match="steps and num_probes must be at least 1 and seed at least 0"):
            spectral_density(operator, **settings)
    for sigma in (0.0, -1.0, float("nan"), inf):
        with pytest.raises(ValueError, match="sigma must be positive and finite"):
            spectral_density(operator, sigma=sigma)
    for grid in (torch.ones(2, 2), torch.ones(0), torch.tensor([0.0, float("nan")])):
        with pytest.raises(ValueError, match="grid must hold finite values of lambda"):
            spectral_density(operator, grid=grid)
    with pytest.raises(ValueError, match="the basis of one probe takes 80 x 200 numbers.*lower steps"):
        spectral_density(operator, max_bytes=1000)
    found = spectral_density(operator, steps=5, num_probes=2)
    for low, high in ((1, 1), (2, 1), (float("nan"), 1)):
        with pytest.raises(ValueError, match="expected low < high"):
            found.count(low, high)
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        found.count(confidence=1.0)
    for settings in ({"points": 1}, {"decades": 0.0}, {"width": 0.0}):
        with pytest.raises(ValueError, match="points, decades and width must be positive"):
            found.logarithmic(**settings)
    assert operator.num_matvecs == 10  # of the one that was not refused


def test_a_product_that_is_not_finite_is_an_error():
    with pytest.raises(RuntimeError, match="a Hessian product is not finite; the loss overflows here"):
        spectral_density(Matrix(torch.full((5, 5), inf)), steps=3, num_probes=2)


def test_refusals_of_the_probe():
    for settings, message in (
        ({"steps": 0}, "steps and num_probes must be at least 1"),
        ({"num_probes": 0}, "steps and num_probes must be at least 1"),
        ({"k": -1}, "k and seed must be at least 0"),
        ({"seed": -1}, "k and seed must be at least 0"),
        ({"tol": 0.0}, "tol must lie between 0 and 1"),
        ({"sigma": -1.0}, "sigma must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            SpectralDensity(**settings)
    with pytest.raises(ValueError, match="k must be at most half the number of parameters 3, got 2"):
        SpectralDensity(k=2)(quadratic(rotated([1.0, 2.0, 3.0])))


# --- the probe -----------------------------------------------------------------------------------------------


def test_a_network_has_the_density_and_the_outliers_of_its_dense_hessian():
    model, data = network("attention")
    objective = Objective(model, data, loss=F.cross_entropy)
    answer = SpectralDensity(steps=60, num_probes=5, k=2)(objective)
    exact = torch.linalg.eigvalsh(oracles.dense_hessian(model, data))
    assert np.allclose(answer.eigenvalue.sel(end="largest"), exact.flip(0)[:2], atol=1e-6)
    assert np.allclose(answer.eigenvalue.sel(end="smallest"), exact[:2], atol=1e-6)
    assert answer.converged.all()
    assert answer.attrs["num_eigenvalues"] == objective.size
    assert np.trapezoid(answer.density, answer.curvature) == pytest.approx(1, abs=1e-3)
    negative = int((exact < -answer.tolerance.item()).sum())
    assert answer.num_negative_low <= negative <= answer.num_negative_high
    assert answer.ritz_value.dims == answer.weight.dims == ("probe", "node")
    moment = objective.size * float((answer.weight * answer.ritz_value).sum("node").mean())
    assert moment == pytest.approx(exact.sum().item(), rel=0.5)
    assert answer.loss.item() == pytest.approx(objective.loss().item())


def test_without_outliers_nothing_is_solved():
    answer = SpectralDensity(steps=5, num_probes=2, k=0)(quadratic(rotated(BULK)))
    assert "eigenvalue" not in answer and answer.num_matvecs.item() == 10


def test_a_block_of_parameters():
    model, data = network("BatchNorm")
    answer = SpectralDensity(steps=16, num_probes=2, k=1, parameters="fc.*")(
        Objective(model, data, loss=F.cross_entropy)
    )
    kept = torch.cat([torch.full((p.numel(),), n.startswith("fc.")) for n, p in model.named_parameters()])
    exact = torch.linalg.eigvalsh(oracles.dense_hessian(model, data)[kept][:, kept])
    assert answer.eigenvalue.sel(end="largest").item() == pytest.approx(exact[-1].item())
    assert answer.attrs["num_eigenvalues"] == int(kept.sum())


def test_resumed_is_uninterrupted():
    objective, probe = quadratic(rotated(OUTLIERS)), SpectralDensity(steps=8, num_probes=3, k=2)
    whole, journal = probe(objective), InterruptedJournal(most=11)
    with pytest.raises(KeyboardInterrupt), execution.working(Work(SerialExecutor(), journal)):
        probe(objective)
    journal.most = None
    with execution.working(Work(SerialExecutor(), journal)):
        assert probe(objective).identical(whole)
