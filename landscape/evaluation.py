"""The values of an objective at many points, in the form that is cheapest on the machine at hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape.batch_size import evaluation_budget
from landscape.examples import Examples
from landscape.folding import NotFoldedError, require_folded

if TYPE_CHECKING:
    from landscape.objective import Objective

PRECISIONS = ("full", "bfloat16")


@dataclass(frozen=True)
class Plan:
    """How points are evaluated. Two plans of full precision differ by rounding alone.

    Attributes:
        batch_size: Examples a batch.
        folding: Whether BatchNorm with fixed statistics is folded into the layer before it.
        channels_last: Whether images lie in memory with their channels last.
        threads: Threads of torch; 0 leaves them as they are.
        together: Points evaluated at once by `torch.func.vmap`.
        compiled: Whether the model is compiled by `torch.compile`.
        precision: ``full``, the objective's own type, or ``bfloat16`` for matrix products and convolutions.
        measured: Whether a measurement chose the plan; otherwise the model and the device alone did.
    """

    batch_size: int
    folding: bool = True
    channels_last: bool = False
    threads: int = 0
    together: int = 1
    compiled: bool = False
    precision: str = "full"
    measured: bool = False

    def to_json(self) -> str:
        """Write the plan as text that an answer can carry."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


def default_plan(objective: Objective, precision: str = "full") -> Plan:
    """Choose a plan from the model, the data and the device alone, without a clock.

    The batch is the largest power of two whose largest layer, inputs and outputs, fits a stated budget of memory
    (`evaluation_budget`): more falls out of the cache of a CPU and is slower.

    Raises:
        ValueError: If the precision is unknown, or is to be lowered from another than float32.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
    if precision == "bfloat16" and objective.dtype != torch.float32:  # torch's autocast leaves float64 as it is
        raise ValueError(
            f"precision bfloat16 lowers that of float32, the objective computes in {str(objective.dtype)[6:]}; "
            "leave out dtype=, or the precision."
        )
    convolves = any(p.ndim == 4 for p in objective.module_parameters())
    return Plan(
        batch_size=fitting_batch(objective),
        folding=objective.normalization == "running",
        channels_last=convolves and objective.device.type == "cpu" and objective.dtype == torch.float32,
        precision=precision,
    )


def fitting_batch(objective: Objective, together: int = 1) -> int:
    """Choose the number of examples whose largest layer fits the budget, for so many points at once."""
    if not objective.chooses_batch_size:
        return objective.batch_size
    budget = evaluation_budget(objective.device)
    fitting = max(1, int(budget // (together * max(objective.bytes_of_largest_layer, 1))))
    return min(2 ** (fitting.bit_length() - 1), 2 ** (len(objective.examples) - 1).bit_length())


class Evaluator:
    """Evaluates an objective at many points as a plan says; its model is a copy that nothing else uses.

    Attributes:
        objective: What is evaluated; its `num_passes` counts what is done here.
        plan: How.
    """

    def __init__(self, objective: Objective, plan: Plan | None = None):
        self.objective = objective
        self.plan = default_plan(objective) if plan is None else plan

    def losses(self, thetas: Tensor) -> Tensor:
        """Mean loss at each of K points: (K, P) -> (K,) in float64."""
        return self._values(thetas, self._loss_at, self._losses_at)["loss"]

    def metrics(self, thetas: Tensor) -> dict[str, Tensor]:
        """Measure what `Objective.metrics` measures at each of K points: (K, P) -> a tensor (K,) by name."""
        return self._values(thetas, lambda prepared, theta: prepared.metrics(theta), self._metrics_at)

    def _values(
        self,
        thetas: Tensor,
        alone: Callable[[Objective, Tensor], dict[str, float]],
        together: Callable[[Tensor], dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        with _threads(self.plan.threads):
            if self.plan.together > 1:
                parts = [together(block) for block in thetas.split(self.plan.together)]
            else:
                parts = [_as_tensors(self._alone(theta, alone)) for theta in thetas]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @cached_property
    def _prepared(self) -> Objective:
        return self.objective.prepared(self.plan)

    @cached_property
    def _unfolded(self) -> Objective:
        return self.objective.prepared(replace(self.plan, folding=False))

    def _alone(self, theta: Tensor, function: Callable[[Objective, Tensor], dict[str, float]]) -> dict[str, float]:
        """Evaluate one point; without folding where the model has taken another way there than when it was folded."""
        with self._counting(self._prepared) as prepared:
            try:
                values = function(prepared, theta)
                require_folded(prepared.folds)
                return values
            except NotFoldedError:
                pass
        with self._counting(self._unfolded) as plain:
            return function(plain, theta)

    @contextmanager
    def _counting(self, prepared: Objective) -> Iterator[Objective]:
        before = prepared.num_passes
        try:
            yield prepared
        finally:
            self.objective.num_passes += prepared.num_passes - before

    @staticmethod
    def _loss_at(prepared: Objective, theta: Tensor) -> dict[str, float]:
        return {"loss": prepared.loss(theta).item()}

    def _losses_at(self, thetas: Tensor) -> dict[str, Tensor]:
        return self._over(thetas, self.objective.examples, "", ("loss",))

    def _metrics_at(self, thetas: Tensor) -> dict[str, Tensor]:
        data = {"": self.objective.examples, **{f"{name}_": more for name, more in self.objective.also.items()}}
        found: dict[str, Tensor] = {}
        for prefix, examples in data.items():
            found.update(self._over(thetas, examples, prefix))
        return found

    def _over(
        self, thetas: Tensor, examples: Examples, prefix: str, names: tuple[str, ...] = ("loss", "accuracy")
    ) -> dict[str, Tensor]:
        """Average over the data for all points of a block at once, vectorized over their parameters.

        Attention is written out: its fused form can only be taken one point after the other.
        """
        plain = sdpa_kernel(SDPBackend.MATH)
        with self._counting(self._prepared) as prepared, torch.no_grad(), prepared.at(), plain:
            stacked = prepared.stacked(thetas)
            for folded in prepared.folds:
                folded.release()

            def measure(batch: Any) -> list[Tensor]:
                return vmap(lambda parameters: prepared.measured(batch, parameters)[: len(names)])(stacked)

            values = prepared.average(measure, examples)
        return {f"{prefix}{name}": value.cpu() for name, value in zip(names, values, strict=False)}

    def __getstate__(self) -> dict[str, Any]:
        """Send the objective and the plan; each process prepares a copy of its own."""
        return {"objective": self.objective, "plan": self.plan}


def _as_tensors(values: dict[str, float]) -> dict[str, Tensor]:
    return {name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()}


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if number and number != before:
            torch.set_num_threads(number)
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
