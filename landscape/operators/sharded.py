"""Products over data that is cut into shards, on several devices or in several processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from landscape.operators.base import LinearOperator, ObjectiveOperator


class Sharded(LinearOperator):
    """The weighted mean of operators, each over its own shard of the data, wherever it lives.

    Vectors are taken to each shard's device and products back to the first one's, where they are summed in float64.
    With the numbers of examples as weights it is the operator over all of the data.

    Attributes:
        operators: One a shard.
        shares: Of each in the mean; they sum to one.
    """

    def __init__(self, shards: Sequence[tuple[LinearOperator, float]]):
        """Put shards together.

        Args:
            shards: Pairs of an operator and its weight, usually the number of its examples.

        Raises:
            ValueError: If there are none, their sizes differ, or a weight is not positive.
        """
        if not shards:
            raise ValueError("Sharded needs at least one pair (operator, weight); got none.")
        self.operators = [operator for operator, _ in shards]
        sizes = {operator.size for operator in self.operators}
        if len(sizes) > 1:
            raise ValueError(f"all shards must have the same parameters, got operators of sizes {sorted(sizes)}.")
        weights = [float(weight) for _, weight in shards]
        if not all(0 < weight < float("inf") for weight in weights):
            raise ValueError(f"weights must be positive, such as numbers of examples; got {weights}.")
        self.shares = [weight / sum(weights) for weight in weights]
        first = self.operators[0]
        self.size, self.device, self.dtype = first.size, first.device, first.dtype

    @classmethod
    def of(cls, operators: Sequence[ObjectiveOperator]) -> Sharded:
        """Put together operators of objectives over disjoint data, each weighted by its number of examples."""
        return cls([(operator, _number_of_examples(operator)) for operator in operators])

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply K vectors at once: (P, K) -> (P, K)."""
        total = torch.zeros(V.shape, dtype=torch.float64, device=self.device)
        for operator, share in zip(self.operators, self.shares, strict=True):
            total += operator.matmat(V.to(operator.device)).to(self.device).double() * share
        return total.to(self.dtype)


class Distributed(LinearOperator):
    """The weighted mean of operators that live in several processes of a `torch.distributed` group.

    Every process makes one, of its own shard, and all multiply together: the vectors of the group's first process
    are sent to all, the weighted products are summed in float64, and all processes hold the same bits. So a solver
    with the same seed takes the same steps in each. If one process fails, all raise.

    Attributes:
        operator: Of this process.
        weight: Of this process in the mean.
        total: The sum of all weights.
    """

    def __init__(self, operator: LinearOperator, weight: float | None = None, group: Any = None):
        """Agree with the other processes on sizes and weights.

        Args:
            operator: Over this process's shard of the data.
            weight: Of this shard; default: the number of its examples.
            group: The processes; default: all of them. "gloo" for CPUs, "nccl" for GPUs.

        Raises:
            RuntimeError: If `torch.distributed` has not been started.
            TypeError: If the weight is left out and the operator is not one of an objective.
            ValueError: In every process, if sizes differ or a weight is not positive.
        """
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError(
                'Distributed needs torch.distributed; call torch.distributed.init_process_group("gloo") first.'
            )
        self.operator, self.group = operator, group
        self.weight = float(_number_of_examples(operator) if weight is None else weight)
        self.size, self.device, self.dtype = operator.size, operator.device, operator.dtype
        self._meeting = torch.device("cpu") if dist.get_backend(group) == "gloo" else self.device
        rows: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(rows, (self.size, self.weight), group)
        if len({size for size, _ in rows}) > 1:
            sizes = [size for size, _ in rows]
            raise ValueError(f"all processes must hold the same parameters, got operators of sizes {sizes}.")
        if not all(0 < weight < float("inf") for _, weight in rows):
            raise ValueError(f"weights must be positive, such as numbers of examples; got {[w for _, w in rows]}.")
        self.total = sum(weight for _, weight in rows)

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply K vectors at once: (P, K) -> (P, K); every process must call it.

        Raises:
            RuntimeError: If the product failed in another process.
        """
        V = V.detach().to(self._meeting, self.dtype, copy=True).contiguous()
        dist.broadcast(V, dist.get_global_rank(self.group, 0) if self.group else 0, self.group)
        error: Exception | None = None
        try:
            product = self.operator.matmat(V.to(self.device)).to(self._meeting).double() * self.weight
        except Exception as reason:
            error, product = reason, torch.zeros(V.shape, dtype=torch.float64, device=self._meeting)
        # One entry more than the product tells every process how many have failed, so that none waits for ever.
        message = torch.cat([product.reshape(-1), product.new_tensor([float(error is not None)])])
        dist.all_reduce(message, group=self.group)
        if error is not None:
            raise error
        if failed := int(message[-1]):
            raise RuntimeError(f"the product failed in {failed} other process(es); their own messages say why.")
        return (message[:-1].view(V.shape) / self.total).to(self.device, self.dtype)


def _number_of_examples(operator: LinearOperator) -> int:
    if not isinstance(operator, ObjectiveOperator):
        raise TypeError(f"the number of examples behind a {type(operator).__name__} is not known; give its weight.")
    return len(operator.source.examples)
