"""Spectral density of a symmetric operator, with its spread, and how many eigenvalues lie where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, nan, sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from landscape.execution import report_progress
from landscape.lanczos import finite
from landscape.operators import LinearOperator
from landscape.orthogonal import orthogonalize
from landscape.randomness import gaussian_columns

_RELATIVE_VARIANCE = 1e-5  # of the smoothing Gaussian, in units of the range squared (Ghorbani et al.)
_GRID = 1024  # a third of the width of that Gaussian from point to point
_ROUNDING = 1e-12  # of a sum of weights
DECADES = 0.1  # width of the smoothing Gaussian of the logarithmic form


class Count(NamedTuple):
    """How many eigenvalues lie in an interval.

    Attributes:
        estimate: Their number; not a whole one.
        standard_error: Of the mean over probes, from the law of random directions, at the estimate.
        interval: Low and high end. It allows for both the random probes and what the quadrature cannot resolve.
    """

    estimate: float
    standard_error: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class LogDensity:
    """Density by the logarithm of the magnitude, positive and negative eigenvalues apart.

    Attributes:
        magnitude: (G,) |lambda|, evenly spaced in the logarithm.
        positive: (G,) share of the eigenvalues per decade of |lambda| that are positive.
        negative: (G,) share per decade that are negative.
        positive_error: (G,) standard error over the probes; NaN for one probe.
        negative_error: (G,) the same.
        near_zero: Share that lies closer to zero than the probes resolve, or below the grid.
        near_zero_interval: Where that share lies.
    """

    magnitude: Tensor
    positive: Tensor
    negative: Tensor
    positive_error: Tensor
    negative_error: Tensor
    near_zero: float
    near_zero_interval: tuple[float, float]


@dataclass(frozen=True)
class Density:
    """Ritz values of random probes with their weights, and the density they make.

    Attributes:
        nodes: (num_probes, steps) float64, Ritz values in ascending order; after a breakdown the rest repeats the
            last one with weight 0.
        weights: (num_probes, steps) float64, squared first components; they sum to one for each probe.
        residuals: (num_probes, steps) float64, an eigenvalue lies within this of the node.
        grid: (G,) float64, values of lambda.
        density: (G,) float64, share of the eigenvalues per unit of lambda, mean over the probes.
        standard_error: (G,) float64, of the mean over the probes; NaN for one probe.
        sigma: Width of the smoothing Gaussian, in units of lambda.
        size: P.
        diagonal: (num_probes, steps) float64, of each tridiagonal matrix.
        off_diagonal: (num_probes, steps) float64, below it; the last one is the norm of what comes after the last
            step, and 0 marks where a probe's space was exhausted.
        num_matvecs: How many products were spent.
    """

    nodes: Tensor
    weights: Tensor
    residuals: Tensor
    grid: Tensor
    density: Tensor
    standard_error: Tensor
    sigma: float
    size: int
    diagonal: Tensor
    off_diagonal: Tensor
    num_matvecs: int

    def moment(self, power: int) -> Tensor:
        """tr(H^power) / P by each probe (num_probes,); exact on the probe up to a power of 2 steps - 1."""
        return (self.weights * self.nodes**power).sum(dim=1)

    def count(self, low: float = -inf, high: float = inf, confidence: float = 0.95) -> Count:
        """Estimate how many eigenvalues lie between two values.

        What a probe's tridiagonal matrix leaves open about the share below a value is bounded sharply by the
        quadrature with a node at that value (Chebyshev, Markov, Stieltjes): next to nothing in a gap, about a
        node's weight inside a dense bulk. The mean over n probes on the sphere of a share c / P then follows nearly
        a Beta law that depends on c alone, of mean c / P and variance 2 c / P (1 - c / P) / (n (P + 2)); the interval
        holds every c which that law and the bounds allow. So it needs no estimate of the spread, and holds for one
        probe and for one eigenvalue too. Counts of a few eigenvalues are better taken by `eigenpairs`.

        Args:
            low: Lower end; -inf for none.
            high: Upper end; inf for none.
            confidence: What share of intervals hold the number, or more.

        Raises:
            ValueError: If low is not below high, or the confidence not between 0 and 1.
        """
        if not low < high:
            raise ValueError(f"expected low < high, got {low} and {high}.")
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
        below, up_to = self._share_below(low)
        below_high, up_to_high = self._share_below(high)
        least = (below_high - up_to).clamp(min=0).mean().item()
        most = (up_to_high - below).clamp(max=1).mean().item()
        share, tail = min(max((least + most) / 2, 0.0), 1.0), (1 - confidence) / 2  # rounding leads beyond
        probes, P = self.nodes.shape[0], self.size
        return Count(
            estimate=P * share,
            standard_error=P * sqrt(2 * share * (1 - share) / (probes * (P + 2))),
            interval=(_count_at(1 - tail, least, P, probes), _count_at(tail, most, P, probes)),
        )

    def logarithmic(self, points: int = 400, decades: float | None = None, width: float = DECADES) -> LogDensity:
        """Smooth the same nodes over log10 |lambda|, positive and negative ones apart.

        The weight of a node is a share that lies somewhere between its two neighbours. Where zero does too, neither
        its sign nor its magnitude is known, unless its residual tells: such nodes are counted as near zero.

        Args:
            points: Of the grid.
            decades: How far the grid goes below the largest magnitude; default: to the smallest node that is
                resolved, seven at most.
            width: Of the smoothing Gaussian, in decades.

        Raises:
            ValueError: If a setting is not positive.
        """
        if not (points >= 2 and width > 0 and (decades is None or decades > 0)):
            raise ValueError(f"points, decades and width must be positive, got {points}, {decades} and {width}.")
        scale = self.nodes.abs().max().item() or 1.0
        unresolved, low, high = self._near_zero()
        sizes = self.nodes.abs()[(self.weights > 1e-12) & ~unresolved & (self.nodes != 0)] / scale
        reach = decades
        if reach is None:
            reach = min(7.0, max(1.0, 4 * width - sizes.min().log10().item())) if len(sizes) else 1.0
        near = unresolved | (self.nodes.abs() <= scale * 10.0**-reach)
        exponents = torch.linspace(-reach, 4 * width, points, dtype=torch.float64)
        logs = (self.nodes.abs() / scale).clamp(min=10.0**-reach).log10()
        curves = [_smoothed(logs, self.weights * (~near & (self.nodes * s > 0)), exponents, width) for s in (1, -1)]
        (positive, positive_error), (negative, negative_error) = map(_mean_over_probes, curves)
        below = scale * 10.0**-reach
        return LogDensity(
            magnitude=scale * 10.0**exponents,
            positive=positive,
            negative=negative,
            positive_error=positive_error,
            negative_error=negative_error,
            near_zero=(self.weights * near).sum(dim=1).mean().item(),
            near_zero_interval=(min(low, -below), max(high, below)),
        )

    def _near_zero(self) -> tuple[Tensor, float, float]:
        """Which nodes tell neither sign nor magnitude, and between which values what they stand for lies."""
        unresolved, low, high = torch.zeros_like(self.nodes, dtype=torch.bool), 0.0, 0.0
        for probe, (nodes, weights, residuals) in enumerate(zip(self.nodes, self.weights, self.residuals, strict=True)):
            used = int((weights > 0).nonzero().max()) + 1
            first = int((nodes[:used] < 0).sum())  # the first that is not negative
            around = [k for k in (first - 1, first) if 0 <= k < used and residuals[k] > nodes[k].abs() / 2]
            if around:
                unresolved[probe, around] = True
                low = min(low, nodes[max(around[0] - 1, 0)].item())
                high = max(high, nodes[min(around[-1] + 1, used - 1)].item())
        return unresolved, low, high

    def _share_below(self, x: float) -> tuple[Tensor, Tensor]:
        """The least and the greatest share of eigenvalues below x that each probe allows, (num_probes,) each."""
        bounds = [_bounds(a, b, x) for a, b in zip(self.diagonal, self.off_diagonal, strict=True)]
        least, most = torch.tensor(bounds, dtype=torch.float64).T
        return least, most


def spectral_density(
    operator: LinearOperator,
    steps: int = 80,
    num_probes: int = 10,
    seed: int = 0,
    sigma: float | None = None,
    grid: Tensor | None = None,
    max_bytes: float = 4 * 2**30,
) -> Density:
    """Compute the spectral density by stochastic Lanczos quadrature with full reorthogonalization.

    Each probe, uniform on the sphere, runs `steps` Lanczos steps, every vector orthogonalized against all earlier ones
    twice, so that no eigenvalue is counted again as a ghost; the probes advance together, one block product a step.
    The tridiagonal matrices are float64. Their Ritz values and squared first components are the nodes and weights of
    the Gauss quadrature of that probe, exact for polynomials of degree up to 2 steps - 1.

    The basis takes steps * P * num_probes numbers; where that is more than `max_bytes`, the probes run in groups that
    fit, and products are shared by a group only.

    An eigenvalue that stands alone has a weight of about 1 / P, which few probes see with a large error: outliers are
    to be had from `eigenpairs`.

    Args:
        operator: The symmetric operator (P, P).
        steps: Of each probe; no more than P are made.
        num_probes: Independent random vectors.
        seed: Of the probes; probe i depends on (seed, i) alone.
        sigma: Width of the smoothing Gaussian; default: sqrt(1e-5) of the range of the nodes.
        grid: (G,) values of lambda; default: 1,024 evenly over the nodes and five widths beyond.
        max_bytes: Most memory that the basis may take.

    Raises:
        ValueError: If a setting is out of its range, or the basis of a single probe does not fit `max_bytes`.
        RuntimeError: If a product is not finite.

    References:
        Lin, Saad and Yang, "Approximating Spectral Densities of Large Matrices", SIAM Review 58 (2016), section 3.2.
        Ghorbani, Krishnan and Xiao, "An Investigation into Neural Net Optimization via Hessian Eigenvalue Density",
        ICML 2019; their variance of 1e-5 is for a range of one.
    """
    if steps < 1 or num_probes < 1 or seed < 0:
        raise ValueError(
            f"steps and num_probes must be at least 1 and seed at least 0, got {steps}, {num_probes} and {seed}."
        )
    if sigma is not None and not 0 < sigma < inf:
        raise ValueError(f"sigma must be positive and finite, got {sigma}.")
    if grid is not None and not (grid.ndim == 1 and len(grid) and grid.isfinite().all()):
        raise ValueError(f"grid must hold finite values of lambda, (G,), got shape {tuple(grid.shape)}.")
    made = min(steps, operator.size)
    bytes_each = made * operator.size * torch.finfo(operator.dtype).bits // 8
    together = min(int(max_bytes // max(bytes_each, 1)), num_probes)
    if together < 1:
        raise ValueError(
            f"the basis of one probe takes {made} x {operator.size} numbers, {bytes_each / 2**30:.1f} GiB, more than "
            f"max_bytes={max_bytes:.3g}; lower steps or raise max_bytes."
        )
    groups = [range(first, min(first + together, num_probes)) for first in range(0, num_probes, together)]
    parts: list[tuple[Tensor, Tensor, int]] = []
    for number, group in enumerate(groups):
        run = _Lockstep(operator, group, made, seed)
        for step in run:
            report_progress("Lanczos steps", number * made + step + 1, len(groups) * made)
        unused = (0, steps - made)
        parts.append((pad(run.alphas, unused), pad(run.betas, unused), run.num_matvecs))
        del run  # its basis, before the next one is made
    alphas, betas = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    pairs = [_quadrature(a, b, steps) for a, b in zip(alphas, betas, strict=True)]
    nodes, weights, residuals = (torch.stack([pair[part] for pair in pairs]) for part in range(3))
    sigma = _width(nodes, weights) if sigma is None else sigma
    grid = _grid(nodes, sigma) if grid is None else grid.to("cpu", torch.float64)
    mean, error = _mean_over_probes(_smoothed(nodes, weights, grid, sigma))
    return Density(
        nodes=nodes,
        weights=weights,
        residuals=residuals,
        grid=grid,
        density=mean,
        standard_error=error,
        sigma=sigma,
        size=operator.size,
        diagonal=alphas,
        off_diagonal=betas,
        num_matvecs=sum(part[2] for part in parts),
    )


class _Lockstep:
    """Several Lanczos runs that advance together, one block product a step."""

    def __init__(self, operator: LinearOperator, probes: range, steps: int, seed: int):
        self.operator = operator
        drawn = gaussian_columns(operator.size, probes, seed, "density")
        drawn = (drawn / drawn.norm(dim=0)).to(operator.device, operator.dtype)
        self.basis = drawn.new_empty(len(probes), steps, operator.size)
        self.basis[:, 0] = (drawn / drawn.double().norm(dim=0)).to(operator.dtype).T
        self.alphas = torch.zeros(len(probes), steps, dtype=torch.float64)
        self.betas = torch.zeros(len(probes), steps, dtype=torch.float64)
        self.num_matvecs = 0

    def __iter__(self) -> Iterator[int]:
        """Take the steps, as long as a probe has any left."""
        running = torch.arange(len(self.basis))
        for step in range(self.basis.shape[1]):
            running = self._step(running, step)
            yield step
            if not len(running):
                return

    def _step(self, running: Tensor, step: int) -> Tensor:
        """Advance the probes that still run; return those that go on."""
        products = finite(self.operator.matmat(self.basis[running, step].T.contiguous()))
        self.num_matvecs += len(running)
        going = []
        for probe, product in zip(running.tolist(), products.unbind(dim=1), strict=True):
            rest, coordinates = orthogonalize(product, self.basis[probe, : step + 1])
            length = rest.double().norm().item()
            self.alphas[probe, step] = coordinates[-1]
            known = torch.cat([self.alphas[probe, : step + 1], self.betas[probe, :step]]).abs().max().item()
            if length > 10 * torch.finfo(self.basis.dtype).eps * known and step + 1 < self.operator.size:
                self.betas[probe, step] = length
                if step + 1 < self.basis.shape[1]:
                    unit = rest / length
                    if length < 1e-2 * known:  # rounding along the basis is not small beside a short rest
                        unit, _ = orthogonalize(unit, self.basis[probe, : step + 1])
                    self.basis[probe, step + 1] = unit / unit.double().norm()
                    going.append(probe)
        return torch.tensor(going, dtype=torch.long)


def _quadrature(alphas: Tensor, betas: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes in ascending order, weights and residuals of a tridiagonal matrix, padded with weight 0 to (steps,)."""
    used = _used(betas)
    values, vectors = torch.linalg.eigh(_tridiagonal(alphas[:used], betas[: used - 1]))
    nodes = values[-1].repeat(steps)
    weights, residuals = torch.zeros(2, steps, dtype=torch.float64)
    nodes[:used], weights[:used] = values, vectors[0].square()
    residuals[:used] = betas[used - 1] * vectors[-1].abs()
    return nodes, weights / weights.sum(), residuals


