"""Searches for critical points and Newton's family, on functions whose critical points are known."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from landscape.critical import find_critical_point, gradient_descent, newton, saddle_free_newton
from landscape.critical.index import certified_below, index_of, smallest
from landscape.critical.krylov import Krylov
from landscape.eigen import eigenpairs
from landscape.execution import SerialExecutor, Work, working
from landscape.objective import Objective
from landscape.operators import Hessian
from landscape.store import Journal
from landscape.verdict import Nearness
from tests import oracles
from tests.problems import autoencoder, inflection, network, quadratic, rotated, rotation, seeded, tanh_toy

METHODS = ("newton-mr", "levenberg")


def mixed(size: int = 30, scale: float = 1.0):
    """Eigenvalues of both signs, none near zero."""
    values = torch.linspace(0.2, 2, size, dtype=torch.float64)
    values[: size // 3] *= -1
    slope = torch.randn(size, generator=seeded(3), dtype=torch.float64)
    return scale * rotated(values), scale * slope


# --- the Krylov space ---------------------------------------------------------------------------------------


def test_the_space_knows_products_and_residuals_without_further_products():
    matrix, gradient = mixed()
    space = Krylov.of(Hessian(quadratic(matrix)), gradient, most=12)
    assert space.num_matvecs == 12
    assert torch.allclose(space.basis @ space.basis.T, torch.eye(12, dtype=torch.float64), atol=1e-13)
    y = torch.randn(12, generator=seeded(1), dtype=torch.float64)
    p = space.expand(y)
    assert space.product_length(y) == pytest.approx((matrix @ p).norm().item(), rel=1e-12)
    assert space.residual(y) == pytest.approx((matrix @ p + gradient).norm().item(), rel=1e-12)
    assert space.product_norm == pytest.approx((matrix @ gradient).norm().item(), rel=1e-12)
    assert torch.allclose(space.symmetric, space.basis @ matrix @ space.basis.T, atol=1e-12)


def test_the_whole_space_gives_the_pseudo_inverse():
    """On a singular matrix the shortest minimiser of ||H p + g||, whether or not the system can be solved."""
    values = torch.tensor([-2.0, -1.0, 0.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    matrix = rotated(values)
    gradient = torch.randn(6, generator=seeded(2), dtype=torch.float64)
    space = Krylov.of(Hessian(quadratic(matrix)), gradient, most=6)
    expected = -torch.linalg.pinv(matrix, rtol=1e-8, hermitian=True) @ gradient
    assert torch.allclose(space.expand(space.minimal_residual(1e-8)), expected, atol=1e-10)
    mu = 0.3
    damped = -torch.linalg.solve(matrix @ matrix + mu * torch.eye(6, dtype=torch.float64), matrix @ gradient)
    assert torch.allclose(space.expand(space.damped(mu)), damped, atol=1e-10)


def test_the_space_ends_where_it_is_invariant_or_good_enough():
    matrix = rotated([1.0, 1.0, 1.0, 5.0, 5.0, -2.0])
    space = Krylov.of(Hessian(quadratic(matrix)), torch.ones(6, dtype=torch.float64), most=6)
    assert space.num_matvecs == 3  # three distinct eigenvalues
    assert space.residual(space.minimal_residual(1e-8)) < 1e-12
    matrix, gradient = mixed()
    early = Krylov.of(Hessian(quadratic(matrix)), gradient, most=30, residual=0.5)
    assert early.num_matvecs < 30
    assert early.residual(early.minimal_residual(1e-8)) <= 0.5 * gradient.norm()


def test_the_basis_stays_orthogonal_where_one_pass_would_not_do():
    values = 10.0 ** -torch.linspace(0, 12, 60, dtype=torch.float64)
    space = Krylov.of(Hessian(quadratic(rotated(values))), torch.ones(60, dtype=torch.float64), most=60)
    m = space.num_matvecs
    assert torch.allclose(space.basis @ space.basis.T, torch.eye(m, dtype=torch.float64), rtol=0, atol=1e-13)


def test_a_product_that_is_not_finite_is_refused():
    objective = quadratic(1e300 * rotated([1.0, 2.0]), start=torch.full((2,), 1e-3, dtype=torch.float64))
    hessian = Hessian(objective)
    hessian.matmat = lambda V: V * math.inf
    with pytest.raises(RuntimeError, match="a Hessian product is not finite"):
        Krylov.of(hessian, torch.ones(2, dtype=torch.float64), 2)


# --- where the search ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_quadratic_is_solved_whatever_its_signs_and_units(method, scale):
    matrix, slope = mixed(scale=scale)
    found = find_critical_point(quadratic(matrix, slope=slope), method=method)
    assert torch.allclose(found.theta, -torch.linalg.solve(matrix, slope), rtol=0, atol=1e-7)
    assert (found.outcome, found.converged, found.gradient_flat) == ("critical", True, False)
    assert found.gradient_norms[-1] < 1e-7 * found.gradient_norms[0]
    assert (found.gradient_norms.diff() < 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("unit", [2.0**-20, 2.0**20])
def test_scale_covariance_step_by_step(method, unit):
    """A loss in other units takes the same path; Levenberg's damping is in units of ||H||^2."""
    matrix, slope = mixed(8)
    one = find_critical_point(quadratic(matrix, slope=slope), method=method, keep_path=True)
    other = find_critical_point(quadratic(unit * matrix, slope=unit * slope), method=method, keep_path=True)
    assert len(one.path) > (2 if method == "levenberg" else 1)
    assert torch.allclose(one.path, other.path, rtol=0, atol=1e-12)
    assert other.gradient_flatness == pytest.approx(one.gradient_flatness, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("slope", "start"), [(0.1, (0.7, 0.4)), (0.5, (2.0, -1.0)), (1e-3, (0.7, 0.4))])
