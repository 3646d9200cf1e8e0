"""Gradient descent, momentum and Nesterov's acceleration, in every form that differs in effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, optim
from torch.optim.optimizer import Optimizer

from models.optimizers.registry import OPTIMIZERS
from models.optimizers.rule import OwnOptimizer, average

MomentumForm = Literal["torch", "sutskever", "ema", "heavy-ball"]
NesterovForm = Literal["torch", "lookahead", "three-sequence"]


class SutskeverMomentum(OwnOptimizer):
    """Momentum whose velocity holds the learning rates of its steps.

        v     <- momentum v + lr g
        theta <- theta - v

    Torch's form at a constant learning rate; after the rate drops, the velocity slows down only by and by.

    References:
        Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013, equation 1.
    """

    steps_like = "SGD"

    def __init__(self, params: Iterable[Any], lr: float, momentum: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, dampening=0.0, nesterov=False)

    def update(self, theta: Tensor, gradient: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """Move one parameter."""
        if not state:
            state["velocity"] = torch.zeros_like(theta)
        theta.sub_(state["velocity"].mul_(group["momentum"]).add_(gradient, alpha=group["lr"]))


class AveragedMomentum(OwnOptimizer):
    """Descent along an exponential average of gradients, which begins at zero.

        v     <- momentum v + (1 - momentum) g
        theta <- theta - lr v

    Torch's form with a learning rate of lr (1 - momentum); its `dampening` is not this, since its first average is the
    first gradient.
    """

    steps_like = "SGD"

    def __init__(self, params: Iterable[Any], lr: float, momentum: float, weight_decay: float = 0.0) -> None:
        super().__init__(
            params, lr=lr, momentum=momentum, weight_decay=weight_decay, dampening=momentum, nesterov=False
        )

    def update(self, theta: Tensor, gradient: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """Move one parameter."""
        theta.sub_(average(state, "average", gradient, group["momentum"]), alpha=group["lr"])


class HeavyBall(OwnOptimizer):
    """Polyak's heavy ball, which remembers where it was.

        theta_next <- theta - lr g + momentum (theta - theta_before)

    References:
        Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    """

    steps_like = "SGD"

    def __init__(self, params: Iterable[Any], lr: float, momentum: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, dampening=0.0, nesterov=False)

    def update(self, theta: Tensor, gradient: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """Move one parameter."""
        here = theta.clone()
        theta.add_(here - state.get("before", here), alpha=group["momentum"]).sub_(gradient, alpha=group["lr"])
        state["before"] = here


class NesterovSequences(OwnOptimizer):
    """Nesterov's accelerated gradient by its sequences; the parameters are where the gradient is taken.

        phi_next   <- theta - lr g
        theta_next <- phi_next + mu (phi_next - phi)

    mu is `momentum`, or, where it is growing, (t_k - 1) / t_(k+1) with t_1 = 1 and
    t_(k+1) = (1 + sqrt(1 + 4 t_k^2)) / 2, of which the setting `momentum` is the next one.

    References:
        Nesterov, "A method of solving a convex programming problem with convergence rate O(1/k^2)", 1983.
    """

    steps_like = "SGD"

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float, weight_decay: float = 0.0, growing: bool = False
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=0.0 if growing else momentum,
            weight_decay=weight_decay,
            dampening=0.0,
            nesterov=True,
            growing=growing,
        )

    def update(self, theta: Tensor, gradient: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """Move one parameter."""
        phi = state.get("phi", theta)
        following = theta - group["lr"] * gradient
        mu = group["momentum"]
        if group["growing"]:
            t, later = state.get("t", 1.0), _following_t(state.get("t", 1.0))
            mu, state["t"] = (t - 1) / later, later
        theta.copy_(following + mu * (following - phi))
        state["phi"] = following

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update, and tell the next momentum in the settings."""
        loss = super().step(closure)
        for group in self.param_groups:
            found = [self.state[theta]["t"] for theta in group["params"] if "t" in self.state.get(theta, {})]
            if found:
                group["momentum"] = (found[0] - 1) / _following_t(found[0])
        return loss


