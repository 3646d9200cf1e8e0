"""Numbers of a slice or a surface, on functions whose numbers are known."""

from __future__ import annotations

from math import inf, log, nan, pi, sqrt

import numpy as np
import pytest
import torch.nn.functional as F
import xarray as xr

from landscape.objective import Objective
from landscape.probes import Slice, Surface
from landscape.roughness import nonconvex_share, roughness, shape_numbers, total_variation
from landscape.width import RISE, width
from tests.problems import TinyCNN, built, images


def on_grid(function, *axes, center=None) -> xr.Dataset:
    """A function of alpha, beta, ... on axes from -r to r, each (r, n)."""
    names = ("alpha", "beta", "gamma")[: len(axes)]
    coordinates = [np.linspace(-r, r, n) for r, n in axes]
    values = function(*np.meshgrid(*coordinates, indexing="ij"))
    answer = xr.Dataset({"loss": (names, values)}, coords=dict(zip(names, coordinates, strict=True)))
    return answer.assign(center_loss=float(function(*(0.0,) * len(axes))) if center is None else center)


def form(matrix, constant=0.3):
    """A quadratic form c + x.A x / 2."""
    A = np.asarray(matrix)

    def value(*x):
        return constant + 0.5 * sum(A[i, j] * x[i] * x[j] for i in range(len(A)) for j in range(len(A)))

    return value


# --- roughness ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", [3, 11, 51, 401])
@pytest.mark.parametrize("radius", [0.1, 1.0, 7.0])
def test_a_parabola_has_roughness_one_at_every_resolution(radius, resolution):
    answer = on_grid(lambda x: 2 + 3 * x**2, (radius, resolution))
    assert roughness(answer).item() == pytest.approx(1.0, rel=1e-9)  # second differences of a parabola are exact


@pytest.mark.parametrize("eigenvalues", [(1.0, 1.0), (9.0, 0.1), (4.0, -1.0)])
def test_an_axis_aligned_form_has_roughness_one(eigenvalues):
    plane = on_grid(form(np.diag(eigenvalues)), (1.0, 21), (3.0, 15))
    assert roughness(plane).item() == pytest.approx(1.0, rel=1e-9)
    volume = on_grid(form(np.diag([*eigenvalues, 2.0])), (1.0, 9), (3.0, 7), (0.5, 5))
    assert roughness(volume).item() == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("periods", [1, 3])
def test_the_roughness_of_a_sine_is_known_and_converges(periods):
    exact = pi / 2 * periods**2  # mean |sin| is 2 / pi: (2 pi k)^2 (2 / pi) / (2 * 8)
    errors = []
    for resolution in (101, 401, 1601):
        answer = on_grid(lambda x: 5 + np.sin(pi * periods * x), (1.0, resolution))
        errors.append(abs(roughness(answer).item() / exact - 1))
    assert errors[-1] < 1e-3
    assert errors[2] < errors[1] < errors[0]


def test_the_raw_sum_depends_on_the_resolution_as_is_said():
    """Control: sum |second difference| / range of the same parabola falls like 1 / n."""
    raw = []
    for resolution in (11, 101):
        loss = on_grid(lambda x: x**2, (1.0, resolution)).loss.values
        raw.append(np.abs(np.diff(loss, 2)).sum() / np.ptp(loss))
    assert raw[1] / raw[0] == pytest.approx(0.1, rel=0.11)


def test_a_kink_counts_like_the_slope_it_turns():
    """|x| turns its slope by 2, as x^2 / 2 does from -1 to 1, over twice the range."""
    for resolution in (21, 201, 2001):
        answer = on_grid(np.abs, (1.0, resolution))
        expected = 0.5 * (resolution - 1) / (resolution - 2)
        assert roughness(answer).item() == pytest.approx(expected, rel=1e-9)


def test_what_does_not_bend_has_no_roughness():
    assert roughness(on_grid(lambda x, y: 1 + x + 3 * y, (1.0, 9), (1.0, 9))).item() == pytest.approx(0, abs=1e-12)


def test_a_constant_has_none_and_rounding_does_not_give_it_one():
    assert np.isnan(roughness(on_grid(lambda x: 0 * x + 2.0, (1.0, 9))).item())
    noise = np.random.default_rng(0).normal(size=51) * 1e-8  # of a loss of 1 in float32
    assert np.isnan(roughness(on_grid(lambda x: 1 + noise, (1.0, 51), center=1.0)).item())
    assert np.isnan(total_variation(on_grid(lambda x: 1 + noise, (1.0, 51), center=1.0)).item())
    louder = roughness(on_grid(lambda x: 1 + 1e4 * noise, (1.0, 51), center=1.0))
    assert louder.item() > 50  # of white noise about 0.04 n^2


