"""The LightningModule that trains several networks of one architecture at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import Optimizer

from landscape.parameters import ParameterLayout
from models.classifier import LeanModule
from models.data import Examples
from models.gradients import GradientRules
from models.optimizers import OwnOptimizer
from models.stacking.batches import StackedExamples
from models.stacking.rows import apply_rules, give_gradient

_EVALUATED = 4096  # examples of all runs together that are evaluated at a time


class StackedClassifier(LeanModule):
    """Minimizes the cross-entropy of M networks, each on its own batches.

    The loss is the sum of theirs, so that the gradient of each is its own, whatever becomes of the others. All
    parameters lie in one tensor, a row a network, which update rules move by entry.

    Attributes:
        theta: (M, P) the trainable parameters, in the order of the layout.
        layout: Names and shapes of a row.
        losses: (M,) of the last batch.
        gradient: (M, P) of the last batch, before it is clipped.
        means: Loss and accuracy of the epoch's batches, with the parameters moving.
    """

    losses: Tensor
    gradient: Tensor
    means: Means

    def __init__(
        self,
        networks: Sequence[nn.Module],
        optimizer: Callable[[Tensor], Optimizer],
        schedule: Callable[[int], float] | None = None,
        rules: GradientRules | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        """Stack networks.

        Args:
            networks: M networks of one architecture whose layers draw nothing and keep no statistics.
            optimizer: Builds the optimizer that moves the memory of (M, P) parameters.
            schedule: Factor on the learning rates as a function of the step, from 0; constant if None.
            rules: What is done to gradients before the optimizer steps; nothing if None.
            label_smoothing: Of the loss, as `make_loss` takes it.
        """
        super().__init__()
        self.layout = ParameterLayout.of(networks[0])
        self.theta = nn.Parameter(torch.stack([self.layout.current(network).detach() for network in networks]))
        fixed = [_fixed(network) for network in networks]
        self._fixed = {name: f"fixed{number}" for number, name in enumerate(fixed[0])}
        for name, known in self._fixed.items():
            self.register_buffer(known, torch.stack([tensors[name] for tensors in fixed]))
        self._template = [networks[0].train()]  # in a list, since its parameters are not those that are trained
        self._optimizer, self._schedule = optimizer, schedule
        self.rules = rules or GradientRules()
        self._smoothing = label_smoothing

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the logits (M, B, K) of inputs (M, B, ...)."""
        layout, count = self.layout, len(self.theta)
        parts = zip(layout.names, self.theta.split(layout.sizes, dim=1), layout.shapes, strict=True)
        tensors = {name: part.view(count, *shape) for name, part, shape in parts}
        tensors |= {name: getattr(self, known) for name, known in self._fixed.items()}
        return vmap(self._alone)(tensors, inputs)

    def configure_optimizers(self) -> Any:
        """Build the optimizer and, unless the learning rates are constant, their schedule by step."""
        optimizer = self._optimizer(self.theta)
        if self._schedule is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, self._schedule), "interval": "step"},
        }

    def on_train_epoch_start(self) -> None:
        """Start the means of the epoch's batches."""
        self.means = Means(len(self.theta), self.device)

    def training_step(self, batch: Examples, batch_idx: int) -> Tensor:
        """Return the sum of the mean losses of the runs' batches."""
        logits = self(batch.inputs)
        losses = self._mean_losses(logits, batch.targets)
        self.losses = losses.detach()
        self.means.add(self.losses, logits.detach(), batch.targets)
        return losses.sum()

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Take the gradient of every row."""
        (self.gradient,) = torch.autograd.grad(loss, self.theta)
        optimizer = self.optimizers(use_pl_optimizer=False)
        give_gradient(optimizer, self.gradient)
        if isinstance(optimizer, OwnOptimizer):
            optimizer.look_back()

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Do what the rules say."""
        apply_rules(self.rules, optimizer)

    @torch.no_grad()
    def evaluate(self, examples: StackedExamples) -> dict[str, Tensor]:
        """Return loss (nats) and accuracy (M,) over examples."""
        means = Means(len(self.theta), self.device)
        for inputs, targets in examples.batches(max(_EVALUATED // len(self.theta), 1)):
            logits = self(inputs)
            means.add(self._mean_losses(logits, targets), logits, targets)
        return means.values()

    def _alone(self, tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        logits: Tensor = functional_call(self._template[0], dict(tensors), (inputs,))
        return logits

    def _mean_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        each = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=self._smoothing
        )
        return each.view(targets.shape).mean(1)


class Means:
    """Loss and accuracy of M runs, averaged over the examples of their batches."""

    def __init__(self, runs: int, device: torch.device) -> None:
        self._loss = torch.zeros(runs, dtype=torch.float64, device=device)
        self._correct = torch.zeros(runs, dtype=torch.int64, device=device)
        self._count = 0

    def add(self, losses: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a batch of B examples a run: mean losses (M,), logits (M, B, K) and labels (M, B)."""
        size = targets.shape[1]
        self._loss.add_(losses, alpha=size)
        self._correct.add_((logits.argmax(2) == targets).sum(1))
        self._count += size

    def values(self) -> dict[str, Tensor]:
        """Return loss (nats) and accuracy, (M,) each."""
        return {"loss": self._loss / self._count, "accuracy": self._correct / self._count}


def _fixed(network: nn.Module) -> dict[str, Tensor]:
    """What a network holds besides its trainable parameters."""
    frozen = [(name, p.detach()) for name, p in network.named_parameters() if not p.requires_grad]
    buffers: Iterable[tuple[str, Tensor]] = network.named_buffers()
    return dict([*frozen, *buffers])
