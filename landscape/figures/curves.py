"""Curves over training: loss and accuracy by epoch, and what a probe answered at several steps."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from landscape.figures.labels import quantity
from landscape.figures.scales import finite, is_wide, log_y, round_ticks
from landscape.figures.spectra import eigenvalue_label
from landscape.figures.style import (
    BLUE,
    GREEN,
    LINES,
    SKY,
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
from landscape.text import clean

_SPLIT_COLOURS = {"train": BLUE, "val": VERMILLION, "test": GREEN}
_ACCURACY_ENDINGS = ("accuracy", "acc", "error", "err")


@styled
def learning_curves(training: xr.Dataset) -> Figure:
    """Training and validation loss by epoch over the faint loss of every step; accuracy or error below.

    A metric logged at the end of epoch e (counted from 0) stands at x = e + 1; a step stands at the share of its
    epoch that is done after it. Without a training loss by epoch, the means of the steps' losses take its place.

    Args:
        training: The answer `training` of the callback TrainingDynamics: dims (step, layer, epoch).

    Returns:
        A figure of one or two panels that share the x axis.
    """
    losses = _by_epoch(training, ("loss",))
    scores = _by_epoch(training, _ACCURACY_ENDINGS)
    figure = Figure(figsize=(WIDTHS["single"], 3.2 if scores else 2.2), layout="constrained")
    panels = figure.subplots(2 if scores else 1, sharex=True, squeeze=False).ravel()
    for panel in panels:
        few_ticks(panel)
    _draw_losses(panels[0], training, losses)
    if scores:
        for name in scores:
            _draw_metric(panels[1], training[name], name)
        panels[1].set_ylabel("Error" if all("err" in name for name in scores) else "Accuracy")
    bottom = panels[-1]
    bottom.set_xlabel("Epoch" if "epoch" in training.dims else "Optimizer step")
    bottom.xaxis.set_major_locator(round_ticks(7, integer=True))
    legend_above(panels[0])
    broken = sum(int((~np.isfinite(training[name])).sum()) for name in ["loss", *losses] if name in training)
    note(bottom, [f"{count(broken, 'non-finite loss value')} left out" if broken else ""])
    return figure


def _by_epoch(training: xr.Dataset, endings: tuple[str, ...]) -> list[str]:
    """Metrics over epochs whose names end as given, training first."""
    names = [str(name) for name in training.data_vars if training[name].dims == ("epoch",)]
    chosen = [name for name in names if name.rsplit("_", 1)[-1].rsplit("/", 1)[-1].lower() in endings]
    return sorted(chosen, key=lambda name: (_split(name) != "train", _split(name) != "val", name))


def _split(name: str) -> str:
    head = name.replace("/", "_").removeprefix("epoch_").split("_")[0]
    return {"valid": "val", "validation": "val"}.get(head, head)


def _draw_losses(ax: Axes, training: xr.Dataset, losses: list[str]) -> None:
    shown = [training[name].values for name in losses]
    if "loss" in training:
        x, loss = epochs_of_steps(training), np.asarray(training["loss"].values, dtype=float)
        ax.plot(x, loss, color=SKY, linewidth=0.5, alpha=0.6, label="each step", gid="steps")
        shown.append(loss)
        if "train_loss" not in losses and "epoch_of_step" in training:
            _draw_epoch_means(ax, training)
    for name in losses:
        _draw_metric(ax, training[name], name)
    values = np.concatenate([np.ravel(v) for v in shown]) if shown else np.array([])
    if is_wide(values):
        log_y(ax, values, most=5)
    ax.set_ylabel(quantity(training, "loss"))


def _draw_epoch_means(ax: Axes, training: xr.Dataset) -> None:
    means = training["loss"].groupby(training["epoch_of_step"].rename("of")).mean()
    ax.plot(means["of"].values + 1, means.values, color=BLUE, label="mean of epoch", gid="epoch means")


def _draw_metric(ax: Axes, metric: xr.DataArray, name: str) -> None:
    split = _split(name)
    values = np.where(np.isfinite(metric.values), metric.values, np.nan)
    labels = {"train": "training", "val": "validation", "test": "test"}
    ax.plot(
        np.asarray(metric["epoch"].values) + 1,
        values,
        color=_SPLIT_COLOURS.get(split, LINES[3]),
        marker="o" if np.isfinite(values).sum() <= 30 else "",
        markersize=2.2,
        label=labels.get(split, clean(name, 24)),
        gid=name,
    )


def epochs_of_steps(training: xr.Dataset) -> NDArray[np.float64]:
    """(step,) how many epochs are done after each step; the step itself where epochs are not known."""
    steps = np.asarray(training["step"].values, dtype=float)
    if "epoch_of_step" not in training:
        return steps
    epochs = np.asarray(training["epoch_of_step"].values, dtype=float)
    first = {epoch: steps[epochs == epoch].min() for epoch in np.unique(epochs)}
    last = {epoch: steps[epochs == epoch].max() for epoch in np.unique(epochs)}
    starts = np.array([first[epoch] for epoch in epochs])
    lengths = np.array([last[epoch] - first[epoch] + 1 for epoch in epochs])
    return epochs + (steps - starts + 1) / lengths


@styled
def by_step(answer: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """What a probe answered at several training steps: eigenvalues with their residuals, sharpness, or its scalars.

    Measures of sharpness have scales of their own, so each is drawn relative to its largest value.

    Args:
        answer: The answer of a probe under the callback ProbeEvery, each variable with the leading dim step.
        ax: Where to draw; None makes a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: If no variable of the answer is a number by step or an eigenvalue by step.
    """
    ax = ax or new_axes(2.2)
    lines, is_spectrum = lines_by_step(answer), _is_spectrum(answer)
    if not lines:
        raise ValueError("expected a variable with dims (step,), or eigenvalue (step, end, rank); found none to draw")
    steps = np.asarray(answer["step"].values)
    for index, (label, values, error, colour) in enumerate(lines):
        ax.errorbar(
            steps,
            values,
            yerr=error,
            color=colour or LINES[index % len(LINES)],
            marker="o",
            markersize=2.5,
            elinewidth=0.7,
            label=label,
            gid=label,
        )
    everything = np.concatenate([values for _, values, _, _ in lines])
    if is_wide(everything, 100):
        log_y(ax, everything)
    elif is_spectrum:
        ax.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    ax.set_xlabel("Optimizer step")
    ax.xaxis.set_major_locator(round_ticks(6, integer=True))
    alone = clean(lines[0][0], 40) if len(lines) == 1 else ""
    shares = "Sharpness / its largest value" if _is_sharpness(answer) else ""
    ax.set_ylabel(eigenvalue_label(answer["eigenvalue"]) if is_spectrum else shares or alone)
    legend_above(ax, columns=3)
    broken = everything.size - finite(everything).size
    note(ax, [f"{count(broken, 'non-finite value')} left out" if broken else ""])
    return figure_of(ax)


Line = tuple[str, NDArray[np.float64], NDArray[np.float64] | None, str | None]


def lines_by_step(answer: xr.Dataset) -> list[Line]:
    """What `by_step` draws of an answer; empty if nothing in it is a number by step."""
    if not answer.sizes.get("step"):
        return []
    if _is_sharpness(answer):
        return _sharpness_lines(answer)
    return _eigenvalue_lines(answer) if _is_spectrum(answer) else _scalar_lines(answer)


def _is_spectrum(answer: xr.Dataset) -> bool:
    sizes = answer["eigenvalue"].sizes if "eigenvalue" in answer else {}
    return set(sizes) == {"step", "end", "rank"} and min(sizes.values()) > 0


def _eigenvalue_lines(answer: xr.Dataset) -> list[Line]:
    """The extreme eigenvalue of each end, with its residual."""
    words = {"largest": ("largest", BLUE), "smallest": ("most negative", VERMILLION)}
    lines: list[Line] = []
    for end in answer["end"].values:
        pairs = answer.sel(end=end).transpose("step", "rank")
        values = np.asarray(pairs["eigenvalue"].values, dtype=float)
        extreme = np.argmax(np.where(np.isfinite(values), values if end == "largest" else -values, -np.inf), axis=1)
        rows = np.arange(len(values))
        residuals = np.asarray(pairs["residual"].values, dtype=float)[rows, extreme] if "residual" in pairs else None
        label, colour = words.get(str(end), (clean(end, 24), BLUE))
        lines.append((label, values[rows, extreme], residuals, colour))
    return lines


def _is_sharpness(answer: xr.Dataset) -> bool:
    return "first_order_share" in answer and set(answer["value"].dims) == {"step", "measure"}


def _sharpness_lines(answer: xr.Dataset) -> list[Line]:
    """The first seven measures, each as a share of its own largest value: their scales cannot be compared."""
    lines: list[Line] = []
    for name in answer["measure"].values[: len(LINES)]:
        one = answer.sel(measure=name)
        values, errors = (np.asarray(one[key].values, dtype=float) for key in ("value", "standard_error"))
        largest = np.abs(finite(values)).max(initial=0.0) or 1.0
        known = None if np.isnan(errors).all() else np.nan_to_num(errors) / largest
        lines.append((clean(name, 24), values / largest, known, None))
    return lines


def _scalar_lines(answer: xr.Dataset) -> list[Line]:
    """At most six numbers by step, those with the same unit as the first."""
    names = [str(n) for n in answer.data_vars if answer[n].dims == ("step",) and answer[n].dtype.kind in "fiu"]
    names = [name for name in names if not name.endswith("_standard_error")]
    if "center_loss" in names:
        names = [name for name in names if name.endswith("loss")]
    return [(clean(n, 24), np.asarray(answer[n].values, dtype=float), _error(answer, n), None) for n in names[:6]]


def _error(answer: xr.Dataset, name: str) -> NDArray[np.float64] | None:
    key = f"{name}_standard_error"
    return np.asarray(answer[key].values, dtype=float) if key in answer else None


@styled
def generic(answer: xr.Dataset, name: str) -> Figure:
    """One variable of somebody's own probe over its only dimension, with its standard error where there is one.

    Args:
        answer: Any answer.
        name: A numeric variable with one dimension.

    Returns:
        The figure.
    """
    variable = answer[name]
    (dim,) = variable.dims
    numeric = dim in answer.coords and answer[dim].dtype.kind in "fiu"
    x = np.asarray(answer[dim].values) if numeric else np.arange(variable.size)
    y = np.asarray(variable.values, dtype=float)
    ax = new_axes(2.2)
    marker = "o" if variable.size <= 60 else ""
    ax.errorbar(x, np.where(np.isfinite(y), y, np.nan), yerr=_error(answer, name), marker=marker, gid=name)
    if is_wide(y, 100):
        log_y(ax, y)
    units = variable.attrs.get("units")
    ax.set_xlabel(clean(dim, 40))
    ax.set_ylabel(clean(f"{name} ({units})" if units else name, 48))
    broken = y.size - finite(y).size
    note(ax, [f"{count(broken, 'non-finite value')} left out" if broken else ""])
    return figure_of(ax)
