"""Paths between points of parameter space: the barriers along them, and trained curves on which the loss stays low."""

from landscape.paths.barriers import DEFAULT, DEFINITIONS, barrier, barriers, peak, with_barriers
from landscape.paths.connection import Connection
from landscape.paths.curves import Curve
from landscape.paths.planes import CurvePlane

__all__ = [
    "DEFAULT",
    "DEFINITIONS",
    "Connection",
    "Curve",
    "CurvePlane",
    "barrier",
    "barriers",
    "peak",
    "with_barriers",
]
