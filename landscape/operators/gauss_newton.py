"""The part of the Hessian that comes from the loss being curved in the output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from landscape.objective import Objective
from landscape.operators.outputs import (
    OutputCurvature,
    OutputOperator,
    has_class_targets,
    is_plain_cross_entropy,
    is_plain_mse,
)


class GaussNewton(OutputOperator):
    """Generalized Gauss-Newton matrix, the mean over examples of J_i^T (d^2 l_i / dz^2) J_i.

    It is the Hessian with the model replaced by its linearization, so the Hessian differs from it by the mean of
    sum_k (dl_i / dz_k) d^2 z_k. Where the loss is convex in the output z, it is positive semi-definite; of any
    other loss it is the same formula, and can have negative eigenvalues.

    The second derivative by the output has its closed form for cross-entropy, diag(p) - p p^T, and for the mean
    squared error, 2 / (number of outputs). Any other loss (class weights, label smoothing, ignored labels, a function
    of the user's) is differentiated twice by the output, which is as exact.

    References:
        Schraudolph, "Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent", Neural Computation 2002.
    """

    def curvature(self, output: Tensor, batch: Any) -> OutputCurvature:
        """Multiply with the second derivative of the batch's mean loss by the output."""
        loss = self.objective.loss_function
        if is_plain_cross_entropy(loss) and has_class_targets(output, batch[1]):
            return _of_cross_entropy(output)
        if is_plain_mse(loss) and output.shape == batch[1].shape:
            return lambda tangents: tangents * (2 / output.numel())
        return _by_differentiation(self.objective, output, batch)


def _of_cross_entropy(output: Tensor) -> OutputCurvature:
    p = output.softmax(dim=1)
    number = output.numel() // output.shape[1]  # of predictions: N, times the positions of a sequence or an image

    def multiply(tangents: Tensor) -> Tensor:
        weighted = p * tangents
        return (weighted - p * weighted.sum(dim=2, keepdim=True)) / number

    return multiply


def _by_differentiation(objective: Objective, output: Tensor, batch: Any) -> OutputCurvature:
    z = output.clone().to(objective.dtype).requires_grad_()
    loss = objective.output_loss(z, batch)
    slope = torch.autograd.grad(loss, z, create_graph=True, materialize_grads=True)[0] if loss.requires_grad else loss

    def multiply(tangents: Tensor) -> Tensor:
        if not slope.requires_grad:  # the loss is linear in the output
            return torch.zeros_like(tangents)
        rows = [_derivative(slope, z, tangent.to(z.dtype)) for tangent in tangents]
        return torch.stack(rows).to(tangents.dtype)

    return multiply


def _derivative(slope: Tensor, z: Tensor, tangent: Tensor) -> Tensor:
    (row,) = torch.autograd.grad(slope, z, tangent, retain_graph=True, allow_unused=True, materialize_grads=True)
    return row
