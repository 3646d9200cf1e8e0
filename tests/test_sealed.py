from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from landscape.store import DamagedFileError, NewerSchemaError, UnsafeFileError, sealed
from landscape.store.sealed import pack, unpack

ROOT = Path(__file__).parents[1]
ADDED = ["schema_version", "content_digest", "seal_digest"]


def answer() -> xr.Dataset:
    """A small answer that holds every kind of variable and attribute."""
    loss = np.array([[1.0, np.nan, np.inf], [-np.inf, -0.0, 1e-320]])
    return xr.Dataset(
        {
            "loss": (("alpha", "beta"), loss, {"units": "nats"}),
            "done": ("alpha", np.array([True, False])),
            "layer.0.weight-norm": (
                "layer",
                np.array([1, 2, 3], np.float32),
                {"valid_range": np.array([0.0, 9.0])},
            ),
            "count": ((), np.uint8(7)),
            "sure": ((), True),
            "verdict": ((), "sattel\u00f6s"),
            "nothing": ("empty", np.zeros(0)),
        },
        coords={
            "alpha": ("alpha", [-1.0, 1.0], {"units": "1"}),
            "layer": ["conv1", "conv2", "fc\u00e9"],
            "label": ("alpha", ["left", "right"]),
            "seed": 3,
        },
        attrs={
            "probe": "Surface",
            "seed": 3,
            "radius": 0.1,
            "worst": float("nan"),
            "also_test": True,
            "shape": np.array([2, 3]),
            "none": "",
            "layout": "long " * 20_000,
            **{f"field_{number}": number for number in range(30)},
        },
    )


def without_additions(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.drop_attrs(deep=False).assign_attrs(
        {name: value for name, value in dataset.attrs.items() if name not in ADDED}
    )


def reseal(image: bytes) -> bytes:
    """What somebody who knows the format can do to an altered file."""
    return image + b"\nsealed sha256:%s\n" % hashlib.sha256(image).hexdigest().encode()


def test_an_answer_comes_back_as_it_was() -> None:
    back = unpack(pack(answer()), "x")
    xr.testing.assert_identical(without_additions(back), answer())
    for name, variable in answer().variables.items():
        assert back[name].dtype == variable.dtype
        assert back[name].values.tobytes() == variable.values.tobytes()
    assert [type(back.attrs[name]) for name in answer().attrs] == [type(v) for v in answer().attrs.values()]


def test_any_netcdf_reader_opens_a_sealed_file(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(pack(answer()))
    with xr.open_dataset(path, engine="h5netcdf") as opened:
        xr.testing.assert_equal(opened, answer())
        assert opened.loss.attrs == {"units": "nats"} and opened.attrs["schema_version"] == 1


def test_the_content_digest_is_of_what_was_measured() -> None:
    first, later = answer(), answer().assign_attrs(created_utc="tomorrow")
    moved = answer()
    moved.loss[0, 0] += 1e-15
    digests = [unpack(pack(each), "x").attrs["content_digest"] for each in (first, later, moved)]
    assert digests[0] == digests[1] != digests[2]
    assert pack(first) == pack(unpack(pack(first), "x"))


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.rename(loss="Loss"),
        lambda a: a.rename(beta="gamma"),
        lambda a: a.assign(count=a["count"].astype("i2")),
        lambda a: a.assign(verdict="saddle"),
        lambda a: a.assign(loss=a.loss.assign_attrs(units="bits")),
    ],
)
def test_the_content_digest_sees(change: Callable[[xr.Dataset], xr.Dataset]) -> None:
    digests = {unpack(pack(each), "x").attrs["content_digest"] for each in (answer(), change(answer()))}
    assert len(digests) == 2


def test_no_flipped_bit_goes_unseen() -> None:
    data = pack(answer())
    chance = random.Random(0)
    for _ in range(500):
        bit = chance.randrange(8 * len(data))
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedFileError, match=r"run-7 is damaged, .* not the digest of the rest; restore"):
            unpack(bytes(damaged), "run-7")


def test_no_cut_goes_unseen() -> None:
    data = pack(answer())
    chance = random.Random(0)
    for length in [0, 1, len(data) - 1, *(chance.randrange(len(data)) for _ in range(100))]:
        with pytest.raises(DamagedFileError, match="its last line is not the digest of the rest"):
            unpack(data[:length], "x")


