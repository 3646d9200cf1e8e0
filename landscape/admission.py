"""What model, data and loss an objective lets in, and what it says to the others, before any compute."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from landscape.examples import Examples
from landscape.randomness import moved_buffers, name_the_random_part
from landscape.structures import map_tensors

SAMPLE = 64  # examples on which a loss is tried out; so many hold a rare class with its weight
_IGNORED = -100  # torch's default for a label that does not count

Evaluate = Callable[[Any], Tensor]


def precision(model: nn.Module, dtype: torch.dtype | None) -> torch.dtype:
    """Choose the type to compute in: `dtype`, else the model's own, float32 for half precision.

    Raises:
        TypeError: If the weights are complex, or `dtype` is not a real floating-point type.
    """
    dtypes = {p.dtype for p in model.parameters() if p.requires_grad}
    if any(d.is_complex for d in dtypes):
        raise TypeError("complex parameters have no real loss landscape here; use their real and imaginary parts.")
    if dtype is not None:
        if not dtype.is_floating_point:
            raise TypeError(f"dtype must be a floating-point type such as torch.float32, got {dtype}.")
        return dtype
    if dtypes <= {torch.float16, torch.bfloat16}:
        warnings.warn("the model is in half precision; measuring in float32 (pass dtype= to choose).", stacklevel=4)
        return torch.float32
    return torch.float64 if torch.float64 in dtypes else torch.float32


def own_copy(model: nn.Module) -> nn.Module:
    """Copy a model, so that the user's stays as it is.

    Raises:
        ValueError: If it cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ValueError(
            f"the model cannot be copied ({error}); an objective works on a copy so that yours stays as it is. "
            "Detach tensors that it keeps from an earlier forward pass, or remove what cannot be copied."
        ) from error


def require_finite_weights(model: nn.Module) -> None:
    """Name the first parameter or buffer that holds NaN or infinity.

    Raises:
        ValueError: If there is one.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        bad = (~tensor.isfinite()).sum().item() if tensor.is_floating_point() else 0
        if bad:
            raise ValueError(
                f"the weights are not finite: {name!r} has {bad} NaN or infinite of {tensor.numel()} entries; "
                "load a checkpoint from before the training diverged."
            )


def require_pairs(examples: Examples, where: str) -> None:
    """Ask for batches (inputs, targets), which loss= needs.

    Raises:
        ValueError: If the batches have another form.
    """
    batch, _ = next(examples.batches(1))
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        raise ValueError(
            f"loss= needs batches (inputs, targets), {where} gives {type(batch).__name__}"
            f"{f' of {len(batch)}' if hasattr(batch, '__len__') else ''}; pass step=lambda model, batch: ... instead."
        )


def require_labels(model: nn.Module, loss_function: Any, examples: Examples, where: str) -> None:
    """Compare class labels with the number of outputs, without the loss (on a GPU it would break the process).

    Raises:
        ValueError: If the model does not take the inputs, or a label has no output.
    """
    (inputs, _), _ = next(examples.batches(2))
    try:
        with torch.no_grad():
            output = model(inputs)
    except Exception as error:
        raise ValueError(f"the model cannot be evaluated on {where}: {error}") from error
    for (_, target), _ in examples.batches(len(examples)):
        if not is_classification(output, target):
            return
        counted = target[target != _ignored_label(loss_function)]
        low, high = (counted.min().item(), counted.max().item()) if len(counted) else (0, 0)
        if low < 0 or high >= output.shape[1]:
            raise ValueError(
                f"the labels of {where} go from {low} to {high}, but the model has {output.shape[1]} outputs "
                f"(classes 0 to {output.shape[1] - 1}); use a model with enough outputs or relabel."
            )


def ignores_labels(loss_function: Any, examples: Examples) -> bool:
    """Whether some targets carry the label that a classification loss leaves out of its mean."""
    ignored = _ignored_label(loss_function)
    targets = (batch[1] for batch, _ in examples.batches(len(examples)))
    return any(isinstance(t, Tensor) and not t.is_floating_point() and bool((t == ignored).any()) for t in targets)


def first_loss(evaluate: Evaluate, examples: Examples) -> Tensor:
    """Evaluate two examples; what torch only warns of, a target that is broadcast, is an error here."""
    batch, _ = next(examples.batches(2))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Using a target size")
        return evaluate(batch)


def require_one_number(loss: Any) -> None:
    """Ask for a loss that is a mean.

    Raises:
        ValueError: If it is not a tensor with one entry.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        came = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"the loss of a batch must be a tensor with one number, its mean, got {came}.")


