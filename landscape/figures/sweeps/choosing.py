"""Which figures a sweep gets."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr
from matplotlib.figure import Figure

from landscape.figures.sweeps.factors import factors_of, metric_values
from landscape.figures.sweeps.heat_maps import heat_map
from landscape.figures.sweeps.lines import factor_curves, training_curves
from landscape.figures.sweeps.parallel import parallel_coordinates

_BY_DEFAULT = ("test_error", "test_loss", "train_loss", "val_loss")


def draw_sweep(sweep: xr.Dataset, metrics: Sequence[str] = ()) -> dict[str, Figure]:
    """Draw every figure of a sweep, by names that fit into file names.

    Args:
        sweep: What `open_sweep` returns.
        metrics: Which variables; if none are given, error and loss on the test data and the losses by epoch, where
            there are any.

    Raises:
        ValueError: If there is no such metric.
    """
    figures: dict[str, Figure] = {}
    for metric in metrics or _known(sweep):
        figures |= _of_metric(sweep, metric)
    return figures


def _known(sweep: xr.Dataset) -> list[str]:
    there = [name for name in _BY_DEFAULT if name in sweep or name.replace("error", "accuracy") in sweep]
    return [name for name in there if metric_values(sweep, name).notnull().any()]


def _of_metric(sweep: xr.Dataset, metric: str) -> dict[str, Figure]:
    name, number = metric.replace("_", "-"), len(factors_of(sweep))
    if "epoch" in metric_values(sweep, metric).dims:
        return {f"training-{name}": training_curves(sweep, metric)}
    figures = {f"heat-map-{name}": heat_map(sweep, metric)} if number > 1 else {}
    if number:
        figures[f"curves-{name}"] = factor_curves(sweep, metric)
    if number > 1:
        figures[f"parallel-{name}"] = parallel_coordinates(sweep, metric)
    return figures
