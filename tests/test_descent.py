"""What is read off curves of known shape: minimum, peak, threshold, and that noise alone makes no peak."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr

from landscape.descent import analysed, differences, places, threshold
from landscape.intervals import median_coverage, median_interval

SIZES = np.array([1, 2, 4, 8, 16, 32, 64])
SHAPE = np.array([0.5, 0.3, 0.4, 0.6, 0.35, 0.25, 0.2])  # down to 2, up to 8, down again
FALLING = np.array([0.6, 0.5, 0.45, 0.4, 0.38, 0.37, 0.36])
TRAIN = np.array([0.4, 0.2, 0.1, 0.02, 0.005, 0.0, 0.0])


def curves(error: np.ndarray, train: np.ndarray = TRAIN, axis: str = "width", **more) -> xr.Dataset:
    """A data set of curves (noise, seed, size), or one curve for all."""
    error = error.reshape((1,) * (3 - error.ndim) + error.shape)
    values = np.moveaxis(error, 1, 2)[None]
    return xr.Dataset(
        {
            "test_error": (("arm", "noise", "size", "seed"), values),
            "test_loss": (("arm", "noise", "size", "seed"), 10 * values),
            "train_error": (("arm", "noise", "size", "seed"), np.broadcast_to(train[:, None], values.shape)),
            "num_parameters": ("size", 10 * SIZES),
            "num_examples": ("size", np.full(len(SIZES), 90)),
            **more,
        },
        {"arm": ["plain"], "noise": 0.1 * np.arange(len(error)), "size": SIZES, "seed": np.arange(values.shape[-1])},
        {"axis": axis, "model": "mlp"},
    )


def noisy(shape: np.ndarray, seeds: int, deviation: float, seed: int = 0) -> np.ndarray:
    return (shape + deviation * np.random.default_rng(seed).standard_normal((seeds, len(shape))))[None]


def test_a_curve_that_turns_twice_is_read_exactly():
    found = analysed(curves(noisy(SHAPE, 8, 0.0))).isel(arm=0, noise=0).sel(metric="error")
    assert [found[f"{name}_size"] for name in ("first_minimum", "peak", "valley")] == [2, 8, 64]
    assert [float(found[name]) for name in ("first_minimum", "peak", "valley", "last")] == [0.3, 0.6, 0.2, 0.2]
    for name, value in {"bump": 0.3, "fall": 0.4, "gain": 0.1}.items():
        assert [float(found[f"{name}{end}"]) for end in ("_low", "", "_high")] == pytest.approx([value] * 3)


def test_loss_and_error_are_both_read():
    found = analysed(curves(noisy(SHAPE, 8, 0.0)))
    assert found["bump"].sel(metric="loss").item() == pytest.approx(10 * found["bump"].sel(metric="error").item())


def test_a_falling_curve_has_no_peak():
    found = analysed(curves(noisy(FALLING, 8, 0.0))).isel(arm=0, noise=0, metric=0)
    assert math.isnan(found["peak_size"]) and found["bump"] == found["fall"] == 0


def test_a_peak_of_noise_is_found_but_its_bump_is_not_above_zero():
    """Looked for and measured in the same curves a bump is always positive; other seeds say where to look."""
    flat = np.full(len(SIZES), 0.4)
    honest, naive = [], []
    for trial in range(60):
        sample = noisy(flat, 8, 0.02, trial)[0]
        honest.append(float(np.median(differences(sample)["bump"])))
        chosen = places(np.median(sample, 0))
        naive.append(0.0 if chosen is None else float(np.median(sample[:, chosen.peak] - sample[:, chosen.first])))
    error = np.std(honest, ddof=1) / math.sqrt(len(honest))
    assert abs(np.mean(honest)) < 3 * error
    assert np.mean(naive) > 5 * error  # the control: this would be a bump where there is none


def test_a_real_bump_stays_with_noise():
    found = analysed(curves(noisy(SHAPE, 8, 0.02))).isel(arm=0, noise=0).sel(metric="error")
    assert 0.2 < found["bump_low"] < 0.3 < found["bump_high"] < 0.4


def test_one_seed_has_no_interval():
    found = analysed(curves(noisy(SHAPE, 1, 0.0))).isel(arm=0, noise=0).sel(metric="error")
    assert found["bump"] == pytest.approx(0.3) and math.isnan(found["bump_low"]) and math.isnan(found["bump_high"])


def test_infinite_and_missing_values_are_passed_over():
    assert places(np.array([3.0, 1.0, np.inf, 2.0, np.nan]))[:2] == (1, 2)
    assert places(np.array([np.nan, 1.0, 2.0])) is None
    assert places(np.array([np.nan, np.nan, 2.0, np.nan])) is None


# --- the threshold -----------------------------------------------------------------------------------------


def test_the_threshold_is_the_smallest_size_that_fits_and_its_bracket():
    found = analysed(curves(noisy(SHAPE, 8, 0.0))).sel(criterion="error")
    assert found["threshold"].item() == 16 and found["threshold_outside"].item() == 8
    assert found["threshold_parameters"].item() == 160


def test_of_data_the_largest_that_fits_counts():
    found = analysed(curves(noisy(SHAPE, 8, 0.0), TRAIN[::-1], "samples")).sel(criterion="error")
    assert found["threshold"].item() == 4 and found["threshold_outside"].item() == 8


def test_a_threshold_that_is_not_reached_is_not_a_number():
    found = analysed(curves(noisy(SHAPE, 8, 0.0), TRAIN + 0.1)).sel(criterion="error")
    assert found["threshold"].isnull().all() and found["threshold_parameters"].isnull().all()


def test_sizes_that_all_fit_have_no_bracket():
    assert threshold(np.zeros(4), 0.01) == (0, -1) and threshold(np.zeros(4), 0.01, largest=True) == (3, -1)


def test_the_rank_is_a_criterion_of_its_own():
    unranked = np.repeat(np.array([0.9, 0.5, 0.1, 0.01, 0.0, 0.0, 0.0])[:, None], 8, 1)
    found = analysed(curves(noisy(SHAPE, 8, 0.0), unranked=(("size", "seed"), unranked)))
    assert found["threshold"].sel(criterion="rank").item() == 16
    assert list(found["criterion"].values) == ["error", "rank"]


def test_fewer_than_three_sizes_are_refused():
    with pytest.raises(ValueError, match="at least 3 in all; got 2"):
        analysed(curves(noisy(SHAPE, 8, 0.0)).isel(size=[0, 3]))


# --- noise -------------------------------------------------------------------------------------------------


def test_peaks_that_grow_with_noise_correlate_fully_and_equal_ones_not_at_all():
    grown = np.stack([noisy(FALLING + level * (SHAPE - FALLING), 8, 0.0)[0] for level in (0.25, 0.5, 0.75, 1.0)])
    found = analysed(curves(grown)).isel(arm=0).sel(metric="error")
    assert found["noise_correlation"].sel(of="peak").item() == pytest.approx(1)
    same = analysed(curves(np.stack([noisy(SHAPE, 8, 0.0)[0]] * 4))).isel(arm=0).sel(metric="error")
    assert math.isnan(same["noise_correlation"].sel(of="peak"))
    assert "noise_correlation" not in analysed(curves(grown[:2]))


# --- the interval of a median ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [6, 8, 20, 41])
def test_the_interval_covers_the_median_of_any_distribution(count):
    samples = np.random.default_rng(count).exponential(size=(count, 4000))
    _, low, high = median_interval(samples)
    covered = np.mean((low <= math.log(2)) & (math.log(2) <= high))
    assert covered == pytest.approx(median_coverage(count), abs=0.012)  # three standard errors
    assert median_coverage(count) >= 0.95


def test_nan_stays_nan_and_one_sample_is_its_own_interval():
    assert np.isnan(median_interval([1.0, math.nan, 2.0])).all()
    assert [float(end) for end in median_interval([3.0])] == [3.0, 3.0, 3.0]