class NesterovLookAhead(OwnOptimizer):
    """Momentum with the gradient of where the velocity will carry the parameters.

        v     <- momentum v + lr g(theta - momentum v)
        theta <- theta - v

    `step(closure)` goes there before it calls the closure, so that the closure's loss is the one there. Without a
    closure call `look_ahead` before the gradient is taken and `look_back` after.

    References:
        Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013, equation 3.
    """

    steps_like = "SGD"

    def __init__(self, params: Iterable[Any], lr: float, momentum: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, dampening=0.0, nesterov=True)
        self._here: list[tuple[Tensor, Tensor]] = []
        self._has_looked = False

    @torch.no_grad()
    def look_ahead(self) -> None:
        """Go to where the gradient is to be taken."""
        for group in self.param_groups:
            for theta in group["params"]:
                self._here.append((theta, theta.clone()))
                if velocity := self.state.get(theta):
                    theta.sub_(velocity["velocity"], alpha=group["momentum"])
        self._has_looked = True

    @torch.no_grad()
    def look_back(self) -> None:
        """Return to where the step begins, bit for bit."""
        for theta, here in self._here:
            theta.copy_(here)
        self._here.clear()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Look ahead, call the closure with gradients on, look back, make one update, and return the loss.

        Raises:
            RuntimeError: If there is no closure and nobody has looked ahead.
        """
        loss = None
        if closure is not None:
            self.look_ahead()
            with torch.enable_grad():
                loss = closure()
        if not self._has_looked:
            raise RuntimeError(
                "the look-ahead form needs the gradient of where the velocity leads: give step(closure), or call "
                "look_ahead() before the gradient is taken"
            )
        self.look_back()
        self._has_looked = False
        super().step()
        return loss

    def update(self, theta: Tensor, gradient: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """Move one parameter."""
        if not state:
            state["velocity"] = torch.zeros_like(theta)
        theta.sub_(state["velocity"].mul_(group["momentum"]).add_(gradient, alpha=group["lr"]))

    def _decayed(self, theta: Tensor, group: Mapping[str, Any]) -> Tensor:
        """The gradient with that of the penalty, taken at the same place."""
        decay, velocity = group["weight_decay"], self.state.get(theta)
        gradient = super()._decayed(theta, group)
        return gradient.sub(velocity["velocity"], alpha=decay * group["momentum"]) if decay and velocity else gradient


def _following_t(t: float) -> float:
    return (1 + math.sqrt(1 + 4 * t * t)) / 2


@OPTIMIZERS.register("sgd")
def sgd(parameters: Any, lr: float = 0.1, weight_decay: float = 0.0, *, momentum: float = 0.0) -> Optimizer:
    """Stochastic gradient descent; `v <- momentum * v + g; theta <- theta - lr * v` (Robbins & Monro 1951)."""
    return optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)


@OPTIMIZERS.register("gd")
def gradient_descent(parameters: Any, lr: float = 0.1, weight_decay: float = 0.0) -> Optimizer:
    """Gradient descent on all training examples at each step (Cauchy 1847)."""
    return optim.SGD(parameters, lr=lr, weight_decay=weight_decay)


@OPTIMIZERS.register("momentum")
def momentum(
    parameters: Any, lr: float = 0.1, weight_decay: float = 0.0, *, momentum: float = 0.9, form: MomentumForm = "torch"
) -> Optimizer:
    """SGD with momentum (Polyak 1964): torch's form is that of sgd; after a drop of lr the others coast."""
    if form == "torch":
        return optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
    kinds = {"sutskever": SutskeverMomentum, "ema": AveragedMomentum, "heavy-ball": HeavyBall}
    return kinds[form](parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)


@OPTIMIZERS.register("nesterov")
def nesterov(
    parameters: Any,
    lr: float = 0.1,
    weight_decay: float = 0.0,
    *,
    momentum: float = 0.9,
    form: NesterovForm = "torch",
    growing: bool = False,
) -> Optimizer:
    """SGD with Nesterov's acceleration (Nesterov 1983); growing lets the momentum of three-sequence grow with the step.

    Raises:
        ValueError: If the momentum of another form than three-sequence is to grow, or torch's is given no momentum.
    """
    if growing and form != "three-sequence":
        raise ValueError(f"only the momentum of form=three-sequence can be growing, got form={form}")
    if form == "torch":
        if not momentum:
            raise ValueError("nesterov in torch's form needs a momentum above 0, got 0; choose 'sgd'")
        return optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=True)
    if form == "lookahead":
        return NesterovLookAhead(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
    return NesterovSequences(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, growing=growing)
