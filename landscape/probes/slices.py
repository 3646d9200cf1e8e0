"""The loss along lines and over planes through a point of parameter space."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
import xarray as xr
from torch import Tensor

from landscape.directions import (
    KINDS,
    ONE_DIMENSIONAL,
    RANDOM_KINDS,
    Directions,
    coordinates,
    cosine,
    directions_for,
    step_ratio,
)
from landscape.execution import resumable_map
from landscape.objective import Objective


@dataclass(frozen=True)
class Slice:
    """Loss and accuracy along a line, L(theta + alpha d), for one or several random directions.

    Attributes:
        directions: filter, layer, weight, gaussian, hessian, or a Directions object.
        resolution: Points along the line; with an odd number one of them is the checkpoint.
        radius: The line runs from center - radius to center + radius, in multiples of the direction.
        center: Middle of the line.
        seed: Seed of the first random direction.
        seeds: Number of random directions, with seeds seed, seed + 1, ...
        one_dimensional: What biases and normalization scales do in a random direction: zero or copy.
    """

    directions: str | Directions = "filter"
    resolution: int = 51
    radius: float = 1.0
    center: float = 0.0
    seed: int = 0
    seeds: int = 1
    one_dimensional: str = "zero"

    def __post_init__(self) -> None:
        _check(self, (self.resolution,), (self.radius,), (self.center,))
        _settle(self, radius=float(self.radius), center=float(self.center))

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Measure the line.

        Returns:
            loss, accuracy, ... over (alpha,), or (seed, alpha) with median and 10-90% band over the seeds;
            `center_loss` etc. at the checkpoint itself; `step_ratio`, the norm of the direction relative to the
            norm of the filters; `done`.

        Raises:
            ValueError: If the loss at the checkpoint is not finite.
        """
        grid = _Grid.through(objective, self, {"alpha": _axis(self.resolution, self.radius, self.center)})
        answer = grid.answer()
        answer["step_ratio"] = grid.per_seed(
            [step_ratio(v[0], objective.theta, objective.layout) for v in grid.vectors]
        )
        return grid.finish(answer)


