from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape import directions as D
from landscape.objective import Objective
from landscape.parameters import ParameterLayout
from tests import oracles
from tests.problems import TinyCNN, Transposed, built, images, network, perceptron, quadratic, rotated, seeded, vectors


def drawn(model: nn.Module, kind: str, count: int = 1, seed: int = 0, one_dimensional: str = "zero"):
    layout = ParameterLayout.of(model)
    theta = layout.current(model)
    return D.random_directions(theta, layout, kind, count, seed, one_dimensional), theta, layout


def gaussian_draw(layout: ParameterLayout, seed: int = 0) -> torch.Tensor:
    return torch.randn(layout.size, generator=seeded(seed), dtype=torch.float64)


MODELS = {"cnn": TinyCNN, "transposed": Transposed, "perceptron": perceptron}


@pytest.mark.parametrize("one_dimensional", D.ONE_DIMENSIONAL)
@pytest.mark.parametrize("name", MODELS)
def test_filter_normalization_is_that_of_li_et_al(name, one_dimensional):
    model = built(MODELS[name], dtype=torch.float64)
    layout = ParameterLayout.of(model)
    direction = gaussian_draw(layout)
    made = D.normalize(direction, layout.current(model), layout, "filter", one_dimensional)
    expected = oracles.li_filter_normalized(model, layout.unflatten(direction), one_dimensional)
    assert torch.allclose(made, layout.flatten(expected), rtol=1e-13)  # another order of sums


def test_filters_of_a_transposed_convolution_lie_on_axis_1():
    """Control: the same along axis 0 leaves the norms along axis 1 wrong."""
    model = built(Transposed, dtype=torch.float64)
    (direction,), theta, layout = drawn(model, "filter")
    up, own = (layout.unflatten(v)["up.weight"] for v in (direction, theta))
    assert torch.allclose(up.transpose(0, 1).flatten(1).norm(dim=1), own.transpose(0, 1).flatten(1).norm(dim=1))
    assert not torch.allclose(up.flatten(1).norm(dim=1), own.flatten(1).norm(dim=1), rtol=1e-3)


def test_layer_normalization_gives_each_layer_its_norm_and_not_each_filter():
    model = built(TinyCNN, dtype=torch.float64)
    (direction,), theta, layout = drawn(model, "layer")
    made, own = layout.unflatten(direction), layout.unflatten(theta)
    for name in ("conv.weight", "fc.weight"):
        assert made[name].norm().item() == pytest.approx(own[name].norm().item(), rel=1e-12)
        assert not torch.allclose(made[name].flatten(1).norm(dim=1), own[name].flatten(1).norm(dim=1), rtol=1e-3)
    assert not any(made[name].any() for name in ("conv.bias", "norm.weight", "norm.bias", "fc.bias"))


def test_weight_normalization_multiplies_each_weight():
    model = built(perceptron, dtype=torch.float64)
    layout = ParameterLayout.of(model)
    theta, direction = layout.current(model), gaussian_draw(layout)
    made = layout.unflatten(D.normalize(direction, theta, layout, "weight"))
    for name, own in layout.unflatten(theta).items():
        expected = own * layout.unflatten(direction)[name] if own.ndim > 1 else torch.zeros_like(own)
        assert torch.equal(made[name], expected)


def test_a_gaussian_direction_is_a_unit_vector_in_every_entry():
    (direction,), _, _ = drawn(built(TinyCNN, dtype=torch.float64), "gaussian")
    assert direction.norm().item() == pytest.approx(1, abs=1e-12)
    assert direction.all()  # biases too
    assert -0.2 < direction.mean() * len(direction) ** 0.5 < 0.2  # not uniform on [0, 1)


