"""Which figures an answer gets."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from landscape.figures.averages import averaging, averaging_differences, rays
from landscape.figures.barriers import barrier_matrix, fork_instability, path_curves
from landscape.figures.connections import connection, connection_training, curve_plane
from landscape.figures.continual import accuracy_matrices, first_task
from landscape.figures.contours import contour
from landscape.figures.critical import escape
from landscape.figures.curves import by_step, generic, learning_curves, lines_by_step
from landscape.figures.densities import density, log_density
from landscape.figures.descent import descent_curves, descent_map, peaks_by_noise
from landscape.figures.distances import distance_matrices, distance_plane
from landscape.figures.dynamics import gradient_flow, update_ratios
from landscape.figures.eigenvalue_maps import eigenvalue_ends, eigenvalue_ratio
from landscape.figures.ensembles import ensemble_growth, reliability
from landscape.figures.flow import activation_histograms, backpropagated, loses_units, lost_units, signal_propagation
from landscape.figures.layers import layer_bars
from landscape.figures.linear_probes import probe_accuracy
from landscape.figures.noise import noise_against_loss, noise_by_layer, noise_by_step
from landscape.figures.panels import seeds_side_by_side, train_and_test
from landscape.figures.paths import path_geometry
from landscape.figures.projections import trajectory_loss
from landscape.figures.race_outcomes import race_basins, race_online, race_sweep
from landscape.figures.races import race_losses, race_paths
from landscape.figures.reliefs import surface3d
from landscape.figures.search import has_response_surface, learning_rate_range, marginals, response_surface
from landscape.figures.sharpness import sharpness_correlations, sharpness_runs, sharpness_table
from landscape.figures.slices import slice_band
from landscape.figures.spectra import eigenvalues
from landscape.figures.stability import overlap_by_rank, overlap_by_step, stability_by_step
from landscape.figures.style import Width
from landscape.figures.sweeps import draw_sweep, effect_forest
from landscape.figures.trajectories import trajectory_of
from landscape.figures.volumes import volume_slices

MOST_GENERIC = 12  # figures of one answer of somebody's own probe


def draw(answer: xr.Dataset, name: str = "", width: Width = "single") -> dict[str, Figure]:
    """Every figure of an answer, by figure name.

    An answer is known by the probe it names and by the variables it has. One by somebody's own probe gets a plain
    figure for each numeric variable with one dimension, and none if it has no such variable.

    Args:
        answer: A stored answer.
        name: Its name in the store, such as "training" or "surface-1a2b3c4d5e6f".
        width: How many columns of a paper figures of several panels fill; all others are one column wide.

    Returns:
        Figures by names that fit into file names, in the order to show them.
    """
    kind = kind_of(answer, name)
    if kind in _OF_PANELS:
        return _OF_PANELS[kind](answer, width)
    draw_known = _KNOWN.get(kind)
    return draw_known(answer) if draw_known else _generic(answer)


def kind_of(answer: xr.Dataset, name: str = "") -> str:
    """What an answer is, judged by its probe or its name and checked by its variables; "other" if none of ours."""
    probe = re.split(r"[.:]", str(answer.attrs.get("probe", "")))[-1].lower()
    words = {probe, name.split("-")[0].lower()}
    words |= {"volume"} if "surface" in words else set()
    for kind, variables in _NEEDED_BY_STEP.items():
        if probe == kind.removesuffix("-by-step") and all(v in answer and "step" in answer[v].dims for v in variables):
            return kind
    if "step" in answer.dims and ("by-step" in name or words & _ALSO_BY_STEP):
        return "by-step"
    for kind, needed in _NEEDED.items():
        if kind in words and all(
            variable in answer and dims <= set(answer[variable].dims) for variable, dims in needed
        ):
            return kind
    return "other"


_ALSO_BY_STEP = {"slice", "surface", "spectrum", "critical-point", "sharpness"}

_NEEDED: dict[str, list[tuple[str, set[str]]]] = {
    "slice": [("loss", {"alpha"})],
    "volume": [("loss", {"alpha", "beta", "gamma"})],
    "curvature-surface": [
        ("loss", {"alpha", "beta"}),
        ("eigenvalue_ratio", {"alpha", "beta"}),
        ("largest_eigenvalue", {"alpha", "beta"}),
        ("smallest_eigenvalue", {"alpha", "beta"}),
    ],
    "surface": [("loss", {"alpha", "beta"})],
    "spectrum": [("eigenvalue", {"end", "rank"})],
    "critical-point": [
        ("loss", {"alpha"}),
        ("quadratic_loss", {"alpha"}),
        ("eigenvalue", {"end", "rank"}),
        ("index_fraction", set()),
        ("index_fraction_lower", set()),
    ],
    "ensemble": [("growth_mean", {"size", "score"}), ("accuracy", {"prediction", "bin"})],
    "sharpness-report": [("correlation", {"measure", "scope"}), ("value", {"run", "measure"})],
    "sharpness": [("value", {"measure"}), ("first_order_share", {"measure"})],
    "spectral-density": [("density", {"curvature"}), ("log_density_positive", {"magnitude"})],
    "layers": [("trace", {"layer"})],
    "subspace-overlap": [
        ("overlap_by_rank", {"rank"}),
        ("minibatch_overlap_by_rank", {"rank"}),
        ("minibatch_overlap_by_rank_standard_error", {"rank"}),
        ("overlap_error", set()),
        ("chance", set()),
    ],
    "connection": [("loss", {"path", "t"}), ("length", {"path"}), ("step_loss", {"step"})],
    "curve-plane": [("loss", {"alpha", "beta"}), ("curve_alpha", {"t"}), ("control_alpha", {"control"})],
    "interpolation": [("loss", {"path", "alpha"}), ("barrier", {"path", "metric", "definition"})],
    "barrier-matrix": [("barrier", {"path", "run", "other", "metric", "definition"})],
    "fork": [("barrier", {"fork_step", "seed", "pair", "metric", "definition"}), ("instability", {"fork_step"})],
    "continual": [("accuracy", {"strategy", "seed", "after", "task"})],
    "linear-probes": [("accuracy", {"amount", "layer"}), ("chance", set())],
    "lr-range": [("learning_rate", {"step"}), ("smoothed_loss", {"step"})],
    "sweep": [("status", set()), ("run", set())],
    "distances": [("distance", {"point", "other"}), ("plane", {"point", "component"})],
    "effects": [("estimate", {"effect"}), ("share", {"source"})],
    "search": [("objective", {"trial"}), ("importance", {"parameter"})],
    "double-descent": [("test_loss", {"arm", "noise", "size", "seed"}), ("threshold", {"noise", "criterion"})],
    "gradient-noise": [("signal_to_noise", {"layer"}), ("noise_scale", set())],
    "race": [("path", {"optimizer", "step", "coordinate"}), ("surface", {"w1", "w2"})],
    "race-sweep": [("goal_step", {"optimizer", "lr"}), ("escape_step", {"optimizer", "lr"})],
    "race-basins": [("ended_as", {"optimizer", "start"}), ("surface", {"w1", "w2"})],
    "race-online": [("x", {"optimizer", "step"}), ("regret", {"optimizer", "step"})],
    "swa": [("plane", {"metric", "x", "y"}), ("rise", {"seed", "point"}), ("line", {"seed", "reference", "alpha"})],
    "rays": [("loss_rise", {"ray", "radius"}), ("mean_loss_rise", {"radius"})],
    "training": [("loss", {"step"})],
    "trajectory": [("theta", {"snapshot"})],
}

_NEEDED_BY_STEP = {
    "gradient-noise-by-step": ("loss", "noise_scale", "noise_scale_low", "noise_scale_high"),
    "stability-by-step": ("loss", "ratio", "ratio_residual"),
    "subspace-overlap-by-step": (
        "overlap",
        "minibatch_overlap",
        "minibatch_overlap_standard_error",
        "minibatch_control_overlap",
        "overlap_error",
        "chance",
    ),
}


def _slice(answer: xr.Dataset) -> dict[str, Figure]:
    figures = {"slice": slice_band(answer)}
    if "accuracy" in answer:
        figures["slice-accuracy"] = slice_band(answer, metric="accuracy")
    return figures


def _surface(answer: xr.Dataset, width: Width) -> dict[str, Figure]:
    if min(answer.sizes["alpha"], answer.sizes["beta"]) < 2:
        return {}
    seeds = range(answer.sizes.get("seed", 1))
    several = {"contour-seeds": seeds_side_by_side(answer, width=width)} if len(seeds) > 1 else {}
    names = ["contour" if len(seeds) == 1 else f"contour-seed{seed}" for seed in seeds]
    return (
        several
        | {name: contour(answer, seed=seed) for name, seed in zip(names, seeds, strict=True)}
        | {"surface3d": surface3d(answer)}
        | ({"loss-and-test": train_and_test(answer, width=width)} if "test_loss" in answer else {})
        | _error(answer, width)
        | ({"trajectory-loss": trajectory_loss(answer)} if _is_path(answer) else {})
    )


def _error(answer: xr.Dataset, width: Width) -> dict[str, Figure]:
    if "accuracy" not in answer:
        return {}
    is_tested = "test_accuracy" in answer
    return {
        "error": train_and_test(answer, metric="error", width=width) if is_tested else contour(answer, metric="error")
    }


def _is_path(answer: xr.Dataset) -> bool:
    trajectory = trajectory_of(answer)
    return trajectory is not None and trajectory.is_path and "trajectory_loss" in answer


def _curvature_surface(answer: xr.Dataset, width: Width) -> dict[str, Figure]:
    if min(answer.sizes["alpha"], answer.sizes["beta"]) < 2:
        return {}
    return {"eigenvalue-ratio": eigenvalue_ratio(answer), "eigenvalue-ends": eigenvalue_ends(answer, width=width)}


def _volume(answer: xr.Dataset, width: Width) -> dict[str, Figure]:
    is_thin = min(answer.sizes[axis] for axis in ("alpha", "beta", "gamma")) < 2
    return {} if is_thin else {"volume": volume_slices(answer, width=width)}


def _curve_plane(answer: xr.Dataset) -> dict[str, Figure]:
    error = {"plane-error": curve_plane(answer, metric="error")} if "accuracy" in answer else {}
    return {"plane": curve_plane(answer), **error}


def _training(answer: xr.Dataset) -> dict[str, Figure]:
    figures = {"learning-curves": learning_curves(answer)}
    if "layer_gradient_norm" in answer and answer.sizes.get("layer"):
        figures["gradient-flow"] = gradient_flow(answer)
    if "update_ratio" in answer and answer.sizes.get("layer"):
        figures["update-ratios"] = update_ratios(answer)
    if answer.sizes.get("step") and "turn_cosine" in answer:
        figures["path"] = path_geometry(answer)
    return figures | (_flow(answer) if answer.sizes.get("flow_step") else {})


def _flow(answer: xr.Dataset) -> dict[str, Figure]:
    figures = {"backpropagated": backpropagated(answer), "signal-propagation": signal_propagation(answer)}
    if answer.sizes["activation"]:
        figures["activations"] = activation_histograms(answer)
    if loses_units(answer):
        figures["lost-units"] = lost_units(answer)
    return figures


def _double_descent(answer: xr.Dataset, width: Width) -> dict[str, Figure]:
    has_map = "epoch_test_error" in answer and answer.sizes["epoch"] > 1
    return (
        {"double-descent": descent_curves(answer, width=width)}
        | ({"peaks-by-noise": peaks_by_noise(answer)} if "noise_correlation" in answer else {})
        | ({"descent-map": descent_map(answer, width=width)} if has_map else {})
    )


def _search(answer: xr.Dataset) -> dict[str, Figure]:
    plane = {"response-surface": response_surface(answer)} if has_response_surface(answer) else {}
    return {"marginals": marginals(answer), **plane}


def _sharpness_report(report: xr.Dataset) -> dict[str, Figure]:
    outcomes = [str(name) for name in report["outcome"].values]
    return {"sharpness-runs": sharpness_runs(report)} | {
        f"correlations-{name.replace('_', '-')}": sharpness_correlations(report, outcome=name) for name in outcomes
    }


def _by_step(answer: xr.Dataset) -> dict[str, Figure]:
    return {"by-step": by_step(answer)} if lines_by_step(answer) else {}


def _generic(answer: xr.Dataset) -> dict[str, Figure]:
    names = [
        str(name)
        for name, variable in answer.data_vars.items()
        if variable.ndim == 1
        and variable.dtype.kind in "fiu"
        and variable.size > 1
        and not str(name).endswith("_standard_error")
        and np.isfinite(variable.values).any()
    ]
    return {re.sub(r"[^\w-]+", "-", name)[:60]: generic(answer, name) for name in names[:MOST_GENERIC]}


_OF_PANELS: dict[str, Callable[[xr.Dataset, Width], dict[str, Figure]]] = {
    "surface": _surface,
    "curvature-surface": _curvature_surface,
    "volume": _volume,
    "double-descent": _double_descent,
    "interpolation": lambda answer, width: {"path": path_curves(answer, width=width)},
    "barrier-matrix": lambda answer, width: {"barriers": barrier_matrix(answer, width=width)},
    "race-basins": lambda answer, width: {"ends": race_basins(answer, width=width)},
}
_KNOWN: dict[str, Callable[[xr.Dataset], dict[str, Figure]]] = {
    "slice": _slice,
    "spectrum": lambda answer: {"eigenvalues": eigenvalues(answer)},
    "critical-point": lambda answer: {"escape": escape(answer), "eigenvalues": eigenvalues(answer)},
    "sharpness": lambda answer: {"sharpness": sharpness_table(answer)},
    "sharpness-report": _sharpness_report,
    "ensemble": lambda answer: {"growth": ensemble_growth(answer), "reliability": reliability(answer)},
    "spectral-density": lambda answer: {"log-density": log_density(answer), "density": density(answer)},
    "layers": lambda answer: {"layer-bars": layer_bars(answer)} if answer.sizes["layer"] else {},
    "stability-by-step": lambda answer: {"stability-by-step": stability_by_step(answer)},
    "subspace-overlap": lambda answer: {"overlap-by-rank": overlap_by_rank(answer)},
    "subspace-overlap-by-step": lambda answer: {"overlap-by-step": overlap_by_step(answer)},
    "connection": lambda answer: {"profile": connection(answer), "descent": connection_training(answer)},
    "curve-plane": _curve_plane,
    "continual": lambda answer: {"accuracy-matrices": accuracy_matrices(answer), "first-task": first_task(answer)},
    "fork": lambda answer: {"instability": fork_instability(answer)},
    "gradient-noise": lambda answer: {"noise-by-layer": noise_by_layer(answer)},
    "gradient-noise-by-step": lambda answer: {
        "noise-by-step": noise_by_step(answer),
        "noise-against-loss": noise_against_loss(answer),
    },
    "linear-probes": lambda answer: {"accuracy-by-layer": probe_accuracy(answer)},
    "lr-range": lambda answer: {"lr-range": learning_rate_range(answer)},
    "search": _search,
    "sweep": draw_sweep,
    "distances": lambda answer: {"matrices": distance_matrices(answer), "principal-plane": distance_plane(answer)},
    "effects": lambda answer: {"effects": effect_forest(answer)},
    "race": lambda answer: {"paths": race_paths(answer), "losses": race_losses(answer)},
    "race-sweep": lambda answer: {"steps-by-rate": race_sweep(answer)},
    "race-online": lambda answer: {"online": race_online(answer)},
    "swa": lambda answer: {"averages": averaging(answer), "differences": averaging_differences(answer)},
    "rays": lambda answer: {"rays": rays(answer)},
    "training": _training,
    "trajectory": lambda answer: {},
    "by-step": _by_step,
}
