"""Graphs of derivatives: how many to keep between products, and how many vectors to send through one at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from landscape.batch_size import activation_budget, is_out_of_memory
from landscape.structures import count_examples, tensors_of

Multiply = Callable[[Tensor], Tensor]

_KEPT_ON_CPU = 512 * 2**20
# Vectors that share a sweep save the overhead of calls. On a CPU that shows only below about this many bytes a vector;
# beyond, it costs cache (benchmarks/curvature.py measures it). On a GPU it pays as long as memory lasts.
_TOGETHER_ON_CPU = 2 * 2**20


class Graphs:
    """What has been linearized, batch by batch, within a budget of memory.

    Which graphs are kept and how many vectors go through one together depends on the model, the data and the device
    alone, never on a clock, so that the same command gives the same bits tomorrow.

    Attributes:
        memory: Bytes of graphs to keep.
        at_once: Vectors sent through a graph together; 0 until it has been chosen.
        bytes_of_one: Bytes that each example of a batch adds to its graph.
        num_kept: Batches whose graph is kept.
        num_batches: Batches there are.
    """

    def __init__(self, memory: int | None, device: torch.device):
        self.memory = _memory_of(device) if memory is None else memory
        self.device = device
        self.at_once = 0
        self._kept: dict[Any, Multiply] = {}
        self._used = 0
        self.bytes_of_one = 0.0

    @property
    def num_kept(self) -> int:
        """Batches whose graph is kept."""
        return len(self._kept)

    def linearized(self, batch: Any, linearize: Callable[[], Multiply]) -> Multiply:
        """Find the graph of a batch, or make it and keep it if there is room."""
        key = tuple((t.data_ptr(), t.shape) for t in tensors_of(batch))
        if key in self._kept:
            return self._kept[key]
        made = linearize()
        size = int(self.bytes_of_one * count_examples(batch))
        if self._used + size <= self.memory:
            self._kept[key] = made
            self._used += size
        return made

    def drop(self, keep_none: bool) -> None:
        """Free every graph; after memory ran out, keep none from now on."""
        self._kept.clear()
        self._used, self.at_once = 0, 0
        if keep_none:
            self.memory, self.at_once = 0, 1  # and do not choose again what did not fit

    def bytes_of(self, linearize: Callable[[], Multiply]) -> int:
        """Count the bytes that a graph takes."""
        sizes: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            linearize()
        return sum(sizes.values())

    def choose(self, examples: int) -> None:
        """See how many vectors fit the memory that a batch of so many examples may use."""
        together = activation_budget(self.device) if self.device.type == "cuda" else _TOGETHER_ON_CPU
        self.at_once = max(1, int(together // max(self.bytes_of_one * examples, 1)))

    def pull_back(self, outputs: Sequence[Tensor], tensors: Sequence[Tensor], cotangents: Sequence[Tensor]) -> Tensor:
        """Multiply K cotangents by a transposed Jacobian, whose graph is retained.

        Args:
            outputs: M tensors.
            tensors: What they are differentiated with respect to, P entries in all.
            cotangents: One for each output, (K, *shape of the output).

        Returns:
            (P, K), zero where no output depends on an entry.
        """
        live = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
        number = len(cotangents[0])
        if not live:
            return torch.cat([t.new_zeros(t.numel(), number) for t in tensors])
        rows: list[Tensor] = []
        while len(rows) < number:
            stop = min(len(rows) + max(1, self.at_once), number)
            part = [(o, c[len(rows) : stop]) for o, c in live]
            rows += self._together(part, tensors) if stop - len(rows) > 1 else _one(part, tensors)
        return torch.stack(rows, dim=1)

    def _together(self, part: list[tuple[Tensor, Tensor]], tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Send several cotangents through the graph in one sweep; one by one from now on where it cannot."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # torch warns where it would loop over the vectors itself
                return _gradients(part, tensors, batched=True).unbind(0)
        except (RuntimeError, Warning) as error:
            if is_out_of_memory(error):
                raise
            self.at_once = 1
            return [row for n in range(len(part[0][1])) for row in _one([(o, c[n : n + 1]) for o, c in part], tensors)]


def _one(part: list[tuple[Tensor, Tensor]], tensors: Sequence[Tensor]) -> list[Tensor]:
    return [_gradients([(o, c[0]) for o, c in part], tensors, batched=False)]


def _gradients(part: list[tuple[Tensor, Tensor]], tensors: Sequence[Tensor], batched: bool) -> Tensor:
    """(K, P) if batched, else (P,)."""
    outputs, cotangents = zip(*part, strict=True)
    found = torch.autograd.grad(
        outputs, tensors, cotangents, retain_graph=True, allow_unused=True, is_grads_batched=batched
    )
    lead = (len(cotangents[0]),) if batched else ()
    return torch.cat(
        [
            t.new_zeros(*lead, t.numel()) if g is None else g.reshape(*lead, -1)
            for t, g in zip(tensors, found, strict=True)
        ],
        dim=-1,
    )


def _memory_of(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 4
    return _KEPT_ON_CPU
