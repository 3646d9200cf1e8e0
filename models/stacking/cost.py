"""Whether it pays to train runs together.

Measured by `benchmarks/stacking.py` on one thread of a 2-core processor, whole run folders included: seconds of
training one by one over seconds as a stack, of batches of 100 to 128.

    =====================================  ====  =====
    network                                runs  ratio
    =====================================  ====  =====
    mlp of 8, MNIST-1D                       16    4.8
    mlp of 100                               16    3.0
    mlp of 100                                4    2.0
    mlp of 100                                2   1.25
    mlp of 300                               16    1.9
    mlp of 600                                8    1.5
    mlp of 1000                               8   1.05
    cnn of 4 and 16 channels, MNIST-1D        8    2.3, 1.9
    cnn of 8 and 32 channels, digits          8    2.1, 1.6
    cnn of 8 channels, Fashion-MNIST          8    1.4
    resnet-8 of 8 channels, digits            8    1.8
    cnn of 64 channels, MNIST-1D              8    1.2
    =====================================  ====  =====

What is saved is a constant of each step, about a millisecond for calls of Lightning, autograd and the recording; the
arithmetic itself becomes no faster on a processor, and slower where the rows of a stack no longer fit its cache. Two or
three runs gain less than they would on a core each. On a GPU, where each call launches kernels, it was not measured.
"""

from __future__ import annotations

from models.config import RunConfig
from models.devices import find_device

_LEAST_RUNS = 4
_MOST_PRODUCTS = 40e6
"""Of weights and activations in a step: an mlp of 600 at batches of 100 has 39 million of them, one of 1000 106."""
_MOST_CHANNELS = 32
_DENSE = ("mlp", "deep-linear", "random-features")
_INPUTS = 40  # entries of an input of MNIST-1D; those of others are not known before their data is read
_ALL = 4000  # examples in a batch of all, where their number is not given


def pays(config: RunConfig, members: int) -> bool:
    """Say whether runs are trained faster together than one by one, on the same core or GPU.

    Args:
        config: One of the runs, which `stackable` puts into one stack.
        members: How many there are.

    Raises:
        ValueError: If the device is not there.
    """
    if find_device(config.device).type == "cuda":
        return members > 1
    is_small = _products(config) <= _MOST_PRODUCTS if config.model in _DENSE else _channels(config) <= _MOST_CHANNELS
    return members >= _LEAST_RUNS and is_small


def _products(config: RunConfig) -> float:
    """Multiplications of a batch's forward pass through dense layers."""
    width, depth = config.width or 0, config.depth or 1
    batch = (config.train_size or _ALL) if config.batch_size == "all" else config.batch_size
    return float(batch) * (_INPUTS * width + (depth - 1) * width**2)


def _channels(config: RunConfig) -> int:
    return (config.width or 0) * (16 if config.model == "wideresnet" else 1)
