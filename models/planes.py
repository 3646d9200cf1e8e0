"""Directions that only a run can tell: along its own trajectory, or toward other runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landscape import Objective, ParameterLayout
from landscape.directions import Directions, between, pca, through
from landscape.measure import Probe
from models.compatible import require_compatible
from models.opened import Run, open_run


def objective_and_probe(probe: Probe, run: Run, **options: Any) -> tuple[Objective, Probe]:
    """Make what a probe asks about of a run, and replace a word for directions that only a run can tell.

    Args:
        probe: The question; its field `directions`, if it has one, may be a word that `directions_of` knows.
        run: Of what.
        **options: What `Run.objective` takes. Between two networks nobody's running statistics hold, so that toward
            other runs BatchNorm is recalibrated unless `normalization` says otherwise.

    Raises:
        MissingError, ValueError: As `directions_of` does.
    """
    word = getattr(probe, "directions", None)
    toward = isinstance(word, str) and word.startswith("to:")
    if options.get("normalization") is None:
        options["normalization"] = "recalibrated" if toward else "running"
    objective = run.objective(**options)
    if isinstance(word, str):
        resolution: Any = getattr(probe, "resolution", None)
        axes = len(resolution) if isinstance(resolution, tuple) else 2
        probe = replace(probe, directions=directions_of(word, run, objective, axes))  # type: ignore[type-var]
    return objective, probe


def directions_of(word: str, run: Run, objective: Objective, count: int = 2) -> str | Directions:
    """Make the directions that a word of the command line stands for.

    Args:
        word: ``pca`` of the run's trajectory, ``to:RUN`` toward another run (which lies at alpha = 1), or
            ``to:RUN,RUN`` for the plane through three of them; every other word is left to the probe.
        run: Where the line or plane is centred.
        objective: The objective of that run.
        count: How many directions ``pca`` should give.

    Raises:
        MissingError: If the run has no trajectory, or there is no such other run.
        ValueError: If another run has other parameters, or the directions do not exist.
    """
    if word == "pca":
        return _along_the_trajectory(run, objective, count)
    kind, _, rest = word.partition(":")
    if kind != "to":
        return word
    points = [_point(Path(folder), run, objective) for folder in rest.split(",")]
    if len(points) > 2:
        raise ValueError(f"a plane goes through three runs, {word!r} names {len(points)} others; name one or two.")
    return between(objective.theta, points[0]) if len(points) == 1 else through(objective.theta, *points)


def trajectory_points(run: Run, layout: ParameterLayout) -> tuple[list[int], Tensor]:
    """Return the steps of a run's snapshots, and (T, P) their parameters in a layout; frozen ones stand still.

    Raises:
        MissingError: If the run has no trajectory.
    """
    snapshots = run.store.read("trajectory")
    model = run.model()
    moved = ParameterLayout.of(model).matching(json.loads(snapshots.attrs["layout"])["names"])
    still = {name: parameter.detach() for name, parameter in model.named_parameters()}  # what was frozen
    rows = torch.from_numpy(snapshots["theta"].values)
    path = torch.stack([layout.flatten({**still, **moved.unflatten(row)}) for row in rows])
    return snapshots["step"].values.tolist(), path


def _along_the_trajectory(run: Run, objective: Objective, count: int) -> Directions:
    steps, path = trajectory_points(run, objective.layout)
    return pca(path.to(objective.theta), steps, objective.theta, count)


def _point(folder: Path, run: Run, objective: Objective) -> Tensor:
    other = open_run(folder)
    require_compatible({str(run.folder): run, str(folder): other})
    model = other.model()
    return ParameterLayout.of(model).matching(objective.parameters).current(model).to(objective.theta)
