"""The factor table of a sweep in a folder, computed once, and as rows to print."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from landscape.effects import Pairing, factor_effects, finished_values
from landscape.provenance import provenance
from landscape.store import Store
from landscape.sweeps import open_sweep

_MOST_ROWS = 40


def ask_effects(
    folder: Path, metric: str, pairing: Pairing = "auto", drop_incomplete: bool = False, log: bool = False
) -> tuple[str, xr.Dataset, xr.Dataset]:
    """Answer from a sweep's folder what its factors do to a metric.

    Args:
        folder: What `landscape sweep` filled.
        metric: As `factor_effects` takes it, with the next three.
        pairing: Whether seeds are paired.
        drop_incomplete: Whether levels with empty cells are left out.
        log: Whether the logarithm of the metric is taken.

    Returns:
        The answer's name in the folder, by everything its values depend on, the answer, and the sweep.

    Raises:
        MissingError: If there is no sweep.
        ValueError: As `factor_effects` does.
        LockedError: If another process is at work in the folder.
    """
    sweep = open_sweep(folder)
    values = finished_values(sweep, metric)
    fields = {"metric": metric, "pairing": pairing, "drop_incomplete": drop_incomplete, "log": log}
    question = {**fields, "dims": list(values.dims)}
    digest = hashlib.sha256(json.dumps(question).encode() + np.ascontiguousarray(values.values).tobytes())
    for name in values.dims:
        digest.update(repr(sweep[str(name)].values.tolist()).encode())
    name, store = f"effects-{digest.hexdigest()[:12]}", Store(folder, create=False)
    if not store.has(name):
        started = time.monotonic()
        table = factor_effects(sweep, metric, pairing, drop_incomplete, log)
        attrs = {"probe_fields": json.dumps(question), **provenance(), "wall_seconds": time.monotonic() - started}
        with store.lock():
            store.write(name, table.assign_attrs(attrs))
    return name, store.read(name), sweep


def source_rows(table: xr.Dataset) -> list[dict[str, Any]]:
    """One row a term: its share of the variance of the cell means, and what chance alone would give."""
    columns = [table[name].values.tolist() for name in ("source", "share", "share_by_chance")]
    return [
        {"source": source, "share": share, "share_by_chance": chance}
        for source, share, chance in zip(*columns, strict=True)
    ]


def effect_rows(table: xr.Dataset, most: int = _MOST_ROWS) -> list[dict[str, Any]]:
    """One row an effect: its estimate, its intervals, and whether the simultaneous one excludes zero.

    Args:
        table: What `factor_effects` returns.
        most: Of more effects the main ones come first, and then the interactions that are largest.
    """
    is_pair = np.char.find(table["term"].values.astype(str), ":") >= 0
    order = np.lexsort((-np.abs(table["estimate"].values), is_pair)) if table.sizes["effect"] > most else ...
    chosen = np.sort(np.arange(table.sizes["effect"])[order][:most])
    names = ("estimate", "low", "high", "simultaneous_low", "simultaneous_high")
    rows = []
    for at in chosen.tolist():
        numbers = {name: table[name].values[at].item() for name in names}
        sign = (
            "" if np.isnan(numbers["low"]) else "*" * _excludes(numbers, "") + "*" * _excludes(numbers, "simultaneous_")
        )
        about = {"term": str(table["term"].values[at]), "level": str(table["level"].values[at])}
        rows.append({**about, **numbers, "beyond_zero": sign})
    return rows


def effects_text(table: xr.Dataset) -> str:
    """Tell the factor table for a reader: sources, effects, and how to judge them."""
    from landscape.tables import table as aligned

    shown = effect_rows(table)
    hidden = table.sizes["effect"] - len(shown)
    lines = [
        f"{table.attrs['metric']}: {_mean(table)} over {table['num_cells'].item()} cells "
        f"and {table['num_seeds'].item()} seeds",
        aligned(source_rows(table)),
        aligned(shown),
        f"and {hidden} smaller interactions; --json prints all" if hidden else "",
        f"left out for empty cells: {table.attrs['dropped']}" if table.attrs["dropped"] else "",
        f"{table['num_left_out'].item()} runs left out" if table["num_left_out"].item() else "",
        table.attrs["note"],
        "*: the 95% interval excludes zero; **: the simultaneous one too" if np.isfinite(table["low"]).any() else "",
    ]
    return "\n".join(line for line in lines if line)


def _mean(table: xr.Dataset) -> str:
    from landscape.tables import number

    is_log, mean = table.attrs["scale"] == "log", table["mean"].item()
    if is_log:
        return f"geometric mean {number(np.exp(mean).item())} (effects are logarithms of factors: 0.69 doubles it)"
    return f"mean {number(mean)}"


def _excludes(numbers: dict[str, float], prefix: str) -> bool:
    return numbers[f"{prefix}low"] > 0 or numbers[f"{prefix}high"] < 0
