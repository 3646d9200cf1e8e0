"""Paths between networks: the curve with its barrier, the matrix of all pairs, and the instability after forks."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.style import (
    BLACK,
    BLUE,
    GREY,
    LINES,
    VERMILLION,
    WIDTHS,
    Width,
    count,
    figure_of,
    legend_above,
    new_axes,
    note,
    note_under,
    styled,
    told_apart,
)
from landscape.text import clean

_STYLES = ("-", "--", ":", "-.")
_PANELS = {"loss": "Loss (nats)", "error": "Error (%)"}
_TITLES = {"loss": "train loss", "error": "train error", "test_loss": "test loss", "test_error": "test error"}


@styled
def path_curves(answer: xr.Dataset, *, width: Width = "single") -> Figure:
    """Loss and error along each path, training and test, with the ends marked and the barrier as a bracket.

    Args:
        answer: loss, accuracy, ... over (path, alpha); barrier and peak.
        width: How many columns of a page it fills: panels one below the other, or side by side.
    """
    metrics = [name for name in _PANELS if name in answer["metric"].values]
    shape = (len(metrics), 1) if width == "single" else (1, len(metrics))
    figure = Figure(figsize=(WIDTHS[width], 0.9 + 1.7 * shape[0]), layout="constrained")
    panels = figure.subplots(*shape, squeeze=False).ravel()
    for panel, metric in zip(panels, metrics, strict=True):
        _curves(panel, answer, metric)
    for panel in panels[-shape[1] :]:
        panel.set_xlabel("Place on the path α (0: A, 1: B)")
    legend_above(panels[0], columns=2)
    note_under(figure, _told(answer))
    return figure


@styled
def barrier_matrix(answer: xr.Dataset, *, width: Width = "single") -> Figure:
    """Heat maps of the barrier between all pairs, one a path and metric, the runs by their groups.

    Args:
        answer: barrier over (path, run, other, metric, definition), group over (run,).
        width: How many columns of a page it fills.
    """
    metrics = [name for name in ("loss", "error", "test_error") if name in answer["metric"].values]
    paths = answer["path"].values
    upright = width == "single"
    shape = (len(metrics), len(paths)) if upright else (len(paths), len(metrics))
    figure = Figure(figsize=(WIDTHS[width], 0.4 + min(WIDTHS[width] / shape[1], 2.3) * shape[0]), layout="constrained")
    grid = figure.subplots(*shape, squeeze=False)
    panels = grid.T if upright else grid
    values = answer["barrier"].sel(definition=answer.attrs["barrier_default"])
    for column, metric in enumerate(metrics):
        scale = 1 if metric.endswith("loss") else 100
        highest = scale * float(np.nanmax(values.sel(metric=metric), initial=0.0)) or 1.0
        for row, path in enumerate(paths):
            panel = panels[row, column]
            shown = scale * values.sel(metric=metric, path=path).values
            image = panel.imshow(shown, vmin=0, vmax=highest, cmap="cividis")
            panel.set_title(f"{_TITLES[metric]}, {clean(path)}" if len(paths) > 1 else _TITLES[metric])
            _name_groups(panel, answer, left=panel in grid[:, 0], bottom=panel in grid[-1])
        unit = "nats" if scale == 1 else "% of examples"
        figure.colorbar(image, ax=list(panels[:, column]), label=f"Barrier ({unit})", shrink=0.8)
    told = f"definition {answer.attrs['barrier_default']}, the highest of {answer.sizes['alpha']} points"
    note_under(figure, [f"barrier by the {told}"])
    return figure


@styled
def fork_instability(answer: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Instability of the error over the step of the fork: mean with its interval, the seeds, and the line at 2%.

    Args:
        answer: instability over (fork_step, metric), barrier over (fork_step, seed, pair, metric, definition).
        ax: Where to draw; None makes a new figure.
    """
    ax = ax or new_axes(2.6)
    steps = answer["fork_step"].values
    positive = steps[steps > 0]
    metrics = [m for m in ("error", "test_error") if m in answer["metric"].values]
    for colour, metric, shift in zip((BLUE, VERMILLION), metrics, (0.98, 1.02), strict=False):
        one = 100 * answer.sel(metric=metric)[["instability", "instability_low", "instability_high"]]
        mean = one["instability"].values
        reach = np.nan_to_num([mean - one["instability_low"].values, one["instability_high"].values - mean])
        label = "training" if metric == "error" else "test"
        ax.errorbar(steps, mean, reach, color=colour, marker="o", markersize=3, capsize=2, label=label, gid=metric)
        seeds = 100 * answer["barrier"].sel(metric=metric, definition="frankle").mean("pair")
        for seed in seeds["seed"].values:
            own = seeds.sel(seed=seed).values
            ax.plot(steps * shift, own, ".", color=colour, markersize=3, alpha=0.5, gid="seed")
    ax.axhline(100 * answer.attrs["stable"], color=GREY, linestyle=":", linewidth=0.9, label="2%, stable", zorder=0)
    ax.set_xscale("symlog", linthresh=float(positive.min()) if positive.size else 1.0)
    ax.set_xticks(steps, [f"{step:,}" for step in steps])
    ax.minorticks_off()
    ax.set_xlim(-0.3 * (positive.min() if positive.size else 1), 1.25 * max(steps.max(), 1))
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    ax.set_xlabel("Step of the fork")
    ax.set_ylabel("Instability of the error (%)")
    legend_above(ax)
    seeds_told = f"mean and 95% interval over {count(answer.sizes['seed'], 'seed')}; dots: seeds"
    note(ax, [seeds_told, *_stability_told(answer)])
    return figure_of(ax)


