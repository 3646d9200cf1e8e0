"""Paths between points of parameter space, and the barriers along them."""

from landscape.paths.barriers import DEFAULT, DEFINITIONS, barrier, barriers, peak, with_barriers

__all__ = ["DEFAULT", "DEFINITIONS", "barrier", "barriers", "peak", "with_barriers"]
