"""Learning-rate schedules, a factor on the learning rate as a function of the step, and its scaling with the batch."""

from __future__ import annotations

import math
from collections.abc import Callable

from models.registry import Registry

Schedule = Callable[[int], float]

SCHEDULES = Registry("schedule")
"""Functions `(total, warmup, *, options)`: the factor as a function of t, the steps since warm-up, of `total` such."""

LR_SCALINGS = Registry("lr_scaling")
"""Functions `(batch_size, *, options)`: the factor on the learning rate of a batch of that size."""


@SCHEDULES.register("constant")
def constant(total: int, warmup: int) -> Schedule:
    """Stay at 1."""
    return lambda t: 1.0


@SCHEDULES.register("step")
def step_decay(total: int, warmup: int, *, at: str = "30/60/90", factor: float = 0.1) -> Schedule:
    """Multiply by a factor at each of these percentages of the steps (He et al. 2016)."""
    _require(factor > 0, "factor above 0", factor)
    try:
        percentages = [float(part) for part in at.split("/")]
    except ValueError:
        percentages = [-1.0]
    _require(all(0 <= each <= 100 for each in percentages), "percentages such as at=30/60/90", at)
    return lambda t: factor ** sum(t * 100 >= each * total for each in percentages)


@SCHEDULES.register("cosine")
def cosine(total: int, warmup: int, *, floor: float = 0.0) -> Schedule:
    """Fall to a floor as (1 + cos(pi t / total)) / 2 (Loshchilov & Hutter 2017, without restarts)."""
    _require_share(floor=floor)
    return lambda t: floor + (1 - floor) * (1 + math.cos(math.pi * min(t / total, 1))) / 2


@SCHEDULES.register("cosine-restarts")
def cosine_restarts(total: int, warmup: int, *, cycles: int = 5, longer: float = 1.0, floor: float = 0.0) -> Schedule:
    """Fall as a cosine, and start anew, each cycle longer than the last by a factor (Loshchilov & Hutter 2017).

    With cycles of one length this is the schedule of snapshot ensembles (Huang et al. 2017, equation 2): the model at
    the end of each cycle is one of them.
    """
    _require(cycles >= 1, "cycles of at least 1", cycles)
    _require(longer > 0, "longer above 0", longer)
    _require_share(floor=floor)
    ends = cycle_ends(total, cycles, longer)

    def factor(t: int) -> float:
        now = sum(t >= end for end in ends[:-1])
        start = ends[now - 1] if now else 0
        return floor + (1 - floor) * (1 + math.cos(math.pi * min((t - start) / max(ends[now] - start, 1), 1))) / 2

    return factor


def cycle_ends(total: int, cycles: int, longer: float = 1.0) -> list[int]:
    """Return after which step, counted since warm-up, each cycle of `cosine_restarts` ends; the last is `total`."""
    lengths = [longer**cycle for cycle in range(cycles)]
    return [math.ceil(total * sum(lengths[: cycle + 1]) / sum(lengths)) for cycle in range(cycles)]


@SCHEDULES.register("triangular")
def triangular(total: int, warmup: int, *, cycles: int = 5, floor: float = 0.1) -> Schedule:
    """Fall to a floor and rise to 1 in straight lines, so many times (Smith 2017; Garipov et al. 2018).

    The models in the middle of each cycle are those of a fast geometric ensemble.
    """
    _require(cycles >= 1, "cycles of at least 1", cycles)
    _require_share(floor=floor)
    return lambda t: floor + (1 - floor) * abs(1 - 2 * (t * cycles / total % 1))


@SCHEDULES.register("linear")
def linear(total: int, warmup: int, *, floor: float = 0.0) -> Schedule:
    """Fall to a floor as 1 - t / total."""
    _require_share(floor=floor)
    return lambda t: floor + (1 - floor) * max(1 - t / total, 0.0)


@SCHEDULES.register("inverse-sqrt")
def inverse_sqrt(total: int, warmup: int) -> Schedule:
    """Fall as sqrt(w / (w + t)) with w = max(warmup, 1), and so meet the warm-up (Vaswani et al. 2017)."""
    scale = max(warmup, 1)
    return lambda t: math.sqrt(scale / (scale + t))


@SCHEDULES.register("exponential")
def exponential(total: int, warmup: int, *, start: float = 1.0, end: float = 0.01) -> Schedule:
    """Go from start at the first step to end at the last by equal factors; 1e-6 to 1 is a range test (Smith 2017)."""
    _require(start > 0 and end > 0, "start and end above 0", (start, end))
    return lambda t: start * (end / start) ** min(t / max(total - 1, 1), 1)


@SCHEDULES.register("swa")
def averaging_tail(
    total: int, warmup: int, *, tail: float = 0.25, high: float = 0.5, low: float | None = None, cycles: int = 0
) -> Schedule:
    """Fall to a high rate and stay there, or cycle between high and low, to average weights (Izmailov et al. 2018).

    The tail is a share of the steps. Before it the factor is 1 for half of the way, falls in a straight line to `high`
    at nine tenths, and stays; in the tail each cycle falls from `high` to `low` (a tenth of it by default) in a
    straight line.
    """
    _require_share(tail=tail)
    _require(0 < high <= 1, "high above 0 and at most 1", high)
    _require(cycles >= 0, "cycles of at least 0", cycles)
    _require(low is None or cycles > 0, "low only with cycles", low)
    bottom = high / 10 if low is None else low
    _require(0 <= bottom <= high, f"low from 0 to high={high}", bottom)
    begin = _begin_of_tail(total, tail)

    def factor(t: int) -> float:
        if t < begin:
            fallen = min(max((t / begin - 0.5) / 0.4, 0.0), 1.0)
            return 1 - (1 - high) * fallen
        if not cycles:
            return high
        place = min((t - begin) / max(total - begin, 1), 1) * cycles
        return high - (high - bottom) * (place % 1)

    return factor


