"""Every way to evaluate points gives the same numbers, up to rounding."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape import planning
from landscape.batch_size import evaluation_budget
from landscape.evaluation import Evaluator, Plan, default_plan, fitting_batch
from landscape.folding import Folded
from landscape.objective import Objective
from landscape.planning import measured_plan
from tests.problems import NETWORKS, TinyCNN, built, images, network, seeded, vectors


def points(objective: Objective, count: int = 5, size: float = 0.1) -> torch.Tensor:
    steps = torch.randn(count, objective.size, generator=seeded(1), dtype=torch.float64)
    steps[0] = 0
    return objective.theta + size * steps.to(objective.theta)


def cnn(dtype: torch.dtype = torch.float32, **options) -> Objective:
    inputs, targets = images()
    return Objective(built(TinyCNN, dtype=dtype), (inputs.to(dtype), targets), loss=F.cross_entropy, **options)


def one_by_one(objective: Objective, thetas: torch.Tensor) -> torch.Tensor:
    return torch.stack([objective.loss(theta) for theta in thetas])


@pytest.mark.parametrize("together", [1, 2, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_the_losses_that_it_has_one_by_one(name, together):
    model, data = network(name)
    objective = Objective(model, data, loss=F.cross_entropy)
    thetas = points(objective)
    plan = replace(default_plan(objective), together=together, batch_size=7)  # 23 examples: the last batch is ragged
    found = Evaluator(objective, plan).losses(thetas)
    assert found == pytest.approx(one_by_one(objective, thetas), rel=1e-12)  # float64; only the order of sums differs


@pytest.mark.parametrize("changes", [{}, {"folding": False}, {"channels_last": False}, {"together": 3}, {"threads": 2}])
def test_plans_of_full_precision_differ_by_rounding(changes):
    objective = cnn(also={"test": images(9, seed=3)})
    thetas = points(objective)
    found = Evaluator(objective, replace(default_plan(objective), **changes)).metrics(thetas)
    assert set(found) == {"loss", "accuracy", "test_loss", "test_accuracy"}
    for number, theta in enumerate(thetas):
        for name, value in objective.metrics(theta).items():
            assert found[name][number].item() == pytest.approx(value, rel=1e-6), name  # float32


@pytest.mark.parametrize("policy", ["running", "batch", "recalibrated"])
def test_every_policy_of_batch_norm_is_kept(policy):
    objective = cnn(torch.float64, normalization=policy)
    thetas = points(objective, size=0.5)
    assert Evaluator(objective).losses(thetas) == pytest.approx(one_by_one(objective, thetas), rel=1e-12)
    assert default_plan(objective).folding == (policy == "running")


def test_batch_norm_is_folded_anew_at_every_point():
    """Control: with the weights of the first point the others would be wrong by more than any rounding."""
    objective = cnn(torch.float64)
    evaluator = Evaluator(objective)
    thetas = points(objective, size=1.0)
    assert len(evaluator._prepared.folds) == 1
    assert evaluator.losses(thetas.flip(0)).flip(0) == pytest.approx(one_by_one(objective, thetas), rel=1e-12)
    assert not torch.allclose(evaluator.losses(thetas)[0], evaluator.losses(thetas)[1:], rtol=1e-3)


class Turning(nn.Module):
    """Leaves BatchNorm out where a weight is negative, so that folding it would be wrong there."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)
        nn.init.constant_(self.layer.bias, 0.3)
        self.norm.running_mean.fill_(0.5)

    def forward(self, inputs):
        hidden = self.layer(inputs)
        return self.head(self.norm(hidden) if self.layer.bias[0] > 0 else hidden)


def test_a_model_that_takes_another_way_is_not_folded_there():
    objective = Objective(built(Turning, dtype=torch.float64), (vectors()[0].double(), vectors()[1]), F.cross_entropy)
    thetas = points(objective, count=8, size=1.0)
    turned = objective.layout.unflatten(torch.arange(objective.size))["layer.bias"][0]
    assert 0 < (thetas[:, turned] < 0).sum() < len(thetas)
    assert Evaluator(objective).losses(thetas) == pytest.approx(one_by_one(objective, thetas), rel=1e-12)


def test_bfloat16_is_near_and_not_equal():
    objective = cnn()
    thetas = points(objective)
    exact = one_by_one(objective, thetas)
    found = Evaluator(objective, default_plan(objective, "bfloat16")).losses(thetas)
    assert found == pytest.approx(exact, rel=0.02)  # eight bits of mantissa
    assert not torch.allclose(found, exact, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.filterwarnings("ignore")  # torch's own compiler warns of its own parts
def test_a_compiled_model_has_the_same_losses():
    objective = cnn()
    thetas = points(objective)
    plan = replace(default_plan(objective), compiled=True, folding=False, batch_size=7)
    assert Evaluator(objective, plan).losses(thetas) == pytest.approx(one_by_one(objective, thetas), rel=1e-6)


def test_a_step_function_is_evaluated_one_by_one():
    model, (inputs, targets) = network("perceptron")
    objective = Objective(model, (inputs, targets), step=lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]))
    thetas = points(objective)
    assert objective.losses(thetas) == pytest.approx(one_by_one(objective, thetas), rel=1e-12)
    assert all(plan.together == 1 for plan in planning._together(objective, default_plan(objective)))


