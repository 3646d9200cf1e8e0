"""Adaptive sampling on surfaces whose every point is known."""

from __future__ import annotations

import numpy as np
import pytest

from landscape import adaptive
from landscape.adaptive import HELD_OUT, sample
from landscape.execution import SerialExecutor, Work, working
from tests.test_execution import Notebook

SHAPE = (51, 41)
X, Y = np.meshgrid(np.linspace(-1, 1, SHAPE[0]), np.linspace(-1, 1, SHAPE[1]), indexing="ij")
BASIN = 0.01 + X**2 + 3 * Y**2 + X * Y + 0.5 * np.sin(3 * X) * Y**3


class Known:
    """Hands out the values of a known surface and keeps what was asked for."""

    def __init__(self, **surfaces):
        self.surfaces = {name: values.ravel() for name, values in surfaces.items()}
        self.asked = []

    def __call__(self, chosen):
        self.asked.extend(chosen.tolist())
        return {name: values[chosen] for name, values in self.surfaces.items()}


def relative_error(found, name="loss", surface=BASIN):
    return np.abs(found.values[name] - surface.ravel()) / np.abs(surface.ravel())


@pytest.mark.parametrize("seed", range(3))
def test_a_smooth_basin_needs_a_fraction_of_its_points(seed):
    known = Known(loss=BASIN)
    found = sample(SHAPE, known, 0.01, seed)
    assert not found.is_full
    assert found.computed.sum() <= 350
    assert np.quantile(relative_error(found), 0.95) <= 0.01
    assert np.abs(found.values["loss"] - BASIN.ravel()).max() <= 0.01 * np.ptp(BASIN)


def test_no_point_is_computed_twice_and_the_computed_ones_are_kept_as_they_are():
    known = Known(loss=BASIN)
    found = sample(SHAPE, known, 0.01)
    assert sorted(known.asked) == np.flatnonzero(found.computed).tolist()
    assert np.array_equal(found.values["loss"][found.computed], BASIN.ravel()[found.computed])
    assert np.isfinite(found.values["loss"]).all()


def test_the_stated_error_is_that_of_predictions_made_before_the_points_were_known():
    found = sample(SHAPE, Known(loss=BASIN), 0.01)
    assert len(found.held_out) >= HELD_OUT
    true = BASIN.ravel()[found.held_out]
    errors = np.abs(found.predicted["loss"] - true) / true
    assert found.error_p95 == pytest.approx(np.quantile(errors, 0.95, method="higher"), rel=1e-12)
    assert 0 < found.error_p95 <= 0.01
    assert found.error_max == pytest.approx(np.abs(found.predicted["loss"] - true).max() / np.ptp(BASIN), rel=0.1)


def test_a_smaller_tolerance_takes_more_points_and_is_kept():
    sizes = []
    for tolerance in (0.05, 0.01, 0.001):
        found = sample(SHAPE, Known(loss=BASIN), tolerance)
        sizes.append(int(found.computed.sum()))
        assert np.quantile(relative_error(found), 0.95) <= tolerance
    assert max(sizes[:2]) < sizes[2]


def test_noise_is_computed_whole_and_said_to_be():
    noise = np.random.default_rng(0).uniform(1, 2, (21, 21))
    found = sample(noise.shape, Known(loss=noise), 0.01)
    assert found.is_full
    assert found.computed.all()
    assert np.array_equal(found.values["loss"], noise.ravel())
    assert (found.error_p95, len(found.held_out)) == (0.0, 0)


def test_a_corner_of_a_million_does_not_draw_all_points():
    steep = BASIN + 1e6 * np.exp(-((X - 1) ** 2 + (Y - 1) ** 2) / 0.01)
    found = sample(SHAPE, Known(loss=steep), 0.01)
    assert not found.is_full
    assert np.quantile(relative_error(found, surface=steep), 0.95) <= 0.012  # 59 draws leave the percentile some room


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_region_that_is_not_finite_ends_and_is_kept(value):
    broken = np.where(X + 0.3 * Y > 0.55, value, BASIN)
    found = sample(SHAPE, Known(loss=broken), 0.01)
    taken = np.isfinite(found.values["loss"])
    assert (taken != np.isfinite(broken.ravel())).mean() <= 0.005
    inside = np.isfinite(broken.ravel()) & taken
    assert np.quantile(relative_error(found)[inside], 0.95) <= 0.01
    assert found.computed.sum() < 0.6 * broken.size


@pytest.mark.parametrize("seed", range(3))
def test_every_point_beside_a_computed_one_of_the_other_kind_is_computed(seed):
    """A disk that is not finite: nothing is guessed at its edge."""
    disk = np.where(X**2 + Y**2 < 0.09, np.nan, BASIN)
    found = sample(SHAPE, Known(loss=disk), 0.01, seed)
    assert np.array_equal(np.isfinite(found.values["loss"]), np.isfinite(disk.ravel()))


