"""Curves by their control points."""

from __future__ import annotations

from math import asinh, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from landscape.parameters import ParameterLayout
from landscape.paths import Curve
from landscape.store import MissingError, Store
from tests.problems import built, perceptron, seeded

T = np.linspace(0, 1, 13)


def points(count: int, size: int = 7, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, size, generator=seeded(count), dtype=dtype)


def test_one_bend_follows_the_formulas_of_garipov():
    w1, theta, w2 = points(3)
    chain, bezier = (Curve(kind, torch.stack([w1, theta, w2])) for kind in ("polychain", "bezier"))
    for t in T:
        on_chain = 2 * (t * theta + (0.5 - t) * w1) if t <= 0.5 else 2 * ((t - 0.5) * w2 + (1 - t) * theta)
        torch.testing.assert_close(chain.at(t), on_chain)
        torch.testing.assert_close(bezier.at(t), (1 - t) ** 2 * w1 + 2 * t * (1 - t) * theta + t**2 * w2)


def casteljau(control: torch.Tensor, t: float) -> torch.Tensor:
    """A Bezier curve by repeated halving: no coefficients at all."""
    while len(control) > 1:
        control = (1 - t) * control[:-1] + t * control[1:]
    return control[0]


@pytest.mark.parametrize("count", [2, 4, 6])
def test_a_bezier_curve_of_any_degree_agrees_with_casteljau(count: int):
    control = points(count)
    expected = torch.stack([casteljau(control, float(t)) for t in T])
    torch.testing.assert_close(Curve("bezier", control).at(T), expected)


@pytest.mark.parametrize("kind", ["polychain", "bezier"])
def test_the_ends_are_exact_to_the_last_bit(kind: str):
    control = points(4, dtype=torch.float32)
    control[0, 0], control[-1, 1] = -0.0, -0.0
    curve = Curve(kind, control)
    for t, end in ((0, control[0]), (1.0, control[-1])):
        reached = curve.at(t)
        assert torch.equal(reached, end) and torch.equal(reached.signbit(), end.signbit())
    assert torch.equal(curve.at([0.0, 0.5, 1.0])[[0, -1]], control[[0, -1]])


def test_a_chain_passes_through_its_bends_and_is_as_long_as_its_parts():
    control = points(5)
    chain = Curve("polychain", control)
    torch.testing.assert_close(chain.at(np.linspace(0, 1, 5)), control)
    parts = (control[1:] - control[:-1]).norm(dim=1)
    lengths = chain.arc_lengths(np.array([0.0, 0.25, 0.625, 1.0]))
    np.testing.assert_allclose(lengths, [0, parts[0], parts[0] + parts[1] + parts[2] / 2, parts.sum()], rtol=1e-12)
    assert chain.chord == pytest.approx((control[-1] - control[0]).norm().item())


def test_the_length_of_a_parabola():
    curve = Curve("bezier", torch.tensor([[-1.0, 0], [0, 2], [1, 0]], dtype=torch.float64))  # y = 1 - x^2
    assert curve.arc_lengths(np.array([1.0]))[0] == pytest.approx(sqrt(5) + asinh(2) / 2, rel=1e-6)


def test_a_length_far_from_the_origin_keeps_its_digits():
    control = points(3) + 1e6
    near = Curve("polychain", control - control[0])
    assert Curve("polychain", control).arc_lengths(T) == pytest.approx(near.arc_lengths(T), rel=1e-9)


def test_bends_begin_at_equal_steps_of_the_line():
    first, last = points(2)
    curve = Curve("polychain", torch.stack([first, last])).with_bends(3, "bezier")
    torch.testing.assert_close(curve.bends, torch.stack([torch.lerp(first, last, s) for s in (0.25, 0.5, 0.75)]))
    assert not curve.spans_plane and curve.kind == "bezier"
    bent = curve.bent(curve.bends + 0.1)
    assert bent.spans_plane and torch.equal(bent.points[[0, -1]], curve.points[[0, -1]])


def test_a_stored_curve_gives_weights_that_a_model_loads(tmp_path: Path):
    model = built(perceptron)
    layout = ParameterLayout.of(model)
    curve = Curve("bezier", points(3, layout.size, torch.float32), layout)
    Store(tmp_path).write("connection-1", xr.Dataset(curve.variables()).assign_attrs(curve.attributes()))
    read = Curve.load(tmp_path / "connection-1.h5")
    assert torch.equal(read.points, curve.points) and read.layout == layout and str(read) == str(curve)
    model.load_state_dict(read.tensors(0.25), strict=False)
    assert torch.equal(layout.current(model), curve.at(0.25))


def test_what_is_no_curve_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"a curve is one of polychain, bezier, got 'spline'"):
        Curve("spline", points(3))
    with pytest.raises(ValueError, match=r"needs control points \(C, P\) with C of at least 2, got shape \(1, 7\)"):
        Curve("bezier", points(1))
    with pytest.raises(ValueError, match="knows no names of parameters"):
        Curve("bezier", points(3)).tensors(0.5)
    Store(tmp_path).write("slice-1", xr.Dataset({"loss": ("alpha", [1.0, 2.0])}))
    with pytest.raises(ValueError, match="this answer carries no curve"):
        Curve.load(tmp_path / "slice-1.h5")
    with pytest.raises(MissingError):
        Curve.load(tmp_path / "connection-2.h5")
