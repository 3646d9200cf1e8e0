"""Paths between points of parameter space: lines, curves on which the loss stays low, and the barriers along them."""

from landscape.paths.alignment import Matching, aligned, match_weights
from landscape.paths.barriers import DEFAULT, DEFINITIONS, barrier, barriers, peak, with_barriers
from landscape.paths.connection import Connection
from landscape.paths.curves import Curve
from landscape.paths.lines import Interpolation
from landscape.paths.matrices import BarrierMatrix
from landscape.paths.planes import CurvePlane
from landscape.paths.tracing import find_units
from landscape.paths.units import Units

__all__ = [
    "DEFAULT",
    "DEFINITIONS",
    "BarrierMatrix",
    "Connection",
    "Curve",
    "CurvePlane",
    "Interpolation",
    "Matching",
    "Units",
    "aligned",
    "barrier",
    "barriers",
    "find_units",
    "match_weights",
    "peak",
    "with_barriers",
]
