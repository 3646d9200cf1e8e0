"""Tasks cut from one data set: some of its classes, or its inputs under a fixed permutation."""

from __future__ import annotations

import numpy as np

from models.data.splits import Pool
from models.registry import Registry
from models.seeds import derived_seed

TASKS = Registry("task")
"""Functions `(pool, *, options)` from a pool of examples to that of the task."""


@TASKS.register("all")
def everything(pool: Pool) -> Pool:
    """The data as it is."""
    return pool


@TASKS.register("classes")
def some_classes(pool: Pool, *, labels: str) -> Pool:
    """Only the examples of some classes, written 0/1/2; labels and the number of outputs stay those of the data."""
    wanted = _labels(labels)
    if missing := sorted(set(wanted) - set(np.unique(pool.targets).tolist())):
        raise ValueError(f"task 'classes:{labels}' asks for class {missing[0]}, of which the data has no example")
    chosen = np.isin(pool.targets, wanted)
    if pool.test_inputs is None or pool.test_targets is None:
        return Pool(pool.inputs[chosen], pool.targets[chosen])
    tested = np.isin(pool.test_targets, wanted)
    return Pool(pool.inputs[chosen], pool.targets[chosen], pool.test_inputs[tested], pool.test_targets[tested])


@TASKS.register("permuted")
def permuted(pool: Pool, *, seed: int) -> Pool:
    """The places of every input in one fixed random order, channels alike; 0 leaves them (Goodfellow et al. 2014)."""
    if seed < 0:
        raise ValueError(f"task 'permuted' needs a seed of at least 0, got {seed}")
    if seed == 0:
        return pool
    shape = pool.inputs.shape
    order = np.random.default_rng(derived_seed(seed, "permutation")).permutation(int(np.prod(shape[2:])))

    def moved(inputs: np.ndarray) -> np.ndarray:
        return inputs.reshape(*inputs.shape[:2], -1)[..., order].reshape(inputs.shape)

    test = None if pool.test_inputs is None else moved(pool.test_inputs)
    return Pool(moved(pool.inputs), pool.targets, test, pool.test_targets)


def check_task(text: str) -> None:
    """Refuse a task that cannot be read.

    Raises:
        ValueError: If the name is unknown, or an option is not what it should be.
    """
    name, options = TASKS.read(text)
    if name == "classes":
        _labels(options["labels"])


def _labels(text: str) -> list[int]:
    words = text.split("/")
    if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise ValueError(f"task 'classes' needs different labels such as 0/1/2, got {text!r}")
    return [int(word) for word in words]