def test_the_least_gradient_of_an_inflection_is_flat_and_not_critical(method, slope, start):
    """The loss x^3/3 + slope x + y^2/2 has no critical point, and the least gradient, slope, at zero."""
    found = find_critical_point(inflection(slope, start), method=method)
    assert (found.outcome, found.converged, found.gradient_flat) == ("gradient-flat", False, True)
    assert found.theta.abs().max() < 0.03
    assert found.gradient_norms[-1] == pytest.approx(slope, rel=0.01)
    assert found.gradient_flatness < 1e-2


@pytest.mark.parametrize("method", METHODS)
def test_the_same_cubic_with_critical_points_has_them_found(method):
    """Negative control: with slope -0.1 the gradient vanishes at x = +-sqrt(0.1)."""
    found = find_critical_point(inflection(-0.1), method=method)
    assert found.outcome == "critical" and not found.gradient_flat
    assert found.theta.abs().tolist() == pytest.approx([0.1**0.5, 0], abs=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_searches_are_drawn_to_the_saddle_of_the_toy(method):
    found = find_critical_point(tanh_toy(), method=method)
    assert found.converged
    assert found.theta.norm() < 1e-7
    assert found.loss == pytest.approx(0.25)


@pytest.mark.parametrize("seed", range(4))
def test_a_linear_autoencoder_ends_at_one_of_its_known_losses(seed):
    """Every critical point holds some of the principal components, and its loss is half the variance left out."""
    variances = [4.0, 3.0, 2.0, 1.0]
    objective = autoencoder(variances, 3, (0,))
    ray = torch.randn(objective.size, generator=seeded(seed), dtype=torch.float64)
    found = find_critical_point(objective, objective.theta + 0.15 * ray)
    assert found.converged
    known = [sum(left) / 2 for number in (1, 2, 3, 4) for left in itertools.combinations(variances, number)]
    assert min(abs(found.loss - value) for value in known) < 1e-10


def test_a_critical_point_at_the_origin_is_near_in_lengths_of_the_start():
    """Its own length is zero, so that nothing would ever be near it."""
    found = find_critical_point(quadratic(mixed(8)[0]))
    assert (found.outcome, len(found.losses), found.distance) == ("critical", 4, 0.0)


def test_a_gradient_in_the_kernel_from_the_start_is_seen_although_no_product_shows_it():
    matrix = torch.diag(torch.tensor([0.0, 5.0], dtype=torch.float64))
    slope, start = (torch.tensor(v, dtype=torch.float64) for v in ([1.0, 0.0], [3.0, 0.0]))
    found = find_critical_point(quadratic(matrix, slope=slope, start=start))
    assert (found.outcome, found.gradient_flat, found.distance) == ("gradient-flat", True, math.inf)
    assert (found.scale, found.gradient_flatness) == (pytest.approx(5), 0)


def test_what_is_nearly_there_is_polished():
    found = find_critical_point(tanh_toy(), tol=0.1)
    assert found.gradient_norms[-1] < 1e-12


def test_a_plateau_is_not_a_critical_point():
    """Where gradient and curvature die away together the gradient norm says nothing; the distance does."""
    found = find_critical_point(tanh_toy(), torch.tensor([8.0, 8.0], dtype=torch.float64), max_iterations=5)
    assert found.gradient_norms[0] < 1e-6  # claim: the gradient vanishes on the plateau
    assert not found.converged
    assert found.distance > 1e-3


def test_a_point_that_is_critical_stays_and_costs_little():
    objective = autoencoder([4.0, 3.0, 2.0, 1.0], 2, (0, 1))
    found = find_critical_point(objective)
    assert torch.equal(found.theta, objective.theta)
    assert len(found.losses) == 1 and found.converged and math.isnan(found.gradient_flatness)
    assert found.num_gradients == 1


def test_products_and_gradients_are_counted():
    objective = quadratic(*[mixed()[0]], slope=mixed()[1])
    before = objective.num_passes
    found = find_critical_point(objective, keep_path=True)
    # One pass a product, and one for the loss beside each gradient.
    dense = 2 * (math.ceil(30 / 64) - 30)  # both estimates of ||H|| write out the matrix in one pass
    assert objective.num_passes - before == found.num_matvecs + dense + 2 * found.num_gradients
    assert found.path.shape == (len(found.losses), 30)
    assert torch.equal(found.path[-1], found.theta)
    for theta, loss, norm in zip(found.path, found.losses, found.gradient_norms, strict=True):
        assert loss == objective.loss(theta)
        assert norm == objective.gradient(theta).norm()
    assert find_critical_point(objective).path is None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("problem", "outcome"),
    [
        (lambda: quadratic(mixed()[0], slope=mixed()[1]), "critical"),
        (tanh_toy, "critical"),
        (inflection, "gradient-flat"),
        (lambda: Objective(*network("perceptron"), loss=F.cross_entropy), "out of iterations"),
    ],
)
def test_no_krylov_space_is_built_twice(method, problem, outcome, monkeypatch):
    """The last one tells how near a critical point is; a hundred products were spent on it again."""
    seen, build = [], Krylov.of.__func__

    def watched(cls, operator, gradient, *settings):
        seen.append(gradient)
        return build(cls, operator, gradient, *settings)

    monkeypatch.setattr(Krylov, "of", classmethod(watched))
    objective = problem()
    found = find_critical_point(objective, method=method, max_iterations=20)
    assert found.outcome == outcome
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(seen, 2))
    if found.gradient_norms[-1] > 0:
        assert torch.equal(seen[-1], objective.gradient(found.theta))
        product = Hessian(objective, found.theta).matvec(seen[-1]).norm().item()
        assert found.gradient_flatness == pytest.approx(product / found.scale / seen[-1].norm().item(), rel=1e-6)


