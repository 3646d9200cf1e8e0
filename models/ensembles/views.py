"""Views of the test inputs, whose predictions are averaged: crops at several scales, and mirror images."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Literal, NamedTuple

from torch import Tensor
from torch.nn import functional as F

from models.registry import Registry
from models.symmetries import why_flips_change_labels

VIEWS = Registry("views")
"""Functions `(input_shape, data, *, options)`: a list of `View`, for inputs of a shape from a data set of a name."""

_PLACES = {
    (0.0, 0.0): "top left",
    (0.0, 1.0): "top right",
    (1.0, 0.0): "bottom left",
    (1.0, 1.0): "bottom right",
    (0.5, 0.5): "center",
    (0.0,): "start",
    (1.0,): "end",
    (0.5,): "center",
}


class View(NamedTuple):
    """One way to look at inputs.

    Attributes:
        name: For people, such as "32x32 top left flipped".
        of: Inputs (N, ...) -> inputs of the same shape.
    """

    name: str
    of: Callable[[Tensor], Tensor]


@VIEWS.register("plain")
def plain(input_shape: tuple[int, ...], data: str) -> list[View]:
    """The inputs as they are."""
    return [View("plain", lambda inputs: inputs)]


@VIEWS.register("crops")
def crops(
    input_shape: tuple[int, ...],
    data: str,
    *,
    scales: str = "1/1.143",
    places: Literal["all", "center"] = "all",
    flips: Literal["no", "yes", "forced"] = "no",
) -> list[View]:
    """Crops of the inputs' own size from enlarged ones: four corners and the center (Krizhevsky et al. 2012).

    Each scale is one more size: 1 and 256/224 by default; He et al. (2016) average over sizes 224, 256, 384, 480 and
    640, scales=1/1.143/1.714/2.143/2.857. Of an input that is not enlarged all crops are the same one. Signals are cut
    at their start, end and center. With flips each crop is also mirrored; where that changes labels, only if forced.

    Raises:
        ValueError: If a scale is not a number of at least 1, or flips would change labels.
    """
    if flips != "no":
        _refuse_flips(input_shape, data, forced=flips == "forced")
    axes = len(input_shape) - 1
    shares = [share for share in product((0.0, 1.0), repeat=axes) if places == "all"] + [(0.5,) * axes]
    found: dict[str, View] = {}
    for scale in _numbers(scales):
        larger = tuple(round(scale * side) for side in input_shape[1:])
        is_larger = larger != tuple(input_shape[1:])
        for share, flip in product(shares if is_larger else shares[-1:], (False, True) if flips != "no" else (False,)):
            name = " ".join(["x".join(map(str, larger)), _PLACES[share], *(["flipped"] if flip else [])])
            found[name] = View(name, _crop(larger, share, flip))
    return list(found.values())


def make_views(text: str, input_shape: tuple[int, ...], data: str) -> list[View]:
    """Build views, written with their options as in "crops:scales=1/1.25,flips=yes".

    Args:
        text: One of `VIEWS`.
        input_shape: Of one input, (C, H, W) or (C, L).
        data: The name of the data set, which says whether mirror images keep their label.

    Raises:
        ValueError: If the name or an option is unknown, out of range, or does not suit the data.
    """
    views: list[View] = VIEWS.build(text, input_shape, data)
    return views


def _crop(larger: tuple[int, ...], share: tuple[float, ...], flip: bool) -> Callable[[Tensor], Tensor]:
    def of(inputs: Tensor) -> Tensor:
        sides = inputs.shape[2:]
        if larger != tuple(sides):
            mode = "bilinear" if len(sides) == 2 else "linear"
            inputs = F.interpolate(inputs, size=larger, mode=mode, align_corners=False)
        for axis, (side, part) in enumerate(zip(sides, share, strict=True), start=2):
            inputs = inputs.narrow(axis, math.floor(part * (inputs.shape[axis] - side)), side)
        return inputs.flip(-1) if flip else inputs

    return of


def _numbers(scales: str) -> list[float]:
    try:
        found = [float(part) for part in scales.split("/")]
    except ValueError:
        found = [math.nan]
    if not all(1 <= scale < math.inf for scale in found):
        raise ValueError(f"views 'crops' need scales of at least 1, such as scales=1/1.25, got {scales!r}")
    return found


def _refuse_flips(input_shape: tuple[int, ...], data: str, forced: bool) -> None:
    if len(input_shape) != 3:
        raise ValueError(
            "views 'crops': flips mirror images, and these inputs are signals of shape "
            f"{tuple(input_shape)}; leave flips out"
        )
    if (reason := why_flips_change_labels(data)) and not forced:
        raise ValueError(f"views 'crops': on {data}, {reason}; leave flips out, or write flips=forced")
