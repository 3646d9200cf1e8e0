from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from landscape.store import DamagedFileError, DiskFullError, Journal, UnwritableError
from landscape.store.disk import Disk

ROOT = Path(__file__).parents[1]
MAGIC = b"\x93LSJ1\r\n\x1a"
RECORDS = {
    "recipe": {"probe": "surface", "seed": 0},
    "0": {"loss": 2.5, "metrics": np.array([0.25, np.nan, np.inf])},
    "1": {"loss": -np.inf, "metrics": np.array([0.5, -0.0, 1e-320])},
    "2": {"loss": 1.0, "metrics": np.array([True, False]), "note": "last"},
}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "surface.journal")


@pytest.fixture
def written(journal: Journal) -> bytes:
    """The bytes of a small journal; the file itself is closed."""
    with journal:
        for key, values in RECORDS.items():
            journal.append(key, values, sync=False)
    return journal.path.read_bytes()


def same(ours: dict, theirs: dict) -> bool:
    """Equal with types, NaN equal to itself."""
    return ours.keys() == theirs.keys() and all(
        type(value) is type(theirs[name]) and np.array_equal(value, theirs[name], equal_nan=np.ndim(value) > 0)
        for name, value in ours.items()
    )


def right(records: dict) -> int:
    """The number of records, each of which must be exactly what was written under its key."""
    assert all(same(values, RECORDS[key]) for key, values in records.items())
    return len(records)


def test_every_value_comes_back_exactly(journal: Journal, written: bytes) -> None:
    assert right(journal.records()) == len(RECORDS)


@pytest.mark.parametrize("dtype", ["?", "u1", "<i8", ">i4", "<f4", ">f8"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_arrays_keep_their_shape_and_values(journal: Journal, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    journal.append("key", {"array": array})
    (back,) = journal.records()["key"].values()
    assert back.shape == shape and back.dtype == array.dtype.newbyteorder("<")
    np.testing.assert_array_equal(back, array)


def test_the_last_record_of_a_key_wins(journal: Journal) -> None:
    journal.append("0", {"loss": 1.0})
    journal.append("0", {"loss": 2.0})
    assert journal.records() == {"0": {"loss": 2.0}}


def test_a_journal_that_was_never_written_or_is_discarded_is_empty(journal: Journal, written: bytes) -> None:
    journal.discard()
    assert journal.records() == {} and not journal.path.exists()
    journal.discard()


def test_values_that_are_not_numbers_are_refused(journal: Journal) -> None:
    with pytest.raises(TypeError, match=r"'theta' is a list of dtype object.*array of numbers"):
        journal.append("0", {"theta": [object()]})
    assert not journal.path.exists()


def test_a_flipped_bit_costs_at_most_one_record(journal: Journal, written: bytes) -> None:
    for bit in range(8 * len(written)):
        damaged = bytearray(written)
        damaged[bit // 8] ^= 1 << bit % 8
        journal.path.write_bytes(damaged)
        assert right(journal.records()) >= len(RECORDS) - 1


def test_a_cut_costs_no_whole_record(journal: Journal, written: bytes) -> None:
    counts = []
    for length in range(len(written) + 1):
        journal.path.write_bytes(written[:length])
        counts.append(right(journal.records()))
    assert counts == sorted(counts) and set(counts) == set(range(len(RECORDS) + 1))


@pytest.mark.parametrize("tail", [bytes(4096), random.Random(0).randbytes(4096), MAGIC * 20, MAGIC + bytes(99)])
def test_a_tail_of_zeros_or_garbage_is_ignored(journal: Journal, written: bytes, tail: bytes) -> None:
    journal.path.write_bytes(written + tail)
    assert right(journal.records()) == len(RECORDS)


@pytest.mark.parametrize("lost", [1, 10, 40])
def test_appending_goes_on_after_a_torn_tail(journal: Journal, written: bytes, lost: int) -> None:
    journal.path.write_bytes(written[:-lost])
    with journal:
        journal.append("2", RECORDS["2"])
    assert right(journal.records()) == len(RECORDS)


def test_a_whole_record_of_another_program_is_an_error(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landscape.store.journal.json.dumps", lambda header: '{"name": 1}')
    journal.append("0", {})
    with pytest.raises(DamagedFileError, match=r"record of another program.*remove the file"):
        journal.records()


class FullDisk(Disk):
    def write(self, descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[:10])
        raise OSError(28, "No space left on device")


def test_a_full_disk_keeps_what_is_saved(journal: Journal, written: bytes) -> None:
    with (
        Journal(journal.path, FullDisk()) as full,
        pytest.raises(DiskFullError, match=r"no space left at .*what is saved stays"),
    ):
        full.append("3", {"loss": 0.0})
    with journal:
        journal.append("2", RECORDS["2"])
    assert right(journal.records()) == len(RECORDS)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnwritableError, match=r"cannot write .*gone.*No such file"):
        Journal(tmp_path / "gone" / "a.journal").append("0", {"loss": 0.0})


APPENDING = """
import sys
from pathlib import Path
from landscape.store import Journal
journal = Journal(Path(sys.argv[1]))
for number in range(10**9):
    journal.append(str(number), {"loss": number / 3}, sync=False)
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def test_what_was_acknowledged_survives_kill_9(journal: Journal) -> None:
    chance = random.Random(0)
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", APPENDING, str(journal.path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(chance.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read()
        acknowledged = (first + rest[: rest.rfind("\n") + 1]).split()
        records = journal.records()
        assert all(records[number]["loss"] == int(number) / 3 for number in acknowledged)