def test_the_same_seed_gives_the_same_bits():
    model, data = network("perceptron")
    objective = Objective(model, data, loss=F.cross_entropy)
    first, second = (find_critical_point(objective, max_iterations=5) for _ in range(2))
    assert torch.equal(first.theta, second.theta)
    assert first.num_matvecs == second.num_matvecs
    assert find_critical_point(objective, max_iterations=5).outcome == "out of iterations"
    assert len(first.losses) == 6


def test_a_search_that_was_killed_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    matrix, slope = mixed(120)  # above what is written out
    whole = find_critical_point(quadratic(matrix, slope=slope), max_basis=10, max_iterations=8)
    calls, multiply = [], Hessian.matmat

    def failing(self, V):
        calls.append(1)
        if len(calls) == 60:
            raise InterruptedError("the machine went away")
        return multiply(self, V)

    monkeypatch.setattr(Hessian, "matmat", failing)
    for _ in range(2):
        try:
            with working(Work(SerialExecutor(), Journal(tmp_path / "search.journal"))):
                resumed = find_critical_point(quadratic(matrix, slope=slope), max_basis=10, max_iterations=8)
        except InterruptedError:
            assert len(calls) == 60
    assert torch.equal(resumed.theta, whole.theta)
    assert torch.equal(resumed.gradient_norms, whole.gradient_norms)
    assert len(calls) <= whole.num_matvecs + 1  # nothing was computed twice but the product that was lost


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "adam"}, "method must be one of newton-mr, levenberg, got 'adam'"),
        ({"tol": 0.0}, "tol must lie between 0 and 1, got 0.0"),
        ({"tol": math.nan}, "tol must lie between 0 and 1, got nan"),
        ({"max_iterations": 0}, "max_iterations and max_basis must be at least 1, got 0 and 100"),
        ({"max_basis": 0}, "max_iterations and max_basis must be at least 1, got 100 and 0"),
        ({"theta": torch.full((2,), math.nan)}, "the loss at the start is nan"),
    ],
)
def test_searches_refuse(options, message):
    with pytest.raises(ValueError, match=message):
        find_critical_point(tanh_toy(), **options)


