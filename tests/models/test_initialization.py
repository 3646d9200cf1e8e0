"""Laws of initial weights."""

from __future__ import annotations

import math

import pytest
import torch

from models.architectures import build_model
from models.initialization import INITIALIZATIONS, initialize

FAN_IN, FAN_OUT = 300, 200
BIAS = 1 / (3 * FAN_IN)  # variance of U(+-1/sqrt(fan_in))
VARIANCE = {
    "default": 1 / (3 * FAN_IN),
    "zeros": 0.0,
    "constant": 0.0,
    "small-normal": 1e-4,
    "large-normal": 1.0,
    "xavier-uniform": 2 / (FAN_IN + FAN_OUT),
    "xavier-normal": 2 / (FAN_IN + FAN_OUT),
    "he-uniform": 2 / FAN_IN,
    "he-normal": 2 / FAN_IN,
    "orthogonal": 1 / FAN_IN,  # rows of unit length
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", INITIALIZATIONS)
def test_variance(name):
    layer = torch.nn.Linear(FAN_IN, FAN_OUT)
    initialize(layer, name, generator())
    # 60,000 draws: the sample variance of a normal has a relative standard error of sqrt(2 / 60,000) = 0.6 %
    assert layer.weight.var().item() == pytest.approx(VARIANCE[name], rel=0.03, abs=1e-12)
    assert layer.bias.var().item() == pytest.approx(BIAS if name == "default" else 0, rel=0.3)


def test_bounds_of_the_uniform_schemes():
    layer = torch.nn.Linear(FAN_IN, FAN_OUT)
    for name, bound in [
        ("xavier-uniform", 6 / (FAN_IN + FAN_OUT)),
        ("he-uniform", 6 / FAN_IN),
        ("default", 1 / FAN_IN),
    ]:
        initialize(layer, name, generator())
        assert 0.99 * math.sqrt(bound) < layer.weight.abs().max().item() <= math.sqrt(bound) * (1 + 1e-6)


def test_convolution_counts_its_field():
    layer = torch.nn.Conv2d(32, 64, 3)
    initialize(layer, "he-normal", generator())
    assert layer.weight.var().item() == pytest.approx(2 / (32 * 9), rel=0.05)


def test_orthogonal_rows():
    layer = torch.nn.Linear(8, 5)
    initialize(layer, "orthogonal", generator())
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(5), atol=1e-6, rtol=0)


def test_norms_keep_ones_and_zeros_and_the_seed_decides():
    models = [build_model("resnet", (1, 8, 8), 10) for _ in range(3)]
    for model, seed in zip(models, (3, 3, 4), strict=True):
        initialize(model, "he-normal", generator(seed))
    first, same, other = (model.state_dict() for model in models)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["conv.weight"], other["conv.weight"])
    assert (first["norm.weight"] == 1).all() and (first["norm.bias"] == 0).all()
    assert (first["head.bias"] == 0).all()


def test_global_random_state_is_left():
    model = build_model("mlp", (1, 8, 8), 10)
    before = torch.get_rng_state()
    for name in INITIALIZATIONS:
        initialize(model, name, generator())
    assert torch.equal(before, torch.get_rng_state())


def test_unknown_name():
    with pytest.raises(ValueError, match="unknown initialization 'he-norml'; did you mean 'he-normal'"):
        initialize(torch.nn.Linear(2, 2), "he-norml", generator())
