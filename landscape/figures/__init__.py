"""Figures from stored answers alone: the only place that imports matplotlib and plotly.

Every function takes an answer and returns a `matplotlib.figure.Figure` in paper style; none touches pyplot's state.
"""

from __future__ import annotations

from landscape.figures.contours import contour
from landscape.figures.critical import escape, index_against_loss
from landscape.figures.curves import by_step, generic, learning_curves
from landscape.figures.densities import density, log_density
from landscape.figures.drawing import draw, kind_of
from landscape.figures.dynamics import gradient_flow, update_ratios
from landscape.figures.interactive import interactive_surface
from landscape.figures.layers import layer_bars
from landscape.figures.reliefs import surface3d
from landscape.figures.sharpness import sharpness_correlations, sharpness_runs, sharpness_table
from landscape.figures.slices import slice_band
from landscape.figures.spectra import eigenvalues
from landscape.figures.stability import overlap_by_rank, overlap_by_step, stability_by_step
from landscape.figures.style import paper_style, save

__all__ = [
    "by_step",
    "contour",
    "density",
    "draw",
    "eigenvalues",
    "escape",
    "generic",
    "gradient_flow",
    "index_against_loss",
    "interactive_surface",
    "kind_of",
    "layer_bars",
    "learning_curves",
    "log_density",
    "overlap_by_rank",
    "overlap_by_step",
    "paper_style",
    "save",
    "sharpness_correlations",
    "sharpness_runs",
    "sharpness_table",
    "slice_band",
    "stability_by_step",
    "surface3d",
    "update_ratios",
]
