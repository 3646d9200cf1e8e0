"""Augmentations: closed forms on images and signals, what they do to labels, and what they refuse."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.augmentation import AUGMENTATIONS, check_augmentation, make_augmenter
from models.augmentation.geometry import affine, radial, rotation
from models.augmentation.registry import Canvas, Change
from models.augmentation.values import _Random
from models.data import Examples, load_data
from models.symmetries import why_flips_change_labels
from tests.problems import seeded

CPU = torch.device("cpu")
IMAGES = torch.rand(6, 2, 8, 8, generator=seeded(0))
OF_IMAGES = {"rotate", "shear", "lens"}


@pytest.fixture(autouse=True)
def own_draws():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def canvas(values: Tensor = IMAGES) -> Canvas:
    count = len(values)
    return Canvas(values, torch.arange(count) % 3, torch.full((1, *values.shape[1:]), 0.25), 3)


def moved(move, values: Tensor = IMAGES) -> Tensor:
    board = canvas(values)
    board.pending.append(move)
    board.settle()
    return board.values


def done(text: str, values: Tensor = IMAGES) -> Canvas:
    board = canvas(values)
    for step in AUGMENTATIONS.build_all(text):
        step.apply(board)
    board.settle()
    return board


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, atol=1e-5)  # places are float32


def unit(count: int = 6) -> Tensor:
    return torch.eye(2).expand(count, 2, 2)


# --- movements --------------------------------------------------------------------------------------------------


def test_a_shift_by_whole_pixels_brings_black_from_outside():
    found = moved(affine(unit(), torch.tensor([[2.0, -1.0]]).expand(6, 2)))
    expected = torch.zeros_like(IMAGES)
    expected[:, :, 1:, :6] = IMAGES[:, :, :7, 2:]
    assert close(found, expected)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns(turns):
    assert close(moved(rotation(torch.full((6,), turns * math.pi / 2))), IMAGES.rot90(turns, (2, 3)))
    wide = torch.rand(6, 1, 4, 8, generator=seeded(1))
    if turns == 2:
        assert close(moved(rotation(torch.full((6,), math.pi)), wide), wide.flip(2, 3))


def test_a_circle_stays_a_circle_in_an_image_that_is_not_square():
    y, x = torch.meshgrid(torch.arange(20) - 9.5, torch.arange(40) - 19.5, indexing="ij")
    disc = (-(x.square() + y.square()) / 18).exp()[None, None]
    assert torch.allclose(
        moved(rotation(torch.tensor([0.7])), disc), disc, atol=0.04
    )  # bilinear: at most f'' / 4 = 1 / 36


def test_enlarged_twice_a_linear_ramp_is_half_as_steep():
    ramp = torch.arange(8.0).expand(6, 1, 8, 8) - 3.5
    assert close(moved(affine(unit() / 2), ramp), ramp / 2)


def test_a_lens_moves_along_the_radius():
    sides = torch.tensor([8.0, 8.0])
    places = canvas().grid().expand(6, -1, -1, -1)
    found = radial(torch.full((6,), 0.3), sides)(places)
    corner = places[:, 0, 0]
    assert close(found[:, 0, 0], corner * (1 + 0.3 * (corner.square().sum(1, keepdim=True) / 32)))
    assert close(moved(radial(torch.zeros(6), sides)), IMAGES)
    assert radial(torch.full((6,), -0.33), sides)(places).norm(dim=3).argmax() == places.norm(dim=3).argmax()


def test_movements_that_follow_each_other_are_one_interpolation():
    """A turn there and back is the image itself; interpolated twice it is not."""
    inner = torch.zeros(6, 1, 16, 16)
    inner[:, :, 5:11, 5:11] = torch.rand(6, 1, 6, 6, generator=seeded(2))
    there, back = rotation(torch.full((6,), 0.4)), rotation(torch.full((6,), -0.4))
    board = canvas(inner)
    board.pending += [there, back]
    board.settle()
    assert close(board.values, inner)
    assert not torch.allclose(moved(back, moved(there, inner)), inner, atol=0.05)


def test_the_order_is_that_in_which_they_are_written():
    """First a shift to the right, then a mirror: what was on the left is now right of where it would be."""
    shift, mirror = affine(unit(), torch.tensor([[-2.0, 0.0]]).expand(6, 2)), affine(unit() * torch.tensor([-1.0, 1.0]))
    board = canvas()
    board.pending += [shift, mirror]
    board.settle()
    assert close(board.values[..., :6], moved(shift).flip(3)[..., :6])
    assert not close(board.values, moved(shift, IMAGES.flip(3)))


@pytest.mark.parametrize(("text", "axis"), [("flip:1", 3), ("flip:p=1,axis=vertical", 2)])
def test_flips(text, axis):
    assert close(done(text).values, IMAGES.flip(axis))
    assert close(done("flip:0").values, IMAGES)
    many = torch.rand(400, 1, 2, 2).cumsum(3)
    flipped = (done("flip:0.3", many).values[..., 0] > done("flip:0", many).values[..., 0] + 1e-3).any(2)
    assert flipped.double().mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 400))


def test_a_crop_is_one_of_all_shifts():
    many = IMAGES[:1].expand(500, -1, -1, -1)
    padded = F.pad(IMAGES[:1], (2, 2, 2, 2))
    crops = {(i, j): padded[0, :, i : i + 8, j : j + 8] for i in range(5) for j in range(5)}
    found = [[place for place, crop in crops.items() if close(image, crop)] for image in done("crop:2", many).values]
    assert all(len(places) == 1 for places in found) and len({places[0] for places in found}) == 25
    signals = done("crop", torch.ones(50, 1, 1, 40)).values.sum(3)
    assert close(signals, signals.round()) and signals.min() == pytest.approx(35, abs=1e-4)  # 5 of 40


def test_an_enlarged_part_lies_inside_the_image():
    found = done("scale", torch.ones(300, 1, 8, 8)).values[:, :, 1:-1, 1:-1]
    assert close(found, torch.ones_like(found))  # nothing from outside
    ramp = torch.arange(16.0).expand(300, 1, 16, 16)
    steps = done("scale", ramp).values[:, 0, 8].diff()[:, 4:10].mean(1)
    assert steps.min() >= 1 / 2.14 - 1e-4 and steps.max() <= 1 / 1.14 + 1e-4


@pytest.mark.parametrize("text", ["translate:0.5", "rotate:90", "stretch:2", "shear:1", "lens:0.3", "crop", "scale"])
def test_movements_keep_the_range_of_values_and_the_shape(text):
    found = done(text).values
    assert found.shape == IMAGES.shape and found.min() >= -1e-6 and found.max() <= IMAGES.max() + 1e-5
    assert not close(found, IMAGES)
    assert not close(done(text, IMAGES[:1].expand(2, -1, -1, -1)).values.diff(dim=0), torch.zeros(1, 2, 8, 8))


@pytest.mark.parametrize("text", ["translate:0", "rotate:0", "stretch:1", "shear:0", "lens:0", "crop:0", "scale:1,1"])
def test_no_strength_is_no_change(text):
    assert close(done(text).values, IMAGES)


# --- values ----------------------------------------------------------------------------------------------------


def test_jitter_is_a_light_and_a_contrast():
    found = done("jitter:brightness=0.3,contrast=0.5").values
    mean, own = found.mean((1, 2, 3)), IMAGES.mean((1, 2, 3))
    light = mean / own
    assert ((light >= 0.7) & (light <= 1.3)).all() and light.std() > 0.01
    depth = (found - mean.view(-1, 1, 1, 1)) / (light.view(-1, 1, 1, 1) * (IMAGES - own.view(-1, 1, 1, 1)))
    assert torch.allclose(depth, depth[:, :1, :1, :1].expand_as(depth), atol=1e-3)  # some are divided by little
    assert depth.min() >= 0.5 and depth.max() <= 1.5


@pytest.mark.parametrize(("fill", "value"), [("mean", 0.25), ("black", 0.0)])
def test_cutout_blanks_a_square_that_is_clipped_at_the_edge(fill, value):
    many = torch.ones(4000, 2, 8, 8)
    blank = done(f"cutout:0.5,fill={fill}", many).values != 1
    assert (done(f"cutout:0.5,fill={fill}", many).values.unique() == torch.tensor([value, 1.0])).all()
    assert (blank[:, 0] == blank[:, 1]).all()
    rows, columns = blank[:, 0].any(2), blank[:, 0].any(1)
    assert torch.equal(blank[:, 0], rows[:, :, None] & columns[:, None])
    assert set(rows.sum(1).tolist()) == {2, 3, 4} == set(columns.sum(1).tolist())  # centre at 0 .. 7: [c - 2, c + 2)
    covered = torch.tensor([sum(c - 2 <= place < c + 2 for c in range(8)) / 8 for place in range(8)])
    error = 4 * math.sqrt(0.25 / 4000)
    assert torch.allclose(blank[:, 0].double().mean(0), torch.outer(covered, covered).double(), atol=error)


def test_mixup_shares_labels_as_it_shares_inputs():
    values = torch.eye(6).view(6, 1, 1, 6)  # each example is its own direction
    board = done("mixup:0.7", values)
    shares = board.values.view(6, 6)
    assert torch.allclose(shares.sum(1), torch.ones(6)) and (shares.diagonal() < 1).any()
    by_class = torch.zeros(6, 3).index_add_(1, torch.arange(6) % 3, shares)
    assert torch.allclose(board.targets, by_class, atol=1e-6)
    logits = torch.randn(6, 3)
    each = torch.stack([F.cross_entropy(logits, torch.full((6,), k), reduction="none") for k in range(3)], 1)
    assert torch.allclose(F.cross_entropy(logits, board.targets), (each * by_class).sum(1).mean())


def test_shares_of_mixup_are_beta():
    for alpha in (0.2, 1.0, 4.0):
        zero_or_one = (torch.arange(8000) % 2).float().view(-1, 1, 1, 1)
        board = Canvas(zero_or_one, torch.arange(8000), torch.zeros(1, 1, 1, 1), 8000)
        board.targets = torch.zeros(8000, 1)  # labels play no part
        AUGMENTATIONS.build_all(f"mixup:{alpha}")[0].apply(board)
        mixed = board.values.flatten()
        shares = mixed[(mixed > 0) & (mixed < 1)].double()  # half of the pairs are of unequal ones
        expected = 1 / (4 * (2 * alpha + 1))
        assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
        assert shares.var().item() == pytest.approx(expected, rel=0.1)


def test_random_takes_so_many_of_them_for_each_example():
    steps = tuple(Change(lambda values, mean, k=k: values + 10.0**k) for k in range(5))
    board = canvas(torch.zeros(2000, 1, 2, 2))
    _Random(2, steps).apply(board)
    found = board.values[:, 0, 0, 0].long()
    digits = torch.stack([found // 10**k % 10 for k in range(5)], 1)
    assert (digits.sum(1) == 2).all() and digits.max() == 1
    assert torch.allclose(digits.double().mean(0), torch.tensor(0.4).double(), atol=4 * math.sqrt(0.24 / 2000))


# --- on data ----------------------------------------------------------------------------------------------------


def batch_of(data: str, standardize: str) -> tuple[Examples, Examples, object]:
    parts, plain = (load_data(data, standardize=text) for text in (standardize, "none"))
    return *(Examples(*(t[:32] for t in each.train)) for each in (parts, plain)), parts


@pytest.mark.parametrize("standardize", ["channel", "pixel", "whiten:eps=1e-2", "pca", "none"])
@pytest.mark.parametrize("text", ["crop+rotate:30+jitter", "cutout:fill=black", "scale+lens", "mixup"])
def test_what_is_done_is_done_to_the_images_as_they_came(standardize, text):
    """Moved, then standardized: a black border has the value that standardization gives to black."""
    batch, plain, parts = batch_of("digits", standardize)
    raw = load_data("digits", standardize="none")
    torch.manual_seed(7)
    found = make_augmenter(text, "digits", parts, CPU)(batch)
    torch.manual_seed(7)
    expected = make_augmenter(text, "digits", raw, CPU)(plain)
    there = parts.standardization.on(CPU)
    assert torch.allclose(found.inputs, there(expected.inputs), atol=1e-3)
    assert torch.equal(found.targets, expected.targets)
    assert torch.equal(batch.inputs, parts.train.inputs[:32])  # the batch itself stays


def test_cutout_fills_with_what_is_zero_to_the_network():
    batch, _, parts = batch_of("digits", "pixel")
    found = make_augmenter("cutout", "digits", parts, CPU)(batch).inputs
    changed = found[(found - batch.inputs).abs() > 1e-5]
    assert len(changed) > 100 and changed.abs().max() < 1e-6


@pytest.mark.parametrize("data", ["digits", "mnist1d"])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_one_on_images_and_signals(data, name):
    batch, _, parts = batch_of(data, "channel")
    text = "flip:force=yes" if name == "flip" else name
    if data == "mnist1d" and name in OF_IMAGES:
        with pytest.raises(ValueError, match=rf"augment '{name}' .* images \(C, H, W\), got inputs of shape \(1, 40\)"):
            make_augmenter(text, data, parts, CPU)
        return
    augment = make_augmenter(text, data, parts, CPU)
    torch.manual_seed(1)
    first, second = augment(batch), augment(batch)
    torch.manual_seed(1)
    again = augment(batch)
    assert torch.equal(first.inputs, again.inputs) and torch.equal(first.targets, again.targets)
    assert not torch.equal(first.inputs, second.inputs) and not torch.equal(first.inputs, batch.inputs)
    assert first.inputs.shape == batch.inputs.shape and first.inputs.dtype == torch.float32
    assert first.targets.shape == ((32, 10) if name == "mixup" else (32,))


def test_none_is_no_augmenter():
    assert make_augmenter("none", "digits", load_data("digits"), CPU) is None


# --- flips ------------------------------------------------------------------------------------------------------


def idx(folder: Path, labels: list[int], part: str = "train") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    content = struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + bytes(labels)
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(content)
    return f"idx:{folder}"


def test_flips_are_refused_where_labels_do_not_survive_them(tmp_path):
    mnist = idx(tmp_path / "mine", [5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 3, 5])
    tested = idx(tmp_path / "other", [7, 2, 1, 0, 4, 1, 4, 9, 5, 9], "t10k")
    fashion = idx(tmp_path / "fashion-mnist", [9, 0, 0, 3, 0, 2, 7, 2, 5, 5])
    for data in ("digits", mnist, tested, "npz:data/mnist.npz", "folder:x/KMNIST/", "idx:none/mnist"):
        assert "mirrored digit" in why_flips_change_labels(data), data
    for data in (fashion, "npz:data/pathmnist.npz", "folder:cats", "npz:Fashion_MNIST.npz"):
        assert why_flips_change_labels(data) is None, data


def test_a_refusal_says_why_and_how_to_do_it_anyway():
    for data in ("digits", "mnist1d"):
        parts = load_data(data)
        with pytest.raises(ValueError, match="augment 'flip' is refused on this data: a mirrored .* flip:force=yes"):
            make_augmenter("crop+flip", data, parts, CPU)
        assert make_augmenter("flip:force=yes", data, parts, CPU) is not None


def test_random_leaves_flips_out_where_they_are_refused():
    digits = load_data("digits")
    make_augmenter("random:8", "digits", digits, CPU)
    with pytest.raises(ValueError, match="augment 'random' needs at most 8, as many as there are for this data, got 9"):
        make_augmenter("random:9", "digits", digits, CPU)
    assert make_augmenter("random:9", "folder:cats", digits, CPU) is not None
    with pytest.raises(ValueError, match="needs at most 5"):  # scale, jitter, translate, stretch, cutout
        make_augmenter("random:6", "mnist1d", load_data("mnist1d"), CPU)


def test_signals_have_no_top_and_bottom():
    with pytest.raises(ValueError, match="augment 'flip' mirrors top and bottom of images"):
        make_augmenter("flip:axis=vertical,force=yes", "mnist1d", load_data("mnist1d"), CPU)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rotat", "unknown augment 'rotat'; did you mean 'rotate'"),
        ("flip:2", r"augment 'flip' needs p in \[0, 1\], got 2.0"),
        ("crop:-1", "augment 'crop' needs pad of at least 0, got -1"),
        ("scale:0.5", "augment 'scale' needs 1 <= low <= high"),
        ("translate:2", r"augment 'translate' needs share in \[0, 1\], got 2.0"),
        ("rotate:200", "augment 'rotate' needs degrees from 0 to 180, got 200.0"),
        ("stretch:0.5", "augment 'stretch' needs factor of at least 1, got 0.5"),
        ("shear:-1", "augment 'shear' needs slope of at least 0, got -1.0"),
        ("lens:0.5", r"augment 'lens' needs strength in \[0, 1/3\), got 0.5"),
        ("jitter:brightness=2", r"augment 'jitter' needs brightness in \[0, 1\], got 2.0"),
        ("jitter:contrast=-1", r"augment 'jitter' needs contrast in \[0, 1\], got -1.0"),
        ("cutout:0", "augment 'cutout' needs share above 0 and at most 2, got 0.0"),
        ("mixup:0", "augment 'mixup' needs alpha above 0, got 0.0"),
        ("random:0", "augment 'random' needs a count of at least 1, got 0"),
        ("crop+mixup:beta=1", "augment 'mixup' takes no option beta; it takes: alpha"),
    ],
)
def test_bad_choices_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        check_augmentation(text)
