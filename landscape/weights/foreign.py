"""Reading what `torch.save` wrote somewhere else: as data, never as code.

`torch.load` checks no sums, so that one flipped bit gives other numbers; and what it may run depends on its
arguments, on its caller and on the environment. Here the archive is checked first, and `weights_only=True` is
always explicit, which no environment variable overrides. There is no way around it.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landscape.store.errors import DamagedFileError, StoreError, UnsafeFileError
from landscape.weights.errors import WeightsError

_KEYS = ("state_dict", "model_state_dict", "model")
_REMEDY = "where you trust it, save model.state_dict() alone with torch.save and give that file"


def load_pickled(path: Path) -> dict[str, Tensor]:
    """The state dict in a file saved by `torch.save`: the whole of it, or the entry of a checkpoint.

    Args:
        path: The file; zip archives and the older plain format (which has no checksums) are read,
            TorchScript is not.

    Raises:
        DamagedFileError: If an entry fails its checksum, or the file cannot be parsed.
        UnsafeFileError: If the file needs code to be run, is compressed, or claims more than it stores.
        WeightsError: If there is no state dict of plain tensors in it.
    """
    if zipfile.is_zipfile(path):
        _check_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises nearly anything on a damaged file
        raise _explain(path, error) from error
    return {name: _plain_tensor(path, name, value) for name, value in _state_dict(path, content).items()}


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            if not stored or sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise UnsafeFileError(f"{path} is a compressed or TorchScript archive; {_REMEDY}")
            damaged = archive.testzip()
    except StoreError:
        raise
    except Exception as error:  # zipfile raises nearly anything on a damaged archive
        raise DamagedFileError(f"{path} is damaged: {error}; restore a copy of it") from error
    if damaged:
        raise DamagedFileError(f"{path} is damaged: entry {damaged!r} fails its checksum; restore a copy of it")


def _explain(path: Path, error: Exception) -> StoreError:
    """Our own words for an error of `torch.load`, whose messages advise to run the code."""
    if "Cannot use ``weights_only=True``" in str(error):
        return UnsafeFileError(f"{path} is a TorchScript or tar archive, which may run code; {_REMEDY}")
    if not isinstance(error, pickle.UnpicklingError):
        return DamagedFileError(f"{path} cannot be read ({type(error).__name__}); restore a copy of it")
    if needed := re.search(r"GLOBAL (\S+)", str(error)):
        return UnsafeFileError(f"{path} is refused: reading it would run {needed[1]}; {_REMEDY}")
    return UnsafeFileError(f"{path} is refused: it is not what torch.save writes for tensors; {_REMEDY}")


def _state_dict(path: Path, content: Any) -> Mapping[str, Any]:
    if isinstance(content, Mapping):
        content = next((content[key] for key in _KEYS if isinstance(content.get(key), Mapping)), content)
    if isinstance(content, Mapping) and content and all(isinstance(name, str) for name in content):
        return content
    raise WeightsError(f"{path} holds a {type(content).__name__} and no state dict; {_REMEDY}")


def _plain_tensor(path: Path, name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise WeightsError(f"{path}: {name!r} is a {type(value).__name__}, not a tensor; {_REMEDY}")
    if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_meta:
        raise WeightsError(f"{path}: {name!r} is not a plain tensor of real numbers; {_REMEDY}")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise UnsafeFileError(
            f"{path} is refused: {name!r} claims shape {tuple(value.shape)} but stores "
            f"{value.untyped_storage().nbytes()} bytes; call .contiguous() on it before saving"
        )
    return value.detach()
