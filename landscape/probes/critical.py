"""Whether a point is critical, of which index, and where the loss falls from it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, nan, sqrt

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from landscape.critical.index import Index, index_of, smallest
from landscape.critical.search import METHODS, POLISHING, CriticalPointSearch, find_critical_point
from landscape.eigen import Eigenpairs, eigenpairs
from landscape.execution import recalled, resumable_map
from landscape.fields import settle
from landscape.objective import Objective
from landscape.operators import Hessian, LinearOperator, Resumable
from landscape.verdict import Nearness, judge, product_error

# Modules whose second derivative does not exist everywhere.
_KINKED = ("ReLU", "ReLU6", "LeakyReLU", "PReLU", "RReLU", "Hardtanh", "Hardswish", "Hardsigmoid", "Threshold")
_KINKED_IN = ("MaxPool", "AdaptiveMaxPool", "FractionalMaxPool")


@dataclass(frozen=True)
class CriticalPoint:
    """Whether the weights are a critical point, its index with an interval, and the loss along the way out.

    Attributes:
        search: First minimise the gradient norm from the weights, and judge where that ends: none, newton-mr or
            levenberg. Such searches mostly end at gradient-flat points, which the answer says.
        displacement: Start the search so far from the weights, in multiples of their norm, in a random direction.
        max_iterations: Steps of the search at most.
        gradient_tol: Critical is a point only if a critical point may be so near, in lengths of theta. The distance
            is at least ||g||^2 / ||Hg||.
        k: Eigenvalues at each end.
        tol: Residuals of eigenvalues are driven below tol times the largest magnitude.
        threshold: Eigenvalues below threshold times the largest magnitude count as zero; so do those that rounding, or
            the distance to the critical point, may have made of zero. Many eigenvalues of a large network lie near
            zero; 0.01 leaves them out and gives its index a narrow interval.
        dense_below: Up to so many parameters every eigenvalue is computed, and the index is exact. With more, a minimum
            near zero curvature is undecided: what may have been missed reaches below zero.
        density_steps: Lanczos steps a probe, where the index takes a spectral density.
        density_probes: Random vectors of that density.
        resolution: Points of the slice along the direction of smallest curvature.
        seed: Of every random vector.
        max_matvecs: Budget of Hessian products for the eigenvalues, at least 2 k; None for 40 k + 300.

    References:
        Dauphin et al., NeurIPS 2014; Frye et al., "Critical Point-Finding Methods Reveal Gradient-Flat Regions of
        Deep Network Losses", Neural Computation 2021.
    """

    search: str = "none"
    displacement: float = 0.0
    max_iterations: int = 100
    gradient_tol: float = 1e-6
    k: int = 10
    tol: float = 1e-3
    threshold: float = 0.0
    dense_below: int = 500
    density_steps: int = 80
    density_probes: int = 10
    resolution: int = 41
    seed: int = 0
    max_matvecs: int | None = None

    def __post_init__(self) -> None:
        if self.search not in ("none", *METHODS):
            raise ValueError(f"search must be none, {' or '.join(METHODS)}, got {self.search!r}.")
        if not (self.displacement >= 0 and isfinite(self.displacement)):
            raise ValueError(f"displacement must be at least 0 and finite, got {self.displacement}.")
        if self.displacement and self.search == "none":
            raise ValueError("a displacement is the start of a search; choose search as well, such as newton-mr.")
        for name in ("gradient_tol", "tol"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}.")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold must be at least 0 and below 1, got {self.threshold}.")
        for name in ("k", "max_iterations", "density_steps", "density_probes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.dense_below < 0 or self.resolution < 3 or self.seed < 0:
            raise ValueError(
                "dense_below and seed must be at least 0 and resolution at least 3, got "
                f"{self.dense_below}, {self.seed} and {self.resolution}."
            )
        if self.max_matvecs is not None and self.max_matvecs < 2 * self.k:
            raise ValueError(f"max_matvecs must be at least 2 k = {2 * self.k}, got {self.max_matvecs}.")
        settle(self)

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Judge the point.

        Returns:
            eigenvalue, residual, converged over (end, rank); none_above and none_below, beyond which there is no
            further eigenvalue with probability 99%; tolerance, the tau within which curvature counts as zero;
            negative_count, of eigenvalues below -tau, with its interval (_lower, _upper) and certified
            least number, index_fraction with its interval; gradient_norm, gradient_flatness ||Hg|| / (||H|| ||g||) and
            critical_distance; loss, accuracy, ... and quadratic_loss over (alpha), along escape_direction (parameter),
            which runs from the point to alpha = 1 and falls at first where there is a slope; predicted_decrease (NaN
            without negative curvature) and measured_decrease of the loss at alpha = 1, best_decrease of the whole line
            both ways, NaN where no loss is finite; center_loss etc. at the point; num_matvecs. After a search also
            theta (parameter),
            moved, start_loss, and search_gradient_norm and search_loss over (iteration). Attributes `verdict`
            (minimum, saddle, maximum, undecided or not a critical point), `verdict_reason`, `counted_by`, `point` and,
            after a search, `search_outcome`.

        Raises:
            ValueError: If k exceeds the number of parameters, or the loss or its gradient is not finite.
            RuntimeError: If a Hessian product is not finite.
        """
        if self.k > objective.size:
            raise ValueError(f"k must lie between 1 and the number of parameters {objective.size}, got {self.k}.")
        _require_finite(objective)
        found = self._searched(objective)
        theta = objective.theta if found is None else found.theta
        answer = self._judged(objective, theta)
        if found is not None:
            answer = _with_search(answer, found, objective, self.max_iterations)
        answer.attrs["point"] = "checkpoint" if found is None else f"found by {self.search}"
        if kinds := _kinked(objective):
            answer.attrs["smoothness"] = (
                f"{', '.join(kinds)}: not twice differentiable everywhere, so the loss may leave its quadratic model "
                "at once"
            )
        if objective.normalization == "recalibrated":
            answer.attrs["derivatives"] = "with the recalibrated BatchNorm statistics held fixed"
        return answer

    def _searched(self, objective: Objective) -> CriticalPointSearch | None:
        if self.search == "none":
            return None
        start = objective.theta
        if self.displacement:
            generator = torch.Generator().manual_seed(self.seed)
            ray = torch.randn(objective.size, generator=generator, dtype=torch.float64).to(start.device)
            start = (start + self.displacement * start.double().norm() * ray / ray.norm()).to(start.dtype)
        return find_critical_point(
            objective, start, self.search, self.gradient_tol, self.max_iterations, seed=self.seed
        )

    def _judged(self, objective: Objective, theta: Tensor) -> xr.Dataset:
        hessian = Resumable(Hessian(objective, theta))
        gradient = _gradient(objective, theta)
        product = hessian.matvec(gradient).double().norm().item()
        pairs = self._pairs(hessian)
        length = max(theta.double().norm().item(), objective.theta.double().norm().item())
        near = Nearness.of(
            gradient.double().norm().item(), product, pairs.scale, length, torch.finfo(objective.dtype).eps
        )
        # A critical point so near may have this curvature changed by about ||H|| in a length of theta.
        inexact = near.distance if near.distance <= self.gradient_tol else 0.0
        tolerance = max(product_error(objective), self.threshold, inexact) * pairs.scale
        index, more = self._index(hessian, pairs, tolerance)
        answer = _spectrum(pairs, self.k)
        beyond = "no further eigenvalue {}, probability 99%"
        answer["none_above"] = ((), pairs.none_above, {"long_name": beyond.format("above")})
        answer["none_below"] = ((), pairs.none_below, {"long_name": beyond.format("below")})
        answer["tolerance"] = ((), tolerance, {"long_name": "tau: curvature between -tau and tau counts as zero"})
        answer = answer.assign(_counted(index, objective.size))
        answer["gradient_norm"] = near.gradient_norm
        answer["gradient_flatness"] = ((), near.flatness, {"long_name": "||Hg|| / (||H|| ||g||)"})
        answer["critical_distance"] = (
            (),
            near.distance,
            {"units": "lengths of theta", "long_name": "least distance to a critical point, ||g||^2 / ||Hg||"},
        )
        answer["num_matvecs"] = 1 + pairs.num_matvecs + more
        verdict, reason = near.judge(self.gradient_tol) or judge(answer)
        answer.attrs.update(verdict=verdict, verdict_reason=reason, counted_by=index.counted_by)
        return _with_slice(answer, objective, theta, gradient, pairs, self.resolution)

    def _pairs(self, hessian: LinearOperator) -> Eigenpairs:
        if hessian.size <= max(self.dense_below, 2 * self.k):
            return eigenpairs(hessian, hessian.size, "largest", self.tol, self.seed)
        return eigenpairs(hessian, 2 * self.k, "both", self.tol, self.seed, self.max_matvecs)

    def _index(self, hessian: LinearOperator, pairs: Eigenpairs, tau: float) -> tuple[Index, int]:
        """The index, and the products it took beyond the pairs."""
        known = pairs if len(pairs.values) == hessian.size else smallest(pairs, self.k)
        index = index_of(known, hessian.size, tau)
        if index is not None:
            return index, 0
        from landscape.density import spectral_density

        density = spectral_density(hessian, steps=self.density_steps, num_probes=self.density_probes, seed=self.seed)
        index = index_of(known, hessian.size, tau, density)
        assert index is not None
        return index, density.num_matvecs


