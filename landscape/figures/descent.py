"""Double descent: test loss and test error over a size, where training begins to fit everything, and the theory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from landscape.descent import METRICS
from landscape.figures.scales import finite, is_wide, log_x, log_y
from landscape.figures.style import (
    GREY,
    LINES,
    WIDTHS,
    Width,
    count,
    few_ticks,
    figure_of,
    legend_above,
    new_axes,
    note,
    note_under,
    styled,
)
from landscape.intervals import median_coverage, median_interval
from landscape.text import clean

Array = NDArray[np.float64]
Dash = Literal["-", "--", "-."] | tuple[float, Sequence[float]]

_DASHES: tuple[Dash, ...] = ("-", "--", (0, (1, 1)))
_SIZES = {
    "width": {"random-features": "Random features (N)", "least-squares": "Fitted features (p)", "": "Width"},
    "samples": {"": "Training examples (n)"},
    "epochs": {"": "Epochs"},
}
_SIZES["noise"] = _SIZES["width"]
_CRITERIA = {"rank": "rank = n", "error": "fits the labels"}


@styled
def descent_curves(answer: xr.Dataset, *, width: Width = "double") -> Figure:
    """Test loss and test error over the size, medians with intervals over seeds: a colour a noise, a dash an arm.

    Vertical lines stand at the interpolation threshold, with a band from the nearest size that does not reach it.

    Args:
        answer: What `landscape.descent.analysed` made: test_loss (arm, noise, size, seed) and the rest.
        width: How many columns of a paper two panels fill; one panel is one column wide.
    """
    metrics = [metric for metric in METRICS if f"test_{metric}" in answer]
    beside = width == "double" and len(metrics) > 1
    size = (WIDTHS["double"], 2.9) if beside else (WIDTHS["single"], 1.0 + 1.8 * len(metrics))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(*((1, 2) if beside else (len(metrics), 1)), squeeze=False, sharex=not beside).ravel()
    for panel, metric in zip(panels, metrics, strict=True):
        _curves(panel, answer, metric)
        if beside or metric == metrics[-1]:
            panel.set_xlabel(_size_label(answer))
    handles = _handles(answer)
    figure.legend(handles=handles, loc="outside upper left", ncols=6 if beside else 3, fontsize=6.5)
    seeds = answer.sizes["seed"]
    covered = f"{median_coverage(seeds):.0%} intervals" if seeds > 1 else ""
    note_under(figure, [", ".join(filter(None, [f"median of {count(seeds, 'seed')}", covered])), *_remarks(answer)])
    return figure


def _curves(ax: Axes, answer: xr.Dataset, metric: str) -> None:
    few_ticks(ax)
    sizes = answer["size"].values.astype(float)
    scale = 100.0 if metric == "error" else 1.0
    shown: list[Array] = []
    for level, colour in zip(range(answer.sizes["noise"]), LINES, strict=False):
        for arm in range(answer.sizes["arm"]):
            values = answer[f"test_{metric}"].isel(noise=level, arm=arm).transpose("seed", "size").values
            middle, low, high = (scale * each for each in median_interval(values))
            ax.plot(sizes, _finite(middle), color=colour, linestyle=_DASHES[arm % len(_DASHES)], gid=f"test-{metric}")
            if arm == 0 and len(values) > 1:
                ax.fill_between(sizes, _finite(low), _finite(high), color=colour, alpha=0.15, linewidth=0)
            shown.append(middle)
        train = answer.get(f"train_{metric}")
        if metric == "error" and train is not None:
            medians = scale * train.isel(noise=level, arm=0).median("seed").values
            ax.plot(sizes, medians, color=colour, linestyle=":", linewidth=0.9, gid="train-error")
    log_x(ax, sizes, most=5)
    _scale_y(ax, metric, np.concatenate(shown))
    if f"theory_{metric}" in answer:
        _theory(ax, answer[f"theory_{metric}"], sizes)
    _thresholds(ax, answer)
    if answer.attrs["axis"] == "epochs":
        _regimes(ax, answer, metric)
    ax.set_ylabel("Test error (%)" if metric == "error" else f"Test loss ({answer.attrs.get('loss', 'nats')})")


def _scale_y(ax: Axes, metric: str, values: Array) -> None:
    if metric == "loss" and is_wide(values, 5):
        log_y(ax, values, most=6)
    else:
        numbers = finite(values)
        ax.set_ylim(0 if metric == "error" else None, (numbers.max() * 1.08 or 1) if numbers.size else None)


def _theory(ax: Axes, theory: xr.DataArray, sizes: Array) -> None:
    """Where the expectation is infinite the line leaves the axes upwards."""
    top = ax.get_ylim()[1]
    for level, colour in zip(range(theory.sizes["noise"]), LINES, strict=False):
        for arm in range(theory.sizes["arm"]):
            values = theory.isel(noise=level, arm=arm).transpose("size").values
            ax.plot(
                sizes,
                np.where(np.isposinf(values), 100 * top, values),
                color=colour,
                marker="x",
                markersize=3,
                linestyle="none" if arm else "-",
                linewidth=0.4,
                gid="theory",
            )


def _thresholds(ax: Axes, answer: xr.Dataset) -> None:
    """Lines at what fits, bands to the nearest size that does not; one grey line where all levels agree."""
    for criterion in answer["criterion"].values:
        found = answer.sel(criterion=criterion)
        ends = np.stack([found["threshold"].values, found["threshold_outside"].values], 1)
        agree = len(ends) > 1 and np.isfinite(ends[:, 0]).all() and (ends[:, 0] == ends[0, 0]).all()
        colours = [GREY] if agree or criterion == "rank" else LINES
        line = _threshold_dash(answer, criterion)
        for (at, outside), colour in zip(ends, colours, strict=False):
            if np.isfinite(at):
                ax.axvline(at, color=colour, linestyle=line, linewidth=0.8, zorder=0, gid=f"threshold-{criterion}")
            if np.isfinite(at + outside):
                ax.axvspan(*sorted((at, outside)), color=colour, alpha=0.07, linewidth=0, zorder=0)


def _threshold_dash(answer: xr.Dataset, criterion: str) -> Dash:
    return "-" if criterion == "rank" or answer.sizes["criterion"] == 1 else "-."


def _regimes(ax: Axes, answer: xr.Dataset, metric: str) -> None:
    """Name the stretches of the noisiest curve that has a peak: before its first minimum, up to the peak, beyond."""
    one = answer.isel(arm=0).sel(metric=metric)
    peaks = np.flatnonzero(np.isfinite(one["peak_size"].values))
    if not peaks.size:
        return
    first, peak = (float(one[f"{name}_size"].isel(noise=peaks[-1])) for name in ("first_minimum", "peak"))
    low, high = ax.get_xlim()
    for name, start, end in (("classical", low, first), ("critical", first, peak), ("modern", peak, high)):
        if np.log(end / start) > 0.08 * np.log(high / low):
            place = (np.sqrt(start * end), 0.985)
            ax.text(*place, name, transform=ax.get_xaxis_transform(), ha="center", va="top", fontsize=6, color=GREY)
        if end < high:
            ax.axvline(end, color=GREY, linewidth=0.4, linestyle=(0, (1, 2)), zorder=0, gid="regime")


def _handles(answer: xr.Dataset) -> list[Line2D]:
    """Name colours and dashes once for all panels."""
    axis_noise = [f"{100 * level:g}% noise" for level in answer["noise"].values]
    handles = [Line2D([], [], color=colour, label=name) for colour, name in zip(LINES, axis_noise, strict=False)]
    if answer.sizes["arm"] > 1:
        names = [clean(name) for name in answer["arm"].values]
        handles += [
            Line2D([], [], color=GREY, linestyle=dash, label=name) for dash, name in zip(_DASHES, names, strict=False)
        ]
    if "train_error" in answer:
        handles.append(Line2D([], [], color=GREY, linestyle=":", linewidth=0.9, label="training error"))
    if any(f"theory_{metric}" in answer for metric in METRICS):
        handles.append(Line2D([], [], color=GREY, marker="x", markersize=3, linewidth=0.4, label="theory"))
    for criterion in answer["criterion"].values:
        if np.isfinite(answer["threshold"].sel(criterion=criterion)).any():
            dash, name = _threshold_dash(answer, criterion), _CRITERIA[str(criterion)]
            handles.append(Line2D([], [], color=GREY, linestyle=dash, linewidth=0.8, label=name))
    return handles


def _remarks(answer: xr.Dataset) -> list[str]:
    reached = answer["threshold"].sel(criterion="error") if "error" in answer["criterion"].values else None
    missing = [] if reached is None else [f"{100 * float(n):g}%" for n in reached["noise"][np.isnan(reached.values)]]
    never = f"no size fits the labels at {', '.join(missing)} noise" if missing else ""
    beyond = answer.sizes["noise"] - len(LINES)
    return [
        never,
        f"{beyond} more levels of noise not drawn" if beyond > 0 else "",
        str(answer.attrs.get("theory", "")),
    ]


def _size_label(answer: xr.Dataset) -> str:
    labels = _SIZES[answer.attrs["axis"]]
    return labels.get(str(answer.attrs.get("model")), labels[""])


def _finite(values: Array) -> Array:
    return np.where(np.isfinite(values), values, np.nan)


@styled
def peaks_by_noise(answer: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """How high the peak and the first minimum of the test error (or loss) stand over the level of noise.

    Args:
        answer: What `landscape.descent.analysed` made of at least 3 levels.
        ax: Where to draw; None makes a new figure.
    """
    ax = ax or new_axes(2.4)
    metric = "error" if "test_error" in answer else "loss"
    one, scale = answer.isel(arm=0).sel(metric=metric), 100.0 if metric == "error" else 1.0
    noise = 100 * answer["noise"].values
    for colour, name in zip(LINES, ("peak", "first_minimum", "last"), strict=False):
        label = {"first_minimum": "first minimum", "last": "largest size"}.get(name, name)
        ax.plot(noise, scale * one[name].values, marker="o", markersize=3, color=colour, label=label, gid=name)
    if metric == "loss" and is_wide(one["peak"].values, 5):
        log_y(ax, np.concatenate([one[name].values for name in ("peak", "first_minimum", "last")]))
    ax.set_xlabel("Label noise (%)")
    ax.set_ylabel("Test error (%)" if metric == "error" else f"Test loss ({answer.attrs.get('loss', 'nats')})")
    legend_above(ax)
    found = one.sel(of="peak")
    low, middle, high = (float(found[f"noise_correlation{end}"]) for end in ("_low", "", "_high"))
    note(ax, [f"Spearman's correlation of noise and peak: {middle:.2f} ({low:.2f} to {high:.2f})"])
    return figure_of(ax)


@styled
def descent_map(answer: xr.Dataset, *, width: Width = "double") -> Figure:
    """Test error over size and epochs, the median over seeds, one panel a level of noise.

    Args:
        answer: epoch_test_error (noise, size, epoch).
        width: How many columns of a paper several panels fill.
    """
    values = 100 * answer["epoch_test_error"].transpose("noise", "epoch", "size")
    levels = answer.sizes["noise"]
    figure = Figure(figsize=(WIDTHS["single"] if levels == 1 else WIDTHS[width], 2.6), layout="constrained")
    panels = figure.subplots(1, levels, squeeze=False, sharey=True)[0]
    sizes, epochs = answer["size"].values.astype(float), answer["epoch"].values.astype(float) + 1
    known = finite(values)
    low, high = (known.min(), known.max()) if known.size else (0, 1)
    for panel, noise, grid in zip(panels, answer["noise"].values, values.values, strict=True):
        image = panel.pcolormesh(
            _edges(sizes), _edges(epochs), grid, cmap="cividis", vmin=low, vmax=high, rasterized=True
        )
        log_x(panel, sizes, most=5)
        panel.set_xlim(*_edges(sizes)[[0, -1]])
        log_y(panel, epochs, most=5)
        panel.set_ylim(*_edges(epochs)[[0, -1]])
        panel.set_title(f"{100 * noise:g}% noise")
        panel.set_xlabel(_size_label(answer))
    panels[0].set_ylabel("Epochs")
    figure.colorbar(image, ax=list(panels), label="Test error (%)")
    return figure


def _edges(centres: Array) -> Array:
    """Edges of cells around centres, halfway in the logarithm."""
    logs = np.log(centres)
    middles = (logs[1:] + logs[:-1]) / 2
    return np.exp([2 * logs[0] - middles[0], *middles, 2 * logs[-1] - middles[-1]])
