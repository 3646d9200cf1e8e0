"""How near the edge of stability a training is, and how much of its gradient lies along the top eigenvectors."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from landscape.figures.labels import quantity
from landscape.figures.scales import finite, is_wide, log_y, round_ticks
from landscape.figures.style import (
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    VERMILLION,
    WIDTHS,
    count,
    few_ticks,
    figure_of,
    legend_above,
    new_axes,
    note,
    styled,
)
from landscape.text import clean

_MARKED = 40  # points of a curve that still get a dot each


@styled
def stability_by_step(answer: xr.Dataset) -> Figure:
    """The loss over steps, and below it sharpness over threshold with the edge of stability at 1.

    Args:
        answer: The answer of the probe Stability under the callback ProbeEvery.

    Returns:
        A figure of two panels that share the x axis.
    """
    figure = Figure(figsize=(WIDTHS["single"], 3.4), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(2, 3))
    few_ticks(upper)
    few_ticks(lower)
    loss, ratio = _values(answer, "loss"), _values(answer, "ratio")
    upper.plot(answer["step"].values, loss, color=BLUE, gid="loss")
    if is_wide(loss):
        log_y(upper, loss, most=5)
    upper.set_ylabel(quantity(answer, "loss"))
    _curve(lower, answer, "ratio", "largest eigenvalue ± residual", VERMILLION, "ratio_residual")
    lower.axhline(1, color=GREY, linestyle="--", linewidth=0.8, label="edge of stability", gid="edge", zorder=0)
    lower.set_ylim(bottom=min(0.0, finite(ratio).min(initial=0.0)))
    lower.set_ylabel("Sharpness / threshold")
    lower.set_xlabel("Optimizer step")
    lower.xaxis.set_major_locator(round_ticks(6, integer=True))
    legend_above(lower, columns=2)
    broken = ratio.size - finite(ratio).size
    missing = f"{count(broken, 'step')} without a ratio: the optimizer had made no step yet, or it is not finite"
    open_ends = _not_converged(answer)
    note(
        lower,
        [
            clean(answer.attrs.get("algorithm", "")),
            missing if broken else "",
            f"{count(open_ends, 'eigenvalue')} not converged" if open_ends else "",
        ],
    )
    return figure


@styled
def overlap_by_step(answer: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """The share of the gradient in the top eigenspace over steps, full-batch and mini-batch, with what chance gives.

    Args:
        answer: The answer of the probe SubspaceOverlap under the callback ProbeEvery.
        ax: Where to draw; None makes a new figure.

    Returns:
        The figure.
    """
    ax = ax or new_axes(2.3)
    _curve(ax, answer, "overlap", "full gradient", BLUE)
    error = "minibatch_overlap_standard_error"
    _curve(ax, answer, "minibatch_overlap", "mini-batches ± s.e.", VERMILLION, error)
    if "overlap_with_previous" in answer:
        _curve(ax, answer, "overlap_with_previous", "space vs before", GREEN, style=":")
    _curve(ax, answer, "minibatch_control_overlap", "random subspace", PURPLE, style="-.")
    chance = _values(answer, "chance")
    ax.plot(answer["step"].values, chance, color=GREY, linestyle="--", linewidth=0.8, label="chance k/n", gid="chance")
    ax.set_xlabel("Optimizer step")
    ax.xaxis.set_major_locator(round_ticks(6, integer=True))
    _share_axis(ax)
    legend_above(ax, columns=2)
    note(ax, _overlap_notes(answer))
    return figure_of(ax)


@styled
def overlap_by_rank(answer: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """The share of the gradient in the space of the first 1, 2, ... eigenvectors, with what chance gives.

    Args:
        answer: The answer of the probe SubspaceOverlap: dim rank.
        ax: Where to draw; None makes a new figure.

    Returns:
        The figure.
    """
    ax = ax or new_axes(2.3)
    rank = np.asarray(answer["rank"].values)
    ax.plot(rank, _values(answer, "overlap_by_rank"), "o-", color=BLUE, label="full gradient", gid="full")
    ax.errorbar(
        rank,
        _values(answer, "minibatch_overlap_by_rank"),
        yerr=_values(answer, "minibatch_overlap_by_rank_standard_error"),
        marker="s",
        color=VERMILLION,
        label="mini-batches ± s.e.",
        gid="minibatch",
    )
    chance = float(answer["chance"]) * rank / rank[-1]
    ax.plot(rank, chance, color=GREY, linestyle="--", linewidth=0.8, label="chance k/n", gid="chance")
    ax.set_xlabel("Top Hessian eigenvectors in the space")
    ax.xaxis.set_major_locator(round_ticks(8, integer=True))
    _share_axis(ax)
    legend_above(ax, columns=2)
    note(ax, _overlap_notes(answer))
    return figure_of(ax)


def _curve(
    ax: Axes, answer: xr.Dataset, name: str, label: str, colour: str, error: str | None = None, style: str = "-"
) -> None:
    values = _values(answer, name)
    ax.errorbar(
        answer["step"].values,
        values,
        yerr=None if error is None else _values(answer, error),
        color=colour,
        linestyle=style,
        marker="o" if len(values) <= _MARKED else "",
        markersize=2.2,
        elinewidth=0.7,
        capsize=0,
        linewidth=0.9,
        label=label,
        gid=name,
    )


def _share_axis(ax: Axes) -> None:
    ax.set_ylim(-0.02, 1.02)
    ax.set_ylabel("Share of the squared norm")


def _overlap_notes(answer: xr.Dataset) -> list[str]:
    error, open_ends = finite(answer["overlap_error"].values).max(initial=0.0), _not_converged(answer)
    return [
        f"residuals of the eigenvectors change a share by at most {error:.2g}" if error > 0.005 else "",
        f"{count(open_ends, 'eigenvalue')} not converged" if open_ends else "",
    ]


def _not_converged(answer: xr.Dataset) -> int:
    return int((np.asarray(answer["converged"].values, dtype=float) == 0).sum()) if "converged" in answer else 0


def _values(answer: xr.Dataset, name: str) -> NDArray[np.float64]:
    values = np.asarray(answer[name].values, dtype=float)
    return np.where(np.isfinite(values), values, np.nan)
