"""Barriers between all pairs of several networks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from landscape.execution import resumable_map
from landscape.objective import Objective
from landscape.paths.alignment import aligned
from landscape.paths.barriers import with_barriers
from landscape.paths.lines import Kind, Travel, places, require_places
from landscape.paths.units import Units

AS_TRAINED, ALIGNED = "as trained", "aligned"


@dataclass(frozen=True)
class BarrierMatrix:
    """The barrier on the path between each pair of networks, of train and test loss and error, by every definition.

    Attributes:
        thetas: (N, P) the networks.
        names: What each is called.
        groups: The group that each belongs to, such as its batch size.
        units: Which hidden units can trade places; where given, each pair is measured a second time, the units of the
            second matched to those of the first.
        kind: line or arc.
        points: Places on each path, the ends among them.
    """

    thetas: Tensor
    names: tuple[str, ...]
    groups: tuple[str, ...] = ()
    units: Units | None = None
    kind: Kind = "line"
    points: int = 11

    def __post_init__(self) -> None:
        """Refuse what has no pairs."""
        require_places(self.kind, self.points, (0.0, 1.0))
        if self.thetas.ndim != 2 or len(self.thetas) != len(self.names) or len(self.names) < 2:
            raise ValueError(
                f"a matrix of barriers needs at least two networks and a name for each, got thetas of shape "
                f"{tuple(self.thetas.shape)} and {len(self.names)} names."
            )
        if self.groups and len(self.groups) != len(self.names):
            raise ValueError(f"{len(self.names)} networks need as many groups, got {len(self.groups)}.")

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Measure every pair.

        Returns:
            loss, accuracy, ... over (path, run, other, alpha), NaN between a network and itself; `barrier` over
            (path, run, other, metric, definition), zero there; `peak`; `distance` over (path, run, other); `group` over
            (run,).

        Raises:
            ValueError: If two networks are the same, or the permuted one is another function.
        """
        pairs = list(combinations(range(len(self.names)), 2))
        found = resumable_map(_measure, (self, objective), pairs, "pair")
        paths = [AS_TRAINED, ALIGNED][: 1 if self.units is None else 2]
        alphas, count = places(self.points), len(self.names)
        measured = {name: np.full((len(paths), count, count, len(alphas)), np.nan) for name in found[0]}
        for (i, j), each in zip(pairs, found, strict=True):
            for name, values in each.items():
                measured[name][:, i, j] = np.reshape(values, (len(paths), -1))
                measured[name][:, j, i] = measured[name][:, i, j, ::-1]
        dims = ("path", "run", "other", "alpha")
        answer = with_barriers(
            xr.Dataset(
                {name: (dims, values) for name, values in measured.items() if name != "distance"},
                {"path": paths, "run": list(self.names), "other": list(self.names), "alpha": alphas},
            )
        )
        is_itself = xr.DataArray(np.eye(count, dtype=bool), dims=("run", "other"))
        answer["barrier"] = answer["barrier"].where(~is_itself, 0.0)
        distance = np.nan_to_num(measured["distance"][..., 0])
        answer["distance"] = (dims[:-1], distance, {"units": "norm of parameters"})
        answer["group"] = ("run", list(self.groups or ("",) * count))
        return answer.assign_attrs(kind=self.kind)


def _measure(shared: tuple[BarrierMatrix, Objective], pair: tuple[int, int]) -> dict[str, Any]:
    """The values of each path of a pair, one after the other, and the distance of its ends."""
    matrix, objective = shared
    names = [matrix.names[number] for number in pair]
    start, end = (matrix.thetas[number].to(objective.theta) for number in pair)
    if torch.equal(start, end):
        raise ValueError(f"{names[0]} and {names[1]} are the same network, bit for bit; give each once.")
    ends = [end] if matrix.units is None else [end, aligned(objective, matrix.units, start, end)]
    travel, alphas = Travel(objective, start, torch.stack(ends), matrix.kind), places(matrix.points)
    points = [travel.metrics(number, float(alpha)) for number in range(len(ends)) for alpha in alphas]
    distances = [float((end - start).norm()) for end in ends for _ in alphas]
    return {**{name: np.array([each[name] for each in points]) for name in points[0]}, "distance": np.array(distances)}