RESEALED = """
import random, sys
from tests.test_sealed import answer, reseal, unpack, pack
from landscape.store import StoreError, sealed
image = pack(answer())[: -sealed._SEAL_SIZE]
true = unpack(reseal(image), "x").attrs["content_digest"]
chance = random.Random(int(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    bit = chance.randrange(8 * len(image))
    damaged = bytearray(image)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        assert unpack(reseal(bytes(damaged)), "x").attrs["content_digest"] == true, bit
    except StoreError:
        pass
"""


def test_bit_flips_under_a_forged_seal_end_in_our_errors() -> None:
    """In a child, because the HDF5 reader may hang on a file made to mislead it."""
    subprocess.run([sys.executable, "-c", RESEALED, "0", "300"], cwd=ROOT, check=True, timeout=60)


def test_a_newer_schema_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "SCHEMA_VERSION", 2)
    data = pack(answer())
    monkeypatch.undo()
    with pytest.raises(NewerSchemaError, match=r"x has schema version 2, .* up to 1; install a newer"):
        unpack(data, "x")


def test_values_that_belie_the_content_digest_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "content_digest", lambda variables: "0" * 64)
    data = pack(answer())
    monkeypatch.undo()
    with pytest.raises(DamagedFileError, match="x is damaged: its values do not match its content digest"):
        unpack(data, "x")


