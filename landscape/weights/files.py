"""Files of weights: our own safetensors with a digest, and what others saved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from landscape.store.disk import Disk, write_whole
from landscape.store.errors import DamagedFileError
from landscape.weights.digest import digest_tensors
from landscape.weights.errors import WeightsError
from landscape.weights.foreign import load_pickled

# Either mark alone says that the other must be there, so that a flipped bit cannot switch the check off.
_SCHEMA = {"landscape_schema": "1"}
_DIGEST = "sha256"
_PICKLED = {".pt", ".pth", ".bin", ".ckpt"}


def save_weights(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    disk: Disk | None = None,
) -> None:
    """Write tensors to a safetensors file that is whole or absent, with a digest of its content.

    Tensors that share memory (tied weights) are stored once for each name.

    Args:
        path: The file; an older one stays until the new one is whole.
        tensors: The tensors by name; any device, any type including half and bfloat16.
        metadata: Strings to keep with them.
        disk: Where to write; only tests give another than the operating system.

    Raises:
        DiskFullError: If there is no space left.
        UnwritableError: If the operating system refuses for another reason.
    """
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    strings = dict(metadata or {}) | _SCHEMA
    strings[_DIGEST] = _digest(copies, strings)
    write_whole(disk or Disk(), Path(path), save(copies, strings))


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read named tensors from a file, as data and never as code.

    Args:
        path: A `.safetensors` file, or a `.pt`, `.pth`, `.bin` or Lightning `.ckpt` file saved by
            `torch.save`, of which the state dict is taken.

    Returns:
        The tensors by name, on the CPU, and the strings kept with them (none for other than safetensors).

    Raises:
        WeightsError: If there is no such file or no state dict in it.
        DamagedFileError: If the file is cut short or altered.
        UnsafeFileError: If reading it would run code, or it claims more than it stores.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path} is not a file; give a file of weights")
    if path.suffix in _PICKLED:
        return load_pickled(path), {}
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    raise WeightsError(f"{path} is not a .safetensors, .pt, .pth, .bin or .ckpt file; rename it or save it as one")


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise DamagedFileError(f"{path} is damaged: {error}; restore a copy of it") from error
    if _DIGEST not in metadata and _SCHEMA.items().isdisjoint(metadata.items()):
        return tensors, metadata
    if metadata.pop(_DIGEST, "") != _digest(tensors, metadata):
        raise DamagedFileError(f"{path} is damaged: its content does not match its digest; restore a copy of it")
    return tensors, {name: value for name, value in metadata.items() if name not in _SCHEMA}


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    strings = json.dumps(metadata, sort_keys=True)
    return hashlib.sha256(f"{strings} {digest_tensors(tensors)}".encode()).hexdigest()
