"""How inputs are standardized, always by the statistics of the training split, in float64.

Inputs of mean zero and variance one, and more so uncorrelated ones, make the loss curve alike in all directions of the
first layer. The Hessian of linear regression without a bias is the second moment of its inputs; gradient descent needs
steps in proportion to its condition number. On the 8 x 8 digits, without the four directions that never vary, that is
3e6 as they come, 2e6 by channel, 2e5 rotated (pca), 150 by pixel, 4 whitened and 1 whitened with eps=0.

References:
    LeCun et al., "Efficient BackProp", 1998, sections 4.3 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from models.registry import Registry

LARGEST = 4096
"""Entries of an input up to which their covariance is written out."""

_BLOCK = 4096  # examples that are rotated at a time

STANDARDIZATIONS = Registry("standardize")
"""Functions `(inputs, *, options) -> Standardization` of training inputs (N, C, ...)."""


@dataclass(frozen=True, eq=False)
class Standardization:
    """x -> M (x - shift) / scale.

    Attributes:
        shift: What is subtracted, float64, broadcastable to (N, C, ...).
        scale: What is divided by, the same.
        matrix: (D, D) float64 for inputs of D entries, flattened; None leaves them as they are.
        inverse: (D, D) its inverse.
    """

    shift: np.ndarray
    scale: np.ndarray
    matrix: np.ndarray | None = None
    inverse: np.ndarray | None = None

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Standardize inputs (N, C, ...)."""
        centered = (inputs - self.shift) / self.scale
        if self.matrix is None:
            return centered
        rows = centered.reshape(len(centered), len(self.matrix))
        for start in range(0, len(rows), _BLOCK):
            rows[start : start + _BLOCK] = rows[start : start + _BLOCK] @ self.matrix.T
        return rows.reshape(centered.shape)

    def on(self, device: torch.device) -> TensorStandardization:
        """Return the same for tensors on a device, in float32, with the way back."""
        arrays = (self.shift, self.scale, self.matrix, self.inverse)
        return TensorStandardization(
            *(None if a is None else torch.as_tensor(a, dtype=torch.float32, device=device) for a in arrays)
        )


@dataclass(frozen=True, eq=False)
class TensorStandardization:
    """A `Standardization` of tensors on one device, and its inverse."""

    shift: Tensor
    scale: Tensor
    matrix: Tensor | None
    inverse: Tensor | None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Standardize inputs (N, C, ...) as they come from the data."""
        return _rotated((inputs - self.shift) / self.scale, self.matrix)

    def undo(self, inputs: Tensor) -> Tensor:
        """Return standardized inputs (N, C, ...) to what they came as."""
        return _rotated(inputs, self.inverse) * self.scale + self.shift


def _rotated(inputs: Tensor, matrix: Tensor | None) -> Tensor:
    return inputs if matrix is None else (inputs.flatten(1) @ matrix.T).view_as(inputs)


def check_standardization(text: str) -> None:
    """Refuse a standardization that there is not, or whose options are out of range.

    Raises:
        ValueError: If so.
    """
    fit_standardization(text, np.zeros((2, 1, 1)))


def fit_standardization(text: str, inputs: np.ndarray) -> Standardization:
    """Fit a standardization to training inputs.

    Args:
        text: One of `STANDARDIZATIONS`, alone or with options, as in "whiten:eps=1e-3".
        inputs: (N, C, ...) training inputs.

    Raises:
        ValueError: If the name or an option is unknown or out of range, or inputs are too long to be whitened.
    """
    return STANDARDIZATIONS.build(text, inputs)


@STANDARDIZATIONS.register("channel")
def by_channel(inputs: np.ndarray) -> Standardization:
    """Give each channel mean zero and variance one over examples and places; a constant one is divided by 1."""
    return _by_deviation(inputs, (0, *range(2, inputs.ndim)))


@STANDARDIZATIONS.register("pixel")
def by_pixel(inputs: np.ndarray) -> Standardization:
    """Give each entry of the inputs mean zero and variance one over examples; a constant one is divided by 1."""
    return _by_deviation(inputs, (0,))


@STANDARDIZATIONS.register("none")
def as_they_come(inputs: np.ndarray) -> Standardization:
    """Leave inputs as they come."""
    return Standardization(np.asarray(0, np.float32), np.asarray(1, np.float32))


@STANDARDIZATIONS.register("pca")
def principal_components(inputs: np.ndarray) -> Standardization:
    """Subtract the mean and rotate to the principal components, the one of largest variance first.

    Inputs keep their shape, so that every network takes them, but neighbours in it are no neighbours of the image any
    more: convolutions see them side by side in the order of their variance.

    Raises:
        ValueError: If an input has more than `LARGEST` entries.
    """
    mean, _, vectors = _components(inputs)
    return Standardization(mean, np.asarray(1.0), vectors.T, vectors)


@STANDARDIZATIONS.register("whiten")
def whiten(inputs: np.ndarray, *, eps: float = 1e-5, form: Literal["zca", "pca"] = "zca") -> Standardization:
    """Make all directions uncorrelated and of variance one, or v / (v + eps) where it was v.

    zca rotates back afterwards: of all that whiten, it changes the inputs least (Bell & Sejnowski 1997), so that pixels
    keep their places and convolutions their meaning. pca stays with the principal components. Directions
    without variance (to 1e-10 of the largest), such as pixels that are always black, are divided by 1.

    Raises:
        ValueError: If eps is negative, or an input has more than `LARGEST` entries.
    """
    if not 0 <= eps < np.inf:
        raise ValueError(f"standardize 'whiten' needs eps of at least 0, got {eps}")
    mean, variances, vectors = _components(inputs)
    deviations = np.where(variances > 1e-10 * variances.max(), np.sqrt(np.maximum(variances, 0) + eps), 1.0)
    back = vectors if form == "zca" else np.eye(len(vectors))
    matrix, inverse = back @ (vectors / deviations).T, (vectors * deviations) @ back.T
    return Standardization(mean, np.asarray(1.0), matrix, inverse)


def _by_deviation(inputs: np.ndarray, axes: tuple[int, ...]) -> Standardization:
    mean = inputs.mean(axes, keepdims=True, dtype=np.float64)
    deviation = inputs.std(axes, keepdims=True, dtype=np.float64)
    constant = deviation <= 1e-6 * np.maximum(np.abs(mean), np.finfo(np.float32).tiny)
    return Standardization(mean, np.where(constant, 1.0, deviation))


def _components(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean (1, C, ...), and variances (D,) and directions (D, D), as columns, from largest to smallest."""
    size = int(np.prod(inputs.shape[1:]))
    if size > LARGEST:
        raise ValueError(
            f"standardize 'pca' and 'whiten' write out the covariance of all entries of an input, at most {LARGEST}, "
            f"got {size}; choose channel or pixel"
        )
    mean = inputs.mean(0, keepdims=True, dtype=np.float64)
    covariance = np.zeros((size, size))
    for start in range(0, len(inputs), _BLOCK):
        rows = (inputs[start : start + _BLOCK] - mean).reshape(-1, size)
        covariance += rows.T @ rows / len(inputs)
    variances, vectors = np.linalg.eigh(covariance)
    signs = np.where(vectors[np.abs(vectors).argmax(0), np.arange(size)] < 0, -1.0, 1.0)
    return mean, variances[::-1].copy(), (vectors * signs)[:, ::-1].copy()
