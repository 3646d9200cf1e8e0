"""Curvature layer by layer."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from landscape.figures.scales import finite, is_wide, log_levels, number, round_ticks
from landscape.figures.style import BLUE, GREEN, VERMILLION, WIDTHS, count, note_under, styled, told_apart

_ROW = 0.125  # inches of a layer's row


@styled
def layer_bars(answer: xr.Dataset) -> Figure:
    """A row a layer: the trace of its own block of the Hessian as a bar, its eigenvalues at both ends as dots.

    The black bars are the interval of the trace and the residual of the eigenvalues. An axis on which everything is
    positive and spreads over more than a factor of ten is logarithmic; any other that spreads over
    more than fifty is linear around zero, as far as errors reach, and logarithmic beyond.

    Args:
        answer: The answer of the probe Layers: dims (layer,).
    """
    names = told_apart([str(name) for name in answer["layer"].values], 20)
    y = np.arange(len(names))
    solved = "largest_eigenvalue" in answer
    figure = Figure(figsize=(WIDTHS["single"], 0.95 + _ROW * len(names)), layout="constrained")
    panels = figure.subplots(1, 2 if solved else 1, sharey=True, squeeze=False).ravel()
    _traces(panels[0], answer, y)
    if solved:
        _ends(panels[1], answer, y)
    panels[0].set_yticks(y, names, fontsize=5.5)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    panels[0].tick_params(axis="y", length=0)
    panels[0].set_ylabel("Layer" if len(names) > 1 else "")
    broken = int((~np.isfinite(answer["trace"].values)).sum())
    lines = [
        "black: interval of the trace" + (", residual of the eigenvalue" if solved else ""),
        "hollow: not converged" if solved and not _converged(answer) else "",
        f"{count(broken, 'non-finite trace')} left out" if broken else "",
    ]
    note_under(figure, lines)
    return figure


def _traces(ax: Axes, answer: xr.Dataset, y: np.ndarray) -> None:
    values = np.asarray(answer["trace"].values, dtype=float)
    low, high = (np.asarray(answer[f"trace_{end}"].values, dtype=float) for end in ("low", "high"))
    everything = np.concatenate([values, low, high])
    base = _scale(ax, everything, np.abs(high - low) / 2)
    ax.barh(y, values - base, left=base, height=0.65, color=BLUE, gid="trace")
    bars = np.stack([values - low, high - values])
    ax.errorbar(
        values, y, xerr=np.nan_to_num(bars), fmt="none", ecolor="black", elinewidth=0.7, capsize=0, gid="interval"
    )
    ax.set_xlabel("Trace")


def _ends(ax: Axes, answer: xr.Dataset, y: np.ndarray) -> None:
    columns = {end: np.asarray(answer[f"{end}_eigenvalue"].values, dtype=float) for end in ("largest", "smallest")}
    everything = np.concatenate(list(columns.values()))
    errors = np.concatenate([np.nan_to_num(answer[f"{end}_residual"].values) for end in columns])
    _scale(ax, np.concatenate([everything, everything - errors, everything + errors]), errors)
    for (end, values), colour in zip(columns.items(), (GREEN, VERMILLION), strict=True):
        residuals = np.nan_to_num(np.asarray(answer[f"{end}_residual"].values, dtype=float))
        done = np.asarray(answer[f"{end}_converged"].values, dtype=bool)
        ax.errorbar(values, y, xerr=residuals, fmt="none", ecolor="black", elinewidth=0.7, capsize=0)
        for chosen, face in ((done, colour), (~done, "white")):
            if chosen.any():
                label = end if face == colour or not done.any() else "_"
                ax.plot(
                    values[chosen],
                    y[chosen],
                    "o",
                    color=colour,
                    markerfacecolor=face,
                    markersize=2.5,
                    label=label,
                    gid=end if face == colour else f"{end}, not converged",
                )
    ax.set_xlabel("Eigenvalue")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handletextpad=0.1, columnspacing=0.6)
    ax.grid(axis="y", linewidth=0.3, color="0.85")


def _scale(ax: Axes, everything: np.ndarray, errors: np.ndarray) -> float:
    """Choose the x scale by values with the ends of their errors; return where bars begin."""
    numbers = finite(everything)
    sizes = np.abs(numbers[numbers != 0])
    if is_wide(numbers):
        low, high = numbers.min() / 1.5, numbers.max() * 1.5
        ax.set_xscale("log")
        ax.set_xlim(low, high)
        _place(ax, [tick for tick in log_levels(low, high, 5).tolist() if low <= tick <= high])
        return float(low)
    ax.axvline(0, color="0.5", linewidth=0.6, zorder=0)
    if not is_wide(sizes, 50):
        ax.xaxis.set_major_locator(round_ticks(3))
        return 0.0
    top = sizes.max()
    # What is smaller than its error has no logarithm worth drawing.
    small = min(max(sizes.min(), finite(errors).max(initial=0.0), 1e-4 * top), top / 10)
    threshold = 10.0 ** np.floor(np.log10(small))
    low, high = min(2 * numbers.min(), -threshold), max(2 * numbers.max(), threshold)
    ax.set_xscale("symlog", linthresh=threshold, linscale=0.5)
    ax.set_xlim(low, high)
    powers = threshold * 10.0 ** np.arange(0, 20)
    right, left = powers[powers <= high], powers[powers <= -low]
    right = right[:: -max(1, -(-len(right) // 2))] if len(right) > 2 else right
    left = left[-1:] if -low > 10 * threshold else left[:0]
    _place(ax, sorted([*(-left), 0.0, *right]))
    return 0.0


def _place(ax: Axes, ticks: list[float]) -> None:
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(number))


def _converged(answer: xr.Dataset) -> bool:
    return bool(answer["largest_converged"].all() and answer["smallest_converged"].all())
