"""Linear classifiers on what enters each layer, from the raw input to the last one."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.style import GREY, LINES, figure_of, legend_above, new_axes, note, styled, told_apart

_SHOWN = len(LINES) - 1  # amounts of examples; black is the network itself


@styled
def probe_accuracy(answer: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Test accuracy over depth with its interval, one line an amount of examples; dashed, that of random weights.

    Args:
        answer: What linear probes answered: accuracy (amount, layer), null_accuracy (null, amount, layer).
        ax: Where to draw; None makes a new figure.
    """
    ax = ax or new_axes(2.7)
    places = np.arange(answer.sizes["layer"])
    amounts = answer["amount"].values[:_SHOWN]
    for colour, amount in zip(LINES, amounts, strict=False):
        one = answer.sel(amount=amount)
        value = one["accuracy"].values
        errors = np.array([value - one["accuracy_low"].values, one["accuracy_high"].values - value])
        label = f"{amount:,} examples"
        ax.errorbar(
            places, value, errors, color=colour, marker="o", markersize=2.8, elinewidth=0.7, label=label, gid="probe"
        )
        if answer.sizes.get("null"):
            null = one["null_accuracy"].values
            ax.plot(places, null.mean(0), color=colour, linestyle="--", linewidth=0.8, gid="null")
            ax.fill_between(places, null.min(0), null.max(0), color=colour, alpha=0.15, linewidth=0)
    own, chance = answer["network_accuracy"].item(), answer["chance"].item()
    if np.isfinite(own):
        ax.axhline(own, color="black", linewidth=0.8, label="network itself", zorder=0)
    ax.axhline(chance, color=GREY, linestyle=":", linewidth=0.9, label="chance", zorder=0)
    ax.set_xticks(
        places, told_apart([str(name) for name in answer["layer"].values], 16), rotation=40, ha="right", fontsize=6
    )
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("Test accuracy")
    ax.set_xlabel("Fitted on what enters the layer")
    legend_above(ax, columns=2)
    more = answer.sizes["amount"] - len(amounts)
    note(
        ax,
        [
            f"dashed: mean and range over {answer.sizes['null']} networks with random weights"
            if answer.sizes.get("null")
            else "",
            f"{more} more amounts not drawn" if more > 0 else "",
        ],
    )
    return figure_of(ax)
