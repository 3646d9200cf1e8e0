"""Running the command line in a process of its own, as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

# One epoch on 64 digits: as little as a run can be.
TINY = ("--data", "digits", "--model", "cnn", "--epochs", "1", "--train-size", "64", "--batch-size", "32")


def environment() -> dict[str, str]:
    """One thread each, so that parallel tests do not crowd each other out and bits can be compared."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]


def landscape(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120)


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
