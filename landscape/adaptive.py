"""Values on a grid from as few of its points as a stated error allows.

A polyharmonic spline goes through every point that has been computed: a coarse grid first, then points where splines of
several kinds disagree, until they agree; then points drawn at random are predicted, computed and compared. Only if this
held-out error is within the tolerance is the rest of the grid left to the spline. Where nothing helps, the whole grid
is computed, so that it always ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator
from scipy.spatial import cKDTree
from scipy.stats import beta

from landscape.execution import recalled

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Values = dict[str, Floats]

_COARSE = {2: 9, 3: 6}  # points along each axis of the first grid, by the number of axes
_ROUND = 40  # points that are added where the splines disagree
HELD_OUT = 59  # random points of one test: if none is off, with 95% confidence at most 5% of all are: 0.95^59 < 0.05
_MOST = 0.6  # share of the grid beyond which the rest is computed as well
_CANDIDATES = 1500  # points of a large grid that are looked at in one round
GLOBAL = 300  # computed points up to which one spline goes through all; a cliff far away would make it ring
NEIGHBOURS = 60  # computed points that a local spline goes through
_FLOOR = 1e-9  # of the range of a loss: errors of smaller values are taken relative to this


@dataclass(frozen=True)
class Sampled:
    """Values on a whole grid, and how they came about. All arrays run over the N points of the grid, flat.

    Attributes:
        values: (N,) by name: computed where `computed`, interpolated elsewhere.
        computed: (N,) whether a point was computed.
        held_out: (H,) indices of the random points on which the error was measured.
        predicted: (H,) by name: what the spline said of them before they were computed.
        error_p95: 95th percentile of the relative error of the losses at the held-out points.
        error_max: Largest error there, as a share of the range of the loss.
        rounds: How many sets of points were computed one after the other.
        is_full: Whether every point was computed.
    """

    values: Values
    computed: NDArray[np.bool_]
    held_out: Indices
    predicted: Values
    error_p95: float
    error_max: float
    rounds: int
    is_full: bool


@dataclass
class _Samples:
    """What has been computed so far."""

    lattice: Floats  # (N, D) coordinates of the grid points, each axis from 0 to 1
    computed: NDArray[np.bool_]  # (N,)
    values: Values = field(default_factory=dict)  # (N,) each, NaN where not computed
    rounds: int = 0

    @classmethod
    def of(cls, shape: Sequence[int]) -> _Samples:
        axes = [np.linspace(0.0, 1.0, number) for number in shape]
        lattice = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
        return cls(lattice, np.zeros(len(lattice), dtype=bool))

    def compute(self, chosen: Indices, evaluate: Callable[[Indices], Values]) -> None:
        for name, values in evaluate(chosen).items():
            self.values.setdefault(name, np.full(len(self.lattice), np.nan))[chosen] = values
        self.computed[chosen] = True
        self.rounds += 1

    def without(self, chosen: Indices) -> _Samples:
        """What had been computed before some points were."""
        computed = self.computed.copy()
        computed[chosen] = False
        return replace(self, computed=computed)

    @property
    def losses(self) -> list[str]:
        return [name for name in self.values if name.endswith("loss")]

    def predictions(self, name: str, at: Indices) -> list[Floats]:
        """What splines of different kinds make of a metric at some grid points, (M,) each, the best first."""
        known = self.computed & np.isfinite(self.values[name])
        nodes, values, where = self.lattice[known], self.values[name][known], self.lattice[at]
        if not name.endswith("loss"):
            return [np.clip(_spline(nodes, values, where, "cubic", 2), values.min(), values.max())]
        smooth, stiff = ("quintic", 3), ("cubic", 2)
        if values.min() > 0:  # a loss that is always positive is smoother in its logarithm
            logs = np.log(values)
            low, high = logs.min() - np.ptp(logs), logs.max() + np.ptp(logs)
            made = [np.exp(np.clip(_spline(nodes, logs, where, *kind), low, high)) for kind in (smooth, stiff)]
        else:
            made = [_spline(nodes, values, where, *stiff)]
        return [*made, _spline(nodes, values, where, *smooth)]

    @property
    def broken(self) -> NDArray[np.bool_]:
        """(N,) the computed points at which some loss is not finite."""
        found = np.zeros(len(self.lattice), dtype=bool)
        for name in self.losses:
            found |= self.computed & ~np.isfinite(self.values[name])
        return found

    def nonfinite(self, at: Indices) -> NDArray[np.bool_]:
        """(M,) which of some grid points are taken to be not finite: those whose nearest computed point is not."""
        broken = self.broken
        if not broken.any():
            return np.zeros(len(at), dtype=bool)
        nearest = cKDTree(self.lattice[self.computed]).query(self.lattice[at])[1]
        return broken[self.computed][nearest]

    def near_an_edge(self, at: Indices) -> NDArray[np.bool_]:
        """(M,) which of some points lie about as near to a finite as to a non-finite one, so that neither says."""
        broken = self.broken
        kinds = (broken, self.computed & ~broken)
        if not all(kind.any() for kind in kinds):
            return np.zeros(len(at), dtype=bool)
        distances = np.stack([cKDTree(self.lattice[kind]).query(self.lattice[at])[0] for kind in kinds])
        return distances.max(axis=0) < 2 * distances.min(axis=0)


def sample(
    shape: Sequence[int],
    evaluate: Callable[[Indices], Values],
    tolerance: float,
    seed: int = 0,
) -> Sampled:
    """Compute as many points of a grid as are needed to know all of them.

    Points drawn at random among those not computed are predicted and computed, and join the spline where it was wrong.
    It stops when the latest of these held-out points show, with 95% confidence, that at most one point in twenty is off
    by more than `tolerance` relative to its true loss (none of 59 was, or one of 93, ...), and none was off by more
    than `tolerance` times the range of the loss. Where more than 0.6 of the points would be needed, all are computed.

    A point that is not finite is compared by being so; points between a finite and a non-finite region are computed.
    A test is repeated until it is passed, so the confidence is that of one test; and the largest error is that at the
    held-out points, beyond which a narrow feature may be off by more.
    What is narrower than the coarse grid (9 points an axis, 6 in 3D) and than the gaps between the random points can be
    missed, as by any sampling.

    Args:
        shape: Points along each of two or three axes.
        evaluate: From flat indices (M,) of grid points to the values (M,) of each metric; those whose name ends in
            ``loss`` decide.
        tolerance: The allowed error, as a share, above 0.
        seed: Of the random draws.

    Returns:
        The values on the whole grid. Metrics that are no losses are interpolated without a tolerance.

    References:
        Polyharmonic splines: Duchon, "Splines minimizing rotation-invariant semi-norms in Sobolev spaces", 1977. Points
        where models disagree: Seung, Opper & Sompolinsky, "Query by committee", COLT 1992.
    """
    generator = np.random.default_rng(seed)
    samples = _Samples.of(shape)
    samples.compute(_coarse(shape), evaluate)
    tests: list[_Test] = []
    just_failed = False
    while True:
        todo = np.flatnonzero(~samples.computed)
        if len(todo) <= max(HELD_OUT, (1 - _MOST) * samples.computed.size) or not _can_interpolate(samples):
            return _whole(samples, evaluate)
        looked_at = generator.permutation(todo)[:_CANDIDATES]
        looked_at = np.concatenate([looked_at, np.setdiff1d(todo[samples.near_an_edge(todo)], looked_at)])
        predicted, doubt = _predicted(samples, looked_at)
        doubtful = _doubtful(samples, looked_at, doubt, tolerance, must_add=just_failed)
        if just_failed := not len(doubtful):
            drawn, said = looked_at[:HELD_OUT], {name: values[:HELD_OUT] for name, values in predicted.items()}
            samples.compute(drawn, evaluate)
            tests.append(_Test(drawn, said, *_errors(samples, said, drawn)))
            if passed := _passed(tests, tolerance):
                return _finished(samples, passed)
        else:
            samples.compute(doubtful, evaluate)


def _coarse(shape: Sequence[int]) -> Indices:
    """Flat indices of a coarse grid with both ends of every axis."""
    most = _COARSE[len(shape)]
    axes = [np.unique(np.round(np.linspace(0, number - 1, min(most, number))).astype(int)) for number in shape]
    return np.ravel_multi_index(np.meshgrid(*axes, indexing="ij"), tuple(shape)).ravel()


def _can_interpolate(samples: _Samples) -> bool:
    """Whether enough finite points, spread over every axis, are there for a spline of third degree."""
    for name in samples.losses:
        nodes = samples.lattice[samples.computed & np.isfinite(samples.values[name])]
        if len(nodes) < 25 or min(len(np.unique(nodes[:, axis])) for axis in range(nodes.shape[1])) < 5:
            return False
    return True


def _predicted(samples: _Samples, at: Indices) -> tuple[Values, Floats]:
    """What the best spline says at some points, (M,) by name, and how far others differ, (M,), relative to it."""
    nonfinite, doubt = samples.nonfinite(at), np.zeros(len(at))
    predicted: Values = {}
    for name in samples.values:
        best, *others = samples.predictions(name, at)
        predicted[name] = np.where(nonfinite, np.nan, best)
        if others:
            scale = np.maximum(np.abs(best), _floor(samples.values[name]))
            doubt = np.maximum(doubt, np.max([np.abs(other - best) / scale for other in others], axis=0))
    doubt[nonfinite] = 0.0
    doubt[samples.near_an_edge(at)] = np.inf
    return predicted, doubt


def _doubtful(samples: _Samples, at: Indices, doubt: Floats, tolerance: float, must_add: bool) -> Indices:
    """Points where the splines should not be believed yet; none where they agree.

    After a test that failed, points are added even so: where the splines differ most they help more than random ones.
    The choice is kept in the journal, so that a resumed surface goes on with the same points whatever the last bits of
    a linear solver.
    """
    at_an_edge = bool(np.isinf(doubt).any())
    is_settled = (doubt > tolerance).mean() <= 0.05 and not at_an_edge and not must_add

    def choose() -> dict[str, Indices]:
        return {"points": np.empty(0, dtype=np.int64) if is_settled else _spread(samples, at, doubt)}

    known = np.flatnonzero(samples.computed).tobytes()
    return np.asarray(recalled("round", known, choose)["points"], dtype=np.int64)


def _spread(samples: _Samples, at: Indices, doubt: Floats) -> Indices:
    """Choose points of great doubt that do not crowd: each lowers the doubt around it by its distance to others."""
    where, left = samples.lattice[at], doubt.copy()
    edge = np.isinf(left)
    left[edge] = 2 * max(left[~edge].max(initial=0.0), 1.0)
    reach = cKDTree(samples.lattice[samples.computed]).query(where)[0]
    chosen: list[int] = []
    while len(chosen) < _ROUND and left.max() > 0:
        point = int(np.argmax(left))
        chosen.append(point)
        distance = np.linalg.norm(where - where[point], axis=1)
        left = left * -np.expm1(-((distance / reach[point]) ** 2))
        left[point] = 0.0
    return at[chosen]


@dataclass(frozen=True)
class _Test:
    """What was predicted of random points, and how far it was off."""

    drawn: Indices  # (H,)
    predicted: Values  # (H,) by name
    relative: Floats  # (H,) largest over the losses
    shares: Floats  # (H,) of the range of the loss


def _errors(samples: _Samples, predicted: Values, drawn: Indices) -> tuple[Floats, Floats]:
    """Errors (H,) at the drawn points, the largest over the losses: relative ones, and as shares of the range."""
    relative, shares = np.zeros(len(drawn)), np.zeros(len(drawn))
    for name in samples.losses:
        true, said = samples.values[name][drawn], predicted[name]
        both, neither = np.isfinite(true) & np.isfinite(said), ~np.isfinite(true) & ~np.isfinite(said)
        error = np.full(len(drawn), np.inf)
        error[neither] = 0.0
        error[both] = np.abs(said[both] - true[both])
        scale = np.where(both, np.maximum(np.abs(true), _floor(samples.values[name])), 1.0)
        known = samples.values[name][np.isfinite(samples.values[name])]
        relative = np.maximum(relative, error / scale)
        shares = np.maximum(shares, error / (np.ptp(known) or 1.0))
    return relative, shares


def _passed(tests: Sequence[_Test], tolerance: float) -> Sequence[_Test]:
    """The latest tests that together show, with 95% confidence, that one point in twenty is off at most.

    Earlier tests of them were made with fewer points, when the spline was not better than it is now.
    """
    number = off = 0
    for first in reversed(range(len(tests))):
        number += len(tests[first].drawn)
        off += int((tests[first].relative > tolerance).sum())
        if (tests[first].shares > tolerance).any():
            return []
        if beta.ppf(0.95, off + 1, number - off) <= 0.05:  # Clopper and Pearson's upper bound
            return tests[first:]
    return []


def _floor(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return max(_FLOOR * float(np.ptp(finite)), float(np.finfo(np.float64).tiny))


def _finished(samples: _Samples, passed: Sequence[_Test]) -> Sampled:
    """Fill in the rest by the spline that was tested last, not by one through the held-out points, which was not."""
    rest = np.flatnonzero(~samples.computed)
    values = {name: known.copy() for name, known in samples.values.items()}
    for name, predicted in _predicted(samples.without(passed[-1].drawn), rest)[0].items():
        values[name][rest] = predicted
    said = {name: np.concatenate([test.predicted[name] for test in passed]) for name in values}
    relative = np.concatenate([test.relative for test in passed])
    return Sampled(
        values=values,
        computed=samples.computed,
        held_out=np.concatenate([test.drawn for test in passed]),
        predicted=said,
        error_p95=float(np.quantile(relative, 0.95, method="higher")),
        error_max=float(max(test.shares.max() for test in passed)),
        rounds=samples.rounds,
        is_full=False,
    )


def _whole(samples: _Samples, evaluate: Callable[[Indices], Values]) -> Sampled:
    """Compute what is left, so that nothing is interpolated and there is no error."""
    samples.compute(np.flatnonzero(~samples.computed), evaluate)
    none = np.empty(0, dtype=np.int64)
    return Sampled(samples.values, samples.computed, none, {}, 0.0, 0.0, samples.rounds, is_full=True)


def _spline(nodes: Floats, values: Floats, at: Floats, kernel: str, degree: int) -> Floats:
    neighbours = None if len(nodes) <= GLOBAL else NEIGHBOURS
    return np.asarray(RBFInterpolator(nodes, values, kernel=kernel, degree=degree, neighbors=neighbours)(at))