@pytest.mark.parametrize("kind", D.RANDOM_KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_a_pair_is_orthogonal_after_rescaling(kind, name):
    pair, theta, layout = drawn(built(MODELS[name], dtype=torch.float64), kind, 2)
    assert abs(D.cosine(*pair)) < 1e-14
    if kind == "filter":  # the second is normalized as much as the first
        index = layout.filter_index()
        for number in range(int(index.max()) + 1):
            norms = [v[index == number].norm().item() for v in (*pair, theta)]
            assert norms == pytest.approx([norms[2]] * 3, rel=1e-12)


def test_orthogonalizing_first_would_not_do():
    """Control: Gram-Schmidt over all entries and then rescaling filters is what other tools do."""
    model = built(TinyCNN, dtype=torch.float64)
    layout = ParameterLayout.of(model)
    theta = layout.current(model)
    first, second = gaussian_draw(layout), gaussian_draw(layout, 1)
    second = second - (first @ second) / (first @ first) * first
    pair = [D.normalize(d, theta, layout) for d in (first, second)]
    assert abs(D.cosine(*pair)) > 1e-3


def test_seeds_and_axes_are_independent_draws():
    model = built(lambda: nn.Linear(100, 100), dtype=torch.float64)
    made = [drawn(model, "filter", 2, seed)[0] for seed in (0, 1, 2)]
    flat = torch.cat(made)
    cosines = torch.corrcoef(flat) - torch.eye(6)
    assert cosines.abs().max() < 0.05  # 1 / sqrt(10,000) is one standard deviation
    assert torch.equal(drawn(model, "filter", 2, 1)[0], made[1])
    assert torch.equal(drawn(model, "filter", 1, 1)[0][0], made[1][0])


def test_global_generators_are_not_used():
    before = torch.get_rng_state()
    drawn(built(perceptron), "filter", 2)
    assert torch.equal(before, torch.get_rng_state())


def test_copied_entries_are_the_model_itself():
    pair, theta, layout = drawn(built(TinyCNN), "filter", 2, one_dimensional="copy")
    one = layout.layer_index() < 0
    assert torch.equal(pair[0][one], theta[one])
    assert torch.equal(pair[1][one], theta[one])


def test_a_zero_filter_gets_a_zero_direction():
    model = built(TinyCNN, dtype=torch.float64)
    with torch.no_grad():
        model.fc.weight[2] = 0
    (direction,), _, layout = drawn(model, "filter")
    made = layout.unflatten(direction)["fc.weight"]
    assert made[2].tolist() == [0, 0, 0]
    assert direction.isfinite().all()


def test_filters_of_a_single_entry_have_no_second_direction():
    model = built(lambda: nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 3)), dtype=torch.float64)
    pair, theta, layout = drawn(model, "filter", 2)
    parts = [layout.unflatten(v)["0.weight"] for v in (*pair, theta)]
    assert torch.allclose(parts[0].abs(), parts[2].abs())
    assert parts[1].tolist() == [[0.0]] * 4
    assert layout.unflatten(pair[1])["2.weight"].all()


def test_a_direction_that_would_be_zero_is_refused():
    zeros = nn.Linear(5, 3)
    nn.init.zeros_(zeros.weight)
    with pytest.raises(ValueError, match="filter direction 1 is zero: its filters or layers are zero in the model"):
        drawn(zeros, "filter")
    with pytest.raises(ValueError, match="filter direction 2 is zero"):
        drawn(nn.Linear(1, 3), "filter", 2)
    single = nn.Module()
    single.w = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="gaussian direction 2 is zero"):
        drawn(single, "gaussian", 2)
    assert drawn(zeros, "gaussian", 2)[0].norm(dim=1).tolist() == pytest.approx([1, 1])
    with pytest.raises(ValueError, match="filter direction 1 is zero"):
        drawn(nn.BatchNorm1d(3), "filter")


