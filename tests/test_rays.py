"""Random rays: closed forms on quadratics, and what does not depend on anything else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from landscape import Objective, Store, ask
from landscape.directions import Directions
from landscape.figures import draw
from landscape.probes import Rays, Slice
from landscape.probes.rays import unit_rays
from tests.problems import network, quadratic, rotated


def bowl() -> Objective:
    return quadratic(rotated([4.0, 2.0, 1.0, 0.5, 0.25, 0.0]), start=torch.zeros(6, dtype=torch.float64))


def test_the_rise_on_a_quadratic_is_half_the_mean_curvature_in_expectation():
    """E d^T H d = tr(H) / P of a unit ray, so the mean rise is r^2 tr(H) / (2 P), within three standard errors."""
    answer = Rays(rays=600, resolution=2, radius=1.5)(bowl())
    exact = answer["radius"].values ** 2 * (4 + 2 + 1 + 0.5 + 0.25) / (2 * 6)
    errors = answer["loss_rise"].std("ray", ddof=1).values / 600**0.5
    assert np.all(np.abs(answer["mean_loss_rise"].values - exact) < 3 * errors)
    assert not np.all(np.abs(answer["mean_loss_rise"].values - 1.3 * exact) < 3 * errors)


def test_every_ray_is_a_parabola_of_its_own_curvature():
    objective = bowl()
    answer = Rays(rays=5, resolution=2, radius=2.0, seed=3)(objective)
    rays = unit_rays(objective, 5, 3)
    assert torch.allclose(rays.norm(dim=1), torch.ones(5, dtype=rays.dtype))
    theta = objective.theta
    for number, ray in enumerate(rays):
        exact = [(objective.loss(theta + r * ray) - objective.loss(theta)).item() for r in answer["radius"].values]
        assert answer["loss_rise"].values[number] == pytest.approx(exact, rel=1e-6, abs=1e-9)


def test_an_automatic_radius_is_where_the_mean_loss_has_risen_by_log_2():
    answer = Rays(rays=20)(bowl())
    assert answer["mean_loss_rise"].values[-1] == pytest.approx(np.log(2), rel=0.05)
    assert answer["mean_loss_rise_low"].values[-1] < np.log(2) < answer["mean_loss_rise_high"].values[-1] * 1.05


def test_errors_rise_too_and_rays_are_those_of_a_slice():
    model, data = network("perceptron")
    objective = Objective(model, data, F.cross_entropy, also={"test": data})
    answer = Rays(rays=3, resolution=4, radius=4.0)(objective)
    assert {"loss_rise", "error_rise", "test_loss_rise", "test_error_rise"} <= set(answer)
    ray = Directions("ray", unit_rays(objective, 3, 0)[1:2], ("distance",))
    line = Slice(ray, resolution=2, radius=4.0)(objective)
    rise = answer["error_rise"].isel(ray=1, radius=-1).item()
    assert rise == pytest.approx(line["center_accuracy"].item() - line["accuracy"].values[-1])
    assert np.array_equal(answer["error_rise"], answer["test_error_rise"])


def test_every_ray_is_drawn_faint_and_their_mean_over_them(tmp_path):
    model, data = network("perceptron")
    objective = Objective(model, data, F.cross_entropy, also={"test": data})
    answer = ask(Rays(rays=3, resolution=4, radius=4.0), objective, Store(tmp_path))
    (drawing,) = draw(answer).values()
    lines = {line.get_gid(): line for line in drawing.axes[0].lines if line.get_gid()}
    assert set(lines) == {"loss", "test_loss"} and len(drawing.axes[0].lines) == 8
    assert lines["loss"].get_ydata()[1:] == pytest.approx(answer["mean_loss_rise"].values)
    assert lines["loss"].get_xdata()[0] == lines["loss"].get_ydata()[0] == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rays": 1}, "rays must be at least 2, got 1"),
        ({"resolution": 0}, "resolution must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"radius": 0.0}, "radius must be a positive number, or auto, got 0.0"),
    ],
)
def test_what_it_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        Rays(**fields)
