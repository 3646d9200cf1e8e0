"""Batches of several runs side by side, each from its own examples in its own order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from models.data import Examples, TensorLoader


class StackedExamples:
    """The examples of M runs; runs of equal inputs share them, whatever their labels.

    Attributes:
        inputs: (U N, ...) the inputs of U different sets, one after the other.
        first: (M, 1) where the inputs of each run begin.
        targets: (M, N) labels.
    """

    def __init__(self, parts: Sequence[Examples], device: torch.device | str = "cpu") -> None:
        """Put the examples of runs side by side; all have the same number of them."""
        different: list[Tensor] = []
        places = [_place(part.inputs, different) for part in parts]
        self.inputs = (different[0] if len(different) == 1 else torch.cat(different)).to(device)
        self.targets = torch.stack([part.targets for part in parts]).to(device)
        self.first = torch.tensor(places, device=device)[:, None] * self.targets.shape[1]
        self._shared = len(different) == 1

    def take(self, index: Tensor) -> Examples:
        """Gather a batch of each run: from (M, B) places to inputs (M, B, ...) and labels (M, B)."""
        return Examples(self.inputs[index + self.first], self.targets.gather(1, index))

    def batches(self, size: int) -> Iterator[Examples]:
        """Go through all examples in their order, `size` of each run at a time."""
        count = self.targets.shape[1]
        for begin in range(0, count, size):
            index = torch.arange(begin, min(begin + size, count), device=self.targets.device)
            if self._shared:
                inputs = self.inputs[begin : begin + size]
                yield Examples(inputs.expand(len(self.targets), *inputs.shape), self.targets[:, index])
            else:
                yield self.take(index.expand(len(self.targets), -1))


class StackedLoader:
    """Iterate over batches of M runs: that of each is what its own `TensorLoader` would give.

    Attributes:
        dataset: The examples of all runs.
        sampler: The loader itself, which has `set_epoch`.
        batch_sampler: None, as in a DataLoader that cuts its own batches.
    """

    batch_sampler = None

    def __init__(self, loaders: Sequence[TensorLoader], dataset: StackedExamples) -> None:
        self.dataset = dataset
        self._loaders = loaders

    @property
    def sampler(self) -> StackedLoader:
        """What has `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the orders of the next iteration."""
        for loader in self._loaders:
            loader.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._loaders[0])

    def __iter__(self) -> Iterator[Examples]:
        orders = torch.stack([loader.order() for loader in self._loaders]).to(self.dataset.targets.device)
        # a generator, since Lightning sets the epoch after it has asked for the iterator
        yield from map(self.dataset.take, orders.split(self._loaders[0].batch_size, dim=1))


def _place(inputs: Tensor, different: list[Tensor]) -> int:
    """Return the number of a set of inputs, a new one if it is like none so far."""
    for number, known in enumerate(different):
        if inputs.data_ptr() == known.data_ptr() or torch.equal(inputs, known):
            return number
    different.append(inputs)
    return len(different) - 1
