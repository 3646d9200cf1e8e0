"""The density of a matrix's eigenvalues, with its outliers."""

from __future__ import annotations

from math import pi, sqrt

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from landscape.figures.scales import finite, log_levels, number
from landscape.figures.spectra import eigenvalue_label, matrix_of
from landscape.figures.style import (
    BLUE,
    VERMILLION,
    WIDTHS,
    figure_of,
    legend_above,
    new_axes,
    note,
    note_under,
    styled,
)

_COLOURS = {"positive": BLUE, "negative": VERMILLION}


@styled
def log_density(answer: xr.Dataset) -> Figure:
    """Share of the eigenvalues per decade of their magnitude, negative ones to the left, positive to the right.

    The band is one standard error over the probes. A dot is an outlier that was computed by itself, hollow where it
    did not converge, at the height that one eigenvalue has in a density so smoothed.

    Args:
        answer: The answer of the probe SpectralDensity.

    Returns:
        A figure of two panels that share the y axis, mirrored so that zero lies between them.
    """
    figure = Figure(figsize=(WIDTHS["single"], 2.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    width = float(answer["magnitude"].attrs.get("decades", 0.1))
    alone = _height_of_one(answer, width)
    x = np.asarray(answer["magnitude"].values, dtype=float)
    for ax, sign in ((left, "negative"), (right, "positive")):
        name = f"log_density_{sign}"
        _band(ax, x, answer[name].values, answer[f"{name}_standard_error"].values, sign, alone)
        ax.set_xscale("log")
        ax.set_xlim(*(x[[0, -1]] if sign == "positive" else x[[-1, 0]]))
        _decades(ax, x)
    for value, converged in _outliers(answer):
        if value:
            ax, sign = (right, "positive") if value > 0 else (left, "negative")
            _mark(ax, abs(value), alone, converged, sign)
    curves = [answer[f"log_density_{sign}"].values for sign in _COLOURS]
    _log_height(left, np.concatenate(curves), alone)
    left.set_ylabel("Share of eigenvalues per decade")
    left.set_xlabel("−λ, negative eigenvalues")
    right.set_xlabel("λ, positive eigenvalues")
    right.tick_params(labelleft=False)
    matrix = matrix_of(answer["curvature"])
    note_under(figure, [*_notes(answer), _near_zero(answer), "" if matrix == "Hessian" else f"λ of the {matrix}"])
    return figure


@styled
def density(answer: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Density of the eigenvalues over a linear axis, logarithmic in height, with the outliers marked.

    The band is one standard error over the probes; an outlier stands at the height that one eigenvalue has in a
    density so smoothed.

    Args:
        answer: The answer of the probe SpectralDensity.
        ax: Where to draw; None makes a new figure.
    """
    ax = ax or new_axes(2.3)
    alone = _height_of_one(answer, float(answer["sigma"]))
    x = np.asarray(answer["curvature"].values, dtype=float)
    _band(ax, x, answer["density"].values, answer["density_standard_error"].values, "positive", alone, label="density")
    for value, converged in _outliers(answer):
        _mark(ax, value, alone, converged, "negative")
    _log_height(ax, answer["density"].values, alone)
    ax.axvline(0, color="0.6", linewidth=0.6, zorder=0)
    ax.set_xlabel(eigenvalue_label(answer["curvature"]).replace("\n", " ") + ", λ")
    ax.set_ylabel("Density")
    legend_above(ax, columns=3)
    note(ax, _notes(answer))
    return figure_of(ax)


def _band(
    ax: Axes, x: np.ndarray, mean: np.ndarray, error: np.ndarray, sign: str, alone: float, label: str = ""
) -> None:
    """A curve with its band, where it is more than a fraction of one eigenvalue; below that it is smoothing alone."""
    floor = _floor(alone)
    error = np.nan_to_num(error)
    shown = np.where(mean > floor, mean, np.nan)
    low, high = np.maximum(mean - error, floor), np.maximum(mean + error, floor)
    where = np.isfinite(low) & np.isfinite(high)
    colour = _COLOURS[sign]
    ax.fill_between(x, low, high, where=where, color=colour, alpha=0.25, linewidth=0, gid=f"{sign} band")
    ax.plot(x, shown, color=colour, linewidth=0.9, label=label or sign, gid=sign)


def _mark(ax: Axes, value: float, height: float, converged: bool, sign: str) -> None:
    known = ax.get_legend_handles_labels()[1]
    label = "outlier" if converged else "outlier, not converged"
    colour = _COLOURS[sign]
    ax.vlines(value, _floor(height), height, color=colour, linewidth=0.6)
    ax.plot(
        [value],
        [height],
        "o",
        color=colour,
        markerfacecolor=colour if converged else "white",
        markersize=2.5,
        label="_" if label in known else label,
        gid="outlier",
        zorder=4,
    )


def _outliers(answer: xr.Dataset) -> list[tuple[float, bool]]:
    if "eigenvalue" not in answer:
        return []
    pairs = zip(answer["eigenvalue"].values.ravel(), answer["converged"].values.ravel(), strict=True)
    return [(float(value), bool(converged)) for value, converged in pairs if np.isfinite(value)]


def _height_of_one(answer: xr.Dataset, width: float) -> float:
    size = float(answer.attrs.get("num_eigenvalues", answer.attrs.get("num_parameters", 1000)))
    return 1 / (max(size, 1.0) * (width if width > 0 else 1.0) * sqrt(2 * pi))


def _floor(alone: float) -> float:
    return 0.2 * alone


def _log_height(ax: Axes, values: np.ndarray, alone: float) -> None:
    top = max(finite(values).max(initial=0.0), 3 * alone)
    low, high = _floor(alone), 2 * top
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    ticks = log_levels(low, high, 8)
    ax.yaxis.set_major_locator(FixedLocator([tick for tick in ticks.tolist() if low <= tick <= high]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(number))


def _decades(ax: Axes, x: np.ndarray) -> None:
    """Few powers of ten along x."""
    low, high = np.log10(x[0]), np.log10(x[-1])
    step = max(1, int(np.ceil((high - low) / 4)))
    powers = np.arange(np.ceil(low), np.floor(high) + 1)[::-1][::step]
    ax.xaxis.set_major_locator(FixedLocator((10.0**powers).tolist()))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(number))


def _notes(answer: xr.Dataset) -> list[str]:
    probes, steps = answer.sizes.get("probe", 0), answer.sizes.get("node", 0)
    return [
        f"{probes} probes of {steps} Lanczos steps; band: standard error; "
        "dots: outliers, at the height of one eigenvalue"
    ]


def _near_zero(answer: xr.Dataset) -> str:
    share, low, high = (float(answer.get(name, 0.0)) for name in ("near_zero", "near_zero_low", "near_zero_high"))
    if not share > 5e-4:
        return ""
    ends = [number(float(f"{end:.2g}")) for end in (low, high)]
    return f"not shown: {share:.1%} between {' and '.join(ends)}, where the probes resolve no sign"
