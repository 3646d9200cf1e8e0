"""From a pool of examples to fixed training, validation and test tensors, all by seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from landscape.identity import digest
from models.data.standardization import Standardization, fit_standardization
from models.seeds import derived_seed


class Examples(NamedTuple):
    """Examples side by side.

    Attributes:
        inputs: (N, C, H, W) or (N, C, L) float32.
        targets: (N,) int64 labels.
    """

    inputs: Tensor
    targets: Tensor

    def to(self, device: torch.device | str) -> Examples:
        """Return the same examples on another device."""
        return Examples(self.inputs.to(device), self.targets.to(device))


class Pool(NamedTuple):
    """What a source of data yields: one pool, or a training and a test pool of its own."""

    inputs: np.ndarray
    targets: np.ndarray
    test_inputs: np.ndarray | None = None
    test_targets: np.ndarray | None = None


@dataclass(frozen=True)
class Splits:
    """Data ready for training.

    Attributes:
        train: Examples to learn from, with noisy labels if some were asked for.
        val: Examples held out from the training pool, or None.
        test: Examples never trained on.
        num_classes: Number of classes; labels are 0 .. num_classes - 1.
        input_shape: Shape of one input, without the batch.
        standardization: What inputs have been through.
        digest: SHA-256 over all tensors; over those before a rotation, whose last bits a machine's arithmetic decides.
    """

    train: Examples
    val: Examples | None
    test: Examples
    num_classes: int
    input_shape: tuple[int, ...]
    standardization: Standardization
    digest: str


def split(
    pool: Pool,
    *,
    train_size: int | None,
    test_size: int | None,
    val_fraction: float,
    label_noise: float,
    standardize: str,
    seed: int,
) -> Splits:
    """Cut a pool into disjoint splits, add noise to training labels, standardize by training statistics.

    Without a test pool of its own, a fifth of the pool (or `test_size`) becomes the test set. Each step draws
    from its own stream of `seed`, so that more noise or a smaller training set leaves the test set as it was.

    Raises:
        ValueError: If the pool is empty or broken, or the sizes ask for more than there is.
    """
    train, test = _check(pool.inputs, pool.targets, "training"), None
    if pool.test_inputs is not None and pool.test_targets is not None:
        test = _check(pool.test_inputs, pool.test_targets, "test")
    num_classes = _count_classes(train[1], test)
    order = _stream(seed, "order").permutation(len(train[1]))
    if test is None:
        held_out = len(order) // 5 if test_size is None else test_size
        _enough("test_size", held_out, len(order) - 1)
        test, order = _take(train, order[:held_out]), order[held_out:]
    elif test_size is not None:
        _enough("test_size", test_size, len(test[1]))
        test = _take(test, _stream(seed, "test").permutation(len(test[1]))[:test_size])
    held_out = round(val_fraction * len(order))
    val_order, order = order[:held_out], order[held_out:]
    _enough("train_size", 1 if train_size is None else train_size, len(order))
    val, train = _take(train, val_order), _take(train, order[:train_size])
    train = (train[0], add_label_noise(train[1], label_noise, num_classes, _stream(seed, "noise")))
    standardization = fit_standardization(standardize, train[0])
    parts = [_examples(standardization(inputs), targets) for inputs, targets in (train, val, test)]
    known = parts if standardization.matrix is None else [_examples(*part) for part in (train, val, test)]
    return Splits(
        train=parts[0],
        val=parts[1] if held_out else None,
        test=parts[2],
        num_classes=num_classes,
        input_shape=tuple(parts[0].inputs.shape[1:]),
        standardization=standardization,
        digest=digest(*(tensor for part in known if len(part.targets) for tensor in part)),
    )


def add_label_noise(targets: np.ndarray, fraction: float, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Replace labels by uniformly random *incorrect* ones.

    Exactly `round(fraction * N)` examples, drawn without replacement, each get one of the `num_classes - 1`
    labels that are not theirs, with equal probability. (Drawing from all classes instead would leave one in
    `num_classes` correct.)

    Args:
        targets: (N,) labels.
        fraction: Share of wrong labels, in [0, 1].
        num_classes: At least 2 if `fraction` is positive.
        rng: Source of randomness.

    Returns:
        (N,) labels, a copy.

    References:
        Nakkiran et al., "Deep Double Descent", ICLR 2020, section 2 (label noise).
    """
    noisy = targets.copy()
    count = round(fraction * len(targets))
    if count and num_classes < 2:
        raise ValueError("label noise needs at least two classes, the data has one")
    chosen = rng.choice(len(targets), size=count, replace=False)
    noisy[chosen] = (targets[chosen] + rng.integers(1, max(num_classes, 2), size=count)) % num_classes
    return noisy


def _check(inputs: np.ndarray, targets: np.ndarray, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and int64 targets of one pool after making sure that they can be learned from."""
    inputs, targets = np.asarray(inputs), np.asarray(targets)
    if len(inputs) == 0 or inputs[0].size == 0:
        raise ValueError(f"the {part} data is empty (inputs of shape {inputs.shape}); nothing can be learned from it")
    if targets.ndim != 1 or len(targets) != len(inputs):
        raise ValueError(
            f"the {part} data has {len(inputs)} inputs but labels of shape {targets.shape}; expected one each"
        )
    bad = ~np.isfinite(inputs)
    if bad.any():
        where = tuple(int(index) for index in np.argwhere(bad)[0])
        raise ValueError(f"the {part} inputs hold {bad.sum()} NaN or infinite values, the first at index {where}")
    if targets.dtype.kind not in "iub" and not (targets.dtype.kind == "f" and np.equal(np.mod(targets, 1), 0).all()):
        raise ValueError(f"the {part} labels must be whole numbers 0, 1, 2, ..., got values of type {targets.dtype}")
    targets = targets.astype(np.int64)
    if targets.min() < 0:
        raise ValueError(f"the {part} labels must be 0, 1, 2, ..., got {targets.min()}")
    return inputs, targets


def _count_classes(targets: np.ndarray, test: tuple[np.ndarray, np.ndarray] | None) -> int:
    """Return the number of classes, one more than the largest label of the whole training pool."""
    highest = int(targets.max())
    if highest >= len(targets):
        raise ValueError(f"the labels go to {highest} but there are only {len(targets)} examples; number them from 0")
    if test is not None and test[1].max() > highest:
        raise ValueError(f"the test labels go to {test[1].max()}, the training labels only to {highest}")
    return highest + 1


def _stream(seed: int, purpose: str) -> np.random.Generator:
    """Return a generator for one purpose; the streams of different purposes are independent."""
    return np.random.default_rng(derived_seed(seed, purpose))


def _enough(name: str, asked: int, available: int) -> None:
    if not 1 <= asked <= available:
        raise ValueError(f"{name} must be between 1 and the {available} examples at hand, got {asked}")


def _take(part: tuple[np.ndarray, np.ndarray], indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return part[0][indices], part[1][indices]


def _examples(inputs: np.ndarray, targets: np.ndarray) -> Examples:
    return Examples(torch.from_numpy(np.asarray(inputs, np.float32)), torch.from_numpy(targets))
