"""How well a plane shows a trajectory: the loss of the run beside the loss of the plane under it."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from landscape.figures.labels import quantity, share_note
from landscape.figures.planes import Plane
from landscape.figures.scales import finite, is_wide, log_y, round_ticks
from landscape.figures.style import BLUE, GREY, VERMILLION, WIDTHS, count, legend_above, note, styled
from landscape.figures.trajectories import trajectory_of


@styled
def trajectory_loss(surface: xr.Dataset) -> Figure:
    """The loss of the run by step beside that of the plane where each snapshot projects to; below, what lies off it.

    Where the two lines part, the plane does not show the loss that the run had.

    Args:
        surface: The answer of the probe Surface along a trajectory: trajectory_loss, trajectory_off_plane and, unless
            the surface is to be read between its points, trajectory_plane_loss over (snapshot,).

    Returns:
        A figure of two panels that share the axis of steps.

    Raises:
        ValueError: If the answer has no trajectory with its loss.
    """
    trajectory = trajectory_of(surface)
    if trajectory is None or "trajectory_loss" not in surface:
        raise ValueError(
            "expected trajectory_alpha, trajectory_beta and trajectory_loss in the answer; ask Surface pca"
        )
    figure = Figure(figsize=(WIDTHS["single"], 2.9), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    if "trajectory_plane_loss" in surface:
        under, where = np.asarray(surface["trajectory_plane_loss"].values, float), "plane, at the projected point"
    else:
        plane = Plane.of(surface, "loss")
        under, where = trajectory.heights(plane.x, plane.y, plane.gaps), "plane, read between grid points"
    for values, colour, line, label, gid in (
        (trajectory.loss, BLUE, "-", "run", "run"),
        (under, VERMILLION, "--", where, "plane"),
    ):
        shown = np.where(np.isfinite(values), values, np.nan)
        upper.plot(trajectory.step, shown, line, color=colour, marker="o", markersize=2.2, label=label, gid=gid)
    everything = np.concatenate([trajectory.loss, under])
    if is_wide(everything):
        log_y(upper, everything, most=5)
    lower.plot(trajectory.step, trajectory.off_plane, color=GREY, marker="o", markersize=2.2, gid="off plane")
    lower.set_ylim(-0.03, 1.03)
    lower.yaxis.set_major_formatter(PercentFormatter(1.0))
    upper.set_ylabel(quantity(surface, "trajectory_loss").replace("trajectory loss", "Loss"))
    lower.set_ylabel("Off the plane")
    lower.set_xlabel("Optimizer step")
    lower.xaxis.set_major_locator(round_ticks(6, integer=True))
    legend_above(upper)
    outside = int((~np.isfinite(under)).sum())
    broken = trajectory.loss.size - finite(trajectory.loss).size
    note(
        lower,
        [
            share_note(surface),
            "off the plane: share of the distance from the checkpoint",
            f"{count(outside, 'snapshot')} without a loss of the plane" if outside else "",
            f"{count(broken, 'non-finite loss')} of the run left out" if broken else "",
        ],
    )
    return figure
