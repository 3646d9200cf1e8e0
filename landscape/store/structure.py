"""What an HDF5 file may consist of before anything in it is read.

HDF5 can point to other files (external links, external storage, virtual datasets), load shared objects
(unknown filters) and claim far more than it stores. A sealed file needs none of this: it is one flat group of
plain arrays, so everything else is refused with the name of the object.

References:
    CVE-2026-1669 is an instance of reading another file through external storage.
"""

from __future__ import annotations

import math
import re

import h5py
import numpy as np

from landscape.store.errors import UnsafeFileError

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")

NETCDF_ATTRIBUTES = frozenset({"CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST", "_Netcdf4Dimid"})

_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_LAYOUTS = {h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED}
# Deflate makes at most 1032 bytes of one.
_EXPANSION = 1032


def is_plain(dtype: np.dtype) -> bool:
    """Whether arrays of this dtype are stored as they are: bool, integers, float32 and float64."""
    return dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize in (4, 8))


def check_attributes(item: h5py.File | h5py.Dataset, origin: object) -> None:
    """Refuse attributes that are not strings, numbers or 1-D arrays of numbers.

    Raises:
        UnsafeFileError: With the name of the first one.
    """
    for name in set(item.attrs) - NETCDF_ATTRIBUTES:
        attribute = item.attrs.get_id(name)
        string = _is_string(attribute.dtype) and attribute.shape == ()
        number = is_plain(attribute.dtype) and len(attribute.shape) <= 1
        if not NAME.fullmatch(name) or not (string or number):
            raise _refusal(origin, f"attribute {name!r}", "is not a string, a number or an array of numbers")


def check_structure(file: h5py.File, size: int, origin: object) -> None:
    """Refuse a file that is more than a flat group of plain arrays.

    Args:
        file: The open file.
        size: Its size in bytes.
        origin: What to call the file in messages.

    Raises:
        UnsafeFileError: With the name of the first object that is not a plain array.
    """
    claimed = 0
    for name in file:
        if reason := _objection_to_link(file, name) or _objection_to_storage(file[name]):
            raise _refusal(origin, repr(name), reason)
        check_attributes(file[name], origin)
        claimed += _claimed_bytes(file[name])
        if claimed > _EXPANSION * size:
            raise _refusal(origin, repr(name), "claims more than the file can hold")


def _objection_to_link(file: h5py.File, name: str) -> str:
    if not NAME.fullmatch(name):
        return "has a name that is not made of letters, digits and '_.-'"
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return "is a link"
    return "" if file.get(name, getclass=True) is h5py.Dataset else "is not an array"


def _objection_to_storage(dataset: h5py.Dataset) -> str:
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    stored = dataset.id.get_storage_size()
    if properties.get_layout() not in _LAYOUTS:
        return "is virtual"
    if properties.get_external_count():
        return "is stored in another file"
    if not _FILTERS.issuperset(filters) or len(set(filters)) < len(filters):
        return f"uses filters {filters}"
    if not is_plain(dataset.dtype) and not _is_string(dataset.dtype):
        return f"has dtype {dataset.dtype}"
    if dataset.maxshape != dataset.shape:
        return "can grow"
    return f"claims shape {dataset.shape} in {stored} bytes" * (_claimed_bytes(dataset) > _EXPANSION * stored)


def _is_string(dtype: np.dtype) -> bool:
    string = h5py.check_string_dtype(dtype)
    return string is not None and string.length is None


def _claimed_bytes(dataset: h5py.Dataset) -> int:
    return math.prod(dataset.shape) * dataset.dtype.itemsize


def _refusal(origin: object, name: str, reason: str) -> UnsafeFileError:
    return UnsafeFileError(f"{origin} is refused: {name} {reason}; it was not written by landscape")
