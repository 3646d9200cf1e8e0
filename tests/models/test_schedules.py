"""Closed forms of the schedules."""

from __future__ import annotations

import math

import pytest
import torch

from models.schedules import SCHEDULES, make_schedule


def test_closed_forms():
    total = 100
    steps = range(total)
    forms = {
        "constant": lambda t: 1.0,
        "step": lambda t: 1.0 if t < 30 else 0.1 if t < 60 else 0.01 if t < 90 else 0.001,
        "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * t / 100)),
        "linear": lambda t: 1 - t / 100,
        "inverse-sqrt": lambda t: 1 / math.sqrt(t + 1),
    }
    assert set(forms) == set(SCHEDULES)
    for name, form in forms.items():
        assert [make_schedule(name, total)(t) for t in steps] == pytest.approx([form(t) for t in steps]), name


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_is_linear_and_meets_the_peak(name):
    factor = make_schedule(name, 50, warmup=10)
    assert [factor(k) for k in range(10)] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert factor(10) == pytest.approx(1.0)


def test_cosine_after_warm_up_spans_what_is_left():
    factor = make_schedule("cosine", 50, warmup=10)
    assert factor(30) == pytest.approx(0.5)
    assert factor(50) == pytest.approx(0.0)
    assert factor(60) == pytest.approx(0.0)


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


def test_bad_choices_are_named():
    with pytest.raises(ValueError, match="unknown schedule 'cosin'; did you mean 'cosine'"):
        make_schedule("cosin", 10)
    for warmup in (-1, 10):
        with pytest.raises(ValueError, match=f"less than the 10 steps of the training, got {warmup}"):
            make_schedule("cosine", 10, warmup)
