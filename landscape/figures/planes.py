"""One plane of values on its grid: where its levels stand, its scale, and what a reader must know of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from landscape.figures.labels import share_note
from landscape.figures.scales import finite, is_wide, linear_levels, log_levels
from landscape.figures.style import NOTE_WIDTH, count
from landscape.figures.trajectories import Trajectory

WIDE = 3.0  # a largest over smallest loss from which levels are spaced in the logarithm


@dataclass(frozen=True)
class Plane:
    """The values of one surface on its grid."""

    alpha: NDArray[np.float64]  # (A,)
    beta: NDArray[np.float64]  # (B,)
    values: NDArray[np.float64]  # (A, B), NaN and inf as stored

    @classmethod
    def of(cls, answer: xr.Dataset, metric: str) -> Plane:
        """The plane of one direction seed.

        Raises:
            ValueError: If it has only one point along an axis.
        """
        values = answer[metric].transpose("alpha", "beta").values
        if min(values.shape) < 2:
            raise ValueError(f"expected at least 2 points along each axis of a surface; got {values.shape}")
        return cls(*(np.asarray(v, dtype=float) for v in (answer["alpha"].values, answer["beta"].values, values)))

    @property
    def finite(self) -> NDArray[np.float64]:
        """The finite values, flat."""
        return finite(self.values)

    @property
    def gaps(self) -> NDArray[np.float64]:
        """(A, B) with NaN wherever the value is not finite."""
        return np.where(np.isfinite(self.values), self.values, np.nan)

    @property
    def is_log(self) -> bool:
        """Whether levels and heights are shown in the logarithm."""
        return is_wide(self.values, WIDE)


def levels_of(plane: Plane, most: int = 18) -> NDArray[np.float64]:
    low, high = plane.finite.min(), plane.finite.max()
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        margin = 0.5 * abs(low) or 0.5
        return np.array([low - margin, low + margin])
    return log_levels(low, high, most) if plane.is_log else linear_levels(low, high, most)


def num_lines(lines: list[str]) -> int:
    """How many lines a note takes once it is wrapped."""
    return sum(1 + len(line) // NOTE_WIDTH for line in lines if line)


def warnings_of(answer: xr.Dataset, plane: Plane, trajectory: Trajectory | None, gaps: str) -> list[str]:
    """What a reader must know of the picture: points without a value, and how far the trajectory is from it."""
    missing = plane.values.size - plane.finite.size
    points = f"{count(missing, 'non-finite point')} of {plane.values.size:,} ({gaps})" if missing else ""
    return [points, share_note(answer), trajectory.off_plane_note() if trajectory else ""]
