"""Sweeps as they lie in a folder: many runs, the plan that they belong to, and a journal with a row a finished run.

The folders of the runs decide what there is. The journal only keeps what was read from them, so that ten thousand runs
are opened in seconds: a row counts as long as the folder holds the files that it was read from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from landscape.overview import overview
from landscape.store import DamagedFileError, MissingError, NewerSchemaError, Store, StoreError
from landscape.summary import Measure

PLAN = "sweep"
SCHEMA_VERSION = 1
FAILURE = "failure"
_RESULT, _CURVE = "result/", "curve/"
Row = dict[str, Any]


def open_sweep(folder: str | Path) -> xr.Dataset:
    """Open the runs of a sweep as one data set over the fields that were swept.

    Args:
        folder: What `landscape sweep` filled; it may still be at work there.

    Returns:
        Dimensions are the swept fields in their order, and last `seed`; coordinates are their values, as text where
        they are not all numbers. Variables over all of them: every metric of a run (test_loss, test_accuracy,
        final_train_loss, ...), every single number of the answers to the sweep's probes (`<probe>_<variable>`, and
        `<probe>_<variable>_<index>` of short rows), `wall_seconds` of the training, `status` (finished, diverged,
        failed or missing), `run` (the name of its folder, empty where there is none) and `error`; over (..., epoch),
        counted from 0, what was measured after each epoch (train_loss, val_loss, ...). What is not there is NaN, or an
        empty text.

    Raises:
        MissingError: If there is no sweep in the folder.
        NewerSchemaError: If a later version of this package made it.
        DamagedFileError: If its plan is damaged.

    Example:
        >>> sweep = open_sweep("results/sweep")  # doctest: +SKIP
        >>> sweep["test_loss"].sel(optimizer="adam").mean("seed")  # doctest: +SKIP
    """
    store = Store(folder, create=False)
    plan = read_plan(store)
    rows = read_rows(store, plan["runs"])
    sizes = {name: len(values) for name, values in plan["dims"].items()}
    positions = np.array(list(plan["runs"].values()), dtype=int)
    columns = _columns(list(rows.values()), plan["probes"], list(rows))
    empty = {"status": "missing"}
    variables = {n: _spread(column, positions, sizes, empty.get(n, "")) for n, column in columns.items()}
    attrs: dict[str, Any] = {"probe": "sweep", "probe_fields": json.dumps(plan["question"])}
    attrs |= {"num_runs": len(plan["runs"]), **plan["provenance"]}
    coords = {name: (name, _values(values)) for name, values in plan["dims"].items()}
    answer = xr.Dataset(variables, coords, attrs)
    return answer.assign_coords(epoch=np.arange(answer.sizes["epoch"])) if "epoch" in answer.dims else answer


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds a sweep."""
    return (folder / f"{PLAN}.json").is_file()


def files_outside_sweeps(folder: Path) -> Iterator[Path]:
    """Go through all files at or below a folder, but not into the runs of a sweep."""
    for parent, folders, names in os.walk(folder):
        if f"{PLAN}.json" in names:
            folders.clear()
        yield from (Path(parent) / name for name in names)


def sweeps_in(folder: Path) -> list[Path]:
    """List the sweeps at or below a folder."""
    return sorted(path.parent for path in files_outside_sweeps(folder) if path.name == f"{PLAN}.json")


def read_plan(store: Store) -> dict[str, Any]:
    """Read what a sweep wants.

    Returns:
        `dims` (values by field), `runs` (the position among all cells by the name of a run's folder), `probes` (how
        each is written, by the name of its variables), `question` and `provenance`.

    Raises:
        StoreError: If there is no sweep in the folder, or its plan cannot be read.
    """
    if not is_sweep(store.path):
        raise MissingError(f"there is no sweep in {store.path} (no {PLAN}.json); give a folder made by landscape sweep")
    plan = store.load_json(PLAN)
    if plan.get("schema_version", 0) > SCHEMA_VERSION:
        raise NewerSchemaError(f"{store.path} was made by a newer version of landscape-lab; install that one")
    if not {"dims", "runs", "probes", "question", "provenance"} <= set(plan):
        raise DamagedFileError(f"{store.path / PLAN}.json is no plan of a sweep; run the command of the sweep again")
    return plan


def read_rows(store: Store, runs: Iterable[str]) -> dict[str, Row]:
    """Read what is known of each run: from the journal, or where its folder has changed since, from there.

    Raises:
        StoreError: If the journal cannot be read.
    """
    known = store.journal(PLAN).records()
    return {name: _row(store.path / name, known.get(name, {})) for name in runs}


def _row(folder: Path, known: Row) -> Row:
    files = fingerprint(folder)
    if files and files == known.get("files"):
        return known
    kept: Row = {name: known[name] for name in ("wall_seconds", "probes") if name in known} if files else {}
    return {**kept, **read_run(folder)}


