"""A short measurement that chooses how the points of a large grid are evaluated."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import torch

from landscape.evaluation import Evaluator, Plan, default_plan, fitting_batch
from landscape.objective import Objective

WORTH_MEASURING = 10.0  # seconds of work from which the measurement pays
_WORTH_COMPILING = 300.0  # the same for compilation, which itself takes seconds to a minute
_CLEARLY_FASTER = 0.85  # of the time of the best so far; less is noise, and would change the last bits for nothing
_EXAMPLES = 1024
_REPEATS = 3


def measured_plan(
    objective: Objective, num_points: int, precision: str = "full", threads: int | None = None, workers: int = 1
) -> Plan:
    """Choose how to evaluate so many points, by trying out on a few examples what usually helps.

    Memory layout, threads, examples a batch, points together (`torch.func.vmap`) and compilation are tried one after
    the other; what is clearly faster is kept if it gives the same losses. Where the work is short nothing is measured,
    and the plan follows from the model and the device alone. The batch never outgrows twice
    `landscape.batch_size.evaluation_budget`.

    Args:
        objective: What is evaluated.
        num_points: How many points will be.
        precision: ``full`` or ``bfloat16``.
        threads: Threads of torch that the user asked for; None leaves the choice to the measurement.
        workers: Processes that share the work, each with its own threads; only one leaves them to the measurement.

    Raises:
        ValueError: If the precision is unknown.
    """
    plan = default_plan(objective, precision)
    few = objective.with_examples(min(_EXAMPLES, len(objective.examples)))
    scale = len(objective.examples) / len(few.examples) * num_points / workers
    best = _seconds(few, plan)
    if best * scale < WORTH_MEASURING:
        return plan
    is_free = threads is None and workers == 1
    for step in (_layouts, _thread_counts if is_free else None, _batch_sizes, _together, _compiled):
        if step is None or (step is _compiled and best * scale < _WORTH_COMPILING):
            continue
        for other in step(objective, plan):
            with suppress(Exception):  # a way that cannot run, or fails in a compiler, is not taken
                seconds = _seconds(few, other)
                if seconds < _CLEARLY_FASTER * best and _agree(objective if other.compiled else few, plan, other):
                    plan, best = other, seconds
    return replace(plan, measured=True)


def _agree(objective: Objective, plan: Plan, other: Plan) -> bool:
    """Whether two plans give the same losses at different points, so that no way to be fast is a way to be wrong.

    Compiled code is tried on all examples, for it is made anew for each size of a batch.
    """
    wave = torch.arange(objective.size, device=objective.device, dtype=objective.dtype).cos()
    step = 0.1 * objective.theta.abs() * wave
    shares = torch.linspace(0, 1, max(other.together, 2), device=objective.device, dtype=objective.dtype)
    points = objective.theta + shares[:, None] * step
    found = Evaluator(objective, other).losses(points)[[0, -1]]
    known = Evaluator(objective, plan).losses(points[[0, -1]])
    allowed = 100 * torch.finfo(objective.dtype).eps if plan.precision == "full" else 0.1
    return bool(((found - known).abs() <= allowed * known.abs().clamp_min(1.0)).all())


def _layouts(objective: Objective, plan: Plan) -> Iterator[Plan]:
    yield replace(plan, channels_last=not plan.channels_last)


def _batch_sizes(objective: Objective, plan: Plan) -> Iterator[Plan]:
    if objective.chooses_batch_size:
        sizes = (2 * plan.batch_size, plan.batch_size // 2, plan.batch_size // 4)
        yield from (replace(plan, batch_size=size) for size in sizes if 1 <= size < 2 * len(objective.examples))


def _thread_counts(objective: Objective, plan: Plan) -> Iterator[Plan]:
    yield from (replace(plan, threads=number) for number in {1, os.cpu_count() or 1})


def _together(objective: Objective, plan: Plan) -> Iterator[Plan]:
    if objective.step_function is not None or objective.normalization == "recalibrated":
        return
    for number in (4, 16, 64, 256):
        batch_size = fitting_batch(objective, number)
        if objective.chooses_batch_size and batch_size >= min(8, len(objective.examples)):
            yield replace(plan, together=number, batch_size=batch_size, channels_last=False)


def _compiled(objective: Objective, plan: Plan) -> Iterator[Plan]:
    if plan.together == 1 and objective.normalization != "recalibrated":
        yield replace(plan, compiled=True, folding=False)


def _seconds(objective: Objective, plan: Plan) -> float:
    """Shortest time of one point after the first."""
    evaluator = Evaluator(objective, plan)
    points = objective.theta.expand(plan.together, -1)
    times = []
    for _ in range(_REPEATS + 1):
        started = time.perf_counter()
        evaluator.losses(points)
        if objective.device.type == "cuda":
            torch.cuda.synchronize(objective.device)
        times.append(time.perf_counter() - started)
    return min(times[1:]) / plan.together
