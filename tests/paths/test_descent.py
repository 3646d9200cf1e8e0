"""Mini-batches and descents as functions of (seed, step)."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.examples import Examples
from landscape.execution import SerialExecutor, Work, working
from landscape.objective import Objective
from landscape.paths.connection import curve_direction
from landscape.paths.curves import Curve
from landscape.paths.descent import BatchLoss, Descent, MiniBatches
from tests.problems import InterruptedJournal, TinyCNN, built, images, network, seeded


def numbers(batches: MiniBatches, steps: range) -> list[list[int]]:
    return [batches[step][1].tolist() for step in steps]


def test_an_epoch_shows_each_example_once_in_an_order_of_its_own():
    examples = Examples.of((torch.zeros(23, 1), torch.arange(23)))
    batches = MiniBatches(examples, 6, seed=3)  # 6, 6, 6, 5
    first, second = numbers(batches, range(4)), numbers(batches, range(4, 8))
    for epoch in (first, second):
        assert sorted(n for batch in epoch for n in batch) == list(range(23)) and [len(batch) for batch in epoch] == [
            6,
            6,
            6,
            5,
        ]
    assert first != second
    assert numbers(MiniBatches(examples, 6, seed=3), range(5, 6)) == second[1:2]  # whatever was asked for before
    assert numbers(MiniBatches(examples, 6, seed=4), range(4)) != first
    assert len(batches[0][1]) == 6 and len(MiniBatches(examples, 100, seed=0)[7][1]) == 23


def test_batches_that_cannot_be_cut_change_their_order():
    examples = Examples([[torch.full((2, 1), float(n)), "text"] for n in range(5)], counts=[2] * 5)
    batches = MiniBatches(examples, 1, seed=0)
    orders = [[batches[step][0][0].item() for step in range(start, start + 5)] for start in (0, 5)]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders) and orders[0] != orders[1]


def test_the_rate_is_full_for_half_of_the_steps_and_ends_at_a_hundredth():
    descent = Descent("sgd", lr=0.2, momentum=0.0, steps=100)
    assert [descent.rate(step) for step in (0, 50, 90, 99)] == pytest.approx([0.2, 0.2, 0.002, 0.002])
    assert descent.rate(70) == pytest.approx(0.2 * (1 - 0.99 / 2))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_descent_is_that_of_torch_and_goes_on_from_any_block(optimizer: str):
    matrix = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=torch.float64)
    start = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)

    def direction(points: Tensor, step: int) -> tuple[Tensor, Tensor]:
        noise = torch.from_numpy(np.random.default_rng([1, step]).standard_normal(2))
        return (points @ matrix * points).sum(dim=1) / 2, points @ matrix + 0.1 * noise

    descent = Descent(optimizer, lr=0.1, momentum=0.9, steps=47)
    found, losses = descent.run(start, direction, "step")

    free = start.clone().requires_grad_()
    rule = torch.optim.Adam([free], lr=0.1) if optimizer == "adam" else torch.optim.SGD([free], lr=0.1, momentum=0.9)
    for step in range(47):
        rule.param_groups[0]["lr"] = descent.rate(step)
        free.grad = direction(free.detach(), step)[1]
        rule.step()
    assert torch.equal(found, free.detach())  # cut into blocks, the same bits
    assert losses.shape == (47, 2) and losses[0].tolist() == direction(start, 0)[0].tolist()

    for most in (1, 7, 15):
        journal = InterruptedJournal(most=most)
        with working(Work(SerialExecutor(), journal)), pytest.raises(KeyboardInterrupt):
            descent.run(start, direction, "step")
        resumed_journal = InterruptedJournal(journal.pieces)
        with working(Work(SerialExecutor(), resumed_journal)):
            resumed, again = descent.run(start, direction, "step")
        assert torch.equal(resumed, found) and torch.equal(again, losses)


def test_a_piece_of_another_descent_is_not_taken():
    def direction(points: Tensor, step: int) -> tuple[Tensor, Tensor]:
        return points.square().sum(dim=1) / 2, points

    journal = InterruptedJournal()
    descent = Descent("sgd", lr=0.1, momentum=0.0, steps=4)
    for start in (torch.ones(1, 2), 2 * torch.ones(1, 2)):
        with working(Work(SerialExecutor(), journal)):
            found, _ = descent.run(start, direction, "step")
        assert torch.equal(found, descent.run(start, direction, "step")[0])


@pytest.mark.parametrize("name", ["perceptron", "BatchNorm", "tied, frozen, unused", "attention"])
def test_gradients_are_those_of_the_model_in_training_mode(name: str):
    """BatchNorm goes by the batch; of nothing else does the mode matter here."""
    model, data = network(name)
    objective = Objective(model, data, loss=F.cross_entropy, normalization="recalibrated")
    loss, batch = BatchLoss(objective, weight_decay=0.1), [tensor[:8] for tensor in data]
    point = objective.theta + 0.1 * torch.randn(objective.size, generator=seeded(2), dtype=torch.float64)
    (value,), (gradient,) = loss.gradients(point[None], batch)
    model.train()
    for parameter, tensor in objective.layout.unflatten(point).items():
        model.get_parameter(parameter).data = tensor.clone()
    expected = F.cross_entropy(model(batch[0]), batch[1])
    tensors = [model.get_parameter(name) for name in objective.layout.names]
    own = torch.autograd.grad(expected, tensors, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(value, expected.detach() + 0.05 * point.square().sum())
    joined = torch.cat([part.reshape(-1) for part in own])
    torch.testing.assert_close(gradient, joined + 0.1 * point, rtol=1e-8, atol=1e-10)
    assert loss.losses(point[None], batch)[0] == value


def test_a_loss_of_a_step_function_moves_with_its_point():
    model = built(lambda: nn.Linear(3, 1), dtype=torch.float64)
    data = (torch.randn(6, 3, generator=seeded(1), dtype=torch.float64), torch.zeros(6, dtype=torch.float64))
    objective = Objective(model, data, step=lambda net, batch: net(batch[0]).square().mean())
    losses, gradients = BatchLoss(objective).gradients(torch.stack([0 * objective.theta, objective.theta]), data)
    assert losses[0] == 0 and losses[1] > 0 and gradients[0].abs().max() == 0 and gradients[1].abs().max() > 0


@pytest.mark.parametrize("kind", ["polychain", "bezier"])
def test_the_gradient_of_the_bends_is_that_of_autograd_through_the_curve(kind: str):
    model, data = network("perceptron")
    objective = Objective(model, data, loss=F.cross_entropy)
    noise = torch.randn(4, objective.size, generator=seeded(5), dtype=torch.float64)
    curve = Curve(kind, objective.theta + 0.3 * noise)
    losses, found = curve_direction(curve, BatchLoss(objective), MiniBatches(objective.examples, 8, 0), seed=9)(
        curve.bends, 6
    )
    t = float(np.random.default_rng([9, 6, *b"t"]).random(1)[0])
    bends = curve.bends.clone().requires_grad_()
    batch = MiniBatches(objective.examples, 8, 0)[6]
    parameters = objective.layout.unflatten(curve.bent(bends).at(t))
    value = F.cross_entropy(torch.func.functional_call(model, parameters, (batch[0],)), batch[1])
    value.backward()
    torch.testing.assert_close(losses[0], value.detach())
    assert bends.grad is not None
    torch.testing.assert_close(found, bends.grad, rtol=1e-9, atol=1e-12)


def test_places_on_the_curve_are_drawn_evenly_and_anew():
    places = np.array([np.random.default_rng([0, step, *b"t"]).random() for step in range(2000)])
    # the mean of 2000 uniform numbers is within 4 standard errors of a half
    assert abs(places.mean() - 0.5) < 4 / np.sqrt(12 * 2000) and len(set(places)) == 2000


def test_training_leaves_the_model_and_every_generator_as_they_were():
    model = built(TinyCNN)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    objective = Objective(model, images(), loss=F.cross_entropy, normalization="recalibrated")
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    batches = MiniBatches(objective.examples, 8, 0)
    loss = BatchLoss(objective)
    Descent("adam", 0.01, 0.9, 3).run(objective.theta[None], lambda p, s: loss.gradients(p, batches[s]), "step")
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[2]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert objective.normalization == "recalibrated" and loss.objective.normalization == "batch"


def test_an_unknown_policy_is_refused():
    model, data = network("BatchNorm")
    with pytest.raises(ValueError, match="normalization must be one of running, batch, recalibrated"):
        Objective(model, data, loss=F.cross_entropy).under("frozen")
