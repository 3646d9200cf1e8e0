"""An append-only journal: finished pieces of work, each safe as soon as it is appended.

A record is framed as

    magic word (8 bytes) | header length, payload length, CRC-32 of all the rest | header | payload

where the header is JSON and the payload holds the arrays as raw little-endian bytes. A reader that meets
damage goes on at the next magic word, so that one flipped bit costs one record and a torn tail costs nothing
that was acknowledged.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from landscape.store.disk import Disk, explained, read_whole, sync_folder
from landscape.store.errors import DamagedFileError, MissingError

Value = np.ndarray | float | int | str

_MAGIC = b"\x93LSJ1\r\n\x1a"
_LENGTHS = struct.Struct("<IQ")
_CHECKSUM = struct.Struct("<I")
_PREFIX = len(_MAGIC) + _LENGTHS.size + _CHECKSUM.size


class Journal:
    """The finished pieces of an answer that is not whole yet.

    Args:
        path: The file; it is created by the first record.
        disk: Where to write.

    Example:
        >>> import tempfile
        >>> with Journal(Path(tempfile.mkdtemp()) / "surface.journal") as journal:
        ...     journal.append("0", {"loss": 2.5, "seconds": np.array([0.1, 0.2])})
        ...     journal.records()["0"]["loss"]
        2.5
    """

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self.path = path
        self._disk = disk or Disk()
        self._descriptor: int | None = None

    def append(self, key: str, values: Mapping[str, Value], sync: bool = True) -> None:
        """Add a record; once this returns it survives the death of the process.

        Args:
            key: What the record is about; a later record with the same key replaces it.
            values: Numbers, strings and arrays (bool, integer, float) by name.
            sync: Also wait for the disk, so that the record survives the loss of power.

        Raises:
            TypeError: If a value is of another kind.
            DiskFullError: If there is no space left. Earlier records stay.
            UnwritableError: If the operating system refuses for another reason.
        """
        frame = _frame(key, values)
        with explained(self.path):
            descriptor = self._open()
            self._disk.write(descriptor, frame)
            if sync:
                self._disk.fsync(descriptor)

    def records(self) -> dict[str, dict[str, Value]]:
        """All readable records by key, the last one of each key; empty if there is no journal yet.

        Raises:
            DamagedFileError: If a record is whole, but not one that `append` writes.
        """
        try:
            data = read_whole(self._disk, self.path)
        except MissingError:
            return {}
        try:
            return dict(_records(data))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise DamagedFileError(
                f"{self.path} holds a record of another program ({error}); "
                "remove the file and run the same command again"
            ) from error

    def discard(self) -> None:
        """Remove the journal, once the answer is sealed."""
        self.close()
        with explained(self.path):
            if self.path.exists():
                self._disk.unlink(self.path)

    def close(self) -> None:
        """Close the file; the next `append` opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = self._disk.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            sync_folder(self._disk, self.path.parent)
        return self._descriptor


def _frame(key: str, values: Mapping[str, Value]) -> bytes:
    scalars: dict[str, float | int | str] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, value in values.items():
        if isinstance(value, str | int | float):
            scalars[name] = value
        else:
            arrays[name] = _plain(name, value)
    layout = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
    header = json.dumps({"key": key, "scalars": scalars, "arrays": layout}).encode()
    payload = b"".join(array.tobytes() for array in arrays.values())
    lengths = _LENGTHS.pack(len(header), len(payload))
    checksum = zlib.crc32(lengths + header + payload)
    return b"".join((_MAGIC, lengths, _CHECKSUM.pack(checksum), header, payload))


def _plain(name: str, value: object) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"value {name!r} is a {type(value).__name__} of dtype {array.dtype}, which a journal does not "
            "hold; give a bool, integer, float, string or an array of numbers"
        )
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _records(data: bytes) -> Iterator[tuple[str, dict[str, Value]]]:
    start = data.find(_MAGIC)
    while start >= 0:
        end = start + 1
        body = _checked_body(data, start)
        if body is not None:
            header, payload = body
            yield _decode(header, payload)
            end = start + _PREFIX + len(header) + len(payload)
        start = data.find(_MAGIC, end)


def _checked_body(data: bytes, start: int) -> tuple[bytes, memoryview] | None:
    """The header and payload of the frame at `start`, or None if it is torn or altered."""
    after_magic = start + len(_MAGIC)
    middle = start + _PREFIX
    if middle > len(data):
        return None
    header_length, payload_length = _LENGTHS.unpack_from(data, after_magic)
    (checksum,) = _CHECKSUM.unpack_from(data, after_magic + _LENGTHS.size)
    end = middle + header_length + payload_length
    if end > len(data):
        return None
    view = memoryview(data)
    lengths = view[after_magic : after_magic + _LENGTHS.size]
    if zlib.crc32(view[middle:end], zlib.crc32(lengths)) != checksum:
        return None
    return bytes(view[middle : middle + header_length]), view[middle + header_length : end]


def _decode(header: bytes, payload: memoryview) -> tuple[str, dict[str, Value]]:
    fields = json.loads(header)
    values: dict[str, Value] = dict(fields["scalars"])
    offset = 0
    for name, dtype, shape in fields["arrays"]:
        array = np.frombuffer(payload, dtype, math.prod(shape), offset).reshape(shape)
        values[name] = array.copy()
        offset += array.nbytes
    return fields["key"], values
