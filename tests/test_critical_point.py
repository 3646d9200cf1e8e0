"""The probe CriticalPoint: verdict, index with its interval, and the loss along the way out."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape import Hessian, Objective, Store, ask, eigenpairs
from landscape.execution import SerialExecutor, Work
from landscape.measure import answer_name, answered, probe_fields
from landscape.probes import CriticalPoint
from landscape.summary import summarize
from tests import oracles
from tests.problems import (
    autoencoder,
    built,
    inflection,
    network,
    only_output,
    perceptron,
    quadratic,
    rotated,
    seeded,
    tanh_toy,
    vectors,
)

VARIANCES = [4.0, 3.0, 2.0, 1.0]


def minimum_of(values, scale: float = 1.0, **options):
    """A quadratic with these curvatures, standing on its critical point away from zero."""
    matrix = scale * rotated(values)
    point = torch.randn(len(values), generator=seeded(4), dtype=torch.float64)
    return quadratic(matrix, slope=-matrix @ point, start=point, constant=7.0 * scale, **options)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(
    ("values", "verdict", "index"),
    [
        ([5.0, 3.0, 1.0, 0.5], "minimum", 0),
        ([5.0, 3.0, -1.0, -0.5], "saddle", 2),
        ([5.0, 0.0, -1.0, -0.5], "saddle", 2),
        ([-5.0, -3.0, -1.0, -0.5], "maximum", 4),
        ([5.0, 3.0, 1.0, 0.0], "undecided", 0),
        ([5.0, 3.0, 1.0, -1e-15], "undecided", 0),
    ],
)
def test_quadratics_of_known_index_in_any_unit(values, verdict, index, scale):
    answer = CriticalPoint(k=2)(minimum_of(values, scale))
    assert answer.attrs["verdict"] == verdict, answer.attrs["verdict_reason"]
    assert answer.negative_count == answer.negative_count_lower == answer.negative_count_upper == index
    assert answer.negative_count_certified == index
    assert answer.index_fraction == answer.index_fraction_lower == answer.index_fraction_upper == index / 4
    assert answer.attrs["counted_by"] == "every eigenvalue"
    assert answer.tolerance.item() == pytest.approx(100 * torch.finfo(torch.float64).eps * 5 * scale)
    assert answer.critical_distance.item() == 0
    assert answer.attrs["point"] == "checkpoint"
    assert np.isnan(answer.predicted_decrease.item()) == (index == 0)


@pytest.mark.parametrize("chosen", [(), (0,), (1,), (2,), (3,), (0, 1), (0, 2), (1, 3), (2, 3), (0, 1, 2), (1, 2, 3)])
def test_a_linear_autoencoder_has_its_known_index_and_loss(chosen):
    """Baldi and Hornik: every unused unit may take up every component left out, every used one a larger component."""
    hidden, left = 3, [k for k in range(4) if k not in chosen]
    index = (hidden - len(chosen)) * len(left) + sum(VARIANCES[k] > VARIANCES[i] for i in chosen for k in left)
    answer = CriticalPoint(k=2)(autoencoder(VARIANCES, hidden, chosen))
    assert answer.negative_count == answer.negative_count_certified == index
    assert answer.index_fraction.item() == index / 24
    assert answer.center_loss.item() == pytest.approx(sum(VARIANCES[k] for k in left) / 2)
    assert answer.attrs["verdict"] == ("saddle" if index else "undecided")  # minima lie in a valley of equal loss
    assert answer.gradient_norm.item() == 0 and math.isnan(answer.gradient_flatness.item())
    if index:
        assert answer.best_decrease.item() > 0.2 * answer.predicted_decrease.item() > 0


def test_away_from_critical_points_it_says_so_and_how_far():
    answer = CriticalPoint(k=1)(tanh_toy())
    assert answer.attrs["verdict"] == "not a critical point"
    assert "the gradient does not vanish" in answer.attrs["verdict_reason"]
    objective = tanh_toy()
    g, H = objective.gradient(), Hessian(objective).dense()
    distance = g.norm() ** 2 / (H @ g).norm() / objective.theta.norm()
    assert answer.critical_distance.item() == pytest.approx(distance.item())
    assert answer.gradient_flatness.item() == pytest.approx(
        ((H @ g).norm() / g.norm() / torch.linalg.matrix_norm(H, 2)).item()
    )
    assert answer.gradient_norm.item() == pytest.approx(g.norm().item())


@pytest.mark.parametrize(("slope", "tol"), [(0.1, 1e-6), (1e-9, 1e-3)])
def test_a_gradient_in_the_kernel_is_flat_however_small_it_is(slope, tol):
    answer = CriticalPoint(k=1, gradient_tol=tol)(inflection(slope, (0.0, 0.0)))
    assert answer.attrs["verdict"] == "not a critical point"
    assert answer.attrs["verdict_reason"].startswith("gradient-flat: ||g||")
    assert answer.critical_distance.item() == math.inf
    assert answer.gradient_flatness.item() == 0


def test_the_tolerance_for_the_gradient_is_a_distance():
    """From a point at 1e-3 of its length from the minimum."""
    matrix = rotated([5.0, 3.0, 1.0, 0.5])
    point = torch.ones(4, dtype=torch.float64)
    start = point * (1 + 1e-3)
    for tol, verdict in ((1e-2, "minimum"), (1e-4, "not a critical point")):
        answer = CriticalPoint(k=1, gradient_tol=tol)(quadratic(matrix, slope=-matrix @ point, start=start))
        assert answer.attrs["verdict"] == verdict
        assert 1e-4 < answer.critical_distance.item() < 1e-3
    # Curvature as small as the distance leaves open counts as zero.
    near = CriticalPoint(k=1, gradient_tol=1e-2)(quadratic(matrix, slope=-matrix @ point, start=start))
    assert near.tolerance.item() == pytest.approx(near.critical_distance.item() * 5)


def test_a_threshold_leaves_out_small_curvature():
    objective = minimum_of([5.0, 3.0, -0.01, -1.0])
    assert CriticalPoint(k=1)(objective).negative_count == 2
    answer = CriticalPoint(k=1, threshold=0.01)(objective)
    assert (answer.negative_count.item(), answer.tolerance.item()) == (1, pytest.approx(0.05))
    assert CriticalPoint(k=1, threshold=0.5)(objective).attrs["verdict"] == "undecided"


# --- the way out --------------------------------------------------------------------------------------------


def test_the_slice_of_a_quadratic_is_its_own_model():
    objective = minimum_of([5.0, 3.0, 1.0, -2.0])
    answer = CriticalPoint(k=1, resolution=11)(objective)
    assert np.allclose(answer.loss, answer.quadratic_loss, rtol=1e-12)
    direction = torch.from_numpy(answer.escape_direction.values)
    exact = eigenpairs(Hessian(objective), 4).vectors[:, -1]
    assert abs(direction @ exact) == pytest.approx(direction.norm().item(), rel=1e-12)
    loss = objective.loss().item()
    assert direction.norm().item() == pytest.approx(math.sqrt(2 * abs(loss) / 2))
    assert answer.predicted_decrease.item() == pytest.approx(abs(loss))
    assert answer.measured_decrease.item() == pytest.approx(abs(loss))
    assert answer.alpha.values.tolist() == pytest.approx(np.linspace(-1, 1, 11).tolist())
    assert answer.loss.values[5] == answer.center_loss.item() == loss
    assert answer.loss.values[-1] == pytest.approx(objective.loss(objective.theta + direction).item())


def test_predicted_and_measured_decrease_are_at_the_same_place():
    """Off a minimum the line passes it on the way: the best is there, and at its end the loss has risen."""
    matrix = rotated([5.0, 3.0, 1.0, 0.5])
    point = torch.ones(4, dtype=torch.float64)
    rising = CriticalPoint(k=1, gradient_tol=0.5)(quadratic(matrix, slope=-matrix @ point, start=1.1 * point))
    center = rising.center_loss.item()
    assert rising.measured_decrease.item() == pytest.approx(center - rising.loss.values[-1])
    assert rising.best_decrease.item() == pytest.approx(center - rising.loss.values.min())
    assert rising.measured_decrease.item() < 0 <= rising.best_decrease.item()
    assert math.isnan(rising.predicted_decrease.item())
    saddle = CriticalPoint(k=1)(objective := autoencoder(VARIANCES, 3, (1, 2, 3)))
    assert saddle.measured_decrease.item() == pytest.approx(
        (objective.loss() - objective.loss(objective.theta + torch.from_numpy(saddle.escape_direction.values))).item()
    )
    assert saddle.predicted_decrease.item() == pytest.approx(
        saddle.center_loss.item() - saddle.quadratic_loss.values[-1].item()
    )
    assert saddle.best_decrease.item() > 0.4 > 0 > saddle.measured_decrease.item()  # alpha = 1 lies beyond the valley


class Needle(nn.Module):
    """Finite at its start alone."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, inputs):
        return torch.where((self.w == 1).all(), (self.w**2).sum(), torch.inf) + 0 * inputs.sum()


