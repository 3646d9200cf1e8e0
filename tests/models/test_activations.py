"""Every activation against its formula in float64, and SELU's fixed point."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models.activations import ACTIVATIONS, make_activation, pieces_of, require_entrywise
from models.architectures import build_model
from models.initialization import initialize
from tests.problems import seeded

LAMBDA, ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717


def exponential_below(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x > 0, x, alpha * (x.exp() - 1))


FORMULAS = {
    "relu": lambda x: x.clamp(min=0),
    "tanh": lambda x: 2 / (1 + (-2 * x).exp()) - 1,
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "leaky-relu:0.01": lambda x: torch.where(x > 0, x, 0.01 * x),
    "leaky-relu:negative_slope=0.1": lambda x: torch.where(x > 0, x, 0.1 * x),
    "prelu": lambda x: torch.where(x > 0, x, 0.25 * x),
    "prelu:0.5": lambda x: torch.where(x > 0, x, 0.5 * x),
    "elu": lambda x: exponential_below(x, 1.0),
    "elu:2": lambda x: exponential_below(x, 2.0),
    "selu": lambda x: LAMBDA * exponential_below(x, ALPHA),
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "silu": lambda x: x / (1 + (-x).exp()),
    "swish": lambda x: x / (1 + (-x).exp()),
    "softplus": lambda x: (1 + x.exp()).log(),
    "cosine": lambda x: x.cos(),
    "maxout": lambda x: torch.where(x[:, :3] > x[:, 3:], x[:, :3], x[:, 3:]),
    "maxout:pieces=3": lambda x: torch.stack(x.split(2, dim=1)).amax(0),
    "identity": lambda x: x,
    "linear": lambda x: x,
}


def test_every_activation_has_its_formula():
    assert {text.partition(":")[0] for text in FORMULAS} == set(ACTIVATIONS)


@pytest.mark.parametrize("text", FORMULAS)
def test_formula_and_two_derivatives(text):
    x = torch.randn(5, 6, 4, generator=seeded(0), dtype=torch.float64, requires_grad=True)
    module = make_activation(text, 6).double()
    # 1e-12: torch rounds its SELU constants and approximates exp within a few units in the last place
    torch.testing.assert_close(module(x), FORMULAS[text](x), rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(module, x) and torch.autograd.gradgradcheck(module, x)


def test_prelu_learns_one_slope_a_channel():
    module = make_activation("prelu", 6)
    assert sum(p.numel() for p in module.parameters()) == 6
    with torch.no_grad():
        module.weight.copy_(torch.arange(6.0))
    assert torch.equal(module(-torch.ones(2, 6, 3))[1, :, 2], -torch.arange(6.0))


def test_only_maxout_takes_more_channels():
    assert [pieces_of(text) for text in ("relu", "maxout", "maxout:5")] == [1, 2, 5]
    require_entrywise("prelu", "resnet")


def test_selu_keeps_mean_and_variance_through_fifty_layers():
    """The fixed point (0, 1), with its control: ReLU under the same weights loses everything."""
    finals = {}
    for text in ("selu", "selu:dropout=0.1", "relu"):
        model = build_model("mlp", (256,), 2, width=256, depth=50, activation=text).train()
        initialize(model, "lecun-normal", seeded(0))
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(1)
            finals[text] = model[:-1](torch.randn(64, 256, generator=seeded(2)))
    for text in ("selu", "selu:dropout=0.1"):
        assert abs(finals[text].mean()) < 0.1 and abs(finals[text].var() - 1) < 0.2, text
    assert finals["relu"].var() < 1e-10  # one half a layer


def test_alpha_dropout_is_off_in_evaluation():
    module = make_activation("selu:dropout=0.5", 4).eval()
    x = torch.randn(8, 4, generator=seeded(0))
    assert torch.equal(module(x), nn.functional.selu(x))
    assert module.train()(x).ne(nn.functional.selu(x)).any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("leaky-relu", "activation 'leaky-relu' needs its negative_slope, got 'leaky-relu'; write 'leaky-relu:VALUE'"),
        ("leaky-relu:x", "negative_slope: expected float, got 'x'"),
        ("relu:1", "activation 'relu' takes no option 1; it takes: none"),
        ("selu:dropout=1", r"dropout must be in \[0, 1\), got 1.0"),
        ("maxout:1", "at least two pieces, got 1"),
        ("tahn", "unknown activation 'tahn'; did you mean 'tanh'"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        make_activation(text, 4)


def test_maxout_is_refused_where_it_has_no_pieces():
    with pytest.raises(ValueError, match="model 'resnet' also activates sums"):
        require_entrywise("maxout", "resnet")
