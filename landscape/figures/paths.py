"""The way through parameter space: how long, how straight, how far from its start."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from landscape.figures.scales import finite, is_wide, log_y, round_ticks
from landscape.figures.style import BLUE, GREY, VERMILLION, WIDTHS, count, few_ticks, legend_above, note, styled

_MOST_POINTS = 150  # of a curve of angles; more are medians of groups


@styled
def path_geometry(training: xr.Dataset) -> Figure:
    """Length of the path and distance from the start by step, and below the cosine between successive updates.

    Args:
        training: The answer `training`, with chord_length, turn_cosine and distance_from_start (step).

    Returns:
        A figure of two panels that share the x axis.
    """
    figure = Figure(figsize=(WIDTHS["single"], 3.4), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    for panel in (upper, lower):
        few_ticks(panel)
    steps = np.asarray(training["step"].values, dtype=float)
    chords, distance = (training[name].values.astype(float) for name in ("chord_length", "distance_from_start"))
    length = np.nancumsum(chords)
    upper.plot(steps, length, color=BLUE, label="length of the path", gid="length")
    upper.plot(steps, distance, color=VERMILLION, label="distance from the start", gid="distance")
    both = np.concatenate([length, distance])
    if is_wide(both, 30):
        log_y(upper, both, most=5)
    upper.set_ylabel("‖Δθ‖")
    legend_above(upper, columns=2)
    cosine, group = training["turn_cosine"].values.astype(float), -(-len(steps) // _MOST_POINTS)
    starts = range(0, len(steps), group)
    middles = [np.median(known) if (known := finite(cosine[s : s + group])).size else np.nan for s in starts]
    lower.axhline(0, color=GREY, linewidth=0.6, linestyle="--", zorder=0)
    lower.plot([steps[s : s + group].mean() for s in starts], middles, color=BLUE, gid="cosine")
    lower.set_ylim(-1.05, 1.05)
    lower.set_ylabel("Cosine of turn")
    lower.set_xlabel("Optimizer step")
    lower.xaxis.set_major_locator(round_ticks(6, integer=True))
    ratio = distance[-1] / length[-1] if len(steps) and length[-1] > 0 else np.nan
    every = int(training.attrs.get("every", 1))
    note(
        lower,
        [
            f"the end lies {ratio:.1%} of the path's length from its start" if np.isfinite(ratio) else "",
            f"chords between every {every}th step" if every > 1 else "",
            f"each cosine: median of {group} steps" if group > 1 else "",
            f"{count(len(steps) - finite(distance).size, 'non-finite distance')} left out",
        ][: 4 if finite(distance).size < len(steps) else 3],
    )
    return figure
