"""Stored work: sealed answers, journals of unfinished ones, and the errors they can meet."""

from landscape.store.errors import (
    DamagedFileError,
    DiskFullError,
    LockedError,
    MissingError,
    NewerSchemaError,
    StoreError,
    UnsafeFileError,
    UnwritableError,
)
from landscape.store.folder import Store
from landscape.store.journal import Journal

__all__ = [
    "DamagedFileError",
    "DiskFullError",
    "Journal",
    "LockedError",
    "MissingError",
    "NewerSchemaError",
    "Store",
    "StoreError",
    "UnsafeFileError",
    "UnwritableError",
]
