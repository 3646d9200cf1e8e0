"""Runs and their moments compared pair by pair, and in their principal plane."""

from __future__ import annotations

import itertools

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from landscape.figures.scales import finite
from landscape.figures.style import LINES, WIDTHS, count, few_ticks, figure_of, note, note_under, styled, told_apart

_MOST_TICKS = 9
_MOST_NAMED = 12  # points of a plane that are written on
_MATRICES = (
    ("distance", "‖θᵢ − θⱼ‖", "viridis", 1.0),
    ("cosine", "cosine of the ways from the start", "RdBu_r", 1.0),
    ("disagreement", "different predictions (%)", "magma", 100.0),
)


@styled
def distance_matrices(answer: xr.Dataset) -> Figure:
    """Distance, cosine and disagreement of every two points, in the order of the answer, runs parted by lines.

    Args:
        answer: distance, cosine and perhaps disagreement (point, other); run and step of each point.
    """
    shown = [entry for entry in _MATRICES if entry[0] in answer and np.isfinite(answer[entry[0]]).any()]
    figure = Figure(figsize=(WIDTHS["double"], 2.9), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False).ravel()
    for panel, (name, label, colours, factor) in zip(panels, shown, strict=True):
        values = factor * answer[name].values
        low = -1.0 if name == "cosine" else 0.0
        high = 1.0 if name == "cosine" else finite(values).max(initial=0.0) or 1.0
        image = panel.imshow(values, vmin=low, vmax=high, cmap=colours, interpolation="nearest", gid=name)
        panel.set_facecolor("0.88")  # where nothing is defined
        bar = figure.colorbar(image, ax=panel, orientation="horizontal", aspect=18, pad=0.02, location="top")
        bar.set_label(label)
        bar.outline.set_linewidth(0.4)
        _part_runs(panel, answer)
        _label(panel, answer)
    has_no_angle = "cosine" in answer and answer["cosine"].isnull().any()
    note_under(figure, [_null_note(answer), "grey: at its start a run has no direction" if has_no_angle else ""])
    return figure


@styled
def distance_plane(answer: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """The points in the plane of their principal components, each run a line from its first moment to its last.

    Args:
        answer: plane (point, component), explained_share and random_walk_share (component); run and step of points.
        ax: Where to draw; None makes a new figure.
    """
    if ax is None:
        ax = Figure(figsize=(WIDTHS["single"], 3.0), layout="constrained").add_subplot()
        few_ticks(ax)
    runs = list(dict.fromkeys(answer["run"].values.astype(str)))
    names = dict(zip(runs, told_apart(runs, 18), strict=True))
    colours = LINES if len(runs) <= len(LINES) else [tuple(c) for c in colormaps["turbo"](np.linspace(0, 1, len(runs)))]
    for run, colour in zip(runs, colours, strict=False):
        chosen = answer["run"].values.astype(str) == run
        x, y = answer["plane"].values[chosen, :2].T
        is_way = chosen.sum() > 1
        ax.plot(x, y, "o-" if is_way else "o", color=colour, markersize=2.2, linewidth=0.8, label=names[run], gid="run")
        if is_way:
            ax.plot(x[:1], y[:1], "o", color="white", markeredgecolor=colour, markersize=4, gid="first")
            ax.plot(x[-1:], y[-1:], "*", color=colour, markersize=7, gid="last")
    shares = 100 * answer["explained_share"].values
    ax.set_xlabel(f"Principal component 1 ({shares[0]:.0f}%)")
    ax.set_ylabel(f"Principal component 2 ({shares[1]:.0f}%)")
    ax.margins(0.08)
    if 1 < len(runs) <= _MOST_NAMED:
        figure_of(ax).legend(loc="outside upper center", ncols=3, fontsize=6)
    null = 100 * answer["random_walk_share"].values[:2]
    both = f"both components hold {shares[:2].sum():.0f}% of the variance"
    walks = f"; random walks of these lengths from these starts: {null.sum():.0f}%" if np.isfinite(null).all() else ""
    lost = f"{len(runs)} runs" if len(runs) > _MOST_NAMED else ""
    note(ax, [both + walks, "circle: first moment, star: last" if len(answer["point"]) > len(runs) else "", lost])
    return figure_of(ax)


def _null_note(answer: xr.Dataset) -> str:
    """What random walks of the same lengths would have between different points, beside what there is."""
    if not np.isfinite(answer["random_walk_distance"]).all():
        return "where a run began is not known: no cosines for it, and no null of random walks"
    apart = ~np.eye(answer.sizes["point"], dtype=bool)
    median = {
        name: float(np.nanmedian(answer[name].values[apart]))
        for name in ("distance", "random_walk_distance", "cosine", "random_walk_cosine")
        if np.isfinite(answer[name].values[apart]).any()
    }
    texts = [
        f"median {name} {median[name]:.2g}, of random walks {median[f'random_walk_{name}']:.2g}"
        for name in ("distance", "cosine")
        if name in median
    ]
    return f"{count(answer.sizes['point'], 'point')}; {'; '.join(texts)}"


def _part_runs(panel: Axes, answer: xr.Dataset) -> None:
    for edge in _edges(answer):
        if answer.sizes["point"] > len(_edges(answer)) + 1:
            panel.axhline(edge - 0.5, color="white", linewidth=0.8, gid="edge")
            panel.axvline(edge - 0.5, color="white", linewidth=0.8)


def _edges(answer: xr.Dataset) -> NDArray[np.int_]:
    """Where the points of another run begin."""
    runs = answer["run"].values.astype(str)
    return np.flatnonzero(runs[1:] != runs[:-1]) + 1


def _label(panel: Axes, answer: xr.Dataset) -> None:
    """Name the runs where there are several, else the steps."""
    runs, number = answer["run"].values.astype(str), answer.sizes["point"]
    if len(set(runs)) == 1:
        every = -(-number // _MOST_TICKS)
        places = np.arange(0, number, every).astype(float)
        words = [str(step) if step >= 0 else "kept" for step in answer["step"].values[::every]]
        panel.set_xlabel("Optimizer step")
    else:
        ends = [0, *_edges(answer).tolist(), number]
        places = np.array([(a + b - 1) / 2 for a, b in itertools.pairwise(ends)])
        names = list(dict.fromkeys(runs))
        every = -(-len(names) // 24)
        places, words = places[::every], told_apart(names, 12)[::every]
    panel.set_yticks(places, words, fontsize=6)
    panel.set_xticks(places, words, fontsize=6, rotation=0 if max(map(len, words)) < 5 else 60)
    panel.tick_params(length=0)
