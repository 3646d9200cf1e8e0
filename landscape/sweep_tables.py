"""Sweeps as plain text: how far one is, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from landscape.tables import number, table
from landscape.text import clean

if TYPE_CHECKING:
    import xarray as xr

MOST = 10  # runs that are listed
_CRITERIA = ("test_loss", "val_loss")


def duration(seconds: float | None) -> str:
    """Write a time for people.

    >>> duration(5), duration(125), duration(7300), duration(200000), duration(None)
    ('5 s', '2 min 5 s', '2 h 2 min', '2 d 7 h', '?')
    """
    if seconds is None or not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    parts = [(whole // size if size == 86400 else whole % larger // size, word)
             for (word, size), larger in zip(units, (math.inf, 86400, 3600, 60), strict=True)]  # fmt: skip
    first = next((place for place, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{int(count)} {word}" for count, word in parts[first : first + 2] if count or first == 3)


def dims_text(dims: Mapping[str, Sequence[Any]]) -> str:
    """One line a dimension with its values, the middle of many left out."""
    lines = []
    for name, values in dims.items():
        shown = [number(value) for value in values]
        if len(shown) > MOST:
            shown = [*shown[:4], "...", *shown[-2:]]
        lines.append(f"  {clean(name)} ({len(values)}): {', '.join(shown)}")
    return "\n".join(lines)


def counts_of(sweep: xr.Dataset) -> dict[str, int]:
    """How many runs ended in which state, and how many are missing; cells that no run belongs to are not."""
    states = sweep["status"].values.ravel().tolist()
    counts = {state: states.count(state) for state in ("finished", "diverged", "failed")}
    return {**counts, "missing": int(sweep.attrs["num_runs"]) - sum(counts.values())}


def best_runs(sweep: xr.Dataset, metric: str) -> list[dict[str, Any]]:
    """The finished runs of the lowest value of a metric, of its lowest epoch where it has epochs."""
    values = sweep[metric].where(sweep["status"] == "finished")
    values = values.min("epoch") if "epoch" in values.dims else values
    order = np.argsort(values.values, axis=None, kind="stable")[:MOST]
    return [_about(sweep, int(place)) | {metric: float(values.values.flat[place])} for place in order
            if math.isfinite(values.values.flat[place])]  # fmt: skip


def failed_runs(sweep: xr.Dataset) -> list[dict[str, Any]]:
    """The runs with an error."""
    places = np.flatnonzero(sweep["error"].values.ravel() != "")
    return [_about(sweep, int(p)) | {"error": clean(sweep["error"].values.flat[p], limit=500)} for p in places]


def _about(sweep: xr.Dataset, place: int) -> dict[str, Any]:
    dims = sweep["status"].dims
    at = np.unravel_index(place, sweep["status"].shape)
    row = {str(name): sweep[name].values[index].item() for name, index in zip(dims, at, strict=True)}
    return {**row, "run": str(sweep["run"].values.flat[place])}


def sweep_text(sweep: xr.Dataset) -> str:
    """Tell of a sweep: its dimensions, how many runs there are, the best ones, and those that failed."""
    dims = {str(name): sweep[name].values.tolist() for name in sweep["status"].dims}
    counts = ", ".join(f"{count} {state}" for state, count in counts_of(sweep).items() if count)
    empty = sweep["status"].size - int(sweep.attrs["num_runs"])
    blocks = [dims_text(dims), f"  runs: {counts}{f'; {empty} cells have no run' if empty else ''}"]
    for metric in _CRITERIA:
        if metric in sweep and (rows := best_runs(sweep, metric)):
            blocks.append(f"lowest {metric.replace('_', ' ')}:\n{table(rows)}")
    if rows := failed_runs(sweep):
        more = f"\nand {len(rows) - MOST} more" if len(rows) > MOST else ""
        blocks.append(f"with an error ({len(rows)}):\n{table(rows[:MOST])}{more}")
    return "\n".join(blocks)


def sweep_value(sweep: xr.Dataset) -> dict[str, Any]:
    """Tell the same for a script."""
    return {
        "dims": {str(name): sweep[name].values for name in sweep["status"].dims},
        "states": counts_of(sweep),
        "best": {metric: best_runs(sweep, metric) for metric in _CRITERIA if metric in sweep},
        "failed": failed_runs(sweep),
        "attributes": sweep.attrs,
    }
