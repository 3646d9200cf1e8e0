"""What callbacks record, for Lightning's loggers too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import Tensor


def log_numbers(trainer: pl.Trainer, step: int, values: Mapping[str, Any], places: Sequence[str] = ()) -> None:
    """Send numbers to every logger of a Trainer; what is not finite is left out.

    Args:
        trainer: Whose loggers; with none nothing happens.
        step: The optimizer update that the numbers belong to.
        values: Scalars, or one number for each place, by name.
        places: What the numbers of an array belong to, such as layers; "update_ratio/conv1.weight".
    """
    numbers: dict[str, float] = {}
    for name, value in values.items():
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if array.ndim == 0:
            numbers[name] = float(array)
        elif array.shape == (len(places),):
            numbers |= {f"{name}/{place}": float(number) for place, number in zip(places, array, strict=True)}
    finite = {name: number for name, number in numbers.items() if np.isfinite(number)}
    for logger in trainer.loggers if finite else ():
        logger.log_metrics(finite, step)
