"""Definitions of a barrier against closed forms and their orderings."""

import numpy as np
import pytest
import xarray as xr

from landscape.paths import DEFINITIONS, barrier, barriers, peak, with_barriers

ALPHAS = np.linspace(0, 1, 21)


def test_a_parabola_between_equal_ends_has_one_barrier_by_all_definitions():
    found = barriers(ALPHAS, 3 + 4 * ALPHAS * (1 - ALPHAS))
    assert found == pytest.approx(dict.fromkeys(DEFINITIONS, 1.0))
    assert peak(ALPHAS, ALPHAS * (1 - ALPHAS)) == 0.5


def test_on_a_slope_only_what_lies_above_the_chord_is_zero():
    found = barriers(ALPHAS, 1 + 2 * ALPHAS)
    assert found == pytest.approx({"frankle": 1.0, "linear": 0.0, "above-higher": 0.0, "above-lower": 2.0})


def test_neither_of_the_two_usual_definitions_is_always_larger():
    slope, cliff = barriers(ALPHAS, ALPHAS), barriers([0, 0.1, 1], [0.0, 1.0, 1.0])
    assert slope["frankle"] > slope["linear"] and cliff["frankle"] < cliff["linear"]


def test_orderings_hold_for_any_path():
    generator = np.random.default_rng(0)
    for _ in range(200):
        values = generator.normal(size=len(ALPHAS))
        found = barriers(ALPHAS, values)
        for name in ("frankle", "linear"):
            assert found["above-higher"] - 1e-12 <= found[name] <= found["above-lower"] + 1e-12
        assert abs(found["frankle"] - found["linear"]) <= abs(values[0] - values[-1]) / 2 + 1e-12
        assert barriers(1 - ALPHAS[::-1], values[::-1]) == pytest.approx(found)


def test_the_double_well_has_the_barrier_of_its_closed_form():
    x = 2 * ALPHAS - 1  # from the well at -1 to that at 1 of (x^2 - 1)^2 + x / 4
    values = (x**2 - 1) ** 2 + x / 4
    assert barrier(ALPHAS, values, "linear") == pytest.approx(1.0)  # at 0, where the chord is at 0
    assert barrier([0, 0.5, 1], [-0.25, 1.0, 0.25]) == 1.0


def test_what_lies_beyond_the_ends_does_not_count():
    wide = np.linspace(-1, 2, 31).round(3)
    assert barrier(wide, wide**2) == barrier(wide[10:21], wide[10:21] ** 2) == 0.5


def test_values_that_are_not_finite_are_a_result():
    assert np.isnan(barrier([0, 0.5, 1], [0, np.nan, 0])) and np.isnan(peak([0, 0.5, 1], [0, np.nan, 0]))
    assert barrier([0, 0.5, 1], [0, np.inf, 0]) == np.inf
    assert np.isnan(barrier([0, 0.5, 1], [np.inf, 0, 0]))


def test_an_answer_gets_barriers_of_losses_and_errors_for_each_of_its_paths():
    values = np.stack([ALPHAS * (1 - ALPHAS), 0 * ALPHAS])
    names = {"loss": values, "accuracy": 1 - values / 2, "test_loss": 2 * values}
    answer = xr.Dataset({n: (("seed", "alpha"), v) for n, v in names.items()}, {"alpha": ALPHAS, "seed": [3, 4]})
    found = with_barriers(answer)
    assert found["barrier"].dims == ("seed", "metric", "definition")
    assert found["barrier"].sel(seed=3, definition="frankle").values == pytest.approx([0.25, 0.125, 0.5])
    assert (found["barrier"].sel(seed=4) == 0).all() and (found["peak"].sel(seed=3) == 0.5).all()
    assert list(found["metric"].values) == ["loss", "error", "test_loss"]


def test_what_is_no_path_is_refused():
    with pytest.raises(ValueError, match="one value a point"):
        barriers([0, 1], [1.0])
    with pytest.raises(ValueError, match="in the order of their alpha"):
        barriers([0, 1, 0.5], [1.0, 1, 1])
    with pytest.raises(ValueError, match="both ends"):
        barriers([0, 0.5], [1.0, 1])
    with pytest.raises(ValueError, match="unknown definition"):
        barrier([0, 1], [1, 1], "midpoint")
    with pytest.raises(ValueError, match="no loss and no accuracy"):
        with_barriers(xr.Dataset(coords={"alpha": [0.0, 1.0]}))
