"""Laws of the data: splits, noise, standardization, seeds; and what broken files get."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from landscape.identity import digest
from models.data import DATASETS, Examples, TensorLoader, load_data
from models.data.mnist1d import mnist1d
from models.data.splits import Pool, add_label_noise, split
from models.data.standardization import fit_standardization

DEFAULTS = dict(train_size=None, test_size=None, val_fraction=0.0, label_noise=0.0, standardize="none", seed=0)


def pool(count: int = 50, classes: int = 5) -> Pool:
    """Examples that carry their own index, so that one can see where each went."""
    inputs = np.arange(count, dtype=np.float32)[:, None, None].repeat(8, 2)
    return Pool(inputs, np.arange(count) % classes)


def indices(examples: Examples) -> set[int]:
    return set(examples.inputs[:, 0, 0].int().tolist())


def test_splits_are_disjoint_and_whole():
    parts = split(pool(), **{**DEFAULTS, "val_fraction": 0.25})
    train, val, test = map(indices, (parts.train, parts.val, parts.test))
    assert (len(train), len(val), len(test)) == (30, 10, 10)
    assert train | val | test == set(range(50))
    for part in (parts.train, parts.val, parts.test):
        assert torch.equal(part.targets, part.inputs[:, 0, 0].long() % 5)


def test_sizes_and_an_own_test_pool():
    own = Pool(*pool(50)[:2], *pool(20)[:2])
    parts = split(own, **{**DEFAULTS, "train_size": 7, "test_size": 4})
    assert len(parts.train.targets) == 7 and len(parts.test.targets) == 4 and parts.val is None
    assert parts.num_classes == 5


def test_noise_and_training_size_leave_the_test_set():
    plain = split(pool(), **DEFAULTS)
    other = split(pool(), **{**DEFAULTS, "label_noise": 0.5, "train_size": 5})
    assert torch.equal(plain.test.inputs, other.test.inputs)
    assert torch.equal(plain.test.targets, other.test.targets)
    assert torch.equal(plain.train.inputs[:5], other.train.inputs)
    assert plain.digest != other.digest


@pytest.mark.parametrize("fraction", [0.0, 0.15, 0.333, 1.0])
def test_label_noise_is_exact_and_always_wrong(fraction):
    targets = np.arange(1000) % 10
    noisy = add_label_noise(targets, fraction, 10, np.random.default_rng(0))
    assert (noisy != targets).sum() == round(fraction * 1000)
    assert noisy.min() >= 0 and noisy.max() <= 9


def test_wrong_labels_are_uniform():
    noisy = add_label_noise(np.zeros(9000, dtype=int), 1.0, 10, np.random.default_rng(0))
    counts = np.bincount(noisy, minlength=10)
    assert counts[0] == 0
    # chi square with 8 degrees of freedom: 26.1 is its 0.999 quantile
    assert ((counts[1:] - 1000) ** 2 / 1000).sum() < 26.1


def test_noise_needs_two_classes():
    with pytest.raises(ValueError, match="at least two classes"):
        add_label_noise(np.zeros(4, dtype=int), 0.5, 1, np.random.default_rng(0))


def test_standardization_guards_what_is_constant():
    inputs = np.random.default_rng(0).normal(3, 2, (200, 2, 4)).astype(np.float32)
    inputs[:, 0, 0] = 7.1
    for kind, axes in [("pixel", 0), ("channel", (0, 2))]:
        fitted = fit_standardization(kind, inputs)
        shift, scaled = fitted.shift, fitted(inputs)
        assert np.isfinite(scaled).all()
        assert scaled.mean(axes) == pytest.approx(np.zeros(shift.squeeze().shape), abs=1e-5)
    fitted = fit_standardization("pixel", inputs)
    shift, scale = fitted.shift, fitted.scale
    assert scale[0, 0, 0] == 1 and abs((inputs[:, 0, 0] - shift[0, 0, 0]) / scale[0, 0, 0]).max() < 1e-5
    with pytest.raises(ValueError, match="unknown standardize 'pixels'; did you mean 'pixel'"):
        fit_standardization("pixels", inputs)


def test_the_digest_is_of_every_tensor():
    parts = load_data("digits", val_fraction=0.0)
    assert parts.digest == digest(*parts.train, *parts.test)
    parts = load_data("digits", val_fraction=0.2)
    assert parts.digest == digest(*parts.train, *parts.val, *parts.test)


def test_statistics_come_from_the_training_split_alone():
    parts = load_data("digits", standardize="channel")
    assert parts.train.inputs.mean().item() == pytest.approx(0, abs=1e-5)
    assert abs(parts.test.inputs.mean().item()) > 1e-4


@pytest.mark.parametrize("name", ["digits", "mnist1d"])
def test_embedded_data_by_seed(name):
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    first, again, other = (load_data(name, label_noise=0.1, seed=seed) for seed in (1, 1, 2))
    assert first.digest == again.digest != other.digest
    assert first.num_classes == 10
    assert first.train.inputs.dtype == torch.float32 and first.train.targets.dtype == torch.int64
    assert np.array_equal(numpy_state, np.random.get_state()[1]) and torch.equal(torch_state, torch.get_rng_state())


def test_embedded_sizes():
    digits, signals = load_data("digits", val_fraction=0), load_data("mnist1d", val_fraction=0)
    assert digits.input_shape == (1, 8, 8) and signals.input_shape == (1, 40)
    assert (len(digits.train.targets), len(digits.test.targets)) == (1438, 359)
    assert (len(signals.train.targets), len(signals.test.targets)) == (4000, 1000)


def test_mnist1d_is_standardized_balanced_and_shuffled():
    signals, labels = mnist1d()
    assert signals.shape == (5000, 1, 40) and np.bincount(labels).tolist() == [500] * 10
    assert signals.mean() == pytest.approx(0) and signals.std() == pytest.approx(1)
    assert len(set(labels[:50])) == 10


def write_idx(folder, compress=False, labels=10):
    open_, mark = (gzip.open, ".gz") if compress else (open, "")
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("t10k", 20)):
        with open_(folder / f"{part}-images-idx3-ubyte{mark}", "wb") as file:
            file.write(struct.pack(">I3I", 0x803, count, 9, 8))
            file.write(rng.integers(0, 256, (count, 9, 8), dtype=np.uint8).tobytes())
        with open_(folder / f"{part}-labels-idx1-ubyte{mark}", "wb") as file:
            file.write(struct.pack(">II", 0x801, count) + bytes(i % labels for i in range(count)))


@pytest.mark.parametrize("compress", [False, True])
def test_idx(tmp_path, compress):
    write_idx(tmp_path, compress)
    parts = load_data(f"idx:{tmp_path}", standardize="none", val_fraction=0)
    assert parts.input_shape == (1, 9, 8) and parts.num_classes == 10
    assert (len(parts.train.targets), len(parts.test.targets)) == (30, 20)
    assert parts.train.inputs.min() >= 0 and 0.9 < parts.train.inputs.max() <= 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], r"shape \(30, 9, 8\) needs 2176 bytes, the file has 2175"),
        (lambda content: content + b"x", "the file has 2177"),
        (lambda content: b"\x1f" + content[1:], "not an IDX file of bytes"),
        (lambda content: b"", "got nothing"),
        (lambda content: content[:7], "cut short in its header"),
    ],
)
def test_damaged_idx(tmp_path, damage, message):
    write_idx(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        load_data(f"idx:{tmp_path}")


def test_idx_that_does_not_belong_together(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        load_data(f"idx:{tmp_path}/none")
    with pytest.raises(ValueError, match="holds no train-images-idx3-ubyte"):
        load_data(f"idx:{tmp_path}")
    write_idx(tmp_path, compress=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="is damaged"):
        load_data(f"idx:{tmp_path}")
    write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes((tmp_path / "train-labels-idx1-ubyte").read_bytes())
    with pytest.raises(ValueError, match="t10k needs images"):
        load_data(f"idx:{tmp_path}")


def archive(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return f"npz:{tmp_path / 'data.npz'}"


def test_npz_forms(tmp_path):
    y = np.arange(40) % 4
    images = load_data(archive(tmp_path, x=np.full((40, 3, 8, 8), 255, np.uint8), y=y), standardize="none")
    assert images.input_shape == (3, 8, 8) and images.train.inputs.max() == 1
    signals = load_data(archive(tmp_path, x=np.ones((40, 12)), y=y.astype(float)))
    assert signals.input_shape == (1, 12) and signals.train.targets.dtype == torch.int64
    parted = archive(tmp_path, x_train=np.ones((40, 2, 9)), y_train=y, x_test=np.ones((8, 2, 9)), y_test=y[:8])
    assert len(load_data(parted, val_fraction=0).test.targets) == 8


X, Y = np.random.default_rng(0).normal(size=(40, 1, 8)), np.arange(40) % 4
WITH_NAN = np.where(np.arange(40)[:, None, None] == 3, np.nan, X)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "needs the arrays x, y or x_train, .* it has: x"),
        ({"x": X[:0], "y": Y[:0]}, "training data is empty"),
        ({"x": WITH_NAN, "y": Y}, r"8 NaN or infinite values, the first at index \(3, 0, 0\)"),
        ({"x": X, "y": Y - 1}, "labels must be 0, 1, 2, ..., got -1"),
        ({"x": X, "y": Y * 100}, "labels go to 300 but there are only 40 examples"),
        ({"x": X, "y": Y + 0.5}, "whole numbers"),
        ({"x": X, "y": Y[:-1]}, r"40 inputs but labels of shape \(39,\)"),
        ({"x": X[0, 0], "y": Y}, "inputs need numbers of shape"),
        ({"x": np.ones((40, 8, 8, 3)), "y": Y}, "transpose"),
        ({"x": np.array(["a"] * 40), "y": Y}, "inputs need numbers"),
        ({"x": np.array([{}] * 40), "y": Y}, "not a readable NumPy archive of plain arrays"),
        (
            {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1},
            "test labels go to 4, the training labels only to 3",
        ),
    ],
)
def test_bad_archives(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        load_data(archive(tmp_path, **arrays))


def test_files_that_are_no_archives(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        load_data(f"npz:{tmp_path}/none.npz")
    (tmp_path / "data.npz").write_bytes(b"PK\x03\x04 but not really")
    with pytest.raises(ValueError, match="not a readable NumPy archive"):
        load_data(f"npz:{tmp_path}/data.npz")


def write_images(folder, count=6, size=(8, 9)):
    for label, name in enumerate(("ant", "bee")):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("L" if label else "RGB", size, label * 200 + index).save(folder / name / f"{index}.png")


def test_image_folder(tmp_path):
    write_images(tmp_path)
    parts = load_data(f"folder:{tmp_path}", standardize="none", val_fraction=0)
    assert parts.input_shape == (3, 9, 8) and parts.num_classes == 2
    (tmp_path / "split").mkdir()
    write_images(tmp_path / "split" / "train"), write_images(tmp_path / "split" / "test", count=2)
    parts = load_data(f"folder:{tmp_path}/split", val_fraction=0)
    assert (len(parts.train.targets), len(parts.test.targets)) == (12, 4)


def test_bad_image_folders(tmp_path):
    with pytest.raises(ValueError, match="holds no sub-folders"):
        load_data(f"folder:{tmp_path}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="training data is empty"):
        load_data(f"folder:{tmp_path}")
    write_images(tmp_path)
    Image.new("L", (5, 5)).save(tmp_path / "bee" / "odd.png")
    with pytest.raises(ValueError, match=r"odd.png is \(5, 5\), the first image is \(9, 8\)"):
        load_data(f"folder:{tmp_path}")
    (tmp_path / "ant" / "0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"0\.png is not a readable image"):
        load_data(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digts", {}, "unknown dataset 'digts'; did you mean 'digits'"),
        ("npz", {}, "should be written 'npz:FILE'"),
        ("idx:", {}, "should be written 'idx:DIR'"),
        ("digits:x", {}, "should be written 'digits'"),
        ("digits", {"val_fraction": 1.0}, r"val_fraction must be in \[0, 1\)"),
        ("digits", {"label_noise": -0.1}, r"label_noise must be in \[0, 1\]"),
        (
            "digits",
            {"train_size": 10_000},
            "train_size must be between 1 and the 1294 examples at hand, got 10000",
        ),
        ("digits", {"train_size": 0}, "train_size must be between"),
        ("digits", {"test_size": 1797}, "test_size must be between 1 and the 1796"),
        ("mnist1d", {"test_size": 1001}, "test_size must be between 1 and the 1000"),
    ],
)
def test_bad_requests(name, options, message):
    with pytest.raises(ValueError, match=message):
        load_data(name, **options)


def test_every_dataset_says_how_it_is_written():
    assert [name.partition(":")[0] for name in DATASETS] == ["idx", "npz", "folder", "digits", "mnist1d"]


def examples(count: int = 10) -> Examples:
    return Examples(torch.arange(count).float()[:, None], torch.arange(count))


def test_loader_order_is_a_function_of_seed_and_epoch():
    loader, twin = (
        TensorLoader(examples(), 4, shuffle=True, seed=3),
        TensorLoader(examples(), 4, shuffle=True, seed=3),
    )

    def epoch(loader, number):
        loader.sampler.set_epoch(number)
        return torch.cat([batch.targets for batch in loader]).tolist()

    orders = [epoch(loader, number) for number in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert epoch(twin, 2) == orders[2]
    assert epoch(TensorLoader(examples(), 4, shuffle=True, seed=4), 2) != orders[2]


def test_loader_batches():
    loader = TensorLoader(examples(), 4)
    assert len(loader) == 3 and loader.batch_size == 4 and len(loader.dataset) == 10
    assert [len(batch.targets) for batch in loader] == [4, 4, 2]
    assert torch.cat([batch.targets for batch in loader]).tolist() == list(range(10))
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        TensorLoader(examples(), 0)
