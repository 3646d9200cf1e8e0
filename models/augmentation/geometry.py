"""Augmentations that move the places of an image or a signal. An axis of one place is not moved."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.augmentation.registry import AUGMENTATIONS, Move, Occasion, Places, Step, require, uniform


def affine(linear: Tensor, shift: Tensor | None = None) -> Places:
    """See at each place p what lies at A p + b.

    Args:
        linear: (N, 2, 2) A.
        shift: (N, 2) b, in pixels; zero if None.
    """

    def move(places: Tensor) -> Tensor:
        moved = torch.einsum("nij,nhwj->nhwi", linear, places)
        return moved if shift is None else moved + shift[:, None, None]

    return move


def rotation(angles: Tensor) -> Places:
    """See what lies an angle (N,) further, in radians, from the x axis towards the y axis."""
    cos, sin = angles.cos(), angles.sin()
    return affine(torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1))


def radial(strengths: Tensor, sides: Tensor) -> Places:
    """See at distance r from the centre what lies at r (1 + k (r / R)^2), R half of the diagonal.

    Args:
        strengths: (N,) k; above 0 what is far out comes nearer (a barrel), below 0 it goes further (a pincushion).
        sides: (2,) of the images.
    """
    corner = (sides / 2).square().sum()

    def move(places: Tensor) -> Tensor:
        return places * (1 + strengths.view(-1, 1, 1, 1) * places.square().sum(3, keepdim=True) / corner)

    return move


@dataclass(frozen=True)
class _Flip(Move):
    force: bool = False

    def fit(self, occasion: Occasion) -> Step:
        """Refuse data whose mirrored inputs lose their label."""
        if occasion.why_no_flips and not self.force:
            raise ValueError(f"is refused on this data: {occasion.why_no_flips}; write flip:force=yes to do it anyway")
        return super().fit(occasion)


@AUGMENTATIONS.register("flip")
def flip(*, p: float = 0.5, axis: Literal["horizontal", "vertical"] = "horizontal", force: bool = False) -> Step:
    """Mirror an example with probability p. Refused on digits, whose mirror images are other signs, unless forced.

    Raises:
        ValueError: If p is not a probability.
    """
    require(0 <= p <= 1, "p in [0, 1]", p)
    mirror = torch.tensor([-1.0, 1.0] if axis == "horizontal" else [1.0, -1.0])

    def draw(count: int, sides: Tensor) -> Places:
        is_mirrored = torch.rand(count, 1, device=sides.device) < p
        return affine(torch.diag_embed(torch.where(is_mirrored, mirror.to(sides), torch.ones_like(sides))))

    return _Flip(draw, "mirrors top and bottom of" if axis == "vertical" else "", force)


@AUGMENTATIONS.register("crop")
def crop(*, pad: int | None = None) -> Step:
    """Pad each side, by default by an eighth of the shortest, and crop a random part of the old size (He et al. 2016).

    An eighth is 4 pixels of 32, as in the paper.

    Raises:
        ValueError: If the padding is negative.
    """
    require(pad is None or pad >= 0, "pad of at least 0", pad)

    def draw(count: int, sides: Tensor) -> Places:
        reach = max(int(sides[sides > 1].min()) // 8, 1) if pad is None else pad
        shift = torch.randint(-reach, reach + 1, (count, 2), device=sides.device)
        return affine(_unit(count, sides), shift * (sides > 1))

    return Move(draw)


@AUGMENTATIONS.register("scale")
def scale(*, low: float = 1.14, high: float = 2.14) -> Step:
    """Enlarge by a random factor, and crop a random part of the old size (Simonyan & Zisserman 2015; He et al. 2016).

    By default the shorter side grows as from 224 pixels, the size of the crop, to between 256 and 480.

    Raises:
        ValueError: If the image would not cover the crop, or the factors are not in order.
    """
    require(1 <= low <= high < math.inf, "1 <= low <= high", (low, high))

    def draw(count: int, sides: Tensor) -> Places:
        zoom = uniform(low, high, count, 1, like=sides)
        shift = uniform(-0.5, 0.5, count, 2, like=sides) * sides * (1 - 1 / zoom) * (sides > 1)
        return affine(_unit(count, sides) / zoom[..., None], shift)

    return Move(draw)


@AUGMENTATIONS.register("translate")
def translate(*, share: float = 0.1) -> Step:
    """Shift along each axis by up to a share of its side, in fractions of a pixel.

    Raises:
        ValueError: If the share is not in [0, 1].
    """
    require(0 <= share <= 1, "share in [0, 1]", share)

    def draw(count: int, sides: Tensor) -> Places:
        return affine(_unit(count, sides), uniform(-share, share, count, 2, like=sides) * sides * (sides > 1))

    return Move(draw)


@AUGMENTATIONS.register("rotate")
def rotate(*, degrees: float = 15.0) -> Step:
    """Turn around the centre by up to so many degrees either way.

    Raises:
        ValueError: If the angle is not from 0 to 180.
    """
    require(0 <= degrees <= 180, "degrees from 0 to 180", degrees)
    most = math.radians(degrees)
    return Move(lambda count, sides: rotation(uniform(-most, most, count, like=sides)), "turns")


@AUGMENTATIONS.register("stretch")
def stretch(*, factor: float = 1.25) -> Step:
    """Stretch each axis by its own factor, log-uniform from 1 / factor to factor.

    Raises:
        ValueError: If the factor is below 1.
    """
    require(1 <= factor < math.inf, "factor of at least 1", factor)
    most = math.log(factor)

    def draw(count: int, sides: Tensor) -> Places:
        return affine(torch.diag_embed(uniform(-most, most, count, 2, like=sides).exp()))

    return Move(draw)


@AUGMENTATIONS.register("shear")
def shear(*, slope: float = 0.2) -> Step:
    """Shift rows sideways by up to a slope times their height over the centre.

    Raises:
        ValueError: If the slope is negative.
    """
    require(0 <= slope < math.inf, "slope of at least 0", slope)

    def draw(count: int, sides: Tensor) -> Places:
        linear = _unit(count, sides).clone()
        linear[:, 0, 1] = uniform(-slope, slope, count, like=sides)
        return affine(linear)

    return Move(draw, "shears")


@AUGMENTATIONS.register("lens")
def lens(*, strength: float = 0.2) -> Step:
    """Distort as a lens does: r becomes r (1 + k (r / R)^2), k uniform in +-strength, R half of the diagonal.

    Raises:
        ValueError: If the strength is not in [0, 1/3), where the map can be undone.
    """
    require(0 <= strength < 1 / 3, "strength in [0, 1/3)", strength)
    return Move(lambda count, sides: radial(uniform(-strength, strength, count, like=sides), sides), "bends")


def _unit(count: int, sides: Tensor) -> Tensor:
    return torch.eye(2, dtype=sides.dtype, device=sides.device).expand(count, 2, 2)
