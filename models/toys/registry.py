"""What a toy is, and the registry that toys add themselves to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.registry import Registry

Point = tuple[float, float]
View = tuple[float, float, float, float]

TOYS = Registry("toy")
"""Functions `(*, options) -> Toy | OnlineToy`."""


@dataclass(frozen=True)
class Toy:
    """A loss of two parameters whose critical points are known.

    Attributes:
        loss: Maps (..., 2) points to (...) losses; each loss depends on its own point alone.
        start: Where a race begins.
        view: What a picture shows: w1 from and to, w2 from and to.
        minimizers: (M, 2) where the loss is lowest; a dense sample where they form curves, none where it has no
            minimum.
        lowest: The lowest loss; None where there is none.
        saddles: Points without gradient that are neither minimum nor maximum.
        escape_radius: How far along a direction of negative curvature a path has left a saddle.
    """

    loss: Callable[[Tensor], Tensor]
    start: Point
    view: View
    minimizers: NDArray[np.float64]
    lowest: float | None
    saddles: tuple[Point, ...] = ()
    escape_radius: float = 1.0

    def distances(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(...) how far each point (..., 2) is from the nearest minimizer; infinite where there is none."""
        flat = points.reshape(-1, 2)
        if not len(self.minimizers):
            return np.full(points.shape[:-1], np.inf)
        from scipy.spatial import KDTree

        known = np.isfinite(flat).all(1)
        found = np.full(len(flat), np.inf)
        found[known] = KDTree(self.minimizers).query(flat[known])[0]
        return found.reshape(points.shape[:-1])

    def hessian(self, point: Point) -> Tensor:
        """(2, 2) the second derivatives of the loss at a point."""
        return torch.autograd.functional.hessian(self.loss, torch.tensor(point, dtype=torch.float64))

    def escape_distances(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(...) how far each point (..., 2) is from the nearest saddle along its directions of negative curvature."""
        found = np.full(points.shape[:-1], np.inf)
        for saddle in self.saddles:
            values, vectors = torch.linalg.eigh(self.hessian(saddle))
            down = vectors[:, values < 0].numpy()
            found = np.minimum(found, np.linalg.norm((points - np.array(saddle)) @ down, axis=-1))
        return found


@dataclass(frozen=True)
class OnlineToy:
    """A loss of one parameter that is another line at every step, f_t(x) = c_t x, with x held in [-1, 1].

    Attributes:
        slopes: Maps (number of steps, seed) to (T,) the slopes c_1 to c_T.
        mean_slope: Of the losses in the long run, above zero: the best x is -1, the worst 1.
        betas: The decay rates with which Adam fails here.
        lr: The learning rate of step t is this over the root of t.
        steps: How many are made.
    """

    slopes: Callable[[int, int], NDArray[np.float64]]
    mean_slope: float
    betas: tuple[float, float]
    lr: float
    steps: int


def points(*places: Point) -> NDArray[np.float64]:
    """(M, 2) an array of points."""
    return np.array(places, dtype=np.float64).reshape(-1, 2)
