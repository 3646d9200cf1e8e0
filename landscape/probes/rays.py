"""How fast loss and error rise along random rays from a point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from landscape.directions import Directions
from landscape.execution import quiet_progress
from landscape.grids import Grid
from landscape.intervals import mean_and_error, student_factor
from landscape.objective import Objective
from landscape.ranges import radius_of_rise
from landscape.width import RISE


@dataclass(frozen=True)
class Rays:
    """The rise of loss and error, L(theta + r d) - L(theta), along random rays d of unit length.

    The directions are uniform on the sphere, not rescaled to the filters of the model, so that r is a distance in
    parameter space; it compares points of one training, but not networks whose layers are scaled differently. Equal
    seeds give equal rays to all networks of one size. On a quadratic the mean rise is r^2 tr(H) / (2 P).

    Attributes:
        rays: How many.
        resolution: How many distances, evenly spaced from radius / resolution to radius.
        radius: The largest distance; auto for where the mean loss has risen by log 2.
        seed: Of the rays.

    References:
        Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, section 4.2.
    """

    rays: int = 10
    resolution: int = 8
    radius: float | Literal["auto"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("rays", 2), ("resolution", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.radius != "auto":
            if not 0 < self.radius < float("inf"):
                raise ValueError(f"radius must be a positive number, or auto, got {self.radius}.")
            object.__setattr__(self, "radius", float(self.radius))

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Measure.

        Returns:
            `loss_rise` and, where targets are classes, `error_rise` over (ray, radius), and the same with test_ before
            them for further data of that name; their mean over rays with Student's 95% interval as `mean_loss_rise`,
            `mean_loss_rise_low`, `mean_loss_rise_high` over (radius); `center_loss` etc. at the point itself.

        Raises:
            ValueError: If the loss at the point is not finite, or an automatic radius cannot be found.
        """
        rays = [Directions("ray", ray[None], ("distance",)) for ray in unit_rays(objective, self.rays, self.seed)]
        grid = Grid.through(objective, rays, range(self.rays))
        radius = self._automatic(grid) if self.radius == "auto" else self.radius
        radii = np.linspace(0, radius, self.resolution + 1)[1:]
        grid = grid.over({"alpha": radii})
        values = grid.measure([(ray, (float(r),)) for ray in range(self.rays) for r in radii])
        answer = xr.Dataset(coords={"ray": np.arange(self.rays), "radius": radii})
        for name, column in values.items():
            at_point, shaped = grid.center[name], column.reshape(self.rays, self.resolution)
            answer[f"center_{name}"] = ((), at_point)
            answer = answer.assign(_rises(name, shaped, at_point))
        return answer.assign_attrs(
            evaluation_plan=grid.plan.to_json(), num_non_finite=int((~np.isfinite(values["loss"])).sum())
        )

    def _automatic(self, grid: Grid) -> float:
        def mean(radius: float) -> float:
            with quiet_progress():
                return float(grid.measure([(ray, (radius,)) for ray in range(self.rays)], "radius")["loss"].mean())

        return radius_of_rise(mean, grid.center["loss"] + RISE)


def unit_rays(objective: Objective, count: int, seed: int) -> Tensor:
    """(count, P) directions that are uniform on the unit sphere."""
    generator = torch.Generator().manual_seed(seed)
    rays = torch.randn(count, objective.size, generator=generator, dtype=torch.float64)
    return (rays / rays.norm(dim=1, keepdim=True)).to(objective.theta)


def _rises(name: str, values: NDArray[np.float64], center: float) -> dict[str, tuple[object, ...]]:
    """The rise of a loss, or for an accuracy that of the error, with its mean over rays."""
    is_error = name.endswith("accuracy")
    rise = center - values if is_error else values - center
    kind = f"{name.removesuffix('accuracy')}error_rise" if is_error else f"{name}_rise"
    about = {"units": "1" if is_error else "nats"}
    mean, error = mean_and_error(rise)
    reach = student_factor(len(rise)) * error
    return {
        kind: (("ray", "radius"), rise, about),
        f"mean_{kind}": ("radius", mean, about),
        f"mean_{kind}_low": ("radius", mean - reach, about),
        f"mean_{kind}_high": ("radius", mean + reach, about),
    }
