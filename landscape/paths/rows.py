"""What the commands about paths print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from landscape.paths.barriers import DEFINITIONS


def path_rows(answer: xr.Dataset, stored: Sequence[Mapping[str, float]] = ()) -> list[dict[str, Any]]:
    """List the barriers of each path, with the values at its ends.

    Args:
        answer: What `Interpolation` answered.
        stored: What the runs at A and B have stored of themselves by metric, to be shown beside.
    """
    rows = []
    for path in answer["path"].values:
        one = answer.sel(path=path)
        for metric in map(str, answer["metric"].values):
            values = one[metric.replace("error", "accuracy")]
            ends = [float(values.sel(alpha=alpha)) for alpha in (0.0, 1.0)]
            ends = [1 - end for end in ends] if metric.endswith("error") else ends
            row = {"path": str(path), "metric": metric, "A": ends[0], "B": ends[1]}
            row |= {f"{name}_stored": own[metric] for name, own in zip("AB", stored, strict=False) if metric in own}
            found = one["barrier"].sel(metric=metric)
            row |= {name: float(found.sel(definition=name)) for name in DEFINITIONS}
            rows.append({**row, "peak": float(one["peak"].sel(metric=metric))})
    return rows


def group_rows(answer: xr.Dataset, metric: str = "error") -> list[dict[str, Any]]:
    """List the mean barrier (by the default definition) of the pairs of each two groups.

    Args:
        answer: What `BarrierMatrix` answered.
        metric: Of what.
    """
    metric = metric if metric in answer["metric"].values else "loss"
    groups = [str(group) for group in answer["group"].values]
    values = answer["barrier"].sel(metric=metric, definition=answer.attrs["barrier_default"])
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for i, one in enumerate(groups):
        for j in range(i + 1, len(groups)):
            row = rows.setdefault((one, groups[j]), {"group": one, "other": groups[j], "pairs": 0})
            row["pairs"] += 1
            for path in map(str, answer["path"].values):
                key = f"{metric}, {path}"
                row[key] = row.get(key, 0.0) + float(values.sel(path=path)[i, j])
    means = [
        {key: value / row["pairs"] if ", " in key else value for key, value in row.items()} for row in rows.values()
    ]
    return [{key: value for key, value in row.items() if value != ""} for row in means]