def test_a_surface_that_is_nowhere_finite_ends():
    found = sample(SHAPE, Known(loss=np.full(SHAPE, np.nan)), 0.01)
    assert found.is_full
    assert np.isnan(found.values["loss"]).all()


def test_a_pit_as_wide_as_the_coarse_grid_is_found_and_a_narrower_one_may_not_be():
    def pit(width):
        return 5 - 4 * np.exp(-((X - 0.13) ** 2 + (Y + 0.21) ** 2) / width**2) + 0.1 * X

    found = sample(SHAPE, Known(loss=pit(0.25)), 0.01)
    assert found.values["loss"].min() == pytest.approx(pit(0.25).min(), rel=0.02)
    missed = sample(SHAPE, Known(loss=pit(0.02)), 0.01)  # the control: what the docstring warns of
    assert missed.computed.sum() < 0.3 * X.size


def test_a_kink_gets_its_points():
    kink = 1 + np.abs(X - 0.1) + 0.2 * Y**2
    found = sample(SHAPE, Known(loss=kink), 0.01)
    assert np.quantile(relative_error(found, surface=kink), 0.95) <= 0.01
    near = np.abs(X.ravel() - 0.1) < 0.15
    assert found.computed[near].mean() > found.computed[~near].mean()


def test_losses_of_both_signs_are_interpolated_without_a_logarithm():
    signed = X**2 - Y**2 + 0.2 * X * Y
    found = sample(SHAPE, Known(loss=signed), 0.02)
    assert np.abs(found.values["loss"] - signed.ravel()).max() <= 0.02 * np.ptp(signed)


def test_every_loss_decides_and_accuracy_is_taken_along():
    rough = 1 + 0.3 * np.sin(9 * X) * np.cos(8 * Y) + X**2
    accuracy = np.clip(1 - BASIN, 0, 1)
    both = sample(SHAPE, Known(loss=BASIN, accuracy=accuracy, test_loss=rough), 0.02)
    alone = sample(SHAPE, Known(loss=BASIN), 0.02)
    assert both.computed.sum() > alone.computed.sum()
    assert np.quantile(relative_error(both, "test_loss", rough), 0.95) <= 0.02
    assert 0 <= both.values["accuracy"].min() <= both.values["accuracy"].max() <= 1


def test_a_volume_is_sampled_like_a_plane():
    axes = np.linspace(-1, 1, 15)
    x, y, z = np.meshgrid(axes, axes, axes, indexing="ij")
    bowl = 0.5 + x**2 + 2 * y**2 + 0.5 * z**2 + x * y * z
    found = sample(bowl.shape, Known(loss=bowl), 0.01)
    assert found.computed.sum() < 0.3 * bowl.size
    assert np.quantile(relative_error(found, surface=bowl), 0.95) <= 0.01


@pytest.mark.parametrize("shape", [(3, 51), (10, 10), (1, 1)])
def test_a_grid_too_small_or_too_thin_to_interpolate_is_computed_whole(shape):
    values = np.random.default_rng(0).uniform(1, 2, shape)
    found = sample(shape, Known(loss=values), 0.01)
    assert found.is_full
    assert np.array_equal(found.values["loss"], values.ravel())


def test_the_same_seed_asks_for_the_same_points_and_another_for_others():
    first, again, other = Known(loss=BASIN), Known(loss=BASIN), Known(loss=BASIN)
    sample(SHAPE, first, 0.01, 0), sample(SHAPE, again, 0.01, 0), sample(SHAPE, other, 0.01, 1)
    assert first.asked == again.asked
    assert first.asked != other.asked


def test_what_was_chosen_is_taken_from_the_journal():
    """A resumed surface must not depend on the last bits of a linear solver."""
    notebook, known = Notebook(), Known(loss=BASIN)
    with working(Work(SerialExecutor(), notebook)):
        sample(SHAPE, known, 0.01)
    rounds = [key for key in notebook.pages if key.startswith("round/")]
    assert rounds
    swapped = notebook.pages["round/0"]["points"][::-1].copy()
    notebook.pages["round/0"]["points"] = swapped
    again = Known(loss=BASIN)
    with working(Work(SerialExecutor(), notebook)):
        sample(SHAPE, again, 0.01)
    start = known.asked.index(swapped[-1])
    assert again.asked[start : start + len(swapped)] == swapped.tolist()


def test_the_bound_asks_for_what_it_says():
    """None of 59, one of 93, two of 124 points: Clopper and Pearson's 95% bound on the share is 5%."""

    def passes(number, off):
        relative = np.r_[np.ones(off), np.zeros(number - off)]
        test = adaptive._Test(np.arange(number), {}, relative, np.zeros(number))
        return bool(adaptive._passed([test], 0.01))

    for number, off in ((59, 0), (93, 1), (124, 2)):
        assert passes(number, off)
        assert not passes(number - 1, off)
