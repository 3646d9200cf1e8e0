"""Which transformations of an input keep its label."""

from __future__ import annotations

_NO_FLIPS = {
    "digits": "a mirrored digit is another sign (2, 5, 7) or none at all",
    "mnist1d": "a mirrored glyph of MNIST-1D is another one or none at all",
}


def why_flips_change_labels(data: str) -> str | None:
    """Say why mirrored inputs of a data set lose their label; None where nothing is known against it.

    Args:
        data: "digits", "mnist1d", "idx:DIR", ...
    """
    return _NO_FLIPS.get(data)
