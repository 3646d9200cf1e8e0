"""How different the units of each layer are: identical ones learn the same, for ever."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import xarray as xr
from torch import Tensor

from landscape.objective import Objective
from landscape.units import TOLERANCE, distinct_units, unit_rows

_MOST_UNITS = 4096


@dataclass(frozen=True)
class Symmetry:
    """Units of each layer that are copies of one another, and the rank of its weights.

    Units with the same incoming and outgoing weights get the same gradient, so that training never tells them apart:
    the symmetry has to be broken at the start.

    Attributes:
        tol: Two units count as one if their incoming weights differ by less than this share of the largest norm of a
            unit of the layer.

    References:
        Goodfellow, Bengio and Courville, "Deep Learning", 2016, section 8.4. Roy and Vetterli, "The effective rank: a
        measure of effective dimensionality", EUSIPCO 2007, definition 1.
    """

    tol: float = TOLERANCE

    def __post_init__(self) -> None:
        if not 0 < self.tol < 1:
            raise ValueError(f"tol must lie between 0 and 1, got {self.tol}.")

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Count.

        Returns:
            By layer, a weight of two or more axes as a matrix of one row a unit: `units`, `distinct_units` (by weights
            and bias), `rank` (of singular values above tol times the largest), `stable_rank` (squared Frobenius over
            squared spectral norm), `effective_rank` (the exponential of the entropy of the singular values), and
            `distinct_share`, the smallest share of distinct units of a layer with two or more.

        Raises:
            ValueError: If no parameter has two axes, or a layer has more than 4,096 units.
        """
        named = objective.layout.unflatten(objective.theta)
        axes = dict(zip(objective.layout.names, objective.layout.filter_axes, strict=True))
        named = {name: tensor.double().cpu() for name, tensor in named.items()}
        weights, with_bias = unit_rows(named, axes, biases=False), unit_rows(named, axes)
        if not weights:
            raise ValueError("no parameter that varies has two or more axes, so there are no units to compare.")
        if large := [name for name, w in weights.items() if len(w) > _MOST_UNITS]:
            raise ValueError(f"{large[0]!r} has more than {_MOST_UNITS} units; leave it out with parameters=.")
        found = {name: self._of_layer(w, with_bias[name]) for name, w in weights.items()}
        columns = {key: [row[key] for row in found.values()] for key in next(iter(found.values()))}
        shares = [row["distinct_units"] / row["units"] for row in found.values() if row["units"] > 1]
        answer = xr.Dataset({key: ("layer", values) for key, values in columns.items()}, {"layer": list(found)})
        return answer.assign(distinct_share=((), min(shares, default=1.0)), loss=((), objective.loss().item()))

    def _of_layer(self, rows: Tensor, with_bias: Tensor) -> dict[str, float]:
        singular = torch.linalg.svdvals(rows)
        largest = singular[0].clamp_min(torch.finfo(rows.dtype).tiny)
        shares = singular / singular.sum().clamp_min(torch.finfo(rows.dtype).tiny)
        entropy = -torch.special.xlogy(shares, shares).sum()
        return {
            "units": len(rows),
            "distinct_units": distinct_units(with_bias, self.tol),
            "rank": int((singular > self.tol * largest).sum()),
            "stable_rank": ((singular / largest) ** 2).sum().item(),
            "effective_rank": entropy.exp().item() if singular[0] > 0 else 0.0,
        }
