"""The mean loss of any model over fixed data, as a function of its parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape.admission import (
    SAMPLE,
    depends_on_cuts,
    first_loss,
    ignores_labels,
    is_classification,
    own_copy,
    precision,
    require_determinism,
    require_finite_weights,
    require_labels,
    require_mean,
    require_one_number,
    require_pairs,
)
from landscape.batch_size import is_out_of_memory, largest_layer, measured_batch_size
from landscape.evaluation import Evaluator, Plan
from landscape.examples import Examples
from landscape.folding import Folded, fold
from landscape.identity import describe_function, digest_named, rounded
from landscape.normalization import recalibrate, recalibrated_buffers, set_policy
from landscape.optimizer_state import OptimizerState
from landscape.parameters import ParameterLayout
from landscape.randomness import preserved_rng

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
        batch_size: Examples a batch.
        chooses_batch_size: Whether it was left to the objective and is no part of what is measured.
        folds: BatchNorm layers that were folded into others, in a `frozen` copy.
        depends_on_cuts: Whether the loss is not the mean of its batches, as under ``normalization="batch"`` or with
            class weights. Then `batch_size` is part of what is measured.
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
        optimizer: torch.optim.Optimizer | OptimizerState | Callable[[], OptimizerState] | None = None,
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
                (see `landscape.normalization`). Derivatives hold recalibrated statistics fixed; only under ``batch``
                do they go through the statistics.
            device: Where to compute; default: where the model is.
            dtype: Floating-point type to compute in; default: the model's (float32 for half precision).
            batch_size: Examples a batch; default: chosen from the measured memory of one example. Where the loss
                `depends_on_cuts` the default is the whole data.
            examples: Use this many examples, a random subset fixed by seed 0, and at most so many of each further
                data; default: all.
            also: Further data by name, for example ``{"test": data}``, measured but never differentiated.
            optimizer: The optimizer of this model, of which a snapshot is taken, or a snapshot, or what gives one when
                it is needed. Only probes that ask what the optimizer would do next look at it.

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
        self.device, self.dtype = _where(model, device), precision(model, dtype)
        with torch.inference_mode(False):  # tensors made in inference mode have no derivatives, ever
            self._module = own_copy(model).to(self.device, self.dtype)
        if isinstance(loss, nn.Module):
            self.loss_function = copy.deepcopy(loss).to(self.device, torch.float64)
        self._loss_in_double = True
        require_finite_weights(self._module)
        set_policy(self._module, normalization)
        self._parameters = dict(self._module.named_parameters())
        self.theta = self.layout.flatten(self._parameters).detach()

        self.examples = self._fix(data, examples)
        self.also = {name: self._fix(more, examples, at_most=True) for name, more in (also or {}).items()}
        self.num_passes = 0
        self.folds: list[Folded] = []
        self._is_frozen = False
        self._evaluator: Evaluator | None = None
        self._autocast = False
        self._values: list[float] | None = None
        self._optimizer = (
            OptimizerState.of(optimizer, model) if isinstance(optimizer, torch.optim.Optimizer) else optimizer
        )
        with self._quiet():
            self._admit(batch_size)

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
        """Mean loss at each of K points: (K, P) -> (K,) in float64; equal to `loss` up to rounding.

        The batched path: see `landscape.evaluation` for how the points are evaluated, and for how to choose it.
        """
        if self._evaluator is None:
            self._evaluator = Evaluator(self)
        return self._evaluator.losses(thetas)

    def metrics(self, theta: Tensor | None = None) -> dict[str, float]:
        """Measure loss, accuracy where targets are classes, and both on the further data as ``test_loss`` etc."""
        with torch.no_grad(), self.at(theta):
            found = self._metrics_of(self.examples, "")
            for name, examples in self.also.items():
                found.update(self._metrics_of(examples, f"{name}_"))
        return found

    def gradient(self, theta: Tensor | None = None) -> Tensor:
        """Gradient of the mean loss at `theta`, (P,); zero for parameters the loss does not use."""
        with self.differentiating(), self.at(theta):
            tensors = self.tensors(self.layout)
            (gradient,) = self.average(lambda batch: [flat_gradient(self.batch_loss(batch), tensors)])
        return gradient.to(self.dtype)

    def module_types(self) -> set[type[nn.Module]]:
        """Collect the kinds of modules that the model is made of, its own among them."""
        return {type(module) for module in self._module.modules()}

    @property
    def optimizer_state(self) -> OptimizerState:
        """What the optimizer held when the objective was made. It is no part of the `identity` of the objective.

        Raises:
            ValueError: If the objective was made without an optimizer.
        """
        if self._optimizer is None:
            raise ValueError(
                "this objective knows no optimizer; make it with Objective(..., optimizer=...), or give the probe lr= "
                "and optimizer=."
            )
        if not isinstance(self._optimizer, OptimizerState):
            self._optimizer = self._optimizer()
        return self._optimizer

    def frozen(self, theta: Tensor | None = None, folding: bool = True) -> Objective:
        """Copy the objective for derivatives at one point, in the form that is cheapest to differentiate there.

        The copy of the model stands at `theta` for good: graphs of derivatives can be kept. BatchNorm with fixed
        statistics is folded into the layer before it (see `landscape.folding`), and float32 convolutions on the CPU
        work channels last; neither changes the loss beyond rounding.

        Args:
            theta: (P,) the point; default: where the model stood.
            folding: Whether to fold.

        Raises:
            ValueError: If `theta` is not a vector of P entries.
        """
        copied, batch = self._copied()
        with torch.inference_mode(False):
            copied.theta = self.theta if theta is None else theta.detach().to(self.device, self.dtype)
        with copied.differentiating(), copied.at():
            if folding and not copied._fold(batch):
                return self.frozen(theta, folding=False)
        copied._is_frozen = True
        if self.device.type == "cpu" and self.dtype == torch.float32:
            copied._put_channels_last()
        return copied

    def prepared(self, plan: Plan) -> Objective:
        """Copy the objective for evaluation at many points as a plan says. The copy has no derivatives.

        Args:
            plan: How; where BatchNorm cannot be folded without changing the loss beyond rounding, it is not.
        """
        copied, batch = self._copied()
        copied.batch_size = plan.batch_size
        with torch.no_grad(), copied.at():
            if plan.folding and not copied._recalibrates and not copied._fold(batch):
                return self.prepared(replace(plan, folding=False))
        if plan.channels_last:
            copied._put_channels_last()
        copied._autocast = plan.precision == "bfloat16"
        if plan.compiled:
            copied._module = torch.compile(copied._module, fullgraph=True, dynamic=False)  # type: ignore[assignment]
        return copied

    def under(self, normalization: str) -> Objective:
        """Copy the objective under another policy of BatchNorm (see `landscape.normalization`).

        Raises:
            ValueError: If there is no such policy.
        """
        copied, _ = self._copied()
        set_policy(copied._module, normalization)
        copied.normalization, copied._values = normalization, None
        copied.depends_on_cuts = copied.depends_on_cuts or normalization == "batch"
        return copied

    # --- what probes and operators build on -------------------------------------------------------------------

    @contextmanager
    def at(self, theta: Tensor | None = None) -> Iterator[None]:
        """Place the copy of the model at `theta` while the context lasts, random generators preserved.

        Raises:
            ValueError: If `theta` is not a vector of P entries.
        """
        if self._is_frozen and theta is not None:
            raise ValueError("a frozen copy of an objective stands at one point; evaluate the objective itself there.")
        with self._quiet():
            if not self._is_frozen:
                self._place(self.theta if theta is None else theta)
            if self._recalibrates:
                recalibrate(self._module, self._forward_over_the_data)
            yield

    @contextmanager
    def differentiating(self) -> Iterator[None]:
        """Let every part of the model be differentiated, twice if need be, while the context lasts.

        Fused attention has no second derivative, its plain form has; the fused recurrent layers of CUDA have no
        derivative at all in evaluation mode.
        """
        plain = any(isinstance(module, nn.RNNBase) for module in self._module.modules())
        cudnn = torch.backends.cudnn.flags(enabled=False) if plain else nullcontext()
        with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), cudnn:
            yield

    def tensors(self, layout: ParameterLayout) -> list[Tensor]:
        """List the copy's parameters that a layout names, for automatic differentiation."""
        return [self._parameters[name] for name in layout.names]

    def stacked(self, thetas: Tensor) -> dict[str, Tensor]:
        """Cut points (K, P) into the parameters that vary, (K, ...) each."""
        parts = thetas.to(self.device, self.dtype).split(self.layout.sizes, dim=1)
        shapes = zip(self.layout.names, parts, self.layout.shapes, strict=True)
        return {name: part.reshape(len(thetas), *shape) for name, part, shape in shapes}

    def with_examples(self, number: int) -> Objective:
        """Copy the objective with a random subset of its examples; where batches cannot be cut, with all of them."""
        copied = copy.copy(self)
        copied._evaluator, copied._values = None, None
        if self.examples.divisible:
            copied.examples = self.examples.take(number)
        return copied

    def module_parameters(self) -> list[Tensor]:
        """List all parameters of the copy of the model, those that stay where they are among them."""
        return list(self._parameters.values())

    @cached_property
    def bytes_of_largest_layer(self) -> float:
        """Bytes an example of the inputs and outputs of the layer that has most of them."""
        batch, number = next(self.examples.batches(1))
        with self.at():
            return largest_layer(self._module, lambda: self._evaluate(batch)) / number

    def measured(self, batch: Any, parameters: dict[str, Tensor] | None = None) -> list[Tensor]:
        """Mean loss of a batch and, where targets are classes, the share that is right; to be used inside `at`.

        Args:
            batch: The batch.
            parameters: Other values of parameters than where the copy stands, by name.
        """
        loss, output = self._evaluate(batch, parameters)
        if output is None or not is_classification(output, batch[1]):
            return [loss]
        return [loss, (output.argmax(dim=1) == batch[1]).double().mean()]

    def batch_loss(self, batch: Any) -> Tensor:
        """Mean loss of one batch where the copy stands; to be used inside `at`."""
        return self._evaluate(batch)[0]

    def batch_output(self, batch: Any) -> Tensor:
        """Output of the model for one batch where the copy stands; to be used inside `at`.

        Raises:
            TypeError: If the objective was made with `step`, which hides the output.
        """
        if self.step_function is not None:
            raise TypeError(
                "this needs the model's output and a loss of (output, target), which step= hides; make the objective "
                "with loss=."
            )
        output = self._module(batch[0])
        if not isinstance(output, Tensor):
            raise TypeError(f"this needs a model whose output is one tensor, got {type(output).__name__}.")
        return output

    def output_loss(self, output: Tensor, batch: Any) -> Tensor:
        """Mean loss of one batch as a function of the model's output for it."""
        assert self.loss_function is not None
        if self._loss_in_double:
            return self.loss_function(_double(output), _double(batch[1]))
        return self.loss_function(output, batch[1])

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
                if not is_out_of_memory(error):
                    raise
                self._halve(examples, error)

    def identity(self) -> dict[str, Any]:
        """Everything the value of the objective depends on, as plain values: digests, policy, dtype."""
        return {
            "parameters_sha256": self._state_digest(),
            "data_sha256": self.examples.digest(),
            **{f"{name}_data_sha256": more.digest() for name, more in self.also.items()},
            "loss_function": describe_function(self.loss_function or self.step_function),
            "loss_values": self._loss_values(),
            "parameters": self.parameters if isinstance(self.parameters, str) else list(self.parameters),
            "normalization": self.normalization,
            "batch_size": self.batch_size if self._batch_size_matters else 0,
            "dtype": str(self.dtype).removeprefix("torch."),
            "num_examples": len(self.examples),
            "num_parameters": self.size,
        }

    # --- inside -----------------------------------------------------------------------------------------------

    def _fix(self, data: Any, number: int | None, at_most: bool = False) -> Examples:
        examples = Examples.of(data)
        if number is not None:
            examples = examples.take(min(number, len(examples)) if at_most else number)
        return examples.to(self.device, self.dtype)

    def _quiet(self) -> Any:
        return preserved_rng(self.device)

    def _place(self, theta: Tensor) -> None:
        targets = self.layout.unflatten(theta.detach().to(self.device, self.dtype))
        with torch.no_grad():
            for parameter, name in zip(self.tensors(self.layout), self.layout.names, strict=True):
                parameter.copy_(targets[name])
        for folded in self.folds:
            folded.settle()

    def _copied(self) -> tuple[Objective, Any]:
        """Copy the objective with a model of its own, and take a batch to try it out."""
        batch, _ = next(self.examples.batches(self.batch_size))
        with torch.no_grad(), self.at():
            self.batch_loss(batch)  # what a model keeps of its last evaluation can only be copied without a graph
        copied = copy.copy(self)
        with torch.inference_mode(False):
            copied._module = own_copy(self._module)
        copied._parameters = dict(copied._module.named_parameters())
        copied.num_passes, copied._evaluator = 0, None
        return copied, batch

    def _fold(self, batch: Any) -> bool:
        """Fold BatchNorm in a copy; say whether its loss is what it was, up to rounding."""
        before = self.batch_loss(batch).item()
        self.folds = fold(self._module, lambda: self.batch_loss(batch))
        error = abs(self.batch_loss(batch).item() - before)
        return error <= 1e3 * torch.finfo(self.dtype).eps * max(1.0, abs(before))

    def _put_channels_last(self) -> None:
        for parameter in self._module.parameters():
            if parameter.ndim == 4:  # outputs follow the layout of the weights
                parameter.data = parameter.data.to(memory_format=torch.channels_last)

    def _evaluate(self, batch: Any, parameters: dict[str, Tensor] | None = None) -> tuple[Tensor, Tensor | None]:
        """Mean loss of a batch and, where a loss of (output, target) is used, the outputs."""
        with torch.autocast(self.device.type, torch.bfloat16) if self._autocast else nullcontext():
            if self.step_function is not None:
                return self.step_function(self._module, batch), None
            if parameters is None:
                output = self._module(batch[0])
            else:
                output = functional_call(self._module, parameters, (batch[0],))
        return self.output_loss(output, batch), output

    def _metrics_of(self, examples: Examples, prefix: str) -> dict[str, float]:
        values = self.average(self.measured, examples)
        return {f"{prefix}{name}": value.item() for name, value in zip(("loss", "accuracy"), values, strict=False)}

    def _weighted_sum(self, function: Callable[[Any], list[Tensor]], examples: Examples) -> list[Tensor]:
        totals: list[Tensor] = []
        for batch, number in examples.batches(self.batch_size):
            share = number / len(examples)
            parts = [value.detach().double() * share for value in function(batch)]
            totals = [a + b for a, b in zip(totals, parts, strict=True)] if totals else parts
        self.num_passes += examples is self.examples
        return totals

    @property
    def _recalibrates(self) -> bool:
        return self.normalization == "recalibrated" and not self._is_frozen

    @property
    def _batch_size_matters(self) -> bool:
        return self.depends_on_cuts or self._recalibrates

    def _halve(self, examples: Examples, error: BaseException) -> None:
        """Halve the batch size after running out of memory, where that leaves the loss what it is."""
        if not examples.divisible or self.batch_size == 1:
            raise error
        if self._batch_size_matters:
            raise RuntimeError(
                f"out of memory with batches of {self.batch_size} examples, whose size is part of what is measured "
                "here, so it is not lowered by itself; choose it with batch_size=."
            ) from error
        self.batch_size //= 2

    def _state_digest(self) -> str:
        """Digest what the model computes with: all its tensors, and which of them vary."""
        self._place(self.theta)
        ignored = recalibrated_buffers(self._module) if self._recalibrates else []
        tensors = {name: t for name, t in self._module.state_dict().items() if isinstance(t, Tensor)}
        return digest_named(
            {f"{n} varies" if n in self.layout.names else n: t for n, t in tensors.items() if n not in ignored}
        )

    def _loss_values(self) -> list[float]:
        """Tell apart models and losses of the same name by the loss of some examples, here and a small step away."""
        if self._values is None:
            few = self.examples.take(min(256, len(self.examples))) if self.examples.divisible else self.examples
            wave = torch.arange(self.size, device=self.device, dtype=self.dtype).cos()
            self._values = []
            for theta in (self.theta, self.theta + 0.01 * (1 + self.theta.abs()) * wave):
                with torch.no_grad(), self.at(theta):
                    (value,) = self.average(lambda batch: [self.batch_loss(batch)], few)
                self._values.append(rounded(value.item()))
        return self._values

    def _forward_over_the_data(self) -> None:
        def forward(batch: Any) -> list[Tensor]:
            self._evaluate(batch)
            return [torch.zeros(())]

        self.average(forward)

    # --- before any compute -----------------------------------------------------------------------------------

    def _admit(self, batch_size: int | None) -> None:
        """Refuse data and losses that do not fit, with the reason, and choose the batch size."""
        named = {"data": self.examples, **{f"also[{name!r}]": more for name, more in self.also.items()}}
        for where, examples in named.items():
            if self.loss_function is not None:
                require_pairs(examples, where)
                require_labels(self._module, self.loss_function, examples, where)
            require_one_number(self._first_loss(examples, where))
        ignoring = self.loss_function is not None and ignores_labels(self.loss_function, self.examples)
        self.depends_on_cuts = self._try_out() or ignoring or self.normalization == "batch"
        self.chooses_batch_size = batch_size is None and self.examples.divisible and not self._batch_size_matters
        self.batch_size = self._choose_batch_size(batch_size)

    def _try_out(self, most: int = SAMPLE) -> bool:
        """Evaluate at most so many examples, fewer where they do not fit; say whether the loss depends on cuts."""
        try:
            require_determinism(self._module, self.batch_loss, self.examples, most)
            require_mean(self.batch_loss, self.examples, most)
            return depends_on_cuts(self.batch_loss, self.examples, most)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or most == 1:
                raise
        return self._try_out(most // 2)

    def _first_loss(self, examples: Examples, where: str) -> Tensor:
        for in_double in (self.loss_function is not None, False):
            self._loss_in_double = in_double
            try:
                return first_loss(self.batch_loss, examples)
            except Exception as error:
                reason = error
        raise ValueError(f"the loss cannot be evaluated on {where}: {reason}") from reason

    def _choose_batch_size(self, batch_size: int | None) -> int:
        if batch_size is not None:
            if batch_size < 1:
                raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
            return batch_size
        if self.depends_on_cuts or not self.examples.divisible:
            return len(self.examples)
        example = next(self.examples.batches(1))[0]
        return measured_batch_size(self._module, lambda: self._evaluate(example), len(self.examples), self.device)


def flat_gradient(value: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Differentiate a scalar with respect to tensors, as one vector; zero where it does not depend on them."""
    return torch.cat([g.reshape(-1) for g in gradients(value, tensors)])


def gradients(value: Tensor, tensors: Sequence[Tensor], **options: Any) -> list[Tensor]:
    """Differentiate a scalar with respect to tensors; zero where it does not depend on them."""
    if not value.requires_grad:
        return [torch.zeros_like(t) for t in tensors]
    return list(torch.autograd.grad(value, tensors, allow_unused=True, materialize_grads=True, **options))


def _where(model: nn.Module, device: torch.device | str | None) -> torch.device:
    if device is None:
        return next(model.parameters()).device
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:100]
        raise ValueError(f"device {str(device)!r} cannot be used here ({reason}); choose cpu, or cuda:N.") from error


def _double(value: Any) -> Any:
    """Raise a float32 tensor to float64, so that a loss averages without rounding."""
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
