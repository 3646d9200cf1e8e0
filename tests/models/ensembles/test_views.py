"""Views of inputs, entry by entry."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from models.ensembles.views import VIEWS, make_views

IMAGES = torch.rand(3, 2, 6, 8, generator=torch.Generator().manual_seed(0))
SIGNALS = torch.rand(3, 1, 10, generator=torch.Generator().manual_seed(0))


def views(text, inputs=IMAGES, data="npz:mine"):
    return {view.name: view.of(inputs) for view in make_views(text, tuple(inputs.shape[1:]), data)}


@pytest.mark.parametrize("text", ["plain", "crops:scales=1", "crops:scales=1,places=center"])
@pytest.mark.parametrize("inputs", [IMAGES, SIGNALS])
def test_the_center_of_what_is_not_enlarged_is_the_input(text, inputs):
    (found,) = views(text, inputs).values()
    assert torch.equal(found, inputs)


def test_corners_and_center_of_an_enlarged_image():
    larger = F.interpolate(IMAGES, size=(9, 12), mode="bilinear", align_corners=False)
    found = views("crops:scales=1.5")
    assert torch.equal(found["9x12 top left"], larger[..., :6, :8])
    assert torch.equal(found["9x12 top right"], larger[..., :6, 4:])
    assert torch.equal(found["9x12 bottom left"], larger[..., 3:, :8])
    assert torch.equal(found["9x12 bottom right"], larger[..., 3:, 4:])
    assert torch.equal(found["9x12 center"], larger[..., 1:7, 2:10])
    assert len(found) == 5


def test_signals_are_cut_along_their_length():
    larger = F.interpolate(SIGNALS, size=13, mode="linear", align_corners=False)
    found = views("crops:scales=1.3", SIGNALS)
    assert torch.equal(found["13 start"], larger[..., :10])
    assert torch.equal(found["13 end"], larger[..., 3:])
    assert torch.equal(found["13 center"], larger[..., 1:11])
    assert len(found) == 3


def test_flips_mirror_every_crop():
    found = views("crops:scales=1/1.5,flips=yes")
    assert len(found) == 2 * (1 + 5)
    assert torch.equal(found["6x8 center flipped"], IMAGES.flip(-1))
    for name, view in found.items():
        if not name.endswith("flipped"):
            assert torch.equal(found[f"{name} flipped"], view.flip(-1))


def test_the_scales_of_he_et_al():
    found = views("crops:1/1.143/1.714/2.143/2.857", torch.zeros(1, 3, 224, 224))
    assert list(dict.fromkeys(name.split()[0] for name in found)) == [f"{s}x{s}" for s in (224, 256, 384, 480, 640)]
    assert len(found) == 1 + 4 * 5
    # where two scales are the same size there is one view, not two that count twice
    assert len(views("crops:scales=1/1.01")) == 1


def test_a_constant_image_stays_constant():
    for view in views("crops:1.2/1.7", torch.ones_like(IMAGES)).values():
        torch.testing.assert_close(view, torch.ones_like(IMAGES))


def test_forced_flips_of_digits():
    assert len(views("crops:scales=1,flips=forced", data="digits")) == 2


@pytest.mark.parametrize(
    ("text", "inputs", "data", "message"),
    [
        ("crop", IMAGES, "npz:x", "unknown views 'crop'; did you mean 'crops'"),
        ("plain:1", IMAGES, "npz:x", "views 'plain' takes no option 1"),
        ("crops:scales=0.5", IMAGES, "npz:x", "need scales of at least 1, such as scales=1/1.25, got '0.5'"),
        ("crops:scales=1/big", IMAGES, "npz:x", "need scales of at least 1, such as scales=1/1.25, got '1/big'"),
        ("crops:flips=yes", IMAGES, "digits", "on digits, a mirrored digit is another sign.*or write flips=forced"),
        ("crops:flips=forced", SIGNALS, "mnist1d", r"flips mirror images, and these .* of shape \(1, 10\); leave"),
        ("crops:flips=maybe", IMAGES, "npz:x", "flips: expected no | yes | forced, got 'maybe'"),
    ],
)
def test_what_views_refuse(text, inputs, data, message):
    with pytest.raises(ValueError, match=message):
        views(text, inputs, data)


def test_every_kind_is_tested():
    assert set(VIEWS) == {"plain", "crops"}
