"""What becomes of a gradient before the optimizer steps, and how it is taken at a worse point nearby."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer


@dataclass(frozen=True)
class GradientRules:
    """What is done to gradients, in this order, once they are taken and before the optimizer steps.

    Attributes:
        clip_value: Largest magnitude of an entry; unlimited if None.
        clip_norm: Largest Euclidean norm of the whole gradient, which is scaled down to it; unlimited if None.
        l1: Coefficient a of the penalty a sum |theta|, whose gradient a sign(theta) is added; with coupled weight
            decay b it is the elastic net, a sum |theta| + b/2 sum theta^2.
        decay: Decoupled weight decay: theta <- (1 - lr decay) theta.

    References:
        Pascanu et al., "On the difficulty of training recurrent neural networks", ICML 2013, algorithm 1; Zou & Hastie,
        "Regularization and variable selection via the elastic net", 2005; Loshchilov & Hutter, "Decoupled weight decay
        regularization", ICLR 2019.
    """

    clip_value: float | None = None
    clip_norm: float | None = None
    l1: float = 0.0
    decay: float = 0.0

    @torch.no_grad()
    def apply(self, optimizer: Optimizer) -> None:
        """Change the gradients of an optimizer's parameters in place, and decay the parameters."""
        moved = [(p, group["lr"]) for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        parameters = [parameter for parameter, _ in moved]
        if self.clip_value is not None:
            nn.utils.clip_grad_value_(parameters, self.clip_value)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        for parameter, lr in moved:
            if self.l1:
                parameter.grad.add_(parameter.sign(), alpha=self.l1)
            if self.decay:
                parameter.mul_(1 - lr * self.decay)


def sharpness_aware_gradient(
    loss: Tensor,
    parameters: Sequence[Tensor],
    radius: float,
    again: Callable[[], Tensor],
    differentiate: Callable[[Tensor], None] = Tensor.backward,
) -> None:
    """Leave in `.grad` the gradient of the loss at the worst point nearby, theta + radius g / ||g||.

    Args:
        loss: The loss at theta, with its graph, which is used up.
        parameters: theta; the norm is that over all of them together. They are the same bit for bit afterwards.
        radius: rho of the paper, > 0.
        again: Evaluates the same loss anew.
        differentiate: Fills the gradients of a loss.

    References:
        Foret et al., "Sharpness-aware minimization for efficiently improving generalization", ICLR 2021, algorithm 1.
    """
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
    scale = radius / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    with torch.no_grad():
        before = [parameter.clone() for parameter in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.add_(gradient * scale)
    differentiate(again())
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)


@contextmanager
def kept_buffers(network: nn.Module) -> Iterator[None]:
    """Undo what happens to a network's buffers inside, such as a second update of BatchNorm's running statistics."""
    before = [buffer.clone() for buffer in network.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(network.buffers(), before, strict=True):
            buffer.data.copy_(value)
