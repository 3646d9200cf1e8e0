"""Both ends of the Hessian's spectrum over a plane: where the loss is convex, and where it only looks so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from landscape.directions import Directions, coordinates, cosine, directions_for, step_ratio
from landscape.eigen import eigenpairs
from landscape.execution import quiet_progress, resumable_map
from landscape.grids import axis, require_axes, require_directions
from landscape.lanczos import NotFiniteError
from landscape.objective import Objective
from landscape.operators import Hessian
from landscape.verdict import product_error

_AXES = ("alpha", "beta")
_MOST_POINTS = 10_000  # each is a whole eigenvalue problem
_ENDS = ("largest", "smallest")


@dataclass(frozen=True)
class CurvatureSurface:
    """Largest and smallest Hessian eigenvalue at every point of a coarse plane, each with its residual.

    A surface of the loss shows the curvature within its plane alone, which averages over many dimensions and hides what
    is negative in a few. This is the whole Hessian at each point theta + alpha d1 + beta d2.

    Attributes:
        directions: filter, layer, weight, gaussian, hessian, hessian-ends, or a Directions object.
        resolution: Points along each axis, n or (n_alpha, n_beta); odd numbers put one on the checkpoint.
        radius: The axes run from center - radius to center + radius, r or (r_alpha, r_beta).
        center: Middle of the axes, c or (c_alpha, c_beta).
        seed: Seed of the random directions, and of the random start of each eigenvalue problem.
        one_dimensional: What biases and normalization scales do in a random direction: zero or copy.
        tol: Residuals are driven below tol times the largest eigenvalue magnitude at the point.
        max_matvecs: Budget of Hessian products at each point, at least 2; None for 340.

    References:
        Li et al., "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018, section 6 and figure 7.
    """

    directions: str | Directions = "filter"
    resolution: int | tuple[int, int] = 11
    radius: float | tuple[float, float] = 1.0
    center: float | tuple[float, float] = 0.0
    seed: int = 0
    one_dimensional: str = "zero"
    tol: float = 1e-2
    max_matvecs: int | None = None

    def __post_init__(self) -> None:
        resolution, radius, center = map(_both, (self.resolution, self.radius, self.center))
        _check(self, resolution, radius, center)
        for name, value in (
            ("resolution", resolution),
            ("radius", tuple(map(float, radius))),
            ("center", tuple(map(float, center))),
            ("tol", float(self.tol)),
        ):
            object.__setattr__(self, name, value)  # in one form, so that equal questions have equal answers

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Solve the eigenvalue problem of every point.

        Returns:
            Over (alpha, beta): largest_eigenvalue and smallest_eigenvalue (algebraically), with largest_residual and
            smallest_residual (an eigenvalue lies within that of the value given), largest_converged,
            smallest_converged; none_above and none_below (no further eigenvalue there with probability 99%);
            eigenvalue_ratio = |smallest / largest|, the number of Li's map, with eigenvalue_ratio_error; tolerance
            (below which the sign of an eigenvalue means nothing); num_matvecs; loss; done. Where the loss or a Hessian
            product is not finite the eigenvalues are NaN. Scalars: `negative_curvature_share`, the share of the other
            points where the smallest eigenvalue lies below -(tolerance + residual), which proves negative curvature;
            `num_unconverged` points; `center_loss`; `cosine` and `step_ratio_alpha`, `step_ratio_beta` of the axes.
            For directions with a path its coordinates, trajectory_alpha and trajectory_beta.

        Raises:
            ValueError: If the loss at the checkpoint is not finite, or the directions do not fit the objective.
        """
        center = objective.loss().item()
        if not math.isfinite(center):
            raise ValueError(
                f"the loss at the checkpoint is {center}, so there is no landscape around it; "
                "measure a checkpoint from before the training diverged."
            )
        made = directions_for(self.directions, objective, 2, self.seed, self.one_dimensional)
        resolution, radius, middle = _both(self.resolution), _both(self.radius), _both(self.center)
        axes = [axis(*values) for values in zip(resolution, radius, middle, strict=True)]
        plane = _Plane(objective, made.vectors, self.tol, self.seed, self.max_matvecs)
        points = resumable_map(_measure, plane, list(product(*axes)))
        answer = _laid_out(points, axes, made.labels)
        answer["center_loss"] = ((), center, {"units": "nats", "long_name": "mean loss of the checkpoint"})
        answer["cosine"] = ((), cosine(*made.vectors), {"units": "1", "long_name": "cosine between the axes"})
        for name, direction in zip(_AXES, made.vectors, strict=True):
            ratio = step_ratio(direction, objective.theta, objective.layout)
            about = {"units": "1", "long_name": "norm of the direction relative to that of the filters"}
            answer[f"step_ratio_{name}"] = ((), ratio, about)
        answer.attrs["directions"] = made.kind
        if objective.normalization == "recalibrated":
            answer.attrs["derivatives"] = "with the recalibrated BatchNorm statistics held fixed"
        return _with_shares(_with_path(answer, made, objective))


@dataclass(frozen=True)
class _Plane:
    """What all points share."""

    objective: Objective
    vectors: Tensor  # (2, P)
    tol: float
    seed: int
    max_matvecs: int | None


