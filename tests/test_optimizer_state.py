"""Snapshots of optimizers against torch's own steps: the metric as read from a step, the threshold as it is felt."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import nn, optim

from landscape.objective import Objective
from landscape.optimizer_state import NoStepError, OptimizerState
from landscape.parameters import ParameterLayout
from landscape.store import DamagedFileError
from landscape.weights import WeightsError, encode_state, save_weights
from models.optimizers import Lion
from tests.problems import TiedFrozenUnused, built, perceptron, vectors


def trained(make, steps: int = 5, model: nn.Module | None = None):
    """A perceptron in float64 after some full-batch steps, its optimizer, and its last gradient."""
    model = built(perceptron, dtype=torch.float64) if model is None else model
    inputs, targets = vectors()
    optimizer = make(model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs.double()), targets).backward()
        optimizer.step()
    return model, optimizer


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


ADAPTIVE = {
    "Adam": lambda p: optim.Adam(p, 0.01),
    "Adam, eps": lambda p: optim.Adam(p, 0.01, betas=(0.8, 0.9), eps=1e-2),
    "AMSGrad": lambda p: optim.Adam(p, 0.01, betas=(0.9, 0.5), amsgrad=True),
    "AdamW": lambda p: optim.AdamW(p, 0.01, weight_decay=0.0),
    "RMSprop": lambda p: optim.RMSprop(p, 0.01),
    "RMSprop, centered": lambda p: optim.RMSprop(p, 0.01, centered=True, momentum=0.7),
    "Adagrad": lambda p: optim.Adagrad(p, 0.01, lr_decay=0.1),
    "NAdam": lambda p: optim.NAdam(p, 0.01),
}


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_metric_is_the_one_in_which_torch_makes_its_step(name):
    """theta <- theta - lr P^-1 (a g + b m), with the step, the gradient and the stored momentum torch leaves."""
    model, optimizer = trained(ADAPTIVE[name], steps=6)
    before = flat(model.parameters())
    trained(lambda _: optimizer, 1, model)
    step, gradient = before - flat(model.parameters()), flat(p.grad for p in model.parameters())
    rule = OptimizerState.of(optimizer, model).on(ParameterLayout.of(model))
    key = {"Adam": "exp_avg", "AMSGrad": "exp_avg", "NAdam": "exp_avg", "RMSprop, centered": "momentum_buffer"}
    momentum = gradient
    if name.split(",")[0].rstrip("W") in key or name in key:
        momentum = flat(optimizer.state[p][key.get(name, "exp_avg")] for p in model.parameters())
    if name == "RMSprop, centered":  # its buffer holds P^-1 g, so that P may move on between steps
        assert torch.allclose(step, rule.learning_rate * momentum)
        average = flat(optimizer.state[p]["grad_avg"] for p in model.parameters())
        square = flat(optimizer.state[p]["square_avg"] for p in model.parameters())
        assert torch.allclose(rule.preconditioner, (square - average**2).sqrt() + 1e-8)
        return
    moved = rule.gradient_share * gradient + rule.momentum_share * momentum
    assert torch.allclose(rule.learning_rate * moved / rule.preconditioner, step, rtol=1e-6, atol=1e-12)
    assert rule.preconditioner.dtype == torch.float64 and rule.algorithm == OptimizerState.of(optimizer, model).kind


def test_bias_corrections_by_hand():
    """After one step of Adam from zero v is (1 - beta2) g^2, so P = (1 - beta1) (|g| + eps)."""
    model, optimizer = trained(lambda p: optim.Adam(p, 0.01), steps=1)
    rule = OptimizerState.of(optimizer, model).on(ParameterLayout.of(model))
    gradient = flat(p.grad for p in model.parameters())
    assert torch.allclose(rule.preconditioner, (1 - 0.9) * (gradient.abs() + 1e-8), rtol=1e-12)
    assert rule.threshold == pytest.approx((2 + 2 * 0.9) / ((1 - 0.9) * 0.01))  # 38 / lr


def descend(make, eigenvalue: float, state=None, steps: int = 400) -> float:
    """How much farther from the bottom of eigenvalue w^2 / 2 many steps bring a parameter."""
    w = nn.Parameter(torch.full((1,), 1e-9, dtype=torch.float64))
    optimizer = make([w])
    if state is not None:
        optimizer.state[w].update({name: value.clone() for name, value in state.items()})
    for _ in range(steps):
        optimizer.zero_grad()
        (eigenvalue * w.square() / 2).sum().backward()
        optimizer.step()
    return w.abs().item() / 1e-9


class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))


SGDS = {
    "gradient descent": (lambda p: optim.SGD(p, 0.1), 2 / 0.1),
    "heavy ball": (lambda p: optim.SGD(p, 0.1, momentum=0.9), 2 * 1.9 / 0.1),
    "Nesterov momentum": (lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True), 2 * 1.9 / 2.8 / 0.1),
}


@pytest.mark.parametrize("name", SGDS)
def test_thresholds_of_gradient_descent_are_felt(name):
    make, threshold = SGDS[name]
    model = One()
    rule = OptimizerState.of(make(model.parameters()), model).on(ParameterLayout.of(model))
    assert rule.threshold == pytest.approx(threshold) and rule.algorithm == name and rule.preconditioner is None
    assert descend(make, 0.98 * threshold) < 0.1 < 10 < descend(make, 1.02 * threshold)


def test_the_threshold_of_damped_momentum_is_felt():
    def make(parameters):
        return optim.SGD(parameters, 0.1, momentum=0.9, dampening=0.5)

    model = One()
    threshold = OptimizerState.of(make(model.parameters()), model).on(ParameterLayout.of(model)).threshold
    assert threshold == pytest.approx(2 * 1.9 / (0.5 * 0.1))
    assert descend(make, 0.98 * threshold) < 0.1 < 10 < descend(make, 1.02 * threshold)


# A metric that stands still: second moments that are averaged too slowly to move, of a step count so large that no
# bias correction is left.
STILL = 1 - 1e-15
FROZEN = {
    "Adam": (lambda p: optim.Adam(p, 0.1, betas=(0.9, STILL), eps=0.0), "exp_avg_sq", 1e18),
    "RMSprop": (lambda p: optim.RMSprop(p, 0.1, alpha=STILL, eps=0.0, momentum=0.8), "square_avg", 0),
    "NAdam": (lambda p: optim.NAdam(p, 0.1, betas=(0.9, STILL), eps=0.0), "exp_avg_sq", 1e18),
}


@pytest.mark.parametrize("name", FROZEN)
def test_thresholds_of_adaptive_methods_are_felt(name):
    make, key, count = FROZEN[name]
    model = One()
    optimizer = make(model.parameters())
    zero = torch.zeros(1, dtype=torch.float64)
    state = {key: zero + 4.0, "step": torch.tensor(float(count or 1), dtype=torch.float64)}
    if name == "RMSprop":
        state["momentum_buffer"] = zero
    else:
        state["exp_avg"] = zero
    if name == "NAdam":
        state["mu_product"] = torch.tensor(0.0, dtype=torch.float64)
    optimizer.state[model.w].update(state)
    rule = OptimizerState.of(optimizer, model).on(ParameterLayout.of(model))
    P = rule.preconditioner.item()
    assert pytest.approx(2.0) == P  # sqrt(4)
    edge = rule.threshold * P  # of H, where the threshold is one of P^-1 H
    assert descend(make, 0.98 * edge, state) < 0.1 < 10 < descend(make, 1.02 * edge, state)


def test_groups_with_their_own_learning_rate_and_decay():
    model = built(perceptron, dtype=torch.float64)
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.4}]
    rule = OptimizerState.of(optim.SGD(groups, lr=0.0, weight_decay=0.3), model).on(ParameterLayout.of(model))
    assert rule.learning_rate == 0.4
    assert rule.preconditioner.unique().tolist() == [1.0, 4.0]
    assert (rule.preconditioner[:36] == 4.0).all()
    assert (rule.weight_decay == 0.3).all()
    adamw = OptimizerState.of(trained(lambda p: optim.AdamW(p, 0.1, weight_decay=0.3), model=model)[1], model)
    assert adamw.on(ParameterLayout.of(model)).weight_decay is None  # decoupled
    first = OptimizerState.of(optim.SGD(groups, lr=0.0), model).on(ParameterLayout.of(model, "0.*"))
    assert first.learning_rate == 0.1 and first.preconditioner is None


def test_no_step_is_taken_where_the_learning_rate_is_zero():
    model = One()
    rule = OptimizerState.of(optim.SGD(model.parameters(), 0.0), model).on(ParameterLayout.of(model))
    assert rule.threshold == float("inf")


def test_a_snapshot_stays_and_a_file_keeps_it(tmp_path):
    model, optimizer = trained(ADAPTIVE["Adam"])
    state, layout = OptimizerState.of(optimizer, model), ParameterLayout.of(model)
    before = state.on(layout).preconditioner.clone()
    trained(lambda _: optimizer, 3, model)
    assert torch.equal(state.on(layout).preconditioner, before)
    assert OptimizerState.of(optimizer, model).digest() != state.digest()
    state.save(tmp_path / "optimizer.safetensors", "abc")
    again, weights = OptimizerState.load(tmp_path / "optimizer.safetensors")
    assert weights == "abc" and again.kind == "Adam" and again.digest() == state.digest()
    assert torch.equal(again.on(layout).preconditioner, before)
    whole = (tmp_path / "optimizer.safetensors").read_bytes()
    (tmp_path / "optimizer.safetensors").write_bytes(whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:])
    with pytest.raises(DamagedFileError, match="is damaged"):
        OptimizerState.load(tmp_path / "optimizer.safetensors")
    with pytest.raises(WeightsError, match="is not a file"):
        OptimizerState.load(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    "content", [{"epoch": 1}, {"kind": "SGD", "weights_sha256": "", "parameters": {"w": 3}}, [1], None]
)
def test_a_file_that_save_did_not_write_is_refused_with_what_to_do(tmp_path, content):
    tensors, text = encode_state(content)
    save_weights(tmp_path / "other.safetensors", tensors or {"a": torch.ones(2)}, {"state": text} if content else {})
    with pytest.raises(DamagedFileError, match=r"other.safetensors is not an optimizer's state .* make one with"):
        OptimizerState.load(tmp_path / "other.safetensors")


def test_a_class_derived_from_a_known_one_may_step_as_it_likes():
    class Reversed(optim.SGD):
        def step(self, closure=None): ...

    class SGD(optim.SGD):  # of the same name too
        def step(self, closure=None): ...

    model = built(perceptron)
    layout = ParameterLayout.of(model)
    for kind in (Reversed, SGD):
        with pytest.raises(ValueError, match=rf"the stability of .*{kind.__name__} is not known"):
            OptimizerState.of(kind(model.parameters(), lr=0.1), model).on(layout)
    wrapped = LightningOptimizer(optim.AdamW(model.parameters()))
    assert OptimizerState.of(wrapped, model).kind == "AdamW"
    assert OptimizerState.of(LightningOptimizer(Reversed(model.parameters(), lr=0.1)), model).kind == "Reversed"


def test_uphill_there_is_no_stability():
    model = built(perceptron)
    optimizer = optim.SGD(model.parameters(), lr=0.1, maximize=True)
    with pytest.raises(ValueError, match="the optimizer climbs"):
        OptimizerState.of(optimizer, model).on(ParameterLayout.of(model))


def test_tied_parameters_appear_once_and_frozen_ones_do_not_matter():
    model, optimizer = trained(ADAPTIVE["Adam"], model=built(TiedFrozenUnused, dtype=torch.float64))
    layout = ParameterLayout.of(model, ["encoder.weight", "head.*"])
    assert OptimizerState.of(optimizer, model).on(layout).preconditioner.shape == (layout.size,)
    with pytest.raises(NoStepError, match="Adam has made no step on 'unused' yet"):
        OptimizerState.of(optimizer, model).on(ParameterLayout.of(model))


def test_an_objective_holds_a_snapshot_which_is_no_part_of_its_identity():
    model, optimizer = trained(ADAPTIVE["Adam"])
    data = (vectors()[0].double(), vectors()[1])
    plain = Objective(model, data, loss=F.cross_entropy)
    objective = Objective(model, data, loss=F.cross_entropy, optimizer=optimizer)
    assert objective.identity() == plain.identity()
    state = OptimizerState.of(optimizer, model)
    assert objective.optimizer_state.digest() == state.digest()
    trained(lambda _: optimizer, 1, model)
    assert objective.optimizer_state.digest() == state.digest()
    given = Objective(model, data, loss=F.cross_entropy, optimizer=lambda: state)
    assert given.optimizer_state is state and given.optimizer_state is state
    assert Objective(model, data, loss=F.cross_entropy, optimizer=state).optimizer_state is state
    with pytest.raises(ValueError, match="this objective knows no optimizer; make it with Objective"):
        plain.optimizer_state  # noqa: B018


def test_refusals():
    model, optimizer = trained(ADAPTIVE["Adam"])
    layout = ParameterLayout.of(model)
    lion, optim_lion = trained(lambda p: Lion(p, 1e-3))
    with pytest.raises(ValueError, match="none of the parameters of Sequential is in the Adam"):
        OptimizerState.of(optimizer, built(perceptron))
    with pytest.raises(ValueError, match=r"the stability of Lion is not known; it is for AdamW, NAdam, Adam"):
        OptimizerState.of(optim_lion, lion).on(layout)
    half = OptimizerState.of(optim.SGD(model[0].parameters(), 0.1), model)
    with pytest.raises(ValueError, match=r"the optimizer does not move '2.weight'; leave it out with parameters="):
        half.on(layout)
    fresh = OptimizerState.of(optim.Adam(model.parameters(), 0.1), model)
    with pytest.raises(NoStepError, match="Adam has made no step on '0.weight' yet"):
        fresh.on(layout)
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters()}]
    with pytest.raises(ValueError, match="'0.weight' has learning rate 0, others have not"):
        OptimizerState.of(optim.SGD(groups, lr=0.1), model).on(layout)
    groups = [{"params": model[0].parameters(), "momentum": 0.5}, {"params": model[2].parameters()}]
    with pytest.raises(ValueError, match="the parameter groups differ in momentum .* choose one group"):
        OptimizerState.of(optim.SGD(groups, lr=0.1), model).on(layout)


def test_tensors_as_learning_rates():
    model = One()
    optimizer = optim.Adam(model.parameters(), lr=torch.tensor(0.25))
    assert OptimizerState.of(optimizer, model).parameters["w"]["settings"]["lr"] == 0.25
