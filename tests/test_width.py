"""The width of a parabola is known; what leaves the slice or is not finite is said."""

from __future__ import annotations

from math import isnan, log, nan, sqrt

import numpy as np
import pytest
import xarray as xr

from landscape.width import RISE, width, with_error


def parabolas(curvatures, radius=1.0, resolution=2001, center=0.3):
    """Slices c + a/2 x^2, whose width at rise r is 2 sqrt(2 r / a)."""
    alpha = np.linspace(-radius, radius, resolution)
    loss = center + 0.5 * np.outer(curvatures, alpha**2)
    return xr.Dataset({"loss": (("seed", "alpha"), loss), "center_loss": center}, coords={"alpha": alpha})


def test_width_of_parabolas_is_their_closed_form_with_its_spread():
    curvatures = np.array([4.0, 8.0, 16.0])
    exact = 2 * np.sqrt(2 * RISE / curvatures)
    found = width(parabolas(curvatures))
    assert found.value == pytest.approx(exact.mean(), rel=1e-5)  # linear between points 1e-3 apart
    assert found.standard_error == pytest.approx(exact.std(ddof=1) / sqrt(3), rel=1e-4)
    assert (found.minimum, found.maximum) == pytest.approx((exact.min(), exact.max()), rel=1e-5)
    assert (found.num_directions, found.num_censored) == (3, 0)


def test_width_interpolates_between_points():
    answer = xr.Dataset({"loss": ("alpha", [3.0, 0.0, 4.0])}, coords={"alpha": [-1.0, 0.0, 1.0]})
    assert width(answer, rise=1.0).value == pytest.approx(1 / 3 + 1 / 4)


def test_width_does_not_depend_on_the_order_of_the_points():
    answer = parabolas([5.0, 9.0], resolution=21)
    assert width(answer.isel(alpha=slice(None, None, -1))) == width(answer)
    assert width(answer.transpose("alpha", "seed")) == width(answer)


def test_an_even_resolution_uses_the_loss_of_the_checkpoint():
    even, odd = parabolas([6.0], resolution=2000), parabolas([6.0], resolution=2001)
    assert width(even).value == pytest.approx(width(odd).value, rel=1e-5)
    with pytest.raises(ValueError, match="use an odd resolution"):
        width(even.drop_vars("center_loss"))
    assert width(odd.drop_vars("center_loss")).value == width(odd).value


def test_width_follows_the_first_rise_only():
    """A second basin beyond a barrier is not part of the minimum."""
    alpha = np.linspace(-1, 1, 9)
    loss = np.array([0, 0, 5, 0, 0, 0, 5, 0, 0.0])
    answer = xr.Dataset({"loss": ("alpha", loss)}, coords={"alpha": alpha})
    assert width(answer, rise=1.0).value == pytest.approx(2 * (0.25 + 0.05))


def test_a_slice_that_is_too_short_gives_a_lower_bound():
    found = width(parabolas([1e-3, 100.0]))
    assert found.is_lower_bound and found.num_censored == 1 and found.maximum == pytest.approx(2.0)
    assert str(found).startswith("> ")
    assert str(width(parabolas([1e-3, 1e-3]))) == "> 2"


def test_what_is_not_finite_has_risen():
    alpha = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    for bad in (np.nan, np.inf):
        answer = xr.Dataset({"loss": ("alpha", [bad, 0.0, 0.0, bad, 0.0])}, coords={"alpha": alpha})
        found = width(answer)
        assert found.value == 0.5 and not found.is_lower_bound


def test_one_direction_has_no_standard_error():
    found = width(parabolas([4.0]))
    assert isnan(found.standard_error) and "±" not in str(found)


def test_other_axes_of_the_minimum_make_it_narrower_by_their_curvature():
    """Negative control: the width must see a change of curvature."""
    assert width(parabolas([16.0])).value < 0.6 * width(parabolas([4.0])).value


@pytest.mark.parametrize("rise", [0.0, -1.0, nan, float("inf")])
def test_a_rise_must_be_positive(rise: float):
    with pytest.raises(ValueError, match="positive, finite rise"):
        width(parabolas([4.0]), rise=rise)


def test_the_checkpoint_must_be_finite():
    with pytest.raises(ValueError, match="finite loss at the checkpoint; got nan"):
        width(parabolas([4.0]).assign(center_loss=np.nan))


def test_the_default_rise_halves_the_probability():
    assert np.exp(-RISE) == pytest.approx(0.5) and log(2.0) == RISE


def test_numbers_keep_the_digits_that_their_error_leaves():
    assert with_error(18.0213, 0.54) == "18.0 ± 0.5"
    assert with_error(-0.9012, 0.029) == "-0.90 ± 0.03"
    assert with_error(1234.5, 200.0) == "1234 ± 2e+02"
    assert with_error(2e-7, 1e-8) == "2e-07 ± 1e-08"
    assert with_error(0.0575, nan) == "0.0575"
