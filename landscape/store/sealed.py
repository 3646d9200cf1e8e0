"""One finished answer as the bytes of one file: netCDF-4 compatible HDF5 with a seal at its end.

Any tool that reads netCDF-4 opens such a file. `unpack` first checks that the SHA-256 of the whole file is
the one in its last line, and that the file holds nothing but plain arrays.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import xarray as xr

from landscape.store.errors import DamagedFileError, NewerSchemaError, StoreError, UnsafeFileError
from landscape.store.structure import NAME, NETCDF_ATTRIBUTES, check_attributes, check_structure, is_plain

SCHEMA_VERSION = 1

_SEAL = b"\nsealed sha256:%s\n"
_SEAL_SIZE = len(_SEAL % (b"0" * 64))
_OURS = {"schema_version", "content_digest", "seal_digest"}
# Attributes that xarray takes as instructions to change the values of a variable.
_DECODING = {"_FillValue", "missing_value", "scale_factor", "add_offset", "coordinates", "dtype"}
# The first format of HDF5 with checksums on its own records and attributes of any size (HDF5 1.10).
_FORMAT = ("v110", "v110")
_FILTERS = {"compression": "gzip", "shuffle": True, "fletcher32": True}
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_BARE_DIMENSION = "This is a netCDF dimension but not a netCDF variable.%10d"


def pack(dataset: xr.Dataset) -> bytes:
    """The content of a sealed file.

    Args:
        dataset: Variables of bools, integers, float32, float64 or strings; attributes that are strings,
            numbers or 1-D arrays of numbers.

    Raises:
        TypeError: If a variable or an attribute is of another type.
        ValueError: If a name or a string cannot stand in the file.
    """
    variables = {_checked(name): _plain_variable(name, dataset.variables[name]) for name in dataset.variables}
    sizes = {_checked(name): size for name, size in dataset.sizes.items()}
    attributes = {name: value for name, value in dataset.attrs.items() if name not in _OURS}
    attributes = _plain_attributes(attributes, "the dataset", {"coordinates"}) | {
        "schema_version": SCHEMA_VERSION,
        "content_digest": content_digest(variables),
    }
    if labels := [str(name) for name in dataset.coords if name not in sizes]:
        attributes["coordinates"] = " ".join(labels)
    with h5py.File.in_memory(libver=_FORMAT, track_order=True) as file:
        _write_attributes(file, attributes)
        _write_variables(file, variables, sizes)
        file.flush()
        image = file.id.get_file_image()
    return image + _SEAL % _sha256(image)


def unpack(data: bytes, origin: object) -> xr.Dataset:
    """The dataset in a sealed file, as `pack` received it, with both digests added to its attributes.

    Args:
        data: The content of the file.
        origin: What to call the file in messages.

    Raises:
        DamagedFileError: If one bit differs from what was written, or another program wrote it.
        UnsafeFileError: If the file holds anything but plain arrays, or claims more than it stores.
        NewerSchemaError: If a later version of this package wrote it.
    """
    image, seal = data[:-_SEAL_SIZE], data[-_SEAL_SIZE:]
    digest = _sha256(image)
    if seal != _SEAL % digest:
        raise DamagedFileError(
            f"{origin} is damaged, or was not sealed by landscape: its last line is not the digest of the rest; "
            "restore a copy, or remove it and run the command that made it again"
        )
    try:
        with h5py.File.in_memory(image) as file:
            dataset = _read(file, len(image), origin)
    except StoreError:
        raise
    except Exception as error:  # h5py raises nearly anything on a file made to mislead it
        raise DamagedFileError(f"{origin} cannot be read: {error}; it was not written by landscape") from error
    return dataset.assign_attrs(seal_digest=digest.decode())


def content_digest(variables: Mapping[str, xr.Variable]) -> str:
    """SHA-256 of names, dimensions, values and attributes: what was measured, not when or by whom."""
    sha256 = hashlib.sha256()
    for name, variable in sorted(variables.items()):
        values = variable.values
        numeric = is_plain(values.dtype)
        header = {
            "name": name,
            "dims": variable.dims,
            "shape": values.shape,
            "dtype": values.dtype.str if numeric else "str",
            "strings": [] if numeric else values.tolist(),
            "attributes": {key: _jsonable(value) for key, value in variable.attrs.items()},
        }
        sha256.update(json.dumps(header, sort_keys=True).encode())
        sha256.update(values.tobytes() if numeric else b"")
    return sha256.hexdigest()


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _jsonable(value: Any) -> Any:
    return [value.dtype.str, value.tolist()] if isinstance(value, np.ndarray) else value


def _checked(name: object) -> str:
    if isinstance(name, str) and NAME.fullmatch(name):
        return name
    raise ValueError(f"name {name!r} cannot stand in a file; use letters, digits, '_', '.' and '-'")


def _plain_variable(name: object, variable: xr.Variable) -> xr.Variable:
    values = np.asarray(variable.values)
    if is_plain(values.dtype):
        values = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).reshape(values.shape)
    elif all(isinstance(value, str) for value in values.flat):
        for value in values.flat:
            _storable(value, f"in variable {name!r}")
        values = values.astype(str)
    else:
        raise TypeError(
            f"variable {name!r} has dtype {values.dtype}, which a sealed file does not hold; "
            "convert it to bool, an integer type, float32, float64 or strings"
        )
    attributes = _plain_attributes(variable.attrs, f"variable {name!r}", _DECODING)
    return xr.Variable(variable.dims, values, attributes)


def _plain_attributes(attributes: Mapping[Any, Any], owner: str, reserved: set[str]) -> dict[str, Any]:
    for name in attributes:
        if _checked(name) in NETCDF_ATTRIBUTES | reserved:
            raise ValueError(f"attribute {name!r} of {owner} has a meaning of its own in netCDF; rename it")
    return {name: _plain_attribute(value, f"{name!r} of {owner}") for name, value in attributes.items()}


def _plain_attribute(value: Any, owner: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind != "b" and is_plain(value.dtype):
        return value.astype(value.dtype.newbyteorder("<"))
    if isinstance(value, str):
        return _storable(value, owner)
    if isinstance(value, bool | float) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    raise TypeError(
        f"attribute {owner} is a {type(value).__name__}, which a sealed file does not hold; "
        "give a string, a number or a 1-D array of numbers, or make a string of it with json.dumps"
    )


def _storable(string: str, owner: str) -> str:
    if _UNSTORABLE.search(string):
        raise ValueError(f"string {string[:40]!r} {owner} cannot be stored; remove NUL characters and lone surrogates")
    return string


def _write_attributes(item: h5py.File | h5py.Dataset, attributes: Mapping[str, Any]) -> None:
    """Write attributes; a single int8 is a bool, so that its type comes back."""
    for name, value in attributes.items():
        item.attrs[name] = np.int8(value) if isinstance(value, bool) else value


def _read_attributes(item: h5py.File | h5py.Dataset) -> dict[str, Any]:
    return {name: _read_attribute(item.attrs[name]) for name in item.attrs if name not in NETCDF_ATTRIBUTES}


def _read_attribute(value: Any) -> Any:
    if isinstance(value, np.int8):
        return bool(value)
    return value.item() if isinstance(value, np.generic) else value


def _write_variables(file: h5py.File, variables: Mapping[str, xr.Variable], sizes: Mapping[str, int]) -> None:
    for name, variable in variables.items():
        _create(file, name, variable.values)
        _write_attributes(file[name], variable.attrs)
    for index, (name, size) in enumerate(sizes.items()):
        if name not in variables:
            _create(file, name, np.zeros(size, ">f4"))
        elif variables[name].dims != (name,):
            raise ValueError(f"variable {name!r} has the name of a dimension but dims {variables[name].dims}")
        file[name].make_scale(name if name in variables else _BARE_DIMENSION % size)
        file[name].attrs["_Netcdf4Dimid"] = np.int32(index)
    for name, variable in variables.items():
        if variable.dims != (name,):
            for axis, dim in enumerate(variable.dims):
                file[name].dims[axis].attach_scale(file[dim])


def _create(file: h5py.File, name: str, values: np.ndarray) -> None:
    if values.dtype.kind == "U":
        file.create_dataset(name, data=values.astype(object), dtype=h5py.string_dtype())
    elif values.dtype.kind == "b":
        _create(file, name, values.view("i1"))
        file[name].attrs["dtype"] = "bool"
    else:
        file.create_dataset(name, data=values, **(_FILTERS if values.ndim and values.size else {}))


def _read(file: h5py.File, size: int, origin: object) -> xr.Dataset:
    check_attributes(file, origin)
    attributes = _read_attributes(file)
    if attributes["schema_version"] > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{origin} has schema version {attributes['schema_version']}, this package reads up to "
            f"{SCHEMA_VERSION}; install a newer landscape-lab"
        )
    check_structure(file, size, origin)
    variables = {name: _read_variable(file[name], size, origin) for name in file if not _is_bare(file[name])}
    if content_digest(variables) != attributes["content_digest"]:
        raise DamagedFileError(f"{origin} is damaged: its values do not match its content digest; remove it")
    labels = attributes.pop("coordinates", "").split()
    dims = {dim for variable in variables.values() for dim in variable.dims}
    coords = {name: variables.pop(name) for name in list(variables) if name in dims or name in labels}
    return xr.Dataset(variables, coords, attributes)


def _is_bare(dataset: h5py.Dataset) -> bool:
    return dataset.attrs.get("NAME", b"").startswith(b"This is a netCDF dimension but not")


def _read_variable(dataset: h5py.Dataset, size: int, origin: object) -> xr.Variable:
    attributes = _read_attributes(dataset)
    values = dataset[()] if is_plain(dataset.dtype) else _read_strings(dataset, size, origin)
    if attributes.pop("dtype", None) == "bool":
        values = np.asarray(values).astype(bool)
    return xr.Variable(_dims(dataset), values, attributes)


def _read_strings(dataset: h5py.Dataset, size: int, origin: object) -> np.ndarray:
    """Read strings one by one: many could point to one long string, and claim far more than the file."""
    strings = np.empty(dataset.shape, object)
    total = 0
    for index in np.ndindex(dataset.shape):
        strings[index] = dataset[index].decode()
        total += len(strings[index])
        if total > size:
            raise UnsafeFileError(f"{origin} is refused: the strings in {dataset.name} are larger than the file")
    return strings.astype(str)


def _dims(dataset: h5py.Dataset) -> tuple[str, ...]:
    if dataset.is_scale:
        return (dataset.name[1:],)
    return tuple(dataset.dims[axis][0].name[1:] for axis in range(dataset.ndim))
