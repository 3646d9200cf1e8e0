"""The digest of named tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors: names, types, shapes and bytes, in whatever order or on whatever device.

    Example:
        >>> digest_tensors({"a": torch.zeros(2), "b": torch.ones(1)})[:12]
        '7f5f9e7af8b1'
    """
    sha256 = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha256.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        flat = flat.as_strided(flat.shape, (1,))  # a single entry may have any stride, which `view` refuses
        sha256.update(flat.view(torch.uint8).numpy().data)
    return sha256.hexdigest()
