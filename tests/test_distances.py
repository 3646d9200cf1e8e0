"""Distances between points against straight lines, random walks and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import nn

from landscape.directions import random_walk_shares
from landscape.distances import (
    cosines,
    disagreement,
    distance_answer,
    distances,
    gram,
    principal_plane,
    random_walk_products,
    unit_filters,
)
from landscape.figures.distances import distance_matrices, distance_plane
from landscape.figures.style import notes
from landscape.parameters import ParameterLayout


def walks(runs: int, steps: int, size: int, same_start: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(runs, steps + 1, size) random walks of unit steps, and their starts."""
    generator = torch.Generator().manual_seed(0)
    moves = torch.randn(runs, steps, size, generator=generator, dtype=torch.float64) / size**0.5
    starts = torch.randn(runs, 1, size, generator=generator, dtype=torch.float64) * (0 if same_start else 3 / size**0.5)
    return torch.cat([starts, starts + moves.cumsum(dim=1)], dim=1), starts[:, 0]


def test_distances_agree_with_scipy_far_from_the_origin():
    points = torch.randn(5, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 100
    points[4] = points[0]
    ours = distances(gram(points))
    assert ours == pytest.approx(cdist(points, points), rel=1e-9, abs=1e-12)
    assert ours[0, 4] == 0


def test_points_on_a_straight_line():
    way = torch.tensor([3.0, 4.0])
    points = torch.stack([way * t for t in (0.0, 1.0, 3.0)])
    answer = distance_answer(points, points[:1], [0, 0, 0], [0.0, 25.0, 125.0])
    assert answer["distance"].values[0] == pytest.approx([0, 5, 15])
    assert answer["displacement"].values == pytest.approx([0, 5, 15])
    assert answer["cosine"].values[1, 2] == pytest.approx(1)
    assert np.isnan(answer["cosine"].values[0]).all()
    assert answer["relative_distance"].values[1, 2] == pytest.approx(10 / 10)
    assert answer["explained_share"].values == pytest.approx([1, 0], abs=1e-12)


def test_ways_that_are_orthogonal_or_opposite():
    points = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, 0.0]])
    answer = distance_answer(points, torch.zeros(3, 2), [0, 1, 2], [4.0, 4.0, 4.0])
    assert answer["relative_distance"].values[0] == pytest.approx([0, 2**0.5, 2])
    assert answer["cosine"].values[0] == pytest.approx([1, 0, -1], abs=1e-12)
    # Independent walks from one start are orthogonal, so all are sqrt(4 + 4) apart.
    assert answer["random_walk_distance"].values[0] == pytest.approx([0, 8**0.5, 8**0.5])


@pytest.mark.parametrize("same_start", [True, False])
def test_random_walks_are_their_own_null(same_start: bool):
    """Relative errors of inner products in 20,000 dimensions are about 1 / sqrt(20,000) = 0.7%."""
    paths, starts = walks(3, 10, 20_000, same_start)
    gains = np.tile(np.arange(11.0), 3)
    answer = distance_answer(paths.flatten(0, 1), starts, np.repeat([0, 1, 2], 11).tolist(), gains)
    for name in ("distance", "cosine"):
        known = np.isfinite(answer[name].values)
        null = answer[f"random_walk_{name}"].values
        assert (np.isfinite(null) == known).all()
        assert answer[name].values[known] == pytest.approx(null[known], abs=0.05)
    assert answer["explained_share"].values == pytest.approx(answer["random_walk_share"].values, abs=0.02)
    # cosine of a walk with itself: what both have gone, over the root of both lengths
    assert answer["random_walk_cosine"].values[4, 9] == pytest.approx((4 / 9) ** 0.5)


def test_straight_ways_are_told_from_random_walks():
    """Negative control of the null: three straight ways from one start explain all that two components can."""
    paths = torch.eye(3)[:, None] * torch.arange(11.0)[:, None]
    answer = distance_answer(
        paths.flatten(0, 1), torch.zeros(3, 3), np.repeat([0, 1, 2], 11).tolist(), np.tile(np.arange(11.0), 3)
    )
    assert answer["explained_share"].sum() > answer["random_walk_share"].sum() + 0.1


def test_the_null_of_one_walk_has_the_published_shares():
    products = random_walk_products(np.zeros(40, dtype=int), np.arange(40.0))
    assert principal_plane(products)[1] == pytest.approx(random_walk_shares(40, 2, "mean"))


def test_the_plane_is_that_of_singular_vectors():
    points = torch.randn(6, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plane, shares = principal_plane(gram(points))
    centred = (points - points.mean(dim=0)).numpy()
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    assert np.abs(plane) == pytest.approx(np.abs(left[:, :2] * values[:2]))
    assert shares == pytest.approx(values[:2] ** 2 / (values**2).sum())
    single, share = principal_plane(np.array([[2.0]]))
    assert (single.shape, share.tolist()) == ((1, 2), [0, 0])


def test_unknown_starts_leave_distances_known():
    points = torch.randn(4, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    starts = torch.stack([torch.zeros(7), torch.full((7,), torch.nan)]).double()
    answer = distance_answer(points, starts, [0, 0, 1, 1], [1.0, 2.0, np.nan, np.nan])
    assert answer["distance"].values == pytest.approx(cdist(points, points))
    assert np.isfinite(answer["cosine"].values[:2, :2]).all()
    assert np.isnan(answer["cosine"].values[2:]).all()
    assert np.isnan(answer["random_walk_share"].values).all()
    assert np.isfinite(answer["explained_share"].values).all()


def test_unit_filters_do_not_see_how_filters_are_scaled():
    network = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(3, 2))
    layout = ParameterLayout.of(network)
    theta = layout.current(network)
    scaled = theta * torch.where(layout.filter_index() == 1, 7.0, 1.0)
    first, second = unit_filters(theta, layout), unit_filters(scaled, layout)
    assert torch.allclose(first, second)
    assert first.square().sum().item() == pytest.approx(5)  # three filters of the convolution, two rows
    assert not first[layout.filter_index() < 0].any()
    flat = nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match="no parameter has filters"):
        unit_filters(torch.ones(6), ParameterLayout.of(flat))


def test_disagreement_counts_different_labels():
    assert disagreement(np.array([[0, 1, 2, 3], [0, 1, 0, 0]])).tolist() == [[0, 0.5], [0.5, 0]]


def test_cosines_of_nothing_are_not_known():
    assert np.isnan(cosines(np.array([[0.0, 0.0], [0.0, 1.0]]))).tolist() == [[True, True], [True, False]]


def test_figures_show_the_matrices_and_the_null():
    paths, starts = walks(2, 4, 500, same_start=True)
    answer = distance_answer(paths.flatten(0, 1), starts, [0] * 5 + [1] * 5, np.tile(np.arange(5.0), 2))
    answer = answer.assign_coords(run=("point", ["a"] * 5 + ["b"] * 5), step=("point", [*range(5), *range(5)]))
    figure = distance_matrices(answer)
    shown = [image for ax in figure.axes for image in ax.images if image.get_gid()]
    assert [image.get_gid() for image in shown] == ["distance", "cosine"]
    assert np.asarray(shown[0].get_array()) == pytest.approx(answer["distance"].values)
    assert "of random walks" in notes(figure)
    assert "a run has no direction" in notes(figure)
    plane = distance_plane(answer)
    assert len([line for line in plane.axes[0].lines if line.get_gid() == "run"]) == 2
    assert "random walks of these lengths" in notes(plane).replace("\n", " ")
