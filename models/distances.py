"""How far runs are from each other, as weights and as functions, at their ends or along their ways."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from landscape import ParameterLayout
from landscape.distances import disagreement, distance_answer, unit_filters
from landscape.execution import Progress
from landscape.provenance import provenance
from landscape.store import Journal, MissingError, Store
from landscape.weights import digest_tensors
from models.compatible import require_compatible
from models.ensembles.members import predict
from models.ensembles.shared import shared_test
from models.opened import Run
from models.planes import trajectory_points
from models.snapshots import network_at

_MOST_POINTS = 400


class Point(NamedTuple):
    """One network of a run: its kept weights (step -1), or a snapshot by its position in the trajectory."""

    run: str
    step: int
    position: int | None


@dataclass(frozen=True)
class Distances:
    """Compare runs pair by pair.

    Attributes:
        at: Which moments of each run: last, the weights that it kept; all, every snapshot of its trajectory; or steps
            of snapshots, as in 0,100,200; auto is all for one run and last for several.
        filters: as-is, or unit: every filter at length one and the other parameters left out, for networks whose
            filters are normalized.
        functions: Also compare the predictions on the test split.
    """

    at: str = "auto"
    filters: Literal["as-is", "unit"] = "as-is"
    functions: bool = True

    def __post_init__(self) -> None:
        """Refuse moments that are none.

        Raises:
            ValueError: If `at` or `filters` is not known.
        """
        if not re.fullmatch(r"auto|last|all|\d+(,\d+)*", self.at):
            raise ValueError(f"at must be auto, last, all or steps such as 0,100, got {self.at!r}")
        if self.filters not in ("as-is", "unit"):
            raise ValueError(f"filters must be as-is or unit, got {self.filters!r}")

    def points(self, runs: Mapping[str, Run]) -> list[Point]:
        """List what is compared.

        Raises:
            MissingError: If a run needs a trajectory and has none.
            ValueError: If a step was not kept, or there are fewer than two points, or too many.
        """
        at = ("all" if len(runs) == 1 else "last") if self.at == "auto" else self.at
        found = [point for name, run in runs.items() for point in _points_of(name, run, at)]
        if len(found) < 2:
            raise ValueError(f"distances need two points at least, got {len(found)}; give several runs, or --at all")
        if len(found) > _MOST_POINTS:
            raise ValueError(
                f"{len(found)} points make matrices too large to read, more than {_MOST_POINTS}; choose moments, "
                "as in --at 0,100,200"
            )
        return found

    def __call__(
        self,
        runs: Mapping[str, Run],
        *,
        journal: Journal | None = None,
        progress: Progress | None = None,
    ) -> xr.Dataset:
        """Compare.

        Args:
            runs: By the names that the answer gives them.
            journal: Where finished predictions are kept and found.
            progress: Called with ("networks", done, in all).

        Returns:
            What `landscape.distances.distance_answer` returns, with the coordinates run and step of each point; and
            test_error (point) and disagreement (point, other), the share of test examples with different labels.

        Raises:
            MissingError, ValueError: As `points` does, or if the runs' tensors or test examples differ.
        """
        points = self.points(runs)
        require_compatible(runs)
        splits = shared_test(runs) if self.functions else {}
        answer = self._weights(runs, points)
        if self.functions:
            labels = _labels(runs, points, {name: s.test.inputs for name, s in splits.items()}, journal, progress)
            targets = next(iter(splits.values())).test.targets.numpy()
            answer["disagreement"] = (("point", "other"), disagreement(labels))
            answer["test_error"] = ("point", (labels != targets).mean(axis=1))
        answer = answer.assign_coords(
            run=("point", [point.run for point in points]), step=("point", [point.step for point in points])
        )
        return answer.assign_attrs(
            probe="distances", probe_fields=json.dumps(asdict(self)), normalization="recalibrated"
        )

    def _weights(self, runs: Mapping[str, Run], points: list[Point]) -> xr.Dataset:
        layout = ParameterLayout.of(next(iter(runs.values())).model())
        chosen: list[Tensor] = []
        starts: list[Tensor] = []
        gains: list[float] = []
        for name, run in runs.items():
            positions = [point.position for point in points if point.run == name]
            steps, path = trajectory_points(run, layout) if run.store.has("trajectory") else ([], torch.empty(0))
            begins = bool(steps) and steps[0] == 0
            way = [*path, layout.current(run.model())]  # the weights that were kept come last
            if self.filters == "unit":
                way = [unit_filters(point, layout) for point in way]
            own = [way[-1 if at is None else at] for at in positions]
            squares = [float((after - before).double().square().sum()) for before, after in itertools.pairwise(way)]
            gained = np.cumsum([0.0, *squares]) if begins else np.full(len(way), np.nan)
            starts.append(way[0] if begins else torch.full_like(way[0], torch.nan))
            gains += [float(gained[-1 if at is None else at]) for at in positions]
            chosen += own
        names = list(runs)
        return distance_answer(torch.stack(chosen), torch.stack(starts), [names.index(p.run) for p in points], gains)


def ask_distances(
    question: Distances, runs: Mapping[str, Run], out: Path, progress: Progress | None = None
) -> tuple[str, xr.Dataset]:
    """Answer from a folder, computing what is missing.

    Args:
        question: What is compared.
        runs: By the names that the answer gives them.
        out: The folder, made once the question has been found to suit the runs.
        progress: As `Distances` takes it.

    Returns:
        The answer's name in the folder, by everything its values depend on, and the answer.

    Raises:
        MissingError, ValueError: As `Distances` does.
        LockedError: If another process is at work in the folder.
    """
    question.points(runs)
    require_compatible(runs)
    asked = {"fields": asdict(question), "runs": {name: _identity(run) for name, run in runs.items()}}
    name = f"distances-{hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]}"
    if (out / f"{name}.h5").is_file():
        return name, Store(out, create=False).read(name)
    store, started = Store(out), time.monotonic()
    with store.lock(), store.journal(name) as journal:
        answer = question(runs, journal=journal, progress=progress)
        attrs = {"runs": json.dumps(asked["runs"]), **provenance(), "wall_seconds": time.monotonic() - started}
        store.write(name, answer.assign_attrs(attrs))
        journal.discard()
    return name, store.read(name)


def distance_rows(answer: xr.Dataset) -> list[dict[str, object]]:
    """One row a point: how far it is from its start and from the others, as weights and as a function."""
    number = answer.sizes["point"]
    others = ~np.eye(number, dtype=bool)
    rows = []
    for at in range(number):
        step = int(answer["step"].values[at])
        row: dict[str, object] = {"run": str(answer["run"].values[at]), "step": "kept" if step < 0 else step}
        row["from_start"] = float(answer["displacement"].values[at])
        for name in ("distance", "relative_distance", "cosine", "disagreement"):
            if name in answer:
                known = _finite(answer[name].values[at][others[at]])  # the start of a run has no angle
                row[f"mean_{name}"] = float(known.mean()) if known.size else np.nan
        rows.append(row | ({"test_error": float(answer["test_error"].values[at])} if "test_error" in answer else {}))
    return rows


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[np.isfinite(values)]


def _points_of(name: str, run: Run, at: str) -> list[Point]:
    if at == "last":
        return [Point(name, -1, None)]
    if not run.store.has("trajectory"):
        raise MissingError(f"{run.folder} has no trajectory; train it with --snapshots epochs:1, or compare --at last")
    steps = run.store.read("trajectory")["step"].values.tolist()
    wanted = steps if at == "all" else [int(step) for step in at.split(",")]
    if lost := [step for step in wanted if step not in steps]:
        kept = ", ".join(map(str, steps[:20])) + (", ..." if len(steps) > 20 else "")
        raise ValueError(f"{run.folder} kept no snapshot at step {lost[0]}; there are {kept}")
    return [Point(name, step, steps.index(step)) for step in wanted]


def _labels(
    runs: Mapping[str, Run],
    points: list[Point],
    inputs: Mapping[str, Tensor],
    journal: Journal | None,
    progress: Progress | None,
) -> NDArray[np.int_]:
    """(N, examples) what each network takes the test examples for."""
    done = journal.records() if journal else {}
    labels = []
    for count, point in enumerate(points, start=1):
        key = f"torch {torch.__version__}/{point.run}/{point.step}"
        if key not in done:
            logits = predict(_network(runs[point.run], point), inputs[point.run])
            done[key] = {"labels": logits.argmax(dim=1).numpy()}
            if journal:
                journal.append(key, done[key])
        labels.append(np.asarray(done[key]["labels"]))
        if progress:
            progress("networks", count, len(points))
    return np.stack(labels)


def _network(run: Run, point: Point) -> nn.Module:
    return run.model() if point.position is None else network_at(run, point.step)


def _identity(run: Run) -> dict[str, str]:
    trajectory = str(run.store.read("trajectory").attrs["content_digest"]) if run.store.has("trajectory") else ""
    weights = digest_tensors(run.weights())
    return {"weights_sha256": weights, "data_sha256": str(run.about["data_sha256"]), "trajectory": trajectory}
