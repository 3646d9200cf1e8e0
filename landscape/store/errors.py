"""What can go wrong with stored work, each with the exit code of the command line."""

from __future__ import annotations


class StoreError(RuntimeError):
    """Stored work cannot be read or written; the message names the file and the next step."""

    exit_code = 4


class DamagedFileError(StoreError):
    """A file is cut short, altered, or was not written by this package."""


class UnsafeFileError(StoreError):
    """A file would run code, read other files, or claim far more memory than it holds."""


class NewerSchemaError(StoreError):
    """A file was written by a later version of this package."""


class MissingError(StoreError):
    """The file or folder asked for does not exist."""

    exit_code = 3


class UnwritableError(StoreError):
    """The folder or file cannot be opened or written."""

    exit_code = 3


class DiskFullError(StoreError):
    """No space is left; what was saved before stays."""

    exit_code = 5


class LockedError(StoreError):
    """Another process is writing into the same folder."""

    exit_code = 75
