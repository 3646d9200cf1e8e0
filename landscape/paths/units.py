"""Which hidden units of a network may trade places: the axes of its tensors that a permutation moves together."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FIXED = "="
_PART = re.compile(r"(?P<group>[^+*=\s]+)(\*(?P<repeats>\d+))?|=(?P<fixed>\d+)")


@dataclass(frozen=True)
class Segment:
    """A stretch of an axis.

    Attributes:
        group: The units that it belongs to; "=" for entries that stay.
        units: How many.
        repeats: Entries in a row that each unit has, such as the places of a channel after flattening.
    """

    group: str
    units: int
    repeats: int = 1

    @property
    def size(self) -> int:
        """Entries of the axis."""
        return self.units * self.repeats


Axis = tuple[Segment, ...]


@dataclass(frozen=True)
class Units:
    """A permutation specification: hidden units that can trade places without changing what a network computes.

    Permuting the units of a group means permuting every axis that names it by the same permutation.

    Attributes:
        axes: For each tensor that is moved, by name, its axes; None for one that stays.

    References:
        Ainsworth et al., "Git Re-Basin: Merging Models modulo Permutation Symmetries", ICLR 2023, section 3.
    """

    axes: Mapping[str, tuple[Axis | None, ...]]

    @classmethod
    def read(cls, written: Mapping[str, Sequence[str | None]], tensors: Mapping[str, Tensor]) -> Units:
        """Read a specification as people write it: for each tensor one word an axis, null for an axis that stays.

        A word is the name of a group (``"h1"``), with the entries in a row of each unit where those are several
        (``"conv*49"``), or a sum of such parts for concatenated axes (``"left+right"``), in which ``=16`` are sixteen
        entries that stay.

        Args:
            written: By the names of the tensors.
            tensors: The tensors, which say how many units a group has.

        Raises:
            ValueError: If a tensor or axis is not there, a word cannot be read, or sizes do not fit.

        Example:
            >>> tensors = {"in.weight": torch.zeros(3, 5), "in.bias": torch.zeros(3), "out.weight": torch.zeros(2, 3)}
            >>> Units.read({"in.weight": ["h", None], "in.bias": ["h"], "out.weight": [None, "h"]}, tensors).groups
            {'h': 3}
        """
        _require_axes(written, tensors)
        words = [
            (name, axis, word, tensors[name].shape[axis])
            for name, axes in written.items()
            for axis, word in enumerate(axes)
            if word is not None
        ]
        sizes = _sizes(words)
        axes: dict[str, list[Axis | None]] = {name: [None] * tensors[name].ndim for name in written}
        for name, axis, word, size in words:
            axes[name][axis] = _axis(name, word, size, sizes)
        return cls({name: tuple(found) for name, found in axes.items()})

    def __str__(self) -> str:
        """Name the specification by what it holds, briefly."""
        return f"{len(self.groups)} groups of units, {hashlib.sha256(repr(self.axes).encode()).hexdigest()[:12]}"

    @property
    def groups(self) -> dict[str, int]:
        """The number of units of each group, in the order in which tensors name them."""
        segments = [s for axes in self.axes.values() for axis in axes for s in axis or ()]
        return {segment.group: segment.units for segment in segments if segment.group != FIXED}

    def permuted(self, tensors: Mapping[str, Tensor], permutations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Permute the tensors of a network.

        Args:
            tensors: By name, such as a state dict; those that the specification does not name stay.
            permutations: For each group, or some, which unit comes to each place (n,).

        Raises:
            ValueError: If something is no permutation of a group.
        """
        for group, order in permutations.items():
            size = self.groups.get(group)
            if size is None or sorted(order.tolist()) != list(range(size)):
                raise ValueError(
                    f"expected a permutation of the {size} units of group {group!r}, got {order.tolist()}."
                )
        return {name: self.permuted_one(name, tensor, permutations) for name, tensor in tensors.items()}

    def permuted_one(self, name: str, tensor: Tensor, permutations: Mapping[str, Tensor], but: int = -1) -> Tensor:
        """Permute one tensor along all its axes but one."""
        for number, axis in enumerate(self.axes.get(name, ())):
            if axis is not None and number != but:
                tensor = tensor.index_select(number, order_of(axis, permutations).to(tensor.device))
        return tensor


def order_of(axis: Axis, permutations: Mapping[str, Tensor]) -> Tensor:
    """Return which entry of an axis comes to each place, where groups without a permutation stay.

    >>> order_of((Segment("h", 2, 2), Segment("=", 1)), {"h": torch.tensor([1, 0])}).tolist()
    [2, 3, 0, 1, 4]
    """
    parts, start = [], 0
    for segment in axis:
        units = permutations.get(segment.group, torch.arange(segment.units))
        parts.append((start + units[:, None] * segment.repeats + torch.arange(segment.repeats)).flatten())
        start += segment.size
    return torch.cat(parts)


def _require_axes(written: Mapping[str, Sequence[str | None]], tensors: Mapping[str, Tensor]) -> None:
    for name, axes in written.items():
        if name not in tensors:
            raise ValueError(f"the permutation specification names {name!r}, which is no tensor of this network.")
        if len(axes) != tensors[name].ndim:
            raise ValueError(
                f"{name!r} has shape {tuple(tensors[name].shape)}, the permutation specification gives it "
                f"{len(axes)} axes; write one word an axis, null for one that stays."
            )


def _sizes(words: Sequence[tuple[str, int, str, int]]) -> dict[str, int]:
    """How many units each group has, from the axes that are no sum."""
    sizes: dict[str, int] = {}
    for name, axis, word, size in words:
        found = _PART.fullmatch(word)
        if "+" in word or found is None or found["group"] is None:
            continue
        units, rest = divmod(size, int(found["repeats"] or 1))
        if rest or sizes.setdefault(found["group"], units) != units:
            raise ValueError(
                f"axis {axis} of {name!r} has {size} entries, which do not fit {word!r}: group {found['group']!r} has "
                f"{sizes.get(found['group'], '?')} units elsewhere; correct the permutation specification."
            )
    return sizes


def _axis(name: str, word: str, size: int, sizes: Mapping[str, int]) -> Axis:
    segments = []
    for part in word.split("+"):
        found = _PART.fullmatch(part.strip())
        if found is None:
            raise ValueError(f"cannot read {word!r} of {name!r}; write a group as h, h*49, or a sum such as h+g+=16.")
        if found["fixed"]:
            segments.append(Segment(FIXED, int(found["fixed"])))
        elif found["group"] not in sizes:
            raise ValueError(f"group {found['group']!r} of {name!r} is only part of sums; name an axis of its own too.")
        else:
            segments.append(Segment(found["group"], sizes[found["group"]], int(found["repeats"] or 1)))
    if sum(segment.size for segment in segments) != size:
        raise ValueError(f"{word!r} stands for {sum(s.size for s in segments)} entries, {name!r} has {size} there.")
    return tuple(segments)
