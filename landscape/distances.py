"""Distances and angles between points of parameter space, their plane, and what random walks would give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from landscape.parameters import ParameterLayout

Array = NDArray[np.float64]
COMPONENTS = 2
_COLUMNS = 2**20
_ROUNDING = 1e-13  # of float64 products, relative to the squares


def distance_answer(points: Tensor, starts: Tensor, walk: Sequence[int], gains: Sequence[float]) -> xr.Dataset:
    """Distances, angles and the principal plane of points, each beside what random walks in many dimensions give.

    The null is that each walk goes from the same start by independent steps as long as those it took; in many
    dimensions its inner products are then known without drawing one.

    Args:
        points: (N, P), any number of them from each walk.
        starts: (R, P) where each walk began; NaN rows where that is not known.
        walk: (N,) which walk each point belongs to.
        gains: (N,) sum of the squared lengths of the steps from the start of the walk to each point.

    Returns:
        Over (point, other): distance (L2), relative_distance (over the mean of both distances from the start: 0 for the
        same point, sqrt 2 for orthogonal ways from one start, 2 for opposite ones), cosine of the displacements from
        the starts, random_walk_distance and random_walk_cosine. Over point: displacement, the distance from the start.
        Over (point, component): plane. Over component: explained_share and random_walk_share of the variance around
        the mean. What needs a start is NaN where it is not known.

    References:
        Antognini and Sohl-Dickstein, "PCA of high dimensional random walks", NeurIPS 2018, section 2; Fort, Hu and
        Lakshminarayanan, "Deep Ensembles: A Loss Landscape Perspective", 2019, section 3.
    """
    origin = np.asarray(walk)
    products = gram(torch.cat([points, starts]))
    number = len(points)
    own, of_start, between = products[:number, :number], products[number:, number:], products[:number, number:]
    steps = own - between[:, origin] - between[:, origin].T + of_start[np.ix_(origin, origin)]
    null_steps = random_walk_products(origin, np.asarray(gains, dtype=float))
    null = null_steps + of_start[np.ix_(origin, origin)]  # steps at random are orthogonal to the starts
    pairs = {
        "distance": distances(own),
        "relative_distance": relative(distances(own), steps),
        "cosine": cosines(steps),
        "random_walk_distance": distances(null),
        "random_walk_cosine": cosines(null_steps),
    }
    plane, shares = principal_plane(own)
    return xr.Dataset(
        {name: (("point", "other"), values) for name, values in pairs.items()}
        | {
            "displacement": ("point", np.sqrt(np.maximum(np.diag(steps), 0.0))),
            "plane": (("point", "component"), plane),
            "explained_share": ("component", shares),
            "random_walk_share": ("component", principal_plane(null)[1]),
        }
    )


def gram(points: Tensor) -> Array:
    """Inner products (N, N) of points (N, P) from the mean of those that are finite, in float64 and by blocks."""
    known = torch.isfinite(points).all(dim=1)
    products = np.zeros((len(points), len(points)))
    for block in points.split(_COLUMNS, dim=1):
        rows = block.double()
        rows = rows - rows[known].mean(dim=0)
        products += (rows @ rows.T).cpu().numpy()
    return products


def distances(products: Array) -> Array:
    """L2 distances (N, N) between points whose inner products are given; what is rounding is zero."""
    squares = np.diag(products)
    sums = squares[:, None] + squares[None, :]
    apart = sums - 2 * products
    return np.sqrt(np.where(apart > _ROUNDING * sums, apart, np.where(np.isnan(apart), np.nan, 0.0)))


def cosines(products: Array) -> Array:
    """Cosines (N, N) of the angles between vectors whose inner products are given; NaN for those of length zero."""
    lengths = np.sqrt(np.maximum(np.diag(products), 0.0))
    lengths = np.where(lengths > 0, lengths, np.nan)
    return np.asarray(np.clip(products / np.outer(lengths, lengths), -1.0, 1.0))


def relative(apart: Array, steps: Array) -> Array:
    """Distances (N, N) over the mean length of both displacements."""
    lengths = np.sqrt(np.maximum(np.diag(steps), 0.0))
    means = (lengths[:, None] + lengths[None, :]) / 2
    return np.asarray(np.divide(apart, means, out=np.full_like(apart, np.nan), where=means > 0))


def random_walk_products(walk: NDArray[np.int_], gains: Array) -> Array:
    """Inner products (N, N) of displacements of random walks in many dimensions: what both have gone of one way."""
    same = walk[:, None] == walk[None, :]
    shared = np.minimum(gains[:, None], gains[None, :])
    return np.where(same | np.isnan(shared), shared, 0.0)


def principal_plane(products: Array, count: int = COMPONENTS) -> tuple[Array, Array]:
    """Coordinates (N, count) around the mean, which are also those of classical scaling, and shares of the variance.

    Args:
        products: (N, N) inner products of the points from any origin.
        count: How many components; those that do not exist are zero.
    """
    if np.isnan(products).any():
        return np.full((len(products), count), np.nan), np.full(count, np.nan)
    centred = products - products.mean(axis=0) - products.mean(axis=1)[:, None] + products.mean()
    values, vectors = np.linalg.eigh(centred)
    values = np.maximum(values[::-1], 0.0)
    vectors = vectors[:, ::-1] * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(vectors))])[::-1]
    kept = min(count, len(values))
    plane, shares = np.zeros((len(products), count)), np.zeros(count)
    plane[:, :kept] = vectors[:, :kept] * np.sqrt(values[:kept])
    shares[:kept] = values[:kept] / (values.sum() or 1.0)
    return plane, shares


def unit_filters(theta: Tensor, layout: ParameterLayout) -> Tensor:
    """Scale every filter of a point (P,) to length one, and set parameters without filters to zero.

    Networks whose filters are normalized, as before BatchNorm, are the same function after any rescaling of filters,
    and so the same point here.

    Raises:
        ValueError: If no parameter has filters.
    """
    groups = layout.filter_index().to(theta.device)
    inside = groups >= 0
    if not inside.any():
        raise ValueError(
            "no parameter has filters, so none can be scaled to length one; compare the weights as they are."
        )
    squares = torch.zeros(int(groups.max()) + 1, dtype=torch.float64, device=theta.device)
    squares.index_add_(0, groups[inside], theta[inside].double().square())
    scaled = torch.zeros_like(theta)
    norms = squares.sqrt()[groups[inside]]
    scaled[inside] = torch.where(norms > 0, theta[inside].double() / norms, 0.0).to(theta)
    return scaled


def disagreement(labels: NDArray[np.int_]) -> Array:
    """Share of examples that two networks label differently, (N, N), from the labels (N, examples)."""
    return np.stack([(labels != row).mean(axis=1) for row in labels])
