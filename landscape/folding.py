"""BatchNorm in evaluation mode as the affine map it is, folded into the layer before it where there is one.

A network that is only evaluated and differentiated, never trained, gives the same outputs with fewer operations:
norm(conv(x, W, b)) = conv(x, s W, s (b - mean) + beta) with s = gamma / sqrt(variance + eps). The parameters stay what
they are, so derivatives with respect to each of them are exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from landscape.normalization import batch_norms

_FOLDABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class NotFoldedError(RuntimeError):
    """An output that was folded for a BatchNorm layer went elsewhere, so the fold must be undone."""


def fold(model: nn.Module, evaluate: Callable[[], Tensor]) -> list[Folded]:
    """Replace BatchNorm layers in evaluation mode, in place; for a copy that nobody else uses.

    A layer is folded into the linear or convolutional layer whose output goes to it and nowhere else, as one
    evaluation and its graph of derivatives show. The others become plain affine maps.

    Args:
        model: The copy. Layers that use the statistics of the batch stay as they are.
        evaluate: Runs the model on some data and returns the loss, with its graph.

    Returns:
        What now stands for each layer that a BatchNorm layer was folded into.
    """
    norms = [norm for norm in batch_norms(model) if not norm.training]
    pairs = _pairs(model, norms, evaluate)
    for norm in norms:
        norm.forward = _Affine(norm)
    folds = [Folded(layer, norm) for norm, layer in pairs.items()]
    for folded in folds:
        folded.install()
    return folds


def require_folded(folds: Sequence[Folded]) -> None:
    """Make sure, after an evaluation, that every folded output has gone where it was folded for.

    Raises:
        NotFoldedError: If one has not.
    """
    if any(folded.waiting is not None for folded in folds):
        raise NotFoldedError


class _Affine:
    """y = s x + (beta - s mean), one scale and one shift a channel."""

    def __init__(self, norm: nn.Module):
        self.norm = norm
        self.inverse = (norm.running_var.double() + norm.eps).rsqrt()  # type: ignore[operator]
        self.mean = norm.running_mean

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """Scale s and shift beta - s mean, (C,) each, in the precision of the layer."""
        mean: Any = self.mean
        weight: Any = self.norm.weight
        bias: Any = self.norm.bias
        inverse = self.inverse.to(mean.dtype)
        scale = inverse if weight is None else weight * inverse
        shift = -scale * mean if bias is None else bias - scale * mean
        return scale, shift

    def __call__(self, inputs: Tensor) -> Tensor:
        scale, shift = self.coefficients()
        form = (1, -1) + (1,) * (inputs.ndim - 2)
        return torch.addcmul(shift.view(form), inputs, scale.view(form))


class Folded:
    """A layer that already does what the BatchNorm layer behind it would do.

    Attributes:
        waiting: The output that has not reached the BatchNorm layer yet; None once it has.
    """

    def __init__(self, layer: nn.Module, norm: nn.Module):
        self.layer, self.norm = layer, norm
        self.affine = _Affine(norm)
        self.waiting: Tensor | None = None

    def install(self) -> None:
        """Take the place of the two layers' own forward methods."""
        self.layer.forward = self
        self.norm.forward = self.hand_over

    def __call__(self, inputs: Tensor) -> Tensor:
        """Compute both layers in one."""
        if self.waiting is not None:
            raise NotFoldedError
        layer: Any = self.layer
        scale, shift = self.affine.coefficients()
        weight = layer.weight * scale.view(-1, *(1,) * (layer.weight.ndim - 1))
        bias = shift if layer.bias is None else shift + scale * layer.bias
        convolves = isinstance(layer, nn.modules.conv._ConvNd)
        run: Any = layer._conv_forward if convolves else nn.functional.linear
        self.waiting = run(inputs, weight, bias)
        return self.waiting

    def hand_over(self, inputs: Tensor) -> Tensor:
        """Stand in for the BatchNorm layer: there is nothing left to do."""
        if inputs is not self.waiting:
            raise NotFoldedError
        self.waiting = None
        return inputs


def _pairs(model: nn.Module, norms: list[nn.Module], evaluate: Callable[[], Tensor]) -> dict[nn.Module, nn.Module]:
    """Find the layer before each BatchNorm layer, where all its output goes there."""
    calls: Counter[nn.Module] = Counter()
    outputs: dict[int, tuple[nn.Module, Tensor]] = {}
    before: dict[nn.Module, tuple[nn.Module, Tensor]] = {}

    def watch(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] += 1
        if type(module) in _FOLDABLE:
            outputs[id(output)] = module, output  # held, so that its id stays its own
        elif inputs and id(inputs[0]) in outputs:
            before[module] = outputs[id(inputs[0])]

    candidates = [m for m in model.modules() if (type(m) in _FOLDABLE or m in norms) and not _has_hooks(m)]
    handles = [module.register_forward_hook(watch) for module in candidates]
    try:
        loss = evaluate()
    finally:
        for handle in handles:
            handle.remove()
    uses = _uses(loss)
    return {
        norm: layer
        for norm, (layer, output) in before.items()
        if calls[norm] == calls[layer] == 1 and output.grad_fn is not None and uses[output.grad_fn] == 1
    }


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_pre_hooks or module._forward_hooks or module._backward_hooks)


def _uses(loss: Tensor) -> Counter[Any]:
    """Count how often the output of each node enters another node of a graph of derivatives."""
    uses: Counter[Any] = Counter()
    waiting, seen = [loss.grad_fn], {loss.grad_fn}
    while waiting:
        node = waiting.pop()
        for following, _ in node.next_functions if node is not None else ():
            uses[following] += 1
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return uses