@pytest.mark.parametrize(("resolution", "best"), [(4, math.nan), (3, 0.0)])
def test_where_no_loss_is_finite_nothing_was_measured(resolution, best):
    """Three points pass the centre, four do not."""
    data = (torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3))
    objective = Objective(Needle(), data, loss=only_output)
    answer = CriticalPoint(k=1, resolution=resolution)(objective)
    assert math.isnan(answer.measured_decrease.item())
    assert answer.best_decrease.item() == pytest.approx(best, nan_ok=True)


def test_the_loss_falls_at_first_where_alpha_is_positive():
    for sign in (1.0, -1.0):
        slope = sign * torch.tensor([0.0, 0.3], dtype=torch.float64)
        matrix = torch.diag(torch.tensor([1.0, -0.5], dtype=torch.float64))
        objective = quadratic(matrix, slope=slope, start=torch.zeros(2, dtype=torch.float64), constant=1.0)
        answer = CriticalPoint(k=1)(objective)
        assert answer.escape_direction.values[1] * sign < 0
        assert answer.loss.values[-1] < answer.loss.values[0]
        assert np.allclose(answer.loss, answer.quadratic_loss)


def test_flat_curvature_does_not_send_the_slice_to_infinity():
    answer = CriticalPoint(k=1)(minimum_of([5.0, 3.0, 1.0, 0.0]))
    loss = answer.center_loss.item()
    assert np.linalg.norm(answer.escape_direction) == pytest.approx(math.sqrt(2 * abs(loss) / 5e-3))
    zero = quadratic(torch.zeros(2, 2, dtype=torch.float64), start=torch.tensor([3.0, 4.0], dtype=torch.float64))
    answer = CriticalPoint(k=1)(zero)
    assert answer.attrs["verdict"] == "undecided"
    assert np.linalg.norm(answer.escape_direction) == pytest.approx(5)


