"""Elastic bands over surfaces whose saddles are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from landscape.examples import Examples
from landscape.execution import SerialExecutor, Work, working
from landscape.paths.bands import Band, equidistant, refined, tangents
from landscape.paths.curves import Curve
from landscape.paths.descent import Descent, MiniBatches
from tests.paths.toys import Height, ToyLoss, mueller_brown, two_wells
from tests.problems import InterruptedJournal

BATCHES = MiniBatches(Examples.of((torch.zeros(1, 1), torch.zeros(1))), 1, 0)
WELLS = torch.tensor([[-1.0, 0], [1, 0]], dtype=torch.float64)


def relaxed(height: Height, ends: Tensor, pivots: int, lr: float, steps: int, cycles: int = 1) -> Curve:
    band = Band(Descent("sgd", lr, momentum=0.0, steps=steps), cycles)
    curve, losses = band.relax(Curve("polychain", ends).with_bends(pivots), ToyLoss(height), BATCHES, height)
    assert losses.shape == (steps,)
    return curve


def highest(height: Height, curve: Curve) -> float:
    return height(curve.at(np.linspace(0, 1, 401))).max().item()


def unevenness(curve: Curve) -> float:
    parts = (curve.points[1:] - curve.points[:-1]).norm(dim=1)
    return ((parts.max() - parts.min()) / parts.mean()).item()


def test_the_band_finds_the_saddle_between_two_wells():
    line = Curve("polychain", WELLS)
    assert highest(two_wells, line) == pytest.approx(3)
    curve = relaxed(two_wells, WELLS, pivots=11, lr=0.03, steps=500)
    assert highest(two_wells, curve) == pytest.approx(1, abs=0.01)  # chords between pivots lie a little beside the way
    assert unevenness(curve) < 0.01
    assert torch.equal(curve.points[[0, -1]], WELLS)
    saddle = curve.points[6]
    torch.testing.assert_close(saddle, torch.tensor([0.0, 1.0], dtype=torch.float64), atol=0.01, rtol=0)


def test_pivots_that_just_descend_hide_the_barrier():
    """The negative control: without projection and redistribution all pivots lie in the wells, and show none."""
    line, loss = Curve("polychain", WELLS).with_bends(10), ToyLoss(two_wells)
    bends, _ = Descent("sgd", 0.03, 0.0, 500).run(line.bends, lambda p, s: loss.gradients(p, s), "step")
    assert two_wells(bends).max() < 0.01
    assert highest(two_wells, line.bent(bends)) > 2 and unevenness(line.bent(bends)) > 5


def test_the_saddles_of_mueller_and_brown():
    """Minima and saddles as in their table: E = -146.7 and -108.2 at the ends, -40.66 at the higher saddle."""
    ends = torch.tensor([[-0.5582, 1.4417], [0.6235, 0.0280]], dtype=torch.float64)
    assert mueller_brown(ends).tolist() == pytest.approx([-1.46700, -1.08167], abs=1e-4)
    curve = relaxed(mueller_brown, ends, pivots=25, lr=0.02, steps=800)
    assert highest(mueller_brown, curve) == pytest.approx(-0.40665, abs=0.01)
    place = curve.at(np.linspace(0, 1, 401))[mueller_brown(curve.at(np.linspace(0, 1, 401))).argmax()]
    torch.testing.assert_close(place, torch.tensor([-0.822, 0.624], dtype=torch.float64), atol=0.03, rtol=0)
    assert unevenness(curve) < 0.02
    assert highest(mueller_brown, Curve("polychain", ends)) > -0.2  # the straight line is higher


def test_tangents_are_those_of_henkelman_and_jonsson():
    points = torch.tensor([[0.0, 0], [1, 0], [1, 2]], dtype=torch.float64)
    after, before = torch.tensor([0.0, 2.0]).double(), torch.tensor([1.0, 0.0]).double()

    def tangent(*losses: float) -> Tensor:
        return tangents(points, torch.tensor(losses, dtype=torch.float64))[0]

    def unit(vector: Tensor) -> Tensor:
        return vector / vector.norm()

    torch.testing.assert_close(tangent(0, 1, 5), unit(after))  # on a slope, toward the higher neighbour
    torch.testing.assert_close(tangent(5, 1, 0), unit(before))
    torch.testing.assert_close(tangent(0, 5, 3), unit(5 * after + 2 * before))  # a maximum, the next pivot higher
    torch.testing.assert_close(tangent(3, 5, 0), unit(2 * after + 5 * before))
    torch.testing.assert_close(tangent(4, 1, 2), unit(1 * after + 3 * before))  # a minimum
    torch.testing.assert_close(tangent(1, 1, 1), unit(after + before))  # where nothing tells
    assert torch.equal(tangents(0 * points, torch.zeros(3)), torch.zeros(1, 2).double())


def test_pivots_are_set_at_equal_distances_along_the_old_chain():
    points = torch.tensor([[0.0, 0], [0.1, 0], [0.2, 0], [3, 0], [3, 1]], dtype=torch.float64)
    torch.testing.assert_close(equidistant(points), torch.tensor([[0, 0], [1, 0], [2, 0], [3, 0], [3, 1.0]]).double())
    same = points[[0, 0, 0]]
    assert torch.equal(equidistant(same), same)
    assert torch.equal(equidistant(points[[0, 1, 1, 3]])[[0, -1]], points[[0, 3]])


def test_a_pivot_is_added_only_where_the_loss_stands_out():
    def bump(w: Tensor) -> Tensor:
        return (-(((w[..., 0] - 0.5) / 0.1) ** 2)).exp()

    line = Curve("polychain", torch.tensor([[-1.0, 0], [1, 0]], dtype=torch.float64))
    coarse = line.with_bends(3)  # at -0.5, 0 and 0.5: the bump rises beside the last on both sides, over no line
    assert len(refined(coarse, bump).points) == len(coarse.points)
    missed = line.with_bends(2)  # at -1/3 and 1/3; the bump lies in the last part alone
    found = refined(missed, bump)
    assert len(found.points) == 5 and unevenness(found) < 1e-9
    assert len(refined(line.with_bends(5), lambda w: 3 - w[..., 0]).points) == 7  # a slope is a line


def test_cycles_add_pivots_and_lower_the_dense_maximum():
    coarse = relaxed(two_wells, WELLS, pivots=2, lr=0.03, steps=600)
    added = relaxed(two_wells, WELLS, pivots=2, lr=0.03, steps=600, cycles=4)
    assert len(added.points) > len(coarse.points) == 4
    assert abs(highest(two_wells, added) - 1) < abs(highest(two_wells, coarse) - 1) / 2


@pytest.mark.parametrize("most", [1, 8, 22])
def test_an_interrupted_band_goes_on_bit_for_bit(most: int):
    def relax(journal: InterruptedJournal) -> Curve:
        with working(Work(SerialExecutor(), journal)):
            return relaxed(two_wells, WELLS, pivots=2, lr=0.03, steps=60, cycles=3)

    whole = InterruptedJournal()
    expected = relax(whole)
    assert len(whole.pieces) == 23  # 21 blocks, and two looks for missing pivots
    journal = InterruptedJournal(most=most)
    with pytest.raises(KeyboardInterrupt):
        relax(journal)
    assert torch.equal(relax(InterruptedJournal(journal.pieces)).points, expected.points)
