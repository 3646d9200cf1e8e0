"""The plane in which a curve lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from landscape.directions import Directions, coordinates, through
from landscape.objective import Objective
from landscape.paths.curves import Curve
from landscape.probes.slices import Surface

_MARGIN = 0.15  # of the window, around what it must show
_PLACES = 121  # of the curve that is drawn


@dataclass(frozen=True)
class CurvePlane:
    """The loss over the plane of a curve: through both ends and the bend farthest from the line between them.

    Curves of one bend lie in it; of others a shadow does, and how far off they are is part of the answer.

    Attributes:
        curve: The curve.
        resolution: Points along each axis.
    """

    curve: Curve
    resolution: int = 31

    def __post_init__(self) -> None:
        if self.resolution < 2:
            raise ValueError(f"resolution must be at least 2, got {self.resolution}.")

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Measure the plane.

        Returns:
            What `Surface` does, alpha = 1 being the far end; curve_alpha, curve_beta and curve_off_plane over (t), and
            the same of the control points over (control). Off the plane is a share of the distance from the first end.

        Raises:
            ValueError: If the curve is straight, is not finite, or does not begin where the objective stands.
        """
        curve = Curve(self.curve.kind, self.curve.points.to(objective.theta))
        if not torch.equal(curve.points[0], objective.theta):
            raise ValueError("the curve begins at another point than this objective's; give the curve of this run.")
        if not curve.spans_plane:
            raise ValueError(
                "the curve is straight, or not finite, and spans no plane; measure a Slice between its ends."
            )
        vectors = _axes(curve)
        t = np.linspace(0, 1, _PLACES)
        seen = {"curve": ("t", curve.at(t)), "control": ("control", curve.points)}
        placed = {name: (dim, *coordinates(points, objective.theta, vectors)) for name, (dim, points) in seen.items()}
        radius, center = _window(torch.cat([inside for _, inside, _ in placed.values()]))
        labels = ("toward the other end", "orthogonal, toward the bend")
        directions = Directions("curve", vectors, labels)
        answer = Surface(directions, self.resolution, radius, center)(objective).assign_coords(t=("t", t))
        for name, (dim, inside, off) in placed.items():
            for number, axis in enumerate(("alpha", "beta")):
                answer[f"{name}_{axis}"] = (dim, inside[:, number].cpu().numpy())
            answer[f"{name}_off_plane"] = (dim, off.cpu().numpy(), {"units": "share of the distance"})
        return answer.assign_attrs(curve=curve.kind)


def _axes(curve: Curve) -> Tensor:
    """(2, P) axes of the plane through both ends and the bend that is farthest from the line between them."""
    farthest = int(curve.off_chord().argmax())
    return through(curve.points[0], curve.points[-1], curve.points[farthest]).vectors


def _window(places: Tensor) -> tuple[tuple[float, float], tuple[float, float]]:
    """Radius and center of a window around places (K, 2)."""
    low, high = places.amin(dim=0), places.amax(dim=0)
    radius = (high - low) / 2 + _MARGIN * (high - low).max()
    (width, height), (alpha, beta) = radius.tolist(), ((high + low) / 2).tolist()
    return (width, height), (alpha, beta)