def test_the_objective_stays_where_it_is_and_counts_its_passes():
    objective = cnn()
    before, passes = {n: p.clone() for n, p in objective._module.state_dict().items()}, objective.num_passes
    torch_state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    for plan in (default_plan(objective), replace(default_plan(objective), together=2, threads=threads + 1)):
        Evaluator(objective, plan).metrics(points(objective, count=4))
    assert objective.num_passes - passes == 4 + 2  # a vectorized pass over the data serves two points
    assert all(torch.equal(value, before[name]) for name, value in objective._module.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert torch.get_num_threads() == threads


def test_an_evaluator_can_be_sent():
    objective = cnn()
    thetas, evaluator = points(objective), Evaluator(objective)
    found = evaluator.losses(thetas)
    sent = pickle.loads(pickle.dumps(evaluator))  # noqa: S301 -- our own bytes
    assert torch.equal(sent.losses(thetas), found)


def test_memory_stays_within_the_budget():
    """The largest layer of a batch, inputs and outputs, for all points at once."""
    objective = cnn()
    layer = objective.bytes_of_largest_layer
    assert layer == (3 + 3) * 6 * 6 * 4  # BatchNorm reads and writes three channels of 6 x 6 pixels in float32
    budget = evaluation_budget(torch.device("cpu"))
    inputs = torch.zeros(10_000, 1, 6, 6), torch.zeros(10_000, dtype=torch.long)
    large = Objective(built(TinyCNN), inputs, loss=F.cross_entropy)
    for together in (1, 4, 64):
        batch = fitting_batch(large, together)
        assert together * batch * layer <= budget < 2 * together * batch * layer
    assert fitting_batch(objective) == 32  # all 23 examples


# --- the measurement ----------------------------------------------------------------------------------------------


def test_short_work_is_not_measured(monkeypatch):
    objective = cnn()
    assert measured_plan(objective, 1) == default_plan(objective)
    monkeypatch.setattr(planning, "_seconds", lambda *_: 1.0)
    assert measured_plan(objective, 100).measured


def test_the_measurement_keeps_what_is_clearly_faster(monkeypatch):
    objective = cnn()

    def seconds(_objective, plan):
        return (0.5 if plan.threads == 1 else 1.0) * (0.9 if plan.channels_last else 1.0) / plan.together**0.5

    monkeypatch.setattr(planning, "_seconds", seconds)
    monkeypatch.setattr(planning.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(planning, "_WORTH_COMPILING", float("inf"))
    plan = measured_plan(objective, 100)
    assert plan.threads == 1
    assert plan.together == 256
    assert plan.batch_size == fitting_batch(objective, 256)
    assert not measured_plan(objective, 100, threads=3).threads, "a wish is kept"
    assert not measured_plan(objective, 100, workers=2).threads


def test_what_cannot_run_is_not_chosen(monkeypatch):
    objective = cnn()

    def seconds(_objective, plan):
        if plan.together > 1 or plan.compiled:
            raise RuntimeError("no batching rule")
        return 1.0

    monkeypatch.setattr(planning, "_seconds", seconds)
    plan = measured_plan(objective, 1000)
    assert (plan.together, plan.compiled, plan.measured) == (1, False, True)


def test_what_is_fast_and_wrong_is_not_chosen(monkeypatch):
    """As when all points of a block were evaluated with the folded weights of the first."""
    objective = cnn()
    monkeypatch.setattr(planning, "_seconds", lambda _, plan: 1.0 / plan.together)
    assert measured_plan(objective, 100).together > 1
    monkeypatch.setattr(Folded, "release", lambda _: None)
    assert measured_plan(objective, 100).together == 1


def test_compilation_is_tried_for_long_work_only(monkeypatch):
    objective = cnn()
    monkeypatch.setattr(planning, "_seconds", lambda _, plan: 0.1 if plan.compiled else 1.0)
    monkeypatch.setattr(planning, "_agree", lambda *_: True)  # without a compiler; the slow test compares losses
    assert not measured_plan(objective, 100).compiled
    assert measured_plan(objective, 1000).compiled


def test_a_plan_survives_its_text():
    plan = Plan(64, together=4, precision="bfloat16", measured=True)
    assert Plan.from_json(plan.to_json()) == plan


def test_only_float32_is_lowered():
    """Control: torch's autocast would leave float64 as it is, and an error of zero would be told."""
    with pytest.raises(ValueError, match="lowers that of float32, the objective computes in float64"):
        default_plan(cnn(torch.float64), "bfloat16")


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision must be one of full, bfloat16, got 'half'"):
        default_plan(cnn(), "half")
