"""Optimizers that give every weight its own step size, torch's and those forms that torch has not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, optim
from torch.optim.optimizer import Optimizer

from models.optimizers.registry import OPTIMIZERS, Betas
from models.optimizers.rule import OwnOptimizer, average

NadamForm = Literal["torch", "constant"]


class AdagradInside(OwnOptimizer):
    """Adagrad with eps inside the root.

        G     <- G + g^2
        theta <- theta - lr g / sqrt(G + eps)

    References:
        Duchi et al., "Adaptive subgradient methods", JMLR 2011, who write it outside, as torch does.
    """

    steps_like = "Adagrad"

    def __init__(self, params: Iterable[Any], lr: float, eps: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr=lr, eps=eps, weight_decay=weight_decay, eps_inside=True, lr_decay=0.0)

    def update(self, theta: Tensor, gradient: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """Move one parameter."""
        if not state:
            state.update(step=0, sum=torch.zeros_like(theta))
        state["step"] += 1
        state["sum"].addcmul_(gradient, gradient)
        theta.addcdiv_(gradient, (state["sum"] + group["eps"]).sqrt_(), value=-group["lr"])


class RMSpropInside(OwnOptimizer):
    """RMSprop with eps inside the root.

        G     <- alpha G + (1 - alpha) g^2
        theta <- theta - lr g / sqrt(G + eps)

    Centered, G is less by the square of the average of g. With momentum it is the quotient that is accumulated, as in
    torch.

    References:
        Tieleman & Hinton, "Lecture 6.5: rmsprop", 2012; centered: Graves, "Generating sequences with recurrent neural
        networks", 2013, equations 38-45.
    """

    steps_like = "RMSprop"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        alpha: float,
        eps: float,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            eps_inside=True,
        )

    def update(self, theta: Tensor, gradient: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """Move one parameter."""
        state["step"] = state.get("step", 0) + 1
        variance = average(state, "square_avg", gradient * gradient, group["alpha"])
        if group["centered"]:
            variance = variance - average(state, "grad_avg", gradient, group["alpha"]) ** 2
        step = gradient / (variance + group["eps"]).sqrt_()
        if group["momentum"]:
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(theta)
            step = state["momentum_buffer"].mul_(group["momentum"]).add_(step)
        theta.sub_(step, alpha=group["lr"])


class UncorrectedAdam(OwnOptimizer):
    """Adam whose averages, zero at first, are not corrected for that.

        m     <- beta1 m + (1 - beta1) g
        v     <- beta2 v + (1 - beta2) g^2
        theta <- theta - lr m / (sqrt(v) + eps)

    With amsgrad the largest v so far takes the place of v, as Reddi et al. wrote it. Under a constant gradient the
    first step has length lr (1 - beta1) / sqrt(1 - beta2), 3.16 lr by default, and the twelfth 6.57 lr.

    References:
        Reddi et al., "On the convergence of Adam and beyond", ICLR 2018, algorithm 2.
    """

    steps_like = "Adam"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: Betas,
        eps: float,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, bias_correction=False
        )

    def update(self, theta: Tensor, gradient: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """Move one parameter."""
        beta1, beta2 = group["betas"]
        state["step"] = state.get("step", 0) + 1
        mean = average(state, "exp_avg", gradient, beta1)
        second = average(state, "exp_avg_sq", gradient * gradient, beta2)
        if group["amsgrad"]:
            if "max_exp_avg_sq" not in state:
                state["max_exp_avg_sq"] = torch.zeros_like(theta)
            second = torch.maximum(state["max_exp_avg_sq"], second, out=state["max_exp_avg_sq"])
        theta.addcdiv_(mean, second.sqrt() + group["eps"], value=-group["lr"])


class ConstantNadam(OwnOptimizer):
    """Adam with Nesterov's momentum, of a constant decay.

        m     <- beta1 m + (1 - beta1) g
        v     <- beta2 v + (1 - beta2) g^2
        theta <- theta - lr (beta1 m + (1 - beta1) g) / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)

    Torch's form lets the decay grow with the step, and corrects the average by one step more.

    References:
        Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop 2016.
    """

    steps_like = "NAdam"

    def __init__(self, params: Iterable[Any], lr: float, betas: Betas, eps: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, theta: Tensor, gradient: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """Move one parameter."""
        beta1, beta2 = group["betas"]
        state["step"] = step = state.get("step", 0) + 1
        mean = average(state, "exp_avg", gradient, beta1)
        second = average(state, "exp_avg_sq", gradient * gradient, beta2)
        ahead = (beta1 * mean).add_(gradient, alpha=1 - beta1)
        metric = (second / (1 - beta2**step)).sqrt_().add_(group["eps"])
        theta.addcdiv_(ahead, metric, value=-group["lr"] / (1 - beta1**step))


class Lion(OwnOptimizer):
    """The sign of a momentum: every parameter moves by exactly the learning rate, up to weight decay.

        theta <- theta - lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * theta)
        m     <- beta2 * m + (1 - beta2) * g

    References:
        Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023, program 1.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-4, betas: Betas = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay, decoupled_weight_decay=True)

    def update(self, theta: Tensor, gradient: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """Move one parameter."""
        beta1, beta2 = group["betas"]
        if not state:
            state["momentum"] = torch.zeros_like(theta)
        momentum = state["momentum"]
        theta.add_(momentum.lerp(gradient, 1 - beta1).sign_(), alpha=-group["lr"])
        momentum.lerp_(gradient, 1 - beta2)


@OPTIMIZERS.register("adagrad")
def adagrad(
    parameters: Any, lr: float = 0.01, weight_decay: float = 0.0, *, eps: float = 1e-10, eps_inside: bool = False
) -> Optimizer:
    """Step over the root of the sum of squared gradients, eps outside or inside that root (Duchi et al. 2011)."""
    if eps_inside:
        return AdagradInside(parameters, lr=lr, eps=eps, weight_decay=weight_decay)
    return optim.Adagrad(parameters, lr=lr, eps=eps, weight_decay=weight_decay)


@OPTIMIZERS.register("adadelta")
def adadelta(
    parameters: Any, lr: float = 1.0, weight_decay: float = 0.0, *, rho: float = 0.9, eps: float = 1e-6
) -> Optimizer:
    """Step scaled by the root mean square of past steps over that of gradients (Zeiler 2012)."""
    return optim.Adadelta(parameters, lr=lr, rho=rho, eps=eps, weight_decay=weight_decay)


@OPTIMIZERS.register("rmsprop")
def rmsprop(
    parameters: Any,
    lr: float = 0.001,
    weight_decay: float = 0.0,
    *,
    momentum: float = 0.0,
    alpha: float = 0.99,
    eps: float = 1e-8,
    eps_inside: bool = False,
    centered: bool = False,
) -> Optimizer:
    """Step over the root mean square of recent gradients, eps outside or inside it (Tieleman & Hinton 2012)."""
    kind = RMSpropInside if eps_inside else optim.RMSprop
    return kind(
        parameters, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum, centered=centered
    )


@OPTIMIZERS.register("adam")
def adam(
    parameters: Any,
    lr: float = 0.001,
    weight_decay: float = 0.0,
    *,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    bias_correction: bool = True,
    amsgrad: bool = False,
) -> Optimizer:
    """Adam (Kingma & Ba 2015), with or without bias correction; amsgrad is that of Reddi et al. 2018."""
    kind = optim.Adam if bias_correction else UncorrectedAdam
    return kind(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)


@OPTIMIZERS.register("adamw")
def adamw(
    parameters: Any,
    lr: float = 0.001,
    weight_decay: float = 0.0,
    *,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    amsgrad: bool = False,
) -> Optimizer:
    """Adam with weight decay apart from the gradient (Loshchilov & Hutter 2019)."""
    return optim.AdamW(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)


@OPTIMIZERS.register("nadam")
def nadam(
    parameters: Any,
    lr: float = 0.001,
    weight_decay: float = 0.0,
    *,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    form: NadamForm = "torch",
    momentum_decay: float = 0.004,
) -> Optimizer:
    """Adam with Nesterov's momentum, which grows with the step (torch) or is constant (Dozat 2016).

    Raises:
        ValueError: If a constant momentum is given a decay.
    """
    if form == "constant":
        if momentum_decay != 0.004:
            raise ValueError(f"nadam of form=constant takes no momentum_decay, got {momentum_decay}; leave it out")
        return ConstantNadam(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    return optim.NAdam(
        parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, momentum_decay=momentum_decay
    )


@OPTIMIZERS.register("radam")
def radam(
    parameters: Any,
    lr: float = 0.001,
    weight_decay: float = 0.0,
    *,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
) -> Optimizer:
    """Adam with its early variance rectified (Liu et al. 2020)."""
    return optim.RAdam(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)


@OPTIMIZERS.register("lion")
def lion(parameters: Any, lr: float = 0.0001, weight_decay: float = 0.0, *, betas: Betas = (0.9, 0.99)) -> Optimizer:
    """The sign of a momentum (Chen et al. 2023), with weight decay apart from the gradient."""
    return Lion(parameters, lr=lr, betas=betas, weight_decay=weight_decay)