def test_scaling_the_loss_or_the_axis_changes_nothing():
    plain = on_grid(lambda x, y: np.sin(3 * x) + x * y, (1.0, 31), (1.0, 21))
    scaled = on_grid(lambda x, y: 7 * (np.sin(3 * x / 5) + x / 5 * y) + 2, (5.0, 31), (1.0, 21))
    for number in (roughness, total_variation, nonconvex_share):
        assert number(scaled).item() == pytest.approx(number(plain).item(), rel=1e-9)


def test_an_axis_that_is_not_even_is_refused():
    answer = xr.Dataset({"loss": ("alpha", [1.0, 0.0, 1.0, 2.0])}, coords={"alpha": [-1.0, 0.0, 1.0, 3.0]})
    for number in (roughness, total_variation, nonconvex_share, shape_numbers):
        with pytest.raises(ValueError, match="expected an evenly spaced axis 'alpha', got steps from 1.0 to 2.0"):
            number(answer)


# --- total variation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: np.exp(3 * x), 1.0),
        (lambda x: x**2, 2.0),
        (lambda x: np.sin(2 * pi * x), 4.0),  # two periods, each up and down its range
        (lambda x: -(x**3), 1.0),
    ],
)
def test_the_path_up_and_down_against_the_range(function, expected):
    assert total_variation(on_grid(function, (1.0, 401))).item() == pytest.approx(expected, rel=1e-3)


def test_a_plane_is_as_its_lines():
    ramp = on_grid(lambda x, y: x + np.exp(y), (1.0, 21), (1.0, 31))
    assert total_variation(ramp).item() == pytest.approx(1.0, rel=1e-12)
    bowl = on_grid(lambda x, y: x**2 + 5 * y**2, (1.0, 21), (1.0, 31))
    assert total_variation(bowl).item() == pytest.approx(2.0, rel=1e-12)
    ridge = on_grid(lambda x, y: x**2 + 0 * y, (1.0, 21), (1.0, 31))  # lines along beta are flat and say nothing
    assert total_variation(ridge).item() == pytest.approx(2.0, rel=1e-12)


# --- convexity ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("matrix", "share"),
    [
        ([[2.0, 0.5], [0.5, 1.0]], 0.0),
        ([[2.0, 0.0], [0.0, -1.0]], 1.0),
        ([[1.0, 2.0], [2.0, 1.0]], 1.0),  # convex along both axes, a saddle between them
        ([[1.0, 1.0], [1.0, 1.0]], 0.0),  # a zero eigenvalue is not negative
    ],
)
def test_a_form_is_convex_everywhere_or_nowhere(matrix, share):
    assert nonconvex_share(on_grid(form(matrix), (1.0, 11), (2.0, 7))).item() == share


def test_on_a_line_it_is_the_share_of_points_that_bend_down():
    answer = on_grid(lambda x: np.sin(pi * x), (1.0, 401))  # concave where it is positive
    assert nonconvex_share(answer).item() == pytest.approx(0.5, abs=0.01)


def test_a_volume_has_three_axes():
    matrix = np.array([[2.0, 0.3, 0.1], [0.3, 2.0, 1.9], [0.1, 1.9, 1.0]])
    assert np.linalg.eigvalsh(matrix)[0] < 0 < min(np.linalg.eigvalsh(matrix[:2, :2]))
    assert nonconvex_share(on_grid(form(matrix), (1.0, 5), (2.0, 5), (1.0, 7))).item() == 1.0


def test_float32_rounding_of_a_flat_valley_is_not_negative_curvature():
    """Second differences of losses near 2 in float32 are +-5e-7, where the exact ones are zero."""
    answer = on_grid(
        lambda x, y: (2 + 1e-3 * x + 0 * y).astype(np.float32).astype(float), (1.0, 31), (1.0, 31), center=2
    )
    bends = np.diff(answer.loss.values, 2, axis=0)
    assert (bends < 0).any()  # the control
    assert nonconvex_share(answer).item() == 0.0


def test_it_agrees_with_the_hessian_of_a_function_that_is_both():
    """cos x + cos y is convex where both cosines are negative: a quarter of the period."""
    answer = on_grid(lambda x, y: np.cos(x) + np.cos(y), (pi, 201), (pi, 201))
    assert nonconvex_share(answer).item() == pytest.approx(0.75, abs=0.01)


# --- values that are not finite -----------------------------------------------------------------------------------


