"""Points on lines, planes and volumes through a point of parameter space, and what is measured at them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from landscape.adaptive import GLOBAL, NEIGHBOURS, Sampled, sample
from landscape.directions import KINDS, ONE_DIMENSIONAL, Directions, directions_for, step_ratio
from landscape.evaluation import Evaluator, Plan, default_plan
from landscape.execution import num_workers, progress_within, recalled, resumable_map, wanted_threads
from landscape.objective import Objective
from landscape.planning import measured_plan

AXES = ("alpha", "beta", "gamma")
_COMPARED = 60  # points at which a lower precision is compared with the full one

Place = tuple[float, ...]
Values = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Grid:
    """Points theta + sum of coordinates times directions, for several sets of directions.

    Attributes:
        objective: What is measured.
        axes: The coordinates along each direction, by name.
        seeds: The seed of each set of directions.
        vectors: The sets, (D, P) each.
        labels: What each axis runs along.
        kind: What the directions are.
        plan: How points are evaluated.
        center: What the objective is at theta itself.
    """

    objective: Objective
    axes: dict[str, NDArray[np.float64]]
    seeds: tuple[int, ...]
    vectors: list[Tensor]
    labels: tuple[str, ...]
    kind: str
    plan: Plan
    center: dict[str, float]

    @classmethod
    def through(
        cls, objective: Objective, sets: Sequence[Directions], seeds: Sequence[int], precision: str = "full"
    ) -> Grid:
        """Lay a grid with no points yet through the point of an objective.

        Raises:
            ValueError: If the loss there is not finite.
        """
        center = objective.metrics()
        if not math.isfinite(center["loss"]):
            raise ValueError(
                f"the loss at the checkpoint is {center['loss']}, so there is no landscape around it; "
                "measure a checkpoint from before the training diverged."
            )
        vectors = [directions.vectors for directions in sets]
        plan = default_plan(objective, precision)
        return cls(objective, {}, tuple(seeds), vectors, sets[0].labels, sets[0].kind, plan, center)

    def over(self, axes: dict[str, NDArray[np.float64]], share: float = 1.0) -> Grid:
        """Give the grid its points, and the plan that suits the number of those that will probably be computed."""
        grid = replace(self, axes=axes)
        return replace(grid, plan=grid._planned(math.ceil(share * grid.num_points)))

    @property
    def dims(self) -> tuple[str, ...]:
        """The dimensions of what is measured."""
        return (*(("seed",) if len(self.seeds) > 1 else ()), *self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Points along each axis, without the seeds."""
        return tuple(map(len, self.axes.values()))

    @property
    def num_points(self) -> int:
        """Points for all sets of directions."""
        return len(self.seeds) * math.prod(self.shape)

    @cached_property
    def evaluator(self) -> Evaluator:
        """What evaluates points in this process."""
        return Evaluator(self.objective, self.plan)

    def point(self, seed_number: int, place: Sequence[float]) -> Tensor:
        """The point (P,) at some coordinates."""
        theta = self.objective.theta
        for coordinate, direction in zip(place, self.vectors[seed_number], strict=True):
            theta = theta + coordinate * direction
        return theta

    def measure(self, items: Sequence[tuple[int, Place]], stage: str = "point") -> Values:
        """Measure points, each a set of directions by its number and coordinates: (M,) values by name.

        The point at zero is the checkpoint itself, which has been measured; in a lower precision it is measured like
        all others, so that it does not stand out.
        """
        is_center = [self.plan.precision == "full" and not any(place) for _, place in items]
        others = [item for item, here in zip(items, is_center, strict=True) if not here]
        blocks = [others[start : start + self.plan.together] for start in range(0, len(others), self.plan.together)]
        found = resumable_map(_measure, self, blocks, stage)
        values = {}
        for name, own in self.center.items():
            column = np.full(len(items), own)
            if found:
                column[~np.array(is_center)] = np.concatenate([np.atleast_1d(block[name]) for block in found])
            values[name] = column
        return values

    def full(self) -> xr.Dataset:
        """Measure every point."""
        places = list(product(*(map(float, axis) for axis in self.axes.values())))
        values = self.measure([(number, place) for number in range(len(self.seeds)) for place in places])
        answer = self._empty()
        shape = (*((len(self.seeds),) if len(self.seeds) > 1 else ()), *self.shape)
        for name, column in values.items():
            answer[name] = (self.dims, column.reshape(shape), described(name))
        return self._with_center(answer)

    def adaptive(self, tolerance: float) -> xr.Dataset:
        """Measure as many points as a tolerated error asks for; interpolate the others (see `landscape.adaptive`)."""
        places = list(product(*(map(float, axis) for axis in self.axes.values())))
        computed = 0

        def of(number: int) -> Sampled:
            def evaluate(chosen: NDArray[np.int64]) -> Values:
                nonlocal computed
                with progress_within("point, at most", computed, self.num_points):
                    found = self.measure([(number, places[index]) for index in chosen])
                computed += len(chosen)
                return found

            return sample(self.shape, evaluate, tolerance, self.seeds[number])

        sets = [of(number) for number in range(len(self.seeds))]
        answer = self._empty()
        several = len(self.seeds) > 1

        def stacked(columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
            shaped = [column.reshape(self.shape) for column in columns]
            return np.stack(shaped) if several else shaped[0]

        for name in self.center:
            answer[name] = (self.dims, stacked([found.values[name] for found in sets]), described(name))
        answer["evaluated"] = (self.dims, stacked([found.computed for found in sets]), _EVALUATED)
        return self._with_center(
            answer.merge(self._true_points(sets, np.array(places))).assign_attrs(_sampling_told(sets))
        )

    def per_seed(self, values: Sequence[float], **attrs: str) -> xr.DataArray:
        """One number for each set of directions, or the only one."""
        if len(self.seeds) > 1:
            return xr.DataArray(list(values), dims=("seed",), attrs=attrs)
        return xr.DataArray(values[0], attrs=attrs)

    def step_ratios(self, axis: int) -> xr.DataArray:
        """Norm of a direction relative to that of the model's filters: how long one unit of the axis is."""
        objective = self.objective
        ratios = [step_ratio(vectors[axis], objective.theta, objective.layout) for vectors in self.vectors]
        return self.per_seed(ratios, units="1", long_name="norm of the direction relative to that of the filters")

    def precision_errors(self, answer: xr.Dataset) -> xr.Dataset:
        """Compare a lower precision with the full one, at some points of the grid drawn at random.

        Returns:
            `precision_error_p95` and `precision_error_max`: relative to the loss in full precision.
        """
        generator = np.random.default_rng(0)
        places = list(product(*(map(float, axis) for axis in self.axes.values())))
        chosen = generator.choice(len(places), min(_COMPARED, len(places)), replace=False)
        items = [(int(generator.integers(len(self.seeds))), places[index]) for index in chosen]
        low = self.measure(items, "rounded point")["loss"]
        exact = replace(self, plan=replace(self.plan, precision="full")).measure(items, "exact point")["loss"]
        with np.errstate(invalid="ignore", divide="ignore"):
            errors = np.abs(low - exact) / np.abs(exact)
        errors = errors[np.isfinite(exact)]
        found = {"p95": np.quantile(errors, 0.95, method="higher"), "max": errors.max()} if errors.size else {}
        words = {"p95": "95th percentile of the", "max": "largest"}
        for name, value in found.items():
            about = {"units": "1", "long_name": f"{words[name]} relative error of the loss by {self.plan.precision}"}
            answer[f"precision_error_{name}"] = ((), value, about)
        return answer.assign_attrs(precision_points=len(errors))

    def _planned(self, num_points: int) -> Plan:
        """Measure how to evaluate, once: an interrupted answer goes on as it was begun."""
        objective, precision = self.objective, self.plan.precision

        def choose() -> dict[str, Any]:
            plan = measured_plan(objective, num_points, precision, wanted_threads(), num_workers())
            return {"plan": plan.to_json()}

        return Plan.from_json(str(recalled("plan", b"", choose)["plan"]))

    def _empty(self) -> xr.Dataset:
        coords: dict[str, Any] = {"seed": ("seed", list(self.seeds))} if len(self.seeds) > 1 else {}
        for (name, values), label in zip(self.axes.items(), self.labels, strict=True):
            coords[name] = (name, values, {"units": "multiples of the direction", "long_name": label})
        return xr.Dataset(coords=coords)

    def _with_center(self, answer: xr.Dataset) -> xr.Dataset:
        for name, value in self.center.items():
            answer[f"center_{name}"] = ((), value, described(name))
        answer["done"] = (self.dims, np.ones(answer["loss"].shape, dtype=bool))
        losses = answer["loss"]
        answer.attrs.update(
            directions=self.kind,
            num_points=int(losses.size),
            num_non_finite=int((~np.isfinite(losses)).sum()),
            evaluation_plan=self.plan.to_json(),
        )
        return _with_spread(answer, list(self.center)) if len(self.seeds) > 1 else answer

    def _true_points(self, sets: Sequence[Sampled], places: NDArray[np.float64]) -> xr.Dataset:
        """The computed points apart from the grid, with what the spline had said of those that were held out."""
        chosen = [np.flatnonzero(found.computed) for found in sets]
        points = xr.Dataset()
        where = np.concatenate([places[indices] for indices in chosen])
        for column, name in zip(where.T, self.axes, strict=True):
            points[f"point_{name}"] = ("point", column, {"units": "multiples of the direction"})
        if len(sets) > 1:
            seeds = [np.full(len(indices), seed) for indices, seed in zip(chosen, self.seeds, strict=True)]
            points["point_seed"] = ("point", np.concatenate(seeds))
        for name in self.center:
            known = [found.values[name][indices] for found, indices in zip(sets, chosen, strict=True)]
            points[f"point_{name}"] = ("point", np.concatenate(known), described(name))
        said, held_out = [], []
        for found, indices in zip(sets, chosen, strict=True):
            column = np.full(found.computed.size, np.nan)
            column[found.held_out] = found.predicted.get("loss", np.nan)
            said.append(column[indices])
            held_out.append(np.isin(indices, found.held_out))
        points["point_held_out"] = ("point", np.concatenate(held_out), {"long_name": "drawn to measure the error"})
        about = {"units": "nats", "long_name": "what the spline said before the point was computed"}
        points["point_predicted_loss"] = ("point", np.concatenate(said), about)
        return points


_EVALUATED = {"long_name": "computed; elsewhere stands the spline that was tested"}


def _sampling_told(sets: Sequence[Sampled]) -> dict[str, Any]:
    """What a reader of an adaptive answer must know."""
    sampled = [found for found in sets if not found.is_full]
    words = (
        f"polyharmonic spline (through the nearest {NEIGHBOURS} points where more than {GLOBAL} were computed), of the "
        "logarithm where the loss is positive; it was made without the last held-out points, whose true values stand "
        "on the grid"
    )
    return {
        "num_evaluated": int(sum(found.computed.sum() for found in sets)),
        "num_held_out": int(sum(len(found.held_out) for found in sets)),
        "interpolation": words if sampled else "none: adaptive sampling did not pay, so every point was computed",
        "error_p95": max((found.error_p95 for found in sampled), default=0.0),
        "error_max": max((found.error_max for found in sampled), default=0.0),
    }


def _measure(grid: Grid, block: Sequence[tuple[int, Place]]) -> dict[str, Any]:
    thetas = torch.stack([grid.point(*item) for item in block])
    found = grid.evaluator.metrics(thetas)
    if len(block) == 1:
        return {name: value.item() for name, value in found.items()}
    return {name: value.numpy() for name, value in found.items()}


def axis(resolution: int, radius: float, center: float) -> NDArray[np.float64]:
    """Coordinates from center - radius to center + radius; the middle of an odd number is exactly the center."""
    if resolution == 1:
        return np.array([center], dtype=np.float64)
    half = (resolution - 1) / 2
    return np.asarray(center + radius * ((np.arange(resolution) - half) / half), dtype=np.float64)


def sets_of_directions(
    kind: str | Directions, objective: Objective, count: int, seeds: Sequence[int], one_dimensional: str
) -> list[Directions]:
    """Make one set of directions for each seed."""
    return [directions_for(kind, objective, count, seed, one_dimensional) for seed in seeds]


def require_directions(directions: str | Directions, one_dimensional: str) -> None:
    """Make sure that directions can be made; words for those of a run, pca and to:RUN, wait for who knows the run.

    Raises:
        ValueError: If a word is unknown.
    """
    of_run = isinstance(directions, str) and (directions == "pca" or directions.startswith("to:"))
    if isinstance(directions, str) and directions not in KINDS and not of_run:
        raise ValueError(f"directions must be one of {', '.join(KINDS)}, got {directions!r}.")
    if one_dimensional not in ONE_DIMENSIONAL:
        raise ValueError(f"one_dimensional must be zero or copy, got {one_dimensional!r}.")


def require_axes(
    resolution: Sequence[Any],
    radius: Sequence[Any],
    center: Sequence[Any],
    counts: Sequence[int],
    can_be_auto: bool = True,
) -> None:
    """Make sure that numbers, one an axis, make a grid.

    Args:
        resolution: Points along each axis.
        radius: Half the length of each axis; ``auto`` for all where that is allowed.
        center: Its middle.
        counts: How many axes there may be.
        can_be_auto: Whether the radius may be found by itself.

    Raises:
        ValueError: If the numbers are of different length, or out of range.
    """
    if len({len(resolution), len(radius), len(center)}) > 1 or len(resolution) not in counts:
        words = " or ".join(map(str, counts))
        raise ValueError(
            f"resolution, radius and center are each one value for all axes, or one an axis ({words} axes); got "
            f"{resolution}, {radius} and {center}."
        )
    if any(not isinstance(n, int) or n < 1 for n in resolution):
        raise ValueError(f"resolution must be whole numbers of at least 1, got {_told(resolution)}.")
    is_auto = can_be_auto and all(r == "auto" for r in radius)
    if not is_auto and any(isinstance(r, str) or not (np.isfinite(r) and r > 0) for r in radius):
        words = ", or auto" if can_be_auto else ""
        raise ValueError(f"radius must be positive and finite{words}; got {_told(radius)}.")
    if not np.isfinite(center).all():
        raise ValueError(f"center must be finite, got {_told(center)}.")


def _told(values: Sequence[Any]) -> str:
    """Values for a message: one, or several where they differ."""
    return repr(values[0]) if len(set(values)) == 1 else repr(tuple(values))


def described(name: str) -> dict[str, str]:
    """Unit and long name of a metric."""
    data = f" on the {name.split('_')[0]} data" if "_" in name else ""
    if name.endswith("accuracy"):
        return {"units": "1", "long_name": f"accuracy{data}"}
    return {"units": "nats", "long_name": f"mean loss{data}"}


def most_points() -> int:
    """How many grid points fit a quarter of this machine's memory, at about 2 kB each while they are collected."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 // 2048


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
