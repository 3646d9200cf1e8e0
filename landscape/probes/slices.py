"""The loss along lines, over planes and in volumes through a point of parameter space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import xarray as xr

from landscape.directions import RANDOM_KINDS, Directions, coordinates, cosine
from landscape.evaluation import PRECISIONS
from landscape.execution import quiet_progress
from landscape.grids import (
    AXES,
    Grid,
    axis,
    most_points,
    require_axes,
    require_directions,
    sets_of_directions,
)
from landscape.objective import Objective
from landscape.ranges import radius_of_rise
from landscape.rescaling import invariance_warning, moved_parameters
from landscape.roughness import shape_numbers

Radius = float | Literal["auto"]
SAMPLINGS = ("full", "adaptive")
_ADAPTIVE_SHARE = 0.15  # of a grid of 51 x 51 points that adaptive sampling computes around a trained network


@dataclass(frozen=True)
class Slice:
    """Loss and accuracy along a line, L(theta + alpha d), for one or several random directions.

    Attributes:
        directions: filter, layer, weight, gaussian, hessian, or a Directions object.
        resolution: Points along the line; with an odd number one of them is the checkpoint.
        radius: The line runs from center - radius to center + radius, in multiples of the direction; auto reaches to
            where the loss has risen by the factor rise.
        center: Middle of the line.
        seed: Seed of the first random direction.
        seeds: Number of random directions, with seeds seed, seed + 1, ...
        one_dimensional: What biases and normalization scales do in a random direction: zero or copy.
        rise: The factor by which the loss has risen at an automatic radius.
        precision: full, or bfloat16 for faster products whose error is measured and stored.
    """

    directions: str | Directions = "filter"
    resolution: int = 51
    radius: float | Literal["auto"] = 1.0
    center: float = 0.0
    seed: int = 0
    seeds: int = 1
    one_dimensional: str = "zero"
    rise: float = 10.0
    precision: Literal["full", "bfloat16"] = "full"

    def __post_init__(self) -> None:
        _check(self, (self.resolution,), (self.radius,), (self.center,))
        _settle(self, radius=_number(self.radius), center=float(self.center), rise=float(self.rise))

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Measure the line.

        Returns:
            loss, accuracy, ... over (alpha,), or (seed, alpha) with median and 10-90% band over the seeds;
            `center_loss` etc. at the checkpoint itself; `step_ratio`, the norm of the direction relative to the
            norm of the filters; `done`.

        Raises:
            ValueError: If the loss at the checkpoint is not finite, or an automatic radius cannot be found.
        """
        grid = _grid(self, objective, (self.resolution,), (self.radius,), (self.center,))
        answer = _told(self, grid, grid.full())
        answer["step_ratio"] = grid.step_ratios(0)
        return answer