def test_what_is_not_finite_is_left_out_and_counted():
    answer = on_grid(form(np.diag([2.0, 1.0])), (1.0, 21), (1.0, 21))
    whole = shape_numbers(answer)
    answer.loss[0, 0], answer.loss[20, 20] = nan, inf
    found = shape_numbers(answer)
    assert "finite_share" not in whole
    assert found.finite_share.item() == 1 - 2 / 441
    assert found.nonconvex_share.item() == 0.0
    answer.loss[0, 20] = answer.loss[20, 0] = nan  # now the range is that of what is left
    kept = answer.loss.where(np.isfinite(answer.loss))
    assert shape_numbers(answer).roughness.item() == pytest.approx(1.5 / float(kept.max() - kept.min()), rel=1e-9)
    answer.loss[:] = nan
    nothing = shape_numbers(answer)
    for name in ("roughness", "total_variation", "nonconvex_share"):
        assert np.isnan(nothing[name].item())


def test_too_few_points_have_no_curvature():
    answer = on_grid(lambda x, y: x**2 + y, (1.0, 5), (1.0, 2))
    assert np.isnan(roughness(answer).item())
    assert np.isnan(nonconvex_share(answer).item())
    assert np.isfinite(total_variation(answer).item())


# --- width of planes and volumes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", [[[8.0, 0.0], [0.0, 8.0]], [[20.0, 0.0], [0.0, 5.0]], [[9.0, 4.0], [4.0, 6.0]]])
def test_the_width_of_a_form_is_that_of_its_ellipse(matrix):
    area = pi * 2 * RISE / sqrt(np.linalg.det(matrix))
    found = width(on_grid(form(matrix), (1.0, 201), (1.0, 151)))
    assert found.value == pytest.approx(2 * sqrt(area / pi), rel=1e-3)  # linear between points 1e-2 apart
    assert (found.num_directions, found.num_censored) == (1, 0)


def test_the_width_of_a_round_bowl_is_that_of_its_slice():
    plane, line = on_grid(form(np.diag([8.0, 8.0])), (1.0, 201), (1.0, 201)), on_grid(form([[8.0]]), (1.0, 201))
    assert width(plane).value == pytest.approx(width(line).value, rel=1e-3)
    volume = on_grid(form(np.diag([8.0, 8.0, 8.0])), (1.0, 41), (1.0, 41), (1.0, 41))
    assert width(volume).value == pytest.approx(width(line).value, rel=1e-2)  # points 5e-2 apart


def test_the_width_of_a_volume_is_that_of_its_ellipsoid():
    matrix = np.diag([8.0, 12.0, 20.0])
    exact = 2 * sqrt(2 * RISE) * np.linalg.det(matrix) ** (-1 / 6)
    assert width(on_grid(form(matrix), (1.0, 61), (0.8, 51), (0.5, 41))).value == pytest.approx(exact, rel=1e-2)


def test_long_axes_are_seen_as_finely_as_short_ones():
    exact = 2 * sqrt(2 * RISE) * (0.02 * 200) ** (-1 / 4)
    assert width(on_grid(form(np.diag([0.02, 200.0])), (10.0, 101), (0.1, 101))).value == pytest.approx(exact, rel=1e-3)


def test_the_width_of_a_plane_does_not_depend_on_the_order_of_points_or_dims():
    answer = on_grid(lambda x, y: 2 * (x - 0.1) ** 2 + 3 * y**2 + x * y, (1.0, 31), (1.5, 41))
    found = width(answer).value
    assert width(answer.transpose("beta", "alpha")).value == pytest.approx(found, rel=1e-12)
    assert width(answer.isel(alpha=slice(None, None, -1))).value == pytest.approx(found, rel=1e-12)
    assert width(answer.drop_vars("center_loss")).value == pytest.approx(found, rel=1e-12)


def test_a_grid_around_the_checkpoint_still_knows_its_loss():
    """The four points around it lie at 25, so the rise is linear from 0 to there: 5 of 25 on the way to the walls."""
    coarse = on_grid(form(np.diag([100.0, 100.0]), 0.0), (1.5, 4), (1.5, 4))
    square = 0.2 * 1.0  # of the side of the cell
    assert width(coarse, rise=5.0).value == pytest.approx(2 * square / sqrt(pi), rel=1e-3)  # 360 rays


def test_another_basin_behind_a_barrier_does_not_count():
    def two(x, y):
        return 10 * np.minimum(x**2 + y**2, (x - 1.2) ** 2 + y**2)

    one = on_grid(lambda x, y: 10 * (x**2 + y**2), (2.0, 201), (2.0, 201))
    assert width(on_grid(two, (2.0, 201), (2.0, 201)), rise=0.5).value == pytest.approx(width(one, rise=0.5).value)


