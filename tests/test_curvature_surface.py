"""Both ends of the spectrum at every point of a plane, against matrices that are known or written out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import vector_to_parameters

from landscape.directions import Directions, directions_for, pca
from landscape.execution import SerialExecutor, Work, open_executor, working
from landscape.measure import answer_name, ask
from landscape.objective import Objective
from landscape.probes import CurvatureSurface, Surface
from landscape.store import Store
from tests import oracles
from tests.problems import (
    InterruptedJournal,
    TinyCNN,
    built,
    images,
    only_output,
    perceptron,
    quadratic,
    rotated,
    seeded,
    two_layer_linear,
    vectors,
)

PER_POINT = ("largest_eigenvalue", "smallest_eigenvalue", "largest_residual", "smallest_residual", "eigenvalue_ratio")


def own(*rows) -> Directions:
    return Directions("own", torch.tensor(rows, dtype=torch.float64), tuple(f"d{n}" for n in range(len(rows))))


@pytest.mark.parametrize("size", [6, 130])
def test_a_quadratic_has_its_spectrum_everywhere(size):
    """Below 100 parameters the matrix is written out; beyond, Lanczos finds the ends."""
    spectrum = torch.linspace(-0.5, 4.0, size, dtype=torch.float64)
    spectrum[0], spectrum[-1] = -2.0, 8.0
    objective = quadratic(rotated(spectrum))
    answer = CurvatureSurface("gaussian", resolution=(3, 2), radius=(1.0, 4.0), tol=1e-6)(objective)
    assert answer["largest_eigenvalue"].dims == ("alpha", "beta")
    assert answer["largest_eigenvalue"].shape == (3, 2)
    assert np.allclose(answer["largest_eigenvalue"], 8.0, rtol=1e-10)  # quadratic in a residual of 1e-6
    assert np.allclose(answer["smallest_eigenvalue"], -2.0, rtol=1e-10)
    assert np.allclose(answer["eigenvalue_ratio"], 0.25, rtol=1e-10)
    assert answer["largest_residual"].max() <= 1e-6 * 8
    assert answer["largest_converged"].values.all() and answer["smallest_converged"].values.all()
    assert answer["negative_curvature_share"].item() == 1.0
    assert answer["num_unconverged"].item() == 0
    assert answer.attrs["num_points"] == 6 and answer.attrs["num_non_finite"] == 0


def test_a_convex_function_has_no_negative_curvature():
    answer = CurvatureSurface("gaussian", resolution=2)(quadratic(rotated([5.0, 2.0, 0.5])))
    assert answer["negative_curvature_share"].item() == 0.0
    assert np.allclose(answer["eigenvalue_ratio"], 0.1)


def test_a_zero_eigenvalue_is_not_negative_curvature():
    """Rounding leaves -1e-16 instead of zero, which no tolerance would call negative."""
    rounded = rotated([5.0, 2.0, 0.0, 0.0], seed=1).float()  # its smallest eigenvalue is -1e-7
    for matrix in (rotated([5.0, 2.0, 0.0, 0.0]), rounded):
        answer = CurvatureSurface("gaussian", resolution=3)(quadratic(matrix))
        assert (abs(answer["smallest_eigenvalue"]) < answer["tolerance"]).all()
        assert answer["negative_curvature_share"].item() == 0.0
    assert (answer["smallest_eigenvalue"] + answer["smallest_residual"] < 0).all()  # the control


@pytest.mark.parametrize(("factory", "data"), [(two_layer_linear, vectors), (perceptron, vectors), (TinyCNN, images)])
def test_every_point_has_the_ends_of_its_own_hessian(factory, data):
    model, (inputs, targets) = built(factory, dtype=torch.float64), data()
    inputs = inputs.double()
    objective = Objective(model, (inputs, targets), loss=F.cross_entropy)
    plane = directions_for("filter", objective, 2, seed=3)
    answer = CurvatureSurface("filter", resolution=(2, 3), radius=(0.5, 1.0), seed=3)(objective)
    for alpha in answer.alpha.values:
        for beta in answer.beta.values:
            moved = built(factory, dtype=torch.float64)
            moved.load_state_dict(model.state_dict())
            vector_to_parameters(
                objective.theta + alpha * plane.vectors[0] + beta * plane.vectors[1], moved.parameters()
            )
            values = torch.linalg.eigvalsh(oracles.dense_hessian(moved, (inputs, targets)))
            point = answer.sel(alpha=alpha, beta=beta)
            assert point["largest_eigenvalue"].item() == pytest.approx(values[-1].item(), rel=1e-9)
            assert point["smallest_eigenvalue"].item() == pytest.approx(values[0].item(), rel=1e-9, abs=1e-9)
            assert point["loss"].item() == pytest.approx(F.cross_entropy(moved(inputs), targets).item(), rel=1e-12)
    assert answer["largest_eigenvalue"].values.std() > 0.01  # the control: it is not the same matrix everywhere


def test_it_lies_on_the_points_of_a_surface():
    objective = Objective(built(TinyCNN), images(), loss=F.cross_entropy)
    fields = {"resolution": (3, 2), "radius": (0.5, 1.0), "center": (0.0, 0.25), "seed": 4}
    curved, plain = CurvatureSurface(**fields)(objective), Surface(**fields)(objective)
    for name in ("alpha", "beta"):
        assert np.array_equal(curved[name], plain[name])
        assert curved[name].attrs == plain[name].attrs
    assert np.allclose(curved["loss"], plain["loss"], rtol=1e-6)  # float32
    assert curved["step_ratio_alpha"].item() == plain["step_ratio_alpha"].item()
    assert curved["cosine"].item() == plain["cosine"].item()
    assert curved["center_loss"].item() == objective.loss().item()


def test_the_ratio_has_the_error_of_its_parts():
    spectrum = torch.linspace(-1.0, 4.0, 300, dtype=torch.float64)
    answer = CurvatureSurface("gaussian", resolution=2, tol=0.1)(quadratic(rotated(spectrum)))
    error = np.abs(answer["eigenvalue_ratio"] - 0.25)
    assert (answer["eigenvalue_ratio_error"] > 0).all()
    assert (error <= answer["eigenvalue_ratio_error"]).all()


def test_what_has_not_converged_is_marked_and_counted():
    spectrum = torch.linspace(-1.0, 4.0, 300, dtype=torch.float64)
    answer = CurvatureSurface("gaussian", resolution=2, tol=1e-6, max_matvecs=5)(quadratic(rotated(spectrum)))
    assert answer["num_unconverged"].item() == 4
    assert not answer["largest_converged"].values.any()
    assert (answer["num_matvecs"] < 15).all()


# --- what is not finite -------------------------------------------------------------------------------------------


class Cliff(nn.Module):
    """x^2 + y^2 + |x + 2|: infinite to the right of 1, finite but without a derivative at x = -2."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, inputs):
        x, y = self.w
        value = torch.where(x > 1, torch.full_like(x, float("inf")), x.square() + y.square())
        return value + (x + 2).square().sqrt() + 0 * inputs.sum()