def test_normalize_refuses_what_no_scale_can_mend():
    model = built(TinyCNN)
    layout = ParameterLayout.of(model)
    theta, direction = layout.current(model), gaussian_draw(layout)
    zero = layout.unflatten(direction)["fc.weight"]
    zero[1] = 0
    with pytest.raises(ValueError, match=r"zero filter in 'fc.weight', which no scale can normalize; draw another"):
        D.normalize(direction, theta, layout)
    with pytest.raises(ValueError, match="one_dimensional must be zero or copy, got 'random'"):
        D.normalize(direction, theta, layout, one_dimensional="random")
    with pytest.raises(ValueError, match="normalized by filter, layer or weight, not by 'gaussian'"):
        D.normalize(direction, theta, layout, "gaussian")


# --- through points -----------------------------------------------------------------------------------------------


def test_between_reaches_the_other_point_at_one():
    theta, other = torch.randn(2, 9, generator=seeded(0))
    line = D.between(theta, other)
    assert torch.allclose(theta + line.vectors[0], other, atol=1e-6)
    with pytest.raises(ValueError, match="the points have 9 and 8 parameters; compare equal architectures"):
        D.between(theta, other[:8])
    with pytest.raises(ValueError, match="the two points are the same"):
        D.between(theta, theta.clone())


def test_through_holds_all_three_points():
    points = torch.randn(3, 50, generator=seeded(0), dtype=torch.float64)
    plane = D.through(*points)
    assert abs(D.cosine(*plane.vectors)) < 1e-14
    assert plane.vectors[0].norm().item() == pytest.approx(plane.vectors[1].norm().item())  # one unit on both axes
    inside, off = D.coordinates(plane.path, points[0], plane.vectors)
    assert torch.allclose(inside[:2], torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64), atol=1e-12)
    assert off.max() < 1e-12
    assert plane.path_steps == (0, 1, 2)
    with pytest.raises(ValueError, match="the three points lie on one line"):
        D.through(points[0], points[1], 3 * points[1] - 2 * points[0])


def test_pca_is_the_singular_vectors_of_the_differences():
    path = torch.randn(8, 40, generator=seeded(0), dtype=torch.float64).cumsum(0)
    theta = path[-1]
    made = D.pca(path, range(8), theta)
    rows = (path[:-1] - theta).numpy()
    _, values, right = np.linalg.svd(rows, full_matrices=False)
    assert made.explained_share == pytest.approx((values**2 / (values**2).sum())[:2], rel=1e-10)
    reach = 1.1 * np.abs(rows @ right[:2].T).max(axis=0)
    overlap = np.abs(right[:2] @ made.vectors.numpy().T)
    assert np.allclose(overlap, np.diag(reach), atol=1e-10)
    inside, _ = D.coordinates(path, theta, made.vectors)
    assert inside.abs().amax(dim=0).tolist() == pytest.approx([1 / 1.1, 1 / 1.1])  # radius 1 shows the whole path
    peaks = made.vectors.gather(1, made.vectors.abs().argmax(dim=1, keepdim=True))
    assert (peaks > 0).all()
    assert torch.equal(made.path, path)
    assert made.path_steps == tuple(range(8))


def test_the_shares_of_a_random_walk():
    assert D.random_walk_shares(10_000)[0] == pytest.approx(8 / np.pi**2, rel=1e-3)  # 0.81
    assert sum(D.random_walk_shares(10_000)) == pytest.approx(8 / np.pi**2 * (1 + 1 / 9), rel=1e-3)  # 0.90
    assert sum(D.random_walk_shares(7, 7)) == pytest.approx(1, abs=1e-12)
    n = 13
    gram = np.minimum.outer(np.arange(1, n + 1), np.arange(1, n + 1))
    exact = np.sort(np.linalg.eigvalsh(gram))[::-1]
    assert D.random_walk_shares(n, 3) == pytest.approx((exact / exact.sum())[:3], rel=1e-12)