# --- how near a critical point is ---------------------------------------------------------------------------


def test_the_distance_is_a_lower_bound_on_quadratics():
    for seed in range(20):
        matrix = rotated(torch.randn(6, generator=seeded(seed), dtype=torch.float64), seed)
        step = torch.randn(6, generator=seeded(seed + 100), dtype=torch.float64)
        gradient = matrix @ step
        product = (matrix @ gradient).norm().item()
        near = Nearness.of(gradient.norm().item(), product, 1.0, 1.0, 1e-16)
        assert near.distance <= step.norm().item() * (1 + 1e-12)
    assert Nearness.of(3.0, 6.0, 2.0, 0.5, 1e-16).distance == 3.0 * 3.0 / 6.0 / 0.5
    assert Nearness.of(3.0, 6.0, 2.0, 0.5, 1e-16).flatness == 1.0


def test_nearness_knows_zero_and_nothing():
    assert Nearness.of(0.0, 0.0, 1.0, 1.0, 1e-16).distance == 0
    assert Nearness.of(1e-17, 0.0, 1.0, 1.0, 1e-16).distance == 0  # cannot be told from zero
    assert Nearness.of(1.0, 0.0, 1.0, 1.0, 1e-16).distance == math.inf
    assert Nearness.of(1.0, 0.0, 1.0, 1.0, 1e-16).is_flat
    assert Nearness.of(1.0, 0.0, 0.0, 1.0, 1e-16).is_flat  # a slope without any curvature
    assert not Nearness.of(0.0, 0.0, 0.0, 1.0, 1e-16).is_flat
    assert Nearness.of(1.0, 1.0, 1.0, 0.0, 1e-16).distance == math.inf


# --- the index ----------------------------------------------------------------------------------------------


def test_certified_counts_never_exceed_the_truth():
    """Random subspaces hold Ritz pairs with large residuals: what they certify is there."""
    values = torch.cat([-torch.rand(10, generator=seeded(0)), torch.rand(30, generator=seeded(1))]).double()
    matrix = rotated(values)
    truth = int((values < -0.2).sum())
    seen = set()
    for seed in range(30):
        power = torch.linalg.matrix_power(torch.eye(40, dtype=torch.float64) - matrix, 1 + seed)
        V = torch.linalg.qr(power @ torch.randn(40, 8, generator=seeded(seed), dtype=torch.float64)).Q
        small, y = torch.linalg.eigh(V.T @ matrix @ V)
        vectors = V @ y
        residuals = (matrix @ vectors - vectors * small).norm(dim=0)
        seen.add(certified_below(small, residuals, -0.2))
        assert max(seen) <= truth
    assert len(seen) > 2 and max(seen) >= 5


def test_vectors_that_are_no_ritz_vectors_certify_by_their_residuals():
    """[[-0.5, 0.6], [0.6, -0.5]] has the eigenvalues -1.1 and 0.1, though both axes have the curvature -0.5."""
    values, residuals = torch.tensor([-0.5, -0.5]), torch.tensor([0.6, 0.6])
    assert certified_below(values, residuals, -0.2) == 0
    assert certified_below(values, residuals / 100, -0.2) == 2


def test_residuals_add_up_in_what_is_certified():
    """Three axes of curvature -1, coupled by 1/2 to each other: -3/2 twice and 0, though each axis alone is sure."""
    matrix = torch.full((3, 3), 0.5, dtype=torch.float64) - 1.5 * torch.eye(3)
    values = matrix.diagonal()
    residuals = (matrix - values.diag()).norm(dim=0)
    assert (values + residuals < -0.2).all()
    assert int((torch.linalg.eigvalsh(matrix) < -0.2).sum()) == 2
    assert certified_below(values, residuals, -0.2) == 1


