"""The noise of gradients: by layer, by step against the loss, and its tails beside those of Gaussian noise."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.labels import quantity
from landscape.figures.scales import finite, is_wide, log_x, log_y, number, round_ticks
from landscape.figures.style import (
    BLUE,
    GREY,
    VERMILLION,
    WIDTHS,
    count,
    few_ticks,
    figure_of,
    legend_above,
    new_axes,
    note,
    styled,
    told_apart,
)

_HIGHEST = 3.0  # tail index that is drawn; above 2 it has no meaning but chance
_SURROGATE = 1.96  # standard deviations of the surrogate that are shaded


@styled
def noise_by_layer(answer: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Signal-to-noise ratio of every layer's gradient at one example, on a log axis.

    Args:
        answer: The answer of the probe GradientNoise, with signal_to_noise (layer).
        ax: Where to draw; None makes a new figure.
    """
    ratios = answer["signal_to_noise"].values.astype(float)
    ax = ax or new_axes(float(np.clip(0.8 + 0.13 * len(ratios), 1.6, 6.0)))
    rows = np.arange(len(ratios))
    usable = np.where(ratios > 0, ratios, np.nan)
    ax.plot(usable, rows, "o", color=BLUE, markersize=3, gid="signal to noise")
    ax.hlines(rows, 0, usable, color=BLUE, linewidth=0.6, alpha=0.4)
    ax.set_yticks(rows, told_apart([str(name) for name in answer["layer"].values]), fontsize=5.5)
    ax.invert_yaxis()
    known = finite(usable)
    if known.size:
        log_x(ax, [known.min() / 1.5, known.max() * 1.5], most=4)
    ax.set_xlabel("‖g‖² / noise of one example")
    scale, low, high = (answer[name].item() for name in ("noise_scale", "noise_scale_low", "noise_scale_high"))
    index, gaussian = (
        answer[name].item() if name in answer else np.nan for name in ("tail_index", "tail_index_gaussian")
    )
    missing = count(int((~np.isfinite(usable)).sum()), "layer")
    note(
        ax,
        [
            f"noise scale {number(scale)} examples (95%: {number(low)} to {number(high)})",
            f"tail index {index:.2f}, of Gaussian noise {gaussian:.2f}" if np.isfinite(index) else "",
            f"{missing} without gradient or noise left out" if missing else "",
        ],
    )
    return figure_of(ax)


@styled
def noise_by_step(answer: xr.Dataset) -> Figure:
    """The loss, the noise scale with its interval, and the tail index beside that of Gaussian noise, by step.

    Args:
        answer: The answer of the probe GradientNoise under the callback ProbeEvery.

    Returns:
        A figure of panels that share the x axis: two, or three where tails were estimated.
    """
    has_tails = "tail_index" in answer and finite(answer["tail_index"].values).size > 0
    figure = Figure(figsize=(WIDTHS["single"], 4.4 if has_tails else 3.2), layout="constrained")
    panels = figure.subplots(3 if has_tails else 2, sharex=True)
    for panel in panels:
        few_ticks(panel)
    steps = answer["step"].values
    _line(panels[0], steps, answer["loss"].values, BLUE)
    panels[0].set_ylabel(quantity(answer, "loss"))
    scale, low, high = (
        answer[name].values.astype(float) for name in ("noise_scale", "noise_scale_low", "noise_scale_high")
    )
    _line(panels[1], steps, scale, VERMILLION)
    panels[1].fill_between(steps, np.maximum(low, 1e-12), high, color=VERMILLION, alpha=0.2, linewidth=0)
    panels[1].set_ylabel("Noise scale\n(examples)")
    if has_tails:
        _tails(panels[2], answer)
    panels[-1].set_xlabel("Optimizer step")
    panels[-1].xaxis.set_major_locator(round_ticks(6, integer=True))
    return figure


@styled
def noise_against_loss(answer: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """The noise scale over the loss, point by point along the training, from the first step on the left.

    Args:
        answer: The answer of the probe GradientNoise under the callback ProbeEvery.
        ax: Where to draw; None makes a new figure.
    """
    ax = ax or new_axes(2.3)
    loss, scale = answer["loss"].values.astype(float), answer["noise_scale"].values.astype(float)
    usable = (loss > 0) & (scale > 0) & np.isfinite(loss) & np.isfinite(scale)
    ax.plot(loss[usable], scale[usable], color="0.7", linewidth=0.7, zorder=1)
    steps = np.asarray(answer["step"].values, dtype=float)[usable]
    points = ax.scatter(loss[usable], scale[usable], c=steps, cmap="viridis", s=12, zorder=2, gid="noise")
    if usable.any():
        if is_wide(loss[usable]):
            log_x(ax, loss[usable])
        log_y(ax, scale[usable])
        ax.invert_xaxis()
    ax.set_xlabel(quantity(answer, "loss"))
    ax.set_ylabel("Noise scale (examples)")
    bar = figure_of(ax).colorbar(points, ax=ax, aspect=28, pad=0.02)
    bar.set_label("Optimizer step")
    bar.outline.set_linewidth(0.4)
    left_out = int((~usable).sum())
    note(ax, [f"{count(left_out, 'step')} without a positive noise scale left out" if left_out else ""])
    return figure_of(ax)


def _line(ax: Axes, steps: np.ndarray, values: np.ndarray, colour: str) -> None:
    ax.plot(steps, values, color=colour, marker="o" if len(steps) <= 40 else "", markersize=2.5)
    if is_wide(values):
        log_y(ax, finite(values), most=4)


def _tails(ax: Axes, answer: xr.Dataset) -> None:
    steps = answer["step"].values
    mean, deviation = answer["tail_index_gaussian"].values, answer["tail_index_gaussian_deviation"].values
    reach = _SURROGATE * deviation / mean**2  # of 1/alpha, which is what is estimated, and finite
    low, high = 1 / (1 / mean + reach), 1 / np.maximum(1 / mean - reach, 1 / _HIGHEST)
    ax.fill_between(steps, low, high, color="0.8", linewidth=0, label="Gaussian noise", gid="surrogate")
    ax.plot(steps, answer["tail_index"].values, color=BLUE, marker="o", markersize=2.5, label="by coordinate")
    ax.plot(steps, answer["pooled_tail_index"].values, color=VERMILLION, linewidth=0.8, label="pooled")
    pooled = answer["pooled_tail_index_gaussian"].values
    ax.plot(steps, pooled, color=GREY, linestyle=":", linewidth=0.9, label="pooled, Gaussian")
    ax.set_ylim(top=min(ax.get_ylim()[1], _HIGHEST))
    ax.set_ylabel("Tail index")
    legend_above(ax, columns=2)
