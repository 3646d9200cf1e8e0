"""A training trajectory projected onto the plane of a surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from landscape.figures.style import count


@dataclass(frozen=True)
class Trajectory:
    """Where training passed, as seen from the plane."""

    alpha: NDArray[np.float64]  # (T,)
    beta: NDArray[np.float64]  # (T,)
    off_plane: NDArray[np.float64]  # (T,) share of the distance from the checkpoint that lies off the plane, 0..1
    step: NDArray[np.int64]  # (T,)
    loss: NDArray[np.float64]  # (T,) of the snapshot itself, not of its projection; NaN where it is not known
    num_outside: int  # snapshots that project outside the window of the surface
    is_path: bool  # whether training went from each to the next; false for single points that span the plane

    def off_plane_note(self) -> str:
        """What a reader must know before comparing the trajectory with the surface under it."""
        if not self.is_path and not np.any(self.off_plane > 1e-3):
            return ""
        shares = self.off_plane[np.isfinite(self.off_plane)]
        outside = f"; {count(self.num_outside, 'snapshot')} outside the window" if self.num_outside else ""
        if not shares.size:
            return f"trajectory projected; off-plane share not known{outside}"
        return (
            f"trajectory projected: {np.median(shares):.0%} of its distance lies off the plane "
            f"(median; {shares.min():.0%} to {shares.max():.0%}){outside}"
        )

    def inside(self, alpha: NDArray[np.float64], beta: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(T,) which snapshots fall into the window of a surface."""
        return _inside(self.alpha, alpha) & _inside(self.beta, beta)

    def heights(
        self, alpha: NDArray[np.float64], beta: NDArray[np.float64], values: NDArray[np.float64], parts: int = 1
    ) -> NDArray[np.float64]:
        """(N,) the surface's value (bilinear) under each place of `along`; NaN outside the window and beside gaps."""
        surface = RegularGridInterpolator((alpha, beta), values, bounds_error=False, fill_value=np.nan)
        return np.asarray(surface(self.along(parts)), dtype=np.float64)

    def along(self, parts: int = 1) -> NDArray[np.float64]:
        """(N, 2) places along the projected path, so many from each snapshot to the next: every `parts`-th is one."""
        snapshots = np.arange(self.alpha.size)
        at = np.arange((self.alpha.size - 1) * parts + 1) / parts
        return np.column_stack([np.interp(at, snapshots, values) for values in (self.alpha, self.beta)])

    def labelled(self, xlim: tuple[float, float], ylim: tuple[float, float], apart: float = 0.16) -> list[int]:
        """Snapshots whose step is written: both ends, and inner ones far enough (in shares of the axes) from others."""
        x = (self.alpha - xlim[0]) / (xlim[1] - xlim[0])
        y = (self.beta - ylim[0]) / (ylim[1] - ylim[0])
        chosen = [0, len(x) - 1]
        for index in range(1, len(x) - 1):
            clear = all(np.hypot(x[index] - x[j], y[index] - y[j]) > apart for j in chosen)
            if clear and 0 < x[index] < 0.9 and 0 < y[index] < 0.95:
                chosen.append(index)
        return sorted(i for i in set(chosen) if 0 <= x[i] <= 1 and 0 <= y[i] <= 1)


def trajectory_of(answer: xr.Dataset) -> Trajectory | None:
    """The projected trajectory that an answer of Surface carries, or None."""
    if "trajectory_alpha" not in answer or "trajectory_beta" not in answer or not answer.sizes.get("snapshot"):
        return None
    alpha, beta = (np.asarray(answer[f"trajectory_{axis}"].values, dtype=float) for axis in ("alpha", "beta"))
    off = answer["trajectory_off_plane"].values if "trajectory_off_plane" in answer else np.full(alpha.size, np.nan)
    step = answer["snapshot_step"].values if "snapshot_step" in answer.coords else np.arange(alpha.size)
    seen = _inside(alpha, answer["alpha"].values) & _inside(beta, answer["beta"].values)
    return Trajectory(
        alpha=alpha,
        beta=beta,
        off_plane=np.asarray(off, dtype=float),
        step=np.asarray(step, dtype=np.int64),
        loss=np.asarray(answer["trajectory_loss"].values, float) if "trajectory_loss" in answer else 0 * alpha + np.nan,
        num_outside=int((~seen).sum()),
        is_path=answer.attrs.get("directions") != "through",
    )


def _inside(values: NDArray[np.float64], axis: NDArray[np.float64]) -> NDArray[np.bool_]:
    margin = 1e-9 * np.ptp(axis)
    return (values >= axis.min() - margin) & (values <= axis.max() + margin)
