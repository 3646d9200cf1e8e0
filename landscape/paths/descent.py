"""Mini-batch descent of points of parameter space, each a function of (seed, step), that survives interruptions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.examples import Examples
from landscape.execution import recalled, report_progress
from landscape.objective import Objective, flat_gradient

OPTIMIZERS = ("sgd", "adam")
_BLOCKS = 20  # pieces of a descent that the journal keeps: at most a twentieth of it is done again

Direction = Callable[[Tensor, int], tuple[Tensor, Tensor]]  # points (K, P) and step -> losses (K,), directions (K, P)


@dataclass(frozen=True)
class Descent:
    """An optimizer and its schedule: the full rate for half of the steps, then falling to a hundredth.

    Attributes:
        optimizer: ``sgd`` or ``adam``.
        lr: The full learning rate.
        momentum: Of sgd.
        steps: Updates in all.

    References:
        Garipov et al., NeurIPS 2018: the schedule of the code published with it.
    """

    optimizer: str
    lr: float
    momentum: float
    steps: int

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        share = step / self.steps
        return self.lr * float(np.clip(1 - 0.99 * (share - 0.5) / 0.4, 0.01, 1.0))

    def run(
        self,
        points: Tensor,
        direction: Direction,
        stage: str,
        first: int = 0,
        last: int | None = None,
        settle: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Move points (K, P) against their directions, from one step to another.

        Finished blocks of steps are taken from the journal of the work at hand; the result is the same, bit for bit.

        Args:
            points: Where they begin; the optimizer begins without memory.
            direction: The losses and what to go against, at a step.
            stage: Names the descent in the journal and the display.
            first: The first step.
            last: The step before which to stop; default: all.
            settle: What becomes of the points after each step.

        Returns:
            The points and their losses (steps, K) by mini-batch before each step, in float64.
        """
        last = self.steps if last is None else last
        state: dict[str, Tensor] = {"points": points.clone()}
        losses: list[Tensor] = []
        length = -(-self.steps // _BLOCKS)
        for begin in range(first, last, length):
            steps = range(begin, min(begin + length, last))
            state = self._recalled(state, direction, steps, stage, settle)
            losses.append(state.pop("losses"))
            report_progress(stage, steps.stop, self.steps)
        return state["points"], torch.cat(losses)

    def _recalled(
        self, state: dict[str, Tensor], direction: Direction, steps: range, stage: str, settle: Any
    ) -> dict[str, Tensor]:
        def compute() -> dict[str, Any]:
            moved = self._moved(state, direction, steps, settle)
            return {name: value.cpu().numpy() for name, value in moved.items()}

        of = b"".join(value.cpu().contiguous().numpy().tobytes() for value in state.values())
        found = recalled(stage, str(steps).encode() + of, compute)
        home = state["points"].device
        # the steps that Adam counts, and the losses, stay on the CPU
        return {n: torch.from_numpy(v).to(home if np.ndim(v) and n != "losses" else "cpu") for n, v in found.items()}

    def _moved(self, state: dict[str, Tensor], direction: Direction, steps: range, settle: Any) -> dict[str, Tensor]:
        points = state["points"].clone().requires_grad_()
        optimizer = self._optimizer(points, {name: v.clone() for name, v in state.items() if name != "points"})
        losses = []
        for step in steps:
            optimizer.param_groups[0]["lr"] = self.rate(step)
            found, points.grad = direction(points.detach(), step)
            losses.append(found.double().cpu())
            optimizer.step()
            if settle is not None:
                points.data = settle(points.detach())
        memory = {name: value for name, value in optimizer.state[points].items() if isinstance(value, Tensor)}
        return {"points": points.detach(), **memory, "losses": torch.stack(losses)}

    def _optimizer(self, points: Tensor, memory: dict[str, Tensor]) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = (
            torch.optim.Adam([points], lr=self.lr)
            if self.optimizer == "adam"
            else torch.optim.SGD([points], lr=self.lr, momentum=self.momentum)
        )
        if memory:
            optimizer.state[points].update(memory)
        return optimizer


class MiniBatches:
    """The mini-batches of every step: each epoch in an order of its own, drawn from (seed, epoch).

    Data that cannot be cut keeps its batches and changes their order.
    """

    def __init__(self, examples: Examples, size: int, seed: int):
        self.examples, self.size, self.seed = examples, size, seed
        self._count = sum(1 for _ in examples.batches(size))
        self._epoch, self._order = -1, list[Any]()

    def __getitem__(self, step: int) -> Any:
        """The batch of a step, counted from 0."""
        epoch, place = divmod(step, self._count)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffled(epoch)
        return self._order[place]

    def _shuffled(self, epoch: int) -> list[Any]:
        seed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0]) >> 1
        if self.examples.divisible:
            shuffled = self.examples.take(len(self.examples), seed, shuffled=True)
            return [batch for batch, _ in shuffled.batches(self.size)]
        batches = [batch for batch, _ in self.examples.batches(self.size)]
        order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed))
        return [batches[number] for number in order.tolist()]


class BatchLoss:
    """Loss and gradient of points by one mini-batch, with weight decay; BatchNorm uses the batch's statistics.

    The points are placed in the objective's one copy of the model, so any module will do.
    """

    def __init__(self, objective: Objective, weight_decay: float = 0.0):
        self.objective, self.weight_decay = objective.under("batch"), weight_decay

    def gradients(self, points: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """Losses (K,) of points (K, P) in float64, and their gradients (K, P)."""
        losses, gradients = zip(*(self._gradient(point, batch) for point in points), strict=True)
        return torch.stack(losses), torch.stack(gradients)

    def losses(self, points: Tensor, batch: Any) -> Tensor:
        """Losses (K,) of points (K, P) in float64."""
        with torch.no_grad():
            return torch.stack([self._loss(point, batch) for point in points])

    def _gradient(self, point: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        objective = self.objective
        with objective.differentiating(), objective.at(point):
            loss = objective.batch_loss(batch)
            gradient = flat_gradient(loss, objective.tensors(objective.layout))
        return loss.detach().double() + self._decay(point), gradient + self.weight_decay * point

    def _loss(self, point: Tensor, batch: Any) -> Tensor:
        with self.objective.at(point):
            return self.objective.batch_loss(batch).double() + self._decay(point)

    def _decay(self, point: Tensor) -> Tensor:
        return self.weight_decay / 2 * point.double().square().sum()
