"""Newton's method and its kin as optimizers of small networks, by the steps of `landscape.critical`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from landscape.critical import decomposed, newton_step
from models.optimizers.registry import OPTIMIZERS
from models.optimizers.rule import OwnOptimizer

LARGEST = 2000
"""The most parameters whose Hessian is written out at every step."""


class Newton(OwnOptimizer):
    """A step of Newton's kind at the batch at hand, with the whole Hessian, all parameter groups as one.

        theta <- theta - lr (H + mu I)^(-1) g

    Saddle-free, H has its eigenvalues' magnitudes; mu is `damping` times the largest of them. Weight decay is part of
    the loss. `step(closure)` takes a closure that returns the loss and need not differentiate it; else give the loss to
    `take_gradient` first.

    Raises:
        ValueError: If a setting is out of range, or there are more than 2000 parameters.

    References:
        Dauphin et al., "Identifying and attacking the saddle point problem in high-dimensional non-convex
        optimization", NeurIPS 2014.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        damping: float = 0.0,
        saddle_free: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, damping=damping, saddle_free=saddle_free, weight_decay=weight_decay)
        self._moved = [theta for group in self.param_groups for theta in group["params"] if theta.requires_grad]
        size = sum(theta.numel() for theta in self._moved)
        if size > LARGEST:
            raise ValueError(
                f"Newton's method writes out a Hessian of {size} rows and columns at each step, and takes at most "
                f"{LARGEST} parameters; choose a narrower model"
            )
        self._hessian: Tensor | None = None

    def take_gradient(self, loss: Tensor) -> None:
        """Take gradient and Hessian of a loss whose graph is still there."""
        gradients = torch.autograd.grad(loss, self._moved, create_graph=True)
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        rows = [torch.autograd.grad(entry, self._moved, retain_graph=True, materialize_grads=True) for entry in flat]
        self._hessian = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows]).double()
        for theta, gradient in zip(self._moved, gradients, strict=True):
            theta.grad = gradient.detach()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step; a closure is called first, with gradients on, and its loss returned.

        Raises:
            RuntimeError: If there is no Hessian, or it is not finite.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
                if self._hessian is None and isinstance(loss, Tensor) and loss.requires_grad:
                    self.take_gradient(loss)
        if self._hessian is None:
            raise RuntimeError(
                "Newton's method needs the Hessian: give step() a closure that returns the loss, or the loss to "
                "take_gradient()"
            )
        if not self._hessian.isfinite().all():
            raise RuntimeError("the Hessian is not finite, so there is no step; begin from smaller weights")
        self._move(self._hessian)
        self._hessian = None
        return loss

    def update(self, theta: Tensor, gradient: Tensor, state: dict[str, Any], group: Any) -> None:
        """Move one parameter; `gradient` is the step of Newton's kind."""
        theta.sub_(gradient, alpha=group["lr"])

    def _move(self, hessian: Tensor) -> None:
        group = self.param_groups[0]
        hessian.diagonal().add_(group["weight_decay"])
        gradient = torch.cat([self._decayed(theta, group).reshape(-1) for theta in self._moved])
        step = newton_step(*decomposed(hessian), gradient, group["damping"], group["saddle_free"])
        for theta, part in zip(self._moved, step.split([theta.numel() for theta in self._moved]), strict=True):
            self.update(theta, part.reshape(theta.shape).to(theta.dtype), {}, group)


@OPTIMIZERS.register("newton")
def newton(parameters: Any, lr: float = 1.0, weight_decay: float = 0.0, *, damping: float = 0.0) -> Optimizer:
    """Newton's method, damped by a multiple of the largest curvature: drawn to saddles; at most 2000 parameters."""
    return Newton(parameters, lr=lr, damping=damping, weight_decay=weight_decay)


@OPTIMIZERS.register("saddle-free-newton")
def saddle_free_newton(
    parameters: Any, lr: float = 1.0, weight_decay: float = 0.0, *, damping: float = 0.05
) -> Optimizer:
    """Newton's method with the magnitudes of curvature, repelled by saddles (Dauphin et al. 2014)."""
    return Newton(parameters, lr=lr, damping=damping, saddle_free=True, weight_decay=weight_decay)
