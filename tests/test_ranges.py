from __future__ import annotations

import math

import pytest

from landscape.ranges import START, radius_of_rise


@pytest.mark.parametrize("curvature", [1e-4, 0.3, 7.0, 1e6])
def test_the_radius_of_a_parabola_is_known(curvature):
    found = radius_of_rise(lambda r: 1.0 + curvature * r**2 / 2, wanted=10.0)
    exact = math.sqrt(2 * 9.0 / curvature)
    assert exact <= found <= 1.011 * exact  # seven halvings of a bracket one factor of two wide


def test_values_that_are_not_finite_have_risen():
    found = radius_of_rise(lambda r: math.nan if r > 0.7 else 1.0, wanted=5.0)
    assert found == pytest.approx(0.7, rel=0.01)
    assert found > 0.7


def test_a_loss_that_has_risen_everywhere_is_refused():
    with pytest.raises(ValueError, match="the loss has risen above 1 at a radius of .* already"):
        radius_of_rise(lambda r: math.inf, wanted=1.0)


def test_the_radius_may_be_smaller_than_the_first_one_tried():
    found = radius_of_rise(lambda r: 1.0 + (r / 0.001) ** 2, wanted=2.0)
    assert 0.001 <= found <= 0.00101 < START


def test_a_loss_that_never_rises_is_refused():
    with pytest.raises(ValueError, match="the loss stays below 10 up to a radius of .*; give radius as a number"):
        radius_of_rise(lambda r: 1.0, wanted=10.0)
