"""Update rules against sequences written by hand."""

from __future__ import annotations

import math

import pytest
import torch

from models.optimizers import OPTIMIZERS, Lion, build_optimizer

GRADIENTS = [0.5, -2.0, 0.25, 1.0]
LR = 0.1


def run(name: str, weight_decay: float = 0.0, **options) -> list[float]:
    theta = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = build_optimizer(name, [theta], LR, weight_decay, **options)
    path = []
    for gradient in GRADIENTS:
        theta.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        path.append(theta.item())
    return path


def by_hand(rule, state) -> list[float]:
    theta, path = 1.0, []
    for k, g in enumerate(GRADIENTS, start=1):
        theta, state = rule(theta, g, state, k)
        path.append(theta)
    return path


def momentum_rule(theta, g, v, k):
    v = 0.9 * v + g
    return theta - LR * v, v


def nesterov_rule(theta, g, v, k):
    v = 0.9 * v + g
    return theta - LR * (g + 0.9 * v), v


def adagrad_rule(theta, g, s, k):
    s = s + g * g
    return theta - LR * g / (math.sqrt(s) + 1e-10), s


def adadelta_rule(theta, g, state, k):
    v, u = state
    v = 0.9 * v + 0.1 * g * g
    delta = math.sqrt(u + 1e-6) / math.sqrt(v + 1e-6) * g
    return theta - LR * delta, (v, 0.9 * u + 0.1 * delta * delta)


def rmsprop_rule(theta, g, v, k):
    v = 0.99 * v + 0.01 * g * g
    return theta - LR * g / (math.sqrt(v) + 1e-8), v


def adam_rule(theta, g, state, k):
    m, v = 0.9 * state[0] + 0.1 * g, 0.999 * state[1] + 0.001 * g * g
    return theta - LR * (m / (1 - 0.9**k)) / (math.sqrt(v / (1 - 0.999**k)) + 1e-8), (m, v)


def lion_rule(theta, g, m, k):
    return theta - LR * math.copysign(1, 0.9 * m + 0.1 * g), 0.99 * m + 0.01 * g


@pytest.mark.parametrize(
    ("name", "rule", "state"),
    [
        ("momentum", momentum_rule, 0.0),
        ("nesterov", nesterov_rule, 0.0),
        ("adagrad", adagrad_rule, 0.0),
        ("adadelta", adadelta_rule, (0.0, 0.0)),
        ("rmsprop", rmsprop_rule, 0.0),
        ("adam", adam_rule, (0.0, 0.0)),
        ("adamw", adam_rule, (0.0, 0.0)),
        ("lion", lion_rule, 0.0),
    ],
)
def test_sequence(name, rule, state):
    assert run(name) == pytest.approx(by_hand(rule, state), rel=1e-9)


def test_sgd_takes_momentum():
    assert run("sgd") == pytest.approx([1 - LR * sum(GRADIENTS[: k + 1]) for k in range(4)])
    assert run("sgd", momentum=0.9) == run("momentum")


def test_weight_decay_is_coupled_or_not():
    assert run("sgd", 0.5)[0] == pytest.approx(1 - LR * (0.5 + 0.5 * 1.0))
    for name in ("adamw", "lion"):  # the first adaptive step has length lr
        assert run(name, 0.5)[0] == pytest.approx((1 - LR * 0.5) * 1.0 - LR, rel=1e-6)


def test_lion_moves_each_coordinate_by_the_learning_rate():
    theta = torch.nn.Parameter(torch.zeros(5))
    optimizer = Lion([theta], lr=0.01)
    theta.grad = torch.tensor([1e-9, -3.0, 0.0, 7.0, -1e-5])
    optimizer.step()
    assert theta.tolist() == pytest.approx([-0.01, 0.01, 0.0, -0.01, 0.01])


def test_lion_calls_its_closure_and_skips_parameters_without_gradient():
    used, idle = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = Lion([used, idle], lr=0.1)

    def closure():
        loss = used.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 1.0
    assert (used.item(), idle.item()) == (pytest.approx(0.9), 1.0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_survives_saving(name):
    torch.manual_seed(0)
    start = torch.randn(3)

    def steps(optimizer, theta, count):
        for _ in range(count):
            theta.grad = 2 * theta.detach()
            optimizer.step()

    whole = torch.nn.Parameter(start.clone())
    steps(build_optimizer(name, [whole], LR), whole, 4)
    half = torch.nn.Parameter(start.clone())
    first = build_optimizer(name, [half], LR)
    steps(first, half, 2)
    second = build_optimizer(name, [half], LR)
    second.load_state_dict(first.state_dict())
    steps(second, half, 2)
    assert torch.equal(whole, half)


def test_bad_choices_are_named():
    theta = [torch.nn.Parameter(torch.zeros(1))]
    with pytest.raises(ValueError, match="unknown optimizer 'adm'; did you mean 'adam'"):
        build_optimizer("adm", theta, LR)
    with pytest.raises(ValueError, match="'adam' takes no option momentum; it takes: betas"):
        build_optimizer("adam", theta, LR, momentum=0.9)
    with pytest.raises(ValueError, match="Lion needs lr >= 0"):
        build_optimizer("lion", theta, -1.0)
