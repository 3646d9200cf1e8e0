"""The second derivative of an objective."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from landscape.objective import gradients
from landscape.operators.base import ObjectiveOperator
from landscape.operators.graphs import Multiply


class Hessian(ObjectiveOperator):
    """Second derivative of the mean loss, H v = d/dr gradient(theta + r v) at r = 0.

    Products use double backward; the forward pass and the first backward pass of each batch are shared by all
    vectors. Under ``normalization="recalibrated"`` the statistics of BatchNorm are held fixed. With
    ReLU the Hessian leaves out the kinks, so that second differences of the loss differ from it.

    References:
        Pearlmutter, "Fast Exact Multiplication by the Hessian", Neural Computation 1994.
    """

    def linearize(self, batch: Any, tensors: list[Tensor]) -> Multiply:
        """Differentiate once, keeping the graph of the gradient."""
        gradient = gradients(self.objective.batch_loss(batch), tensors, create_graph=True)
        return lambda V: self.graphs.pull_back(gradient, tensors, self.cotangents(V))
