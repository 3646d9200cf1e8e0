"""Augmentations that change values where they are, or mix examples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.augmentation.registry import AUGMENTATIONS, Canvas, Change, Occasion, Step, require, uniform


@AUGMENTATIONS.register("jitter")
def jitter(*, brightness: float = 0.4, contrast: float = 0.4) -> Step:
    """Multiply an example by 1 +- brightness, and then its distance from its own mean by 1 +- contrast.

    Values are not clipped. Of a signal the brightness is its amplitude.

    Raises:
        ValueError: If either is not in [0, 1].
    """
    require(0 <= brightness <= 1, "brightness in [0, 1]", brightness)
    require(0 <= contrast <= 1, "contrast in [0, 1]", contrast)

    def change(values: Tensor, mean: Tensor) -> Tensor:
        light, depth = (
            uniform(1 - most, 1 + most, len(values), 1, 1, 1, like=values) for most in (brightness, contrast)
        )
        lit = values * light
        own = lit.mean((1, 2, 3), keepdim=True)
        return own + depth * (lit - own)

    return Change(change)


@AUGMENTATIONS.register("cutout")
def cutout(*, share: float = 0.5, fill: Literal["mean", "black"] = "mean") -> Step:
    """Blank a square of a share of the shorter side around a random pixel, clipped at the edge (DeVries & Taylor 2017).

    As published it becomes what standardization makes zero, the mean of the training data, or else black. Of a signal
    it is an interval.

    Raises:
        ValueError: If the share is not in (0, 2].
    """
    require(0 < share <= 2, "share above 0 and at most 2", share)

    def change(values: Tensor, mean: Tensor) -> Tensor:
        sides = values.shape[2:]
        length = max(round(share * min(side for side in sides if side > 1)), 1)
        inside = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=values.device)
        for axis, side in enumerate(sides, start=2):
            if side > 1:
                first = torch.randint(side, (len(values), 1), device=values.device) - length // 2
                place = torch.arange(side, device=values.device)
                form = (len(values), *(side if other == axis else 1 for other in (1, 2, 3)))
                inside = inside & ((place >= first) & (place < first + length)).view(form)
        return torch.where(inside, mean if fill == "mean" else torch.zeros_like(mean), values)

    return Change(change)


@dataclass(frozen=True)
class _Mix(Step):
    alpha: float

    def apply(self, canvas: Canvas, chosen: Tensor | None = None) -> None:
        """Mix values and targets with those of a random order of the batch."""
        canvas.settle()
        partner = torch.randperm(len(canvas.values), device=canvas.values.device)
        alphas = torch.full((len(partner), 1), self.alpha, device=canvas.values.device)
        share = torch.distributions.Beta(alphas, alphas, validate_args=False).sample()
        if canvas.targets.ndim == 1:
            canvas.targets = F.one_hot(canvas.targets, canvas.num_classes).to(share)
        canvas.values = torch.lerp(canvas.values[partner], canvas.values, share[..., None, None].to(canvas.values))
        canvas.targets = torch.lerp(canvas.targets[partner], canvas.targets, share)


@AUGMENTATIONS.register("mixup")
def mixup(*, alpha: float = 1.0) -> Step:
    """Mix each example and its label with another of the batch: shares l and 1 - l, l ~ Beta(a, a) (Zhang et al. 2018).

    l is drawn for each example, and both lie where they are: two glyphs of MNIST-1D side by side or one on the other.
    The loss is that of the shares of both classes; the accuracy while training counts the
    class of the larger share.

    Raises:
        ValueError: If alpha is not above 0.
    """
    require(0 < alpha < math.inf, "alpha above 0", alpha)
    return _Mix(alpha)


_OF_RANDOM = ("flip", "scale", "jitter", "translate", "rotate", "stretch", "shear", "lens", "cutout")


@dataclass(frozen=True)
class _Random(Step):
    count: int
    steps: tuple[Step, ...] = ()

    def fit(self, occasion: Occasion) -> Step:
        """Choose from those that fit the data."""
        steps = []
        for name in _OF_RANDOM:
            try:
                steps.append(AUGMENTATIONS[name]().fit(occasion))
            except ValueError:
                continue
        require(self.count <= len(steps), f"at most {len(steps)}, as many as there are for this data", self.count)
        return _Random(self.count, tuple(steps))

    def apply(self, canvas: Canvas, chosen: Tensor | None = None) -> None:
        """Draw a random order of the steps for each example, and take its first ones."""
        draws = torch.rand(len(canvas.values), len(self.steps), device=canvas.values.device)
        taken = draws.argsort(1).argsort(1) < self.count
        for step, own in zip(self.steps, taken.T, strict=True):
            step.apply(canvas, own if chosen is None else own & chosen)


@AUGMENTATIONS.register("random")
def random(*, count: int = 2) -> Step:
    """Do so many others to each example, drawn anew for it: of those that move or change values and fit the data.

    They are flip (where labels survive it), scale, jitter, translate, rotate, stretch, shear, lens and cutout, with
    their usual strengths and in this order.

    Raises:
        ValueError: If the count is below 1 or (from `fit`) there are not so many.
    """
    require(count >= 1, "a count of at least 1", count)
    return _Random(count)
