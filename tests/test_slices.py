from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import nn

from landscape import directions as D
from landscape import grids
from landscape.evaluation import default_plan
from landscape.objective import Objective
from landscape.probes import Slice, Surface
from tests.problems import (
    TinyCNN,
    built,
    images,
    only_output,
    perceptron,
    quadratic,
    relu_perceptron,
    rotated,
    seeded,
    vectors,
)

A = rotated([5.0, 2.0, 0.5, -1.0])
SLOPE = torch.tensor([0.3, -0.2, 0.1, 0.7], dtype=torch.float64)


def own(*rows) -> D.Directions:
    return D.Directions("own", torch.tensor(rows, dtype=torch.float64), tuple(f"d{n}" for n in range(len(rows))))


def cnn(**options) -> Objective:
    return Objective(built(TinyCNN), images(), loss=F.cross_entropy, **options)


def test_the_slice_of_a_quadratic_is_its_parabola():
    objective = quadratic(A, slope=SLOPE, constant=1.5)
    d = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    answer = Slice(own(d.tolist()), resolution=9, radius=2.0, center=0.5)(objective)
    w, alpha = objective.theta, answer.alpha.values
    assert alpha.tolist() == np.linspace(-1.5, 2.5, 9).tolist()
    parabola = objective.loss().item() + alpha * (d @ (SLOPE + A @ w)).item() + alpha**2 * (d @ A @ d).item() / 2
    assert np.allclose(answer.loss, parabola, rtol=1e-13)
    assert answer.center_loss.item() == objective.loss().item()


def test_the_surface_of_a_quadratic_is_its_form_with_the_axes_the_right_way_round():
    objective = quadratic(A, slope=SLOPE)
    first, second = torch.eye(4, dtype=torch.float64)[:2] * torch.tensor([[1.0], [0.5]])
    plane = own(first.tolist(), second.tolist())
    answer = Surface(plane, resolution=(7, 4), radius=(1.0, 3.0), center=(0.0, 1.0))(objective)
    assert answer.loss.dims == ("alpha", "beta")
    assert answer.loss.shape == (7, 4)
    assert (answer.alpha.values[[0, -1]].tolist(), answer.beta.values[[0, -1]].tolist()) == ([-1, 1], [-2, 4])
    for number, alpha in enumerate(answer.alpha.values):
        for other, beta in enumerate(answer.beta.values):
            w = objective.theta + alpha * first + beta * second
            value = (SLOPE @ w + w @ A @ w / 2).item()
            assert answer.loss.values[number, other] == pytest.approx(value, rel=1e-12)
            assert answer.loss.sel(alpha=alpha, beta=beta).item() == answer.loss.values[number, other]


def test_the_curvature_of_a_surface_is_that_of_the_hessian():
    objective = quadratic(A)
    answer = Surface("hessian-ends", resolution=3, radius=1.0)(objective)
    second_difference = answer.loss.sel(beta=0).values @ [1, -2, 1], answer.loss.sel(alpha=0).values @ [1, -2, 1]
    assert second_difference == pytest.approx([5.0, -1.0], abs=1e-12)


@pytest.mark.parametrize("kind", ["filter", "layer", "weight", "gaussian", "hessian"])
def test_the_centre_is_the_checkpoint_bit_for_bit(kind):
    objective = cnn()
    line = Slice(kind, resolution=5, radius=0.7)(objective)
    assert line.loss.sel(alpha=0).item() == line.center_loss.item() == objective.loss().item()
    plane = Surface(kind, resolution=(3, 5))(objective)
    assert plane.loss.sel(alpha=0, beta=0).item() == objective.loss().item()
    assert plane.accuracy.sel(alpha=0, beta=0).item() == plane.center_accuracy.item()


