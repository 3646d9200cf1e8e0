"""Which transformations of an input keep its label."""

from __future__ import annotations

import re

from models.data.files import idx_labels

_DIGITS = "a mirrored digit is another sign (2, 5, 7) or none at all"
_NO_FLIPS = {"digits": _DIGITS, "mnist1d": "a mirrored glyph of MNIST-1D is another one or none at all"}
_FIRST_OF_MNIST = {"train": (5, 0, 4, 1, 9, 2, 1, 3, 1, 4), "t10k": (7, 2, 1, 0, 4, 1, 4, 9, 5, 9)}
_NAME = re.compile(r"(?<![a-z])[ekq]?mnist", re.IGNORECASE)


def why_flips_change_labels(data: str) -> str | None:
    """Say why mirrored inputs of a data set lose their label; None where nothing is known against it.

    A user's files are MNIST where their first ten labels are MNIST's, or where the last two parts of their path say so,
    as in "data/mnist/train.npz" but not "data/fashion-mnist".

    Args:
        data: "digits", "mnist1d", "idx:DIR", ...
    """
    kind, _, location = data.partition(":")
    if kind == "idx" and _is_mnist(location):
        return _DIGITS
    name = "/".join(location.rstrip("/").split("/")[-2:])
    if _NAME.search(name) and not re.search("fashion", name, re.IGNORECASE):
        return f"it is named as MNIST or one of its kind, and {_DIGITS}"
    return _NO_FLIPS.get(kind)


def _is_mnist(location: str) -> bool:
    for part, first in _FIRST_OF_MNIST.items():
        try:
            labels = idx_labels(location, part)
        except ValueError:
            continue  # reading the data says what is wrong with it
        if tuple(map(int, labels[: len(first)])) == first:
            return True
    return False
