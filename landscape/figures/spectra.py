"""Both ends of a spectrum."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.scales import finite, is_wide, symlog_y
from landscape.figures.style import BLUE, VERMILLION, count, figure_of, legend_above, new_axes, note, styled
from landscape.text import clean

_ENDS = {"largest": ("largest", BLUE), "smallest": ("smallest", VERMILLION)}


@styled
def eigenvalues(spectrum: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """A stem for every eigenvalue found, largest first, with its residual ‖Hv − λv‖ as error bar.

    Eigenpairs that did not converge are hollow. The axis is linear around zero and logarithmic
    beyond where magnitudes differ by more than a factor of fifty.

    Args:
        spectrum: The answer of the probe Spectrum: dims (end, rank).
        ax: Where to draw; None makes a new figure.

    Returns:
        The figure, with the verdict under it.
    """
    ax = ax or new_axes(2.3)
    start, ticks = 0, []
    for end in spectrum["end"].values:
        values, residuals, converged = _pairs(spectrum.sel(end=end))
        x = start + np.arange(len(values))
        _stems(ax, x, values, residuals, converged, str(end))
        ticks += list(zip(x, _rank_labels(len(values), str(end)), strict=True))
        start = int(x[-1]) + 2 if len(x) else start
    ax.axhline(0, color="0.5", linewidth=0.6, zorder=0)
    everything = finite(spectrum["eigenvalue"].values)
    if is_wide(np.abs(everything[everything != 0]), 50):
        symlog_y(ax, everything, _residuals(spectrum))
    every = 1 + len(ticks) // 16
    ax.set_xticks([x for x, _ in ticks[::every]], [label for _, label in ticks[::every]])
    ax.set_xlim(-0.7, max(start - 1.3, 0.7))
    ax.set_xlabel("Rank from the top, and from the bottom (−)")
    ax.set_ylabel(eigenvalue_label(spectrum["eigenvalue"]))
    legend_above(ax, columns=3)
    note(ax, _verdict(spectrum))
    return figure_of(ax)


def eigenvalue_label(eigenvalues: xr.DataArray) -> str:
    """Whose eigenvalues they are, as the axis says it."""
    matrix = matrix_of(eigenvalues)
    return "Hessian eigenvalue" if matrix == "Hessian" else f"Eigenvalue of the\n{matrix}"


def matrix_of(eigenvalues: xr.DataArray) -> str:
    """The matrix whose eigenvalues they are; the Hessian where that is not said."""
    title = clean(eigenvalues.attrs.get("long_name", ""), 60).removeprefix("eigenvalue of the ")
    return "Hessian" if title in ("", "Hessian eigenvalue") else title


def _residuals(spectrum: xr.Dataset) -> np.ndarray:
    """The residual of every finite eigenvalue, in the order in which `finite` gives those."""
    values = np.asarray(spectrum["eigenvalue"].values, dtype=float)
    residuals = spectrum["residual"].values if "residual" in spectrum else np.zeros_like(values)
    return np.nan_to_num(np.asarray(residuals, dtype=float)[np.isfinite(values)])


def _pairs(end: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues from the top down, their residuals, and whether each converged; without the missing ones."""
    values = np.asarray(end["eigenvalue"].values, dtype=float)
    residuals = np.asarray(end["residual"].values, dtype=float) if "residual" in end else np.zeros_like(values)
    converged = np.asarray(end["converged"].values, dtype=bool) if "converged" in end else np.ones(len(values), bool)
    order = [i for i in np.argsort(-values, kind="stable") if np.isfinite(values[i])]
    return values[order], np.where(np.isfinite(residuals[order]), residuals[order], 0.0), converged[order]


def _stems(ax: Axes, x: np.ndarray, values: np.ndarray, residuals: np.ndarray, converged: np.ndarray, end: str) -> None:
    label, colour = _ENDS.get(end, (clean(end, 24), BLUE))
    ax.vlines(x, 0, values, color=colour, linewidth=0.8)
    ax.errorbar(
        x,
        values,
        yerr=residuals,
        fmt="none",
        ecolor="black",
        elinewidth=0.8,
        capthick=0.8,
        zorder=3,
        gid=f"{end} error",
    )
    for done, face, suffix in ((True, colour, ""), (False, "white", ", not converged")):
        if (chosen := converged == done).any():
            ax.plot(
                x[chosen],
                values[chosen],
                "o",
                color=colour,
                markerfacecolor=face,
                zorder=4,
                label=label + suffix,
                gid=f"{end}{suffix}",
            )


def _rank_labels(number: int, end: str) -> list[str]:
    return [f"−{number - i}" if end == "smallest" else f"{i + 1}" for i in range(number)]


def _verdict(spectrum: xr.Dataset) -> list[str]:
    verdict, reason = (clean(spectrum.attrs.get(name, "")) for name in ("verdict", "verdict_reason"))
    missing = spectrum["eigenvalue"].size - finite(spectrum["eigenvalue"].values).size
    lines = [f"{verdict}: {reason}" if reason else verdict, "bars, where longer than the dot: residual ‖Hv − λv‖"]
    return [*lines, f"{count(missing, 'non-finite value')} left out" if missing else ""]
