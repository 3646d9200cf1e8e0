"""Lines and arcs between points, against closed forms."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from landscape import Objective, Store
from landscape.figures.drawing import draw
from landscape.measure import ask
from landscape.paths.lines import Interpolation, point
from models.architectures import build_model


class Point(nn.Module):
    """A model that is its parameters."""

    def __init__(self, *start: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, x):
        return x * 0 + self.w


def objective_of(function, *start):
    return Objective(Point(*start), (torch.zeros(4, 1), torch.zeros(4, 1)), step=lambda model, batch: function(model.w))


def test_minimizers_of_a_degenerate_quadratic_have_no_barrier():
    objective = objective_of(lambda w: (w[0] - w[1]).square() + 3, -1.0, -1.0)  # its minimizers are a line
    answer = Interpolation(torch.tensor([[2.0, 2.0]]))(objective)
    assert answer["loss"].values == pytest.approx(3.0) and answer["barrier"].values == pytest.approx(0.0, abs=1e-12)
    off = Interpolation(torch.tensor([[2.0, 2.5]]))(objective)  # negative control: one end lies off that line
    assert off["barrier"].sel(definition="above-lower").item() == pytest.approx(0.25)


def test_the_barrier_of_a_double_well_is_exact_and_refining_finds_it():
    def well(w):  # minima at -1 and 2 (loss 0), the hill between them at 1/2
        return ((w[0] + 1) * (w[0] - 2)).square()

    objective, hill = objective_of(well, -1.0), (1.5 * 1.5) ** 2
    exact = Interpolation(torch.tensor([[2.0]]), points=5)(objective)
    assert exact["barrier"].values == pytest.approx(hill) and exact["peak"].item() == 0.5
    assert set(draw(exact, "interpolation-1")) == {"path"}  # also where there is no accuracy and no test data
    coarse, fine = (Interpolation(torch.tensor([[2.0]]), points=4, refine=n)(objective) for n in (0, 6))
    assert coarse["barrier"].values[0, 0, 0] < 0.8 * hill
    assert fine["barrier"].values[0, 0, 0] == pytest.approx(hill, rel=1e-3)
    assert coarse["spacing"].item() == pytest.approx(1 / 3)
    assert fine["spacing"].item() == pytest.approx(1 / 3 / 64)
    longer = Interpolation(torch.tensor([[2.0]]), points=13, reach=(-1.0, 2.0), refine=1)(objective)
    assert longer["spacing"].item() == pytest.approx(0.25 / 2)  # a quarter between places, not a twelfth


def test_an_arc_keeps_the_norm_and_has_the_bits_of_its_ends():
    one, two = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    assert point("arc", one, two, 1 / 3).tolist() == pytest.approx([3 * np.cos(np.pi / 6), 1.5])
    assert all(point("arc", one, two, a).norm().item() == pytest.approx(3) for a in (-1, 0.2, 0.5, 2))
    for kind in ("line", "arc"):
        assert torch.equal(point(kind, one, two, 0), one) and torch.equal(point(kind, one, two, 1), two)
    around = objective_of(lambda w: (w.norm() - 3).square(), 3.0, 0.0)
    loss = {kind: Interpolation(two[None], kind=kind)(around)["barrier"].values.max() for kind in ("line", "arc")}
    assert loss["arc"] == pytest.approx(0, abs=1e-12)
    assert loss["line"] == pytest.approx(9 * (1 - 0.5**0.5) ** 2)


def test_what_lies_beyond_the_ends_is_measured_but_no_barrier():
    objective = objective_of(lambda w: w[0] ** 2, 1.0)
    answer = Interpolation(torch.tensor([[0.0]]), points=7, reach=(-1.0, 2.0), refine=0)(objective)
    assert answer["alpha"].values == pytest.approx(np.linspace(-1, 2, 7))
    assert answer["loss"].values[0] == pytest.approx((1 - answer["alpha"].values) ** 2)
    assert answer["barrier"].sel(definition="above-lower").item() == 1.0


def test_batch_norm_recalibrates_at_each_point_and_without_it_a_barrier_appears():
    """Two networks that are one function, with their scales in other places, and half way the statistics of neither."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 1, 8)
    network = build_model("mlp", (1, 8), 2, width=8, depth=2, norm="batch").train()
    targets = (inputs[:, 0, 0] > 0).long()
    for _ in range(40):
        loss = nn.functional.cross_entropy(network(inputs), targets)
        with torch.no_grad():
            for parameter, gradient in zip(
                network.parameters(), torch.autograd.grad(loss, [*network.parameters()]), strict=True
            ):
                parameter -= 0.5 * gradient
    other = copy.deepcopy(network)
    with torch.no_grad():
        for layer in (other.hidden1, other.hidden2):
            layer.weight.mul_(50)  # what comes after does not see it, once statistics fit
            layer.bias.mul_(50)
    barriers = {}
    for policy in ("recalibrated", "running"):
        objective = Objective(network, (inputs, targets), nn.functional.cross_entropy, normalization=policy)
        end = objective.layout.current(other)[None]
        answer = Interpolation(end, points=5, refine=0)(objective)
        barriers[policy] = answer["barrier"].sel(metric="loss", definition="above-lower").item()
        assert policy == "running" or answer["loss"].values[0, 0] == pytest.approx(objective.loss().item(), rel=1e-6)
    assert barriers["recalibrated"] < 0.02 and barriers["running"] > 0.5


def test_a_path_is_sealed_and_an_interrupted_one_goes_on(tmp_path):
    calls = []

    def step(w):
        calls.append(w.item())
        return w[0] ** 2

    probe = Interpolation(torch.tensor([[2.0]]), points=5, refine=1)
    whole = ask(probe, objective_of(step, -1.0), Store(tmp_path / "whole"))

    def stop(stage, done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(probe, objective_of(step, -1.0), Store(tmp_path / "cut"), progress=stop)
    before = len(calls)
    found = ask(probe, objective_of(step, -1.0), Store(tmp_path / "cut"))
    assert found.equals(whole) and Store(tmp_path / "cut").names("interpolation-*")
    made = len(calls) - before
    ask(probe, objective_of(step, -1.0), Store(tmp_path / "cut"))
    assert len(calls) - before - made < made


def test_what_is_no_path_is_refused():
    objective, end = objective_of(lambda w: w[0] ** 2, 1.0), torch.tensor([[2.0]])
    with pytest.raises(ValueError, match="the same network, bit for bit"):
        Interpolation(torch.tensor([[1.0]]))(objective)
    with pytest.raises(ValueError, match="ends have 2 parameters, the objective 1"):
        Interpolation(torch.zeros(1, 2))(objective)
    with pytest.raises(ValueError, match="kind must be line or arc"):
        Interpolation(end, kind="spiral")
    with pytest.raises(ValueError, match="points must be at least 2"):
        Interpolation(end, points=1)
    with pytest.raises(ValueError, match="reach must go from at most 0"):
        Interpolation(end, reach=(0.5, 2.0))
    with pytest.raises(ValueError, match=r"ends must be \(K, P\) with 1 names"):
        Interpolation(torch.zeros(2))
    with pytest.raises(ValueError, match="refine must be at least 0"):
        Interpolation(end, refine=-1)
