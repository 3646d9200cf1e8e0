"""What `landscape.optimizer_state` makes of the optimizers that are written here, not in torch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import nn

from landscape.objective import Objective
from landscape.optimizer_state import NoStepError, OptimizerState
from landscape.parameters import ParameterLayout
from landscape.probes import Stability
from models.classifier import Classifier
from models.optimizers import OPTIMIZERS, SutskeverMomentum, build_optimizer
from tests.problems import built, perceptron, vectors

BETA, LR = 0.9, 0.01


def trained(text: str, steps: int = 5, model: nn.Module | None = None, optimizer=None):
    """A perceptron in float64 after some full-batch steps, and its optimizer."""
    model = model or built(perceptron, dtype=torch.float64)
    inputs, targets = vectors()
    optimizer = optimizer or build_optimizer(text, model.parameters(), LR)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs.double()), targets)
        if "newton" not in text:
            loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return model, optimizer


def rule_of(text: str, steps: int = 5):
    model, optimizer = trained(text, steps)
    return OptimizerState.of(optimizer, model).on(ParameterLayout.of(model))


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


EDGES = {
    "momentum:form=sutskever": ("heavy ball", 2 + 2 * BETA),
    "momentum:form=heavy-ball": ("heavy ball", 2 + 2 * BETA),
    "momentum:form=ema": ("heavy ball", (2 + 2 * BETA) / (1 - BETA)),
    "nesterov:form=lookahead": ("Nesterov momentum", (2 + 2 * BETA) / (1 + 2 * BETA)),
    "nesterov:form=three-sequence": ("Nesterov momentum", (2 + 2 * BETA) / (1 + 2 * BETA)),
}


@pytest.mark.parametrize("text", EDGES)
def test_the_edge_moves_with_the_form_of_momentum(text):
    """The edges that test_optimizers.py feels on a quadratic."""
    algorithm, edge = EDGES[text]
    rule = rule_of(text)
    assert rule.algorithm == algorithm and rule.preconditioner is None
    assert rule.threshold * LR == pytest.approx(edge, rel=1e-12)


def test_a_growing_momentum_is_that_of_the_next_step():
    t = [1.0]
    for _ in range(7):
        t.append((1 + math.sqrt(1 + 4 * t[-1] ** 2)) / 2)
    rule = rule_of("nesterov:form=three-sequence,growing=true", steps=5)
    assert rule.momentum == pytest.approx((t[5] - 1) / t[6], rel=1e-12)
    assert rule_of("nesterov:form=three-sequence,growing=true", steps=0).momentum == 0.0  # (t_1 - 1) / t_2


METRICS = {
    "adagrad:eps=0.1,eps_inside=true": ("Adagrad", None),
    "rmsprop:eps=0.1,eps_inside=true": ("RMSprop", None),
    "adam:bias_correction=false": ("Adam", "exp_avg"),
    "adam:bias_correction=false,amsgrad=true": ("Adam", "exp_avg"),
    "nadam:form=constant": ("NAdam", "exp_avg"),
}


@pytest.mark.parametrize("text", METRICS)
def test_the_metric_is_the_one_in_which_the_step_is_made(text):
    """theta <- theta - lr P^-1 (a g + b m), with the step, the gradient and the momentum that it leaves."""
    algorithm, key = METRICS[text]
    model, optimizer = trained(text, steps=6)
    before = flat(model.parameters())
    trained(text, 1, model, optimizer)
    step, gradient = before - flat(model.parameters()), flat(p.grad for p in model.parameters())
    rule = OptimizerState.of(optimizer, model).on(ParameterLayout.of(model))
    momentum = flat(optimizer.state[p][key] for p in model.parameters()) if key else gradient
    moved = rule.gradient_share * gradient + rule.momentum_share * momentum
    torch.testing.assert_close(rule.learning_rate * moved / rule.preconditioner, step, rtol=1e-9, atol=1e-15)
    assert rule.algorithm == algorithm


def test_a_centered_metric_with_eps_inside():
    model, optimizer = trained("rmsprop:centered=true,eps=0.1,eps_inside=true", steps=6)
    rule = OptimizerState.of(optimizer, model).on(ParameterLayout.of(model))
    square, mean = (flat(optimizer.state[p][key] for p in model.parameters()) for key in ("square_avg", "grad_avg"))
    torch.testing.assert_close(rule.preconditioner, (square - mean**2 + 0.1).sqrt(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("text", METRICS)
def test_before_the_first_step_there_is_no_metric(text):
    with pytest.raises(NoStepError, match="has made no step on '0.weight' yet"):
        rule_of(text, steps=0)


UNKNOWN = {
    "adadelta": "Adadelta",
    "radam": "RAdam",
    "lion": "Lion",
    "newton": "Newton",
    "saddle-free-newton": "Newton",
}


@pytest.mark.parametrize("text", UNKNOWN)
def test_what_is_not_known_is_refused(text):
    with pytest.raises(ValueError, match=f"the stability of {UNKNOWN[text]} is not known; it is for"):
        rule_of(text)


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - set(UNKNOWN)))
def test_all_others_are_known_in_their_usual_form(name):
    assert math.isfinite(rule_of(name).threshold)


def test_sharpness_aware_steps_have_another_edge():
    model = built(perceptron, dtype=torch.float64)
    module = Classifier(model, lambda p: build_optimizer("momentum", p, LR), sam=0.05)
    optimizer = module.configure_optimizers()
    objective = Objective(model, (vectors()[0].double(), vectors()[1]), loss=F.cross_entropy, optimizer=optimizer)
    with pytest.raises(
        ValueError, match=r"stability of sharpness-aware minimization \(radius 0.05\) depends on the grad"
    ):
        Stability()(objective)
    assert math.isfinite(Stability(lr=LR, optimizer="sgd")(objective).ratio)


def test_a_class_derived_from_ours_may_step_as_it_likes():
    class Reversed(SutskeverMomentum):
        def update(self, theta, gradient, state, group): ...

    model = built(perceptron)
    optimizer = Reversed(model.parameters(), lr=LR, momentum=BETA)
    with pytest.raises(ValueError, match="the stability of Reversed is not known"):
        OptimizerState.of(optimizer, model).on(ParameterLayout.of(model))


def test_a_file_and_lightnings_wrapper_keep_what_it_steps_like(tmp_path):
    model, optimizer = trained("adam:bias_correction=false")
    state = OptimizerState.of(LightningOptimizer(optimizer), model)
    state.save(tmp_path / "optimizer.safetensors", "abc")
    again, _ = OptimizerState.load(tmp_path / "optimizer.safetensors")
    assert (again.kind, again.steps_like, again.digest()) == ("UncorrectedAdam", "Adam", state.digest())
    layout = ParameterLayout.of(model)
    assert torch.equal(again.on(layout).preconditioner, state.on(layout).preconditioner)


VECTORS = {  # vectors of the size of the parameters that are kept from step to step
    "sgd": 0,
    "gd": 0,
    "momentum": 1,
    "momentum:form=sutskever": 1,
    "momentum:form=ema": 1,
    "momentum:form=heavy-ball": 1,
    "nesterov": 1,
    "nesterov:form=lookahead": 1,
    "nesterov:form=three-sequence": 1,
    "adagrad": 1,
    "adagrad:eps_inside=true": 1,
    "rmsprop": 1,
    "rmsprop:centered=true,momentum=0.9": 3,
    "rmsprop:centered=true,momentum=0.9,eps_inside=true": 3,
    "adadelta": 2,
    "adam": 2,
    "adam:amsgrad=true": 3,
    "adam:bias_correction=false": 2,
    "adam:bias_correction=false,amsgrad=true": 3,
    "adamw": 2,
    "nadam": 2,
    "nadam:form=constant": 2,
    "radam": 2,
    "lion": 1,
    "newton": 0,
    "saddle-free-newton": 0,
}


@pytest.mark.parametrize("text", VECTORS)
def test_bytes_of_what_is_kept(text):
    """Vectors of float64, and torch's counters: 4 bytes each, one or (NAdam) two a parameter tensor."""
    model, optimizer = trained(text)
    size, tensors = sum(p.numel() for p in model.parameters()), len(list(model.parameters()))
    counters = {"adagrad": 1, "rmsprop": 1, "adadelta": 1, "adam": 1, "adamw": 1, "nadam": 2, "radam": 1}
    is_ours = type(optimizer).__module__.startswith("models")
    counted = 0 if is_ours else 4 * tensors * counters.get(text.partition(":")[0], 0)
    assert OptimizerState.of(optimizer, model).nbytes == 8 * size * VECTORS[text] + counted