@pytest.mark.parametrize(
    ("variables", "attributes", "error", "message"),
    [
        ({"a": ((), 1j)}, {}, TypeError, r"variable 'a' has dtype complex128.*convert it"),
        ({"a": ("x", np.zeros(2, np.float16))}, {}, TypeError, "variable 'a' has dtype float16"),
        ({"a": ("x", np.array([1, "b"], object))}, {}, TypeError, "variable 'a' has dtype object"),
        (
            {"a": ((), 1.0, {"b": [1, 2]})},
            {},
            TypeError,
            r"attribute 'b' of variable 'a' is a list.*json\.dumps",
        ),
        ({}, {"b": None}, TypeError, "attribute 'b' of the dataset is a NoneType"),
        ({}, {"b": 2**63}, TypeError, "attribute 'b' of the dataset is a int"),
        ({}, {"b": np.zeros((2, 2))}, TypeError, "attribute 'b' of the dataset is a ndarray"),
        ({}, {"b": "nul\0"}, ValueError, "string 'nul.*' 'b' of the dataset cannot be stored"),
        ({"a": ("x", ["\udc80"])}, {}, ValueError, "string .* in variable 'a' cannot be stored"),
        ({"a/b": ((), 1.0)}, {}, ValueError, "name 'a/b' cannot stand in a file"),
        ({"..": ((), 1.0)}, {}, ValueError, "name '..' cannot stand in a file"),
        ({1: ((), 1.0)}, {}, ValueError, "name 1 cannot stand in a file"),
        ({"a": (("x y",), [1.0])}, {}, ValueError, "name 'x y' cannot stand in a file"),
        (
            {"a": ((), 1.0, {"scale_factor": 2.0})},
            {},
            ValueError,
            "'scale_factor' of variable 'a' has a meaning",
        ),
        ({}, {"coordinates": "a"}, ValueError, "'coordinates' of the dataset has a meaning of its own"),
        ({"x": (("x", "y"), np.ones((2, 2)))}, {}, ValueError, "variable 'x' has the name of a dimension"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(
    variables: dict, attributes: dict, error: type[Exception], message: str
) -> None:
    coords = {"x": variables.pop("x")} if "x" in variables else {}
    dataset = xr.Dataset(variables, xr.Coordinates(coords, indexes={}), attributes)
    with pytest.raises(error, match=message):
        pack(dataset)


def external_link(file: h5py.File, secret: Path) -> None:
    file["planted"] = h5py.ExternalLink(str(secret), "/loss")


def soft_link(file: h5py.File, secret: Path) -> None:
    file["planted"] = h5py.SoftLink("/loss")


def external_storage(file: h5py.File, secret: Path) -> None:
    file.create_dataset("planted", (4,), "u1", external=[(str(secret), 0, 4)])


def virtual(file: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource(str(secret), "loss", (4,))
    file.create_virtual_dataset("planted", layout)


def group(file: h5py.File, secret: Path) -> None:
    file.create_group("planted")


def cycle(file: h5py.File, secret: Path) -> None:
    file["planted"] = file["/"]


def huge(file: h5py.File, secret: Path) -> None:
    file.create_dataset("planted", (10**13,), "f8", chunks=(1000,))


def overflowing(file: h5py.File, secret: Path) -> None:
    file.create_dataset("planted", (2**32, 2**32), "u1", chunks=(10, 10))


def zip_bomb(file: h5py.File, secret: Path) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((10**7,))
    properties.set_deflate(9)
    properties.set_deflate(9)
    planted = h5py.h5d.create(file.id, b"planted", h5py.h5t.NATIVE_INT8, h5py.h5s.create_simple((10**7,)), properties)
    planted.write(h5py.h5s.ALL, h5py.h5s.ALL, np.zeros(10**7, "i1"))


def unknown_filter(file: h5py.File, secret: Path) -> None:
    file.create_dataset("planted", data=np.zeros(10), compression="lzf")


def odd_dtype(file: h5py.File, secret: Path) -> None:
    file.create_dataset("planted", data=np.zeros(2, np.complex64))


def growing(file: h5py.File, secret: Path) -> None:
    file.create_dataset("planted", data=np.zeros(10), maxshape=(None,))


def odd_name(file: h5py.File, secret: Path) -> None:
    file.create_dataset("planted\n", data=1.0)


def parent_name(file: h5py.File, secret: Path) -> None:
    h5py.h5g.create(file.id, b"..planted")


def odd_attribute(file: h5py.File, secret: Path) -> None:
    file["loss"].attrs["planted"] = ["one", "two"]


def odd_root_attribute(file: h5py.File, secret: Path) -> None:
    file.attrs["planted"] = np.zeros(2, "S10")


def crowd(file: h5py.File, secret: Path) -> None:
    for number in range(600):
        file[f"planted{number}"] = file["loss"]
    file.create_dataset("planted", data=np.zeros(10**7, "i1"), compression="gzip", compression_opts=9)
    for number in range(600):
        file[f"planted_{number}"] = file["planted"]


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (external_link, "is a link"),
        (soft_link, "is a link"),
        (external_storage, "is stored in another file"),
        (virtual, "is virtual"),
        (group, "is not an array"),
        (cycle, "is not an array"),
        (huge, r"claims shape \(10000000000000,\) in 0 bytes"),
        (overflowing, r"claims shape \(4294967296, 4294967296\) in 0 bytes"),
        (zip_bomb, r"uses filters \[1, 1\]"),
        (unknown_filter, r"uses filters \[32000\]"),
        (odd_dtype, "has dtype complex64"),
        (growing, "can grow"),
        (odd_name, "has a name that is not made of letters"),
        (parent_name, "has a name that is not made of letters"),
        (odd_attribute, "is not a string, a number or an array of numbers"),
        (odd_root_attribute, "is not a string, a number or an array of numbers"),
        (crowd, "claims more than the file can hold"),
    ],
)
def test_a_hostile_file_is_refused_by_name(plant: Callable, reason: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret of somebody else")
    image = pack(answer())[: -sealed._SEAL_SIZE]
    with h5py.File.in_memory(image) as file:
        plant(file, secret)
        file.flush()
        hostile = reseal(file.id.get_file_image())
    with pytest.raises(UnsafeFileError, match=f"x is refused: .*planted.* {reason}"):
        unpack(hostile, "x")


def test_strings_cannot_claim_more_than_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of many strings may point to the same long one."""
    data = pack(xr.Dataset({"name": ("x", ["long" * 100] * 40)}))
    with (
        h5py.File.in_memory(data[: -sealed._SEAL_SIZE]) as file,
        pytest.raises(UnsafeFileError, match="strings in /name are larger than the file"),
    ):
        sealed._read_strings(file["name"], 1000, "x")


def test_another_programs_file_under_a_seal_is_refused() -> None:
    with h5py.File.in_memory() as file:
        file["loss"] = [1.0]
        file.flush()
        data = reseal(file.id.get_file_image())
    for hostile in (data, reseal(b"not HDF5")):
        with pytest.raises(DamagedFileError, match=r"x cannot be read: .*not written by landscape"):
            unpack(hostile, "x")
