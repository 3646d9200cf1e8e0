"""A run's folder: sealed answers, journals of unfinished ones, and small JSON files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import xarray as xr

from landscape.store.disk import PARTIAL, Disk, explained, read_whole, write_whole
from landscape.store.errors import DamagedFileError, MissingError, UnwritableError
from landscape.store.journal import Journal
from landscape.store.lock import hold
from landscape.store.sealed import pack, unpack

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Store:
    """The folder of one run.

    Every finished answer in it is one sealed file, whole or absent; a journal keeps the finished pieces of an
    answer while it is being computed. One process writes at a time, any number may read.

    Args:
        folder: The folder.
        create: Make it if it does not exist, and check that it can be written.
        disk: Where to write; only tests give another than the operating system.

    Raises:
        MissingError: If the folder does not exist and `create` is false.
        UnwritableError: If it is a file, or cannot be made or written.

    Example:
        >>> import tempfile
        >>> store = Store(tempfile.mkdtemp())
        >>> path = store.write("slice-1a2b", xr.Dataset({"loss": ("alpha", [2.0, 1.0, 2.0])}))
        >>> path.name, store.names(), store.read("slice-1a2b").loss.values
        ('slice-1a2b.h5', ['slice-1a2b'], array([2., 1., 2.]))
    """

    def __init__(self, folder: str | Path, create: bool = True, disk: Disk | None = None) -> None:
        self.path = Path(folder)
        self._disk = disk or Disk()
        if create:
            with explained(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise UnwritableError(f"folder {self.path} is read-only; choose another one or allow writing")
        elif not self.path.is_dir():
            raise MissingError(f"folder {self.path} does not exist; check the path")

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def write(self, name: str, dataset: xr.Dataset) -> Path:
        """Seal a finished answer.

        Args:
            name: The answer's name; an older one of this name is replaced.
            dataset: The answer: bools, integers, float32, float64 and strings; attributes that are strings,
                numbers or arrays of numbers. `schema_version` and the digests are added.

        Returns:
            The file, `<name>.h5`.

        Raises:
            LockedError: If another process is writing into the folder.
            DiskFullError: If there is no space left.
            UnwritableError: If the operating system refuses for another reason.
            TypeError: If a variable or an attribute is of a type that the file does not hold.
            ValueError: If a name cannot stand in a file or be one.
        """
        path = self._file(name, ".h5")
        data = pack(dataset)
        with self.lock():
            write_whole(self._disk, path, data)
        return path

    def read(self, name: str | Path) -> xr.Dataset:
        """Read a sealed answer into memory, after checking that it is what was written.

        Args:
            name: The answer's name, or the `Path` of a file.

        Raises:
            MissingError: If there is no such answer.
            DamagedFileError: If one bit differs from what was written, or another program wrote it.
            UnsafeFileError: If it holds anything but plain arrays, or claims more than it stores.
            NewerSchemaError: If a later version of this package wrote it.
            ValueError: If the name cannot be one.
        """
        path = name if isinstance(name, Path) else self._file(name, ".h5")
        return unpack(read_whole(self._disk, path), path)

    def names(self, pattern: str = "*") -> list[str]:
        """The names of the sealed answers that match a shell pattern such as ``"surface-*"``, sorted."""
        stems = (path.stem for path in self.path.glob("*.h5"))
        return sorted(stem for stem in stems if _NAME.fullmatch(stem) and fnmatchcase(stem, pattern))

    def has(self, name: str) -> bool:
        """Whether there is a sealed answer of this name."""
        return self._file(name, ".h5").is_file()

    def journal(self, name: str) -> Journal:
        """The journal for an answer that is being computed; hold the lock while appending to it."""
        return Journal(self._file(name, ".journal"), self._disk)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only process that writes into the folder; may be nested within one process.

        Raises:
            LockedError: Within a tenth of a second, with the owner, if another process holds the lock.
        """
        with hold(self.path, self._disk) as outermost:
            if outermost:
                self._remove_leftovers()
            yield

    def save_json(self, name: str, mapping: Mapping[str, Any]) -> Path:
        """Write `<name>.json`: dicts with string keys, lists, strings, finite numbers, bools and None.

        Raises:
            TypeError: If the mapping would not come back from JSON as it is.
        """
        path = self._file(name, ".json")
        text = json.dumps(mapping, indent=2)
        if json.loads(text) != mapping:
            raise TypeError(
                f"{path.name} would come back changed; "
                "use dicts with string keys, lists, strings, finite numbers, bools and None"
            )
        with self.lock():
            write_whole(self._disk, path, text.encode() + b"\n")
        return path

    def load_json(self, name: str) -> dict[str, Any]:
        """Read `<name>.json`.

        Raises:
            MissingError: If there is no such file.
            DamagedFileError: If it is not a JSON object.
        """
        path = self._file(name, ".json")
        try:
            mapping = json.loads(read_whole(self._disk, path))
        except (ValueError, RecursionError) as error:
            raise DamagedFileError(f"{path} is not JSON: {error}; restore a copy of it") from error
        if not isinstance(mapping, dict):
            raise DamagedFileError(f"{path} holds a {type(mapping).__name__}, not an object; restore a copy of it")
        return mapping

    def _file(self, name: str, suffix: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"name {name!r} cannot be that of a file; start with a letter or a digit and go on with "
                "at most 99 letters, digits, '.', '_' and '-'"
            )
        return self.path / (name.removesuffix(suffix) + suffix)

    def _remove_leftovers(self) -> None:
        """Remove what a writer that was killed has left half written."""
        with explained(self.path):
            for path in self.path.glob(f".*{PARTIAL}"):
                self._disk.unlink(path)
