"""Data fixed once: every pass sees the same examples in the same order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import eq, itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
)

from landscape.identity import digest
from landscape.randomness import preserved_rng
from landscape.structures import count_examples, map_tensors, tensors_of

_NOT_DATA = (list, dict, str, bytes, Tensor, np.ndarray)  # they have a length, but may hold examples or batches
_READ_TWICE = 256  # examples read a second time to find out whether the dataset augments


class Examples:
    """A fixed set of examples that can be cut into batches.

    Where every tensor of a batch counts its examples along its first axis, the batches are joined and may be
    cut at will. Other structures (lists of graphs, ragged text) keep the batches they came in.
    """

    def __init__(self, batches: Sequence[Any], counts: Sequence[int] | None = None):
        """Fix batches of any structure of tuples, lists and dicts over tensors.

        Args:
            batches: The batches.
            counts: How many examples each holds; default: the length of its last tensor, usually the targets.

        Raises:
            ValueError: If there are no examples, or a value is NaN or infinite (the message says where).
        """
        self._counts = [count_examples(batch) for batch in batches] if counts is None else list(counts)
        if not sum(self._counts):
            raise ValueError("the data has no examples; pass at least one.")
        counted = all(map(eq, self._counts, map(count_examples, batches)))
        self._whole = _join(batches) if counted else None
        self._batches = list(batches)
        if self._whole is not None:
            self._batches, self._counts = [self._whole], [sum(self._counts)]
        self._digest = ""
        _require_finite(self._batches)

    @classmethod
    def of(cls, data: Any) -> Examples:
        """Fix a DataLoader, a Dataset, a tuple (inputs, targets), or any re-iterable of batches.

        A loader that shuffles is read in the order of its dataset, `drop_last` is ignored.

        Raises:
            ValueError: If the data changes from one reading to the next, is empty, or is not finite.
            TypeError: If the data has none of these forms, or is a list, which may hold examples or batches.
        """
        if isinstance(data, Examples):
            return data
        with preserved_rng():
            if isinstance(data, tuple):
                return cls([_as_pair(data)])
            if isinstance(data, DataLoader):
                return _fix_loader(data)
            if isinstance(data, IterableDataset):
                return _fix_loader(DataLoader(data, batch_size=_READ_TWICE))
            if isinstance(data, Dataset) or _is_like_a_dataset(data):
                return _fix_loader(DataLoader(data, batch_size=_READ_TWICE))
            if isinstance(data, Iterable) and not isinstance(data, _NOT_DATA):
                return cls(_read_twice(data))
        raise TypeError(
            f"data must be a DataLoader, a Dataset or a tuple (inputs, targets), not {type(data).__name__}; "
            "wrap tensors in a TensorDataset, lists of examples in a Dataset, batches in a DataLoader."
        )

    def __len__(self) -> int:
        return sum(self._counts)

    @property
    def divisible(self) -> bool:
        """Whether the examples can be cut into batches of any size."""
        return self._whole is not None

    def batches(self, size: int) -> Iterator[tuple[Any, int]]:
        """Yield (batch, number of its examples); the last may be short, or one longer.

        A single example left at the end goes with the batch before it, for alone it has no batch statistics.
        """
        if self._whole is None:
            yield from zip(self._batches, self._counts, strict=True)
            return
        start = 0
        while start < len(self):
            stop = min(start + size, len(self))
            if stop == len(self) - 1 and size > 1:
                stop += 1
            yield map_tensors(itemgetter(slice(start, stop)), self._whole), stop - start
            start = stop

    def take(self, number: int, seed: int = 0, *, shuffled: bool = False) -> Examples:
        """Choose a random subset, kept in order unless `shuffled`; the same seed takes the same examples.

        Raises:
            ValueError: If there are not that many examples, or they cannot be cut.
        """
        if not 1 <= number <= len(self):
            raise ValueError(f"examples must lie between 1 and {len(self)}, got {number}.")
        if self._whole is None:
            raise ValueError("these batches cannot be cut; pass fewer batches instead of examples=.")
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(self), generator=generator)[:number]
        chosen = chosen if shuffled else chosen.sort().values
        return Examples([map_tensors(lambda t: t[chosen.to(t.device)], self._whole)])

    def to(self, device: torch.device, dtype: torch.dtype) -> Examples:
        """Move to a device, floating-point tensors to a dtype."""

        def move(tensor: Tensor) -> Tensor:
            tensor = tensor.clone() if tensor.is_inference() else tensor
            return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)

        with torch.inference_mode(False):
            return Examples([map_tensors(move, batch) for batch in self._batches], self._counts)

    def digest(self) -> str:
        """SHA-256 of every value, shape and dtype, in order."""
        if not self._digest:
            self._digest = digest(*tensors_of(self._batches))
        return self._digest


def _is_like_a_dataset(data: Any) -> bool:
    return hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, _NOT_DATA)


def _as_pair(data: tuple) -> tuple[Tensor, Tensor]:
    if len(data) != 2:
        raise TypeError(f"a tuple of data must be (inputs, targets), got {len(data)} entries.")
    inputs, targets = (torch.from_numpy(d) if isinstance(d, np.ndarray) else d for d in data)
    if not (isinstance(inputs, Tensor) and isinstance(targets, Tensor)):
        raise TypeError("inputs and targets must be tensors or arrays.")
    if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets):
        raise ValueError(
            f"inputs and targets must have one entry an example along their first axis, "
            f"got shapes {tuple(inputs.shape)} and {tuple(targets.shape)}."
        )
    return inputs, targets


def _join(batches: Sequence[Any]) -> Any:
    """Join batches along the first axis of every tensor, or return None where that has no meaning."""
    for batch in batches:
        tensors = tensors_of(batch)
        if not _only_tensors(batch) or len({len(t) if t.ndim else -1 for t in tensors}) != 1:
            return None
        if tensors[0].ndim == 0:
            return None
    columns = list(zip(*(tensors_of(batch) for batch in batches), strict=False))
    same = {len(tensors_of(batch)) for batch in batches} == {len(columns)}
    if not same or any(len({(t.shape[1:], t.dtype) for t in column}) != 1 for column in columns):
        return None
    joined = iter([column[0] if len(column) == 1 else torch.cat(column) for column in columns])
    return map_tensors(lambda _: next(joined), batches[0])


def _only_tensors(batch: Any) -> bool:
    if isinstance(batch, dict):
        return all(_only_tensors(value) for value in batch.values())
    if isinstance(batch, list | tuple):
        return bool(batch) and all(_only_tensors(value) for value in batch)
    return isinstance(batch, Tensor)


def _require_finite(batches: Sequence[Any]) -> None:
    for number, batch in enumerate(batches):
        for place, tensor in enumerate(tensors_of(batch)):
            if tensor.is_floating_point() and not tensor.isfinite().all():
                bad = (~tensor.isfinite()).nonzero()[0].tolist()
                where = f"batch {number}, " if len(batches) > 1 else ""
                name = ("inputs", "targets")[place] if place < 2 else f"tensor {place}"
                raise ValueError(
                    f"the data is not finite: {where}{name}{bad} is {tensor[tuple(bad)].item()}; "
                    "clean the data before measuring on it."
                )


def _fix_loader(loader: DataLoader) -> Examples:
    indices = _indices_of(loader)
    if indices is None:
        with _preserved_generators(loader):
            return Examples(_read_twice(loader))
    if type(loader.dataset) is TensorDataset and loader.collate_fn is torch.utils.data.default_collate:
        return Examples([[t[torch.as_tensor(indices, dtype=torch.long)] for t in loader.dataset.tensors]])
    return _fix_dataset(loader, indices)


@contextmanager
def _preserved_generators(loader: DataLoader) -> Iterator[None]:
    """Give the generators that a loader and its sampler draw from back as they were."""
    owners = (loader, loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    generators = [g for owner in owners if isinstance(g := getattr(owner, "generator", None), torch.Generator)]
    states = [generator.get_state() for generator in generators]
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _indices_of(loader: DataLoader) -> list[int] | None:
    """Say which examples a loader reads, in the order of its dataset; None where only reading it tells."""
    if isinstance(loader.dataset, IterableDataset) or loader.batch_size is None:
        return None
    sampler: Any = loader.sampler
    kind = type(sampler)  # a subclass may choose its own examples
    if kind is SequentialSampler:
        return list(range(len(sampler)))
    if kind is RandomSampler and not sampler.replacement and len(sampler) == len(sampler.data_source):
        return list(range(len(sampler)))
    if kind is SubsetRandomSampler:
        return sorted(int(i) for i in sampler.indices)
    return None


def _fix_dataset(loader: DataLoader, indices: Sequence[int]) -> Examples:
    size = loader.batch_size or 1
    chunks = [list(indices[start : start + size]) for start in range(0, len(indices), size)]

    def read(some: Sequence[list[int]]) -> list[Any]:
        return list(DataLoader(loader.dataset, batch_sampler=some, collate_fn=loader.collate_fn))

    batches = read(chunks)
    again = read(chunks[: max(1, _READ_TWICE // size)])
    if not all(map(_same, batches, again)):
        raise ValueError(
            "the dataset returns other values when an example is read a second time (augmentation or "
            "noise); pass the same dataset without its random transforms."
        )
    return Examples(batches, [len(chunk) for chunk in chunks])


def _read_twice(loader: Iterable[Any]) -> list[Any]:
    first, second = list(loader), list(loader)
    if len(first) != len(second) or not all(map(_same, first, second)):
        raise ValueError(
            "the data gives other examples, or another order, when it is read a second time (shuffling, "
            "sampling with replacement, or a generator that is used up); pass a loader with shuffle=False, "
            "the dataset itself, or a tuple (inputs, targets)."
        )
    return first


def _same(first: Any, second: Any) -> bool:
    a, b = tensors_of(first), tensors_of(second)
    return len(a) == len(b) and all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(a, b, strict=True))
