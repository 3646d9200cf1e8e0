"""What flowed through a network while it was trained: activations forward, gradients backward, units that are lost."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.dynamics import heat_map, heat_map_height
from landscape.figures.scales import finite, log_y, number, round_ticks
from landscape.figures.style import (
    LINES,
    WIDTHS,
    few_ticks,
    figure_of,
    legend_above,
    new_axes,
    note,
    styled,
    told_apart,
)

_SHARES = {"dead_share": "Dead units", "saturated_share": "Saturated outputs", "dormant_share": "Dormant units"}
_MOST_PANELS = 8
_MOST_RIDGES = 7


@styled
def backpropagated(training: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """A heat map of log10 of the norm of the gradient by each module's output, by step; the input is at the top.

    Args:
        training: The answer `training`, with backpropagated_norm (flow_step, module).
        ax: Where to draw; None makes a new figure.
    """
    norms = _by_depth(training, "backpropagated_norm")
    ax = ax or new_axes(heat_map_height(norms.sizes["module"]))
    heat_map(ax, norms, "Gradient by output, norm")
    return figure_of(ax)


@styled
def signal_propagation(training: xr.Dataset) -> Figure:
    """Variance of each module's output, and norm of the gradient by it, over depth, at the first, middle and last step.

    Args:
        training: The answer `training`, with output_variance and backpropagated_norm (flow_step, module).

    Returns:
        A figure of two panels that share the x axis; the note gives the slope of the gradient over depth.
    """
    figure = Figure(figsize=(WIDTHS["single"], 3.4), layout="constrained")
    panels = figure.subplots(2, sharex=True)
    steps = training["flow_step"].values
    chosen = sorted({0, len(steps) // 2, len(steps) - 1})
    for panel, name, label in zip(
        panels,
        ("output_variance", "backpropagated_norm"),
        ("Variance of output", "Gradient by output,\nnorm"),
        strict=True,
    ):
        few_ticks(panel)
        values = _by_depth(training, name).values.astype(float)
        for colour, index in zip(LINES, chosen, strict=False):
            row = np.where(values[index] > 0, values[index], np.nan)
            depth = np.arange(1, len(row) + 1)
            panel.plot(depth, row, color=colour, marker="o", markersize=2.5, label=f"step {steps[index]}", gid=name)
        usable = finite(values[chosen])
        if (usable > 0).any():
            log_y(panel, usable[usable > 0], most=5)
        panel.set_ylabel(label)
    panels[-1].set_xlabel("Layer, from the input")
    panels[-1].xaxis.set_major_locator(round_ticks(8, integer=True))
    legend_above(panels[0])
    slopes = [f"{number(10 ** training['gradient_slope'].values[i])} at step {steps[i]}" for i in chosen]
    note(
        panels[-1], [f"on its way from the loss to the input the gradient is multiplied a layer by {', '.join(slopes)}"]
    )
    return figure


@styled
def lost_units(training: xr.Dataset) -> Figure:
    """Heat maps of the shares of units that are dead or dormant and of outputs that are saturated, by step.

    Args:
        training: The answer `training`, with the shares (flow_step, activation).

    Returns:
        A figure with a panel for each share that is above zero somewhere.

    Raises:
        ValueError: If none is; see `loses_units`.
    """
    shares = {name: label for name, label in _SHARES.items() if finite(training[name].values).max(initial=0.0) > 0}
    if not shares:
        raise ValueError("expected units that are dead, dormant or saturated; this training has none to draw")
    places = [np.isfinite(training[name].values).any(0) for name in shares]
    heights = [heat_map_height(int(known.sum())) for known in places]
    figure = Figure(figsize=(WIDTHS["single"], sum(heights)), layout="constrained")
    panels = figure.subplots(len(shares), height_ratios=heights, squeeze=False).ravel()
    for panel, (name, label), known in zip(panels, shares.items(), places, strict=True):
        few_ticks(panel)
        heat_map(
            panel, training[name].transpose("flow_step", "activation").isel(activation=known), label, is_share=True
        )
    return figure


def loses_units(training: xr.Dataset) -> bool:
    """Whether any unit is dead or dormant, or any output saturated, at any step."""
    return any(finite(training[name].values).max(initial=0.0) > 0 for name in _SHARES)


@styled
def activation_histograms(training: xr.Dataset) -> Figure:
    """Ridgelines of the distribution of each activation's outputs, the first step at the bottom.

    Of more than eight activations eight are shown, evenly over depth; of more than seven steps seven. Heights are the
    square root of the share in a bin, over the largest: a spike at zero would otherwise hide the rest.

    Args:
        training: The answer `training`, with histogram (flow_step, activation, bin).

    Returns:
        A figure with a panel for each activation.
    """
    total, num_steps = training.sizes["activation"], training.sizes["flow_step"]
    chosen = np.unique(np.linspace(0, total - 1, min(total, _MOST_PANELS)).round().astype(int))
    rows = -(-len(chosen) // 2)
    figure = Figure(figsize=(WIDTHS["single"], 0.35 + 1.25 * rows), layout="constrained")
    panels = figure.subplots(rows, min(2, len(chosen)), squeeze=False).ravel()
    names = told_apart([str(name) for name in training["activation"].values[chosen]], 20)
    steps = np.unique(np.linspace(0, num_steps - 1, min(num_steps, _MOST_RIDGES)).round().astype(int))
    for panel, index, name in zip(panels, chosen, names, strict=False):
        _ridges(panel, training.isel(activation=index, flow_step=steps))
        panel.set_title(name, fontsize=6.5, pad=2)
    for panel in panels[len(chosen) :]:
        panel.set_axis_off()
    few = f"; {len(chosen)} of {total} activations" if total > len(chosen) else ""
    figure.supxlabel(f"Output of the activation (height: square root of share{few})", fontsize=6.5)
    figure.supylabel("Optimizer step", fontsize=6.5)
    return figure


def _ridges(ax: Axes, answer: xr.Dataset) -> None:
    """One filled line a step, each raised by one above the one before."""
    steps = answer["flow_step"].values
    ends = finite([*answer["histogram_low"].values, *answer["histogram_high"].values])
    least = 0.01 * (np.ptp(ends) if ends.size and np.ptp(ends) > 0 else 1.0)  # outputs that are all equal are a line
    colours = colormaps["viridis"](np.linspace(0, 0.85, len(steps)))
    for row, (step, colour) in enumerate(zip(steps, colours, strict=True)):
        one = answer.sel(flow_step=step)
        low, high = one["histogram_low"].item(), one["histogram_high"].item()
        shares = one["histogram"].values.astype(float)
        if not np.isfinite([low, high]).all() or not finite(shares).size:
            continue
        edges = np.linspace(low, max(high, low + least), len(shares) + 1)
        shares = np.full(len(shares), shares.max()) if high - low < least else shares
        ridge = 0.9 * np.sqrt(shares / max(shares.max(), 1e-12))
        ax.stairs(ridge + row, edges, baseline=row, fill=True, color=colour)
    ax.set_yticks(range(len(steps)), [number(step) for step in steps], fontsize=5.5)
    ax.xaxis.set_major_locator(round_ticks(4))
    ax.set_ylim(-0.1, len(steps))


def _by_depth(training: xr.Dataset, name: str) -> xr.DataArray:
    """(flow_step, module) in the order in which the pass came by; modules that it never reached are left out."""
    depth = training["depth"].values
    order = [index for index in np.argsort(depth, kind="stable") if depth[index] >= 0]
    return training[name].transpose("flow_step", "module").isel(module=order)
