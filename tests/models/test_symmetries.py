"""Which transformations of an input keep its label."""

from models.symmetries import why_flips_change_labels


def test_flips_of_digits_are_known_to_change_labels():
    assert "mirrored digit" in why_flips_change_labels("digits")
    assert "MNIST-1D" in why_flips_change_labels("mnist1d")
    assert why_flips_change_labels("idx:fashion-mnist") is None
