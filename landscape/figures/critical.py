"""Critical points: the loss along the way out of one, and the index of many against their loss."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from landscape.figures.labels import quantity
from landscape.figures.scales import finite, is_wide, log_y, number
from landscape.figures.style import (
    BLACK,
    BLUE,
    GREY,
    VERMILLION,
    count,
    figure_of,
    legend_above,
    new_axes,
    note,
    styled,
)
from landscape.text import clean

_NOT_CRITICAL = "not a critical point"


@styled
def escape(answer: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """The loss along the direction of smallest curvature, beside what slope and curvature at the point predict.

    Args:
        answer: The answer of the probe CriticalPoint: loss and quadratic_loss over (alpha,).
        ax: Where to draw; None makes a new figure.

    Returns:
        The figure, with verdict and index under it.
    """
    ax = ax or new_axes(2.4)
    alpha = np.asarray(answer["alpha"].values, dtype=float)
    for name, colour, line, label in (
        ("loss", BLUE, "-", "loss"),
        ("quadratic_loss", VERMILLION, "--", "quadratic model"),
    ):
        values = np.asarray(answer[name].values, dtype=float)
        ax.plot(alpha, np.where(np.isfinite(values), values, np.nan), line, color=colour, label=label, gid=name)
    center = float(answer["center_loss"])
    if np.isfinite(center):
        ax.plot(0, center, "D", color=BLACK, markerfacecolor="white", markersize=4, label="the point", gid="point")
    everything = np.append(finite(answer["loss"].values), finite(answer["quadratic_loss"].values))
    spread, level = (np.ptp(everything), np.abs(everything).max()) if everything.size else (0.0, 0.0)
    if everything.size and spread <= 1e-12 * level:
        ax.set_ylim(everything[0] - 0.1 * (level or 1), everything[0] + 0.1 * (level or 1))
    elif spread > 1e-3 * level:
        ax.yaxis.set_major_formatter(FuncFormatter(number))  # no power of ten where the legend stands
    ax.set_xlim(alpha.min(), alpha.max())
    smallest = float(answer["eigenvalue"].sel(end="smallest", rank=0))
    ax.set_xlabel(f"α, direction of smallest curvature ({number(float(f'{smallest:.3g}'))})")
    ax.set_ylabel(quantity(answer, "loss"))
    legend_above(ax)
    broken = answer["loss"].size - finite(answer["loss"].values).size
    note(ax, [_verdict(answer), _index(answer), f"{count(broken, 'non-finite value')} left out" if broken else ""])
    return figure_of(ax)


@styled
def index_against_loss(answers: Iterable[xr.Dataset], *, ax: Axes | None = None) -> Figure:
    """The loss of points against the share of directions in which it curves down, one point an answer.

    Points that are not critical, gradient-flat ones among them, are hollow: their share of negative curvature is no
    index of anything.

    Args:
        answers: Answers of the probe CriticalPoint, of one network or of several.
        ax: Where to draw; None makes a new figure.

    Returns:
        The figure, with the number of points of each kind under it.

    Raises:
        ValueError: If there are no answers.

    References:
        Dauphin et al., "Identifying and attacking the saddle point problem in high-dimensional non-convex
        optimization", NeurIPS 2014, figure 1.
    """
    answers = list(answers)
    if not answers:
        raise ValueError("expected at least one answer of the probe CriticalPoint; got none")
    ax = ax or new_axes(2.4)
    share = np.array([float(answer["index_fraction"]) for answer in answers])
    lower, upper = (np.array([float(a[f"index_fraction_{end}"]) for a in answers]) for end in ("lower", "upper"))
    loss = np.array([float(answer["center_loss"]) for answer in answers])
    is_critical = np.array([answer.attrs.get("verdict") != _NOT_CRITICAL for answer in answers])
    errors = np.clip([share - lower, upper - share], 0, None)
    for chosen, colour, face, label in (
        (is_critical, BLUE, BLUE, "critical"),
        (~is_critical, GREY, "white", _NOT_CRITICAL),
    ):
        if chosen.any():
            x, y = share[chosen], loss[chosen]
            ax.plot(x, y, "o", color=colour, markerfacecolor=face, markersize=3.5, label=label, gid=label)
        if (unsure := chosen & errors.any(axis=0)).any():
            x, y, bars = share[unsure], loss[unsure], errors[:, unsure]
            ax.errorbar(x, y, xerr=bars, fmt="none", ecolor=colour, elinewidth=0.7, gid=f"{label} error")
    if is_wide(loss, 50):
        log_y(ax, loss)
    right = max(upper.max(), share.max()) or 1.0
    ax.set_xlim(-0.03 * right, 1.05 * right)
    ax.set_xlabel("Index: share of eigenvalues below −τ")
    ax.set_ylabel(quantity(answers[0], "center_loss").replace("center loss", "Loss"))
    legend_above(ax)
    flat = sum("gradient-flat" in str(answer.attrs.get("verdict_reason", "")) for answer in answers)
    broken = int((~np.isfinite(loss)).sum())
    note(
        ax,
        [
            f"{count(int(is_critical.sum()), 'critical point') or 'no critical point'}"
            + (f", {int((~is_critical).sum())} not critical, {flat} of them gradient-flat" if flat else "")
            + (f", {int((~is_critical).sum())} not critical" if not flat and not is_critical.all() else ""),
            "bars: interval of the count" if errors.any() else "",
            f"{count(broken, 'non-finite loss')} left out" if broken else "",
        ],
    )
    return figure_of(ax)


def _verdict(answer: xr.Dataset) -> str:
    verdict, reason = (clean(answer.attrs.get(name, ""), 300) for name in ("verdict", "verdict_reason"))
    return f"{verdict}: {reason}" if reason else verdict


def _index(answer: xr.Dataset) -> str:
    low, high = (f"{float(answer[f'negative_count_{end}']):.0f}" for end in ("lower", "upper"))
    between = "" if low == high else f" (between {low} and {high})"
    certain = f"{float(answer['negative_count_certified']):.0f}"
    size = answer.attrs.get("num_parameters", "?")
    return f"{float(answer['negative_count']):.0f}{between} of {size} eigenvalues below −τ, {certain} of them certified"
