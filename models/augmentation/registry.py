"""The registry that augmentations add themselves to, and what one can do with a batch.

An augmentation is a function `(*, options) -> Step`. A step draws anew for every example of every batch, from torch's
global generator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from models.registry import Registry

AUGMENTATIONS = Registry("augment")

Places = Callable[[Tensor], Tensor]
"""From places (N, H, W, 2) of the output to those of the input that are seen there; x, y from the centre, in pixels."""


@dataclass
class Canvas:
    """A batch while it is changed, in the values in which its data came, so that 0 is black.

    Attributes:
        values: (N, C, H, W); signals have H = 1.
        targets: (N,) labels, or (N, K) shares of classes once examples are mixed.
        mean: What standardization makes zero, broadcastable to the values.
        num_classes: How many there are (K).
        pending: Movements that are not made yet, in order; made together, so that values are interpolated once.
    """

    values: Tensor
    targets: Tensor
    mean: Tensor
    num_classes: int
    pending: list[Places] = field(default_factory=list)

    @property
    def sides(self) -> Tensor:
        """(2,) width and height."""
        height, width = self.values.shape[2:]
        return torch.tensor([width, height], dtype=self.values.dtype, device=self.values.device)

    def settle(self) -> None:
        """Make the pending movements, by bilinear interpolation; what lies outside is black."""
        if not self.pending:
            return
        places = self.grid().expand(len(self.values), -1, -1, -1)
        for move in reversed(self.pending):
            places = move(places)
        self.pending.clear()
        relative = places / (self.sides / 2)
        self.values = F.grid_sample(self.values, relative, "bilinear", "zeros", align_corners=False)

    def grid(self) -> Tensor:
        """(1, H, W, 2) the place of every pixel."""
        as_it_is = torch.eye(2, 3, device=self.values.device, dtype=self.values.dtype)[None]
        return F.affine_grid(as_it_is, [1, 1, *self.values.shape[2:]], align_corners=False) * (self.sides / 2)


@dataclass(frozen=True)
class Occasion:
    """What is augmented.

    Attributes:
        shape: Of one input, (C, H, W) or (C, L).
        why_no_flips: Why mirrored inputs lose their label; None where they keep it.
    """

    shape: tuple[int, ...]
    why_no_flips: str | None


class Step(ABC):
    """One change of a batch."""

    def fit(self, occasion: Occasion) -> Step:
        """Return the step as it is done to such data.

        Raises:
            ValueError: If it makes no sense there.
        """
        return self

    @abstractmethod
    def apply(self, canvas: Canvas, chosen: Tensor | None = None) -> None:
        """Change a batch in place, or the examples alone that are chosen, (N,) bool."""


@dataclass(frozen=True)
class Move(Step):
    """A step that moves places.

    Attributes:
        draw: From the number of examples (N) and the sides (2,) to what is seen where.
        of_images: What it does that signals cannot have done to them, if so.
    """

    draw: Callable[[int, Tensor], Places]
    of_images: str = ""

    def fit(self, occasion: Occasion) -> Step:
        """Refuse signals where there is nothing to be moved."""
        if self.of_images and len(occasion.shape) != 3:
            raise ValueError(
                f"{self.of_images} images (C, H, W), got inputs of shape {occasion.shape}; signals take crop, scale, "
                "jitter, translate, stretch, cutout and mixup"
            )
        return self

    def apply(self, canvas: Canvas, chosen: Tensor | None = None) -> None:
        """Note the movement."""
        move = self.draw(len(canvas.values), canvas.sides)
        canvas.pending.append(move if chosen is None else _only(chosen, move))


@dataclass(frozen=True)
class Change(Step):
    """A step that changes values where they are.

    Attributes:
        of: From values (N, C, H, W), and their mean, to values.
    """

    of: Callable[[Tensor, Tensor], Tensor]

    def apply(self, canvas: Canvas, chosen: Tensor | None = None) -> None:
        """Make it, after the movements before it."""
        canvas.settle()
        changed = self.of(canvas.values, canvas.mean)
        canvas.values = changed if chosen is None else torch.where(chosen.view(-1, 1, 1, 1), changed, canvas.values)


def uniform(low: float, high: float, *shape: int, like: Tensor) -> Tensor:
    """Draw uniformly between two numbers."""
    return low + (high - low) * torch.rand(*shape, dtype=like.dtype, device=like.device)


def require(holds: bool, what: str, got: object) -> None:
    """Refuse an option.

    Raises:
        ValueError: If what should hold does not.
    """
    if not holds:
        raise ValueError(f"needs {what}, got {got}")


def _only(chosen: Tensor, move: Places) -> Places:
    return lambda places: torch.where(chosen.view(-1, 1, 1, 1), move(places), places)
