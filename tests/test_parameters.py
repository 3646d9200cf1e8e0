from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape.parameters import ParameterLayout
from tests.problems import TiedFrozenUnused, TinyCNN, Transposed, built


def test_a_tied_parameter_counts_once_and_a_frozen_one_not_at_all():
    layout = ParameterLayout.of(built(TiedFrozenUnused))
    assert layout.names == ("unused", "encoder.weight", "head.weight", "head.bias")
    assert layout.size == 4 + 25 + 15 + 3
    assert layout.sizes == (4, 25, 15, 3)


def test_unflatten_undoes_flatten_and_gives_views():
    model = built(TinyCNN)
    layout = ParameterLayout.of(model)
    theta = layout.current(model)
    parts = layout.unflatten(theta)
    assert {n: p.shape for n, p in parts.items()} == {n: p.shape for n, p in model.named_parameters()}
    assert torch.equal(layout.flatten(parts), theta)
    parts["conv.bias"].zero_()
    assert theta[27:30].eq(0).all()  # after the 3 x 1 x 3 x 3 weights


def test_current_is_a_copy():
    model = built(TinyCNN)
    layout = ParameterLayout.of(model)
    layout.current(model).zero_()
    assert layout.current(model).any()


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("fc.*", ("fc.weight", "fc.bias")),
        ("*.weight", ("conv.weight", "norm.weight", "fc.weight")),
        (["fc.bias", "conv.bias"], ("conv.bias", "fc.bias")),  # in the order of the model
    ],
)
def test_patterns_choose_parameters(pattern, names):
    assert ParameterLayout.of(built(TinyCNN), pattern).names == names


def test_filters_are_numbered_along_axis_0_and_1_for_transposed_convolutions():
    layout = ParameterLayout.of(built(Transposed))
    assert dict(zip(layout.names, layout.filter_axes, strict=True)) == {
        "conv.weight": 0,
        "up.weight": 1,
        "head.weight": 0,
        "head.bias": 0,
    }
    index = layout.unflatten(layout.filter_index())
    assert index["conv.weight"].flatten(1).unique(dim=1).tolist() == [[0], [1]]
    assert index["up.weight"].transpose(0, 1).flatten(1).unique(dim=1).tolist() == [[2], [3], [4]]
    assert index["head.weight"].unique(dim=1).tolist() == [[5], [6], [7], [8]]
    assert index["head.bias"].eq(-1).all()


def test_a_transposed_convolution_may_be_the_whole_model():
    assert ParameterLayout.of(nn.ConvTranspose2d(2, 3, 2, bias=False)).filter_axes == (1,)


def test_layers_are_numbered_by_weight():
    layout = ParameterLayout.of(built(TinyCNN))
    index = layout.unflatten(layout.layer_index())
    assert {name: part.unique().tolist() for name, part in index.items()} == {
        "conv.weight": [0],
        "conv.bias": [-1],
        "norm.weight": [-1],
        "norm.bias": [-1],
        "fc.weight": [1],
        "fc.bias": [-1],
    }


def test_every_entry_knows_its_name():
    layout = ParameterLayout.of(built(TinyCNN))
    named = [layout.name_at(entry) for entry in range(layout.size)]
    assert named == [name for name, size in zip(layout.names, layout.sizes, strict=True) for _ in range(size)]


def test_scalar_parameters_are_laid_out():
    model = nn.Module()
    model.scale = nn.Parameter(torch.tensor(2.0))
    layout = ParameterLayout.of(model)
    assert (layout.size, layout.filter_index().tolist()) == (1, [-1])


def test_refusals():
    model = built(TiedFrozenUnused)
    with pytest.raises(ValueError, match="Flatten has no trainable parameters, so it has no loss landscape"):
        ParameterLayout.of(nn.Flatten())
    with pytest.raises(ValueError, match="no trainable parameters"):
        ParameterLayout.of(nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(ValueError, match=r"'layer3.*' matches no trainable parameter; there are 'unused', 'encoder"):
        ParameterLayout.of(model, "layer3.*")
    with pytest.raises(ValueError, match=r"matches only frozen parameters \('frozen.weight', 'frozen.bias'\)"):
        ParameterLayout.of(model, ["head.*", "frozen.*"])
    with pytest.raises(ValueError, match="needs at least one name or pattern"):
        ParameterLayout.of(model, [])
    with pytest.raises(ValueError, match=r"expected a vector of 47 parameters, got shape \(46,\)"):
        ParameterLayout.of(model).unflatten(torch.zeros(46))
    with pytest.raises(ValueError, match="and 2 more"):
        ParameterLayout.of(nn.Sequential(*[nn.Linear(1, 1) for _ in range(5)]), "no")


def test_a_lazy_parameter_is_named():
    with pytest.raises(ValueError, match="'0.weight', '0.bias' has no shape yet; run the model once"):
        ParameterLayout.of(nn.Sequential(nn.LazyLinear(3)))
