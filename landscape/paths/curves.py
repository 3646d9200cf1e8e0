"""Curves between two points of parameter space, by their control points."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from landscape.identity import digest
from landscape.parameters import ParameterLayout
from landscape.store import Store

KINDS = ("polychain", "bezier")
_FINE = 2000  # equal steps of t over which the length of a curve is summed


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve phi(t), t from 0 to 1, between two fixed ends.

    A polygonal chain goes straight from each control point to the next, in equal parts of t. A Bezier curve of C
    control points has degree C - 1 and touches only its ends. At t = 0 and 1 both are their ends, bit for bit.

    Attributes:
        kind: ``polychain`` or ``bezier``.
        points: (C, P) the control points; the first and the last are the ends, those between them the bends.
        layout: The names and shapes of the P parameters, where they are known.

    References:
        Garipov et al., "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", NeurIPS 2018, section 3.
    """

    kind: str
    points: Tensor
    layout: ParameterLayout | None = None

    def __post_init__(self) -> None:
        require_kind(self.kind)
        if self.points.ndim != 2 or len(self.points) < 2:
            raise ValueError(
                f"a curve needs control points (C, P) with C of at least 2, got shape {tuple(self.points.shape)}; "
                "stack both ends, with the bends between them."
            )

    def __str__(self) -> str:
        return f"{self.kind}:{digest(self.points)}"

    def with_bends(self, bends: int, kind: str = "polychain") -> Curve:
        """Take points at equal steps of t along the curve as control points of another."""
        return Curve(kind, self.at(np.linspace(0, 1, bends + 2)), self.layout)

    @property
    def bends(self) -> Tensor:
        """(C - 2, P) the control points between the ends."""
        return self.points[1:-1]

    def bent(self, bends: Tensor) -> Curve:
        """Give the curve other bends (K, P), between the same ends."""
        return replace(self, points=torch.cat([self.points[:1], bends, self.points[-1:]]))

    def at(self, t: Any) -> Tensor:
        """The points (K, P) at the parameters t (K,), or the point (P,) at one of them."""
        places = np.asarray(t, dtype=np.float64)
        rows = self._combined(np.atleast_1d(places))
        return rows if places.ndim else rows[0]

    def tensors(self, t: float) -> dict[str, Tensor]:
        """The parameters of a model at one place, by name, as `load_state_dict(..., strict=False)` takes them.

        BatchNorm's running statistics are no parameters: those of neither end hold between them, so set them anew
        (`landscape.normalization.recalibrate`), or measure with ``Objective(..., normalization="recalibrated")``.

        Raises:
            ValueError: If the curve does not know the names of its parameters.
        """
        if self.layout is None:
            raise ValueError("this curve knows no names of parameters; make it with layout=objective.layout.")
        return self.layout.unflatten(self.at(t))

    @property
    def chord(self) -> float:
        """Distance between the ends."""
        return float(self.distances(np.array([0.0, 1.0]))[0])

    @property
    def spans_plane(self) -> bool:
        """Whether a control point lies off the line between the ends; not where one is not finite."""
        return bool(self.off_chord().max().item() > 1e-6 * self.chord)

    def off_chord(self) -> Tensor:
        """Distances (C,) of the control points from the line between the ends."""
        seen = (self.points - self.points[0]).double()
        along = seen[-1] / seen[-1].norm()
        return (seen - (seen @ along)[:, None] * along).norm(dim=1)

    def arc_lengths(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """Length of the curve from its beginning to each t (K,), in the unit of the parameters.

        The chords of a fine grid, which holds the corners of a chain, are summed: exact for a chain, short by about
        one part in a million for a Bezier curve.
        """
        grid = np.unique(np.concatenate([t, np.linspace(0, 1, _FINE + 1), np.linspace(0, 1, len(self.points))]))
        lengths = np.concatenate([[0.0], np.cumsum(self.distances(grid))])
        return np.asarray(lengths[np.searchsorted(grid, t)])

    def distances(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """Distances (K - 1,) from the point at each t to the next."""
        steps = np.diff(coefficients(self.kind, len(self.points), t), axis=0)
        squares = np.einsum("ki,ij,kj->k", steps, self._gram, steps)
        return np.sqrt(np.maximum(squares, 0.0))

    @cached_property
    def _gram(self) -> NDArray[np.float64]:
        """(C, C) products of the control points as seen from the first, in float64."""
        seen = (self.points - self.points[0]).double()
        return (seen @ seen.T).cpu().numpy()

    def _combined(self, t: NDArray[np.float64]) -> Tensor:
        weights = torch.from_numpy(coefficients(self.kind, len(self.points), t)).to(self.points)
        rows = weights @ self.points
        for place, end in ((0.0, self.points[0]), (1.0, self.points[-1])):
            rows[torch.from_numpy(t == place).to(rows.device)] = end
        return rows

    def variables(self) -> dict[str, Any]:
        """What an answer keeps of the curve: `control_point` (control, parameter)."""
        about = {"long_name": "control points of the curve, ends first and last"}
        return {"control_point": (("control", "parameter"), self.points.cpu().numpy(), about)}

    def attributes(self) -> dict[str, str]:
        """What the attributes of an answer keep of the curve: its kind, and the layout in JSON."""
        layout = self.layout
        shapes = layout and {
            "names": layout.names,
            "shapes": [list(shape) for shape in layout.shapes],
            "filter_axes": layout.filter_axes,
        }
        return {"curve": self.kind, "layout": json.dumps(shapes)}

    @classmethod
    def of(cls, answer: xr.Dataset) -> Curve:
        """Take the curve out of an answer that carries one.

        Raises:
            ValueError: If it carries none.
        """
        if "control_point" not in answer or "curve" not in answer.attrs:
            raise ValueError("this answer carries no curve; give one of `landscape connect`.")
        shapes = json.loads(answer.attrs["layout"])
        layout = shapes and ParameterLayout(
            tuple(shapes["names"]), tuple(map(torch.Size, shapes["shapes"])), tuple(shapes["filter_axes"])
        )
        return cls(answer.attrs["curve"], torch.from_numpy(answer["control_point"].values), layout)

    @classmethod
    def load(cls, file: str | Path) -> Curve:
        """Read the curve of a stored answer.

        Args:
            file: The answer of `landscape connect`, ``connection-<id>.h5``.

        Raises:
            ValueError: If the file is an answer without a curve.
            MissingError: If there is no such file.
            DamagedFileError: If it is damaged.
        """
        path = Path(file)
        return cls.of(Store(path.parent, create=False).read(path))


def coefficients(kind: str, count: int, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (K, C) of C control points in the points of a curve at t (K,); each row sums to one.

    Those of a chain are hats over equal parts of t, those of a Bezier curve Bernstein's polynomials.
    """
    order = np.arange(count)
    if kind == "polychain":
        return np.clip(1 - np.abs(t[:, None] * (count - 1) - order), 0, None)
    choices = np.array([comb(count - 1, number) for number in order], dtype=np.float64)
    return np.asarray(choices * t[:, None] ** order * (1 - t[:, None]) ** (count - 1 - order))


def require_kind(kind: str) -> None:
    """Make sure that there is such a kind of curve.

    Raises:
        ValueError: If there is none.
    """
    if kind not in KINDS:
        raise ValueError(f"a curve is one of {', '.join(KINDS)}, got {kind!r}.")
