"""Curvature that enters through the output of a model: J^T M J, with M a mean over the examples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.objective import Objective, gradients
from landscape.operators.base import ObjectiveOperator
from landscape.operators.graphs import Multiply

OutputCurvature = Callable[[Tensor], Tensor]
_IGNORED = -100  # torch's default for a label that does not count
_CROSS_ENTROPY_DEFAULTS = {"weight": None, "ignore_index": _IGNORED, "reduction": "mean", "label_smoothing": 0.0}


class OutputOperator(ObjectiveOperator):
    """The mean over examples of J^T M J, where J is the Jacobian of the output z with respect to the parameters.

    The forward pass and the graph of J^T u, linear in u, are made once a batch and shared by all vectors. J v is the
    derivative of (J^T u) . v by u (the double-backward trick), J^T (M J v) one more backward pass.

    A subclass says, in `curvature`, what M is.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Tensor | None = None,
        parameters: str | Sequence[str] | None = None,
        *,
        memory: int | None = None,
    ):
        """Fix the point and, optionally, a block of parameters.

        Args:
            objective: Made with loss=, so that the model's output is known.
            theta: (P,) the point; default: where the model stood.
            parameters: Names or patterns of a block of the objective's parameters; default: all of them.
            memory: Bytes of graphs to keep between products; see `ObjectiveOperator`.

        Raises:
            TypeError: If the objective was made with `step`, which hides the output.
            ValueError: If a pattern matches none of the objective's parameters.
        """
        if objective.step_function is not None:
            raise TypeError(
                f"{type(self).__name__} needs the model's output and a loss of (output, target), which step= hides; "
                "make the objective with loss=."
            )
        super().__init__(objective, theta, parameters, memory=memory)

    @abstractmethod
    def curvature(self, output: Tensor, batch: Any) -> OutputCurvature:
        """Say what M is for a batch, the factor 1 / (examples of the batch) included.

        Args:
            output: Of the model for the batch, detached, in float64 where the model computes in float32 or float64.
            batch: Of the objective's examples.

        Returns:
            From K tensors shaped as the output, (K, N, ...), to as many of the same shape.
        """

    def linearize(self, batch: Any, tensors: list[Tensor]) -> Multiply:
        """Evaluate the model once and keep the graphs of J^T."""
        output = self.objective.batch_output(batch)
        multiply_outputs = self.curvature(output.detach().double(), batch)
        cotangent = torch.zeros_like(output, requires_grad=True)
        pulled_back = gradients(output, tensors, grad_outputs=cotangent, create_graph=True)

        def multiply(V: Tensor) -> Tensor:
            tangents = self.graphs.pull_back(pulled_back, [cotangent], self.cotangents(V)).T.reshape(-1, *output.shape)
            back = multiply_outputs(tangents.double()).to(output.dtype)
            return self.graphs.pull_back([output], tensors, [back])

        return multiply


def is_plain_cross_entropy(loss: Any) -> bool:
    """Whether a loss is `F.cross_entropy`, or its module, with default settings."""
    if type(loss) is nn.CrossEntropyLoss:
        return all(getattr(loss, name) == default for name, default in _CROSS_ENTROPY_DEFAULTS.items())
    return loss is F.cross_entropy


def is_plain_mse(loss: Any) -> bool:
    """Whether a loss is `F.mse_loss`, or its module, averaged."""
    return loss is F.mse_loss or (type(loss) is nn.MSELoss and loss.reduction == "mean")


def has_class_targets(output: Tensor, target: Any) -> bool:
    """Whether targets are class numbers (N, ...) of outputs (N, C, ...), none of them ignored."""
    return (
        isinstance(target, Tensor)
        and not target.is_floating_point()
        and output.ndim >= 2
        and target.shape == output.shape[:1] + output.shape[2:]
        and not bool(target.eq(_IGNORED).any())
    )