def _require_finite(objective: Objective) -> None:
    loss = objective.loss().item()
    if not isfinite(loss):
        raise ValueError(
            f"the loss at the checkpoint is {loss}, so there is no landscape around it; "
            "measure a checkpoint from before the training diverged."
        )


def _gradient(objective: Objective, theta: Tensor) -> Tensor:
    plain = theta.detach().cpu().contiguous().numpy()
    piece = recalled("gradient", plain.tobytes(), lambda: {"g": objective.gradient(theta).cpu().numpy()})
    gradient = torch.from_numpy(piece["g"]).to(theta)
    if not gradient.isfinite().all():
        raise ValueError("the gradient of the loss is not finite here; compute in float64, or at another point.")
    return gradient


def _spectrum(pairs: Eigenpairs, k: int) -> xr.Dataset:
    rows = [pairs.values.numpy(), pairs.residuals.numpy(), pairs.converged.numpy()]
    value, residual, converged = (np.stack([row[:k], row[::-1][:k]]) for row in rows)
    dims = ("end", "rank")
    return xr.Dataset(
        {
            "eigenvalue": (dims, value, {"long_name": "Hessian eigenvalue"}),
            "residual": (dims, residual, {"long_name": "||H v - lambda v||"}),
            "converged": (dims, converged),
        },
        coords={"end": ["largest", "smallest"], "rank": np.arange(k)},
    )


