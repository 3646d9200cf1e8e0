"""Second moments of per-example gradients: with the labels of the data, and with labels drawn from the model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from landscape.examples import Examples
from landscape.objective import Objective
from landscape.operators.outputs import (
    OutputCurvature,
    OutputOperator,
    is_plain_cross_entropy,
    is_plain_mse,
)
from landscape.structures import count_examples


class EmpiricalFisher(OutputOperator):
    """Second moment of the per-example gradients, 1/N sum_i g_i g_i^T, at the labels of the data.

    With r_i = dl_i / dz, the derivative of an example's loss by its output, g_i = J_i^T r_i; so no per-example gradient
    is formed. It is neither the Fisher matrix nor the Gauss-Newton matrix, whose labels are drawn from the model.

    References:
        Kunstner, Balles and Hennig, "Limitations of the Empirical Fisher Approximation", NeurIPS 2019.
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
            objective: Made with loss=, a plain mean over examples.
            theta: (P,) the point; default: where the model stood.
            parameters: Names or patterns of a block of the objective's parameters; default: all of them.
            memory: Bytes of graphs to keep between products; see `ObjectiveOperator`.

        Raises:
            TypeError: If the objective was made with `step`, which hides the output.
            ValueError: If an example has no gradient of its own, because the loss is no plain mean over examples, or
                a pattern matches none of the objective's parameters.
        """
        super().__init__(objective, theta, parameters, memory=memory)
        _require_gradients_of_examples(self, objective)

    def curvature(self, output: Tensor, batch: Any) -> OutputCurvature:
        """Multiply with the mean of r_i r_i^T."""
        _require_outputs_of_examples(self, output, batch)
        z = output.clone().to(self.objective.dtype).requires_grad_()
        loss = self.objective.output_loss(z, batch)
        (slope,) = torch.autograd.grad(loss, z) if loss.requires_grad else (torch.zeros_like(z),)
        return _second_moment((slope * len(output)).unsqueeze(0).to(output.dtype))


class Fisher(OutputOperator):
    """Fisher information of the model's own distribution, estimated with labels drawn from it.

    Like `EmpiricalFisher`, but the label of each example is drawn from the model's softmax (cross-entropy), or from a
    Gaussian around its output whose variance makes the mean squared error a negative log likelihood. Its expectation
    over draws is the Gauss-Newton matrix exactly; more samples an example bring it closer.

    The draws belong to (seed, number of the example): cutting the data into other batches leaves them as they are, up
    to labels for which rounding of the outputs decides.

    Attributes:
        seed: Of the draws.
        num_samples: Labels drawn for each example.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Tensor | None = None,
        parameters: str | Sequence[str] | None = None,
        *,
        memory: int | None = None,
        seed: int = 0,
        num_samples: int = 1,
    ):
        """Fix the point and draw the labels there, which takes one pass over the data.

        Args:
            objective: Made with loss=, cross-entropy with outputs (N, C) or mean squared error, default settings.
            theta: (P,) the point; default: where the model stood.
            parameters: Names or patterns of a block of the objective's parameters; default: all of them.
            memory: Bytes of graphs to keep between products; see `ObjectiveOperator`.
            seed: Of the draws.
            num_samples: Labels drawn for each example.

        Raises:
            TypeError: If the objective was made with `step`, or with a loss that is not one of the two.
            ValueError: If an example has no gradient of its own, `num_samples` is not positive, the outputs have
                another shape, or a pattern matches none of the objective's parameters.
        """
        super().__init__(objective, theta, parameters, memory=memory)
        self._classifies = is_plain_cross_entropy(objective.loss_function)
        if not (self._classifies or is_plain_mse(objective.loss_function)):
            raise TypeError(
                "Fisher draws labels from the model, so its loss must be the negative log likelihood of a known "
                "distribution: cross_entropy or mse_loss with default settings; use GaussNewton, which is its "
                "expectation and takes any loss."
            )
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
        _require_gradients_of_examples(self, objective)
        self.seed, self.num_samples = seed, num_samples
        self._asked = objective
        self.source = self._with_drawn_labels(objective)

    @property
    def identity(self) -> str:
        """What tells this matrix from others of the same model and data."""
        return f"{super().identity} seed {self.seed} of {self.num_samples}"

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply K vectors at once: (P, K) -> (P, K)."""
        before = self.source.num_passes
        products = super().matmat(V)
        self._asked.num_passes += self.source.num_passes - before
        return products

    def curvature(self, output: Tensor, batch: Any) -> OutputCurvature:
        """Multiply with the mean over examples and samples of r r^T."""
        drawn = batch[1].transpose(0, 1)  # samples first
        if self._classifies:
            p = output.softmax(dim=1)
            return _second_moment(p - torch.nn.functional.one_hot(drawn, p.shape[1]))
        # l_i = |z - y|^2 / D is the negative log likelihood of variance D / 2 around z, for D outputs an example:
        # y = z - sqrt(D / 2) e gives r = 2 (z - y) / D = sqrt(2 / D) e, whose second moment is (2 / D) I.
        return _second_moment(drawn.double() * (2 * len(output) / output.numel()) ** 0.5)

    def _with_drawn_labels(self, objective: Objective) -> Objective:
        """The same objective, sharing the same copy of the model, with the draws in the place of the targets."""
        parts: list[Tensor] = []

        def collect(batch: Any) -> list[Tensor]:
            output = objective.batch_output(batch)
            _require_outputs_of_examples(self, output, batch)
            parts.append(output.double().cpu())
            return [torch.zeros(())]

        with torch.no_grad(), objective.at(self.theta):
            objective.average(collect)
        outputs = torch.cat(parts)[-len(objective.examples) :]  # what stands before is of a pass that ran out of memory
        drawn = self._draw(outputs).to(objective.device)
        made, start = [], 0
        for batch, number in objective.examples.batches(len(objective.examples)):
            made.append([batch[0], drawn[start : start + number]])
            start += number
        changed = copy.copy(objective)
        changed.examples = Examples(made)
        changed.loss_function = _no_loss  # evaluated where BatchNorm is recalibrated or folded
        return changed

    def _draw(self, outputs: Tensor) -> Tensor:
        """Labels (N, samples), or Gaussian numbers (N, samples, ...) for outputs (N, ...)."""
        generator = torch.Generator().manual_seed(self.seed)
        if not self._classifies:
            shape = (len(outputs), self.num_samples, *outputs.shape[1:])
            return torch.randn(shape, generator=generator, dtype=torch.float64)
        if outputs.ndim != 2:
            raise ValueError(
                f"Fisher draws one label an example from outputs (N, C), got shape {tuple(outputs.shape)}; use "
                "GaussNewton, which is its expectation."
            )
        # The first class at which the distribution function passes a uniform number has its probability.
        heights = outputs.softmax(dim=1).cumsum(dim=1)
        uniform = torch.rand(len(outputs), self.num_samples, generator=generator, dtype=torch.float64)
        return torch.searchsorted(heights, uniform * heights[:, -1:], right=True).clamp(max=outputs.shape[1] - 1)


def _no_loss(output: Tensor, _drawn: Tensor) -> Tensor:
    return output.mean()


def _second_moment(residuals: Tensor) -> OutputCurvature:
    """Multiply with the mean over samples and examples of r r^T, for r (samples, N, ...)."""
    samples, number = residuals.shape[:2]
    r = residuals.reshape(samples, number, -1)

    def multiply(tangents: Tensor) -> Tensor:
        along = torch.einsum("snd,knd->skn", r, tangents.reshape(len(tangents), number, -1))
        return torch.einsum("skn,snd->knd", along, r).div(samples * number).view_as(tangents)

    return multiply


def _require_gradients_of_examples(operator: OutputOperator, objective: Objective) -> None:
    if objective.depends_on_cuts:
        raise ValueError(
            f"{type(operator).__name__} needs the gradient of every example alone, but this loss is no plain mean over "
            'examples (normalization="batch", class weights or ignored labels); use GaussNewton, or a loss that is.'
        )


def _require_outputs_of_examples(operator: OutputOperator, output: Tensor, batch: Any) -> None:
    number = count_examples(batch)
    if output.ndim == 0 or len(output) != number:
        raise ValueError(
            f"{type(operator).__name__} needs one output an example along the first axis, got shape "
            f"{tuple(output.shape)} for {number} examples."
        )
