"""Paths between points of parameter space: what the loss is along them, and where it stays low."""

from landscape.paths.connection import Connection
from landscape.paths.curves import Curve
from landscape.paths.planes import CurvePlane

__all__ = ["Connection", "Curve", "CurvePlane"]
