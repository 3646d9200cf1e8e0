"""Batches from tensors that already sit where they are needed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import TensorDataset

from models.data.splits import Examples
from models.seeds import Fork, derived_seed, seed_at


class TensorLoader:
    """Iterate over examples in batches, without collating them one by one.

    The order of epoch e is a permutation drawn from (seed, e) alone, so that a training that resumes at an
    epoch's end sees what it would have seen. The last batch may be short. In the epoch of a fork the examples that are
    left at that step follow in the order that the forked seed gives the epoch, so that each is still seen once.

    Attributes:
        dataset: The examples as a `TensorDataset`, in their fixed order.
        batch_size: Examples in a batch.
        epoch: The epoch whose order comes next; Lightning sets it through `sampler.set_epoch`.
        sampler: The loader itself.
        batch_sampler: None, as in a DataLoader that cuts its own batches.
    """

    batch_sampler = None

    def __init__(
        self, examples: Examples, batch_size: int, *, shuffle: bool = False, seed: int = 0, fork: Fork | None = None
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.dataset = TensorDataset(*examples)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.fork = fork
        self.epoch = 0

    @property
    def sampler(self) -> TensorLoader:
        """What has `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[Examples]:
        inputs, targets = self.dataset.tensors
        if not self.shuffle:
            yield from map(Examples, inputs.split(self.batch_size), targets.split(self.batch_size))
            return
        for batch in self.order().to(targets.device).split(self.batch_size):
            yield Examples(inputs[batch], targets[batch])

    def order(self) -> torch.Tensor:
        """Return the permutation (N,) of the current epoch, the same on every device."""
        first, fork = self.epoch * len(self), self.fork
        order = self._order(seed_at(first, self.seed, fork))
        if fork is None or not first < fork.step < first + len(self):
            return order
        seen, forked = order[: (fork.step - first) * self.batch_size], self._order(fork.seed_of(self.seed))
        is_left = torch.ones(len(order), dtype=torch.bool).index_fill_(0, seen, False)
        return torch.cat([seen, forked[is_left[forked]]])

    def _order(self, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(derived_seed(seed, "order", self.epoch))
        return torch.randperm(len(self.dataset), generator=generator)
