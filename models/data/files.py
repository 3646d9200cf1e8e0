"""Reading a user's own data: IDX folders, NumPy archives, folders of images. Files are data, never code."""

from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from models.data.splits import Pool

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp"}


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of bytes, as MNIST and Fashion-MNIST are published, gzipped or not.

    Raises:
        ValueError: If the magic number, the number of axes or the size of the file is wrong.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); download it again") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != 8 or not 1 <= content[3] <= 3:
        raise ValueError(
            f"{path} is not an IDX file of bytes: it should begin with 00 00 08 01 (labels) or "
            f"00 00 08 03 (images), got {content[:4].hex(' ') or 'nothing'}"
        )
    axes, start = content[3], 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path} is cut short in its header; download it again")
    shape = struct.unpack(f">{axes}I", content[4:start])
    expected = start + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise ValueError(
            f"{path} is damaged: shape {shape} needs {expected} bytes, the file has {len(content)}; download it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _idx_member(folder: Path, part: str, what: str) -> np.ndarray:
    stems = [f"{part}-{what}{mark}-ubyte" for mark in ("-idx3", ".idx3", "-idx1", ".idx1")]
    for stem in stems:
        for path in (folder / stem, folder / f"{stem}.gz"):
            if path.is_file():
                return read_idx(path)
    axes = 3 if what == "images" else 1
    raise ValueError(
        f"{folder} holds no {part}-{what}-idx{axes}-ubyte[.gz]; put the four files of MNIST or Fashion-MNIST there"
    )


def idx_labels(location: str, part: str) -> np.ndarray:
    """Read the labels (N,) of one part, "train" or "t10k", of an MNIST-like data set.

    Raises:
        ValueError: If there are none, or they are damaged.
    """
    return _idx_member(_folder(location), part, "labels")


def idx_folder(location: str) -> Pool:
    """Read the four files of an MNIST-like data set: {train,t10k}-{images,labels}."""
    folder = _folder(location)
    parts = []
    for part in ("train", "t10k"):
        images, labels = _idx_member(folder, part, "images"), _idx_member(folder, part, "labels")
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise ValueError(
                f"{folder}: {part} needs images (N, H, W) and labels (N,), got {images.shape} and {labels.shape}"
            )
        parts += [images[:, None] / np.float32(255), labels]
    return Pool(*parts)


def npz_file(location: str) -> Pool:
    """Read `x`, `y` or `x_train`, `y_train`, `x_test`, `y_test` from a NumPy archive.

    Inputs are signals (N, L) or (N, C, L), or images (N, C, H, W); bytes are divided by 255. Gray images
    (N, H, W) need their channel axis, `x[:, None]`, since three axes mean signals.
    """
    path = Path(location)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give the path of a NumPy archive (.npz)")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {
                key: archive[key] for key in ("x", "y", "x_train", "y_train", "x_test", "y_test") if key in archive
            }
            keys = ", ".join(archive.files)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise ValueError(f"{path} is not a readable NumPy archive of plain arrays: {error}") from error
    for names in (("x_train", "y_train", "x_test", "y_test"), ("x", "y")):
        if set(names) <= set(arrays):
            parts = [arrays[name] for name in names]
            return Pool(*(_inputs(part, path) if index % 2 == 0 else part for index, part in enumerate(parts)))
    raise ValueError(f"{path} needs the arrays x, y or x_train, y_train, x_test, y_test; it has: {keys or 'none'}")


def _inputs(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype.kind not in "fiub" or array.ndim not in (2, 3, 4):
        raise ValueError(
            f"{path}: inputs need numbers of shape (N, L), (N, C, L) or (N, C, H, W), got {array.dtype} {array.shape}"
        )
    if array.ndim == 4 and array.shape[3] in (1, 3) and array.shape[1] > 4:
        raise ValueError(f"{path}: images need the axes (N, C, H, W), got {array.shape}; transpose(0, 3, 1, 2) them")
    scaled = array / np.float32(255) if array.dtype == np.uint8 else array
    return scaled[:, None] if array.ndim == 2 else scaled


def image_folder(location: str) -> Pool:
    """Read one sub-folder of images a class; classes are numbered in the order of their names.

    With sub-folders `train` and `test`, each holding the classes, the split is theirs. All images need one
    size; one that is in colour makes all three-channel.
    """
    folder = _folder(location)
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        classes = _classes(folder / "train")
        if strange := [name for name in _classes(folder / "test") if name not in classes]:
            raise ValueError(f"{folder}/test has classes that train does not have: {', '.join(strange[:5])}")
        train, train_labels = _images(folder / "train", classes)
        test, test_labels = _images(folder / "test", classes)
        return Pool(_stack(train), train_labels, _stack(test), test_labels)
    images, labels = _images(folder, _classes(folder))
    return Pool(_stack(images), labels)


def _folder(location: str) -> Path:
    folder = Path(location)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; give the folder that holds the data")
    return folder


def _classes(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise ValueError(f"{folder} holds no sub-folders; put the images of each class into one")
    return names


def _images(folder: Path, classes: list[str]) -> tuple[list[np.ndarray], np.ndarray]:
    from PIL import Image, UnidentifiedImageError

    images: list[np.ndarray] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        for path in sorted((folder / name).glob("*")):
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            try:
                with Image.open(path) as image:
                    gray = image.mode in ("1", "L", "I;16")
                    pixels = np.asarray(image.convert("L" if gray else "RGB"))
            except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
                raise ValueError(f"{path} is not a readable image: {error}") from error
            images.append(pixels[None] if gray else pixels.transpose(2, 0, 1))
            labels.append(label)
            if images[-1].shape[1:] != images[0].shape[1:]:
                raise ValueError(
                    f"{path} is {images[-1].shape[1:]}, the first image is {images[0].shape[1:]}; bring all to one size"
                )
    return images, np.array(labels, dtype=np.int64)


def _stack(images: list[np.ndarray]) -> np.ndarray:
    channels = max((image.shape[0] for image in images), default=1)
    shapes = [np.broadcast_to(image, (channels, *image.shape[1:])) for image in images]
    return np.stack(shapes) / np.float32(255) if shapes else np.empty((0, 1, 1, 1), np.float32)
