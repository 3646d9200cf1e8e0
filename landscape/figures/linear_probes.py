"""What a linear classifier reads from each layer."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.style import BLACK, BLUE, GREY, figure_of, legend_above, new_axes, styled, told_apart


@styled
def linear_probes(answer: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Test accuracy of a linear classifier by layer, beside the untrained network, the network itself and chance.

    Args:
        answer: accuracy and random_accuracy by (layer,), chance, and network_accuracy if it was measured.
        ax: Where to draw; None makes a new figure.
    """
    ax = ax or new_axes(2.6)
    names = told_apart([str(name) for name in answer["layer"].values], 16)
    x = np.arange(len(names))
    ax.plot(x, 100 * answer["accuracy"].values, "o-", color=BLUE, label="trained")
    ax.plot(x, 100 * answer["random_accuracy"].values, "s--", color=GREY, label="untrained")
    if "network_accuracy" in answer:
        ax.axhline(100 * float(answer["network_accuracy"]), color=BLACK, linewidth=0.8, label="network")
    ax.axhline(100 * float(answer["chance"]), color=BLACK, linestyle=":", linewidth=0.8, label="chance")
    ax.set_xticks(x, names, rotation=45, ha="right")
    ax.set_ylim(0, 102)
    ax.set_ylabel("Test accuracy (%)")
    legend_above(ax, columns=2)
    return figure_of(ax)
