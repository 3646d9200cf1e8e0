"""Clipping, penalties and decay by hand; sharpness-aware minimization on a quadratic and inside Lightning."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from models.classifier import Classifier
from models.data import Examples, TensorLoader
from models.gradients import GradientRules, kept_buffers, sharpness_aware_gradient
from models.optimizers import Newton, build_optimizer
from models.seeds import derived_seed

THETA, GRADIENT = np.array([3.0, -0.5, 0.0]), np.array([6.0, -2.0, 3.0])  # of norm 7


def ruled(rules: GradientRules, theta=THETA, gradient=GRADIENT, lr=0.1) -> tuple[np.ndarray, np.ndarray]:
    """Parameters and gradients, kept in two tensors, after the rules."""
    parameters = [nn.Parameter(torch.from_numpy(part.copy())) for part in (theta[:1], theta[1:])]
    for parameter, part in zip(parameters, (gradient[:1], gradient[1:]), strict=True):
        parameter.grad = torch.from_numpy(part.copy())
    rules.apply(torch.optim.SGD(parameters, lr=lr))
    return torch.cat(parameters).detach().numpy(), torch.cat([p.grad for p in parameters]).numpy()


def test_nothing_is_the_default():
    theta, gradient = ruled(GradientRules())
    assert theta.tolist() == THETA.tolist() and gradient.tolist() == GRADIENT.tolist()


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (GradientRules(clip_value=2.5), [2.5, -2.0, 2.5]),
        (GradientRules(clip_norm=3.5), GRADIENT / 2),
        (GradientRules(clip_norm=70.0), GRADIENT),
        (GradientRules(l1=0.25), GRADIENT + 0.25 * np.array([1, -1, 0])),
        (GradientRules(clip_value=2.0, clip_norm=np.sqrt(3.0)), [1.0, -1.0, 1.0]),  # (2, -2, 2), then half of it
        (GradientRules(clip_norm=3.5, l1=0.25), GRADIENT / 2 + 0.25 * np.array([1, -1, 0])),  # not clipped with it
    ],
)
def test_gradients_by_hand(rules, expected):
    theta, gradient = ruled(rules)
    # torch divides by the norm + 1e-6
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    assert theta.tolist() == THETA.tolist()


def test_decoupled_decay_by_hand():
    theta, gradient = ruled(GradientRules(decay=0.5))
    np.testing.assert_allclose(theta, (1 - 0.1 * 0.5) * THETA, rtol=1e-15)
    assert gradient.tolist() == GRADIENT.tolist()


def descent(text: str, rules: GradientRules, weight_decay: float = 0.0, penalty=lambda theta: 0.0) -> np.ndarray:
    """The path on a quadratic, under a learning rate that falls."""
    theta, path = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64)), []
    optimizer = build_optimizer(text, [theta], 0.1, weight_decay)
    for step in range(12):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        optimizer.zero_grad()
        (theta @ torch.tensor([[3.0, 1.0], [1.0, 0.5]], dtype=torch.float64) @ theta / 2 + penalty(theta)).backward()
        rules.apply(optimizer)
        optimizer.step()
        path.append(theta.detach().numpy().copy())
    return np.array(path)


@pytest.mark.parametrize("text", ["sgd", "momentum:form=ema", "adam", "rmsprop"])
def test_the_elastic_net_is_a_penalty_of_the_loss(text):
    penalized = descent(text, GradientRules(), penalty=lambda theta: 0.3 * theta.abs().sum() + 0.2 * theta @ theta / 2)
    np.testing.assert_allclose(descent(text, GradientRules(l1=0.3), 0.2), penalized, rtol=0, atol=1e-12)
    assert abs(penalized - descent(text, GradientRules())).max() > 1e-3


def test_decoupled_decay_of_adam_is_adamw():
    ours = descent("adam", GradientRules(decay=0.3))
    np.testing.assert_allclose(ours, descent("adamw", GradientRules(), 0.3), rtol=0, atol=1e-12)
    assert abs(ours - descent("adam", GradientRules(), 0.3)).max() > 1e-3  # coupled decay is another path


def test_decoupled_decay_of_momentum_is_sgdw():
    """theta <- (1 - lr decay) theta - lr v; coupled, the decay would enter v."""
    theta, v, path = np.array([1.0, -2.0]), 0.0, []
    for step in range(12):
        lr = 0.1 / (1 + step)
        v = 0.9 * v + np.array([[3.0, 1.0], [1.0, 0.5]]) @ theta
        theta = (1 - lr * 0.3) * theta - lr * v
        path.append(theta)
    np.testing.assert_allclose(descent("momentum", GradientRules(decay=0.3)), path, rtol=0, atol=1e-12)


# --- sharpness-aware ------------------------------------------------------------------------------------------

H = torch.tensor([[3.0, 1.0, 0.0], [1.0, 0.5, 0.2], [0.0, 0.2, 1.0]], dtype=torch.float64)


def two_parameters() -> list[nn.Parameter]:
    start = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    return [nn.Parameter(start[:2].clone()), nn.Parameter(start[2:].clone())]


def test_the_gradient_at_the_worst_point_of_a_quadratic():
    """H (theta + rho g / ||g||) with g = H theta, the norm over both tensors together."""
    parameters = two_parameters()
    theta = torch.cat(parameters).detach()

    def loss():
        flat = torch.cat(parameters)
        return flat @ H @ flat / 2

    sharpness_aware_gradient(loss(), parameters, 0.3, loss)
    g = H @ theta
    torch.testing.assert_close(
        torch.cat([p.grad for p in parameters]), H @ (theta + 0.3 * g / g.norm()), rtol=1e-12, atol=0
    )
    assert torch.equal(torch.cat(parameters), theta)


def test_at_a_critical_point_there_is_no_worse_direction():
    theta = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    sharpness_aware_gradient(theta @ H @ theta, [theta], 0.3, lambda: theta @ H @ theta)
    assert torch.equal(theta.grad, torch.zeros(3, dtype=torch.float64))


def test_a_rule_that_needs_more_takes_it_at_the_worse_point():
    theta = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))

    def loss():
        return (theta**4).sum() / 12  # whose Hessian is diag(theta^2)

    optimizer = Newton([theta], lr=1.0)
    sharpness_aware_gradient(loss(), [theta], 0.3, loss, optimizer.take_gradient)
    g = torch.tensor([1.0, 8.0], dtype=torch.float64) / 3
    worse = theta.detach() + 0.3 * g / g.norm()
    optimizer.step()
    expected = torch.tensor([1.0, 2.0], dtype=torch.float64) - worse / 3  # g / H = theta / 3
    torch.testing.assert_close(theta.detach(), expected, rtol=1e-12, atol=0)


def test_buffers_are_kept():
    norm = nn.BatchNorm1d(3)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with kept_buffers(norm):
        norm(torch.randn(8, 3))
        assert norm.num_batches_tracked == 1
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


class Counted(nn.Module):
    """A network with BatchNorm and dropout that counts how often it is evaluated, and what it dropped."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.norm, self.drop, self.last = (
            nn.Linear(4, 6),
            nn.BatchNorm1d(6),
            nn.Dropout(0.5),
            nn.Linear(6, 3),
        )
        self.dropped = []

    def forward(self, x):
        hidden = self.norm(self.first(x)).relu() + 1
        kept = self.drop(hidden)
        if self.training:
            self.dropped.append(kept == 0)
        return self.last(kept)