# --- networks -----------------------------------------------------------------------------------------------


def test_a_network_is_counted_as_its_dense_hessian_says():
    model, data = network("perceptron")
    objective = Objective(model, data, loss=F.cross_entropy)
    answer = CriticalPoint(k=3)(objective)
    exact = torch.linalg.eigvalsh(oracles.dense_hessian(model, data))
    assert answer.negative_count.item() == int((exact < -answer.tolerance.item()).sum()) > 5
    assert np.allclose(answer.eigenvalue.sel(end="smallest"), exact[:3], atol=1e-10)
    assert np.allclose(answer.eigenvalue.sel(end="largest"), exact.flip(0)[:3], atol=1e-10)
    assert answer.attrs["verdict"] == "not a critical point"
    assert {"accuracy", "center_accuracy"} <= set(answer)
    assert answer.num_matvecs == objective.size + 1


def test_a_large_problem_is_counted_by_its_ends_or_its_density():
    """600 eigenvalues, 200 of them negative; what the smallest ones do not reach is left to the density."""
    values = torch.cat([-torch.linspace(0.5, 1, 200), torch.linspace(0.5, 3, 400)]).double()
    answer = CriticalPoint(k=4, density_steps=40, density_probes=4)(minimum_of(values))
    assert answer.attrs["counted_by"] == "density"
    assert answer.negative_count_lower.item() <= 200 <= answer.negative_count_upper.item()
    assert 100 < answer.negative_count_lower.item() < answer.negative_count_upper.item() < 300
    assert answer.negative_count_certified.item() == 4
    assert answer.attrs["verdict"] == "saddle"
    assert answer.num_matvecs.item() > 160
    few = torch.cat([torch.tensor([-2.0, -1.0]), torch.linspace(0.5, 3, 598)]).double()
    answer = CriticalPoint(k=4)(minimum_of(few))
    assert answer.attrs["counted_by"] == "ends"
    assert (answer.negative_count.item(), answer.negative_count_certified.item()) == (2, 2)
    whole = CriticalPoint(k=4, dense_below=600)(minimum_of(values))
    assert (whole.negative_count.item(), whole.attrs["counted_by"]) == (200, "every eigenvalue")


