"""Averages of weights beside what they average: the plane of three iterates, lines, random rays, paired differences."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from landscape.figures.contours import add_bar, draw_plane
from landscape.figures.planes import Plane, Scale
from landscape.figures.scales import is_wide, log_y
from landscape.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    WIDTHS,
    count,
    figure_of,
    legend_above,
    new_axes,
    note,
    note_under,
    styled,
)
from landscape.intervals import mean_and_error, student_factor
from landscape.text import clean

_COLOURS = {
    "last": BLACK,
    "decayed": ORANGE,
    "swa": VERMILLION,
    "swa-cyclic": PURPLE,
    "ema": BLUE,
    "lawa": GREEN,
}
_NAMES = {
    "last": "last iterate",
    "decayed": "decayed SGD",
    "swa": "SWA",
    "swa-cyclic": "SWA, cyclic",
    "ema": "EMA",
    "lawa": "LAWA",
}
_METRICS = {"train_loss": "Training loss (nats)", "test_error": "Test error (%)"}
_DASHES = {"last": "-", "decayed": "--"}
_MEASURES = {
    "test_error": "test error (points)",
    "test_loss": "test loss (nats)",
    "train_loss_rise": "rise of training loss\nalong rays (nats)",
    "test_error_rise": "rise of test error\nalong rays (points)",
}


@styled
def averaging(answer: xr.Dataset) -> Figure:
    """Training loss (left) and test error (right): in the plane of three iterates, along lines, along random rays.

    The plane is that of the first seed. Lines run from the average, at 0, to the last iterate and to SGD whose rate has
    decayed, at 1, and beyond both. Lines and rays are means over seeds with Student's 95% intervals.

    Args:
        answer: What `landscape swa` answered: plane (metric, x, y), line (seed, reference, metric, alpha), rise (seed,
            point, metric, radius).
    """
    figure = Figure(figsize=(WIDTHS["double"], 7.6), layout="constrained")
    panels = figure.subplots(3, 2, squeeze=False)
    for column, (metric, label) in enumerate(_METRICS.items()):
        one, percent = answer.sel(metric=metric), 100.0 if metric == "test_error" else 1.0
        _plane(panels[0, column], one, percent, label)
        _lines(panels[1, column], one["line"] * percent, label)
        _rays(panels[2, column], one["rise"] * percent, f"Rise of {label[0].lower()}{label[1:]}".replace("%", "points"))
    handles, names = panels[0, 0].get_legend_handles_labels()
    panels[0, 0].legend(handles, names, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=6)
    legend_above(panels[1, 0])
    legend_above(panels[2, 0])
    off = answer["mark_off_plane"].values[-1]
    seeds = answer.sizes["seed"]
    note_under(
        figure,
        [
            f"plane of seed {answer['seed'].values[0]}: {off:.0%} of the way of SWA is off it",
            f"lines and rays: mean of {count(seeds, 'seed')}" + (", bands: 95% intervals" if seeds > 1 else ""),
            "BatchNorm measured again at every point",
        ],
    )
    return figure


@styled
def averaging_differences(answer: xr.Dataset) -> Figure:
    """What each network has less than the last iterate and less than decayed SGD, paired by seed, with 95% intervals.

    Args:
        answer: What `landscape swa` answered: difference_mean, difference_low, difference_high (point, reference,
            measure).
    """
    points = [name for name in answer["point"].values.tolist() if name != "last"]
    figure = Figure(figsize=(WIDTHS["double"], 1.1 + 0.24 * len(points)), layout="constrained")
    panels = figure.subplots(1, len(_MEASURES), sharey=True)
    for panel, (measure, label) in zip(panels, _MEASURES.items(), strict=True):
        scale = 100.0 if "error" in measure else 1.0
        panel.axvline(0, color=GREY, linewidth=0.6)
        for shift, reference in ((-0.15, "last"), (0.15, "decayed")):
            found = answer.sel(reference=reference, measure=measure, point=points)
            mean, low, high = (scale * found[f"difference_{name}"].values for name in ("mean", "low", "high"))
            rows = np.arange(len(points)) + shift
            shown = np.array([name != reference for name in points])
            colour, reach = _COLOURS[reference], np.nan_to_num(np.stack([mean - low, high - mean]))
            panel.errorbar(
                mean[shown], rows[shown], xerr=reach[:, shown], fmt="o", markersize=3, color=colour, capsize=2,
                label=f"less {_NAMES[reference]}", gid=reference,
            )  # fmt: skip
        panel.set_xlabel(label)
        panel.locator_params(axis="x", nbins=4)
    panels[0].set_yticks(np.arange(len(points)), [_NAMES.get(name, clean(name)) for name in points])
    panels[0].invert_yaxis()
    legend_above(panels[0], columns=1)
    seeds = answer.sizes["seed"]
    note_under(figure, [f"paired over {count(seeds, 'seed')}" + (", bars: 95% intervals" if seeds > 1 else "")])
    return figure


@styled
def rays(answer: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """How the loss rises along random rays: each faint, and their mean with Student's 95% interval.

    Args:
        answer: The answer of the probe Rays, with loss_rise (ray, radius).
        ax: Where to draw; None makes a new figure.
    """
    ax = ax or new_axes(2.3)
    radii = _from_zero(answer["radius"].values)
    for name, colour, label in (("loss", BLUE, "training"), ("test_loss", VERMILLION, "test")):
        if f"{name}_rise" not in answer:
            continue
        for ray in answer[f"{name}_rise"].values:
            ax.plot(radii, _from_zero(ray), color=colour, linewidth=0.4, alpha=0.35)
        mean, low, high = (_from_zero(answer[f"mean_{name}_rise{end}"].values) for end in ("", "_low", "_high"))
        ax.fill_between(radii, low, high, color=colour, alpha=0.22, linewidth=0)
        ax.plot(radii, mean, color=colour, label=label, gid=name)
    ax.set_xlim(0, radii[-1])
    ax.set_xlabel("Distance along random rays")
    ax.set_ylabel("Rise of the loss (nats)")
    legend_above(ax)
    note(ax, [f"{count(answer.sizes['ray'], 'ray')}; band: 95% interval of their mean"])
    return figure_of(ax)


def _plane(ax: Axes, one: xr.Dataset, percent: float, label: str) -> None:
    plane = Plane(one["x"].values, one["y"].values, percent * one["plane"].values)
    scale = Scale.over([plane])
    drawn = draw_plane(ax, plane, scale)
    if drawn and scale:
        add_bar(drawn, [ax], scale, label)
    names, x, y = (one[name].values for name in ("mark", "mark_x", "mark_y"))
    styles = [*(("o", SKY, 4),) * (len(names) - 2), ("D", GREEN, 4), ("*", VERMILLION, 9)]
    for name, at_x, at_y, (marker, colour, size) in zip(names, x, y, styles, strict=True):
        label = f"{name}, projected" if name == "SWA" else clean(name)
        if marker == "o":
            ax.annotate(name.rpartition(" ")[2], (at_x, at_y), (3, 3), textcoords="offset points", fontsize=5.5)
            label = "SGD, after steps" if name == names[0] else "_"
        ax.plot(at_x, at_y, marker, color=colour, markersize=size, markeredgecolor="white", markeredgewidth=0.5,
                label=label, gid=str(name), linestyle="none", zorder=5)  # fmt: skip
    ax.set_aspect("equal")
    ax.set_xlabel("Distance from the first iterate")


def _lines(ax: Axes, lines: xr.DataArray, label: str) -> None:
    alpha = lines["alpha"].values
    everything = []
    for reference, dash in _DASHES.items():
        low, mean, high = _band(lines.sel(reference=reference).values)
        colour = _COLOURS[reference]
        ax.fill_between(alpha, low, high, color=colour, alpha=0.18, linewidth=0)
        ax.plot(alpha, mean, dash, color=colour, label=f"to {_NAMES[reference]}", gid=reference)
        everything.append(mean)
    values = np.concatenate(everything)
    if is_wide(values, 10) and values.min() > 0:
        log_y(ax, values)
    for place in (0, 1):
        ax.axvline(place, color=GREY, linewidth=0.5, linestyle=":")
    ax.set_xlim(alpha.min(), alpha.max())
    ax.set_xticks([0, 1], ["SWA", "SGD"])
    ax.set_ylabel(label)
    ax.set_xlabel("Along the line SWA - SGD")


def _rays(ax: Axes, rise: xr.DataArray, label: str) -> None:
    radii = _from_zero(rise["radius"].values)
    for point in rise["point"].values.tolist():
        low, mean, high = (_from_zero(values) for values in _band(rise.sel(point=point).values))
        colour = _COLOURS.get(point, GREY)
        ax.fill_between(radii, low, high, color=colour, alpha=0.1, linewidth=0)
        ax.plot(radii, mean, color=colour, label=_NAMES.get(point, clean(point)), gid=point)
    ax.set_xlim(0, radii[-1])
    ax.set_xlabel("Distance along random rays")
    ax.set_ylabel(label)


def _band(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Lower end, mean and upper end of the interval over the first axis; of one sample the sample itself."""
    mean, error = mean_and_error(values)
    reach = student_factor(len(values)) * error if len(values) > 1 else np.zeros_like(mean)
    return mean - reach, mean, mean + reach


def _from_zero(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.asarray(values, dtype=float)])
