"""Data by name: embedded sets, and a user's own files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.data.files import idx_folder, image_folder, npz_file
from models.data.loader import TensorLoader
from models.data.mnist1d import mnist1d
from models.data.splits import Examples, Pool, Splits, split
from models.data.standardization import STANDARDIZATIONS
from models.data.tasks import TASKS, check_task
from models.registry import Registry, unknown

__all__ = ["DATASETS", "STANDARDIZATIONS", "TASKS", "Examples", "Splits", "TensorLoader", "check_task", "load_data"]

DATASETS = Registry("dataset")
"""Embedded data sets by name, and readers by the word before a colon; each returns a `Pool`."""

DATASETS.update({"idx:DIR": idx_folder, "npz:FILE": npz_file, "folder:DIR": image_folder})


@DATASETS.register("digits")
def _digits() -> Pool:
    """1,797 handwritten digits of 8 x 8 pixels, from scikit-learn; values 0 to 1."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return Pool((images.reshape(-1, 1, 8, 8) / 16).astype(np.float32), labels)


@DATASETS.register("mnist1d")
def _mnist1d() -> Pool:
    """MNIST-1D: 4,000 training and 1,000 test signals of length 40, the authors' split."""
    signals, labels = mnist1d()
    return Pool(signals[:4000], labels[:4000], signals[4000:], labels[4000:])


def load_data(
    name: str,
    *,
    task: str = "all",
    train_size: int | None = None,
    test_size: int | None = None,
    val_fraction: float = 0.1,
    label_noise: float = 0.0,
    standardize: str = "channel",
    seed: int = 0,
) -> Splits:
    """Load a data set and cut it into splits; the same arguments give the same tensors.

    Args:
        name: "digits", "mnist1d", "idx:DIR", "npz:FILE" or "folder:DIR".
        task: One of `TASKS`: what is cut from the data before anything else.
        train_size: Examples to train on; all that are left after the other splits if None.
        test_size: Examples to test on; all of the data's own test set, or a fifth of the pool, if None.
        val_fraction: Share of the training pool that is held out for validation, in [0, 1).
        label_noise: Share of training labels replaced by uniformly random incorrect ones, in [0, 1].
        standardize: "channel", "pixel", "pca", "whiten" or "none": by the training split's statistics.
        seed: Decides the splits, the subset and the noise. The global random state stays untouched.

    Returns:
        The splits on the CPU.

    Raises:
        ValueError: If the name is unknown (with the nearest one), a file is missing or broken, or a value is
            out of range.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be in [0, 1), got {val_fraction}")
    if not 0 <= label_noise <= 1:
        raise ValueError(f"label_noise must be in [0, 1], got {label_noise}")
    pool = _read(name)
    splits = split(
        TASKS.build(task, pool),
        train_size=train_size,
        test_size=test_size,
        val_fraction=val_fraction,
        label_noise=label_noise,
        standardize=standardize,
        seed=seed,
    )
    # a network of some classes has outputs for all, so that tasks can share it
    return replace(splits, num_classes=int(pool.targets.max()) + 1)


def _read(name: str) -> Pool:
    kind, colon, location = name.partition(":")
    for known, read in DATASETS.items():
        if known.partition(":")[0] != kind:
            continue
        if (":" in known) != bool(colon) or (colon and not location):
            raise ValueError(f"dataset {name!r} should be written {known!r}")
        return read(location) if colon else read()
    raise ValueError(unknown("dataset", name, DATASETS))
