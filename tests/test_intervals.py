"""Means, errors and intervals against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from landscape.intervals import mean_and_error, student_factor


def test_mean_error_and_interval_are_those_of_scipy():
    samples = np.random.default_rng(0).normal(size=(7, 3))
    mean, error = mean_and_error(samples)
    np.testing.assert_allclose(mean, samples.mean(axis=0))
    np.testing.assert_allclose(error, scipy.stats.sem(samples))
    low, high = scipy.stats.ttest_1samp(samples, 0).confidence_interval(0.9)
    np.testing.assert_allclose(
        (low, high), (mean - student_factor(7, 0.9) * error, mean + student_factor(7, 0.9) * error)
    )


def test_one_sample_has_no_error():
    mean, error = mean_and_error([3.0])
    assert mean == 3.0
    assert np.isnan(error)
    assert mean_and_error(np.ones((1, 2)))[1].shape == (2,)


def test_fewer_samples_reach_further():
    assert student_factor(2) > student_factor(3) > student_factor(1000) > 1.96
    assert student_factor(1000) == pytest.approx(1.96, abs=3e-3)
