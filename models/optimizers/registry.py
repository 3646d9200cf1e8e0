"""The registry that optimizers add themselves to, and how one is built.

An optimizer is a function `(parameters, lr, weight_decay, *, options) -> Optimizer` whose keyword-only parameters are
its options; the default of `lr` is the usual one of that rule.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch.optim.optimizer import Optimizer

from models.optimizers.rule import require_in_range
from models.registry import Registry

Betas = tuple[float, float]

OPTIMIZERS = Registry("optimizer")

FULL_BATCH = ("gd",)
"""The optimizers that take all training examples in each step."""


def default_lr(name: str) -> float:
    """Return the usual learning rate of an optimizer."""
    return inspect.signature(OPTIMIZERS[name]).parameters["lr"].default


def build_optimizer(text: str, parameters: Any, lr: float, weight_decay: float = 0.0, **options: Any) -> Optimizer:
    """Build an optimizer.

    Args:
        text: One of `OPTIMIZERS`, alone or with options, as in "adam:amsgrad=true".
        parameters: What torch's optimizers take.
        lr: Learning rate, >= 0.
        weight_decay: Decoupled for "adamw" and "lion", added to the gradient elsewhere.
        **options: Further options of the optimizer.

    Raises:
        ValueError: If the name, an option or a value is not one that the optimizer takes.
    """
    name, options = check_optimizer(text, lr, weight_decay, **options)
    return OPTIMIZERS[name](parameters, lr, weight_decay, **options)


def check_optimizer(text: str, lr: float, weight_decay: float = 0.0, **options: Any) -> tuple[str, dict[str, Any]]:
    """Return an optimizer's name and the options that are given, if it takes them and they are in range.

    Raises:
        ValueError: As `build_optimizer` does; what cannot go together is found only there.
    """
    name, written = OPTIMIZERS.read(text)
    options = {**written, **options}
    OPTIMIZERS.check(name, options)
    require_in_range(f"optimizer {name!r}", {"lr": lr, "weight_decay": weight_decay, **options})
    return name, options