def test_points_that_are_not_finite_are_nan_and_counted():
    data = (torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    objective = Objective(Cliff(), data, loss=only_output)
    plane = own([1.0, 0.0], [0.0, 1.0])
    answer = CurvatureSurface(plane, resolution=(3, 2), radius=2.0)(objective)
    assert np.isnan(answer["largest_eigenvalue"].values[[0, 2]]).all()
    assert np.isinf(answer["loss"].values[2]).all() and np.isfinite(answer["loss"].values[0]).all()
    assert np.allclose(answer["largest_eigenvalue"].values[1], 2.0)
    assert answer.attrs["num_non_finite"] == 4
    assert answer["negative_curvature_share"].item() == 0.0  # of the two points that have a Hessian
    assert answer["num_unconverged"].item() == 0
    assert answer["done"].values.all()


def test_a_plane_without_any_hessian_has_no_share():
    data = (torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    objective = Objective(Cliff(), data, loss=only_output)
    answer = CurvatureSurface(own([1.0, 0.0], [0.0, 1.0]), resolution=2, radius=0.1, center=(2.0, 0.0))(objective)
    assert np.isnan(answer["negative_curvature_share"].item())


def test_a_checkpoint_that_is_not_finite_has_no_landscape():
    model = Cliff()
    nn.init.constant_(model.w, 2.0)
    data = (torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="the loss at the checkpoint is inf, so there is no landscape around it"):
        CurvatureSurface(own([1.0, 0.0], [0.0, 1.0]))(Objective(model, data, loss=only_output))


# --- the engine ---------------------------------------------------------------------------------------------------


def test_processes_and_a_resumed_run_give_the_same_bits():
    objective = Objective(built(TinyCNN), images(), loss=F.cross_entropy)
    probe = CurvatureSurface(resolution=(3, 2))
    serial = probe(objective)
    with open_executor("processes:2") as executor, working(Work(executor)) as work:
        elsewhere = probe(objective)
    assert elsewhere.identical(serial)
    assert work.remote_passes > 6  # six losses and their products
    journal = InterruptedJournal(most=4)
    with pytest.raises(KeyboardInterrupt), working(Work(SerialExecutor(), journal)):
        probe(objective)
    journal.most = None
    before = dict(journal.pieces)
    with working(Work(SerialExecutor(), journal)):
        assert probe(objective).identical(serial)
    assert len(before) == 4 and len(journal.pieces) == 6


def test_it_is_stored_and_named_by_its_fields(tmp_path):
    objective, store = quadratic(rotated([5.0, 2.0, -0.5])), Store(tmp_path / "run")
    probe = CurvatureSurface("gaussian", resolution=2, radius=1)
    answer = ask(probe, objective, store)
    assert answer.attrs["probe"] == "curvature-surface"
    assert json.loads(answer.attrs["probe_fields"])["resolution"] == [2, 2]
    assert answer["largest_converged"].dtype == bool
    assert answer_name(probe, objective) == answer_name(
        CurvatureSurface("gaussian", resolution=(2, 2), radius=(1.0, 1.0)), objective
    )


def test_recalibrated_statistics_are_said_to_be_held_fixed():
    objective = Objective(built(TinyCNN), images(), loss=F.cross_entropy, normalization="recalibrated")
    answer = CurvatureSurface(resolution=1)(objective)
    assert answer.attrs["derivatives"] == "with the recalibrated BatchNorm statistics held fixed"
    assert answer["loss"].item() == pytest.approx(objective.loss().item(), rel=1e-12)


def test_the_axes_may_be_eigenvectors_or_a_trajectory():
    objective = quadratic(rotated([5.0, 2.0, 0.5, -1.0]))
    ends = CurvatureSurface("hessian-ends", resolution=1)(objective)
    assert ends.attrs["directions"] == "hessian-ends"
    assert ends.alpha.attrs["long_name"].startswith("eigenvector of 5")
    path = objective.theta + torch.randn(4, 4, generator=seeded(0), dtype=torch.float64)
    answer = CurvatureSurface(pca(path, range(4), objective.theta), resolution=2)(objective)
    assert answer.attrs["directions"] == "pca"
    plain = Surface(pca(path, range(4), objective.theta), resolution=2)(objective)
    for name in ("trajectory_alpha", "trajectory_beta", "snapshot_step"):
        assert np.array_equal(answer[name], plain[name])


# --- what is refused before any compute ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"directions": "random"}, "directions must be one of filter, layer, weight, gaussian, hessian"),
        ({"one_dimensional": "ones"}, "one_dimensional must be zero or copy, got 'ones'"),
        ({"resolution": (3, 3, 3)}, "each one value for all axes, or one an axis"),
        ({"resolution": 0}, "resolution must be whole numbers of at least 1, got 0"),
        ({"resolution": 2.5}, "resolution must be whole numbers"),
        ({"resolution": 101}, "a grid of 10,201 points is as many eigenvalue problems; at most 10,000"),
        ({"radius": 0.0}, "radius must be positive and finite; got 0.0"),
        ({"center": float("inf")}, "center must be finite, got inf"),
        ({"tol": 1.0}, "tol must lie between 0 and 1, got 1.0"),
        ({"max_matvecs": 1}, "max_matvecs must be at least 2, got 1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_fields_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        CurvatureSurface(**fields)
