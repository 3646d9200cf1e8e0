"""The mean loss of any model over fixed data, as a function of its parameters."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from landscape.batch_size import is_out_of_memory, measured_batch_size
from landscape.examples import Examples
from landscape.normalization import recalibrate, set_policy
from landscape.parameters import ParameterLayout
from landscape.randomness import moved_buffers, name_the_random_part, preserved_rng

Loss = Callable[[Any, Any], Tensor]
Step = Callable[[nn.Module, Any], Tensor]


class Objective:
    """The mean loss of a model over fixed data, as a function of its parameters.

    The objective works on a copy of the model, taken when it is made: the user's model stays bit for bit as it
    is (parameters, buffers, mode, requires_grad, random state), and training it further does not move
    `theta`. The copy is evaluated with dropout off.

    Attributes:
        layout: Which parameters vary, and in which order.
        theta: (P,) the point where the model stood.
        examples: The data.
        also: Further data measured at the same points, by name.
        num_passes: How many times the whole data has been read so far.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        loss: Loss | None = None,
        *,
        step: Step | None = None,
        parameters: str | Sequence[str] = "*",
        normalization: str = "running",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int | None = None,
        examples: int | None = None,
        also: Mapping[str, Any] | None = None,
    ):
        """Fix the model, the data and the rules.

        Args:
            model: Any module.
            data: A DataLoader, a Dataset, or a tuple (inputs, targets).
            loss: loss(model_output, target) -> mean over the examples of a batch; it is called with the outputs
                in float64, so that sums over the data are exact whatever the batch size.
            step: Instead of `loss`: step(model, batch) -> mean loss of the batch, for any structure of data.
            parameters: Names or patterns of the parameters that vary.
            normalization: What BatchNorm does: ``running``, ``batch`` or ``recalibrated``
                (see `landscape.normalization`).
            device: Where to compute; default: where the model is.
            dtype: Floating-point type to compute in; default: the model's (float32 for half precision).
            batch_size: Examples a batch; default: chosen from the measured memory of one example. Under
                ``normalization="batch"`` it is part of what is measured, and defaults to the whole data.
            examples: Use this many examples, a random subset fixed by seed 0; default: all.
            also: Further data by name, for example ``{"test": data}``, measured but never differentiated.

        Raises:
            ValueError: If the model has nothing to vary, the weights or the data are not finite, labels do not fit
                the outputs, the loss is not a mean, or the evaluation is not deterministic.
            TypeError: If neither or both of `loss` and `step` are given, or the weights are complex.
        """
        if (loss is None) == (step is None):
            raise TypeError("pass exactly one of loss= (of output and target) and step= (of model and batch).")
        self.normalization = normalization
        self.parameters = parameters
        self.loss_function, self.step_function = loss, step
        self.layout = ParameterLayout.of(model, parameters)
        self.device, self.dtype = _where(model, device), _precision(model, dtype)
        self._module = _own_copy(model).to(self.device, self.dtype)
        if isinstance(loss, nn.Module):
            self.loss_function = copy.deepcopy(loss).to(self.device, torch.float64)
        self._loss_in_double = True
        _require_finite_weights(self._module)
        set_policy(self._module, normalization)
        self.theta = self.layout.current(self._module)

        self.examples = self._fix(data, examples)
        self.also = {name: self._fix(more) for name, more in (also or {}).items()}
        self.num_passes = 0
        with self._quiet():
            self._check_evaluation()
            self.batch_size = self._choose_batch_size(batch_size)
            self._check_determinism()
            if loss is not None:
                self._check_mean()

    # --- what a user asks -------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of parameters P that vary."""
        return self.layout.size

    def loss(self, theta: Tensor | None = None) -> Tensor:
        """Mean loss over the data at `theta` (P,), as a float64 scalar in the unit of the loss (nats)."""
        with torch.no_grad(), self.at(theta):
            return self.average(lambda batch: [self.batch_loss(batch)])[0]

    def losses(self, thetas: Tensor) -> Tensor:
        """Mean loss at each of K points: (K, P) -> (K,) in float64."""
        return torch.stack([self.loss(theta) for theta in thetas])

    def metrics(self, theta: Tensor | None = None) -> dict[str, float]:
        """Measure loss, accuracy where targets are classes, and both on the further data as ``test_loss`` etc."""
        with torch.no_grad(), self.at(theta):
            found = self._metrics_of(self.examples, "")
            for name, examples in self.also.items():
                found.update(self._metrics_of(examples, f"{name}_"))
        return found

    def gradient(self, theta: Tensor | None = None) -> Tensor:
        """Gradient of the mean loss at `theta`, (P,); zero for parameters the loss does not use."""
        with torch.enable_grad(), self.at(theta):
            tensors = self.tensors(self.layout)
            (gradient,) = self.average(lambda batch: [flat_gradient(self.batch_loss(batch), tensors)])
        return gradient.to(self.dtype)

    # --- what probes and operators build on -------------------------------------------------------------------

    @contextmanager
    def at(self, theta: Tensor | None = None) -> Iterator[None]:
        """Place the copy of the model at `theta` while the context lasts, random generators preserved.

        Raises:
            ValueError: If `theta` is not a vector of P entries.
        """
        with self._quiet():
            self._place(self.theta if theta is None else theta)
            if self.normalization == "recalibrated":
                recalibrate(self._module, self._forward_over_the_data)
            yield

    def tensors(self, layout: ParameterLayout) -> list[Tensor]:
        """List the copy's parameters that a layout names, for automatic differentiation."""
        parameters = dict(self._module.named_parameters())
        return [parameters[name] for name in layout.names]

    def batch_loss(self, batch: Any) -> Tensor:
        """Mean loss of one batch where the copy stands; to be used inside `at`."""
        return self._evaluate(batch)[0]

    def average(self, function: Callable[[Any], list[Tensor]], examples: Examples | None = None) -> list[Tensor]:
        """Average per-batch means over the examples: the one loop over the data.

        Args:
            function: From a batch to tensors, each a mean over the examples of the batch.
            examples: The data to read; default: the objective's own.

        Returns:
            The means over all examples, accumulated in float64.
        """
        examples = self.examples if examples is None else examples
        while True:
            try:
                return self._weighted_sum(function, examples)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not self._can_halve(examples):
                    raise
                self.batch_size = max(1, self.batch_size // 2)

    def identity(self) -> dict[str, Any]:
        """Everything the value of the objective depends on, as plain values: digests, policy, dtype."""
        state = hashlib.sha256()
        for name, tensor in sorted(self._module.state_dict().items()):
            if name not in self.layout.names and not _is_recalibrated(name, self.normalization):
                state.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
                state.update(_bytes(tensor))
        state.update(repr(self.layout.names).encode() + _bytes(self.theta))
        function = self.loss_function if self.loss_function is not None else self.step_function
        return {
            "parameters_sha256": state.hexdigest(),
            "data_sha256": self.examples.digest(),
            **{f"{name}_data_sha256": more.digest() for name, more in self.also.items()},
            "loss_function": _name_of(function),
            "parameters": self.parameters if isinstance(self.parameters, str) else list(self.parameters),
            "normalization": self.normalization,
            "batch_size": self.batch_size if self.normalization != "running" else 0,
            "dtype": str(self.dtype).removeprefix("torch."),
            "num_examples": len(self.examples),
            "num_parameters": self.size,
        }

    # --- inside -----------------------------------------------------------------------------------------------

    def _fix(self, data: Any, number: int | None = None) -> Examples:
        examples = Examples.of(data)
        return (examples if number is None else examples.take(number)).to(self.device, self.dtype)

    def _quiet(self) -> Any:
        return preserved_rng(self.device)

    def _place(self, theta: Tensor) -> None:
        targets = self.layout.unflatten(theta.detach().to(self.device, self.dtype))
        with torch.no_grad():
            for parameter, name in zip(self.tensors(self.layout), self.layout.names, strict=True):
                parameter.copy_(targets[name])

    def _evaluate(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Mean loss of a batch and, where a loss of (output, target) is used, the outputs."""
        if self.step_function is not None:
            return self.step_function(self._module, batch), None
        assert self.loss_function is not None
        inputs, target = batch
        output = self._module(inputs)
        if self._loss_in_double:
            return self.loss_function(_double(output), _double(target)), output
        return self.loss_function(output, target), output

    def _metrics_of(self, examples: Examples, prefix: str) -> dict[str, float]:
        names = ["loss"]

        def measure(batch: Any) -> list[Tensor]:
            loss, output = self._evaluate(batch)
            if output is None or not _is_classification(output, batch[1]):
                return [loss]
            names[1:] = ["accuracy"]
            return [loss, (output.argmax(dim=1) == batch[1]).double().mean()]

        values = self.average(measure, examples)
        return {f"{prefix}{name}": value.item() for name, value in zip(names, values, strict=True)}

    def _weighted_sum(self, function: Callable[[Any], list[Tensor]], examples: Examples) -> list[Tensor]:
        totals: list[Tensor] = []
        for batch, number in examples.batches(self.batch_size):
            share = number / len(examples)
            parts = [value.detach().double() * share for value in function(batch)]
            totals = [a + b for a, b in zip(totals, parts, strict=True)] if totals else parts
        self.num_passes += examples is self.examples
        return totals

    def _can_halve(self, examples: Examples) -> bool:
        # Under batch statistics a smaller batch is another loss, so running out of memory is an error there.
        return examples.divisible and self.batch_size > 1 and self.normalization != "batch"

    def _forward_over_the_data(self) -> None:
        def forward(batch: Any) -> list[Tensor]:
            self._evaluate(batch)
            return [torch.zeros(())]

        self.average(forward)

    # --- checks before any compute ----------------------------------------------------------------------------

    def _choose_batch_size(self, batch_size: int | None) -> int:
        if batch_size is not None:
            if batch_size < 1:
                raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
            return batch_size
        if self.normalization == "batch" or not self.examples.divisible:
            return len(self.examples)
        example = next(self.examples.batches(1))[0]
        return measured_batch_size(self._module, lambda: self._evaluate(example), len(self.examples), self.device)

    def _check_evaluation(self) -> None:
        """Evaluate a few examples once, so that what does not fit fails here with its reason."""
        for where, examples in {
            "data": self.examples,
            **{f"also[{n!r}]": e for n, e in self.also.items()},
        }.items():
            batch, _ = next(examples.batches(2))
            if self.loss_function is not None:
                _require_pair(batch, where)
                self._check_labels(examples, where)
            loss = self._first_loss(batch, where)
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
                raise ValueError(f"the loss of a batch must be one number (its mean), got {shape}.")

    def _first_loss(self, batch: Any, where: str) -> Tensor:
        for in_double in (self.loss_function is not None, False):
            self._loss_in_double = in_double
            try:
                with torch.no_grad():
                    return self._evaluate(batch)[0]
            except Exception as error:
                reason = error
        raise ValueError(f"the loss cannot be evaluated on {where}: {reason}") from reason

    def _check_labels(self, examples: Examples, where: str) -> None:
        (inputs, _), _ = next(examples.batches(2))
        try:
            with torch.no_grad():
                output = self._module(inputs)
        except Exception as error:
            raise ValueError(f"the model cannot be evaluated on {where}: {error}") from error
        for (_, target), _ in examples.batches(len(examples)):
            if not _is_classification(output, target):
                return
            ignored = getattr(self.loss_function, "ignore_index", -100)
            low, high = target[target != ignored].min().item(), target.max().item()
            if low < 0 or high >= output.shape[1]:
                raise ValueError(
                    f"the labels of {where} go from {low} to {high}, but the model has {output.shape[1]} outputs "
                    f"(classes 0 to {output.shape[1] - 1}); use a model with enough outputs or relabel."
                )

    def _check_determinism(self) -> None:
        batch, _ = next(self.examples.batches(self.batch_size))
        before = {name: b.clone() for name, b in self._module.named_buffers()}

        def evaluate() -> Tensor:
            with torch.no_grad():
                return self._evaluate(batch)[0]

        first, second = evaluate(), evaluate()
        moved = moved_buffers(before, self._module)
        if moved:
            raise ValueError(
                f"evaluating the loss changes the buffer {moved[0]!r}: a normalization layer is in train mode "
                "inside the forward or step function; do not call .train() there, let normalization= choose."
            )
        tolerance = 0.0 if self.device.type == "cpu" else 1e-6
        if not torch.isclose(first, second, rtol=tolerance, atol=0.0, equal_nan=True):
            reason = name_the_random_part(self._module, evaluate)
            raise ValueError(f"the loss is not deterministic ({first.item()} then {second.item()}): {reason}")

    def _check_mean(self) -> None:
        """A loss that sums over examples doubles when every example is there twice; a mean stays."""
        batch, _ = next(self.examples.batches(8))
        if not self.examples.divisible:
            return
        twice = [torch.cat([part, part]) for part in batch]
        with torch.no_grad():
            once, doubled = self._evaluate(batch)[0], self._evaluate(twice)[0]
        if once != 0 and torch.isclose(doubled, 2 * once, rtol=1e-3) and not torch.isclose(doubled, once):
            raise ValueError(
                'the loss is a sum over examples, an objective needs their mean; use reduction="mean" '
                "or divide by the number of examples."
            )


def flat_gradient(value: Tensor, tensors: Sequence[Tensor], **options: Any) -> Tensor:
    """Differentiate a scalar with respect to tensors, as one vector; zero where it does not depend on them."""
    if not value.requires_grad:
        return torch.cat([torch.zeros_like(t).reshape(-1) for t in tensors])
    gradients = torch.autograd.grad(value, tensors, allow_unused=True, materialize_grads=True, **options)
    return torch.cat([g.reshape(-1) for g in gradients])


def _where(model: nn.Module, device: torch.device | str | None) -> torch.device:
    return torch.device(device) if device is not None else next(model.parameters()).device


def _precision(model: nn.Module, dtype: torch.dtype | None) -> torch.dtype:
    dtypes = {p.dtype for p in model.parameters() if p.requires_grad}
    if any(d.is_complex for d in dtypes):
        raise TypeError("complex parameters have no real loss landscape here; use their real and imaginary parts.")
    if dtype is not None:
        return dtype
    if dtypes <= {torch.float16, torch.bfloat16}:
        warnings.warn("the model is in half precision; measuring in float32 (pass dtype= to choose).", stacklevel=4)
        return torch.float32
    return torch.float64 if torch.float64 in dtypes else torch.float32


def _own_copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ValueError(
            f"the model cannot be copied ({error}); an objective works on a copy so that yours stays as it is. "
            "Detach tensors that it keeps from an earlier forward pass, or remove what cannot be copied."
        ) from error


def _require_finite_weights(model: nn.Module) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        bad = (~tensor.isfinite()).sum().item() if tensor.is_floating_point() else 0
        if bad:
            raise ValueError(
                f"the weights are not finite: {name!r} has {bad} NaN or infinite of {tensor.numel()} entries; "
                "load a checkpoint from before the training diverged."
            )


def _require_pair(batch: Any, where: str) -> None:
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        raise ValueError(
            f"loss= needs batches (inputs, targets), {where} gives {type(batch).__name__}"
            f"{f' of {len(batch)}' if hasattr(batch, '__len__') else ''}; pass step=lambda model, batch: ... instead."
        )


def _is_classification(output: Any, target: Any) -> bool:
    if not (isinstance(output, Tensor) and isinstance(target, Tensor)):
        return False
    whole = not target.is_floating_point() and target.dtype != torch.bool
    return output.ndim == 2 and output.shape[1] > 1 and target.ndim == 1 and whole


def _is_recalibrated(name: str, normalization: str) -> bool:
    return normalization == "recalibrated" and name.endswith(("running_mean", "running_var"))


def _double(value: Any) -> Any:
    """Raise a float32 tensor to float64, so that a loss averages without rounding."""
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _name_of(function: Any) -> str:
    owner = function if hasattr(function, "__qualname__") else type(function)
    return f"{getattr(owner, '__module__', '')}.{owner.__qualname__}".removeprefix("torch.nn.")
