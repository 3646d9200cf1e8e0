"""Units of a network whose scale is free: what comes in times c and what goes out divided by c is the same function.

A unit is one row of a linear layer or one channel of a convolution, or of the scale and shift behind a normalization.
Where nothing but positively homogeneous functions of each unit (ReLU and its kin, pooling) stands between it and the
next weights, f(c x) = c f(x) for c > 0, so c can be moved from one to the other, unit by unit.

References:
    Neyshabur, Salakhutdinov and Srebro, "Path-SGD: Path-Normalized Optimization in Deep Neural Networks", NeurIPS 2015;
    Dinh et al., "Sharp Minima Can Generalize For Deep Nets", ICML 2017, section 3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from landscape.objective import Objective
from landscape.parameters import ParameterLayout

_ROUNDING = 1e3  # roundings by which two evaluations of the same function may differ, as for a folded BatchNorm
_TENSOR: Any = Tensor  # its attributes are descriptors, which type checkers take for their values


@dataclass(frozen=True, eq=False)
class FreeUnits:
    """The units of one layer whose scale is free.

    Attributes:
        name: The parameters that come in and those that go out: "conv1.weight -> conv2.weight".
        size: Number of units.
        incoming: For each parameter that is multiplied by c, the unit of every entry, in its shape.
        outgoing: For each parameter that is divided by c, the same.
    """

    name: str
    size: int
    incoming: dict[str, Tensor]
    outgoing: dict[str, Tensor]


def free_units(objective: Objective) -> list[FreeUnits]:
    """Find the layers of an objective's model whose units can be rescaled one by one.

    One evaluation is watched call by call. A layer counts only if all its parameters vary and each is used once, if
    its output passes through nothing but functions known to be homogeneous, and if all of it ends in weights that
    vary; a residual sum, a concatenation, a sigmoid or any unknown call ends the chain. Then every unit is rescaled by
    1/2, 1 or 2 at random, and layers for which that changes the loss over the data are dropped. So what is found holds
    on the data; what is not found may be free in ways that this does not look for (a whole residual stream, queries
    against keys).

    Args:
        objective: Of any model.
    """
    names = {id(t): name for name, t in zip(objective.layout.names, objective.tensors(objective.layout), strict=True)}
    watch = _Watch(names)
    with torch.no_grad(), objective.at():
        # Inside `at`, after BatchNorm has been recalibrated where it is to be.
        batch, _ = next(objective.examples.batches(objective.batch_size))
        with watch:
            objective.batch_loss(batch)
    found = watch.found()
    if found and not _is_same(objective, found):
        found = [units for units in found if _is_same(objective, [units])]
    return found


def rescale(theta: Tensor, layout: ParameterLayout, units: Sequence[FreeUnits], scales: Sequence[Tensor]) -> Tensor:
    """Multiply what comes into each unit by its scale, and divide what goes out of it.

    Args:
        theta: (P,) a point.
        layout: Of the parameters.
        units: Layers of free units.
        scales: (size,) positive numbers for each of them.

    Returns:
        (P,) another point, of the same function up to rounding.
    """
    moved = theta.detach().double().clone()
    parts = layout.unflatten(moved)
    for layer, scale in zip(units, scales, strict=True):
        of = scale.to(moved)
        for name, index in layer.incoming.items():
            parts[name].mul_(of[index.to(moved.device)])
        for name, index in layer.outgoing.items():
            parts[name].div_(of[index.to(moved.device)])
    return moved.to(theta)


def _is_same(objective: Objective, units: Sequence[FreeUnits]) -> bool:
    """Whether the loss over the data stays what it is when units are rescaled by powers of two, which round nothing."""
    generator = torch.Generator().manual_seed(0)
    scales = [2.0 ** torch.randint(-1, 2, (layer.size,), generator=generator) for layer in units]
    before = objective.loss().item()
    after = objective.loss(rescale(objective.theta, objective.layout, units, scales)).item()
    return abs(after - before) <= _ROUNDING * torch.finfo(objective.dtype).eps * max(1.0, abs(before))


# --- watching an evaluation ---------------------------------------------------------------------------------------


@dataclass
class _Layer:
    """A layer of units while it is followed."""

    incoming: dict[str, Tensor]
    size: int
    outgoing: dict[str, Tensor] = field(default_factory=dict)
    is_free: bool = True


@dataclass(frozen=True)
class _Flow:
    """A tensor that is homogeneous in each unit of a layer.

    Attributes:
        layer: Number of the layer.
        axis: Axis along which the units lie.
        repeat: Entries of each unit there, one after the other; more than one once places are flattened into it.
    """

    layer: int
    axis: int
    repeat: int = 1


class _Watch(TorchFunctionMode):
    """Follows the outputs of layers from call to call until they enter the next weights, or something unknown."""

    def __init__(self, names: dict[int, str]):
        super().__init__()
        self.names = names
        self.layers: list[_Layer] = []
        self.uses: Counter[str] = Counter()
        self._flows: dict[
            int, tuple[Tensor, _Flow]
        ] = {}  # by the id of a tensor, which is held so that it stays its own

    def found(self) -> list[FreeUnits]:
        """The layers that are free, once the evaluation has ended."""
        return [
            FreeUnits(
                f"{' + '.join(_main(one.incoming))} -> {' + '.join(one.outgoing)}", one.size, one.incoming, one.outgoing
            )
            for one in self.layers
            if one.is_free and one.outgoing and all(self.uses[name] == 1 for name in (*one.incoming, *one.outgoing))
        ]

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in _HARMLESS:
            return function(*args, **kwargs)
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        flows = [self._flows[id(leaf)][1] for leaf in leaves if id(leaf) in self._flows]
        self.uses.update({self.names[id(leaf)] for leaf in leaves if id(leaf) in self.names})
        source = args[0] if args else kwargs.get("input")
        given = self._flows[id(source)][1] if id(source) in self._flows else None
        before = source.shape if isinstance(source, Tensor) else None
        output = function(*args, **kwargs)
        rule = _RULES.get(function)
        known = rule is not None and isinstance(output, Tensor) and before is not None
        # All but the input itself, such as a weight that is computed, is none of a rule's business.
        strays = flows if not known else [flow for flow in flows if flow is not given]
        for flow in strays:
            self.layers[flow.layer].is_free = False
        if known:
            assert rule is not None and before is not None
            following = rule(self, given, before, output, args, kwargs)
            self._flows.pop(id(output), None)
            if following is not None:
                self._flows[id(output)] = output, following
        return output

    def name_of(self, parameter: Any) -> str | None:
        """The name of a parameter that varies."""
        return self.names.get(id(parameter))

    def ends(self, flow: _Flow | None) -> None:
        """Give up on a layer."""
        if flow is not None:
            self.layers[flow.layer].is_free = False

    def enters(self, flow: _Flow | None, weight: Any, units: Tensor | None) -> None:
        """Let a layer's units end in a weight; `units` numbers the inputs that its entries read."""
        name = self.name_of(weight)
        if flow is None:
            return
        if name is None or units is None:
            self.ends(flow)
            return
        self.layers[flow.layer].outgoing[name] = units // flow.repeat

    def begins(self, parameters: Sequence[tuple[Any, Tensor]], size: int, axis: int) -> _Flow | None:
        """Begin a layer of units whose incoming parameters are these, each with the unit of its entries."""
        present = [(parameter, index) for parameter, index in parameters if parameter is not None]
        named = {self.name_of(parameter): index for parameter, index in present}
        incoming = {name: index for name, index in named.items() if name is not None}
        if not incoming or len(incoming) < len(present):  # something that stays fixed would have to be scaled too
            return None
        self.layers.append(_Layer(incoming, size))
        return _Flow(len(self.layers) - 1, axis)