def test_a_minimum_is_said_only_where_no_negative_curvature_can_have_been_missed():
    """Of 200 positive curvatures: all of them computed, far from zero, or near zero beside what a look tells apart."""
    near, far = (torch.linspace(low, 9, 200, dtype=torch.float64) for low in (0.1, 4.0))
    whole = CriticalPoint(k=2, resolution=3)(minimum_of(near))
    assert (whole.attrs["verdict"], whole.none_below.item()) == ("minimum", math.inf)
    apart = CriticalPoint(k=2, dense_below=0, resolution=3)(minimum_of(far))
    assert apart.attrs["verdict"] == "minimum" and 0 < apart.none_below.item() < 4
    unsure = CriticalPoint(k=2, dense_below=0, resolution=3)(minimum_of(near))
    assert unsure.attrs["verdict"] == "undecided" and -1 < unsure.none_below.item() < 0
    assert f"none lies below {unsure.none_below.item():.3g} with probability 99%" in unsure.attrs["verdict_reason"]
    assert unsure.negative_count_certified.item() == 0


def test_kinks_are_said():
    relu = Objective(
        built(lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))), vectors(), F.cross_entropy
    )
    assert CriticalPoint(k=1)(relu).attrs["smoothness"].startswith("ReLU: not twice differentiable")
    smooth = Objective(built(perceptron), vectors(), loss=F.cross_entropy)
    assert "smoothness" not in CriticalPoint(k=1)(smooth).attrs


def test_recalibrated_derivatives_are_said():
    model, data = network("BatchNorm")
    answer = CriticalPoint(k=1, resolution=3)(Objective(model, data, F.cross_entropy, normalization="recalibrated"))
    assert "held fixed" in answer.attrs["derivatives"]


# --- with a search ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", ["newton-mr", "levenberg"])
def test_a_search_ends_at_the_saddle_and_tells_how_far_that_was(search):
    objective = tanh_toy()
    answer = CriticalPoint(search=search, k=1)(objective)
    assert (answer.attrs["verdict"], answer.attrs["search_outcome"]) == ("saddle", "critical")
    assert answer.attrs["point"] == f"found by {search}"
    assert np.abs(answer.theta).max() < 1e-6
    assert answer.moved.item() == pytest.approx(objective.theta.norm().item())
    assert answer.start_loss.item() == objective.loss().item()
    assert answer.center_loss.item() == pytest.approx(0.25)
    assert answer.negative_count.item() == 1
    assert answer.loss.values[20] == answer.center_loss.item()  # the slice goes through the point that was found
    steps = int(np.isfinite(answer.search_loss).sum())
    assert answer.search_loss.values[0] == objective.loss().item()
    assert answer.search_gradient_norm.values[steps - 1] == pytest.approx(answer.gradient_norm.item(), abs=1e-15)
    assert answer.sizes["iteration"] == 106  # of every search, so that answers can be joined


def test_a_search_that_ends_flat_says_so():
    answer = CriticalPoint(search="newton-mr", k=1)(inflection())
    assert answer.attrs["verdict"] == "not a critical point"
    assert answer.attrs["search_outcome"] == "gradient-flat"
    assert answer.attrs["verdict_reason"].startswith("gradient-flat")
    assert answer.attrs["verdict_reason"].endswith("search: gradient-flat")


def test_equal_questions_are_equal():
    assert probe_fields(CriticalPoint(threshold=0)) == probe_fields(CriticalPoint())
    assert isinstance(CriticalPoint(threshold=0).threshold, float)  # in the name of an answer 0 and 0.0 are two


def test_the_displacement_is_where_the_search_starts():
    objective = autoencoder(VARIANCES, 3, (0,))
    found = [CriticalPoint(search="newton-mr", k=1, displacement=0.5, seed=seed)(objective) for seed in (0, 0, 1)]
    assert found[0].identical(found[1])
    assert not found[0].theta.equals(found[2].theta)
    assert found[0].search_loss.values[0] != objective.loss().item()
    assert found[0].start_loss.item() == objective.loss().item()


def test_degenerate_critical_points_are_reached_closely_enough_to_count_them():
    """Off them, zero eigenvalues look like negative ones: from 0.1 away the index is still the known one."""
    objective = autoencoder(VARIANCES, 3, (0,))
    for seed in range(3):
        answer = CriticalPoint(search="newton-mr", displacement=0.5, seed=seed, k=1, gradient_tol=1e-8)(objective)
        left = {3.0: 6, 1.5: 2, 2.0: 3, 5.0: 12}  # loss -> index, for the points that are met
        assert answer.attrs["verdict"] == "saddle"
        assert answer.negative_count.item() == left[round(answer.center_loss.item(), 6)]


