"""Training dynamics layer by layer: how gradients flow, and how far each step moves each weight."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter
from numpy.typing import NDArray

from landscape.figures.scales import finite, log_ticks, log_y, number, round_ticks
from landscape.figures.style import LINES, count, figure_of, legend_above, new_axes, note, styled, told_apart

MOST_COLUMNS = 300  # of a heat map; more steps are averaged in groups
MOST_POINTS = 100  # of a line; more steps become medians of groups
GUIDE = 1e-3  # update over weight; the usual rule of thumb for a healthy learning rate


@styled
def gradient_flow(training: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """A heat map of log10 of every layer's gradient norm, by step; the layer nearest the input is at the top.

    With more than 300 steps, each column is the mean of log10 over a group of steps. Zero and non-finite norms have
    no logarithm; they stay grey and are counted.

    Args:
        training: The answer `training` of the callback TrainingDynamics, with layer_gradient_norm (step, layer).
        ax: Where to draw; None makes a new figure.

    Returns:
        The figure.
    """
    norms = training["layer_gradient_norm"].transpose("step", "layer")
    ax = ax or new_axes(heat_map_height(norms.sizes["layer"]))
    heat_map(ax, norms, "Gradient norm")
    return figure_of(ax)


def heat_map_height(places: int) -> float:
    """Inches of a heat map with a row for each place."""
    return float(np.clip(1.0 + 0.12 * places, 1.6, 4.2))


def heat_map(ax: Axes, values: xr.DataArray, label: str, is_share: bool = False) -> None:
    """Draw values (step, place) by colour: log10 of norms, or shares from 0 to 1 as they are.

    What cannot be drawn stays grey; it is counted in a note, but for shares, where it means that a place has none.
    """
    places = values.dims[1]
    columns, edges, group = _columns(values, is_share)
    ax.set_facecolor("0.85")
    shown = np.ma.masked_invalid(columns).T
    colours = "magma_r" if is_share else "cividis"
    mesh = ax.pcolormesh(edges, np.arange(values.sizes[places] + 1) - 0.5, shown, cmap=colours)
    mesh.set_rasterized(True)
    if is_share or not finite(columns).size:
        mesh.set_clim(0, 1)
    ax.invert_yaxis()
    _name_layers(ax, [str(name) for name in values[places].values])
    ax.set_xlabel("Optimizer step")
    ax.xaxis.set_major_locator(round_ticks(6, integer=True))
    bar = figure_of(ax).colorbar(mesh, ax=ax, aspect=28, pad=0.02)
    bar.set_label(label)
    if not is_share:
        low, high = (10.0**end for end in mesh.get_clim())
        bar.ax.yaxis.set_major_locator(FixedLocator(np.log10(log_ticks(low, high, 5)).tolist()))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(_power))
    bar.outline.set_linewidth(0.4)
    averaged = f"each column: mean of {'' if is_share else 'log10 '}over {group} steps" if group > 1 else ""
    note(ax, ["" if is_share else _missing_note(values.values), averaged])


def _power(exponent: float, _position: object = None) -> str:
    return number(10.0**exponent)


def _columns(values: xr.DataArray, is_share: bool) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """What is drawn by column and place (NaN for nothing), the columns' edges in steps, and steps per column."""
    steps = np.asarray(values[values.dims[0]].values, dtype=float)
    drawn = np.asarray(values.values, dtype=float) if is_share else _log10(values.values)
    group = -(-len(steps) // MOST_COLUMNS)
    starts = np.arange(0, len(steps), group)
    columns = np.array([_mean(drawn[start : start + group]) for start in starts])
    spacing = float(np.median(np.diff(steps))) if len(steps) > 1 else 1.0
    edges = np.append(steps[starts] - spacing / 2, steps[-1] + spacing / 2)
    return columns, edges, group


def _mean(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over rows of what is finite; NaN where nothing is."""
    known = np.isfinite(rows)
    total = np.where(known, rows, 0.0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


def _log10(values: NDArray[np.float64]) -> NDArray[np.float64]:
    values = np.asarray(values, dtype=float)
    usable = np.isfinite(values) & (values > 0)
    return np.where(usable, np.log10(np.where(usable, values, 1.0)), np.nan)


def _missing_note(values: NDArray[np.float64]) -> str:
    zero, broken = int((values == 0).sum()), int((~np.isfinite(values)).sum())
    parts = [count(zero, "zero value"), count(broken, "non-finite value")]
    return " and ".join(part for part in parts if part) + " (grey where a cell has no other)" if zero or broken else ""


def _name_layers(ax: Axes, names: list[str], most: int = 26) -> None:
    """Write as many layer names as fit."""
    names = told_apart(names)
    shown = range(0, len(names), -(-len(names) // most))
    ax.set_yticks(list(shown), [names[i] for i in shown], fontsize=5.5)


@styled
def update_ratios(training: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """How far each step moved each layer, ‖Δθ‖/‖θ‖ on a log axis, with the guide at 1e-3.

    With more than 100 steps, a point is the median of a group of steps. Up to six layers are told apart by
    name; more are coloured by depth.

    Args:
        training: The answer `training` of the callback TrainingDynamics, with update_ratio (step, layer).
        ax: Where to draw; None makes a new figure.

    Returns:
        The figure.

    References:
        The rule of thumb "around 1e-3": Karpathy, CS231n notes, "Neural Networks Part 3", section "Ratio of
        weights:updates".
    """
    ratios = training["update_ratio"].transpose("step", "layer")
    ax = ax or new_axes(2.3)
    names = [str(name) for name in ratios["layer"].values]
    steps, middle, group = _points(ratios)
    by_depth = len(names) > 6
    colours = colormaps["viridis"](np.linspace(0, 0.92, len(names))) if by_depth else LINES
    for index, (name, label) in enumerate(zip(names, told_apart(names, 16), strict=True)):
        ax.plot(
            steps,
            middle[:, index],
            color=colours[index],
            linewidth=0.7 if by_depth else 1,
            marker="o" if len(steps) == 1 else "",
            label=None if by_depth else label,
            gid=name,
        )
    ax.axhline(GUIDE, color="black", linestyle="--", linewidth=0.8, label="1e-3 guide", gid="guide")
    log_y(ax, [*middle.ravel(), GUIDE / 2, GUIDE * 2])
    ax.set_xlabel("Optimizer step")
    ax.xaxis.set_major_locator(round_ticks(6, integer=True))
    ax.set_ylabel("Update / weight, ‖Δθ‖ / ‖θ‖")
    if by_depth:
        _depth_bar(ax, names)
    legend_above(ax, columns=2)
    missing = int((~(np.isfinite(ratios.values) & (ratios.values > 0))).sum())
    note(
        ax,
        [
            f"each point: median of {group} steps" if group > 1 else "",
            f"{count(missing, 'zero or non-finite ratio')} left out" if missing else "",
        ],
    )
    return figure_of(ax)


def _points(ratios: xr.DataArray) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Middle steps of the groups, (group, layer) median ratio in them (NaN for none above 0), steps per group."""
    steps = np.asarray(ratios["step"].values, dtype=float)
    logs = _log10(ratios.values)
    group = -(-len(steps) // MOST_POINTS)
    cuts = np.arange(0, len(steps), group)
    middles = np.array([steps[cut : cut + group].mean() for cut in cuts])
    return middles, 10.0 ** np.array([_median(logs[cut : cut + group]) for cut in cuts]), group


def _median(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    columns = (column[np.isfinite(column)] for column in rows.T)
    return np.array([np.median(column) if column.size else np.nan for column in columns])


def _depth_bar(ax: Axes, names: list[str]) -> None:
    """A colour bar from the first to the last layer."""
    colours = colormaps["viridis"].resampled(256)
    scale = ScalarMappable(Normalize(1, (len(names) - 1) / 0.92 + 1), colours)
    bar = figure_of(ax).colorbar(scale, ax=ax, aspect=28, pad=0.02)
    bar.ax.set_ylim(len(names), 1)
    bar.set_ticks([1, len(names)], labels=["first", "last"])
    bar.set_label(f"{len(names)} layers by depth", labelpad=-8)
    bar.outline.set_linewidth(0.4)
