"""Where the gradient vanishes: searches for critical points, and the methods of Newton's kind."""

from landscape.critical.newton import (
    Descent,
    decomposed,
    gradient_descent,
    newton,
    newton_step,
    saddle_free_newton,
)
from landscape.critical.search import CriticalPointSearch, find_critical_point

__all__ = [
    "CriticalPointSearch",
    "Descent",
    "decomposed",
    "find_critical_point",
    "gradient_descent",
    "newton",
    "newton_step",
    "saddle_free_newton",
]