class Steps(pl.Callback):
    def __init__(self):
        self.gradients, self.norms, self.losses = [], [], []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.gradients.append([p.grad.clone() for p in module.network.parameters()])

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


def fit(module, data, batch_size, *callbacks, **options) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(module, TensorLoader(data, batch_size), TensorLoader(data, batch_size))
    return trainer


def examples(count: int) -> Examples:
    return Examples(torch.randn(count, 4, generator=torch.Generator().manual_seed(0)), torch.arange(count) % 3)


def fitted(sam: float, optimizer="sgd", **rules):
    network, steps, data = Counted(), Steps(), examples(16)
    module = Classifier(
        network, lambda p: build_optimizer(optimizer, p, 0.1), seed=5, rules=GradientRules(**rules), sam=sam
    )
    return module, fit(module, data, 16, steps), steps, data


def test_a_step_in_lightning_is_one_step_with_two_gradients():
    module, trainer, steps, data = fitted(sam=0.5)
    plain, _, plain_steps, _ = fitted(sam=0.0)
    network = module.network
    assert trainer.global_step == 1 and len(steps.gradients) == 1
    assert len(network.dropped) == 2 and torch.equal(*network.dropped) and network.dropped[0].any()
    # what is recorded is of the first evaluation: BatchNorm's statistics, updated once, the loss, the accuracy
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, dict(plain.network.named_buffers())[name]), name
    assert steps.losses == plain_steps.losses
    assert trainer.callback_metrics["train_loss"] == pytest.approx(steps.losses[0], rel=1e-6)
    # by hand: the same network, the same draws
    other = Counted()

    def loss():
        torch.manual_seed(derived_seed(5, "step", 0))
        return F.cross_entropy(other(data.inputs), data.targets)

    gradients = torch.autograd.grad(loss(), list(other.parameters()))
    norm = torch.cat([g.reshape(-1) for g in gradients]).norm()
    with torch.no_grad():
        for parameter, gradient in zip(other.parameters(), gradients, strict=True):
            parameter.add_(0.5 * gradient / norm)
    expected = torch.autograd.grad(loss(), list(other.parameters()))
    for found, wanted, undisturbed in zip(steps.gradients[0], expected, plain_steps.gradients[0], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)  # float32, about 20 operations
        assert not torch.equal(found, undisturbed)