def test_a_simulated_random_walk_has_the_stated_shares():
    walk = torch.randn(41, 20_000, generator=seeded(0)).cumsum(0)
    made = D.pca(walk, range(41), walk[-1])
    # Steps are orthogonal up to 1 / sqrt(20,000).
    assert made.explained_share == pytest.approx(made.random_walk_share, rel=0.02)


def test_the_shares_of_a_random_walk_around_its_mean():
    k = np.arange(1, 4)
    assert D.random_walk_shares(10_000, 3, "mean") == pytest.approx(6 / (np.pi * k) ** 2, rel=1e-3)
    assert sum(D.random_walk_shares(10_000, 2, "mean")) == pytest.approx(0.76, abs=1e-3)
    n = 13
    center = np.eye(n) - 1 / n
    exact = np.linalg.eigvalsh(center @ np.minimum.outer(np.arange(n), np.arange(n)) @ center)[::-1]
    assert D.random_walk_shares(n, 3, "mean") == pytest.approx((exact / exact.sum())[:3], rel=1e-12)
    assert D.random_walk_shares(2, 3, "mean") == [1.0, 0.0, 0.0]
    assert D.random_walk_shares(1, 1, "mean") == [0.0]
    with pytest.raises(ValueError, match="centring must be end or mean, got 'start'"):
        D.random_walk_shares(9, 2, "start")


def test_a_simulated_random_walk_has_both_shares():
    walk = torch.randn(201, 20_000, generator=seeded(1)).cumsum(0)
    made = D.pca(walk, range(201), walk[-1])
    assert made.mean_centred_share == pytest.approx(made.mean_centred_random_walk_share, rel=0.03)
    assert sum(made.mean_centred_share) == pytest.approx(0.76, abs=0.02)
    assert sum(made.explained_share) == pytest.approx(0.90, abs=0.02)
    _, values, _ = np.linalg.svd((walk - walk.mean(dim=0)).double().numpy(), full_matrices=False)
    assert made.mean_centred_share == pytest.approx((values**2 / (values**2).sum())[:2], rel=1e-6)
    assert D.pca(walk, range(201), walk[-1], count=3).first(2).mean_centred_share == pytest.approx(
        made.mean_centred_share, rel=1e-9
    )


def test_two_points_vary_around_their_mean_in_one_dimension():
    made = D.pca(torch.eye(5)[:2], (0, 1), torch.zeros(5))
    assert made.mean_centred_share == pytest.approx((1.0, 0.0), abs=1e-7)
    assert made.mean_centred_random_walk_share == (1.0, 0.0)


def test_pca_needs_points_that_differ():
    theta = torch.zeros(5)
    with pytest.raises(ValueError, match="2 principal directions need 2 snapshots that differ from the end, got 1"):
        D.pca(torch.stack([theta + 1, theta]), (0, 1), theta)
    with pytest.raises(ValueError, match="the trajectory spans fewer than 2 dimensions"):
        D.pca(torch.stack([theta + 2, theta + 1, theta]), (0, 1, 2), theta)


def test_coordinates_hold_for_directions_of_any_length_and_angle():
    """Control: the projection w.d / |d| of another tool is right for unit vectors alone."""
    axes = torch.tensor([[2.0, 0, 0, 0], [3.0, 0.5, 0, 0]], dtype=torch.float64)
    theta = torch.ones(4, dtype=torch.float64)
    wanted = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-0.5, 2.0]], dtype=torch.float64)
    points = theta + wanted @ axes
    inside, off = D.coordinates(points, theta, axes)
    assert torch.allclose(inside, wanted, atol=1e-12)
    assert off.tolist() == pytest.approx([0, 0, 0], abs=1e-12)
    wrong = (points - theta) @ (axes / axes.norm(dim=1, keepdim=True)).T
    assert not torch.allclose(wrong, wanted, atol=0.1)