_ABOUT = {
    "loss": {"units": "nats", "long_name": "mean loss"},
    "largest_eigenvalue": {"units": "nats", "long_name": "largest Hessian eigenvalue"},
    "smallest_eigenvalue": {"units": "nats", "long_name": "smallest Hessian eigenvalue"},
    "largest_residual": {"units": "nats", "long_name": "||H v - lambda v||"},
    "smallest_residual": {"units": "nats", "long_name": "||H v - lambda v||"},
    "largest_converged": {"long_name": "residual within tol of the largest magnitude"},
    "smallest_converged": {"long_name": "residual within tol of the largest magnitude"},
    "none_above": {"units": "nats", "long_name": "no further eigenvalue above, probability 99%"},
    "none_below": {"units": "nats", "long_name": "no further eigenvalue below, probability 99%"},
    "tolerance": {"units": "nats", "long_name": "rounding error of eigenvalues"},
    "num_matvecs": {"long_name": "Hessian products spent"},
}


def _measure(plane: _Plane, place: tuple[float, float]) -> dict[str, float]:
    """Loss and eigenvalues at one point; NaN where they do not exist."""
    objective, theta = plane.objective, plane.objective.theta
    for coordinate, direction in zip(place, plane.vectors, strict=True):
        theta = theta + coordinate * direction
    found = {name: math.nan for name in _ABOUT} | {"loss": objective.loss(theta).item(), "num_matvecs": 0.0}
    found |= {f"{end}_converged": 0.0 for end in _ENDS}
    if not math.isfinite(found["loss"]):
        return found
    try:
        with quiet_progress():
            pairs = eigenpairs(Hessian(objective, theta), 2, "both", plane.tol, plane.seed, plane.max_matvecs)
    except NotFiniteError:
        return found
    for number, end in enumerate(_ENDS):
        found[f"{end}_eigenvalue"] = pairs.values[number].item()
        found[f"{end}_residual"] = pairs.residuals[number].item()
        found[f"{end}_converged"] = float(pairs.converged[number])
    return found | {
        "none_above": pairs.none_above,
        "none_below": pairs.none_below,
        "tolerance": product_error(objective) * pairs.scale,
        "num_matvecs": float(pairs.num_matvecs),
    }


def _laid_out(
    points: Sequence[dict[str, float]], axes: Sequence[NDArray[np.float64]], labels: Sequence[str]
) -> xr.Dataset:
    """Put the points, which come with beta fastest, on the plane."""
    answer = xr.Dataset()
    for name, values, label in zip(_AXES, axes, labels, strict=True):
        answer = answer.assign_coords(
            {name: (name, values, {"units": "multiples of the direction", "long_name": label})}
        )
    shape = tuple(map(len, axes))
    for name, about in _ABOUT.items():
        kind = np.bool_ if name.endswith("converged") else np.int64 if name == "num_matvecs" else np.float64
        column = np.array([point[name] for point in points], dtype=np.float64).astype(kind)
        answer[name] = (_AXES, column.reshape(shape), about)
    answer["done"] = (_AXES, np.ones(shape, dtype=bool))
    return answer


def _with_path(answer: xr.Dataset, plane: Directions, objective: Objective) -> xr.Dataset:
    """Add where the points of a trajectory lie on the plane."""
    if plane.path is None:
        return answer
    inside, _ = coordinates(plane.path.to(objective.theta), objective.theta, plane.vectors)
    answer = answer.assign_coords(snapshot_step=("snapshot", list(plane.path_steps)))
    for number, name in enumerate(_AXES):
        answer[f"trajectory_{name}"] = ("snapshot", inside[:, number].cpu().numpy())
    return answer


def _with_shares(answer: xr.Dataset) -> xr.Dataset:
    """Add the ratio of the ends with its error, and how many points are what."""
    largest, smallest = answer["largest_eigenvalue"], answer["smallest_eigenvalue"]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = abs(smallest / largest)
        # The ratio moves by |ds / largest| and |ratio dl / largest|, to first order.
        error = (answer["smallest_residual"] + ratio * answer["largest_residual"]) / abs(largest)
    answer["eigenvalue_ratio"] = ratio.assign_attrs(units="1", long_name="|smallest / largest Hessian eigenvalue|")
    answer["eigenvalue_ratio_error"] = error.assign_attrs(units="1", long_name="by the residuals, to first order")
    known = np.isfinite(smallest)
    proved = smallest + answer["smallest_residual"] < -answer["tolerance"]
    share = float(proved.sum() / known.sum()) if known.any() else math.nan
    about = "share of the points with a negative eigenvalue beyond its residual and rounding"
    answer["negative_curvature_share"] = ((), share, {"units": "1", "long_name": about})
    converged = answer["largest_converged"] & answer["smallest_converged"]
    about = "points whose eigenvalues have not converged"
    answer["num_unconverged"] = ((), int((known & ~converged).sum()), {"long_name": about})
    return answer.assign_attrs(num_points=int(known.size), num_non_finite=int((~known).sum()))


def _both(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value, value)


def _check(probe: CurvatureSurface, resolution: Sequence[Any], radius: Sequence[Any], center: Sequence[Any]) -> None:
    require_directions(probe.directions, probe.one_dimensional)
    require_axes(resolution, radius, center, counts=(2,), can_be_auto=False)
    if math.prod(resolution) > _MOST_POINTS:
        raise ValueError(
            f"a grid of {math.prod(resolution):,} points is as many eigenvalue problems; at most {_MOST_POINTS:,} are "
            "solved in one answer, so lower resolution."
        )
    if not 0 < probe.tol < 1:
        raise ValueError(f"tol must lie between 0 and 1, got {probe.tol}.")
    if probe.max_matvecs is not None and probe.max_matvecs < 2:
        raise ValueError(f"max_matvecs must be at least 2, got {probe.max_matvecs}.")
    if probe.seed < 0:
        raise ValueError(f"seed must be at least 0, got {probe.seed}.")