def _counted(index: Index, size: int) -> dict[str, xr.DataArray]:
    def named(value: float, words: str) -> xr.DataArray:
        return xr.DataArray(value, attrs={"long_name": words})

    low, high = map(float, index.interval)
    return {
        "negative_count": named(float(index.estimate), "number of eigenvalues below -tau"),
        "negative_count_lower": named(low, "lower end of its interval"),
        "negative_count_upper": named(high, "upper end of its interval"),
        "negative_count_certified": named(index.certified, "certified least number of eigenvalues below -tau"),
        "index_fraction": named(index.estimate / size, "share of eigenvalues below -tau"),
        "index_fraction_lower": named(low / size, "lower end of its interval"),
        "index_fraction_upper": named(high / size, "upper end of its interval"),
    }


@dataclass(frozen=True)
class _Line:
    """Points theta + alpha direction."""

    objective: Objective
    theta: Tensor
    direction: Tensor


def _measure(line: _Line, alpha: float) -> dict[str, float]:
    return line.objective.metrics(line.theta + alpha * line.direction)


def _with_slice(
    answer: xr.Dataset, objective: Objective, theta: Tensor, gradient: Tensor, pairs: Eigenpairs, resolution: int
) -> xr.Dataset:
    """Add the loss along the direction of smallest curvature, both ways, beside its quadratic model."""
    center = objective.metrics(theta)
    curvature, residual = pairs.values[-1].item(), pairs.residuals[-1].item()
    unit = pairs.vectors[:, -1].to(theta)
    slope = (gradient.double() @ unit.double()).item()
    if slope > product_error(objective) * gradient.double().norm().item():
        unit, slope = -unit, -slope  # so that the loss falls at first where alpha > 0
    reach = _reach(center["loss"], curvature, pairs.scale, theta.double().norm().item())
    half = (resolution - 1) / 2
    alpha = (np.arange(resolution) - half) / half
    points = resumable_map(_measure, _Line(objective, theta, reach * unit), alpha.tolist())
    answer = answer.assign_coords(
        alpha=("alpha", alpha, {"units": "multiples of the direction", "long_name": "direction of smallest curvature"})
    )
    for name in center:
        attrs = {"units": "nats" if name.endswith("loss") else "1"}
        answer[name] = ("alpha", np.array([point[name] for point in points], dtype=np.float64), attrs)
        answer[f"center_{name}"] = ((), center[name], attrs)
    quadratic = center["loss"] + slope * reach * alpha + curvature * (reach * alpha) ** 2 / 2
    answer["quadratic_loss"] = ("alpha", quadratic, {"units": "nats", "long_name": "loss of the quadratic model"})
    answer["done"] = ("alpha", np.ones(resolution, dtype=bool))
    decrease = center["loss"] - answer["loss"].values
    decrease[~np.isfinite(decrease)] = nan
    is_negative = curvature + residual < -float(answer["tolerance"])
    for name, value, words in (
        (
            "predicted_decrease",
            center["loss"] - quadratic[-1] if is_negative else nan,
            "of the quadratic model, at alpha = 1",
        ),
        ("measured_decrease", decrease[-1], "of the loss, at alpha = 1"),
        ("best_decrease", np.fmax.reduce(decrease), "of the loss, the largest on the line"),
    ):
        answer[name] = ((), float(value), {"units": "nats", "long_name": f"decrease {words}"})
    answer["escape_direction"] = ("parameter", (reach * unit).cpu().numpy())
    return answer


