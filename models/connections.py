"""Trained curves between runs of one architecture, over the data of the first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr

from landscape.measure import answer_name, ask
from landscape.paths import Connection, Curve, CurvePlane
from landscape.store import Store
from models.compatible import require_compatible
from models.opened import Run


def connect(
    first: Run,
    second: Run,
    asked: Mapping[str, Any],
    plane: int,
    store: Store,
    options: Mapping[str, Any],
    **how: Any,
) -> dict[str, xr.Dataset]:
    """Join two runs by a trained curve, and measure the plane that it lies in.

    Args:
        first: Whose data and loss count.
        second: The other end.
        asked: Fields of `Connection`.
        plane: Points a side of the plane; 0 for none. A curve that stayed straight has none.
        store: Where the answers are kept.
        options: What `Run.objective` takes.
        **how: What `landscape.ask` takes.

    Returns:
        The answers by their names in the store, that of the curve first.

    Raises:
        MissingError: If a run has no weights yet.
        ValueError: If the runs differ in architecture, with the tensors or the fields in which they do.
    """
    require_compatible({str(first.folder): first, str(second.folder): second})
    objective = first.objective(**options)
    probe = Connection(objective.layout.current(second.model()).to(objective.theta), **asked)
    answers = {answer_name(probe, objective): ask(probe, objective, store, **how)}
    curve = Curve.of(answers[answer_name(probe, objective)])
    if plane and curve.spans_plane:
        seen = CurvePlane(curve, plane)
        answers[answer_name(seen, objective)] = ask(seen, objective, store, **how)
    return answers
