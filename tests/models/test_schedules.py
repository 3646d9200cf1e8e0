"""Closed forms of the schedules, at every step."""

from __future__ import annotations

import math

import pytest
import torch

from models.schedules import LR_SCALINGS, SCHEDULES, cycle_lows, make_schedule, scaled_lr

T = 100


def cosine(t: float, total: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * t / total))


def swa_constant(t: int) -> float:
    """SWA's: one for half of the way to the tail (step 75), down to a half at nine tenths, and so it stays."""
    return 1.0 if t <= 37.5 else 1 - 0.5 * (t - 37.5) / 30 if t < 67.5 else 0.5


def swa_cycles(t: int) -> float:
    """In the tail of 40 steps four cycles of 10, from 0.4 to 0.1."""
    if t >= 60:
        return 0.4 - 0.3 * ((t - 60) % 10) / 10
    return 1.0 if t <= 30 else 1 - 0.6 * (t - 30) / 24 if t < 54 else 0.4


def fge(t: int) -> float:
    """In the tail of 20 steps four cycles of 5, from 0.5 to 0.005 and up again."""
    if t >= 80:
        return 0.005 + 0.495 * abs(1 - 2 * ((t - 80) % 5) / 5)
    return 1.0 if t <= 40 else 1 - 0.5 * (t - 40) / 32 if t < 72 else 0.5


FORMS = {
    "constant": lambda t: 1.0,
    "step": lambda t: 1.0 if t < 30 else 0.1 if t < 60 else 0.01 if t < 90 else 0.001,
    "step:at=50,factor=0.5": lambda t: 1.0 if t < 50 else 0.5,
    "cosine": lambda t: cosine(t, T),
    "cosine:floor=0.2": lambda t: 0.2 + 0.8 * cosine(t, T),
    "cosine-restarts": lambda t: cosine(t % 20, 20),
    "cosine-restarts:cycles=2,floor=0.1": lambda t: 0.1 + 0.9 * cosine(t % 50, 50),
    # cycles of 10, 20 and 40 steps, in proportion: 100/7, 200/7, 400/7, whose ends are rounded up
    "cosine-restarts:3,longer=2": lambda t: (
        cosine(t, 15) if t < 15 else cosine(t - 15, 28) if t < 43 else cosine(t - 43, 57)
    ),
    "triangular": lambda t: 1 - 0.09 * min(t % 20, 20 - t % 20),
    "triangular:cycles=2,floor=0.5": lambda t: 1 - 0.02 * min(t % 50, 50 - t % 50),
    "linear": lambda t: 1 - t / 100,
    "linear:floor=0.5": lambda t: 1 - t / 200,
    "inverse-sqrt": lambda t: 1 / math.sqrt(t + 1),
    "exponential": lambda t: 0.01 ** (t / 99),
    "exponential:start=1e-6,end=1": lambda t: 10 ** (-6 + 6 * t / 99),
    "fge": fge,
    "swa": swa_constant,
    "swa:tail=0.4,high=0.4,low=0.1,cycles=4": swa_cycles,
    "swa:tail=0,cycles=1": lambda t: 1.0 if t <= 50 else 1 - 0.5 * (t - 50) / 40 if t < 90 else 0.5,
}


@pytest.mark.parametrize("text", FORMS)
def test_closed_form_at_every_step(text):
    factor = make_schedule(text, T)
    assert [factor(t) for t in range(T)] == pytest.approx([FORMS[text](t) for t in range(T)], rel=1e-9, abs=1e-15)


def test_every_schedule_has_a_closed_form():
    assert {text.partition(":")[0] for text in FORMS} == set(SCHEDULES)


@pytest.mark.parametrize("text", FORMS)
def test_warm_up_is_linear_and_meets_what_follows(text):
    factor = make_schedule(text, 50, warmup=10)
    first = make_schedule(text, 40)(0)
    assert [factor(k) for k in range(10)] == pytest.approx([first * (k + 1) / 10 for k in range(10)])
    assert factor(10) == pytest.approx(first)


@pytest.mark.parametrize("text", FORMS)
@pytest.mark.parametrize("total", [1, 2, 3, 7])
def test_short_trainings_and_steps_beyond_the_end_have_a_rate(text, total):
    factor = make_schedule(text, total)
    assert all(0 <= factor(t) <= 1 for t in range(total + 3))