class Fixed:
    def __init__(self, *count):
        self.answer = count

    def count(self, low, high):
        assert low == -math.inf and high < 0
        return self.answer


@pytest.mark.parametrize(
    ("density", "expected"),
    [
        ((7.0, 1.0, (5.0, 9.0)), (4, 7.0, (5.0, 9.0))),
        ((1.0, 1.0, (-1.0, 3.0)), (4, 4, (4, 4))),  # four are certified, whatever the density says
        ((90.0, 50.0, (10.0, 170.0)), (4, 90.0, (10.0, 120))),
    ],
)
def test_the_density_counts_what_the_ends_do_not_reach(density, expected):
    values = torch.linspace(-3, 5, 120, dtype=torch.float64)
    hessian = Hessian(quadratic(rotated(values)))
    known = smallest(eigenpairs(hessian, 8, "both", tol=1e-6), 4)
    assert index_of(known, 120, 1e-3) is None
    found = index_of(known, 120, 1e-3, Fixed(*density))
    assert (found.certified, found.estimate, found.interval) == expected
    assert found.counted_by == "density"


def test_the_ends_count_where_they_reach_beyond_zero():
    values = torch.cat([torch.tensor([-3.0, -2.0]), torch.linspace(0.5, 5, 118)]).double()
    hessian = Hessian(quadratic(rotated(values)))
    known = smallest(eigenpairs(hessian, 8, "both", tol=1e-6), 4)
    found = index_of(known, 120, 1e-3)
    assert (found.certified, found.estimate, found.interval, found.counted_by) == (2, 2, (2, 2), "ends")
    unsure = replace(known, none_below=-0.1)  # another one may lie between -0.1 and -tau
    assert index_of(unsure, 120, 1e-3) is None
    early = smallest(eigenpairs(hessian, 8, "both", tol=1e-9, max_matvecs=9), 4)
    assert not early.converged.all()
    assert index_of(early, 120, 1e-3) is None


# --- Newton's family ----------------------------------------------------------------------------------------


def test_one_step_of_each_on_a_quadratic():
    matrix, slope = mixed(6)
    objective = quadratic(matrix, slope=slope)
    gradient = objective.gradient()
    values, Q = torch.linalg.eigh(matrix)
    mu = 0.07 * values.abs().max()
    for method, divisor in ((newton, values + mu), (saddle_free_newton, values.abs() + mu)):
        path = method(objective, damping=0.07, steps=1)
        expected = objective.theta - Q @ ((Q.T @ gradient) / divisor)
        assert torch.allclose(path.theta, expected, atol=1e-12)
    assert torch.allclose(gradient_descent(objective, rate=0.1, steps=1).theta, objective.theta - 0.1 * gradient)
    undamped = newton(objective, damping=0.0)
    assert undamped.converged and len(undamped.losses) == 2
    assert undamped.losses[1] == pytest.approx(objective.loss(-torch.linalg.solve(matrix, slope)).item(), rel=1e-12)
    assert saddle_free_newton(objective, damping=0.0, steps=3).losses.diff().max() < 0  # off the saddle, for ever


def test_a_subspace_of_all_dimensions_is_the_whole_space():
    matrix, slope = mixed(12)
    objective = quadratic(matrix, slope=slope)
    for method in (newton, saddle_free_newton):
        dense, krylov = (method(objective, damping=0.1, steps=2, subspace=n) for n in (None, 12))
        assert torch.allclose(dense.thetas, krylov.thetas, atol=1e-9)


def test_a_large_problem_steps_in_a_subspace():
    matrix, slope = mixed(501)
    objective = quadratic(matrix, slope=slope)
    before = objective.num_passes
    path = saddle_free_newton(objective, damping=0.1, steps=1)
    assert path.losses[1] < path.losses[0]
    assert objective.num_passes - before == 100 + 4


def test_of_several_dampings_the_best_is_taken():
    objective = tanh_toy()
    several = newton(objective, damping=(0.0, 1.5, 10.0), steps=1)
    each = [newton(objective, damping=damping, steps=1).losses[-1] for damping in (0.0, 1.5, 10.0)]
    assert several.losses[-1] == min(each)
    assert len({value.item() for value in each}) == 3


