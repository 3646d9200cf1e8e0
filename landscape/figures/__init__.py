"""Figures from stored answers alone: the only place that imports matplotlib and plotly.

Functions take answers and return a `matplotlib.figure.Figure` in paper style, a plotly figure, or the content of a
file; none touches pyplot's state.
"""

from __future__ import annotations

from landscape.figures.animations import animation_frames, gif, mp4
from landscape.figures.comparisons import Asked, draw_side_by_side, labels_of, question_of
from landscape.figures.connections import connection, connection_training, curve_plane
from landscape.figures.continual import accuracy_matrices, first_task
from landscape.figures.contours import contour
from landscape.figures.critical import escape, index_against_loss
from landscape.figures.curves import by_step, generic, learning_curves
from landscape.figures.densities import density, log_density
from landscape.figures.descent import descent_curves, descent_map, peaks_by_noise
from landscape.figures.distances import distance_matrices, distance_plane
from landscape.figures.drawing import draw, kind_of
from landscape.figures.dynamics import gradient_flow, update_ratios
from landscape.figures.eigenvalue_maps import eigenvalue_ends, eigenvalue_ratio
from landscape.figures.ensembles import ensemble_growth, reliability
from landscape.figures.files import pictures_among, require_formats, write_files
from landscape.figures.flow import activation_histograms, backpropagated, lost_units, signal_propagation
from landscape.figures.images import image_rows
from landscape.figures.interactive import interactive_surface, interactive_volume, page
from landscape.figures.layers import layer_bars
from landscape.figures.linear_probes import probe_accuracy
from landscape.figures.noise import noise_against_loss, noise_by_layer, noise_by_step
from landscape.figures.panels import contours_side_by_side, seeds_side_by_side, surfaces_side_by_side, train_and_test
from landscape.figures.paths import path_geometry
from landscape.figures.projections import trajectory_loss
from landscape.figures.race_films import interactive_race, race_frames
from landscape.figures.race_outcomes import race_basins, race_online, race_sweep
from landscape.figures.races import race_losses, race_paths
from landscape.figures.reliefs import surface3d
from landscape.figures.search import learning_rate_range, marginals, response_surface
from landscape.figures.sharpness import sharpness_correlations, sharpness_runs, sharpness_table
from landscape.figures.slices import slice_band
from landscape.figures.spectra import eigenvalues
from landscape.figures.spreadsheets import tables
from landscape.figures.stability import overlap_by_rank, overlap_by_step, stability_by_step
from landscape.figures.style import paper_style, save
from landscape.figures.sweeps import (
    draw_sweep,
    effect_forest,
    factor_curves,
    heat_map,
    parallel_coordinates,
    training_curves,
)
from landscape.figures.volumes import volume_slices
from landscape.figures.vtk import surface_vtr, surface_vts, trajectory_vtp, volume_vti

__all__ = [
    "Asked",
    "accuracy_matrices",
    "activation_histograms",
    "animation_frames",
    "backpropagated",
    "by_step",
    "connection",
    "connection_training",
    "contour",
    "contours_side_by_side",
    "curve_plane",
    "density",
    "descent_curves",
    "descent_map",
    "distance_matrices",
    "distance_plane",
    "draw",
    "draw_side_by_side",
    "draw_sweep",
    "effect_forest",
    "eigenvalue_ends",
    "eigenvalue_ratio",
    "eigenvalues",
    "ensemble_growth",
    "escape",
    "factor_curves",
    "first_task",
    "generic",
    "gif",
    "gradient_flow",
    "heat_map",
    "image_rows",
    "index_against_loss",
    "interactive_race",
    "interactive_surface",
    "interactive_volume",
    "kind_of",
    "labels_of",
    "layer_bars",
    "learning_curves",
    "learning_rate_range",
    "log_density",
    "lost_units",
    "marginals",
    "mp4",
    "noise_against_loss",
    "noise_by_layer",
    "noise_by_step",
    "overlap_by_rank",
    "overlap_by_step",
    "page",
    "paper_style",
    "parallel_coordinates",
    "path_geometry",
    "peaks_by_noise",
    "pictures_among",
    "probe_accuracy",
    "question_of",
    "race_basins",
    "race_frames",
    "race_losses",
    "race_online",
    "race_paths",
    "race_sweep",
    "reliability",
    "require_formats",
    "response_surface",
    "save",
    "seeds_side_by_side",
    "sharpness_correlations",
    "sharpness_runs",
    "sharpness_table",
    "signal_propagation",
    "slice_band",
    "stability_by_step",
    "surface3d",
    "surface_vtr",
    "surface_vts",
    "surfaces_side_by_side",
    "tables",
    "train_and_test",
    "training_curves",
    "trajectory_loss",
    "trajectory_vtp",
    "update_ratios",
    "volume_slices",
    "volume_vti",
    "write_files",
]
