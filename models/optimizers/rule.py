"""What update rules of our own share: they are written where torch has none of that form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

_AT_LEAST_0 = ("lr", "weight_decay", "damping", "momentum_decay")
_BELOW_1 = ("momentum", "alpha", "rho")


class OwnOptimizer(Optimizer, ABC):
    """An update rule, parameter by parameter.

    Where it steps as a class of torch does, up to what the settings `eps_inside`, `bias_correction` and
    `momentum_decay` say, it names that class in `steps_like` and keeps its settings and state under the names that
    torch gives them; `landscape.optimizer_state` then knows its stability.

    Args:
        params: What torch's optimizers take.
        **settings: Of every parameter group, `lr` and `weight_decay` among them. Weight decay is added to the gradient,
            unless `decoupled_weight_decay` is set.

    Raises:
        ValueError: If a setting is out of range.
    """

    steps_like: ClassVar[str] = ""

    def __init__(self, params: Iterable[Any], **settings: Any) -> None:
        require_in_range(type(self).__name__, settings)
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update; a closure is called first, with gradients on, and its loss returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for theta in group["params"]:
                if theta.grad is not None:
                    self.update(theta, self._decayed(theta, group), self.state[theta], group)
        return loss

    @abstractmethod
    def update(self, theta: Tensor, gradient: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """Move one parameter.

        Args:
            theta: The parameter, changed in place.
            gradient: Of its shape, with coupled weight decay.
            state: What the rule remembers of this parameter, empty before its first step.
            group: The settings.
        """

    def take_gradient(self, loss: Tensor) -> None:
        """Differentiate the loss of a step; a rule that needs more than the gradient takes it here."""
        loss.backward()

    def look_back(self) -> None:
        """Return to where the step begins, for a rule whose gradient is taken elsewhere."""

    def _decayed(self, theta: Tensor, group: Mapping[str, Any]) -> Tensor:
        """The gradient with coupled weight decay; decoupled decay is made at once."""
        decay = group["weight_decay"]
        if not decay:
            return theta.grad
        if group.get("decoupled_weight_decay"):
            theta.mul_(1 - group["lr"] * decay)
            return theta.grad
        return theta.grad.add(theta, alpha=decay)


def require_in_range(who: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings that no optimizer could use.

    Raises:
        ValueError: If one is out of range.
    """
    for name, value in settings.items():
        if name in _AT_LEAST_0 and not value >= 0:
            raise ValueError(f"{who} needs {name} >= 0, got {value}")
        if name in _BELOW_1 and not 0 <= value < 1:
            raise ValueError(f"{who} needs {name} in [0, 1), got {value}")
        if name == "betas" and not (len(value) == 2 and all(0 <= beta < 1 for beta in value)):
            raise ValueError(f"{who} needs betas, two numbers in [0, 1), got {value}")
        if name == "eps" and not value > 0:
            raise ValueError(
                f"{who} needs eps > 0, got {value}: without it a weight whose gradient is always zero moves by 0/0; "
                "write a small number such as 1e-30"
            )


def average(state: dict[str, Any], name: str, value: Tensor, decay: float) -> Tensor:
    """Move the exponential average `state[name]`, zero before its first step, toward a value, and return it."""
    if name not in state:
        state[name] = torch.zeros_like(value)
    return state[name].mul_(decay).add_(value, alpha=1 - decay)
