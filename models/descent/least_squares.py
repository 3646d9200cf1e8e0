"""Linear least squares on Gaussian data, where the expected risk is known exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr

from landscape.execution import Answer
from models.descent.sizes import check_axis, check_plan
from models.descent.solving import solve
from models.descent.theory import best_penalty, least_squares_risk, ridge_risk
from models.seeds import derived_seed

ARMS = ("minimum norm", "optimal ridge")


@dataclass(frozen=True)
class LeastSquares:
    """Fits of y = <x, beta> + e to p of d Gaussian features, |beta| = 1, over p or over the number of examples.

    The noise level q is the share of the labels' variance that e makes: its variance is q / (1 - q). Each seed draws
    examples, noise and the direction of beta; the risk of a fit, the expected squared error on a new label, needs no
    test data: |b - beta|^2 plus the variance of e. The second arm has the ridge penalty of least asymptotic risk.

    Attributes:
        axis: width (p), samples (n) or noise (several levels over p).
        sizes: The values of p, or of n.
        other: n where p varies, p where n varies.
        dimension: d.
        noises: Levels of noise, rising, in [0, 1).
        seeds: Repetitions.

    References:
        Belkin, Hsu & Xu, "Two models of double descent for weak features", SIAM J. Math. Data Sci. 2020, section 2.
    """

    axis: str
    sizes: tuple[int, ...]
    other: int = 40
    dimension: int = 100
    noises: tuple[float, ...] = (0.0, 0.2)
    seeds: tuple[int, ...] = tuple(range(100))

    axes: ClassVar[tuple[str, ...]] = ("width", "samples", "noise")

    def __post_init__(self) -> None:
        """Refuse what cannot be fitted.

        Raises:
            ValueError: If the axis is unknown, sizes do not fit, or more features should be fitted than there are.
        """
        check_axis(self.axis, self.axes, "least-squares")
        check_plan(self.axis, self.sizes, self.noises, self.seeds)
        if self.other < 1:
            raise ValueError(f"least squares needs at least 1 example and 1 feature, got {self.other}")
        most = self.other if self.axis == "samples" else self.sizes[-1]
        if most > self.dimension:
            raise ValueError(f"there are {self.dimension} features, fewer than {most}; give more dimensions")

    def about(self) -> dict[str, Any]:
        """Return everything that decides the curves."""
        return {"model": "least-squares", **asdict(self)}

    def counts(self, size: int) -> tuple[int, int]:
        """Return n and p of one size."""
        return (size, self.other) if self.axis == "samples" else (self.other, size)

    def variances(self) -> list[float]:
        """Return the variance of e by level of noise."""
        return [level / (1 - level) for level in self.noises]

    def piece(self, size: int) -> Answer:
        """Fit one size: test_loss, train_loss (arm, noise, seed) and unranked (seed)."""
        n, p = self.counts(size)
        x, beta, clean, noise = (np.stack(parts) for parts in zip(*map(self._draw, self.seeds), strict=True))
        deviations = np.sqrt(self.variances())
        labels = torch.from_numpy(clean[:, :n, None] + deviations * noise[:, :n, None])
        features = torch.from_numpy(np.ascontiguousarray(x[:, :n, :p]))
        penalties = [best_penalty(p, self.dimension, 1.0, variance) for variance in self.variances()]
        solved = solve(features, labels, (0.0, *penalties))
        found: dict[str, list[Any]] = {"test_loss": [], "train_loss": []}
        for arm in range(len(ARMS)):
            chosen = [solved.weights[:, arm and 1 + level, :, level] for level in range(len(penalties))]
            fits = torch.stack(chosen, -1)
            residual = ((features @ fits - labels) ** 2).mean(1)
            missed = ((fits.numpy() - beta[:, :p, None]) ** 2).sum(1) + (beta[:, p:, None] ** 2).sum(1)
            found["train_loss"].append(residual.numpy().T)
            found["test_loss"].append((missed + deviations**2).T)
        unranked = 1 - solved.rank.numpy() / n
        return {**{name: np.stack(arms) for name, arms in found.items()}, "unranked": unranked}  # type: ignore[dict-item]

    def _draw(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Draw for the largest size, so that smaller ones are parts of it: x, beta, <x, beta> and standard noise."""
        rng = np.random.default_rng(derived_seed(seed, "least-squares"))
        most = max(self.counts(size)[0] for size in self.sizes)
        beta = rng.standard_normal(self.dimension)
        beta /= np.linalg.norm(beta)
        x, noise = rng.standard_normal((most, self.dimension)), rng.standard_normal(most)
        return x, beta, x @ beta, noise

    def curves(self, pieces: Sequence[Answer]) -> xr.Dataset:
        """Lay pieces out, with the theory beside them."""
        dims = ("arm", "noise", "size", "seed")
        data: dict[str, Any] = {
            name: (dims, np.stack([piece[name] for piece in pieces], 2)) for name in ("test_loss", "train_loss")
        }
        data["unranked"] = (("size", "seed"), np.stack([piece["unranked"] for piece in pieces]))
        data["num_parameters"] = ("size", np.array([self.counts(size)[1] for size in self.sizes]))
        data["num_examples"] = ("size", np.array([self.counts(size)[0] for size in self.sizes]))
        data["theory_loss"] = (dims[:3], self._theory())
        coords = {
            "arm": list(ARMS),
            "noise": list(self.noises),
            "size": list(self.sizes),
            "seed": list(self.seeds),
        }
        about = {"theory": "expected risk: exact without penalty (Belkin et al.), else its limit (Hastie et al.)"}
        return xr.Dataset(data, coords, {"axis": self.axis, "model": "least-squares", "loss": "squared error", **about})

    def _theory(self) -> np.ndarray:
        found = np.full((len(ARMS), len(self.noises), len(self.sizes)), math.nan)
        for level, variance in enumerate(self.variances()):
            for index, size in enumerate(self.sizes):
                n, p = self.counts(size)
                case = (n, p, self.dimension, 1.0, variance)
                found[0, level, index] = least_squares_risk(*case)
                penalty = best_penalty(p, self.dimension, 1.0, variance)
                # where nothing is unexplained the best penalty is none
                found[1, level, index] = ridge_risk(*case, penalty) if penalty else found[0, level, index]
        return found
