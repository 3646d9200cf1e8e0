"""One writer in a folder at a time."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from landscape.store.disk import Disk, explained
from landscape.store.errors import LockedError


@dataclass
class _Hold:
    descriptor: int
    depth: int = 0


_held: dict[Path, _Hold] = {}
_TRIES, _PAUSE = 6, 0.02  # seconds; who only asks `is_held` has the lock for a few microseconds


@contextmanager
def hold(folder: Path, disk: Disk) -> Iterator[bool]:
    """Hold the lock of a folder; within one process it may be taken again while held.

    The lock is the operating system's own (`flock`), so it ends with the process, however that dies.

    Args:
        folder: The folder; the lock is on the file `.lock` in it, which names the owner.
        disk: Where to lock.

    Yields:
        Whether this block is the outermost one to hold the lock.

    Raises:
        LockedError: Within a tenth of a second, if another process holds the lock.
        UnwritableError: If the folder cannot be locked.
    """
    folder = folder.resolve()
    if folder not in _held:
        _held[folder] = _Hold(_acquire(folder, disk))
    lock = _held[folder]
    lock.depth += 1
    try:
        yield lock.depth == 1
    finally:
        lock.depth -= 1
        if not lock.depth and _held.get(folder) is lock:
            os.close(_held.pop(folder).descriptor)


def _acquire(folder: Path, disk: Disk) -> int:
    path = folder / ".lock"
    with explained(path):
        descriptor = disk.open(path, os.O_RDWR | os.O_CREAT)
        try:
            _lock(descriptor, disk)
            os.ftruncate(descriptor, 0)
            disk.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        except BlockingIOError as error:
            owner = os.pread(descriptor, 200, 0).decode(errors="replace")
            os.close(descriptor)
            raise LockedError(
                f"{folder} is being written by {owner or 'another process'}; "
                "wait until it ends, or stop it and run the same command again"
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def _lock(descriptor: int, disk: Disk) -> None:
    """Lock a file, waiting for those who only look whether it is locked."""
    for _ in range(_TRIES - 1):
        try:
            return disk.lock(descriptor)
        except BlockingIOError:
            time.sleep(_PAUSE)
    disk.lock(descriptor)


def is_held(folder: Path) -> bool:
    """Whether a process holds the lock of a folder. A shared lock is tried and given back at once."""
    path = folder / ".lock"
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _forget_inherited() -> None:
    """Close the parent's locks in a forked child, so that they end when the parent does."""
    for lock in _held.values():
        os.close(lock.descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_inherited)
