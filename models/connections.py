"""The two ends of a curve: runs of one architecture, seen from the data of the first."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from landscape import Objective
from models.compatible import require_compatible
from models.opened import Run


def ends_of(first: Run, second: Run, **options: Any) -> tuple[Objective, Tensor]:
    """Ask for the objective of one run and the weights of another as a point of it.

    Args:
        first: Whose data and loss count.
        second: The other end.
        **options: What `Run.objective` takes.

    Returns:
        The objective at the first end, and the second end (P,).

    Raises:
        MissingError: If one has no weights yet.
        ValueError: If the runs differ in architecture, with the tensors or the fields in which they do.
    """
    require_compatible({str(first.folder): first, str(second.folder): second})
    objective = first.objective(**options)
    return objective, objective.layout.current(second.model()).to(objective.theta)