def is_current(folder: Path, row: Row) -> bool:
    """Whether a row of the journal says what the folder of its run holds now."""
    return bool(row) and fingerprint(folder) == row.get("files")


def fingerprint(folder: Path) -> str:
    """Names and sizes of the answers and records in a run's folder; empty where there is none."""
    try:
        with os.scandir(folder) as entries:
            found = [f"{e.name}:{e.stat().st_size}" for e in entries if e.name.endswith((".h5", ".json"))]
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return " ".join(sorted(found))


def read_run(folder: Path) -> Row:
    """Read from its folder what the journal keeps of a run."""
    row: Row = {"status": "missing", "error": "", "files": fingerprint(folder)}
    if not row["files"]:
        return row
    store = Store(folder, create=False)
    try:
        if store.path.joinpath(f"{FAILURE}.json").exists():
            row |= {"status": "failed", "error": str(store.load_json(FAILURE)["error"])}
        elif store.has("training"):
            row |= _of_training(store.read("training"))
    except StoreError as error:
        return {**row, "status": "failed", "error": str(error)}
    shown = {name: asdict(v) if isinstance(v, Measure) else str(v) for name, v in overview(store, folder.name).items()}
    return {**row, "overview": json.dumps(shown)}


def overviews_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """Collect for each run of a sweep the row that `landscape.overview.overview` gives, in seconds for thousands.

    Args:
        folder: The sweep.
        name: What to call it; empty for nothing.
    """
    store = Store(folder, create=False)
    shown = []
    for run, row in read_rows(store, read_plan(store)["runs"]).items():
        about: dict[str, Any] = json.loads(row.get("overview", "{}"))
        about |= {key: Measure(**value) for key, value in about.items() if isinstance(value, dict)}
        state = {"missing": about.get("state", "missing")}.get(row["status"], row["status"])
        reason = {"reason": row["error"]} if row["error"] else {}
        shown.append({**about, "run": f"{name}/{run}".strip("/"), "state": state, **reason})
    return shown


def _of_training(training: xr.Dataset) -> Row:
    if not training.attrs.get("finished", False):
        return {}
    row: Row = {}
    for name, values in training.data_vars.items():
        if values.dims == () and values.dtype.kind in "biuf":
            row[f"{_RESULT}{name}"] = float(values)
        elif values.dims == ("epoch",) and values.dtype.kind in "biuf":
            row[f"{_CURVE}{name}"] = values.values.astype(np.float64)
    last = [row[f"{_CURVE}{name}"][-1:] for name in ("train_loss", "val_loss") if f"{_CURVE}{name}" in row]
    row["status"] = "finished" if all(np.isfinite(losses).all() for losses in last) else "diverged"
    return row


def _columns(rows: list[Row], probes: Mapping[str, str], names: list[str]) -> dict[str, list[Any]]:
    """Turn rows into columns, one value a run; None stands for what is not there."""
    columns: dict[str, list[Any]] = {
        "status": [row["status"] for row in rows],
        "run": [name if row["files"] else "" for name, row in zip(names, rows, strict=True)],
        "error": [row["error"] for row in rows],
        "wall_seconds": [row.get("wall_seconds") for row in rows],
    }
    for key in sorted({key for row in rows for key in row if key.startswith((_RESULT, _CURVE))}):
        columns[key.partition("/")[2]] = [row.get(key) for row in rows]
    answers = [json.loads(row.get("probes", "{}")) for row in rows]
    for label, written in probes.items():
        asked = [answer.get(written) or {} for answer in answers]
        for name in sorted({name for numbers in asked for name in numbers}):
            columns[f"{label}_{name}"] = [numbers.get(name) for numbers in asked]
    return columns


def _spread(column: list[Any], positions: np.ndarray, sizes: Mapping[str, int], empty: str) -> xr.Variable:
    """Put the values of all runs into their cells; others are NaN, or a text that says that there is nothing."""
    shape = tuple(sizes.values())
    cells = int(np.prod(shape))
    if any(isinstance(value, str) for value in column):
        texts = np.full(cells, empty, dtype=object)
        texts[positions] = column
        return xr.Variable(tuple(sizes), texts.astype(str).reshape(shape))
    length = max((len(value) for value in column if isinstance(value, np.ndarray)), default=None)
    numbers = np.full((cells,) if length is None else (cells, length), np.nan)
    for position, value in zip(positions, column, strict=True):
        if isinstance(value, np.ndarray):
            numbers[position, : len(value)] = value
        elif value is not None:
            numbers[position] = value
    dims = (*sizes,) if length is None else (*sizes, "epoch")
    return xr.Variable(dims, numbers.reshape(*shape, *numbers.shape[1:]))


def _values(values: list[Any]) -> np.ndarray:
    """Values of one field: numbers where all are, else texts."""
    return np.array(values if all(type(value) in (int, float) for value in values) else list(map(str, values)))
