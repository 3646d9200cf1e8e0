"""One flat vector of parameters and the named tensors it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class ParameterLayout:
    """Which parameters of a model vary, in which order, and which of their entries form a filter.

    Attributes:
        names: The parameters, in the order of `nn.Module.named_parameters`; a tied one appears once.
        shapes: The shape of each.
        filter_axes: The axis of each along which its filters are counted: 0, except for transposed
            convolutions (1).
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    filter_axes: tuple[int, ...]

    @classmethod
    def of(cls, model: nn.Module, parameters: str | Sequence[str] = "*") -> ParameterLayout:
        """Lay out the trainable parameters of a model that match a pattern.

        Args:
            model: Any module. Frozen parameters (`requires_grad=False`) stay where they are.
            parameters: A name or shell pattern such as ``"layer3.*"``, or several.

        Raises:
            ValueError: If the model has no trainable parameters, a lazy one that has no shape yet, or a pattern
                matches none of them.
        """
        lazy = [name for name, p in model.named_parameters() if is_lazy(p)]
        if lazy:
            raise ValueError(f"{_some(lazy)} has no shape yet; run the model once before it is measured.")
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not trainable:
            raise ValueError(
                f"{type(model).__name__} has no trainable parameters, so it has no loss landscape; "
                "pass a model with parameters that require gradients."
            )
        axes = _filter_axes(model)
        whole = cls(
            names=tuple(trainable),
            shapes=tuple(p.shape for p in trainable.values()),
            filter_axes=tuple(axes.get(name, 0) for name in trainable),
        )
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        return whole.matching(parameters, frozen)

    def matching(self, parameters: str | Sequence[str], frozen: Sequence[str] = ()) -> ParameterLayout:
        """Keep the parameters that match a pattern.

        Args:
            parameters: A name or shell pattern, or several.
            frozen: Names that are there but cannot be chosen, for the error message.

        Raises:
            ValueError: If a pattern matches nothing, or there is none.
        """
        patterns = (parameters,) if isinstance(parameters, str) else tuple(parameters)
        if not patterns:
            raise ValueError('parameters= needs at least one name or pattern, such as "layer3.*"; got none.')
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in self.names):
                raise ValueError(_no_match(pattern, self.names, frozen))
        kept = [n for n, name in enumerate(self.names) if any(fnmatchcase(name, p) for p in patterns)]
        return ParameterLayout(
            names=tuple(self.names[n] for n in kept),
            shapes=tuple(self.shapes[n] for n in kept),
            filter_axes=tuple(self.filter_axes[n] for n in kept),
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each parameter."""
        return tuple(shape.numel() for shape in self.shapes)

    @property
    def size(self) -> int:
        """Number of entries P of the flat vector."""
        return sum(self.sizes)

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Join named tensors to one vector (P,)."""
        return torch.cat([tensors[name].reshape(-1) for name in self.names])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Cut a vector (P,) into views, each named and shaped as its parameter.

        Raises:
            ValueError: If the vector does not have the P entries of this layout.
        """
        if vector.shape != (self.size,):
            raise ValueError(
                f"expected a vector of {self.size} parameters, got shape {tuple(vector.shape)}; "
                "make it with ParameterLayout.flatten or as a multiple of objective.theta."
            )
        parts = vector.split(self.sizes)
        return {n: part.view(s) for n, part, s in zip(self.names, parts, self.shapes, strict=True)}

    def current(self, model: nn.Module) -> Tensor:
        """Copy where the model stands now, as a vector (P,)."""
        return self.flatten({name: p.detach() for name, p in model.named_parameters()})

    def filter_index(self) -> Tensor:
        """Number every entry (P,) by its filter, from 0; -1 for entries of parameters with fewer than two axes."""
        return self._index(by_filter=True)

    def layer_index(self) -> Tensor:
        """Number every entry (P,) by its parameter, from 0; -1 for those with fewer than two axes."""
        return self._index(by_filter=False)

    def name_at(self, entry: int) -> str:
        """Name the parameter that an entry of the flat vector belongs to."""
        ends = torch.tensor(self.sizes).cumsum(0)
        return self.names[int(torch.searchsorted(ends, entry, right=True))]

    def _index(self, by_filter: bool) -> Tensor:
        parts, used = [], 0
        for shape, axis in zip(self.shapes, self.filter_axes, strict=True):
            numbers = torch.full(shape, -1)
            if len(shape) >= 2:
                count = shape[axis] if by_filter else 1
                along = [count if n == axis else 1 for n in range(len(shape))]
                numbers = torch.arange(used, used + count).view(along).expand(shape)
                used += count
            parts.append(numbers.reshape(-1))
        return torch.cat(parts)


def _filter_axes(model: nn.Module) -> dict[str, int]:
    axes = {}
    for prefix, module in model.named_modules():
        if isinstance(module, _TRANSPOSED):
            axes[f"{prefix}.weight".lstrip(".")] = 1
    return axes


def _no_match(pattern: str, trainable: Sequence[str], frozen: Sequence[str]) -> str:
    matched = [name for name in frozen if fnmatchcase(name, pattern)]
    if matched:
        return (
            f"parameters={pattern!r} matches only frozen parameters ({_some(matched)}); "
            "set requires_grad_(True) on those that should vary."
        )
    return f"parameters={pattern!r} matches no trainable parameter; there are {_some(trainable)}."


def _some(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more