def _used(betas: Tensor) -> int:
    """Steps that a probe made: up to the first beta of 0, or all."""
    ended = (betas == 0).nonzero()
    return int(ended[0]) + 1 if len(ended) else len(betas)


def _tridiagonal(alphas: Tensor, betas: Tensor) -> Tensor:
    return torch.diag(alphas) + torch.diag(betas, 1) + torch.diag(betas, -1)


def _bounds(alphas: Tensor, betas: Tensor, x: float) -> tuple[float, float]:
    """Least and greatest share below x that a tridiagonal matrix allows: the quadrature with a node at x."""
    if x in (-inf, inf):
        return (0.0, 0.0) if x < 0 else (1.0, 1.0)
    used = _used(betas)
    T = _tridiagonal(alphas[:used], betas[: used - 1])
    values, vectors = torch.linalg.eigh(T)
    if betas[used - 1] == 0:  # the probe's measure itself, nothing is left open
        share = vectors[0, values < x].square().sum().item()
        return share, share
    # With the last entry of one more row chosen so, x is an eigenvalue (Golub and Meurant 2010, section 6.2).
    gaps = values - x
    gaps = torch.where(gaps == 0, torch.finfo(torch.float64).tiny, gaps)
    last = x + (betas[used - 1] ** 2 * (vectors[-1].square() / gaps).sum()).item()
    if not abs(last) < inf:
        share = vectors[0, values < x].square().sum().item()
        at = vectors[0, (values - x).abs().argmin()].square().item()
        return max(share - at, 0.0), min(share + at, 1.0)
    T = _tridiagonal(torch.cat([alphas[:used], torch.tensor([last], dtype=torch.float64)]), betas[:used])
    nodes, vectors = torch.linalg.eigh(T)
    weights = vectors[0].square()
    at = int((nodes - x).abs().argmin())
    return weights[:at].sum().item(), weights[: at + 1].sum().item()


