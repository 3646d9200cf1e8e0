"""An answer of double descent as rows of a table, and in words."""

from __future__ import annotations

import math
from typing import Any

import xarray as xr

from landscape.tables import number

_BOTH = ("peak_size", "peak", "first_minimum_size", "first_minimum", "last")


def descent_rows(answer: xr.Dataset) -> list[dict[str, Any]]:
    """One row an arm, a level of noise and a metric: where the curve turns, and by how much, with intervals."""
    rows = []
    for arm in map(str, answer["arm"].values):
        for noise in answer["noise"].values:
            for metric in map(str, answer["metric"].values):
                one = answer.sel(arm=arm, noise=noise, metric=metric)
                row: dict[str, Any] = {"arm": arm, "noise": float(noise), "test": metric}
                row |= {name.replace("_", " "): _known(float(one[name])) for name in _BOTH}
                row |= {name: _with_interval(one, name) for name in ("bump", "fall", "gain")}
                rows.append(row)
    return rows


def descent_words(answer: xr.Dataset) -> list[str]:
    """Say where training begins to fit everything, at each level of noise, or that it never does."""
    lines = []
    by_samples, tolerance = answer.attrs["axis"] == "samples", answer.attrs["tolerance"]
    for criterion in map(str, answer["criterion"].values):
        what = "rank of the features equals n" if criterion == "rank" else f"training error at most {tolerance:.2g}"
        for noise in answer["noise"].values[: 1 if criterion == "rank" else None]:  # no label decides a rank
            one = answer.sel(criterion=criterion, noise=noise)
            size, outside, parameters = (
                float(one[name]) for name in ("threshold", "threshold_outside", "threshold_parameters")
            )
            at = f"{what}: " if criterion == "rank" else f"{what} at {100 * noise:g}% noise: "
            if math.isnan(size):
                lines.append(at + "not reached by any size that was measured")
                continue
            bracket = "" if math.isnan(outside) else f", not at {outside:g}"
            edge = "" if bracket else "; all sizes are on this side of it"
            kind = "up to" if by_samples else "from"
            lines.append(f"{at}{kind} size {size:g}{bracket}{edge} ({parameters:g} parameters{_examples(one, size)})")
    if "noise_correlation" in answer:
        one = answer.isel(arm=0).sel(of="peak")
        for metric in map(str, answer["metric"].values):
            of_metric = one.sel(metric=metric)
            low, high = number(float(of_metric["noise_correlation_low"])), float(of_metric["noise_correlation_high"])
            middle = number(float(of_metric["noise_correlation"]))
            lines.append(f"Spearman of noise and peak of the {metric}: {middle} ({low} to {number(high)})")
    return lines


def _examples(one: xr.Dataset, size: float) -> str:
    return f", {int(one['num_examples'].sel(size=size))} examples"


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _with_interval(one: xr.Dataset, name: str) -> str:
    low, high = float(one[f"{name}_low"]), float(one[f"{name}_high"])
    interval = "" if math.isnan(low) else f" ({number(low)} to {number(high)})"
    return f"{number(float(one[name]))}{interval}"
