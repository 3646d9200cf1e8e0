"""Products that survive an interruption."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from landscape.execution import recalled
from landscape.operators.base import LinearOperator


class Resumable(LinearOperator):
    """An operator whose products are kept in the journal of the work at hand.

    A deterministic solver that is run again takes its finished products from there, so it goes on where it was
    interrupted and ends with the same bits.
    """

    def __init__(self, operator: LinearOperator):
        self.operator = operator
        self.size, self.device, self.dtype = operator.size, operator.device, operator.dtype
        self._strategy = "{}"

    @property
    def identity(self) -> str:
        """What tells this matrix from others."""
        return self.operator.identity

    @property
    def strategy(self) -> dict[str, Any]:
        """How products were computed when they were, for the record."""
        return json.loads(self._strategy)

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply K vectors at once, (P, K) -> (P, K), or recall the products."""
        of = self.operator.identity.encode() + V.detach().cpu().contiguous().numpy().tobytes()
        piece = recalled("product", of, lambda: self._computed(V))
        self._strategy = piece["strategy"]
        return torch.from_numpy(piece["HV"]).to(self.device)

    def _computed(self, V: Tensor) -> dict[str, Any]:
        product = self.operator.matmat(V).cpu().numpy()
        return {"HV": product, "strategy": json.dumps(self.operator.strategy)}
