"""One optimizer for the rows of a stack, each with its own learning rate, and what it holds of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from landscape.parameters import ParameterLayout
from models.gradients import GradientRules
from models.optimizers import build_optimizer


@dataclass(frozen=True)
class Rates:
    """What the optimizer's settings may be of each run: where they are equal, runs share a parameter group.

    Attributes:
        lr: Learning rate.
        weight_decay: Coefficient of coupled decay, or the decay that is the optimizer's own.
        decay: Coefficient of decay apart from the gradient, made before the optimizer steps.
    """

    lr: float
    weight_decay: float = 0.0
    decay: float = 0.0


def rows_optimizer(theta: Tensor, rates: Sequence[Rates], name: str, options: Mapping[str, Any]) -> Optimizer:
    """Build an optimizer of views of a stack, one for each stretch of runs with equal rates.

    An update rule that treats every entry apart makes of each row what it would make of that run alone.

    Args:
        theta: (M, P) the parameters of M runs; the optimizer moves their memory.
        rates: Of each run; equal ones should be neighbors.
        name: One of the optimizers whose rule is by entry.
        options: What `build_optimizer` takes besides.
    """
    groups, begin = [], 0
    for shared, runs in groupby(rates):
        end = begin + len(list(runs))
        rows = nn.Parameter(theta.data[begin:end])
        groups.append({"params": [rows], "lr": shared.lr, "weight_decay": shared.weight_decay, "decay": shared.decay})
        begin = end
    return build_optimizer(name, groups, lr=rates[0].lr, weight_decay=rates[0].weight_decay, **options)


def give_gradient(optimizer: Optimizer, gradient: Tensor) -> None:
    """Hand each group its rows of the gradient (M, P)."""
    begin = 0
    for group in optimizer.param_groups:
        (rows,) = group["params"]
        rows.grad = gradient[begin : begin + len(rows)]
        begin += len(rows)


@torch.no_grad()
def apply_rules(rules: GradientRules, optimizer: Optimizer) -> None:
    """Do what `GradientRules.apply` does, to every run apart: the norm that is clipped is that of a row."""
    for group in optimizer.param_groups:
        (rows,) = group["params"]
        if rules.clip_value is not None:
            rows.grad.clamp_(-rules.clip_value, rules.clip_value)
        if rules.clip_norm is not None:
            norms = torch.linalg.vector_norm(rows.grad, dim=1, keepdim=True)
            rows.grad.mul_((rules.clip_norm / (norms + 1e-6)).clamp(max=1.0))  # as torch's clip_grad_norm_
        if rules.l1:
            rows.grad.add_(rows.sign(), alpha=rules.l1)
        if group["decay"]:
            rows.mul_(1 - group["lr"] * group["decay"])


def learning_rates(optimizer: Optimizer) -> Tensor:
    """Return the learning rate of each run (M,)."""
    rates = [float(group["lr"]) for group in optimizer.param_groups for _ in group["params"][0]]
    return torch.tensor(rates, dtype=torch.float64)


def copy_member(stack: Optimizer, member: int, alone: Optimizer, layout: ParameterLayout) -> None:
    """Give the optimizer of one run, newly built, what that of the stack holds of it.

    Args:
        stack: What `rows_optimizer` built.
        member: Number of the run.
        alone: The optimizer of that run's own parameters, in the order of the layout.
        layout: Where they lie in a row.
    """
    group, row = _of_member(stack, member)
    (rows,) = group["params"]
    settings = {name: value for name, value in group.items() if name not in ("params", "decay")}
    (own,) = alone.param_groups
    own.update(settings)
    held: dict[str, Any] = stack.state.get(rows, {})
    pieces = {name: _piece(value, rows, row, layout) for name, value in held.items()}
    for index, parameter in enumerate(own["params"]):
        alone.state[parameter] = {name: piece[index] for name, piece in pieces.items()}


def _of_member(stack: Optimizer, member: int) -> tuple[dict[str, Any], int]:
    for group in stack.param_groups:
        count = len(group["params"][0])
        if member < count:
            return group, member
        member -= count
    raise AssertionError("a member beyond the stack")


def _piece(value: Any, rows: Tensor, row: int, layout: ParameterLayout) -> Sequence[Any]:
    """Cut what is held of a run into what is held of its parameters; what is one for all is copied."""
    if isinstance(value, Tensor) and value.shape == rows.shape:
        return [part.cpu().clone() for part in layout.unflatten(value[row]).values()]
    return [value.clone() if isinstance(value, Tensor) else value for _ in layout.names]
