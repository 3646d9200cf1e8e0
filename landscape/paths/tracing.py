"""Find the permutation symmetries of a network by watching it compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from landscape.admission import own_copy
from landscape.normalization import recalibrated_buffers
from landscape.paths.units import FIXED, Axis, Segment, Units, order_of
from landscape.randomness import preserved_rng

_CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)
_CONCATENATIONS = (torch.cat, torch.concat)


@dataclass(frozen=True)
class _Label:
    """One axis of an activation whose entries are units."""

    dim: int
    axis: Axis

    @property
    def size(self) -> int:
        return sum(segment.size for segment in self.axis)

    @property
    def structure(self) -> tuple[Any, ...]:
        return (self.dim, *((s.units, s.repeats) for s in self.axis))


@dataclass(frozen=True)
class _Use:
    """A tensor that a function is called with: an activation with units, or a tensor of the network."""

    tensor: Tensor
    label: _Label | None = None
    name: str | None = None


def find_units(network: nn.Module, inputs: Any) -> Units:
    """Find the hidden units that can trade places, by one evaluation of a network.

    Each linear layer and convolution makes a group of units of its outputs. Any other operation (norms, activations,
    poolings, flattening, sums, products, ...) is tried out on random numbers: does it give permuted outputs for
    permuted inputs, and permuted scales and shifts, or the same outputs? If permuted, they belong to the same group;
    what is added or multiplied becomes one group. Units that meet an operation which does neither stay where they are,
    as do those of the output. So what is found is a symmetry, if not always all there is: the heads of attention, the
    pieces of maxout and channels that a group norm takes apart stay.

    Args:
        network: Any module; it stays as it is.
        inputs: A few inputs that it takes, two are enough.

    Returns:
        The specification, over parameters and the running statistics of BatchNorm; groups are named by the layers that
        make them.

    Raises:
        ValueError: If no units can trade places.
    """
    network = own_copy(network).eval()
    statistics = set(recalibrated_buffers(network))
    tensors = {**dict(network.named_parameters()), **{n: b for n, b in network.named_buffers() if n in statistics}}
    tracer = _Tracer(tensors)
    with preserved_rng(torch.device("cpu")), torch.no_grad(), tracer:
        output = network(inputs)
    tracer.finish(output)
    units = tracer.units()
    if not units.groups:
        raise ValueError(
            f"no hidden units of {type(network).__name__} were found that can trade places; write a permutation "
            "specification, or leave the alignment out."
        )
    return units


class _Tracer(TorchFunctionMode):
    """Follows units through the operations of a network."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        self._shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self._labels: dict[int, _Label] = {}
        self._alive: list[Any] = []  # so that no identity is used twice
        self._axes: dict[str, list[Axis | None]] = {}
        self._parents: dict[str, str] = {FIXED: FIXED}
        self._generator = torch.Generator().manual_seed(0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute, and say which units the result has."""
        kwargs = kwargs or {}
        uses = list(self._uses((args, kwargs)))
        output = func(*args, **kwargs)
        self._alive.append((args, kwargs, output))
        if not uses or not any(isinstance(part, Tensor) for part in _leaves(output)):
            return output
        if isinstance(output, Tensor) and (func is F.linear or func in _CONVOLUTIONS) and self._is_layer(args):
            self._layer(func, args, kwargs, output)
        elif isinstance(output, Tensor) and func in _CONCATENATIONS and self._concatenates(args, kwargs):
            self._concatenate(args, output)
        else:
            self._try_out(func, args, kwargs, uses, output)
        return output

    def finish(self, output: Any) -> None:
        """Keep the outputs of the network in their order."""
        for part in _leaves(output):
            if isinstance(part, Tensor) and id(part) in self._labels:
                self._fix(self._labels[id(part)].axis)

    def units(self) -> Units:
        """Return what was found."""
        axes = {name: tuple(map(self._settled, found)) for name, found in self._axes.items()}
        return Units({name: found for name, found in axes.items() if any(axis is not None for axis in found)})

    # --- rules --------------------------------------------------------------------------------------------------

    def _is_layer(self, args: Sequence[Any]) -> bool:
        """Whether this is a dense layer: its weight is the network's own, and each output sees each input."""
        return len(args) > 1 and id(args[1]) in self._names and args[1].ndim >= 2 and self._has_one_group(args)

    @staticmethod
    def _has_one_group(args: Sequence[Any]) -> bool:
        return args[1].ndim == 2 or args[0].shape[args[0].ndim - args[1].ndim + 1] == args[1].shape[1]

    def _layer(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor) -> None:
        weight, bias = args[1], args[2] if len(args) > 2 else kwargs.get("bias")
        dim = output.ndim - 1 if func is F.linear else output.ndim - weight.ndim + 1
        label, name = self._labels.get(id(args[0])), self._names[id(weight)]
        if label is not None and label.dim != dim:
            self._fix(label.axis)
            label = None
        made = (Segment(self._new_group(name), len(weight)),)
        self._record(name, {0: made, **({1: label.axis} if label else {})})
        if bias is not None:
            known = self._names.get(id(bias))
            self._record(known, {0: made}) if known else self._fix(made)
        self._labels[id(output)] = _Label(dim, made)

    def _concatenates(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % args[0][0].ndim
        labels = [self._labels.get(id(part)) for part in args[0]]
        return any(labels) and all(label is None or label.dim == dim for label in labels)

    def _concatenate(self, args: Sequence[Any], output: Tensor) -> None:
        labels = [self._labels.get(id(part)) for part in args[0]]
        dim = next(label.dim for label in labels if label)
        parts = zip(args[0], labels, strict=True)
        axes = [label.axis if label else (Segment(FIXED, part.shape[dim]),) for part, label in parts]
        self._labels[id(output)] = _Label(dim, tuple(segment for axis in axes for segment in axis))

    def _try_out(self, func: Any, args: Any, kwargs: Any, uses: list[_Use], output: Any) -> None:
        """Permute the inputs of an operation and see what becomes of its output."""
        labelled = [use.label for use in uses if use.label]
        own = {use.name: use.tensor for use in uses if use.name}
        if labelled and isinstance(output, Tensor) and len({label.structure for label in labelled}) == 1:
            for other in labelled[1:]:
                self._unite_axes(labelled[0].axis, other.axis)
            label = replace(labelled[0], axis=self._rooted(labelled[0].axis))
            trial = _Trial(func, args, kwargs, {id(u.tensor): u for u in uses}, label, self._generator)
            found = trial.outcome(own, output.shape) if trial.moves else None
            if found is not None:
                moved, made = found
                for name in own:
                    self._record(name, {moved[name]: label.axis} if name in moved else {})
                if made is not None:
                    self._labels[id(output)] = made
                return
        for label in labelled:
            self._fix(label.axis)
        for name in own:
            self._record(name, {})

    # --- what is known --------------------------------------------------------------------------------------------

    def _uses(self, values: Any) -> Iterator[_Use]:
        for value in _leaves(values):
            if isinstance(value, Tensor):
                label, name = self._labels.get(id(value)), self._names.get(id(value))
                if label or name:
                    yield _Use(value, label, name)

    def _record(self, name: str, moved: Mapping[int, Axis]) -> None:
        """Note which axes of a tensor are moved; where it is used twice, both must agree."""
        axes: list[Axis | None] = [moved.get(number) for number in range(len(self._shapes[name]))]
        before = self._axes.setdefault(name, axes)
        for one, two in zip(before, axes, strict=True):
            if one is not None and two is not None and _structure(one) == _structure(two):
                self._unite_axes(one, two)
            elif one is not two:
                self._fix(one or ())
                self._fix(two or ())

    def _new_group(self, name: str) -> str:
        group = name.removesuffix(".weight")
        self._parents.setdefault(group, group)
        return group

    def _root(self, group: str) -> str:
        while self._parents[group] != group:
            group = self._parents[group]
        return group

    def _unite(self, one: str, two: str) -> None:
        first, second = self._root(one), self._root(two)
        if FIXED in (first, second):
            first, second = FIXED, first if second == FIXED else second
        if first != second:
            self._parents[second] = first

    def _unite_axes(self, one: Axis, two: Axis) -> None:
        for a, b in zip(one, two, strict=True):
            self._unite(a.group, b.group)

    def _fix(self, axis: Axis) -> None:
        for segment in axis:
            self._unite(FIXED, segment.group)

    def _rooted(self, axis: Axis) -> Axis:
        return tuple(replace(segment, group=self._root(segment.group)) for segment in axis)

    def _settled(self, axis: Axis | None) -> Axis | None:
        rooted = self._rooted(axis or ())
        return rooted if any(segment.group != FIXED for segment in rooted) else None


class _Trial:
    """An operation with random numbers in the place of its inputs, before and after their units are permuted."""

    def __init__(
        self, func: Any, args: Any, kwargs: Any, uses: Mapping[int, _Use], label: _Label, generator: torch.Generator
    ) -> None:
        self._func, self._arguments, self._uses, self._label = func, (args, kwargs), uses, label
        sizes = {s.group: s.units for s in label.axis if s.group != FIXED}
        orders = {group: torch.randperm(n, generator=generator) for group, n in sizes.items()}
        identity = {group: bool((order == torch.arange(len(order))).all()) for group, order in orders.items()}
        self._orders = {group: order.roll(1) if identity[group] else order for group, order in orders.items()}
        self.moves = any(size > 1 for size in sizes.values())
        self._numbers = {
            key: torch.rand(use.tensor.shape, generator=generator, dtype=torch.float64) + 0.5
            if use.name
            else torch.randn(use.tensor.shape, generator=generator, dtype=torch.float64)
            for key, use in uses.items()
        }

    def outcome(self, own: Mapping[str, Tensor], shape: torch.Size) -> tuple[dict[str, int], _Label | None] | None:
        """Find which axes of the network's tensors move along, and which units the output has: None for no symmetry."""
        try:
            before = self._run({})
            for moved in self._ways(own):
                after = self._run(moved, permuting=True)
                if torch.allclose(before, after, rtol=1e-9, atol=1e-9):
                    return moved, None
                for dim, size in enumerate(shape):
                    repeats, rest = divmod(size, self._label.size)
                    made = replace(
                        self._label,
                        dim=dim,
                        axis=tuple(replace(s, repeats=s.repeats * repeats) for s in self._label.axis),
                    )
                    if not rest and repeats and self._permutes(before, after, made):
                        return moved, made
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None  # what does not take random numbers in double precision says nothing
        return None

    def _permutes(self, before: Tensor, after: Tensor, made: _Label) -> bool:
        expected = before.index_select(made.dim, order_of(made.axis, self._orders))
        return torch.allclose(expected, after, rtol=1e-9, atol=1e-9)

    def _ways(self, own: Mapping[str, Tensor]) -> Iterator[dict[str, int]]:
        """Ways in which tensors of the network may move along: each along one axis of the right size, or not."""
        choices = [
            [*(axis for axis, size in enumerate(tensor.shape) if size == self._label.size), None]
            for tensor in own.values()
        ]
        for chosen in product(*choices):
            yield {name: axis for name, axis in zip(own, chosen, strict=True) if axis is not None}

    def _run(self, moved: Mapping[str, int], permuting: bool = False) -> Tensor:
        order = order_of(self._label.axis, self._orders)

        def numbers(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            use = self._uses.get(id(value))
            if use is None:
                return value.double() if value.is_floating_point() else value
            found = self._numbers[id(value)]
            dim = use.label.dim if use.label else moved.get(use.name or "")
            return found.index_select(dim, order) if permuting and dim is not None else found.clone()

        args, kwargs = _mapped(self._arguments, numbers)
        return self._func(*args, **kwargs).double()


def _structure(axis: Axis) -> tuple[tuple[int, int], ...]:
    return tuple((segment.units, segment.repeats) for segment in axis)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for entry in value:
            yield from _leaves(entry)
    else:
        yield value


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, Mapping):
        return {key: _mapped(entry, change) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(entry, change) for entry in value) if type(value) in (list, tuple) else value
    return change(value)