def _curves(panel: Axes, answer: xr.Dataset, metric: str) -> None:
    alphas = answer["alpha"].values
    scale = 1 if metric == "loss" else 100
    for number, path in enumerate(answer["path"].values):
        for name, colour in ((metric, BLUE), (f"test_{metric}", VERMILLION)):
            if name not in answer["metric"].values:
                continue
            one = answer.sel(path=path)[name.replace("error", "accuracy")]
            values = scale * (one if metric == "loss" else 1 - one).values
            told = f", {clean(path)}" if answer.sizes["path"] > 1 else ""
            label = f"{'test' if name.startswith('test') else 'training'}{told}"
            panel.plot(alphas, values, _STYLES[number % len(_STYLES)], color=colour, label=label, gid=f"{name} {path}")
            ends = values[np.isin(alphas, (0, 1))]
            panel.plot([0, 1], ends, "D", color=BLACK, markerfacecolor="white", markersize=4, gid="ends")
        _bracket(panel, answer.sel(path=path), metric, scale, LINES[2] if number else BLACK)
    panel.set_ylabel(_PANELS[metric])
    if alphas.min() < 0 or alphas.max() > 1:
        panel.axvspan(0, 1, color="0.93", zorder=-1, linewidth=0)


def _bracket(panel: Axes, one: xr.Dataset, metric: str, scale: int, colour: str) -> None:
    """The barrier of the training metric, from the mean of the ends to the highest point."""
    at, height = float(one["peak"].sel(metric=metric)), float(one["barrier"].sel(metric=metric, definition="frankle"))
    values = one[metric.replace("error", "accuracy")]
    top = float(values.sel(alpha=at)) if np.isfinite(at) else np.nan
    top = top if metric == "loss" else 1 - top
    if np.isfinite([top, height]).all() and height > 0:
        low, high = scale * (top - height), scale * top
        panel.annotate(
            "", (at, high), (at, low), arrowprops={"arrowstyle": "|-|,widthA=0.2,widthB=0.2", "color": colour}
        )


def _told(answer: xr.Dataset) -> list[str]:
    lines = []
    for path in answer["path"].values:
        found = answer["barrier"].sel(path=path, definition="frankle")
        parts = [
            f"{_TITLES[name]} {float(found.sel(metric=name)):.3g}"
            if name.endswith("loss")
            else f"{_TITLES[name]} {100 * float(found.sel(metric=name)):.2g}%"
            for name in map(str, answer["metric"].values)
        ]
        lines.append(f"barrier (Frankle et al.), {clean(path)}: {', '.join(parts)}")
    kind = {"line": "straight line", "arc": "arc"}.get(answer.attrs.get("kind", ""), "path")
    return [*lines, f"{kind}, BatchNorm {clean(answer.attrs.get('normalization', 'unknown'))} at each point"]


def _name_groups(panel: Axes, answer: xr.Dataset, *, left: bool, bottom: bool) -> None:
    groups = [str(group) for group in answer["group"].values]
    edges = [n for n in range(1, len(groups)) if groups[n] != groups[n - 1]]
    for edge in edges:
        panel.axhline(edge - 0.5, color="white", linewidth=0.8)
        panel.axvline(edge - 0.5, color="white", linewidth=0.8)
    starts = [0, *edges]
    middles = [(start + end - 1) / 2 for start, end in zip(starts, [*edges, len(groups)], strict=True)]
    if len(starts) > 1:
        names, ticks = told_apart([groups[start] for start in starts]), middles
    else:
        names, ticks = told_apart([str(run) for run in answer["run"].values], 12), list(range(len(groups)))
    nothing = [""] * len(ticks)
    panel.set_xticks(ticks, names if bottom else nothing, rotation=40, ha="right", fontsize=6)
    panel.set_yticks(ticks, names if left else nothing, fontsize=6)


def _stability_told(answer: xr.Dataset) -> list[str]:
    lines = []
    for metric in ("error", "test_error"):
        if metric in answer["metric"].values:
            one = answer.sel(metric=metric)
            start, rank = float(one["stable_from"]), float(one["spearman"])
            told = f"its mean is stable from {start:,.0f}" if np.isfinite(start) else "its mean is stable at none"
            lines.append(
                f"{_TITLES[metric]}: {told}, Spearman {rank:.2f}" if np.isfinite(rank) else f"{_TITLES[metric]}: {told}"
            )
    return lines
