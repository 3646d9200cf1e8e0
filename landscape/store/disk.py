"""The six operations through which everything reaches the disk, and whole-file writing on top of them."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from landscape.store.errors import DamagedFileError, DiskFullError, MissingError, UnwritableError

# Ends the names of files that are not whole yet; the next writer removes what a killed one left.
PARTIAL = ".landscape-partial"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_sync_data = getattr(os, "fdatasync", os.fsync)


class Disk:
    """The operating system, one method an operation, so that a test can make the n-th one fail."""

    def open(self, path: Path, flags: int) -> int:
        """Open without following a symbolic link or waiting for a pipe; returns a file descriptor."""
        return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)

    def write(self, descriptor: int, data: bytes) -> None:
        """Write all of `data`."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    def fsync(self, descriptor: int) -> None:
        """Return once the file's content has reached the disk."""
        _sync_data(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        """Give `source` the name `target`, in one step."""
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        os.unlink(path)

    def lock(self, descriptor: int) -> None:
        """Lock the file for this process, or raise `BlockingIOError` at once."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def opened(disk: Disk, path: Path, flags: int) -> Iterator[int]:
    """A file descriptor that is closed at the end of the block."""
    descriptor = disk.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an `OSError` in the block into one of our errors, which says what to do.

    Raises:
        DiskFullError: If the disk, a quota or a limit on file sizes is full.
        UnwritableError: If anything else kept the operating system from writing.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(
                f"no space left at {path} ({error.strerror}); what is saved stays; "
                "free space and run the same command again"
            ) from error
        raise UnwritableError(
            f"cannot write {path}: {error.strerror or error}; choose another folder or repair this one"
        ) from error


def write_whole(disk: Disk, path: Path, data: bytes) -> None:
    """Write a file that is whole or absent, whatever happens in between.

    The data goes to a temporary name in the same folder, is synced, and then takes the final name.

    Args:
        disk: Where to write.
        path: The final name; an older file of that name stays until the new one is whole.
        data: The content.

    Raises:
        DiskFullError: If there is no space left.
        UnwritableError: If the operating system refuses for another reason.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    with explained(path):
        with opened(disk, temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
            try:
                disk.write(descriptor, data)
                disk.fsync(descriptor)
                disk.replace(temporary, path)
            except BaseException:
                with suppress(OSError):
                    disk.unlink(temporary)
                raise
        sync_folder(disk, path.parent)


def sync_folder(disk: Disk, folder: Path) -> None:
    """Return once the names in a folder have reached the disk."""
    with opened(disk, folder, os.O_RDONLY) as descriptor:
        disk.fsync(descriptor)


def read_whole(disk: Disk, path: Path) -> bytes:
    """Read a regular file.

    Raises:
        MissingError: If there is no such file.
        DamagedFileError: If it is a symbolic link, a folder or a device.
        UnwritableError: If the operating system does not let it be read.
    """
    try:
        with opened(disk, path, os.O_RDONLY) as descriptor, open(descriptor, "rb", closefd=False) as file:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return file.read()
    except FileNotFoundError as error:
        raise MissingError(f"{path} does not exist; check the name") from error
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR):
            raise UnwritableError(f"cannot read {path}: {error.strerror}; allow reading it") from error
    raise DamagedFileError(f"{path} is not a regular file; put the file itself in its place")
