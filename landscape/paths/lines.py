"""Loss and error along straight lines and arcs between points of parameter space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from landscape.directions import cosine
from landscape.evaluation import Evaluator
from landscape.execution import resumable_map
from landscape.objective import Objective
from landscape.paths.barriers import with_barriers

Kind = Literal["line", "arc"]
FORMULAS = {"line": "(1 - alpha) A + alpha B", "arc": "cos(alpha pi / 2) A + sin(alpha pi / 2) B"}


def point(kind: str, start: Tensor, end: Tensor, alpha: float) -> Tensor:
    """Return the point (P,) of a line or an arc; at alpha = 0 and 1 the bits of its ends.

    Args:
        kind: ``line``, (1 - alpha) A + alpha B, or ``arc``, cos(alpha pi / 2) A + sin(alpha pi / 2) B, which keeps the
            norm between ends that are orthogonal and equally long, and leaves the segment between others.
        start: (P,) the point A.
        end: (P,) the point B.
        alpha: Where; beyond 0 and 1 the path goes on.

    References:
        Goodfellow et al., "Qualitatively characterizing neural network optimization problems", ICLR 2015 (line); Keskar
        et al., "On Large-Batch Training for Deep Learning", ICLR 2017, section 2.2.1 (line from -1 to 2) and appendix
        (arc).
    """
    if alpha in (0, 1):
        return end if alpha else start
    if kind == "line":
        return (1 - alpha) * start + alpha * end
    return math.cos(alpha * math.pi / 2) * start + math.sin(alpha * math.pi / 2) * end


def places(points: int, reach: tuple[float, float] = (0.0, 1.0)) -> NDArray[np.float64]:
    """Return where to measure: equally spaced over the reach, and both ends."""
    return np.union1d(np.linspace(*reach, points), [0.0, 1.0])


@dataclass(frozen=True)
class Interpolation:
    """Loss and error along paths from where the objective stands (A) to other points (B), and their barriers.

    Attributes:
        ends: (K, P) the other ends, a path each.
        names: What each path is called, such as "as trained" and "aligned".
        kind: line, or the arc of Keskar et al.
        points: Places that are measured, equally spaced; the ends are measured too where they are not among them.
        reach: First and last alpha; barriers look only between 0 and 1.
        refine: Rounds in which the places on both sides of each highest point are halved. A barrier is the highest of
            the measured points, so a lower bound of that of the path.
    """

    ends: Tensor
    names: tuple[str, ...] = ("as trained",)
    kind: Kind = "line"
    points: int = 25
    reach: tuple[float, float] = (0.0, 1.0)
    refine: int = 2

    def __post_init__(self) -> None:
        """Refuse what is no path."""
        require_places(self.kind, self.points, self.reach)
        if self.ends.ndim != 2 or len(self.ends) != len(self.names):
            raise ValueError(f"ends must be (K, P) with {len(self.names)} names, got shape {tuple(self.ends.shape)}.")
        if self.refine < 0:
            raise ValueError(f"refine must be at least 0 rounds, got {self.refine}.")

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Measure the paths.

        Returns:
            loss, accuracy, test_loss, ... over (path, alpha), each under the BatchNorm policy of the objective;
            `barrier` over (path, metric, definition) and `peak` over (path, metric); `distance` and `cosine` of the
            ends over (path,), and `spacing`, the largest distance from a highest point to a place beside it.

        Raises:
            ValueError: If an end is the start itself, so that there is no path, or has another number of parameters.
        """
        _require_apart(self, objective)
        alphas = places(self.points, self.reach)
        answer = self._measured(objective, alphas)
        for _ in range(self.refine):
            more = np.setdiff1d(_beside_the_peaks(with_barriers(answer)), answer["alpha"].values)
            answer = xr.concat([answer, self._measured(objective, more)], "alpha").sortby("alpha")
        answer = with_barriers(answer).assign_attrs(kind=self.kind, formula=FORMULAS[self.kind])
        start = objective.theta
        ends = [end.to(start) for end in self.ends]
        answer["distance"] = ("path", [float((end - start).norm()) for end in ends], {"units": "norm of parameters"})
        answer["cosine"] = ("path", [cosine(start, end) for end in ends], {"units": "1"})
        about = {"units": "1", "long_name": "largest distance from a highest point to the places beside it"}
        answer["spacing"] = ((), max(map(np.ptp, _around_the_peaks(answer)), default=np.nan), about)
        return answer

    def _measured(self, objective: Objective, alphas: NDArray[np.float64]) -> xr.Dataset:
        items = [(number, float(alpha)) for number in range(len(self.ends)) for alpha in alphas]
        found = resumable_map(_measure, Travel(objective, objective.theta, self.ends, self.kind), items)
        shape = (len(self.ends), len(alphas))
        values = {name: np.reshape([each[name] for each in found], shape) for name in found[0]}
        return xr.Dataset(
            {name: (("path", "alpha"), column, _units(name)) for name, column in values.items()},
            {"path": list(self.names), "alpha": ("alpha", alphas, {"units": "1", "long_name": "place on the path"})},
        )


