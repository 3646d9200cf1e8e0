"""How good and how well calibrated predicted probabilities are, example by example."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

Array = NDArray[np.float64]
SCORES = ("error", "nll", "brier", "ece")
"""Share of wrong examples, mean negative log-likelihood (nats), Brier score, expected calibration error."""


def log_softmax(logits: NDArray[np.floating]) -> Array:
    """Turn logits (..., K) into log-probabilities (..., K) in float64."""
    shifted = np.asarray(logits, np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def per_example(log_p: Array, targets: NDArray[np.int64]) -> dict[str, Array]:
    """Score each example.

    Args:
        log_p: (..., N, K) log-probabilities.
        targets: (N,) labels.

    Returns:
        error: (..., N) 1 where the most likely class is not the label; nll: (..., N) nats; brier: (..., N) the sum over
        classes of squared differences between probabilities and the label's indicator, from 0 to 2.

    References:
        Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 1950, equation 2.
    """
    p = np.exp(log_p)
    truth = np.eye(p.shape[-1])[targets]
    of_label = np.take_along_axis(log_p, np.broadcast_to(targets[:, None], (*p.shape[:-1], 1)), axis=-1)[..., 0]
    return {
        "error": (p.argmax(axis=-1) != targets).astype(np.float64),
        "nll": -of_label,
        "brier": np.square(p - truth).sum(axis=-1),
    }


def entropy(log_p: Array) -> Array:
    """(...) entropy of log-probabilities (..., K), nats."""
    found: Array = entr(np.exp(log_p)).sum(axis=-1)
    return found


@dataclass(frozen=True)
class Calibration:
    """Accuracy against confidence, the probability of the most likely class, in bins of equal width.

    Attributes:
        count: (B,) predictions in each bin, those of confidence in ((b - 1) / B, b / B].
        confidence: (B,) their mean confidence; NaN where there are none.
        accuracy: (B,) the share of them that is right.
    """

    count: NDArray[np.int64]
    confidence: Array
    accuracy: Array

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean over predictions of their bin's |accuracy - confidence|."""
        gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float((self.count * gaps).sum() / self.count.sum())


def calibration(log_p: Array, targets: NDArray[np.int64], bins: int = 15) -> Calibration:
    """Put predictions into bins by their confidence.

    Args:
        log_p: (..., N, K) log-probabilities; leading axes are pooled.
        targets: (N,) labels.
        bins: Number of bins B.

    References:
        Guo et al., "On calibration of modern neural networks", ICML 2017, section 2.
    """
    confidence = np.exp(log_p.max(axis=-1)).ravel()
    right = (log_p.argmax(axis=-1) == targets).ravel()
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(which, values, minlength=bins) / count for values in (confidence, right)]
    return Calibration(count, *means)


def mean_scores(log_p: Array, targets: NDArray[np.int64], bins: int = 15) -> Array:
    """(4,) the `SCORES` of log-probabilities (N, K)."""
    found = per_example(log_p, targets)
    return np.array([*(found[name].mean() for name in SCORES[:-1]), calibration(log_p, targets, bins).ece])
