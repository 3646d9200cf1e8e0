"""Pictures of the data itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from landscape.figures.style import WIDTHS, styled
from landscape.text import clean


@styled
def image_rows(rows: Mapping[str, ArrayLike]) -> Figure:
    """Show gray images in rows that are compared with each other, such as one batch under several augmentations.

    Args:
        rows: By the label of a row, images (N, H, W), as many in each; all in the gray scale of the first row.

    Returns:
        A figure with one row of images for each label.

    Raises:
        ValueError: If there is no row, or the rows are not as many images each.
    """
    images = {label: np.asarray(row, dtype=float) for label, row in rows.items()}
    shapes = {row.shape[:1] if row.ndim == 3 else row.shape for row in images.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        found = ", ".join(str(row.shape) for row in images.values()) or "none"
        raise ValueError(
            f"expected rows of images (N, H, W), as many in each, got {found}; choose channel and examples"
        )
    (count,), first = shapes.pop(), next(iter(images.values()))
    side = WIDTHS["double"] / (count + 3)
    figure = Figure(figsize=(WIDTHS["double"], side * len(images) * 1.02), layout="constrained")
    panels = figure.subplots(len(images), count, squeeze=False)
    for line, (label, row) in zip(panels, images.items(), strict=True):
        for panel, image in zip(line, row, strict=True):
            panel.imshow(image, cmap="gray", vmin=first.min(), vmax=first.max(), interpolation="nearest")
            panel.set_axis_off()
        line[0].annotate(
            clean(label), (-0.15, 0.5), xycoords="axes fraction", ha="right", va="center", fontsize=7, gid="label"
        )
    return figure