@dataclass(frozen=True)
class Surface:
    """Loss and accuracy over a plane, L(theta + alpha d1 + beta d2), or in a volume of three directions.

    Attributes:
        directions: filter, layer, weight, gaussian, hessian, hessian-ends, or a Directions object.
        resolution: Points along each axis, n or (n_alpha, n_beta); odd numbers put one on the checkpoint. Three numbers
            make a volume.
        radius: The axes run from center - radius to center + radius, r or one an axis; auto reaches to where the loss
            has risen along each axis by the factor rise.
        center: Middle of the axes, c or one an axis.
        seed: Seed of the first set of random directions.
        seeds: Number of sets, with seeds seed, seed + 1, ...
        one_dimensional: What biases and normalization scales do in a random direction: zero or copy.
        sampling: full computes every point; adaptive as many as the tolerance needs, and interpolates the others.
        tolerance: Error that adaptive sampling allows, by a test at held-out points: relative to the loss at 95% of all
            points with 95% confidence, and relative to its range at the held-out points.
        rise: The factor by which the loss has risen at an automatic radius.
        precision: full, or bfloat16 for faster products whose error is measured and stored.
    """

    directions: str | Directions = "filter"
    resolution: int | tuple[int, int] | tuple[int, int, int] = 51
    radius: float | tuple[float, float] | tuple[float, float, float] | Literal["auto"] = 1.0
    center: float | tuple[float, float] | tuple[float, float, float] = 0.0
    seed: int = 0
    seeds: int = 1
    one_dimensional: str = "zero"
    sampling: Literal["full", "adaptive"] = "full"
    tolerance: float = 0.01
    rise: float = 10.0
    precision: Literal["full", "bfloat16"] = "full"

    def __post_init__(self) -> None:
        count = len(_each(self.resolution, 2))
        resolution, radius, center = (_each(value, count) for value in self._shape)
        _check(self, resolution, radius, center)
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}, got {self.sampling!r}.")
        if self.sampling == "full" and self.tolerance != Surface.tolerance:
            raise ValueError(
                f"tolerance {self.tolerance} is that of sampling=adaptive; a full grid has no error, so leave it out."
            )
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1, got {self.tolerance}.")
        _settle(
            self,
            resolution=resolution,
            radius="auto" if self.radius == "auto" else tuple(map(float, radius)),
            center=tuple(map(float, center)),
            tolerance=float(self.tolerance),
            rise=float(self.rise),
        )

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Measure the plane or the volume.

        Returns:
            loss, accuracy, ... over (alpha, beta), or (seed, alpha, beta) with median and band, with gamma behind them
            in a volume; `center_loss` etc. at the checkpoint itself; `cosine` between the axes; `step_ratio_alpha`,
            `step_ratio_beta`; `done`. Of adaptive sampling: `evaluated`, false where a spline stands, the computed
            points apart in `point_loss` etc., and the held-out error in the attributes `error_p95` and `error_max`.
            For directions with a path its coordinates, the share of its distance that lies off the plane, and the
            loss of the path beside that of the plane under it.

        Raises:
            ValueError: If the loss at the checkpoint is not finite, or an automatic radius cannot be found.
        """
        resolution, radius, center = (_each(v, len(_each(self.resolution, 2))) for v in self._shape)
        grid = _grid(self, objective, resolution, radius, center)
        answer = grid.adaptive(self.tolerance) if self.sampling == "adaptive" else grid.full()
        answer = _told(self, grid, answer)
        for number, name in enumerate(grid.axes):
            answer[f"step_ratio_{name}"] = grid.step_ratios(number)
        return _with_path(_with_cosines(answer, grid), self.directions, grid)

    @property
    def _shape(self) -> tuple[Any, Any, Any]:
        return self.resolution, self.radius, self.center


def _grid(
    probe: Slice | Surface,
    objective: Objective,
    resolution: Sequence[int],
    radius: Sequence[Any],
    center: Sequence[Any],
) -> Grid:
    seeds = range(probe.seed, probe.seed + probe.seeds)
    sets = sets_of_directions(probe.directions, objective, len(resolution), seeds, probe.one_dimensional)
    grid = Grid.through(objective, sets, seeds, probe.precision)
    if radius[0] == "auto":
        radius = [_automatic_radius(grid, number, probe.rise) for number in range(len(resolution))]
    shape = zip(resolution, radius, center, strict=True)
    axes = {name: axis(*values) for name, values in zip(AXES, shape, strict=False)}
    return grid.over(axes, _ADAPTIVE_SHARE if getattr(probe, "sampling", "full") == "adaptive" else 1.0)


def _automatic_radius(grid: Grid, number: int, rise: float) -> float:
    """The radius at which the loss along one axis has risen by a factor, for all sets of directions."""
    size = len(grid.labels)

    def largest(seed_number: int, radius: float) -> float:
        ends = [tuple(sign * radius if axis == number else 0.0 for axis in range(size)) for sign in (1, -1)]
        with quiet_progress():
            return float(np.max(grid.measure([(seed_number, end) for end in ends], "radius")["loss"]))

    center = grid.center["loss"]
    if center <= 0:
        raise ValueError(
            f"the loss at the checkpoint is {center:.4g}, which no factor raises, so no automatic range can be found; "
            "give radius as a number."
        )
    wanted = rise * center
    return max(radius_of_rise(lambda r, n=n: largest(n, r), wanted) for n in range(len(grid.seeds)))  # type: ignore[misc]


def _told(probe: Slice | Surface, grid: Grid, answer: xr.Dataset) -> xr.Dataset:
    """Add what every slice says of itself."""
    answer.attrs["precision"] = probe.precision if probe.precision != "full" else str(grid.objective.dtype)[6:]
    if isinstance(probe, Surface):
        answer.attrs["sampling"] = probe.sampling
    answer.attrs["moved"] = moved_parameters(grid.objective, grid.vectors[0])
    kind = str(probe.directions)
    if warning := invariance_warning(grid.objective, kind, probe.seed, one_dimensional=probe.one_dimensional):
        answer.attrs["invariance_warning"] = warning
    if probe.radius == "auto":
        about = {"units": "multiples of the direction", "long_name": "radius at which the loss has risen by `rise`"}
        for name, values in grid.axes.items():
            answer[f"radius_{name}"] = ((), float(np.max(np.abs(values))), about)
        answer["rise"] = ((), probe.rise, {"units": "1", "long_name": "factor on the loss of the checkpoint"})
    if probe.precision != "full":
        answer = grid.precision_errors(answer)
    return answer.merge(shape_numbers(answer))


def _with_cosines(answer: xr.Dataset, grid: Grid) -> xr.Dataset:
    """The cosine between the axes: one, or one for each pair of three."""
    pairs = list(combinations(range(len(grid.axes)), 2))
    found = [[cosine(vectors[a], vectors[b]) for a, b in pairs] for vectors in grid.vectors]
    if len(pairs) == 1:
        answer["cosine"] = grid.per_seed([values[0] for values in found], units="1")
        return answer
    names = [f"{AXES[a]}-{AXES[b]}" for a, b in pairs]
    answer = answer.assign_coords(axis_pair=("axis_pair", names))
    dims = ("seed", "axis_pair") if len(found) > 1 else ("axis_pair",)
    answer["cosine"] = (dims, found if len(found) > 1 else found[0], {"units": "1"})
    return answer


def _with_path(answer: xr.Dataset, directions: str | Directions, grid: Grid) -> xr.Dataset:
    if isinstance(directions, str) or directions.path is None:
        return answer
    objective, plane = grid.objective, directions.first(len(grid.axes))
    path = directions.path.to(objective.theta)
    inside, off = coordinates(path, objective.theta, plane.vectors.to(objective.theta))
    answer = answer.assign_coords(snapshot_step=("snapshot", list(directions.path_steps)))
    for number, name in enumerate(grid.axes):
        answer[f"trajectory_{name}"] = ("snapshot", inside[:, number].cpu().numpy())
    answer["trajectory_off_plane"] = ("snapshot", off.cpu().numpy(), {"units": "share of the distance"})
    about = {"units": "nats", "long_name": "loss of the run at the step"}
    answer["trajectory_loss"] = ("snapshot", objective.losses(path).cpu().numpy(), about)
    under = grid.measure([(0, tuple(map(float, place))) for place in inside], "point under the path")
    about = {"units": "nats", "long_name": "loss of the plane where the step is projected"}
    answer["trajectory_plane_loss"] = ("snapshot", under["loss"], about)
    if plane.explained_share:
        for name in ("explained_share", "random_walk_share", "mean_centred_share", "mean_centred_random_walk_share"):
            answer[name] = ("component", list(getattr(plane, name)))
    return answer


def _settle(probe: Slice | Surface, **values: Any) -> None:
    """Write fields in one form, so that equal questions have equal answers: 1 and 1.0, 51 and (51, 51)."""
    for name, value in values.items():
        object.__setattr__(probe, name, value)


def _number(radius: Radius) -> Radius:
    return "auto" if radius == "auto" else float(radius)


def _each(value: Any, count: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,) * count


def _check(probe: Slice | Surface, resolution: Sequence[int], radius: Sequence[Any], center: Sequence[Any]) -> None:
    require_directions(probe.directions, probe.one_dimensional)
    if probe.precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {probe.precision!r}.")
    require_axes(resolution, radius, center, counts=(2, 3) if isinstance(probe, Surface) else (1,))
    if probe.radius == "auto" and any(center):
        raise ValueError(
            f"an automatic radius is found around the checkpoint, so center must be 0, got {probe.center!r}."
        )
    if not 1 < probe.rise < float("inf"):
        raise ValueError(f"rise must be a factor above 1, got {probe.rise}.")
    if probe.seeds < 1 or probe.seed < 0:
        raise ValueError(f"seeds must be at least 1 and seed at least 0, got {probe.seeds} and {probe.seed}.")
    if probe.seeds > 1 and probe.directions not in RANDOM_KINDS:
        raise ValueError(f"several seeds need random directions ({', '.join(RANDOM_KINDS)}), not {probe.directions}.")
    points = probe.seeds * int(np.prod([float(n) for n in resolution]))
    if points > most_points():
        raise ValueError(
            f"a grid of {points:,} points does not fit the memory of this machine (at most {most_points():,}); "
            "lower resolution or seeds."
        )
