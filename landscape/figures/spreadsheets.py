"""Answers as CSV: one row a point, named columns with their units, nothing else in the file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO

import numpy as np
import xarray as xr

from landscape.figures.labels import SYMBOLS
from landscape.text import clean

_GRID = ("seed", *SYMBOLS)


def tables(answer: xr.Dataset) -> dict[str, bytes]:
    """Tables of a slice, a surface or a volume, by what is added to the name of the file.

    "" holds the grid, one row a point; "trajectory" one row a snapshot; "points" the computed points of an adaptive
    grid. Every column is a number: truth values are 0 and 1, missing ones nan, infinite ones inf. The header has
    each variable with its unit, "loss (nats)"; there are no comments, so that any reader takes it.

    Args:
        answer: The answer of the probe Slice, Surface or CurvatureSurface.

    Returns:
        The contents of CSV files in UTF-8, without those that have no rows.
    """
    grid = [dim for dim in _GRID if dim in answer.dims and dim in _dims(answer)]
    found = {"": _table(answer, grid), "trajectory": _table(answer, ["snapshot"]), "points": _table(answer, ["point"])}
    return {name: content for name, content in found.items() if content}


def _dims(answer: xr.Dataset) -> set[str]:
    return {str(dim) for variable in answer.data_vars.values() for dim in variable.dims}


def _table(answer: xr.Dataset, dims: Sequence[str]) -> bytes:
    """One row for each place of these dims; what varies over fewer of them is repeated. Empty if nothing does."""
    if not dims or not set(dims) <= set(answer.dims):
        return b""
    variables = [
        variable
        for variable in (*(answer[dim] for dim in dims), *answer.coords.values(), *answer.data_vars.values())
        if variable.dims and set(map(str, variable.dims)) <= set(dims) and variable.dtype.kind in "fiub"
    ]
    columns = dict(zip([str(v.name) for v in variables], xr.broadcast(*variables), strict=True))
    flat = {_header(name, column): column.transpose(*dims).values.ravel() for name, column in columns.items()}
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(flat)
    writer.writerows(zip(*(map(_cell, values) for values in flat.values()), strict=True))
    return text.getvalue().encode()


def _header(name: str, variable: xr.DataArray) -> str:
    units = clean(variable.attrs.get("units", ""), 40)
    words = clean(name, 60)
    return words if units in ("", "1") else f"{words} ({units})"


def _cell(value: np.generic) -> str:
    """A number so that it comes back as it was."""
    return str(int(value)) if value.dtype.kind in "iub" else repr(float(value))
