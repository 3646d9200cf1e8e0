"""Sharpness as pictures of tables, and its rank correlations with how well runs generalize."""

from __future__ import annotations

from math import floor, isfinite, isnan, log10
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from landscape.figures.scales import number
from landscape.figures.style import (
    BLUE,
    GREY,
    LINES,
    VERMILLION,
    figure_of,
    legend_above,
    new_axes,
    note,
    shortened,
    styled,
)
from landscape.text import clean

_ROW = 0.135  # inches
_MOST_NUMBERS = 8  # runs whose cells have room for a number in one column of a page
_SIGNIFICANT = 0.05
_OUTCOMES = {"test_error": "test error", "error_gap": "test − training error", "loss_gap": "test − training loss"}


@styled
def sharpness_table(answer: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """One row a measure: its value, its interval, and a bar for the share of the rise that is slope.

    Values of different measures have different scales and are not compared with each other.

    Args:
        answer: The answer of the probe Sharpness: dims (measure,).
        ax: Where to draw; None makes a new figure.

    Returns:
        The figure; measures that are mostly slope, or not resolved, are marked.
    """
    names = [str(name) for name in answer["measure"].values]
    ax = ax or new_axes(0.75 + _ROW * (len(names) + 1))
    _as_table(ax, len(names))
    for x, text, side in ((0, "measure", "left"), (0.5, "value", "right"), (0.78, "interval", "right")):
        ax.text(x, -1, text, ha=side, va="center", fontsize=6, weight="bold")
    ax.text(1, -1, "slope", ha="right", va="center", fontsize=6, weight="bold")
    unasked = [y for y, text in enumerate(answer["definition"].values) if str(text).startswith("not measured")]
    for y, name in enumerate(names):
        one = answer.sel(measure=name)
        value, low, high = (float(one[key]) for key in ("value", "low", "high"))
        doubtful = not bool(one["resolved"]) or int(one["nonfinite"]) > 0
        ax.text(0, y, shortened(name), ha="left", va="center", fontsize=6)
        ax.text(
            0.5,
            y,
            "–" if y in unasked else f"{_three(value)}{' ?' if doubtful else ''}",
            ha="right",
            va="center",
            fontsize=6,
            gid="value",
        )
        if isfinite(low + high):
            between = f"{_three(low)} – {_three(high)}"
            ax.text(0.78, y, between, ha="right", va="center", fontsize=5, color=GREY)
        _slope_bar(ax, y, float(one["first_order_share"]))
    words = [
        f"loss {_three(float(answer['loss']))}, gradient norm {_three(float(answer['gradient_norm']))}",
        "slope: share of the rise that the gradient alone explains",
    ]
    if not np.delete(answer["resolved"].values, unasked).all() or answer["nonfinite"].values.any():
        words.append("?: within the rounding of the loss, not converged, or near a loss that is not finite")
    note(ax, words)
    return figure_of(ax)


def _slope_bar(ax: Axes, y: int, share: float) -> None:
    if isnan(share):
        ax.text(1, y, "–", ha="right", va="center", fontsize=6, color=GREY)
        return
    colour = VERMILLION if share > 0.5 else BLUE
    ax.barh(y, 0.1 * min(max(share, 0.0), 1.0), left=0.8, height=0.6, color=colour, gid="slope")
    ax.text(1, y, f"{share:.0%}", ha="right", va="center", fontsize=6, color=colour if share > 0.5 else "black")


@styled
def sharpness_runs(report: xr.Dataset, *, outcome: str | None = None, ax: Axes | None = None) -> Figure:
    """Measures of sharpness (rows) of every run (columns, best first), tinted by rank within the row.

    The last columns are the rank correlations of each measure with the outcome, overall and within strata. Up to
    eight runs the cells hold the numbers, in the power of ten beside the measure. A red corner marks numbers that are
    mostly slope.

    Args:
        report: The answer of SharpnessReport: dims (run, measure).
        outcome: By which runs are sorted; default: the first.
        ax: Where to draw; None makes a new figure.
    """
    outcome = str(report["outcome"].values[0]) if outcome is None else outcome
    report = report.isel(run=np.argsort(report["outcome_value"].sel(outcome=outcome).values, kind="stable"))
    names, scopes = [str(n) for n in report["measure"].values], [str(s) for s in report["scope"].values]
    runs, left = report.sizes["run"], 0.4
    ax = ax or new_axes(1.0 + _ROW * (len(names) + 2.5))
    _as_table(ax, len(names), top=-2.4)
    width, wide = (1 - left - 0.085 * len(scopes) - 0.01) / runs, 0.085
    with_numbers = runs <= _MOST_NUMBERS
    outcomes = report["outcome_value"].sel(outcome=outcome).values
    ax.text(0, -1, _OUTCOMES.get(outcome, clean(outcome)), ha="left", va="center", fontsize=6, weight="bold")
    for column, value in enumerate(outcomes):
        _cell(ax, left + column * width, -1, width, "white", f"{value:.2f}" if with_numbers else "", weight="bold")
    for y, name in enumerate(names):
        values = report["value"].sel(measure=name).values
        ax.text(0, y, shortened(name), ha="left", va="center", fontsize=5.5)
        unit = _unit(values)
        if with_numbers and unit != 1:
            ax.text(left - 0.01, y, f"×{number(unit)}", ha="right", va="center", fontsize=4.2, color=GREY)
        slopes = report["first_order_share"].sel(measure=name).values > 0.5
        for column, (value, slope, tint) in enumerate(zip(values, slopes, _tints(values), strict=True)):
            x = left + column * width
            _cell(ax, x, y, width, tint, _short(value / unit) if with_numbers else "")
            if slope:
                corner = [(x + width, y - 0.5), (x + width, y - 0.15), (x + 0.65 * width, y - 0.5)]
                ax.fill(*zip(*corner, strict=True), color=VERMILLION, linewidth=0, gid="slope")
        for column, scope in enumerate(scopes):
            found = report.sel(outcome=outcome, scope=scope, measure=name, coefficient="spearman")
            _correlation_cell(ax, 1 - (len(scopes) - column) * wide, y, wide, found)
    for column, scope in enumerate(scopes):
        x = 1 - (len(scopes) - column - 0.5) * wide
        ax.text(x, -0.6, shortened(scope, 18), ha="left", va="bottom", fontsize=5, rotation=40, rotation_mode="anchor")
    ax.text(
        left,
        -2,
        f"{runs} runs, lowest {_OUTCOMES.get(outcome, clean(outcome))} first →",
        va="center",
        fontsize=5,
        color=GREY,
    )
    words = ["blue: rank within the row, darkest the sharpest. Last column(s): Spearman correlation over runs"]
    if (report["first_order_share"].values > 0.5).any():
        words.append("red corner: more than half of the rise is the slope of the loss, not its curvature")
    note(ax, [*words, *_remarks(report)])
    return figure_of(ax)


@styled
def sharpness_correlations(
    report: xr.Dataset, *, outcome: str | None = None, coefficient: str = "spearman", ax: Axes | None = None
) -> Figure:
    """Rank correlation of every measure with an outcome, with its interval over runs; overall and within strata.

    Filled where the permutation p-value is below 0.05, hollow elsewhere.

    Args:
        report: The answer of SharpnessReport: dims (outcome, scope, measure, coefficient).
        outcome: What is correlated with; default: the first.
        coefficient: spearman or kendall.
        ax: Where to draw; None makes a new figure.
    """
    outcome = str(report["outcome"].values[0]) if outcome is None else outcome
    part = report.sel(outcome=outcome, coefficient=coefficient)
    names, scopes = [str(n) for n in part["measure"].values], [str(s) for s in part["scope"].values]
    ax = ax or new_axes(0.9 + _ROW * (len(names) * max(1.0, 0.6 * len(scopes)) + 1))
    ax.axvline(0, color="0.5", linewidth=0.6, zorder=0)
    for row, scope in enumerate(scopes):
        one = part.sel(scope=scope)
        y = np.arange(len(names)) + (row - (len(scopes) - 1) / 2) * 0.7 / len(scopes)
        _points(ax, one, y, LINES[row % len(LINES)], scope)
    ax.set_yticks(np.arange(len(names)), [shortened(name) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(-1.08, 1.08)
    ax.set_xticks([-1, -0.5, 0, 0.5, 1])
    ax.tick_params(axis="y", length=0)
    words = {"spearman": "Spearman correlation", "kendall": "Kendall's τ"}[coefficient]
    ax.set_xlabel(f"{words} with {_OUTCOMES.get(outcome, clean(outcome))}")
    legend_above(ax, columns=2)
    note(
        ax,
        [
            f"{part.sizes['run']} runs; bars: 95% bootstrap over runs; filled: permutation p < 0.05",
            *_remarks(report),
        ],
    )
    return figure_of(ax)


def _remarks(report: xr.Dataset) -> list[str]:
    """What the number of runs does not allow, a line each."""
    return str(report.attrs.get("remark", "")).split("; ")


def _points(ax: Axes, one: xr.Dataset, y: np.ndarray, colour: str, scope: str) -> None:
    value, low, high = (one[key].values for key in ("correlation", "correlation_low", "correlation_high"))
    known = np.isfinite(low + high)
    ax.hlines(y[known], low[known], high[known], color=colour, linewidth=0.8, gid=f"{scope} interval")
    with np.errstate(invalid="ignore"):
        significant = one["p_value"].values < _SIGNIFICANT
    label = shortened(scope, 26)
    ax.plot(value[significant], y[significant], "o", color=colour, markersize=3, gid=f"{scope} significant")
    ax.plot(
        value[~significant],
        y[~significant],
        "o",
        color=colour,
        markerfacecolor="white",
        markersize=3,
        gid=f"{scope} not",
    )
    ax.plot([], [], "o-", color=colour, markersize=3, label=label)


def _as_table(ax: Axes, rows: int, top: float = -1.6) -> None:
    """Axes without lines: x from 0 to 1, one unit of y a row, the first at the top."""
    ax.set_xlim(0, 1)
    ax.set_ylim(rows - 0.4, top)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _cell(ax: Axes, x: float, y: float, width: float, tint: str, text: str, **style: Any) -> None:
    ax.fill([x, x + width, x + width, x], [y - 0.5, y - 0.5, y + 0.5, y + 0.5], color=tint, linewidth=0)
    if text:
        ax.text(x + width / 2, y, text, ha="center", va="center", fontsize=4.2, color=_ink(tint), gid="cell", **style)


def _correlation_cell(ax: Axes, x: float, y: float, width: float, found: xr.Dataset) -> None:
    value = float(found["correlation"])
    if isnan(value):
        _cell(ax, x, y, width, "white", "–")
        return
    tint = to_hex(matplotlib.colormaps["PuOr"](0.5 + 0.45 * value))
    text = f"{value:+.2f}".replace("-", "−") if round(value, 2) else "0.00"
    _cell(ax, x, y, width, tint, text, weight="bold" if float(found["p_value"]) < _SIGNIFICANT else "normal")


def _tints(values: np.ndarray) -> list[str]:
    """One colour a value by its rank among the known ones, ties alike; white where there is none."""
    from scipy.stats import rankdata

    known = ~np.isnan(values)
    shades = np.full(len(values), np.nan)
    shades[known] = (rankdata(values[known]) - 0.5) / max(known.sum(), 1)
    colours = matplotlib.colormaps["Blues"]
    return ["white" if isnan(shade) else to_hex(colours(0.75 * shade)) for shade in shades]


def _ink(tint: str) -> str:
    red, green, blue = matplotlib.colors.to_rgb(tint)
    return "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.5 else "white"


def _unit(values: np.ndarray) -> float:
    """The power of a thousand in which the largest of some numbers has one to three digits before the point."""
    largest = np.abs(values[np.isfinite(values)]).max(initial=0.0)
    return 1000.0 ** floor(log10(largest) / 3) if largest > 0 else 1.0


def _short(value: float) -> str:
    """A number below a thousand in at most four characters."""
    if not isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, 2 - len(str(int(abs(value)))))}f}".replace("-", "−")


def _three(value: float) -> str:
    """Three significant digits, as figures write numbers."""
    return number(float(f"{value:.3g}"))