@dataclass(frozen=True)
class Surface:
    """Loss and accuracy over a plane, L(theta + alpha d1 + beta d2), for one or several pairs of directions.

    Attributes:
        directions: filter, layer, weight, gaussian, hessian, hessian-ends, or a Directions object.
        resolution: Points along each axis, n or (n_alpha, n_beta); odd numbers put one on the checkpoint.
        radius: The axes run from center - radius to center + radius, r or (r_alpha, r_beta).
        center: Middle of the axes, c or (c_alpha, c_beta).
        seed: Seed of the first pair of random directions.
        seeds: Number of pairs, with seeds seed, seed + 1, ...
        one_dimensional: What biases and normalization scales do in a random direction: zero or copy.
    """

    directions: str | Directions = "filter"
    resolution: int | tuple[int, int] = 51
    radius: float | tuple[float, float] = 1.0
    center: float | tuple[float, float] = 0.0
    seed: int = 0
    seeds: int = 1
    one_dimensional: str = "zero"

    def __post_init__(self) -> None:
        _check(self, _both(self.resolution), _both(self.radius), _both(self.center))
        radius, center = (tuple(map(float, _both(value))) for value in (self.radius, self.center))
        _settle(self, resolution=_both(self.resolution), radius=radius, center=center)

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Measure the plane.

        Returns:
            loss, accuracy, ... over (alpha, beta), or (seed, alpha, beta) with median and band; `center_loss` etc.
            at the checkpoint itself; `cosine` between the axes; `step_ratio_alpha`, `step_ratio_beta`; `done`;
            for directions with a path its coordinates, and the share of its distance that lies off the plane.

        Raises:
            ValueError: If the loss at the checkpoint is not finite.
        """
        shape = zip(_both(self.resolution), _both(self.radius), _both(self.center), strict=True)
        axes = {name: _axis(*values) for name, values in zip(("alpha", "beta"), shape, strict=True)}
        grid = _Grid.through(objective, self, axes)
        answer = grid.answer()
        theta, layout = objective.theta, objective.layout
        answer["cosine"] = grid.per_seed([cosine(*pair) for pair in grid.vectors])
        for number, name in enumerate(("step_ratio_alpha", "step_ratio_beta")):
            answer[name] = grid.per_seed([step_ratio(pair[number], theta, layout) for pair in grid.vectors])
        return grid.finish(_with_path(answer, self.directions, objective))


@dataclass(frozen=True)
class _Grid:
    """Points theta + sum of coordinates times directions, for several sets of directions."""

    objective: Objective
    axes: dict[str, np.ndarray]
    seeds: tuple[int, ...]
    vectors: list[Tensor]  # one (D, P) a seed
    labels: tuple[str, ...]
    kind: str

    @classmethod
    def through(cls, objective: Objective, probe: Slice | Surface, axes: dict[str, np.ndarray]) -> _Grid:
        seeds = tuple(range(probe.seed, probe.seed + probe.seeds))
        made = [directions_for(probe.directions, objective, len(axes), seed, probe.one_dimensional) for seed in seeds]
        return cls(objective, axes, seeds, [d.vectors for d in made], made[0].labels, made[0].kind)

    @property
    def dims(self) -> tuple[str, ...]:
        return (*(("seed",) if len(self.seeds) > 1 else ()), *self.axes)

    def point(self, seed_number: int, place: Sequence[float]) -> Tensor:
        theta = self.objective.theta
        for coordinate, direction in zip(place, self.vectors[seed_number], strict=True):
            theta = theta + coordinate * direction
        return theta

    def answer(self) -> xr.Dataset:
        center = self.objective.metrics()
        if not np.isfinite(center["loss"]):
            raise ValueError(
                f"the loss at the checkpoint is {center['loss']}, so there is no landscape around it; "
                "measure a checkpoint from before the training diverged."
            )
        items = list(product(range(len(self.seeds)), *self.axes.values()))
        points = resumable_map(_measure, self, items)
        shape = (*((len(self.seeds),) if len(self.seeds) > 1 else ()), *map(len, self.axes.values()))
        answer = xr.Dataset(coords=self._coordinates())
        for name in center:
            values = np.array([point[name] for point in points], dtype=np.float64).reshape(shape)
            answer[name] = (self.dims, values, _described(name))
            answer[f"center_{name}"] = ((), center[name], _described(name))
        answer["done"] = (self.dims, np.ones(shape, dtype=bool))
        return _with_spread(answer, list(center)) if len(self.seeds) > 1 else answer

    def per_seed(self, values: Sequence[float]) -> xr.DataArray:
        return xr.DataArray(list(values), dims=("seed",)) if len(self.seeds) > 1 else xr.DataArray(values[0])

    def finish(self, answer: xr.Dataset) -> xr.Dataset:
        losses = answer["loss"]
        answer.attrs.update(
            directions=self.kind,
            num_points=int(losses.size),
            num_non_finite=int((~np.isfinite(losses)).sum()),
        )
        return answer

    def _coordinates(self) -> dict[str, Any]:
        coords: dict[str, Any] = {"seed": ("seed", list(self.seeds))} if len(self.seeds) > 1 else {}
        for (name, values), label in zip(self.axes.items(), self.labels, strict=True):
            coords[name] = (name, values, {"units": "multiples of the direction", "long_name": label})
        return coords


def _measure(grid: _Grid, item: tuple[Any, ...]) -> dict[str, float]:
    seed_number, *place = item
    return grid.objective.metrics(grid.point(seed_number, place))


def _axis(resolution: int, radius: float, center: float) -> np.ndarray:
    """Coordinates from center - radius to center + radius; the middle of an odd number is exactly the center."""
    if resolution == 1:
        return np.array([center])
    half = (resolution - 1) / 2
    return center + radius * ((np.arange(resolution) - half) / half)


def _with_spread(answer: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    """Add median and 10-90% band over the seeds; a NaN counts as worse than any finite value."""
    for name in names:
        worst = -np.inf if name.endswith("accuracy") else np.inf
        ranked = answer[name].fillna(worst)
        for word, share in (("median", 0.5), ("lower", 0.1), ("upper", 0.9)):
            # Between a finite and an infinite value there is no linear interpolation.
            method: Literal["linear", "nearest"] = "linear" if np.isfinite(ranked).all() else "nearest"
            band = ranked.quantile(share, dim="seed", method=method).drop_vars("quantile")
            answer[f"{name}_{word}"] = band.assign_attrs(answer[name].attrs)
    return answer


def _with_path(answer: xr.Dataset, directions: str | Directions, objective: Objective) -> xr.Dataset:
    if isinstance(directions, str) or directions.path is None:
        return answer
    plane, path = directions.first(2), directions.path.to(objective.theta)
    inside, off = coordinates(path, objective.theta, plane.vectors.to(objective.theta))
    answer = answer.assign_coords(snapshot_step=("snapshot", list(directions.path_steps)))
    for number, name in enumerate(("trajectory_alpha", "trajectory_beta")):
        answer[name] = ("snapshot", inside[:, number].cpu().numpy())
    answer["trajectory_off_plane"] = ("snapshot", off.cpu().numpy(), {"units": "share of the distance"})
    answer["trajectory_loss"] = ("snapshot", objective.losses(path).cpu().numpy(), {"units": "nats"})
    if plane.explained_share:
        answer["explained_share"] = ("component", list(plane.explained_share))
        answer["random_walk_share"] = ("component", list(plane.random_walk_share))
    return answer


def _settle(probe: Slice | Surface, **values: Any) -> None:
    """Write fields in one form, so that equal questions have equal answers: 1 and 1.0, 51 and (51, 51)."""
    for name, value in values.items():
        object.__setattr__(probe, name, value)


def _described(name: str) -> dict[str, str]:
    data = f" on the {name.split('_')[0]} data" if "_" in name else ""
    if name.endswith("accuracy"):
        return {"units": "1", "long_name": f"accuracy{data}"}
    return {"units": "nats", "long_name": f"mean loss{data}"}


def _both(value: Any) -> tuple[Any, Any]:
    return tuple(value) if isinstance(value, list | tuple) else (value, value)


def _check(probe: Slice | Surface, resolution: Sequence[int], radius: Sequence[float], center: Sequence[float]) -> None:
    if isinstance(probe.directions, str) and probe.directions not in KINDS:
        raise ValueError(f"directions must be one of {', '.join(KINDS)}, got {probe.directions!r}.")
    if probe.one_dimensional not in ONE_DIMENSIONAL:
        raise ValueError(f"one_dimensional must be zero or copy, got {probe.one_dimensional!r}.")
    if len({len(resolution), len(radius), len(center)}) > 1 or len(radius) > 2:
        raise ValueError("resolution, radius and center are each one value for both axes or a pair, one an axis.")
    if any(not isinstance(n, int) or n < 1 for n in resolution):
        raise ValueError(f"resolution must be whole numbers of at least 1, got {probe.resolution!r}.")
    if any(not (np.isfinite(r) and r > 0) for r in radius):
        raise ValueError(f"radius must be positive and finite, got {probe.radius!r}.")
    if not np.isfinite(center).all():
        raise ValueError(f"center must be finite, got {probe.center!r}.")
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


def most_points() -> int:
    """How many grid points fit a quarter of this machine's memory, at about 2 kB each while they are collected."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 // 2048