def test_newton_is_drawn_to_the_saddle_and_saddle_free_newton_is_not():
    """The tanh toy from 40 of the 400 starts of the claim; tests/models/test_toys.py counts all."""
    shares = toy_shares(40)
    assert shares["newton"]["saddle"] >= 0.9
    assert shares["saddle-free newton"]["minimum"] >= 0.9
    assert shares["saddle-free newton"]["saddle"] == 0


def toy_shares(number: int) -> dict[str, dict[str, float]]:
    """Where each method ends, from N(0, 0.3^2): at the saddle in zero, or in a valley of loss zero."""
    objective = tanh_toy()
    starts = 0.3 * torch.randn(number, 2, generator=seeded(0), dtype=torch.float64)
    methods = {"newton": newton, "saddle-free newton": saddle_free_newton}
    shares = {}
    for name, method in methods.items():
        paths = [method(objective, start) for start in starts]
        shares[name] = {
            "saddle": sum((path.theta.norm() < 1e-3).item() for path in paths) / number,
            "minimum": sum((path.losses[-1] < 1e-6).item() for path in paths) / number,
        }
    return shares


def test_the_toy_is_what_the_lecture_draws():
    objective = tanh_toy()
    hessian = Hessian(objective, torch.zeros(2)).dense()
    assert hessian.flatten().tolist() == pytest.approx([0, -0.5, -0.5, 0])
    assert objective.loss(torch.zeros(2)).item() == 0.25
    w1, w2 = 1.3, -0.4
    expected = (0.5 - math.tanh(w1 * math.tanh(w2 * 0.5))) ** 2
    assert objective.loss(torch.tensor([w1, w2])).item() == pytest.approx(expected)
    assert objective.gradient(torch.tensor([20.0, 20.0])).norm() < 1e-6


def test_scale_covariance_of_newtons_family():
    matrix, slope = mixed(6)
    for method in (newton, saddle_free_newton):
        paths = [method(quadratic(c * matrix, slope=c * slope), steps=3, damping=0.2) for c in (1e-6, 1.0, 1e6)]
        assert torch.allclose(paths[0].thetas, paths[1].thetas, rtol=1e-9)
        assert torch.allclose(paths[2].thetas, paths[1].thetas, rtol=1e-9)


def test_a_network_goes_down_by_saddle_free_newton():
    model, data = network("perceptron")
    objective = Objective(model, data, loss=F.cross_entropy)
    path = saddle_free_newton(objective, damping=(1.0, 0.1, 0.01), steps=10)
    assert path.losses[-1] < 0.5 * path.losses[0]
    assert path.gradient_norms[0].item() == pytest.approx(oracles.gradient(model, data).norm().item())


def test_a_path_that_leaves_the_finite_numbers_ends():
    objective = quadratic(rotated([1.0, 2.0]))
    path = gradient_descent(objective, rate=1e200, steps=10)
    assert not path.converged and len(path.losses) < 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o: newton(o, damping=-1.0), "damping must be at least 0 and finite, got -1.0"),
        (lambda o: newton(o, damping=()), "damping must be at least 0"),
        (lambda o: newton(o, subspace=0), "subspace must be at least 1, got 0"),
        (lambda o: newton(o, steps=0), "steps must be at least 1 and tol at least 0 and below 1, got 0"),
        (lambda o: newton(o, tol=1.0), "tol at least 0 and below 1"),
        (lambda o: gradient_descent(o, rate=0.0), "rate must be positive, got 0.0"),
        (lambda o: newton(o, torch.full((2,), math.nan)), "the loss at the start is nan"),
    ],
)
def test_newtons_family_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call(tanh_toy())


def test_rotations_do_not_matter():
    """Newton-MR only meets inner products: a rotated problem has the rotated path."""
    matrix, slope = mixed(8)
    Q = rotation(8, seed=5)
    start = torch.randn(8, generator=seeded(9), dtype=torch.float64)
    one = find_critical_point(quadratic(matrix, slope=slope), start)
    other = find_critical_point(quadratic(Q @ matrix @ Q.T, slope=Q @ slope), Q @ start)
    assert torch.allclose(Q @ one.theta, other.theta, atol=1e-9)
