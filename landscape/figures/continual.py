"""Tasks learned one after the other: the matrix of accuracies, and the first task as time goes on."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    VERMILLION,
    WIDTHS,
    count,
    figure_of,
    legend_above,
    new_axes,
    note,
    styled,
)
from landscape.text import clean

_COLOURS = (BLACK, VERMILLION, BLUE, GREEN, GREY)
_LINES = ("-", "--", "-.", ":")


@styled
def accuracy_matrices(answer: xr.Dataset) -> Figure:
    """One heat map a method: accuracy in percent on each task (columns) after each task (rows), the mean over seeds.

    Args:
        answer: accuracy over (strategy, seed, after, task).
    """
    names = [clean(name) for name in answer["strategy"].values]
    columns = 2 if len(names) == 4 else min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(WIDTHS["double"], 0.4 + 2.0 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for panel, name, matrix in zip(panels, names, answer["accuracy"].mean("seed").values, strict=False):
        image = panel.imshow(100 * matrix, vmin=0, vmax=100, cmap="cividis")
        _numbers(panel, 100 * matrix)
        panel.set_title(name)
        ticks = np.arange(len(matrix))
        panel.set_xticks(ticks, ticks + 1)
        panel.set_yticks(ticks, ticks + 1)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    for panel in panels[len(names) - columns : len(names)]:
        panel.tick_params(labelbottom=True)  # also where the row below is not full
    figure.supxlabel("Accuracy on task", fontsize=8)
    figure.supylabel("After task", fontsize=8)
    figure.colorbar(image, ax=list(panels), label="Accuracy (%)")
    return figure


@styled
def first_task(answer: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Accuracy on the first task after each task, a line a method: the mean over seeds, bars from least to largest.

    Args:
        answer: accuracy over (strategy, seed, after, task).
        ax: Where to draw; None makes a new figure.
    """
    ax = ax or new_axes(2.4)
    after = answer["after"].values + 1
    values = 100 * answer["accuracy"].isel(task=0)
    for index, name in enumerate(answer["strategy"].values):
        of_method = values.isel(strategy=index)
        mean = of_method.mean("seed").values
        ends = [mean - of_method.min("seed").values, of_method.max("seed").values - mean]
        colour, line = _COLOURS[index % len(_COLOURS)], _LINES[index % len(_LINES)]
        ax.errorbar(after, mean, yerr=ends, fmt=line, color=colour, label=clean(name), capsize=2)
    ax.set_xticks(after)
    ax.set_ylim(0, 102)
    ax.set_xlabel("After task")
    ax.set_ylabel("Accuracy on task 1 (%)")
    legend_above(ax)
    note(ax, [f"mean of {count(answer.sizes['seed'], 'seed')}; bars: least to largest"])
    return figure_of(ax)


def _numbers(panel: Axes, matrix: np.ndarray) -> None:
    for row, column in np.ndindex(matrix.shape):
        value = matrix[row, column]
        colour = "black" if value > 55 else "white"
        panel.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=5.5, color=colour)
