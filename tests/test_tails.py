"""The estimates of tails on noise whose tails are known."""

from __future__ import annotations

import numpy as np
import pytest

from landscape.tails import (
    excess_kurtosis,
    gaussian_indices,
    gaussian_like,
    hill_index,
    inverse_stable_index,
    stable_index,
)

RNG = np.random.default_rng(0)
NORMAL = RNG.standard_normal((100, 2000))
CAUCHY = RNG.standard_cauchy((100, 2000))
WIDE = NORMAL * np.exp(RNG.standard_normal(2000))  # Gaussian in every coordinate, of log-width deviation 1


def test_index_of_gaussian_and_of_cauchy_noise():
    assert stable_index(NORMAL) == pytest.approx(2, abs=0.03)
    assert stable_index(CAUCHY) == pytest.approx(1, abs=0.02)


def test_pooling_makes_gaussian_noise_of_different_widths_look_heavy():
    """As the published estimate does; by coordinate it is 2, and so is that of the surrogate beside it."""
    shuffled = RNG.permuted(WIDE, axis=1)
    assert stable_index(WIDE) == pytest.approx(2, abs=0.03)
    assert stable_index(shuffled, pooled=True) == pytest.approx(1.55, abs=0.05)


def test_the_surrogate_has_the_second_moments_and_no_tails():
    noise = np.random.default_rng(2).standard_cauchy((20, 3)) @ np.ones((3, 5))  # five coordinates that are the same
    copies = [gaussian_like(noise, np.random.default_rng(seed)) for seed in range(4000)]
    moments = np.mean([copy.T @ copy / 20 for copy in copies], axis=0)
    assert moments == pytest.approx(noise.T @ noise / 20, rel=0.05)
    assert np.ptp(copies[0], axis=1) == pytest.approx(0, abs=1e-9 * np.abs(copies[0]).max())
    many = np.concatenate([copy[:, 0] for copy in copies])
    assert excess_kurtosis(many[:, None]) == pytest.approx(0, abs=0.1)


def test_estimates_from_correlated_coordinates_are_as_unsure_as_they_are():
    """A thousand copies of one coordinate tell no more than that one; independent surrogates would claim to know."""
    one = np.random.default_rng(3).standard_normal((32, 1))
    rng = np.random.default_rng(4)
    index, deviation = gaussian_indices(np.repeat(one, 1000, axis=1), 200, rng)
    of_one = np.std([inverse_stable_index(rng.standard_normal((32, 1))) for _ in range(200)])
    assert deviation / index**2 == pytest.approx(of_one, rel=0.25)
    assert index == pytest.approx(2, abs=4 * deviation / 200**0.5)


def test_kurtosis_and_hill():
    assert excess_kurtosis(NORMAL) == pytest.approx(0, abs=0.03)
    laplace = RNG.laplace(size=(4000, 100))
    assert excess_kurtosis(laplace) == pytest.approx(3, abs=0.3)
    assert hill_index(CAUCHY) < hill_index(NORMAL)
    student = RNG.standard_t(3, size=(100_000, 1))
    assert hill_index(student, share=0.005) == pytest.approx(3, abs=0.3)


def test_too_few_draws():
    with pytest.raises(ValueError, match="at least 4 draws, got 3"):
        stable_index(np.ones((3, 2)))