def _count_at(level: float, share: float, size: int, probes: int) -> float:
    """The count c for which a share as large as the one seen, or smaller, has this probability."""
    from scipy.optimize import brentq
    from scipy.special import betainc

    if share <= _ROUNDING:
        return 0.0
    if share >= 1 - _ROUNDING:
        return float(size)
    weight = probes * (size + 2) / 2 - 1  # makes the variance 2 f (1 - f) / (n (P + 2))

    def excess(count: float) -> float:
        f = count / size
        return betainc(f * weight, (1 - f) * weight, share) - level

    least, most = 1e-9, size * (1 - 1e-12)
    if excess(least) <= 0:
        return 0.0
    if excess(most) >= 0:
        return float(size)
    return float(brentq(excess, least, most, xtol=1e-9 * size))


def _smoothed(nodes: Tensor, weights: Tensor, grid: Tensor, width: float) -> Tensor:
    """Sum of Gaussians at the nodes of each probe, (num_probes, G)."""
    height = weights / (width * sqrt(2 * torch.pi))
    return torch.stack(
        [h @ torch.exp(-0.5 * ((grid - n[:, None]) / width) ** 2) for n, h in zip(nodes, height, strict=True)]
    )


def _mean_over_probes(curves: Tensor) -> tuple[Tensor, Tensor]:
    mean = curves.mean(dim=0)
    probes = len(curves)
    return mean, curves.std(dim=0) / sqrt(probes) if probes > 1 else torch.full_like(mean, nan)


def _width(nodes: Tensor, weights: Tensor) -> float:
    """The default width; where all nodes are one value, relative to that."""
    seen = nodes[weights > 0]
    spread, size = (seen.max() - seen.min()).item(), seen.abs().max().item()
    return sqrt(_RELATIVE_VARIANCE) * (spread if spread > 1e-6 * size else size or 1.0)


def _grid(nodes: Tensor, sigma: float) -> Tensor:
    low, high = nodes.min().item() - 5 * sigma, nodes.max().item() + 5 * sigma
    return torch.linspace(low, high, _GRID, dtype=torch.float64)
