"""Update rules, by name: torch's, and Lion."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, optim
from torch.optim.optimizer import Optimizer

from models.registry import Registry

Betas = tuple[float, float]

OPTIMIZERS = Registry("optimizer")
"""Functions `(parameters, lr, weight_decay, *, options)`; the default of `lr` is the usual one of that rule."""


class Lion(Optimizer):
    """The sign of a momentum: every parameter moves by exactly the learning rate, up to weight decay.

        theta <- theta - lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * theta)
        m     <- beta2 * m + (1 - beta2) * g

    References:
        Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023, program 1.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-4,
        betas: Betas = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        if lr < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            got = f"{lr}, {weight_decay}, {betas}"
            raise ValueError(f"Lion needs lr >= 0, weight_decay >= 0 and betas in [0, 1), got {got}")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update; a closure is called first, with gradients on, and its loss returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for theta in group["params"]:
                if theta.grad is not None:
                    self._update(theta, theta.grad, group)
        return loss

    def _update(self, theta: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[theta], group["betas"]
        if not state:
            state["momentum"] = torch.zeros_like(theta)
        momentum = state["momentum"]
        theta.mul_(1 - group["lr"] * group["weight_decay"])
        theta.add_(momentum.lerp(gradient, 1 - beta1).sign_(), alpha=-group["lr"])
        momentum.lerp_(gradient, 1 - beta2)


@OPTIMIZERS.register("sgd")
def sgd(parameters: Any, lr: float = 0.1, weight_decay: float = 0.0, *, momentum: float = 0.0) -> Optimizer:
    """Stochastic gradient descent; `v <- momentum * v + g; theta <- theta - lr * v`."""
    return optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)


@OPTIMIZERS.register("momentum")
def heavy_ball(parameters: Any, lr: float = 0.1, weight_decay: float = 0.0, *, momentum: float = 0.9) -> Optimizer:
    """SGD with momentum (Polyak 1964), in torch's form."""
    return optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)


@OPTIMIZERS.register("nesterov")
def nesterov(parameters: Any, lr: float = 0.1, weight_decay: float = 0.0, *, momentum: float = 0.9) -> Optimizer:
    """SGD with Nesterov's momentum, in torch's form."""
    return optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=True)


@OPTIMIZERS.register("adagrad")
def adagrad(parameters: Any, lr: float = 0.01, weight_decay: float = 0.0) -> Optimizer:
    """Step over the root of the sum of squared gradients (Duchi et al. 2011)."""
    return optim.Adagrad(parameters, lr=lr, weight_decay=weight_decay)


@OPTIMIZERS.register("adadelta")
def adadelta(parameters: Any, lr: float = 1.0, weight_decay: float = 0.0) -> Optimizer:
    """Step scaled by the root mean square of past steps over that of gradients (Zeiler 2012)."""
    return optim.Adadelta(parameters, lr=lr, weight_decay=weight_decay)


@OPTIMIZERS.register("rmsprop")
def rmsprop(parameters: Any, lr: float = 0.001, weight_decay: float = 0.0, *, momentum: float = 0.0) -> Optimizer:
    """Step over the root mean square of recent gradients (Tieleman & Hinton 2012)."""
    return optim.RMSprop(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)


@OPTIMIZERS.register("adam")
def adam(parameters: Any, lr: float = 0.001, weight_decay: float = 0.0, *, betas: Betas = (0.9, 0.999)) -> Optimizer:
    """Adam (Kingma & Ba 2015); weight decay enters through the gradient."""
    return optim.Adam(parameters, lr=lr, betas=betas, weight_decay=weight_decay)


@OPTIMIZERS.register("adamw")
def adamw(parameters: Any, lr: float = 0.001, weight_decay: float = 0.0, *, betas: Betas = (0.9, 0.999)) -> Optimizer:
    """Adam with weight decay apart from the gradient (Loshchilov & Hutter 2019)."""
    return optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=weight_decay)


@OPTIMIZERS.register("nadam")
def nadam(parameters: Any, lr: float = 0.001, weight_decay: float = 0.0, *, betas: Betas = (0.9, 0.999)) -> Optimizer:
    """Adam with Nesterov's momentum (Dozat 2016), in torch's form with its momentum schedule."""
    return optim.NAdam(parameters, lr=lr, betas=betas, weight_decay=weight_decay)


@OPTIMIZERS.register("radam")
def radam(parameters: Any, lr: float = 0.001, weight_decay: float = 0.0, *, betas: Betas = (0.9, 0.999)) -> Optimizer:
    """Adam with its early variance rectified (Liu et al. 2020)."""
    return optim.RAdam(parameters, lr=lr, betas=betas, weight_decay=weight_decay)


@OPTIMIZERS.register("lion")
def lion(parameters: Any, lr: float = 0.0001, weight_decay: float = 0.0, *, betas: Betas = (0.9, 0.99)) -> Optimizer:
    """Lion (Chen et al. 2023): the sign of a momentum."""
    return Lion(parameters, lr=lr, betas=betas, weight_decay=weight_decay)


def default_lr(name: str) -> float:
    """Return the usual learning rate of an optimizer."""
    return inspect.signature(OPTIMIZERS[name]).parameters["lr"].default


def build_optimizer(name: str, parameters: Any, lr: float, weight_decay: float = 0.0, **options: Any) -> Optimizer:
    """Build an optimizer.

    Args:
        name: One of `OPTIMIZERS`.
        parameters: What torch's optimizers take.
        lr: Learning rate, >= 0.
        weight_decay: Decoupled for "adamw" and "lion", added to the gradient elsewhere.
        **options: What the optimizer takes of `momentum` and `betas`.

    Raises:
        ValueError: If the name, an option or a value is not one that the optimizer takes.
    """
    OPTIMIZERS.check(name, options)
    return OPTIMIZERS[name](parameters, lr, weight_decay, **options)