Rule = Callable[[_Watch, "_Flow | None", torch.Size, Tensor, Any, Any], "_Flow | None"]


def _arguments(names: str, args: Any, kwargs: Any) -> dict[str, Any]:
    return dict(zip(names.split(), args, strict=False)) | kwargs


def _linear(watch: _Watch, flow: _Flow | None, before: torch.Size, output: Tensor, args: Any, kwargs: Any) -> Any:
    given = _arguments("input weight bias", args, kwargs)
    weight, bias = given["weight"], given.get("bias")
    outputs, inputs = weight.shape
    columns = torch.arange(inputs).expand(outputs, inputs)
    watch.enters(flow, weight, columns if flow and flow.axis == len(before) - 1 else None)
    rows = torch.arange(outputs)
    return watch.begins([(weight, rows[:, None].expand(outputs, inputs)), (bias, rows)], outputs, output.ndim - 1)


def _convolution(dimensions: int) -> Rule:
    def rule(watch: _Watch, flow: _Flow | None, before: torch.Size, output: Tensor, args: Any, kwargs: Any) -> Any:
        given = _arguments("input weight bias stride padding dilation groups", args, kwargs)
        weight, bias, groups = given["weight"], given.get("bias"), given.get("groups", 1)
        outputs, inputs = weight.shape[:2]
        form, axis = (1,) * dimensions, len(before) - 1 - dimensions
        rows = torch.arange(outputs)
        first = (rows // (outputs // groups) * inputs).view(-1, 1, *form)
        channels = (first + torch.arange(inputs).view(1, -1, *form)).expand(weight.shape)
        watch.enters(flow, weight, channels if flow and flow.axis == axis else None)
        return watch.begins([(weight, rows.view(-1, 1, *form).expand(weight.shape)), (bias, rows)], outputs, axis)

    return rule


def _transposed(dimensions: int) -> Rule:
    def rule(watch: _Watch, flow: _Flow | None, before: torch.Size, output: Tensor, args: Any, kwargs: Any) -> Any:
        given = _arguments("input weight bias stride padding output_padding groups", args, kwargs)
        weight, bias = given["weight"], given.get("bias")
        form, axis = (1,) * dimensions, len(before) - 1 - dimensions
        if given.get("groups", 1) != 1:
            watch.ends(flow)
            return None
        inputs, outputs = weight.shape[:2]
        channels = torch.arange(inputs).view(-1, 1, *form).expand(weight.shape)
        watch.enters(flow, weight, channels if flow and flow.axis == axis else None)
        columns = torch.arange(outputs)
        return watch.begins([(weight, columns.view(1, -1, *form).expand(weight.shape)), (bias, columns)], outputs, axis)

    return rule


def _normalization(names: str, axis: int) -> Rule:
    """What is normalized forgets the scale of what came in; its own scale and shift begin anew."""

    def rule(watch: _Watch, flow: _Flow | None, before: torch.Size, output: Tensor, args: Any, kwargs: Any) -> Any:
        watch.ends(flow)
        given = _arguments(names, args, kwargs)
        weight = given.get("weight")
        if weight is None or weight.ndim != 1:
            return None
        index = torch.arange(len(weight))
        return watch.begins([(weight, index), (given.get("bias"), index)], len(weight), axis % output.ndim)

    return rule


def _elementwise(watch: _Watch, flow: _Flow | None, before: torch.Size, output: Tensor, args: Any, kwargs: Any) -> Any:
    return flow


def _dropout(watch: _Watch, flow: _Flow | None, before: torch.Size, output: Tensor, args: Any, kwargs: Any) -> Any:
    if _arguments("input p training", args, kwargs).get("training", True):
        watch.ends(flow)
        return None
    return flow


def _pooling(dimensions: int) -> Rule:
    def rule(watch: _Watch, flow: _Flow | None, before: torch.Size, output: Tensor, args: Any, kwargs: Any) -> Any:
        if flow is None or flow.axis < len(before) - dimensions:
            return flow
        watch.ends(flow)  # it pools over units
        return None

    return rule


def _reshaping(watch: _Watch, flow: _Flow | None, before: torch.Size, output: Tensor, args: Any, kwargs: Any) -> Any:
    """Follow the units where they keep their axis, or where all that lies behind it is flattened into it."""
    if flow is None:
        return None
    axis, after = flow.axis, output.shape
    if after[: axis + 1] == before[: axis + 1]:
        return flow
    if after[:axis] == before[:axis] and len(after) == axis + 1:
        return _Flow(flow.layer, axis, flow.repeat * prod(before[axis + 1 :]))
    if axis == len(before) - 1 and after[-1:] == before[-1:]:
        return _Flow(flow.layer, len(after) - 1, flow.repeat)
    watch.ends(flow)
    return None


def _averaging(watch: _Watch, flow: _Flow | None, before: torch.Size, output: Tensor, args: Any, kwargs: Any) -> Any:
    if flow is None:
        return None
    dim = _arguments("input dim keepdim", args, kwargs).get("dim")
    if dim is None:
        watch.ends(flow)
        return None
    dims = {one % len(before) for one in (dim if isinstance(dim, list | tuple) else (dim,))}
    if flow.axis in dims or not dims:
        watch.ends(flow)
        return None
    lost = sum(one < flow.axis for one in dims) if output.ndim < len(before) else 0
    return _Flow(flow.layer, flow.axis - lost, flow.repeat)


def _main(incoming: dict[str, Tensor]) -> list[str]:
    """The names that say which layer it is: weights rather than biases."""
    return [name for name, index in incoming.items() if index.ndim > 1] or list(incoming)


_HARMLESS = {
    *(Tensor.dim, Tensor.size, Tensor.numel, Tensor.is_floating_point, Tensor.__len__),
    *(getattr(_TENSOR, name).__get__ for name in ("shape", "ndim", "dtype", "device", "is_sparse", "is_nested")),
}

_RULES: dict[Any, Rule] = {
    F.linear: _linear,
    **{getattr(torch, f"conv{n}d"): _convolution(n) for n in (1, 2, 3)},
    **{getattr(torch, f"conv_transpose{n}d"): _transposed(n) for n in (1, 2, 3)},
    F.batch_norm: _normalization("input running_mean running_var weight bias", 1),
    F.instance_norm: _normalization("input running_mean running_var weight bias", 1),
    F.group_norm: _normalization("input num_groups weight bias", 1),
    F.layer_norm: _normalization("input normalized_shape weight bias", -1),
    F.rms_norm: _normalization("input normalized_shape weight", -1),
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), _elementwise),
    **dict.fromkeys((F.leaky_relu, F.leaky_relu_, torch.prelu, Tensor.prelu), _elementwise),
    **dict.fromkeys((Tensor.contiguous, Tensor.clone, torch.clone), _elementwise),
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.feature_alpha_dropout), _dropout),
    **{
        getattr(F, f"{kind}_pool{n}d"): _pooling(n)
        for kind in ("max", "avg", "adaptive_max", "adaptive_avg")
        for n in (1, 2, 3)
    },
    **dict.fromkeys((Tensor.flatten, torch.flatten, Tensor.view, Tensor.reshape, torch.reshape), _reshaping),
    **dict.fromkeys((Tensor.squeeze, torch.squeeze, Tensor.unsqueeze, torch.unsqueeze), _reshaping),
    **dict.fromkeys((Tensor.mean, torch.mean, Tensor.sum, torch.sum, Tensor.amax, torch.amax), _averaging),
}
