"""Checks that all plans share: sizes, levels of noise, penalties and seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

Axis = Literal["width", "epochs", "samples", "noise"]
AXES: tuple[Axis, ...] = get_args(Axis)


def check_axis(axis: str, known: Sequence[str], model: str) -> None:
    """Refuse an axis that a model does not have.

    Raises:
        ValueError: If it is unknown.
    """
    if axis not in known:
        raise ValueError(f"{model} has the axes {', '.join(known)}, got {axis!r}")


def check_plan(axis: str, sizes: tuple[int, ...], noises: tuple[float, ...], seeds: tuple[int, ...]) -> None:
    """Refuse what has no curve.

    Raises:
        ValueError: If there are fewer than 3 sizes or they do not rise from 1, levels are not in [0, 1), do not rise
            or, on the axis noise, are fewer than 3, or seeds are missing or repeat.
    """
    what = {"width": "widths", "noise": "widths", "samples": "numbers of examples", "epochs": "epochs"}[axis]
    if len(sizes) < 3:
        raise ValueError(f"a peak needs {what} on both sides, at least 3 in all, got {len(sizes)}; give more of them")
    if sizes[0] < 1 or any(after <= before for before, after in pairwise(sizes)):
        raise ValueError(f"{what} must rise from at least 1, got {', '.join(map(str, sizes))}")
    check_noises(noises)
    if axis == "noise" and len(noises) < 3:
        raise ValueError(f"the axis noise needs at least 3 levels to be compared, got {len(noises)}; as in 0,0.1,0.2")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be different and at least one, got {seeds}")


def check_noises(noises: tuple[float, ...]) -> None:
    """Refuse levels of noise that are none.

    Raises:
        ValueError: If they are not in [0, 1), or do not rise.
    """
    if not noises or not all(0 <= noise < 1 for noise in noises):
        raise ValueError(f"noise must be in [0, 1), a share of the labels, got {', '.join(map(str, noises))}")
    if list(noises) != sorted(set(noises)):
        raise ValueError(f"levels of noise must rise, got {', '.join(map(str, noises))}")


def check_penalties(penalties: tuple[float, ...]) -> None:
    """Refuse penalties that are not finite and above zero, which the first arm is.

    Raises:
        ValueError: If one is not, or they do not rise.
    """
    if not all(0 < penalty < math.inf for penalty in penalties) or list(penalties) != sorted(set(penalties)):
        shown = ", ".join(map(str, penalties))
        raise ValueError(
            f"penalties must be finite and rise from above 0, got {shown}; training without one is always there"
        )