def _reach(loss: float, curvature: float, scale: float, length: float) -> float:
    """How far to look: where the quadratic model has changed the loss by its own size.

    Along directions that are all but flat that would be very far, so the curvature counts as a thousandth of ||H||
    at least. Where the loss or all curvature is zero, the length of theta takes its place.
    """
    steepness = max(abs(curvature), scale / 1000)
    candidates = [sqrt(2 * abs(loss) / steepness) if steepness else 0.0, length, 1.0]
    return next(candidate for candidate in candidates if 0 < candidate < inf)


def _with_search(answer: xr.Dataset, found: CriticalPointSearch, objective: Objective, most: int) -> xr.Dataset:
    def padded(values: Tensor) -> np.ndarray:
        full = np.full(most + POLISHING + 1, np.nan)  # as long for every search, so that answers can be joined
        full[: len(values)] = values.numpy()
        return full

    moved = (found.theta - objective.theta).double().norm().item()
    answer["theta"] = ("parameter", found.theta.cpu().numpy())
    answer["moved"] = ((), moved, {"long_name": "distance from the weights to the point that was judged"})
    answer["start_loss"] = ((), objective.loss().item(), {"units": "nats", "long_name": "loss at the weights"})
    answer["search_loss"] = ("iteration", padded(found.losses), {"units": "nats"})
    answer["search_gradient_norm"] = ("iteration", padded(found.gradient_norms))
    answer["num_matvecs"] = answer["num_matvecs"] + found.num_matvecs
    answer.attrs["search_outcome"] = found.outcome
    if answer.attrs["verdict"] == "not a critical point":
        answer.attrs["verdict_reason"] += f"; search: {found.outcome}"
    return answer


def _kinked(objective: Objective) -> list[str]:
    names = {kind.__name__ for kind in objective.module_types()}
    return sorted(name for name in names if name in _KINKED or name.startswith(_KINKED_IN))
