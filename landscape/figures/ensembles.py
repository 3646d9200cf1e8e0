"""Ensembles: what each further member adds, and how well probabilities are calibrated before and after."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from landscape.figures.scales import number, round_ticks
from landscape.figures.style import (
    BLUE,
    VERMILLION,
    WIDTHS,
    few_ticks,
    legend_above,
    note,
    styled,
)
from landscape.text import clean

_WORDS = {"members": "members", "plain": "plain networks", "ensemble": "ensemble"}
_FULL = 0.01  # share of the predictions from which the accuracy of a bin is more than chance


@styled
def ensemble_growth(answer: xr.Dataset) -> Figure:
    """Test error and negative log-likelihood against the number of members, with the spread over subsets.

    Where members are not the networks as they are (draws, snapshots, views), a dashed line marks these.

    Args:
        answer: The answer of an ensemble: dims (size, score).

    Returns:
        A figure of two panels that share the x axis.
    """
    figure = Figure(figsize=(WIDTHS["single"], 3.4), layout="constrained")
    panels = figure.subplots(2, sharex=True)
    for ax, score, words in zip(panels, ("error", "nll"), ("Test error", "Test NLL (nats)"), strict=True):
        few_ticks(ax)
        _growth(ax, answer.sel(score=score))
        ax.set_ylabel(words)
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{number(100 * share)}%"))
    panels[1].set_xlabel("Members averaged")
    panels[1].xaxis.set_major_locator(round_ticks(7, integer=True))
    legend_above(panels[0], columns=2)
    note(panels[1], [*_gain_notes(answer), "band: ± deviation over subsets, which share members"])
    return figure


def _growth(ax: Axes, one: xr.Dataset) -> None:
    sizes, mean, spread = (np.asarray(one[name].values, float) for name in ("size", "growth_mean", "growth_spread"))
    ax.fill_between(sizes, mean - spread, mean + spread, color=BLUE, alpha=0.25, linewidth=0, gid="spread")
    marker = "o" if len(sizes) <= 30 else ""
    ax.plot(sizes, mean, color=BLUE, marker=marker, markersize=2.5, label="averaged", gid="growth")
    if "plain" in one["baseline"].values:
        plain = float(one["baseline_score"].sel(baseline="plain"))
        ax.axhline(plain, color=VERMILLION, linestyle="--", linewidth=0.9, label=_WORDS["plain"], gid="plain")


def _gain_notes(answer: xr.Dataset) -> list[str]:
    one = answer.sel(score="error").isel(baseline=-1)
    gain, low, high = (number(round(100 * float(one[name]), 2)) for name in ("gain", "gain_low", "gain_high"))
    words = _WORDS.get(str(one["baseline"].item()), "baseline")
    return [f"gain over the {words}: {gain} points of error", f"95% over test examples: {low} to {high}"]


@styled
def reliability(answer: xr.Dataset) -> Figure:
    """Accuracy against confidence in bins, before averaging and after, over how many predictions each bin holds.

    On the diagonal probabilities are calibrated; above it they are too low, below it too high. Bins that hold fewer
    than one in a hundred predictions have a small mark and no line.

    Args:
        answer: The answer of an ensemble: dims (prediction, bin).

    Returns:
        A figure of two panels that share the x axis.
    """
    figure = Figure(figsize=(WIDTHS["single"], 3.6), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    few_ticks(upper)
    few_ticks(lower)
    lower.yaxis.set_major_locator(round_ticks(3))
    upper.plot([0, 1], [0, 1], color="0.6", linewidth=0.6, zorder=0)
    bins = answer.sizes["bin"]
    for name, colour, side in zip(answer["prediction"].values, (VERMILLION, BLUE), (-1, 1), strict=True):
        one = answer.sel(prediction=name)
        share = one["bin_count"].values / max(int(one["bin_count"].sum()), 1)
        known = share > 0
        confidence, accuracy = one["confidence"].values[known], one["accuracy"].values[known]
        full = share[known] >= _FULL
        words = _WORDS.get(str(name), clean(str(name), 20))
        upper.plot(confidence[full], accuracy[full], "o-", color=colour, markersize=3.2, label=words, gid=str(name))
        upper.plot(confidence[~full], accuracy[~full], "o", color=colour, markersize=1.6, gid=f"{name} few")
        centers = (np.arange(bins) + 0.5 + 0.2 * side) / bins
        lower.bar(centers, share, 0.4 / bins, color=colour, gid=f"{name} share")
    upper.set_ylim(-0.02, 1.02)
    upper.set_xlim(0, 1)
    upper.set_ylabel("Accuracy")
    lower.set_ylabel("Share")
    lower.set_xlabel("Confidence: probability of the most likely class")
    legend_above(upper, columns=2)
    note(lower, [_ece_note(answer), "small marks: fewer than 1% of the predictions"])
    return figure


def _ece_note(answer: xr.Dataset) -> str:
    before = float(answer["baseline_score"].sel(score="ece").values[-1])
    after = float(answer["ensemble_score"].sel(score="ece"))
    words = _WORDS.get(str(answer["prediction"].values[0]), "before")
    return f"ECE ({answer.sizes['bin']} bins): {words} {before:.3f}, ensemble {after:.3f}"
