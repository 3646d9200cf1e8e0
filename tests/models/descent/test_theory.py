"""Risks of least squares: the published formulas against Monte Carlo, and the fits against numpy's pseudo-inverse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models.descent.solving import solve
from models.descent.theory import best_penalty, least_squares_risk, ridge_risk

N, D, SIGNAL, NOISE = 20, 60, 1.0, 0.25


def sampled_risks(p: int, penalty: float, draws: int = 3000) -> np.ndarray:
    """Exact risk given the fit, |b - beta|^2 + noise, of many draws of examples; beta points anywhere."""
    rng = np.random.default_rng(p)
    beta = rng.standard_normal((draws, D))
    beta *= np.sqrt(SIGNAL) / np.linalg.norm(beta, axis=1, keepdims=True)
    x = rng.standard_normal((draws, N, D))
    y = np.einsum("snd,sd->sn", x, beta) + math.sqrt(NOISE) * rng.standard_normal((draws, N))
    found = solve(torch.from_numpy(x[..., :p]), torch.from_numpy(y[..., None]), (penalty,)).weights[:, 0, :, 0].numpy()
    return ((found - beta[:, :p]) ** 2).sum(1) + (beta[:, p:] ** 2).sum(1) + NOISE


@pytest.mark.parametrize("p", [1, 10, 16, 25, 60])
def test_minimum_norm_fits_have_the_exact_expected_risk(p):
    risks = sampled_risks(p, 0.0)
    error = risks.std(ddof=1) / math.sqrt(len(risks))
    exact = least_squares_risk(N, p, D, SIGNAL, NOISE)
    assert abs(risks.mean() - exact) < 4 * error
    assert error < 0.05 * exact  # so that the test has power


@pytest.mark.parametrize("p", [19, 20, 21])
def test_next_to_the_threshold_the_expectation_is_infinite(p):
    assert least_squares_risk(N, p, D, SIGNAL, NOISE) == math.inf
    assert sampled_risks(p, 0.0).max() > 1000  # the peak is not hidden by a cut-off


def test_without_noise_a_whole_model_is_exact_from_the_threshold_on():
    assert least_squares_risk(N, D, D, SIGNAL, 0.0) == SIGNAL * (1 - N / D)
    assert least_squares_risk(N, 20, 20, SIGNAL, 0.0) == 0.0


@pytest.mark.parametrize("p", [10, 20, 60])
def test_ridge_fits_have_nearly_the_asymptotic_risk(p):
    penalty = best_penalty(p, D, SIGNAL, NOISE)
    risks = sampled_risks(p, penalty)
    limit = ridge_risk(N, p, D, SIGNAL, NOISE, penalty)
    assert risks.mean() == pytest.approx(limit, rel=0.02)  # O(1/n) off; Monte Carlo is 0.5%
    for other in (penalty / 4, penalty * 4):
        assert ridge_risk(N, p, D, SIGNAL, NOISE, other) > limit


@pytest.mark.parametrize("p", [5, 10, 40])
def test_a_vanishing_penalty_has_the_limit_of_the_exact_risk(p):
    """At the same proportions and a thousand times the size the exact risk is its own limit."""
    exact = least_squares_risk(1000 * N, 1000 * p, 1000 * D, SIGNAL, NOISE)
    assert ridge_risk(N, p, D, SIGNAL, NOISE, 1e-7) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("m", [7, 12, 30])
def test_fits_are_those_of_the_pseudo_inverse(m):
    rng = np.random.default_rng(m)
    features, targets = rng.standard_normal((3, 12, m)), rng.standard_normal((3, 12, 2))
    solved = solve(torch.from_numpy(features), torch.from_numpy(targets), (0.0, 0.3))
    for seed in range(3):
        minimum = np.linalg.pinv(features[seed]) @ targets[seed]
        ridge = np.linalg.solve(features[seed].T @ features[seed] + 0.3 * np.eye(m), features[seed].T @ targets[seed])
        np.testing.assert_allclose(solved.weights[seed, 0], minimum, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(solved.weights[seed, 1], ridge, rtol=1e-8, atol=1e-10)
    assert solved.rank.tolist() == [min(12, m)] * 3


def test_columns_that_repeat_or_vanish_do_not_count_in_the_rank():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((1, 12, 12))
    features[0, :, 3], features[0, :, 7] = 0.0, features[0, :, 2]
    solved = solve(torch.from_numpy(features), torch.from_numpy(rng.standard_normal((1, 12, 1))))
    assert solved.rank.tolist() == [10]
    assert torch.isfinite(solved.weights).all() and solved.weights.abs().max() < 1e3