def require_determinism(model: nn.Module, evaluate: Evaluate, examples: Examples, most: int = SAMPLE) -> None:
    """Evaluate a few examples, at most `most`, twice.

    Raises:
        ValueError: If the two losses differ or a buffer has moved; the message names the module.
    """
    batch, _ = next(examples.batches(min(most, 16)))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        first, second = evaluate(batch), evaluate(batch)
        moved = moved_buffers(before, model)
        if moved:
            raise ValueError(
                f"evaluating the loss changes the buffer {moved[0]!r}: a normalization layer is in train mode "
                "inside the forward or step function; do not call .train() there, let normalization= choose."
            )
        tolerance = 0.0 if first.device.type == "cpu" else 1e-6
        if not torch.isclose(first, second, rtol=tolerance, atol=0.0, equal_nan=True):
            reason = name_the_random_part(model, lambda: evaluate(batch))
            raise ValueError(f"the loss is not deterministic ({first.item()} then {second.item()}): {reason}")


def require_mean(evaluate: Evaluate, examples: Examples, most: int = SAMPLE) -> None:
    """Refuse a sum over examples: it doubles when every example is there twice, a mean stays.

    Raises:
        ValueError: If the loss is a sum.
    """
    if not examples.divisible:
        return
    batch, _ = next(examples.batches(min(max(most // 2, 1), 8)))
    twice = map_tensors(lambda part: torch.cat([part, part]), batch)
    with torch.no_grad():
        once, doubled = evaluate(batch), evaluate(twice)
    if once != 0 and torch.isclose(doubled, 2 * once, rtol=1e-3) and not torch.isclose(doubled, once):
        raise ValueError(
            'the loss is a sum over examples, an objective needs their mean; use reduction="mean" '
            "or divide by the number of examples."
        )


def depends_on_cuts(evaluate: Evaluate, examples: Examples, most: int = SAMPLE) -> bool:
    """Whether the loss of a few examples differs from the mean over their parts, beyond rounding.

    So it does where the loss is no plain mean over examples, for example with class weights, or where
    examples see one another, for example in BatchNorm without running statistics.
    """
    number = min(most, len(examples))
    if not examples.divisible or number < 6:  # a part of one example has no batch statistics
        return False
    sample = examples.take(number)
    parts = list(sample.batches(len(sample) // 3 + 1))
    with torch.no_grad():
        whole = evaluate(next(sample.batches(len(sample)))[0]).double()
        mean = sum((evaluate(batch).double() * number for batch, number in parts), torch.zeros(())) / len(sample)
    return bool((whole - mean.to(whole.device)).abs() > 3e-4 * whole.abs() + 1e-7)


def is_classification(output: Any, target: Any) -> bool:
    """Whether outputs (N, C) and whole-number targets (N,) have an accuracy."""
    if not (isinstance(output, Tensor) and isinstance(target, Tensor)):
        return False
    whole = not target.is_floating_point() and target.dtype != torch.bool
    return output.ndim == 2 and output.shape[1] > 1 and target.ndim == 1 and whole


def _ignored_label(loss_function: Any) -> int:
    keywords = getattr(loss_function, "keywords", {})  # of a functools.partial
    return keywords.get("ignore_index", getattr(loss_function, "ignore_index", _IGNORED))
