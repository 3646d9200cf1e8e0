"""Whether it pays to train runs together."""

from __future__ import annotations

from models.config import RunConfig


def pays(config: RunConfig, members: int) -> bool:
    """Say whether so many runs are trained faster together than one by one."""
    return config.model == "mlp" and members > 1