@pytest.mark.parametrize("sam", [0.0, 0.3])
def test_looking_ahead_inside_lightning(sam):
    """The gradient is taken ahead; hooks, rules and the step see the parameters where the step begins."""

    class Places(pl.Callback):
        def __init__(self):
            self.before, self.after, self.taken = [], [], []

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.before.append(module.network.weight.detach().clone())

        def on_before_optimizer_step(self, trainer, module, optimizer):
            self.after.append(module.network.weight.detach().clone())

    class Watched(nn.Linear):
        def forward(self, x):
            if self.training:
                places.taken.append(self.weight.detach().clone())
            return super().forward(x)

    places, data = Places(), examples(24)
    torch.manual_seed(2)
    network = Watched(4, 3)
    module = Classifier(
        network,
        lambda p: build_optimizer("nesterov:form=lookahead", p, 0.1),
        rules=GradientRules(decay=0.1, l1=0.01),
        sam=sam,
    )
    fit(module, data, 8, places)
    assert len(places.before) == 3 and all(map(torch.equal, places.before, places.after))
    velocity, ends = torch.zeros(3, 4), [*places.before[1:], network.weight.detach()]
    for here, taken, end in zip(places.before, places.taken[:: 2 if sam else 1], ends, strict=True):
        torch.testing.assert_close(taken, here - 0.9 * velocity, rtol=1e-5, atol=1e-6)
        velocity = here * (1 - 0.1 * 0.1) - end  # decoupled decay is no part of it


def test_accumulated_gradients_are_means_also_when_sharpness_aware():
    def gradient(accumulate: int) -> list[torch.Tensor]:
        half = examples(8)
        data = half if accumulate == 1 else Examples(*(torch.cat([part, part]) for part in half))
        torch.manual_seed(1)
        steps = Steps()
        module = Classifier(nn.Linear(4, 3), lambda p: build_optimizer("sgd", p, 0.1), sam=0.3)
        fit(module, data, 8, steps, accumulate_grad_batches=accumulate)
        return steps.gradients[0]

    for once, twice in zip(gradient(1), gradient(2), strict=True):
        torch.testing.assert_close(once, twice, rtol=1e-5, atol=1e-7)


def test_the_trainers_own_clipping_comes_first():
    torch.manual_seed(0)
    module = Classifier(nn.Linear(4, 3), lambda p: build_optimizer("sgd", p, 1.0), rules=GradientRules(l1=0.5))
    with torch.no_grad():
        module.network.weight.abs_().add_(1.0)
    before = module.network.weight.detach().clone()
    fit(module, examples(8), 8, gradient_clip_val=1e-9)
    torch.testing.assert_close(module.network.weight.detach(), before - 0.5, rtol=0, atol=1e-6)
