"""Figures of sweeps: heat maps, curves over a factor, curves by epoch, parallel coordinates, the factor table."""

from __future__ import annotations

from landscape.figures.sweeps.choosing import draw_sweep
from landscape.figures.sweeps.forest import effect_forest
from landscape.figures.sweeps.heat_maps import heat_map
from landscape.figures.sweeps.lines import factor_curves, training_curves
from landscape.figures.sweeps.parallel import parallel_coordinates

__all__ = ["draw_sweep", "effect_forest", "factor_curves", "heat_map", "parallel_coordinates", "training_curves"]
