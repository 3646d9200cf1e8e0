"""What makes a network draw at random while it trains: dropout, DropConnect, stochastic depth, fractional pooling."""

from __future__ import annotations

from models.regularization import connections, depth, pooling, units  # noqa: F401 (each registers what it builds)
from models.regularization.registry import REGULARIZERS, check_regularization, regularize

__all__ = ["REGULARIZERS", "check_regularization", "regularize"]
