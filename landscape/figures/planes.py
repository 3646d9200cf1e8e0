"""Planes of values on their grids: the scale that they share, and what a reader must know of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.colors import BoundaryNorm, LogNorm, Normalize
from numpy.typing import NDArray

from landscape.figures.labels import sampling_note, share_note, window_note
from landscape.figures.scales import finite, is_wide, linear_levels, log_levels
from landscape.figures.style import NOTE_WIDTH, count
from landscape.figures.trajectories import Trajectory

WIDE = 3.0  # a largest over smallest value from which levels are spaced in the logarithm


@dataclass(frozen=True)
class Plane:
    """The values of one surface on its grid."""

    x: NDArray[np.float64]  # (A,) coordinates along the axis that runs to the right
    y: NDArray[np.float64]  # (B,) coordinates along the axis that runs upwards
    values: NDArray[np.float64]  # (A, B), NaN and inf as stored

    @classmethod
    def of(cls, answer: xr.Dataset, metric: str, axes: tuple[str, str] = ("alpha", "beta")) -> Plane:
        """The plane of a metric over two axes, of one direction seed.

        Raises:
            ValueError: If it has only one point along an axis.
        """
        values = metric_of(answer, metric).transpose(*axes).values
        if min(values.shape) < 2:
            raise ValueError(f"expected at least 2 points along each axis of a surface; got {values.shape}")
        x, y, values = (np.asarray(v, dtype=float) for v in (*(answer[axis].values for axis in axes), values))
        return cls(x, y, values)

    @property
    def finite(self) -> NDArray[np.float64]:
        """The finite values, flat."""
        return finite(self.values)

    @property
    def gaps(self) -> NDArray[np.float64]:
        """(A, B) with NaN wherever the value is not finite."""
        return np.where(np.isfinite(self.values), self.values, np.nan)

    @property
    def shape(self) -> float:
        """The height of the plane over its width, kept within what a page can show."""
        return float(np.clip(np.ptp(self.y) / np.ptp(self.x), 0.55, 1.1))

    def lowest(self) -> tuple[float, float]:
        """The coordinates of the smallest finite value of the grid."""
        row, column = np.unravel_index(np.nanargmin(self.gaps), self.values.shape)
        return float(self.x[row]), float(self.y[column])


@dataclass(frozen=True)
class Scale:
    """Levels, colours and heights that one plane has, or several share."""

    low: float
    high: float
    is_log: bool

    @classmethod
    def over(cls, planes: Sequence[Plane]) -> Scale | None:
        """The scale of all finite values of some planes, logarithmic where they are wide; None where there are none."""
        values = np.concatenate([plane.finite for plane in planes])
        if not values.size:
            return None
        return cls(float(values.min()), float(values.max()), is_wide(values, WIDE))

    @property
    def is_flat(self) -> bool:
        """Whether all values are the same, up to rounding."""
        return self.high - self.low <= 1e-12 * max(abs(self.low), abs(self.high))

    def levels(self, most: int = 18) -> NDArray[np.float64]:
        """Round levels, at most so many, that cover all values; two around the value of a flat plane."""
        if self.is_flat:
            margin = 0.5 * abs(self.low) or 0.5
            return np.array([self.low - margin, self.low + margin])
        return log_levels(self.low, self.high, most) if self.is_log else linear_levels(self.low, self.high, most)

    def ticks(self, levels: NDArray[np.float64]) -> list[float]:
        """Those levels whose numbers are written: the roundest, nine or so at most."""
        if len(levels) == 2:
            return [self.low]
        if not self.is_log:
            return [float(level) for level in levels[:: 1 + len(levels) // 10]]
        round_numbers = log_levels(levels[0], levels[-1], 9)
        return [float(level) for level in levels if np.isclose(level, round_numbers, rtol=1e-9).any()]

    def bands(self, levels: NDArray[np.float64]) -> Normalize:
        """One colour between each level and the next."""
        return BoundaryNorm(levels, 256) if len(levels) > 2 else Normalize(levels[0], levels[-1])

    def colours(self) -> Normalize:
        """Colours without steps."""
        if self.is_log:
            return LogNorm(self.low, self.high)
        return Normalize(self.low, self.high if self.high > self.low else self.low + 1)

    def heights(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """How high values stand in 3D: their log10 on a logarithmic scale."""
        return np.log10(values) if self.is_log else values


def metric_of(answer: xr.Dataset, metric: str) -> xr.DataArray:
    """A variable of an answer; `error` and `test_error` are one minus the accuracy.

    Raises:
        KeyError: If the answer has no such variable.
    """
    if metric in answer:
        return answer[metric]
    accuracy = f"{metric.removesuffix('error')}accuracy"
    if metric.endswith("error") and accuracy in answer:
        return (1 - answer[accuracy]).rename(metric).assign_attrs(units="1")
    raise KeyError(f"expected a variable {metric!r} in the answer; it has {', '.join(map(str, answer.data_vars))}")


def num_lines(lines: Sequence[str]) -> int:
    """How many lines a note takes once it is wrapped."""
    return sum(1 + len(line) // NOTE_WIDTH for line in lines if line)


def warnings_of(answer: xr.Dataset, plane: Plane, trajectory: Trajectory | None, gaps: str) -> list[str]:
    """What a reader must know of the picture: points without a value, filled in, or far from the trajectory."""
    missing = plane.values.size - plane.finite.size
    points = f"{count(missing, 'non-finite point')} of {plane.values.size:,} ({gaps})" if missing else ""
    off_plane = trajectory.off_plane_note() if trajectory else ""
    return [window_note(answer), points, sampling_note(answer), share_note(answer), off_plane]
