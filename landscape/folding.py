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
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from landscape.normalization import batch_norms

_FOLDABLE = {nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d}
_NORMS = {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm}
_TENSOR: Any = Tensor  # its attributes are descriptors, which type checkers take for their values
_HARMLESS = {
    *(Tensor.dim, Tensor.size, Tensor.numel),
    *(getattr(_TENSOR, name).__get__ for name in ("shape", "ndim", "dtype", "device")),
}


class NotFoldedError(RuntimeError):
    """An output that was folded for a BatchNorm layer went elsewhere, so the fold must be undone."""


def fold(model: nn.Module, evaluate: Callable[[], Tensor]) -> list[Folded]:
    """Replace BatchNorm layers in evaluation mode, in place; for a copy that nobody else uses.

    A layer is folded into the linear or convolutional layer whose output goes to it and nowhere else, as every call of
    one evaluation shows. The others become plain affine maps.

    Args:
        model: The copy. Layers that use the statistics of the batch stay as they are.
        evaluate: Runs the model on some data and returns the loss.

    Returns:
        What now stands for each layer that a BatchNorm layer was folded into.
    """
    norms = [norm for norm in batch_norms(model) if not norm.training and _is_plain(norm, _NORMS)]
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

    def __call__(self, input: Tensor) -> Tensor:
        scale, shift = self.coefficients()
        form = (1, -1) + (1,) * (input.ndim - 2)
        return torch.addcmul(shift.view(form), input, scale.view(form))


class Folded:
    """A layer that already does what the BatchNorm layer behind it would do.

    Attributes:
        waiting: The output that has not reached the BatchNorm layer yet; None once it has.
        settled: Weight and bias of both layers in one, while the model stands at one point (`settle`).
    """

    def __init__(self, layer: nn.Module, norm: nn.Module):
        self.layer, self.norm = layer, norm
        self.affine = _Affine(norm)
        self.waiting: Tensor | None = None
        self.settled: tuple[Tensor, Tensor] | None = None
        self.version = 0

    def install(self) -> None:
        """Take the place of the two layers' own forward methods."""
        self.layer.forward = self
        self.norm.forward = self.hand_over

    def __call__(self, input: Tensor) -> Tensor:
        """Compute both layers in one."""
        layer: Any = self.layer
        if self.waiting is not None or input.ndim != layer.weight.ndim:
            raise NotFoldedError
        known = None if torch.is_grad_enabled() else self.settled
        weight, bias = known or self._in_one()
        convolves = isinstance(layer, nn.modules.conv._ConvNd)
        run: Any = layer._conv_forward if convolves else nn.functional.linear
        self.waiting = run(input, weight, bias)
        self.version = self.waiting._version
        return self.waiting

    def settle(self) -> None:
        """Compute weight and bias once, for all batches until the parameters move and this is called again."""
        self.waiting = None  # an evaluation that failed half-way may have left an output
        with torch.no_grad():
            self.settled = self._in_one()

    def release(self) -> None:
        """Go back to computing them for every batch, since the parameters will differ from those of the layer."""
        self.settled = None

    def _in_one(self) -> tuple[Tensor, Tensor]:
        layer: Any = self.layer
        scale, shift = self.affine.coefficients()
        weight = layer.weight * scale.view(-1, *(1,) * (layer.weight.ndim - 1))
        return weight, shift if layer.bias is None else shift + scale * layer.bias

    def hand_over(self, input: Tensor) -> Tensor:
        """Stand in for the BatchNorm layer: there is nothing left to do."""
        if input is not self.waiting or input._version != self.version:
            raise NotFoldedError
        self.waiting = None
        return input


def _pairs(model: nn.Module, norms: list[nn.Module], evaluate: Callable[[], Tensor]) -> dict[nn.Module, nn.Module]:
    """Find the layer before each BatchNorm layer, where all its output goes there."""
    calls: Counter[nn.Module] = Counter()
    before: dict[nn.Module, tuple[nn.Module, Tensor]] = {}
    uses = _Uses()

    def watch(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] += 1
        if type(module) in _FOLDABLE and _channels_come_second(module, output):
            uses.watched[id(output)] = module, output  # held, so that its id stays its own
        elif inputs and id(inputs[0]) in uses.watched:
            before[module] = uses.watched[id(inputs[0])]

    layers = [module for module in model.modules() if _is_plain(module, _FOLDABLE)]
    candidates = [module for module in (*layers, *norms) if not _has_hooks(module)]
    handles = [module.register_forward_hook(watch) for module in candidates]
    try:
        with uses:
            evaluate()
    finally:
        for handle in handles:
            handle.remove()
    return {
        norm: layer
        for norm, (layer, output) in before.items()
        if calls[norm] == calls[layer] == 1 and uses.count[id(output)] == 1
    }


def _is_plain(module: nn.Module, kinds: set[type[nn.Module]]) -> bool:
    """Whether a module does what its class does: no subclass, no forward method of its own."""
    return type(module) in kinds and "forward" not in vars(module)


def _channels_come_second(layer: nn.Module, output: Tensor) -> bool:
    """Whether the axis that BatchNorm goes by is that of the layer's outputs: not for a linear layer on sequences."""
    weight: Any = layer.weight
    return output.ndim == weight.ndim


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_pre_hooks or module._forward_hooks or module._backward_hooks)


class _Uses(TorchFunctionMode):
    """Counts the calls that some tensors enter: in place, in views, detached or without a derivative too.

    Attributes:
        watched: Tensors by their id, each with the layer that it comes from.
        count: Calls by the id of the tensor; those that only ask for its shape or type do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.watched: dict[int, tuple[nn.Module, Tensor]] = {}
        self.count: Counter[int] = Counter()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function not in _HARMLESS:
            for value in tree_leaves((args, kwargs)):
                if id(value) in self.watched:
                    self.count[id(value)] += 1
        return function(*args, **(kwargs or {}))
