"""Rows of images."""

import numpy as np
import pytest

from landscape.figures import image_rows


def test_each_image_stands_in_its_row_in_one_gray_scale():
    first, second = np.random.default_rng(0).random((2, 4, 6, 5))
    figure = image_rows({"as it is": first, "darker": second / 2})
    shown = [panel.images[0] for panel in figure.axes]
    for image, expected in zip(shown, [*first, *second / 2], strict=True):
        assert np.array_equal(image.get_array(), expected)
        assert image.get_clim() == (first.min(), first.max())
    labels = [text.get_text() for panel in figure.axes for text in panel.texts]
    assert labels == ["as it is", "darker"]
    tops = [panel.get_position().y1 for panel in figure.axes]
    assert min(tops[:4]) > max(tops[4:])


@pytest.mark.parametrize("rows", [{}, {"a": np.zeros((2, 4, 4)), "b": np.zeros((3, 4, 4))}, {"a": np.zeros((4, 4))}])
def test_rows_that_cannot_be_compared_are_refused(rows):
    with pytest.raises(ValueError, match=r"expected rows of images \(N, H, W\), as many in each, got"):
        image_rows(rows)