def test_a_plane_that_is_too_small_gives_a_lower_bound():
    found = width(on_grid(form(np.diag([0.1, 0.1])), (1.0, 21), (1.0, 21)))
    assert found.is_lower_bound
    assert found.value == pytest.approx(2 * sqrt(4 / pi), rel=1e-3)  # the whole square
    valley = width(on_grid(form(np.diag([100.0, 0.0])), (1.0, 201), (1.0, 201)))
    assert valley.is_lower_bound


def test_a_region_ends_before_what_is_not_finite():
    wall = on_grid(lambda x, y: np.where(x > 0.5, inf, 0 * x * y), (1.0, 41), (1.0, 41), center=0.0)
    found = width(wall, rise=1.0)
    assert found.value == pytest.approx(2 * sqrt(1.5 * 2 / pi), rel=0.02)  # up to one point of a ray


def test_a_grid_beside_the_checkpoint_has_no_width():
    answer = on_grid(form(np.diag([1.0, 1.0])), (1.0, 5), (1.0, 5))
    answer = answer.assign_coords(beta=answer.beta + 2)
    with pytest.raises(ValueError, match="the checkpoint does not lie on the grid of alpha, beta"):
        width(answer)
    assert "width" not in shape_numbers(answer)


# --- together -----------------------------------------------------------------------------------------------------


def test_all_numbers_of_a_surface():
    found = shape_numbers(on_grid(form(np.diag([8.0, 4.0])), (1.0, 101), (1.0, 101)))
    assert set(found) == {"roughness", "total_variation", "nonconvex_share", "width", "width_num_censored"}
    assert all(variable.ndim == 0 for variable in found.values())
    assert found.roughness.item() == pytest.approx(1.0)
    assert found.total_variation.item() == pytest.approx(2.0)
    assert found.width.item() == pytest.approx(2 * sqrt(2 * RISE) * 32 ** (-1 / 4), rel=1e-3)
    assert found.width.attrs["units"] == "multiples of the direction"
    assert found.width.attrs["long_name"].startswith("region, as the diameter of a round one of its size")
    assert found.roughness.attrs == {"units": "1", "long_name": "bending of the loss against that of one parabola"}


def test_several_seeds_have_a_mean_with_its_error():
    lines = [on_grid(lambda x, k=k: np.sin(pi * k * x), (1.0, 801)) for k in (1, 2, 3)]
    answer = xr.concat([line.loss for line in lines], "seed").to_dataset().assign_coords(seed=[4, 5, 6])
    found = shape_numbers(answer.assign(center_loss=0.0))
    each = np.array([roughness(line).item() for line in lines])
    assert found.roughness_by_seed.values.tolist() == each.tolist()
    assert found.roughness_by_seed.seed.values.tolist() == [4, 5, 6]
    assert found.roughness.item() == pytest.approx(each.mean())
    assert found.roughness_standard_error.item() == pytest.approx(each.std(ddof=1) / sqrt(3))
    assert found.width_standard_error.item() > 0
    assert found.total_variation.item() == pytest.approx(4, rel=1e-3)  # 2, 4, 6
    answer.loss[1] = nan
    assert shape_numbers(answer).roughness.item() == pytest.approx((each[0] + each[2]) / 2)
    answer.loss[:] = nan
    assert np.isnan(shape_numbers(answer).roughness.item())


def test_a_spline_says_that_it_is_one():
    answer = on_grid(form(np.diag([8.0, 4.0])), (1.0, 10), (1.0, 10))
    filled = answer.assign(evaluated=(("alpha", "beta"), np.arange(100).reshape(10, 10) < 15))
    assert "(a smooth spline at 85% of the points)" in shape_numbers(filled).roughness.attrs["long_name"]
    whole = answer.assign(evaluated=(("alpha", "beta"), np.ones((10, 10), dtype=bool)))
    assert "spline" not in shape_numbers(whole).roughness.attrs["long_name"]


def test_a_lower_precision_raises_what_counts_as_rounding():
    answer = on_grid(lambda x: 1 + 1e-3 * np.sin(9 * pi * x), (1.0, 51))
    assert nonconvex_share(answer).item() > 0.4
    assert nonconvex_share(answer.assign(precision_error_p95=1e-2)).item() == 0.0
    assert np.isnan(roughness(answer.assign(precision_error_p95=1e-2)).item())


def test_the_answers_of_probes_have_numbers():
    objective = Objective(built(TinyCNN), images(), loss=F.cross_entropy)
    line = shape_numbers(Slice(resolution=11, seeds=3)(objective))
    assert line.roughness_by_seed.shape == (3,)
    plane = shape_numbers(Surface(resolution=(7, 9))(objective))
    assert 0 <= plane.nonconvex_share <= 1 <= plane.total_variation
    assert plane.width.attrs["long_name"].endswith(f"rises by {log(2):.3g}")
