"""Tables that grow while a model trains, kept in a journal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import xarray as xr

from landscape.store import Journal


class Tables(Protocol):
    """What tables can be read from."""

    def table(self, table: str) -> dict[str, np.ndarray]:
        """Collect a table, sorted by step; empty if nothing was written to it."""


class Rows:
    """Tables of rows that carry the optimizer step they belong to; of one step, the row written last counts.

    A training that goes on from an earlier step rewinds: rows beyond it are forgotten, since they will come again.

    Args:
        journal: Where the rows are kept.

    Example:
        >>> import tempfile, pathlib
        >>> rows = Rows(Journal(pathlib.Path(tempfile.mkdtemp()) / "training.journal"))
        >>> rows.append("step", {"step": np.array([1, 2, 3]), "loss": np.array([3.0, 2.0, 1.0])})
        >>> rows.rewind(2)
        >>> rows.append("step", {"step": np.array([2]), "loss": np.array([0.5])})
        >>> rows.table("step")
        {'step': array([1, 2]), 'loss': array([3. , 0.5])}
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._written = len(journal.records())

    @property
    def empty(self) -> bool:
        """Whether nothing has been written."""
        return not self._written

    def append(self, table: str, columns: Mapping[str, Any], sync: bool = True) -> None:
        """Add rows; once this returns they survive the death of the process.

        Args:
            table: The table's name.
            columns: Arrays whose first axis counts rows, "step" among them; a single row may carry anything else.
            sync: Also wait for the disk, so that these rows and all before them survive the loss of power.
        """
        self._write(table, dict(columns), sync)

    def rewind(self, step: int) -> None:
        """Forget all rows beyond a step."""
        self._write("rewind", {"step": step})

    def blocks(self, table: str) -> list[dict[str, Any]]:
        """List what was appended to a table, in order, less what was rewound."""
        blocks: list[dict[str, Any]] = []
        for key, record in self._journal.records().items():
            if key.startswith("rewind "):
                blocks = [kept for block in blocks if (kept := _until(block, record["step"]))]
            elif key.startswith(f"{table} "):
                blocks.append(record)
        return blocks

    def table(self, table: str) -> dict[str, np.ndarray]:
        """Collect a table, sorted by step; a column that a row lacks is NaN there."""
        blocks = self.blocks(table)
        return _latest(blocks) if blocks else {}

    def discard(self) -> None:
        """Remove the journal, once its rows are sealed."""
        self._journal.discard()
        self._written = 0

    def close(self) -> None:
        """Close the journal's file."""
        self._journal.close()

    def _write(self, kind: str, values: dict[str, Any], sync: bool = True) -> None:
        self._journal.append(f"{kind} {self._written}", values, sync)
        self._written += 1


def _until(block: dict[str, Any], step: Any) -> dict[str, Any]:
    kept = block["step"] <= step
    if kept.all():
        return block
    return {name: column[kept] for name, column in block.items()} if kept.any() else {}


def _latest(blocks: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for block in blocks for name in block)
    joined = {name: np.concatenate([_column(block, name) for block in blocks]) for name in names}
    backwards = np.unique(joined["step"][::-1], return_index=True)[1]
    order = len(joined["step"]) - 1 - backwards
    return {name: column[order] for name, column in joined.items()}


def _column(block: dict[str, np.ndarray], name: str) -> np.ndarray:
    return block[name] if name in block else np.full(len(block["step"]), np.nan)


def record_of(answer: xr.Dataset) -> dict[str, Any]:
    """Write a data set as one record of a journal; `dataset_of` reads it back."""
    shapes, values, strings = {}, {}, {}
    for name, variable in answer.variables.items():
        shapes[name] = list(variable.dims)
        if variable.dtype.kind in "biuf":
            values[f"value {name}"] = np.asarray(variable.values)
        else:
            strings[name] = variable.values.astype(str).tolist()
    about = {
        "dims": shapes,
        "strings": strings,
        "coords": list(answer.coords),
        "attrs": {key: value for key, value in answer.attrs.items() if isinstance(value, str | int | float)},
        "variable_attrs": {name: dict(variable.attrs) for name, variable in answer.variables.items()},
    }
    return {"about": json.dumps(about), **values}


def dataset_of(record: Mapping[str, Any]) -> xr.Dataset:
    """Read a data set that `record_of` wrote."""
    about = json.loads(record["about"])
    variables = {}
    for name, dims in about["dims"].items():
        values = np.array(about["strings"][name]) if name in about["strings"] else record[f"value {name}"]
        variables[name] = xr.Variable(dims, values, about["variable_attrs"][name])
    coords = {name: variables.pop(name) for name in about["coords"]}
    return xr.Dataset(variables, coords, about["attrs"])