def test_what_was_searched_for_is_not_the_checkpoint_of_the_run(tmp_path):
    store, objective = Store(tmp_path), tanh_toy()
    ask(CriticalPoint(k=1, search="newton-mr"), objective, store)
    assert summarize({name: store.read(name) for name in store.names()}) == {}
    ask(CriticalPoint(k=1), objective, store)
    found = summarize({name: store.read(name) for name in store.names()})
    assert found["loss"].value == objective.loss().item()
    assert found["sharpness"].value == pytest.approx(torch.linalg.eigvalsh(Hessian(objective).dense())[-1].item())


# --- laws ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "probe",
    [
        CriticalPoint(k=2, dense_below=0, resolution=5),
        CriticalPoint(k=2, search="levenberg", max_iterations=3, dense_below=0, resolution=5),
    ],
)
@pytest.mark.parametrize("stop", [5, 60, 140])
def test_killed_and_resumed_is_uninterrupted(tmp_path, monkeypatch, probe, stop):
    def fresh() -> Objective:
        model = built(lambda: nn.Sequential(nn.Linear(5, 20), nn.Tanh(), nn.Linear(20, 3)), dtype=torch.float64)
        inputs, targets = vectors()
        return Objective(model, (inputs.double(), targets), loss=F.cross_entropy)

    calls, average = [], Objective.average

    def counting(self, *arguments):
        calls.append(1)
        if len(calls) == stop:
            raise InterruptedError("the machine went away")
        return average(self, *arguments)

    objective, store = fresh(), Store(tmp_path)
    objective.identity()
    whole = answered(probe, fresh(), Work(SerialExecutor()))
    monkeypatch.setattr(Objective, "average", counting)
    with pytest.raises(InterruptedError):
        ask(probe, objective, store)
    assert not store.has(answer_name(probe, objective))
    resumed = ask(probe, objective, store)
    # Twice are computed the point that was lost, its loss, and what is not kept: the loss at both ends.
    assert len(calls) <= whole.attrs["data_passes"] + 10
    for name in whole.variables:
        assert resumed[name].identical(whole[name]), name
    assert resumed.attrs["verdict_reason"] == whole.attrs["verdict_reason"]


def test_the_answer_is_stored_with_every_field(tmp_path):
    store, objective = Store(tmp_path), tanh_toy()
    answer = ask(CriticalPoint(k=1, displacement=1, search="newton-mr"), objective, store)
    fields = json.loads(answer.attrs["probe_fields"])
    assert answer.attrs["probe"] == "critical-point"
    assert (fields["displacement"], fields["search"], fields["gradient_tol"]) == (1.0, "newton-mr", 1e-6)


class Diverging(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.value = value

    def forward(self, inputs):
        return (self.w * 0).sum() + self.value + inputs.sum() * 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused_before_any_product(value, monkeypatch):
    data = (torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3))
    objective = Objective(Diverging(value), data, loss=lambda output, _target: output.mean())
    monkeypatch.setattr(Hessian, "matmat", lambda *_: pytest.fail("a product was computed"))
    with pytest.raises(ValueError, match=f"the loss at the checkpoint is {value}"):
        CriticalPoint(k=1)(objective)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"search": "adam"}, "search must be none, newton-mr or levenberg, got 'adam'"),
        ({"displacement": -1.0}, "displacement must be at least 0 and finite, got -1.0"),
        ({"displacement": math.nan}, "displacement must be at least 0 and finite, got nan"),
        ({"displacement": 0.5}, "a displacement is the start of a search; choose search as well"),
        ({"gradient_tol": 0.0}, "gradient_tol must lie between 0 and 1, got 0.0"),
        ({"tol": 1.0}, "tol must lie between 0 and 1, got 1.0"),
        ({"threshold": 1.0}, "threshold must be at least 0 and below 1, got 1.0"),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"max_iterations": 0}, "max_iterations must be at least 1, got 0"),
        ({"density_steps": 0}, "density_steps must be at least 1, got 0"),
        ({"density_probes": 0}, "density_probes must be at least 1, got 0"),
        ({"resolution": 2}, "resolution at least 3, got 500, 0 and 2"),
        ({"dense_below": -1}, "dense_below and seed must be at least 0"),
        ({"seed": -1}, "dense_below and seed must be at least 0"),
        ({"max_matvecs": 19}, "max_matvecs must be at least 2 k = 20, got 19"),
    ],
)
def test_fields_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        CriticalPoint(**fields)


def test_more_eigenvalues_than_parameters_are_refused():
    with pytest.raises(ValueError, match="k must lie between 1 and the number of parameters 2, got 3"):
        CriticalPoint(k=3)(tanh_toy())
