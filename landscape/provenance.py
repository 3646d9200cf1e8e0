"""How an answer was made: when, by which command, from which code, with what."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_ROOT = Path(__file__).parents[1]


def provenance(device: torch.device | str = "cpu") -> dict[str, str | int | bool]:
    """What goes with every answer, besides the probe and the objective.

    Returns:
        `created_utc` (ISO 8601), `command`, `git_commit` and `git_dirty` of the checkout that holds this
        package (empty and false where there is none), the versions of `python`, `torch`, `landscape` and
        `lightning`, the `device`, whether float32 products may use `tf32`, and the number of torch `threads`.
        The name of the machine is left out.
    """
    commit, dirty = _git_state(_ROOT)
    return {
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(),
        "git_commit": commit,
        "git_dirty": dirty,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "landscape": version_of("landscape-lab"),
        "lightning": version_of("pytorch-lightning"),
        "device": device_name(torch.device(device)),
        "tf32": allows_tf32(torch.device(device)),
        "threads": torch.get_num_threads(),
    }


def device_name(device: torch.device) -> str:
    """Name a device as its maker does, "cpu" for the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def command() -> str:
    """The command line, as it can be typed again; bytes that are not text are escaped."""
    program, *arguments = sys.argv or [""]
    name = Path(program).name
    line = shlex.join(["landscape" if name == "cli.py" else name, *arguments])
    return line.encode("utf-8", "backslashreplace").decode()


@cache
def _git_state(root: Path) -> tuple[str, bool]:
    """The commit of a checkout and whether tracked files differ from it; ("", False) if it is none."""
    if not (root / ".git").exists():
        return "", False
    commit = _git(root, "rev-parse", "HEAD")
    return commit, bool(commit and _git(root, "status", "--porcelain", "--untracked-files=no"))


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.strip()


@cache
def version_of(distribution: str) -> str:
    """Version of an installed distribution; 0+unknown if there is none."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "0+unknown"


def allows_tf32(device: torch.device) -> bool:
    """Whether float32 products on this device may use TF32, with its ten bits; yes where torch refuses to say."""
    if device.type != "cuda":
        return False
    try:
        return torch.get_float32_matmul_precision() != "highest" or torch.backends.cudnn.allow_tf32
    except RuntimeError:  # its old and new settings were mixed
        return True