@pytest.mark.parametrize("radius", [0.1, 1.0, 1 / 3, 2.7])
@pytest.mark.parametrize("resolution", [3, 21, 51, 401])
def test_axes_are_symmetric_with_the_centre_on_it(resolution, radius):
    axis = grids.axis(resolution, radius, 0.0)
    assert axis[resolution // 2] == 0
    assert (axis == -axis[::-1]).all()
    assert (axis[0], axis[-1], len(axis)) == (-radius, radius, resolution)
    even = grids.axis(resolution + 1, radius, 0.0)
    assert 0 not in even
    assert (even == -even[::-1]).all()
    assert np.allclose(np.diff(even), 2 * radius / resolution, rtol=1e-12)


def test_an_even_resolution_still_holds_the_checkpoint_beside_the_grid():
    answer = Slice(resolution=4)(cnn())
    assert 0 not in answer.alpha
    assert answer.center_loss.item() == cnn().loss().item()


def test_one_point_is_the_centre():
    answer = Slice(resolution=1)(cnn())
    assert answer.alpha.values.tolist() == [0.0]
    assert answer.loss.item() == answer.center_loss.item()


def test_a_reversed_or_shifted_grid_gives_the_same_values():
    objective, (d,) = cnn(), D.directions_for("filter", cnn(), 1).vectors
    forward = Slice(D.Directions("own", d[None], ("d",)), resolution=5, radius=1.0)(objective)
    backward = Slice(D.Directions("own", -d[None], ("d",)), resolution=5, radius=1.0)(objective)
    assert np.array_equal(forward.loss.values, backward.loss.values[::-1])
    shifted = Slice(D.Directions("own", d[None], ("d",)), resolution=3, radius=0.5, center=0.5)(objective)
    assert np.array_equal(shifted.alpha.values, forward.alpha.values[2:])
    assert np.array_equal(shifted.loss.values, forward.loss.values[2:])


def test_a_surface_holds_its_slices():
    objective = cnn()
    plane = Surface(resolution=(5, 3))(objective)
    line = Slice(resolution=5)(objective)
    assert np.array_equal(plane.loss.sel(beta=0).values, line.loss.values)


def test_everything_that_is_said_of_an_answer():
    objective = cnn(also={"test": images(9, seed=3)})
    answer = Surface(resolution=3)(objective)
    assert set(answer.data_vars) == {
        *("loss", "accuracy", "test_loss", "test_accuracy", "done", "cosine", "step_ratio_alpha", "step_ratio_beta"),
        *("center_loss", "center_accuracy", "center_test_loss", "center_test_accuracy"),
        *("roughness", "total_variation", "nonconvex_share", "width", "width_num_censored"),
    }
    assert answer.done.values.all()
    assert answer.done.dtype == bool
    assert abs(answer.cosine.item()) < 1e-6  # float32
    assert answer.step_ratio_alpha.item() == pytest.approx(1, rel=1e-6)
    assert answer.loss.attrs == {"units": "nats", "long_name": "mean loss"}
    assert answer.test_accuracy.attrs == {"units": "1", "long_name": "accuracy on the test data"}
    assert answer.beta.attrs["long_name"] == "random filter direction 2"
    assert answer.attrs == {
        **{"directions": "filter", "num_points": 9, "num_non_finite": 0, "sampling": "full", "precision": "float32"},
        "moved": "conv.weight, fc.weight: 39 of 52 parameters (75%); fixed: conv.bias, norm.weight, norm.bias, "
        "fc.bias; BatchNorm keeps its stored statistics",
        "evaluation_plan": default_plan(objective).to_json(),
    }


# --- several seeds ------------------------------------------------------------------------------------------------


def test_several_seeds_are_the_single_ones_with_their_spread():
    objective = cnn()
    many = Slice(resolution=5, seed=3, seeds=4)(objective)
    assert many.loss.dims == ("seed", "alpha")
    assert many.seed.values.tolist() == [3, 4, 5, 6]
    for seed in many.seed.values:
        single = Slice(resolution=5, seed=int(seed))(objective)
        assert np.array_equal(many.loss.sel(seed=seed), single.loss)
        assert many.step_ratio.sel(seed=seed).item() == single.step_ratio.item()
    assert np.allclose(many.loss_median, np.median(many.loss, axis=0), rtol=1e-14)
    assert np.allclose(many.loss_lower, np.quantile(many.loss, 0.1, axis=0), rtol=1e-14)
    assert np.allclose(many.accuracy_upper, np.quantile(many.accuracy, 0.9, axis=0), rtol=1e-14)
    plane = Surface(resolution=(2, 3), seeds=2)(objective)
    assert plane.loss.dims == ("seed", "alpha", "beta")
    assert plane.cosine.dims == ("seed",)


class Cliff(nn.Module):
    """A loss that is infinite to the right of 1 and not a number to the left of -1."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3))

    def forward(self, inputs):
        x = self.w[0]
        value = torch.where(x > 1, torch.full_like(x, float("inf")), x.square())
        return torch.where(x < -1, torch.full_like(x, float("nan")), value) + 0 * inputs.sum()


def test_values_that_are_not_finite_are_kept_and_counted():
    objective = Objective(Cliff(), (torch.zeros(3, 1), torch.zeros(3)), loss=only_output)
    answer = Slice(own([1.0, 0, 0]), resolution=7, radius=3.0)(objective)
    assert np.array_equal(answer.loss.values, [np.nan, np.nan, 1, 0, 1, np.inf, np.inf], equal_nan=True)
    assert answer.attrs["num_non_finite"] == 4
    assert answer.done.values.all()


def test_the_band_of_values_that_are_not_finite_counts_them_as_the_worst():
    values = np.array([[1.0, 1.0], [2.0, np.nan], [3.0, np.inf]])
    answer = xr.Dataset({"loss": (("seed", "alpha"), values), "accuracy": (("seed", "alpha"), values / 4)})
    spread = grids._with_spread(answer, ["loss", "accuracy"])
    assert spread.loss_median.values.tolist() == [2.0, np.inf]
    assert spread.loss_lower.values[1] == 1.0
    assert np.isfinite(spread.loss_upper.values[0])
    assert spread.accuracy_lower.values[1] == -np.inf


def test_a_checkpoint_that_is_not_finite_has_no_landscape():
    model = Cliff()
    nn.init.constant_(model.w, 2.0)
    objective = Objective(model, (torch.zeros(3, 1), torch.zeros(3)), loss=only_output)
    with pytest.raises(ValueError, match="the loss at the checkpoint is inf, so there is no landscape around it"):
        Slice(own([1.0, 0, 0]))(objective)


# --- trajectories -------------------------------------------------------------------------------------------------


def test_a_trajectory_lies_on_its_plane():
    objective = quadratic(A)
    path = objective.theta + torch.randn(6, 4, generator=seeded(0), dtype=torch.float64)
    path[-1] = objective.theta
    answer = Surface(D.pca(path, range(0, 60, 10), objective.theta), resolution=3)(objective)
    assert answer.snapshot_step.values.tolist() == [0, 10, 20, 30, 40, 50]
    axes = answer.attrs["directions"]
    assert axes == "pca"
    expected, off = D.coordinates(path, objective.theta, D.pca(path, range(6), objective.theta).vectors)
    assert np.allclose(answer.trajectory_alpha, expected[:, 0], atol=1e-12)
    assert np.allclose(answer.trajectory_beta, expected[:, 1], atol=1e-12)
    assert np.allclose(answer.trajectory_off_plane, off, atol=1e-12)
    assert answer.trajectory_loss.values.tolist() == objective.losses(path).tolist()
    assert answer.explained_share.dims == answer.random_walk_share.dims == ("component",)
    assert 0 < float(answer.explained_share.sum()) <= 1


def test_a_plane_through_points_marks_them():
    objective = quadratic(A)
    others = objective.theta + torch.randn(2, 4, generator=seeded(0), dtype=torch.float64)
    answer = Surface(D.through(objective.theta, *others), resolution=3)(objective)
    assert answer.trajectory_off_plane.values == pytest.approx([0, 0, 0], abs=1e-12)
    assert (answer.trajectory_alpha.values[1], answer.trajectory_beta.values[1]) == pytest.approx((1, 0), abs=1e-12)
    assert "explained_share" not in answer


# --- invariance ---------------------------------------------------------------------------------------------------


def rescaled(model: nn.Sequential, factor: float) -> nn.Sequential:
    """The same function: the first ReLU layer times a factor, the second divided by it (Dinh et al. 2017)."""
    other = built(relu_perceptron, dtype=torch.float64)
    with torch.no_grad():
        other[0].weight.copy_(model[0].weight * factor)
        other[2].weight.copy_(model[2].weight / factor)
    return other


@pytest.mark.parametrize("factor", [4.0, 0.3, 100.0])
def test_filter_normalized_slices_do_not_see_a_rescaling_of_relu_layers(factor):
    model = built(relu_perceptron, dtype=torch.float64)
    inputs, targets = vectors()
    made = {
        (name, kind): Slice(kind, resolution=9, radius=2.0)(
            Objective(net, (inputs.double(), targets), loss=F.cross_entropy)
        ).loss.values
        for name, net in (("plain", model), ("rescaled", rescaled(model, factor)))
        for kind in ("filter", "layer", "gaussian")
    }
    for kind in ("filter", "layer"):
        assert np.allclose(made["plain", kind], made["rescaled", kind], rtol=1e-9)  # 2e-9 was measured in float32
    assert not np.allclose(made["plain", "gaussian"], made["rescaled", "gaussian"], rtol=1e-2)  # the control


# --- what is refused before any compute ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"directions": "random"}, "directions must be one of filter, layer, weight, gaussian, hessian"),
        ({"one_dimensional": "ones"}, "one_dimensional must be zero or copy, got 'ones'"),
        ({"resolution": 0}, "resolution must be whole numbers of at least 1, got 0"),
        ({"resolution": 2.5}, "resolution must be whole numbers"),
        ({"radius": 0.0}, "radius must be positive and finite, or auto; got 0.0"),
        ({"radius": float("nan")}, "radius must be positive and finite"),
        ({"center": float("inf")}, "center must be finite, got inf"),
        ({"seeds": 0}, "seeds must be at least 1 and seed at least 0, got 0 and 0"),
        ({"seed": -1}, "got 1 and -1"),
        ({"resolution": 10**10}, "a grid of 10[0,]* points does not fit the memory of this machine"),
        ({"directions": "hessian", "seeds": 2}, "several seeds need random directions .*, not hessian"),
    ],
)
def test_fields_are_checked(fields, message):
    for probe in (Slice, Surface):
        with pytest.raises(ValueError, match=message):
            probe(**fields)


@pytest.mark.parametrize("fields", [{"resolution": (3,) * 4}, {"radius": (1.0,)}, {"center": (0.0, 0.0, 0.0)}])
def test_axes_are_two_or_three(fields):
    with pytest.raises(ValueError, match=r"each one value for all axes, or one an axis \(2 or 3 axes\)"):
        Surface(**fields)


def test_a_line_has_one_axis():
    with pytest.raises(ValueError, match="resolution must be whole numbers"):
        Slice(resolution=(3, 3))
    with pytest.raises(ValueError, match=r"own gives 1 direction\(s\), 2 are needed"):
        Surface(own([1.0, 0, 0, 0]), resolution=3)(quadratic(A))


def test_a_network_is_measured_in_its_own_type():
    answer = Slice(resolution=3)(Objective(built(perceptron), vectors(), loss=F.cross_entropy, dtype=torch.float64))
    assert answer.loss.dtype == np.float64


def test_a_path_is_projected_on_the_plane_that_is_drawn():
    """Control: projected on three components it would seem to lie nearer to the plane of the first two."""
    objective = Objective(built(TinyCNN), images(), loss=F.cross_entropy)
    steps = torch.randn(6, objective.size, generator=seeded(0))
    path = objective.theta + torch.cat([steps.cumsum(0), torch.zeros(1, objective.size)]).flip(0).cumsum(0).flip(0)
    shares = []
    for count in (2, 3):
        plane = D.pca(path, range(7), objective.theta, count=count)
        answer = Surface(directions=plane, resolution=2)(objective)
        assert answer.sizes["component"] == 2
        shares.append(answer["trajectory_off_plane"].values)
    assert shares[0] == pytest.approx(shares[1], rel=1e-6)


# --- volumes, automatic ranges, adaptive sampling, lower precision ------------------------------------------------


def test_a_volume_of_a_quadratic_is_its_form():
    objective = quadratic(A, slope=SLOPE)
    rows = torch.eye(4, dtype=torch.float64)[:3] * torch.tensor([[1.0], [0.5], [2.0]])
    answer = Surface(own(*rows.tolist()), resolution=(3, 5, 2), radius=(1.0, 2.0, 0.5))(objective)
    assert answer.loss.dims == ("alpha", "beta", "gamma")
    assert answer.loss.shape == (3, 5, 2)
    for place in np.ndindex(3, 5, 2):
        coordinates = [answer[name].values[n] for name, n in zip(("alpha", "beta", "gamma"), place, strict=True)]
        w = objective.theta + torch.tensor(coordinates, dtype=torch.float64) @ rows
        assert answer.loss.values[place] == pytest.approx((SLOPE @ w + w @ A @ w / 2).item(), rel=1e-12)
    assert answer.cosine.dims == ("axis_pair",)
    assert answer.axis_pair.values.tolist() == ["alpha-beta", "alpha-gamma", "beta-gamma"]
    assert {"step_ratio_alpha", "step_ratio_beta", "step_ratio_gamma"} <= set(answer)


def test_three_random_directions_are_orthogonal_and_a_volume_holds_its_planes():
    objective = cnn(dtype=torch.float64)
    volume = Surface(resolution=(3, 5, 3))(objective)
    assert np.abs(volume.cosine.values).max() < 1e-12
    plane = Surface(resolution=(3, 5))(objective)
    assert np.array_equal(volume.loss.sel(gamma=0).values, plane.loss.values)
    several = Surface(resolution=(3, 2, 2), seeds=2)(objective)
    assert several.loss.dims == ("seed", "alpha", "beta", "gamma")
    assert several.cosine.dims == ("seed", "axis_pair")


def test_an_automatic_radius_is_where_the_loss_has_risen():
    objective = quadratic(A, constant=2.0, start=torch.zeros(4, dtype=torch.float64))
    answer = Surface("hessian", resolution=5, radius="auto", rise=3.0)(objective)
    for name, curvature in (("alpha", 5.0), ("beta", 2.0)):
        exact = np.sqrt(2 * (3.0 - 1.0) * 2.0 / curvature)
        assert exact <= answer[f"radius_{name}"].item() <= 1.011 * exact
        assert answer[name].values[-1] == answer[f"radius_{name}"].item()
    assert answer.loss.sel(beta=0).values[[0, -1]] == pytest.approx(6.0, rel=0.05)
    assert answer.rise.item() == 3.0


def test_an_automatic_radius_suits_all_seeds_and_is_computed_once():
    objective = cnn()
    line = Slice(resolution=5, radius="auto", rise=1.5, seeds=3)(objective)
    assert (np.maximum(line.loss.values[:, 0], line.loss.values[:, -1]) >= 1.49 * line.center_loss.item()).all()
    with pytest.raises(ValueError, match="the loss stays below .*; give radius as a number"):
        Slice(own([0.0] * objective.size), resolution=5, radius="auto")(objective)


@pytest.mark.parametrize("constant", [0.0, -2.0])
def test_a_loss_that_no_factor_raises_has_no_automatic_radius(constant):
    objective = quadratic(A, constant=constant, start=torch.zeros(4, dtype=torch.float64))
    with pytest.raises(ValueError, match="which no factor raises, so no automatic range can be found"):
        Surface("hessian", resolution=3, radius="auto")(objective)


def test_an_adaptive_surface_says_what_it_computed():
    objective = quadratic(rotated([5.0, 2.0, 0.5, 1.0]), constant=1.0, start=torch.zeros(4, dtype=torch.float64))
    answer = Surface("gaussian", resolution=(31, 35), radius=2.0, sampling="adaptive", seeds=2)(objective)
    whole = Surface("gaussian", resolution=(31, 35), radius=2.0, seeds=2)(objective)
    computed = answer.evaluated.values
    assert answer.evaluated.dims == ("seed", "alpha", "beta")
    assert computed.sum() == answer.attrs["num_evaluated"] == answer.sizes["point"] < 0.5 * computed.size
    assert np.array_equal(answer.loss.values[computed], whole.loss.values[computed])
    assert np.allclose(answer.loss, whole.loss, rtol=0.01)
    assert answer.attrs["error_p95"] <= 0.01
    assert answer.attrs["num_held_out"] == answer.point_held_out.sum() >= 2 * 59
    for row in range(0, answer.sizes["point"], 17):  # the true points apart are those of the grid
        at = {name: answer[f"point_{name}"].values[row] for name in ("seed", "alpha", "beta")}
        assert answer.point_loss.values[row] == whole.loss.sel(at).item()
    told = answer.point_predicted_loss.values
    assert np.array_equal(np.isfinite(told), answer.point_held_out.values)


def test_adaptive_sampling_that_does_not_pay_says_so():
    answer = Surface(resolution=5, sampling="adaptive")(cnn())
    assert answer.evaluated.values.all()
    assert "every point was computed" in answer.attrs["interpolation"]


def test_a_lower_precision_states_its_error():
    objective = cnn()
    low, full = (Surface(resolution=5, precision=p)(objective) for p in ("bfloat16", "full"))
    error = np.abs(low.loss - full.loss) / full.loss
    assert 0 < low.precision_error_p95 < low.precision_error_max
    assert low.precision_error_max.item() == pytest.approx(float(error.max()), rel=0.2)  # on all 25 points
    assert low.attrs["precision"] == "bfloat16"
    assert "precision_error_max" not in full
    assert low.center_loss.item() == full.center_loss.item()


def test_the_loss_of_a_trajectory_is_told_beside_that_of_the_plane_under_it():
    objective = quadratic(A)
    path = objective.theta + torch.randn(6, 4, generator=seeded(0), dtype=torch.float64)
    path[-1] = objective.theta
    plane = D.pca(path, range(6), objective.theta)
    answer = Surface(plane, resolution=3)(objective)
    places = torch.from_numpy(np.stack([answer.trajectory_alpha, answer.trajectory_beta], axis=1))
    under = objective.theta + places @ plane.vectors
    assert np.allclose(answer.trajectory_plane_loss, objective.losses(under), rtol=1e-12)
    assert not np.allclose(answer.trajectory_plane_loss, answer.trajectory_loss, rtol=1e-2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampling": "sparse"}, "sampling must be one of full, adaptive, got 'sparse'"),
        ({"tolerance": 0.1}, "tolerance 0.1 is that of sampling=adaptive; a full grid has no error"),
        ({"sampling": "adaptive", "tolerance": 0.0}, "tolerance must lie between 0 and 1, got 0.0"),
        ({"precision": "half"}, "precision must be one of full, bfloat16, got 'half'"),
        ({"radius": "wide"}, "radius must be positive and finite, or auto; got 'wide'"),
        ({"radius": "auto", "center": 0.5}, "an automatic radius is found around the checkpoint"),
        ({"rise": 1.0}, "rise must be a factor above 1, got 1.0"),
    ],
)
def test_the_fields_of_a_surface_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        Surface(**fields)
