"""Curves between two networks: the loss along them beside the straight line, their training, and their own plane."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from landscape.figures.contours import add_bar, draw_plane, write_levels
from landscape.figures.labels import direction_label, quantity, unit_note
from landscape.figures.planes import Plane, Scale, metric_of, num_lines
from landscape.figures.scales import finite, is_wide, log_y, number
from landscape.figures.style import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
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

_NAMES = {"polychain": "chain", "bezier": "Bezier curve"}
_COLOURS = {"curve": BLUE, "line": VERMILLION}


@styled
def connection(answer: xr.Dataset) -> Figure:
    """Loss and error along a trained curve and along the straight line between the same ends.

    Solid lines are on the training data, dashed ones on the test data. Grey marks beside the ends show them after as
    many steps of training alone, where this was measured: the curve may lie below its ends for that reason alone.

    Args:
        answer: The answer of a connection: dims (path, t).

    Returns:
        A figure of two panels that share the x axis; of one where the targets are no classes.
    """
    metrics = [name for name in ("loss", "error") if name == "loss" or "accuracy" in answer]
    figure = Figure(figsize=(WIDTHS["single"], 0.7 + 1.55 * len(metrics)), layout="constrained")
    panels = figure.subplots(len(metrics), sharex=True, squeeze=False)[:, 0]
    broken = sum(_profile(ax, answer, metric) for ax, metric in zip(panels, metrics, strict=True))
    if len(panels) > 1:
        panels[1].yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{number(100 * share)}%"))
    panels[-1].set_xlim(0, 1)
    panels[-1].set_xlabel("t, place between the two ends")
    legend_above(panels[0], columns=2)
    note(
        panels[-1],
        [
            _length_note(answer),
            *_barrier_notes(answer, metrics),
            f"{count(broken, 'non-finite value')} left out" if broken else "",
        ],
    )
    return figure


def _profile(ax: Axes, answer: xr.Dataset, metric: str) -> int:
    """Draw one quantity along both paths; returns how many values are not finite."""
    few_ticks(ax)
    drawn = []
    for prefix, style, data in (("", "-", "training"), ("test_", "--", "test")):
        if f"{prefix}loss" not in answer:
            continue
        values = metric_of(answer, prefix + metric)
        for path, colour in _COLOURS.items():
            heights = np.asarray(values.sel(path=path).values, dtype=float)
            words = (
                f"{'straight line' if path == 'line' else _curve_words(answer)}, {data}" if metric == "loss" else None
            )
            ax.plot(answer["t"], np.where(np.isfinite(heights), heights, np.nan), style, color=colour, label=words)
            drawn.append(heights)
        drawn.append(_mark_tuned(ax, answer, prefix + metric, filled=not prefix))
    if is_wide(np.concatenate(drawn)):
        log_y(ax, np.concatenate(drawn))
    ax.set_ylabel(quantity(answer, metric) if metric in answer else "Error")
    return int(sum((~np.isfinite(heights)).sum() for heights in drawn))


def _mark_tuned(ax: Axes, answer: xr.Dataset, metric: str, filled: bool) -> NDArray[np.float64]:
    """Mark both ends as they were after training alone for as long as the curve."""
    if "tuned_loss" not in answer:
        return np.empty(0)
    accuracy = f"tuned_{metric.removesuffix('error')}accuracy"
    values = answer[f"tuned_{metric}"].values if f"tuned_{metric}" in answer else 1 - answer[accuracy].values
    label = "end trained on alone" if filled and metric == "loss" else None
    face = GREY if filled else "white"
    ax.plot(
        (0, 1), values, "D", color=GREY, markerfacecolor=face, markersize=3.5, clip_on=False, label=label, gid="tuned"
    )
    return np.asarray(values, dtype=float)


def _curve_words(answer: xr.Dataset) -> str:
    return _NAMES.get(str(answer.attrs.get("curve")), "curve")


def _length_note(answer: xr.Dataset) -> str:
    curve, line = (float(answer["length"].sel(path=path)) for path in ("curve", "line"))
    bends = answer.sizes["control"] - 2
    return f"{count(bends, 'bend')}; {curve / line:.3g} times as long as the straight line" if line else ""


def _barrier_notes(answer: xr.Dataset, metrics: list[str]) -> list[str]:
    """The barriers of both paths on the training data, by the default definition."""
    if "barrier" not in answer:
        return []
    definition = str(answer.attrs["barrier_default"])
    lines = []
    for metric in metrics:
        found = answer["barrier"].sel(metric=metric, definition=definition)
        curve, line = (number(float(f"{float(found.sel(path=path)):.3g}")) for path in ("curve", "line"))
        lines.append(f"barrier of the {metric} ({definition}): {curve}; straight line: {line}")
    return lines


@styled
def connection_training(answer: xr.Dataset) -> Figure:
    """The loss of the mini-batches while a curve was trained, each at one random place of it.

    Args:
        answer: The answer of a connection: dims (step,).

    Returns:
        The figure.
    """
    ax = new_axes(2.0)
    losses = np.asarray(answer["step_loss"].values, dtype=float)
    ax.plot(
        np.arange(len(losses)), losses, ".", color=BLUE, markersize=1.5, alpha=0.4, gid="step_loss", rasterized=True
    )
    if is_wide(losses):
        log_y(ax, losses)
    ax.set_xlim(0, len(losses))
    ax.set_xlabel("Step")
    ax.set_ylabel("Loss of a mini-batch (nats)")
    broken = losses.size - finite(losses).size
    note(
        ax,
        [
            str(answer["step_loss"].attrs.get("long_name", "")),
            f"{count(broken, 'non-finite value')} left out" if broken else "",
        ],
    )
    return figure_of(ax)


@styled
def curve_plane(answer: xr.Dataset, *, metric: str = "loss") -> Figure:
    """A curve in its own plane: contours through both ends and a bend, with the curve and the straight line.

    Of a curve with several bends a shadow is drawn, and how far the curve lies off the plane is written underneath.

    Args:
        answer: The answer of a plane of a curve: dims (alpha, beta).
        metric: The variable to draw; `error` and `test_error` are one minus the accuracy.

    Returns:
        The figure: α runs to the right, β upwards.

    Raises:
        ValueError: If the plane has only one point along an axis.
        KeyError: If the answer has no such metric.

    References:
        Garipov et al., "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", NeurIPS 2018, figure 1.
    """
    plane = Plane.of(answer, metric)
    scale = Scale.over([plane])
    missing = plane.values.size - plane.finite.size
    lines = [
        unit_note(answer),
        _off_plane_note(answer),
        f"{count(missing, 'non-finite point')} (hatched)" if missing else "",
    ]
    ax = new_axes(0.85 + 2.15 * plane.shape + 0.1 * num_lines(lines))
    drawn = draw_plane(ax, plane, scale)
    if drawn and scale:
        add_bar(drawn, [ax], scale, quantity(answer, metric))
    avoid = _draw_curve(ax, answer)
    ax.set_xlabel(direction_label(answer, "alpha"))
    ax.set_ylabel(direction_label(answer, "beta"))
    legend_above(ax, columns=3)
    note(ax, lines)
    if drawn and scale:
        figure_of(ax).draw_without_rendering()  # what fits shows only once everything has its place
        write_levels(ax, scale, avoid)
    return figure_of(ax)


def _draw_curve(ax: Axes, answer: xr.Dataset) -> NDArray[np.float64]:
    """The curve, the line, bends and ends; returns (N, 2) places where no number may stand."""
    halo: dict[str, Any] = {"path_effects": [patheffects.withStroke(linewidth=2.4, foreground="white")]}
    along, controls = (
        np.column_stack([answer[f"{name}_{axis}"].values for axis in ("alpha", "beta")])
        for name in ("curve", "control")
    )
    ax.plot(*controls[[0, -1]].T, "--", color=BLACK, linewidth=0.9, label="line", gid="line", **halo)
    ax.plot(*along.T, color=VERMILLION, linewidth=1.2, label=_curve_words(answer), gid="curve", **halo)
    mark: dict[str, Any] = {"linestyle": "none", "color": BLACK, "markeredgewidth": 0.6}
    ax.plot(*controls[1:-1].T, "o", markerfacecolor="white", markersize=3.5, label="bend", gid="bends", **mark)
    for index, face, word in ((0, "white", "first end"), (-1, ORANGE, "other end")):
        ax.plot(*controls[index], "s", markerfacecolor=face, markersize=4.5, label=word, gid=word, **mark)
    between = np.linspace(0, 1, 41)[:, None]
    return np.concatenate([along, controls, controls[0] + between * (controls[-1] - controls[0])])


def _off_plane_note(answer: xr.Dataset) -> str:
    off = float(np.nanmax(answer["curve_off_plane"].values))
    return (
        ""
        if off < 1e-3
        else f"shadow of the curve: up to {off:.0%} of its distance from the first end lies off the plane"
    )