@dataclass(frozen=True)
class Travel:
    """What a worker needs to measure points of paths with one start."""

    objective: Objective
    start: Tensor
    ends: Tensor
    kind: str

    @cached_property
    def evaluator(self) -> Evaluator:
        """What evaluates points in this process."""
        return Evaluator(self.objective)

    def metrics(self, number: int, alpha: float) -> dict[str, float]:
        """Measure one point of one path."""
        there = point(self.kind, self.start, self.ends[number].to(self.start), alpha)
        return {name: float(values[0]) for name, values in self.evaluator.metrics(there[None]).items()}

    def __getstate__(self) -> dict[str, Any]:
        """Send the fields; each process makes an evaluator of its own."""
        return {name: value for name, value in vars(self).items() if name != "evaluator"}


def require_places(kind: str, points: int, reach: tuple[float, float]) -> None:
    """Refuse places that do not make a path.

    Raises:
        ValueError: If the kind is unknown, there are fewer than two points, or the reach does not hold 0 and 1.
    """
    if kind not in FORMULAS:
        raise ValueError(f"kind must be line or arc, got {kind!r}.")
    if points < 2:
        raise ValueError(f"points must be at least 2, the ends of a path, got {points}.")
    if len(reach) != 2 or not (reach[0] <= 0 and reach[1] >= 1 and np.isfinite(reach).all()):
        raise ValueError(f"reach must go from at most 0 to at least 1, as in -1,2, got {reach}.")


def _measure(travel: Travel, item: tuple[int, float]) -> dict[str, float]:
    return travel.metrics(*item)


def _require_apart(probe: Interpolation, objective: Objective) -> None:
    if probe.ends.shape[1] != objective.size:
        raise ValueError(f"ends have {probe.ends.shape[1]} parameters, the objective {objective.size}.")
    for name, end in zip(probe.names, probe.ends, strict=True):
        if torch.equal(end.to(objective.theta), objective.theta):
            raise ValueError(
                f"both ends of the path {name!r} are the same network, bit for bit; give two different runs."
            )


def _beside_the_peaks(answer: xr.Dataset) -> NDArray[np.float64]:
    """Return the places halfway to the neighbours of each highest point between the ends."""
    return np.unique([sum(pair) / 2 for pair in _around_the_peaks(answer)])


def _around_the_peaks(answer: xr.Dataset) -> list[tuple[float, float]]:
    """Pair each highest point between the ends with each of its neighbours there."""
    alphas = answer["alpha"].values
    inside = alphas[(alphas >= 0) & (alphas <= 1)]
    peaks = np.unique(answer["peak"].values)
    numbers = np.searchsorted(inside, peaks[np.isfinite(peaks)]).tolist()
    return [(inside[n], inside[m]) for n in numbers for m in (n - 1, n + 1) if 0 <= m < len(inside)]


def _units(name: str) -> dict[str, str]:
    return {"units": "nats" if name.endswith("loss") else "1"}