def test_the_off_plane_share():
    axes = torch.tensor([[1.0, 0, 0]])
    points = torch.tensor([[3.0, 4.0, 0], [0, 0, 2.0], [5.0, 0, 0], [0, 0, 0]])
    _, off = D.coordinates(points, torch.zeros(3), axes)
    assert off.tolist() == pytest.approx([0.8, 1, 0, 0], abs=1e-12)


def test_step_ratio_is_relative_to_the_filters():
    model = built(TinyCNN)
    (direction,), theta, layout = drawn(model, "filter")
    assert D.step_ratio(direction, theta, layout) == pytest.approx(1, rel=1e-6)  # float32
    assert D.step_ratio(2 * direction, theta, layout) == pytest.approx(2, rel=1e-6)
    flat = quadratic(rotated([1.0, 2.0]))
    assert D.step_ratio(flat.theta, flat.theta, flat.layout) == pytest.approx(1)  # there are no filters
    assert np.isnan(D.step_ratio(flat.theta, flat.theta * 0, flat.layout))


# --- by name ------------------------------------------------------------------------------------------------------


def test_hessian_directions_are_eigenvectors():
    matrix = rotated([5.0, 4.0, 1.0, 0.0, -2.0])
    objective = quadratic(matrix)
    top = D.directions_for("hessian", objective, 2)
    assert torch.allclose(top.vectors @ matrix, torch.tensor([[5.0], [4.0]]) * top.vectors, atol=1e-12)
    ends = D.directions_for("hessian-ends", objective, 2)
    assert torch.allclose(ends.vectors @ matrix, torch.tensor([[5.0], [-2.0]]) * ends.vectors, atol=1e-12)
    assert [label.split(" ± ")[0] for label in ends.labels] == ["eigenvector of 5", "eigenvector of -2"]
    assert D.directions_for("hessian-ends", objective, 1).vectors.shape == (1, 5)


def test_directions_already_made_are_fitted_and_checked():
    objective = Objective(built(perceptron), vectors(), loss=F.cross_entropy)
    made = D.Directions("own", torch.randn(2, objective.size, dtype=torch.float64), ("a", "b"))
    line = D.directions_for(made, objective, 1)
    assert (line.vectors.shape, line.vectors.dtype, line.labels) == ((1, 57), torch.float32, ("a",))
    with pytest.raises(ValueError, match="the directions have 4 entries, the objective has 57 parameters"):
        D.directions_for(D.Directions("own", torch.zeros(1, 4), ("a",)), objective, 1)
    with pytest.raises(ValueError, match=r"own gives 1 direction\(s\), 2 are needed"):
        D.directions_for(line, objective, 2)
    with pytest.raises(ValueError, match="directions must be one of filter, layer, weight, gaussian, hessian"):
        D.directions_for("random", objective, 1)


def test_the_name_of_directions_tells_them_apart():
    vectors_, path = torch.eye(2), torch.zeros(1, 2)
    names = {
        str(D.Directions("own", vectors_, ("a", "b"))),
        str(D.Directions("own", 2 * vectors_, ("a", "b"))),
        str(D.Directions("other", vectors_, ("a", "b"))),
        str(D.Directions("own", vectors_, ("a", "b"), path=path)),
    }
    assert len(names) == 4
    assert str(D.Directions("own", vectors_, ("a", "b"))) in names


@pytest.mark.parametrize("kind", D.KINDS)
def test_every_kind_gives_finite_vectors_of_the_objectives_type(kind):
    model, data = network("BatchNorm", torch.float32)
    made = D.directions_for(kind, Objective(model, data, loss=F.cross_entropy), 2)
    assert made.vectors.dtype == torch.float32
    assert made.vectors.isfinite().all()
    assert len(made.labels) == 2
    assert abs(D.cosine(*made.vectors)) < 1e-6  # float32


def test_parameters_that_do_not_vary_have_no_direction():
    objective = Objective(built(TinyCNN), images(), loss=F.cross_entropy, parameters="fc.*")
    assert D.directions_for("filter", objective, 1).vectors.shape == (1, 16)
