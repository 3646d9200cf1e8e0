from __future__ import annotations

import errno
import fcntl
import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from landscape.store import (
    DamagedFileError,
    DiskFullError,
    LockedError,
    MissingError,
    Store,
    StoreError,
    UnwritableError,
)
from landscape.store.disk import Disk
from landscape.store.lock import is_held

ROOT = Path(__file__).parents[1]
OLD = xr.Dataset({"loss": ("alpha", [2.0, 1.0, 2.0])})
NEW = OLD + 1


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "run")


def python(code: str, *arguments: object, **options: Any) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)


def test_the_store_does_not_import_torch() -> None:
    subprocess.run(
        [sys.executable, "-c", "import landscape.store, sys; assert 'torch' not in sys.modules"],
        cwd=ROOT,
        check=True,
    )


def test_answers_are_found_by_name_and_by_path(store: Store) -> None:
    path = store.write("surface-1a", OLD)
    store.write("slice-2b", NEW)
    (store.path / "notes.txt").touch()
    assert store.names() == ["slice-2b", "surface-1a"] and store.names("surf*") == ["surface-1a"]
    assert store.has("surface-1a") and not store.has("surface")
    xr.testing.assert_identical(store.read("surface-1a"), store.read(path))
    xr.testing.assert_equal(Store(store.path, create=False).read("surface-1a"), OLD)
    assert repr(store) == f"Store('{store.path}')"


def test_a_new_answer_replaces_the_old_one_of_its_name(store: Store) -> None:
    store.write("slice", OLD)
    store.write("slice", NEW)
    xr.testing.assert_equal(store.read("slice"), NEW)
    assert sorted(os.listdir(store.path)) == [".lock", "slice.h5"]


def test_reading_a_surface_again_and_again_gives_the_same_digest(store: Store) -> None:
    store.write("slice", OLD)
    store.write("copy", store.read("slice"))
    assert store.read("slice").attrs == store.read("copy").attrs


def test_json_files_come_back_as_they_were(store: Store) -> None:
    config = {"kind": "trained", "lr": 0.1, "layers": [1, 2], "early": None, "nested": {"on": True}}
    assert store.save_json("run", config) == store.path / "run.json"
    assert store.load_json("run") == store.load_json("run.json") == config


@pytest.mark.parametrize("mapping", [{1: 2}, {"a": (1, 2)}, {"a": float("nan")}, {"a": {"b": {3: 1}}}])
def test_json_that_would_come_back_changed_is_refused(store: Store, mapping: dict) -> None:
    with pytest.raises(TypeError, match=r"run\.json would come back changed; use dicts with string keys"):
        store.save_json("run", mapping)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("\udcff", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "holds a list, not an object"),
    ],
)
def test_damaged_json_is_named(store: Store, text: str, message: str) -> None:
    (store.path / "run.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DamagedFileError, match=rf"run\.json {message}"):
        store.load_json("run")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/x",
        "a/b",
        "x\0",
        "x\n",
        "x\ny",
        "-rf",
        "." * 300,
        "x" * 101,
        "",
        "..",
        ".lock",
        "\x1b]0;",
        "é",
    ],
)
@pytest.mark.parametrize("use", [Store.read, Store.has, Store.journal, Store.load_json])
def test_a_name_never_becomes_a_path(store: Store, name: str, use: Callable) -> None:
    with pytest.raises(ValueError, match="cannot be that of a file; start with a letter or a digit"):
        use(store, name)


def test_what_is_missing_is_named(store: Store) -> None:
    with pytest.raises(MissingError, match=r"slice\.h5 does not exist; check the name"):
        store.read("slice")
    with pytest.raises(MissingError, match=r"folder .*nowhere does not exist; check the path"):
        Store(store.path / "nowhere", create=False)


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnwritableError, match=r"cannot write .*file: File exists; choose another folder"):
        Store(tmp_path / "file")
    with pytest.raises(UnwritableError, match=r"cannot write .*run: Not a directory"):
        Store(tmp_path / "file" / "run")


