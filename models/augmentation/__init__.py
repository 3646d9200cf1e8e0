"""Random changes of the examples that a step trains on; what is measured is always the data as it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from models.augmentation import geometry, values  # noqa: F401 (each registers what it builds)
from models.augmentation.registry import AUGMENTATIONS, Canvas, Occasion, Step
from models.data import Examples, Splits
from models.data.standardization import TensorStandardization
from models.symmetries import why_flips_change_labels

__all__ = ["AUGMENTATIONS", "Augmenter", "check_augmentation", "make_augmenter"]


@dataclass(frozen=True)
class Augmenter:
    """Changes batches of standardized examples.

    A batch goes back to the values in which its data came, where 0 is black and neighbours are neighbours, is changed
    there step by step, and is standardized again. Movements that follow each other are one interpolation; what comes
    into the picture from outside is black.

    Attributes:
        steps: What is done, in this order.
        standardization: Of the data, on the device of the batches.
        num_classes: Of the data.
    """

    steps: tuple[Step, ...]
    standardization: TensorStandardization
    num_classes: int

    @torch.no_grad()
    def __call__(self, batch: Examples) -> Examples:
        """Return other examples, with targets (N,), or (N, K) where classes are mixed; the batch stays as it is."""
        as_it_came = self.standardization.undo(batch.inputs)
        mean = self.standardization.undo(torch.zeros_like(batch.inputs[:1]))
        is_signal = as_it_came.ndim == 3
        shown, gray = (x.unsqueeze(2) if is_signal else x for x in (as_it_came, mean))
        canvas = Canvas(shown, batch.targets, gray, self.num_classes)
        for step in self.steps:
            step.apply(canvas)
        canvas.settle()
        changed = canvas.values.squeeze(2) if is_signal else canvas.values
        return Examples(self.standardization(changed), canvas.targets)


def check_augmentation(text: str) -> None:
    """Refuse augmentations that there are not, or whose options are out of range.

    Raises:
        ValueError: If so.
    """
    AUGMENTATIONS.build_all(text)


def make_augmenter(text: str, data: str, splits: Splits, device: torch.device) -> Augmenter | None:
    """Make what changes the batches of a training.

    Args:
        text: Any of `AUGMENTATIONS` with their options, joined by "+", as in "crop:pad=1+mixup:0.2"; or "none".
        data: The data's name, which says whether flips change its labels.
        splits: The data.
        device: Where batches are.

    Returns:
        The augmenter; None for "none".

    Raises:
        ValueError: If a name or an option is unknown or out of range, or one makes no sense for the data.
    """
    steps = []
    occasion = Occasion(splits.input_shape, why_flips_change_labels(data))
    for (name, _), step in zip(AUGMENTATIONS.read_all(text), AUGMENTATIONS.build_all(text), strict=True):
        try:
            steps.append(step.fit(occasion))
        except ValueError as error:
            raise ValueError(f"augment {name!r} {error}") from None
    standardization = splits.standardization.on(device)
    return Augmenter(tuple(steps), standardization, splits.num_classes) if steps else None
