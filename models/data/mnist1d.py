"""MNIST-1D: ten one-dimensional glyphs, randomly placed, scaled, sheared and buried in noise.

References:
    Greydanus & Kobak, "Scaling Down Deep Learning with MNIST-1D", ICML 2024, section 2.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter1d

NUM_EXAMPLES = 5000
SEED = 42
PADDING = (36, 60)  # zeros after the glyph
LENGTH = 12 + PADDING[1]  # places of a glyph with its padding, before subsampling
FINAL_LENGTH = 40
SCALE = 0.4
MAX_TRANSLATION = 48
CORRELATED_NOISE, CORRELATION_LENGTH = 0.25, 2
WHITE_NOISE = 0.02
SHEAR = 0.75

GLYPHS = np.array(
    [
        [5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5],
        [5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5],
        [5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5],
        [5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5],
        [5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5],
        [5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5],
        [5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5],
        [5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5],
        [5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5],
        [5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5],
    ]
)


@lru_cache(maxsize=1)
def mnist1d() -> tuple[np.ndarray, np.ndarray]:
    """Generate the published data set: the default parameters and seed of the authors' code.

    Returns:
        Signals (5000, 1, 40), standardized over the whole set as published, and labels (5000,), shuffled;
        the authors train on the first 4,000. Both are read-only. The global random state stays untouched.
    """
    rng = np.random.RandomState(SEED)
    glyphs = (GLYPHS - GLYPHS.mean(1, keepdims=True)) / GLYPHS.std(1, keepdims=True)
    glyphs = (glyphs - glyphs[:, :1]) / 6 + 1e-8  # no place of a glyph is exactly zero: zero marks the padding
    labels = np.repeat(np.arange(10), NUM_EXAMPLES // 10)
    signals = np.stack([_draw(glyphs[label], rng) for label in labels])
    order = rng.permutation(NUM_EXAMPLES)
    signals, labels = signals[order, None], labels[order]
    signals = (signals - signals.mean()) / signals.std()
    signals.setflags(write=False)
    labels.setflags(write=False)
    return signals, labels


def _draw(glyph: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Return one example (40,); the order of the draws is the authors', so that the seed means the same."""
    low, high = PADDING
    padded = np.concatenate([glyph, np.zeros(low + int(rng.rand() * (high - low + 1)))])
    signal = _resample(padded, LENGTH) * (1 + SCALE * (rng.rand() - 0.5))
    signal = np.roll(signal, rng.choice(MAX_TRANSLATION))
    noise = gaussian_filter1d(CORRELATED_NOISE * rng.randn(LENGTH), CORRELATION_LENGTH)
    signal = np.where(signal != 0, signal, noise) + WHITE_NOISE * rng.randn(LENGTH)
    signal -= SHEAR * (rng.rand() - 0.5) * np.linspace(-0.5, 0.5, LENGTH)
    return _resample(signal, FINAL_LENGTH)


def _resample(signal: np.ndarray, length: int) -> np.ndarray:
    return np.interp(np.linspace(0, 1, length), np.linspace(0, 1, len(signal)), signal)