def test_a_read_only_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(UnwritableError, match="is read-only; choose another one or allow writing"):
        Store(tmp_path)


def test_a_symbolic_link_is_replaced_when_written_and_refused_when_read(store: Store, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (store.path / "slice.h5").symlink_to(victim)
    with pytest.raises(DamagedFileError, match=r"slice\.h5 is not a regular file"):
        store.read("slice")
    store.write("slice", OLD)
    assert victim.read_text() == "precious" and not (store.path / "slice.h5").is_symlink()


def test_a_pipe_or_folder_in_place_of_an_answer_is_refused_without_waiting(store: Store) -> None:
    os.mkfifo(store.path / "pipe.h5")
    (store.path / "folder.h5").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(DamagedFileError, match="is not a regular file"):
            store.read(name)


class FailingDisk(Disk):
    """A disk whose n-th operation fails, once or from then on."""

    def __init__(self, position: int, code: int, forever: bool) -> None:
        self.position, self.code, self.forever = position, code, forever
        self.failed = False
        self._count = itertools.count()

    def _step(self) -> None:
        count = next(self._count)
        if count == self.position or (self.forever and count > self.position):
            self.failed = True
            raise OSError(self.code, os.strerror(self.code))

    def open(self, path: Path, flags: int) -> int:
        self._step()
        return super().open(path, flags)

    def write(self, descriptor: int, data: bytes) -> None:
        try:
            self._step()
        except OSError:
            super().write(descriptor, data[: len(data) // 2])
            raise
        super().write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        self._step()
        super().fsync(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        self._step()
        super().replace(source, target)

    def unlink(self, path: Path) -> None:
        self._step()
        super().unlink(path)

    def lock(self, descriptor: int) -> None:
        self._step()
        super().lock(descriptor)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ENOLCK])
@pytest.mark.parametrize("forever", [False, True])
def test_whichever_operation_fails_the_file_is_old_or_new(store: Store, code: int, forever: bool) -> None:
    full = code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    for position in itertools.count():
        store.write("slice", OLD)
        disk = FailingDisk(position, code, forever)
        try:
            Store(store.path, disk=disk).write("slice", NEW)
        except StoreError as error:
            assert type(error) is (DiskFullError if full else UnwritableError)
            assert ("no space left at" if full else "cannot write") in str(error)
        assert store.read("slice").equals(OLD) or store.read("slice").equals(NEW)
        assert store.names() == ["slice"]
        with store.lock():
            assert sorted(os.listdir(store.path)) == [".lock", "slice.h5"]
        if not disk.failed:
            break
    assert position >= 8


@pytest.mark.parametrize("forever", [False, True])
def test_whichever_operation_fails_the_journal_keeps_its_records(store: Store, forever: bool) -> None:
    for position in itertools.count():
        saved = {str(number): {"loss": 1.0} for number in range(position)}
        disk = FailingDisk(position, errno.ENOSPC, forever)
        with Store(store.path, disk=disk).journal("slice") as journal, suppress(DiskFullError):
            journal.append(str(position), {"loss": 1.0})
        with store.journal("slice") as journal:
            records = journal.records()
            assert records.keys() - {str(position)} == saved.keys()
            journal.append(str(position), {"loss": 1.0})
        if not disk.failed:
            break
    assert position >= 4


class RecordingDisk(Disk):
    """A disk that writes down what it is asked to do."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name in ("open", "write", "fsync", "replace", "unlink", "lock"):
            self.steps.append(name)
        return super().__getattribute__(name)


def test_content_reaches_the_disk_before_its_name_does(store: Store) -> None:
    disk = RecordingDisk()
    recorded = Store(store.path, disk=disk)
    recorded.write("slice", OLD)
    assert disk.steps == ["open", "lock", "write", "open", "write", "fsync", "replace", "open", "fsync"]
    disk.steps.clear()
    with recorded.journal("slice") as journal:
        journal.append("0", {"loss": 1.0})
        journal.append("1", {"loss": 1.0}, sync=False)
    assert disk.steps == ["open", "open", "fsync", "write", "fsync", "write"]


def test_an_operation_that_fails_while_reading_is_explained(store: Store) -> None:
    store.write("slice", OLD)
    with pytest.raises(UnwritableError, match=r"cannot read .*slice\.h5: Permission denied"):
        Store(store.path, disk=FailingDisk(0, errno.EACCES, False)).read("slice")


def test_a_limit_on_file_sizes_leaves_the_old_answer(store: Store) -> None:
    store.write("slice", OLD)
    big = xr.Dataset({"loss": ("alpha", np.random.default_rng(0).random(100_000))})
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(DiskFullError, match=r"no space left at .*slice\.h5 .*run the same command again"):
            store.write("slice", big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    xr.testing.assert_equal(store.read("slice"), OLD)


def test_what_a_killed_writer_left_is_removed_and_never_taken_for_an_answer(store: Store) -> None:
    (store.path / ".slice.h5.0123abcd.landscape-partial").write_bytes(b"half")
    assert store.names() == []
    store.write("surface", OLD)
    assert sorted(os.listdir(store.path)) == [".lock", "surface.h5"]


def test_a_partial_file_of_the_same_name_is_not_touched(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landscape.store.disk.secrets.token_hex", lambda size: "0123abcd")
    with store.lock():
        (store.path / ".slice.h5.0123abcd.landscape-partial").write_text("of another writer")
        with pytest.raises(UnwritableError, match="File exists"):
            store.write("slice", OLD)
        assert (store.path / ".slice.h5.0123abcd.landscape-partial").read_text() == "of another writer"


def test_the_lock_may_be_nested_within_a_process(store: Store) -> None:
    other = Store(store.path / ".." / "run")
    partial = store.path / ".slice.h5.0123abcd.landscape-partial"
    with store.lock():
        partial.touch()
        other.write("slice", OLD)
        assert partial.exists()
    assert store.has("slice")


HOLDING = """
import sys, time
from landscape.store import Store
with Store(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_may_read_but_not_write(store: Store) -> None:
    store.write("slice", OLD)
    with python(HOLDING, store.path) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=rf"being written by process {process.pid} on .*; wait until it ends"):
            store.write("slice", NEW)
        with pytest.raises(LockedError, match="being written by process"), store.lock():
            pass
        xr.testing.assert_equal(store.read("slice"), OLD)
        process.kill()
    store.write("slice", NEW)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_writer_outlasts_one_who_only_looks_whether_it_is_locked(store: Store) -> None:
    with store.lock():
        assert is_held(store.path)
    assert not is_held(store.path)
    looking = os.open(store.path / ".lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    gone = threading.Timer(0.03, os.close, [looking])
    gone.start()
    with store.lock():
        gone.join()


def test_a_forked_child_does_not_share_the_lock(store: Store) -> None:
    with store.lock():
        child = os.fork()
        if not child:
            try:
                store.write("slice", OLD)
            except LockedError:
                os._exit(75)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == LockedError.exit_code


WRITING = """
import sys
import xarray as xr
from landscape.store import Store
store = Store(sys.argv[1])
for number in range(10**9):
    store.write("slice", xr.Dataset({"loss": ("alpha", [float(number)] * 1000)}))
    if number == 0:
        print("ready", flush=True)
"""


def test_an_answer_is_whole_after_kill_9(store: Store) -> None:
    for _ in range(3):
        with python(WRITING, store.path) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.1)
            process.kill()
        assert len(set(store.read("slice").loss.values)) == 1
        assert store.names() == ["slice"]


def test_every_error_has_its_exit_code() -> None:
    codes = {error.__name__: error.exit_code for error in StoreError.__subclasses__()}
    assert codes == {
        "DamagedFileError": 4,
        "UnsafeFileError": 4,
        "NewerSchemaError": 4,
        "MissingError": 3,
        "UnwritableError": 3,
        "DiskFullError": 5,
        "LockedError": 75,
    }