@SCHEDULES.register("fge")
def ensembling_tail(
    total: int, warmup: int, *, tail: float = 0.2, high: float = 0.5, low: float = 0.005, cycles: int = 4
) -> Schedule:
    """Fall to a high rate, then cycle: down to a low one and up again, in straight lines (Garipov et al. 2018).

    The tail is a share of the steps; before it the factor is that of `swa`. In the middle of each cycle, where the rate
    is lowest, the network is a member of a fast geometric ensemble; choose epochs so that the middles are ends of
    epochs.
    """
    _require(0 < tail < 1, "tail above 0 and below 1", tail)
    _require(cycles >= 1, "cycles of at least 1", cycles)
    _require(0 <= low <= high, f"low from 0 to high={high}", low)
    before = averaging_tail(total, warmup, tail=tail, high=high)
    begin = _begin_of_tail(total, tail)

    def factor(t: int) -> float:
        if t < begin:
            return before(t)
        place = (t - begin) / max(total - begin, 1) * cycles % 1
        return low + (high - low) * abs(1 - 2 * place)

    return factor


def cycle_lows(text: str, total: int, warmup: int = 0) -> list[int]:
    """Return after which steps of a training the rate of each cycle is lowest; none where there are no cycles.

    These are the ends of the cycles of `cosine-restarts` and `swa`, and the middles of those of `triangular` and `fge`.

    Args:
        text: One of `SCHEDULES`, alone or with options.
        total: Steps of the whole training, warm-up included.
        warmup: Steps of linear warm-up.

    Raises:
        ValueError: If the name is unknown, or an option is not taken.
    """
    name, given = SCHEDULES.read(text)
    options = {**SCHEDULES.options(name), **given}
    cycles, steps = options.get("cycles", 0), total - warmup
    if name == "cosine-restarts":
        return [warmup + end for end in cycle_ends(steps, cycles, options["longer"])]
    begin = _begin_of_tail(steps, options["tail"]) if "tail" in options else 0
    into = 1.0 if name == "swa" else 0.5
    return [warmup + begin + round((cycle + into) * (steps - begin) / cycles) for cycle in range(cycles)]


@LR_SCALINGS.register("none")
def no_scaling(batch_size: int) -> float:
    """Take the learning rate as it is given."""
    return 1.0


@LR_SCALINGS.register("linear")
def linear_scaling(batch_size: int, *, reference: int) -> float:
    """Scale by the batch size over that of the reference, whose learning rate is given (Goyal et al. 2017)."""
    _require(reference >= 1, "reference of at least 1", reference)
    return batch_size / reference


@LR_SCALINGS.register("sqrt")
def root_scaling(batch_size: int, *, reference: int) -> float:
    """Scale by the square root of the batch size over that of the reference (Krizhevsky 2014)."""
    _require(reference >= 1, "reference of at least 1", reference)
    return math.sqrt(batch_size / reference)


def make_schedule(text: str, total: int, warmup: int = 0) -> Schedule:
    """Return the factor on the learning rate as a function of the step, counted from 0 (for `LambdaLR`).

    Args:
        text: One of `SCHEDULES`, alone or with options, as in "step:at=50/75,factor=0.2".
        total: Steps of the whole training, warm-up included.
        warmup: Steps of linear warm-up: step k < warmup has the factor (k + 1) / warmup of what comes after.

    Raises:
        ValueError: If the name is unknown, an option is not taken or out of range, or `warmup` is negative or leaves no
            step after it.
    """
    if warmup < 0 or warmup >= max(total, 1):
        raise ValueError(f"warmup must be at least 0 and less than the {total} steps of the training, got {warmup}")
    name, options = SCHEDULES.read(text)
    try:
        decay = SCHEDULES[name](max(total - warmup, 1), warmup, **options)
    except ValueError as error:
        raise ValueError(f"schedule {name!r} {error}") from None

    def factor(step: int) -> float:
        return decay(0) * (step + 1) / warmup if step < warmup else decay(step - warmup)

    return factor


def scaled_lr(lr: float, text: str, batch_size: int) -> float:
    """Scale a learning rate with the batch size.

    Args:
        lr: That of the reference.
        text: One of `LR_SCALINGS` with its options, as in "linear:256" or "none".
        batch_size: Examples a step.

    Raises:
        ValueError: If the name is unknown, or an option is missing, not taken or out of range.
    """
    name, options = LR_SCALINGS.read(text)
    try:
        return lr * LR_SCALINGS[name](batch_size, **options)
    except ValueError as error:
        raise ValueError(f"lr_scaling {name!r} {error}") from None


def _begin_of_tail(total: int, tail: float) -> int:
    """The first step of a tail; 1e-9 makes up for shares such as 0.3 of 320 steps, which round to less than 96."""
    return total - math.floor(tail * total + 1e-9)


def _require(holds: bool, what: str, got: object) -> None:
    if not holds:
        raise ValueError(f"needs {what}, got {got}")


def _require_share(**values: float) -> None:
    for name, value in values.items():
        _require(0 <= value < 1, f"{name} in [0, 1)", value)
