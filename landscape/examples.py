"""Data fixed once: every pass sees the same examples in the same order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
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
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from landscape.randomness import preserved_rng
from landscape.structures import count_examples, map_tensors, tensors_of

_READ_TWICE = 256  # examples read a second time to find out whether the dataset augments


class Examples:
    """A fixed set of examples that can be cut into batches.

    Where every tensor of a batch counts its examples along its first axis, the batches are joined and may be
    cut at will. Other structures (lists of graphs, ragged text) keep the batches they came in.
    """

    def __init__(self, batches: Sequence[Any]):
        """Fix batches of any structure of tuples, lists and dicts over tensors.

        Raises:
            ValueError: If there are no examples, or a value is NaN or infinite (the message says where).
        """
        if not batches or not any(count_examples(batch) for batch in batches):
            raise ValueError("the data has no examples; pass at least one.")
        self._whole = _join(batches)
        self._batches = [] if self._whole is not None else list(batches)
        _require_finite(self._batches if self._whole is None else [self._whole])

    @classmethod
    def of(cls, data: Any) -> Examples:
        """Fix a DataLoader, a Dataset, a tuple (inputs, targets), or any re-iterable of batches.

        A loader that shuffles is read in the order of its dataset, `drop_last` is ignored.

        Raises:
            ValueError: If the data changes from one reading to the next, is empty, or is not finite.
            TypeError: If the data has none of these forms.
        """
        if isinstance(data, Examples):
            return data
        with preserved_rng():
            if isinstance(data, tuple):
                return cls([_as_pair(data)])
            if isinstance(data, DataLoader):
                return cls(_fix_loader(data))
            if isinstance(data, IterableDataset):
                return cls(_fix_loader(DataLoader(data, batch_size=_READ_TWICE)))
            if isinstance(data, Dataset) or (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
                return cls(_fix_dataset(data, range(len(data)), None, _READ_TWICE))
            if isinstance(data, Iterable):
                return cls(_read_twice(data))
        raise TypeError(
            f"data must be a DataLoader, a Dataset or a tuple (inputs, targets), not {type(data).__name__}."
        )

    def __len__(self) -> int:
        if self._whole is not None:
            return count_examples(self._whole)
        return sum(count_examples(batch) for batch in self._batches)

    @property
    def divisible(self) -> bool:
        """Whether the examples can be cut into batches of any size."""
        return self._whole is not None

    def batches(self, size: int) -> Iterator[tuple[Any, int]]:
        """Yield (batch, number of its examples); the last batch may be short."""
        if self._whole is None:
            for batch in self._batches:
                yield batch, count_examples(batch)
            return
        total = len(self)
        for start in range(0, total, size):
            stop = min(start + size, total)
            part = slice(start, stop)
            yield map_tensors(itemgetter(part), self._whole), stop - start

    def take(self, number: int, seed: int = 0) -> Examples:
        """Choose a random subset, kept in order; the same seed takes the same examples.

        Raises:
            ValueError: If there are not that many examples, or they cannot be cut.
        """
        if not 1 <= number <= len(self):
            raise ValueError(f"examples must lie between 1 and {len(self)}, got {number}.")
        if self._whole is None:
            raise ValueError("these batches cannot be cut; pass fewer batches instead of examples=.")
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(self), generator=generator)[:number].sort().values
        return Examples([map_tensors(lambda t: t[chosen.to(t.device)], self._whole)])

    def to(self, device: torch.device, dtype: torch.dtype) -> Examples:
        """Move to a device, floating-point tensors to a dtype."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)

        return Examples([map_tensors(move, batch) for batch in self._parts()])

    def digest(self) -> str:
        """SHA-256 of every value, shape and dtype, in order."""
        sha = hashlib.sha256()
        for batch in self._parts():
            for tensor in tensors_of(batch):
                sha.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                sha.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return sha.hexdigest()

    def _parts(self) -> list[Any]:
        return self._batches if self._whole is None else [self._whole]


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


def _fix_loader(loader: DataLoader) -> list[Any]:
    indices = _indices_of(loader)
    if indices is None:
        return _read_twice(loader)
    if isinstance(loader.dataset, TensorDataset) and _collates_by_default(loader):
        return [tuple(t[torch.as_tensor(indices)] for t in loader.dataset.tensors)] if indices else []
    return _fix_dataset(loader.dataset, indices, loader.collate_fn, loader.batch_size or 1)


def _indices_of(loader: DataLoader) -> list[int] | None:
    """Say which examples a loader reads, in the order of its dataset; None where only reading it tells."""
    if isinstance(loader.dataset, IterableDataset) or loader.batch_size is None:
        return None
    sampler = loader.sampler
    if isinstance(sampler, SequentialSampler):
        return list(range(len(loader.dataset)))  # type: ignore[arg-type]
    if isinstance(sampler, RandomSampler) and not sampler.replacement:
        return list(range(len(loader.dataset)))  # type: ignore[arg-type]
    if isinstance(sampler, SubsetRandomSampler):
        return sorted(int(i) for i in sampler.indices)
    return None


def _collates_by_default(loader: DataLoader) -> bool:
    return loader.collate_fn is torch.utils.data.default_collate


def _fix_dataset(dataset: Any, indices: Sequence[int], collate: Any, batch_size: int) -> list[Any]:
    loader = DataLoader(Subset(dataset, list(indices)), batch_size=batch_size, collate_fn=collate)
    batches = list(loader)
    again = DataLoader(Subset(dataset, list(indices)[:_READ_TWICE]), batch_size=batch_size, collate_fn=collate)
    for first, second in zip(batches, again, strict=False):
        if count_examples(first) == count_examples(second) and not _same(first, second):
            raise ValueError(
                "the dataset returns other values when an example is read a second time (augmentation or "
                "noise); pass the same dataset without its random transforms."
            )
    return batches


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
