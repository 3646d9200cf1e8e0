"""Scores and calibration by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.ensembles.scores import SCORES, calibration, entropy, log_softmax, mean_scores, per_example

TARGETS = np.array([0, 1, 0])
P = np.array([[0.8, 0.2], [0.6, 0.4], [0.5, 0.5]])


def test_log_softmax_is_torchs():
    logits = 30 * torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(log_softmax(logits.numpy()), F.log_softmax(logits.double(), dim=-1), rtol=1e-12)


def test_each_example_by_hand():
    found = per_example(np.log(P), TARGETS)
    assert found["error"].tolist() == [0, 1, 0]  # of two equal classes the first is chosen
    assert found["nll"] == pytest.approx(-np.log([0.8, 0.4, 0.5]))
    assert found["brier"] == pytest.approx([2 * 0.2**2, 2 * 0.6**2, 2 * 0.5**2])
    several = per_example(np.log(np.stack([P, P])), TARGETS)
    assert several["nll"].shape == (2, 3) and (several["nll"] == found["nll"]).all()


def test_entropy_by_hand():
    with np.errstate(divide="ignore"):
        certain = np.log([[1.0, 0.0], [0.5, 0.5]])
    assert entropy(certain) == pytest.approx([0, np.log(2)])


def two_classes(confidences):
    return np.log(np.stack([confidences, 1 - np.asarray(confidences)], axis=1))


def test_calibration_error_by_hand():
    """Bins of a fifth: (0.4, 0.6] holds 0.55 right and 0.6 wrong, (0.6, 0.8] 0.7 right, (0.8, 1] 0.9, 0.9, 1 right."""
    log_p, right = two_classes([0.55, 0.6, 0.7, 0.9, 0.9, 1 - 1e-12]), np.array([0, 1, 0, 0, 0, 0])
    found = calibration(log_p, right, bins=5)
    assert found.count.tolist() == [0, 0, 2, 1, 3]
    assert found.confidence[2:] == pytest.approx([0.575, 0.7, 2.8 / 3]) and np.isnan(found.confidence[:2]).all()
    assert found.accuracy[2:].tolist() == [0.5, 1, 1]
    assert found.ece == pytest.approx((2 * 0.075 + 0.3 + 3 * (1 - 2.8 / 3)) / 6)


def test_calibrated_predictions_have_little_error_and_too_sure_ones_have_theirs():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 100_000)
    targets = (rng.random(100_000) > confidence).astype(int)
    assert calibration(two_classes(confidence), targets).ece < 0.01
    sure = np.full(100_000, 0.99)  # right in three quarters of the cases
    assert calibration(two_classes(sure), targets).ece == pytest.approx(0.24, abs=0.01)


def test_means_are_in_the_order_of_their_names():
    found = per_example(np.log(P), TARGETS)
    expected = [*(found[name].mean() for name in SCORES[:3]), calibration(np.log(P), TARGETS).ece]
    assert mean_scores(np.log(P), TARGETS).tolist() == expected
