"""What can be wrong with weights that are whole."""

from __future__ import annotations


class WeightsError(ValueError):
    """Weights are not what was asked for: no state dict, other names, shapes or types, not finite."""

    exit_code = 3
