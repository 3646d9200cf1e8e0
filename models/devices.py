"""Devices by name."""

from __future__ import annotations

import torch


def find_device(name: str) -> torch.device:
    """Find a device that is there.

    Args:
        name: auto, cpu, cuda or cuda:N; auto is cuda where there is one.

    Raises:
        ValueError: If torch knows no such device, or finds none here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be cpu, cuda or cuda:N, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but torch finds no CUDA GPU here; use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} was asked for, but there are {torch.cuda.device_count()}, counted from 0")
    return device