def test_what_comes_after_warm_up_spans_what_is_left():
    factor = make_schedule("cosine", 50, warmup=10)
    assert (factor(30), factor(50), factor(60)) == pytest.approx((0.5, 0.0, 0.0))
    assert make_schedule("inverse-sqrt", 50, warmup=16)(16 + 48) == pytest.approx(0.5)  # sqrt(16 / 64)


def test_it_drives_torch():
    theta = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([theta], lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, make_schedule("linear", 4))
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.5, 0.375, 0.25, 0.125])


def test_scaling_with_the_batch():
    assert scaled_lr(0.1, "none", 8192) == 0.1
    assert scaled_lr(0.1, "linear:256", 8192) == pytest.approx(3.2)  # Goyal et al. 2017: 0.1 kn / 256
    assert scaled_lr(0.1, "sqrt:reference=128", 2048) == pytest.approx(0.4)
    for name in LR_SCALINGS:
        assert scaled_lr(0.3, name if name == "none" else f"{name}:64", 64) == 0.3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosin", "unknown schedule 'cosin'; did you mean 'cosine'"),
        ("cosine:cycles=3", "schedule 'cosine' takes no option cycles; it takes: floor"),
        ("cosine:floor=1", r"schedule 'cosine' needs floor in \[0, 1\), got 1.0"),
        ("linear:floor=-1", r"needs floor in \[0, 1\), got -1.0"),
        ("step:factor=0", "schedule 'step' needs factor above 0, got 0.0"),
        ("step:at=30/many", "needs percentages such as at=30/60/90, got 30/many"),
        ("step:at=30/130", "needs percentages such as at=30/60/90, got 30/130"),
        ("fge:tail=0", "needs tail above 0 and below 1, got 0.0"),
        ("fge:cycles=0", "needs cycles of at least 1, got 0"),
        ("fge:low=0.6", "needs low from 0 to high=0.5, got 0.6"),
        ("cosine-restarts:cycles=0", "needs cycles of at least 1, got 0"),
        ("cosine-restarts:longer=0", "needs longer above 0, got 0.0"),
        ("triangular:cycles=-1", "needs cycles of at least 1, got -1"),
        ("exponential:start=0", "needs start and end above 0"),
        ("swa:tail=1", r"needs tail in \[0, 1\), got 1.0"),
        ("swa:high=0", "needs high above 0 and at most 1, got 0.0"),
        ("swa:low=0.1", "needs low only with cycles, got 0.1"),
        ("swa:low=0.9,cycles=2", "needs low from 0 to high=0.5, got 0.9"),
        ("swa:cycles=-1", "needs cycles of at least 0, got -1"),
    ],
)
def test_bad_choices_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(text, 10)


def test_warm_ups_that_leave_no_step_are_refused():
    for warmup in (-1, 10):
        with pytest.raises(ValueError, match=f"less than the 10 steps of the training, got {warmup}"):
            make_schedule("cosine", 10, warmup)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linar:256", "unknown lr_scaling 'linar'; did you mean 'linear'"),
        ("linear", "lr_scaling 'linear' needs its reference"),
        ("sqrt:0", "lr_scaling 'sqrt' needs reference of at least 1, got 0"),
        ("linear:0", "lr_scaling 'linear' needs reference of at least 1, got 0"),
    ],
)
def test_bad_scalings_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        scaled_lr(0.1, text, 128)


@pytest.mark.parametrize(
    ("text", "lows"),
    [
        ("constant", []),
        ("swa", []),
        ("cosine-restarts:4", [30, 50, 70, 90]),
        ("triangular:2", [30, 70]),
        ("swa:tail=0.5,cycles=2", [70, 90]),
        ("fge:tail=0.5,cycles=2", [60, 80]),
    ],
)
def test_rates_are_lowest_where_cycles_say(text, lows):
    assert cycle_lows(text, 90, warmup=10) == lows
    factor = make_schedule(text, 90, warmup=10)
    for low in lows:
        # the rate of step `low` + 1 may belong to the next cycle, so the one that was used last is the lowest so far
        assert factor(low - 1) == min(factor(t) for t in range(low - 9, low))
