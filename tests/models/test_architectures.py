"""Every architecture on every kind of input, and parameter counts from the literature."""

from __future__ import annotations

import pytest
import torch

from models.architectures import ARCHITECTURES, build_model
from models.layers import ACTIVATIONS, NORMS, make_activation, make_norm

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 40)]
SMALL = {"mlp": 8, "lenet": 3, "cnn": 4, "vgg": 4, "resnet": 4, "wideresnet": 1}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_forward_and_backward(name, norm, shape):
    if name == "mlp" and norm == "instance":
        pytest.skip("vectors have no places to average over")
    model = build_model(name, shape, 7, norm=norm, width=SMALL[name])
    logits = model(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)))
    logits.square().sum().backward()
    assert logits.shape == (2, 7)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "options", "expected"),
    [
        ("lenet", (1, 28, 28), {}, 61_706),  # LeNet-5 on MNIST, 5x5 with padding 2
        ("lenet", (3, 32, 32), {}, 62_006),  # the same on CIFAR-10, unpadded
        ("resnet", (3, 32, 32), {"depth": 20}, 272_474),  # option B; 269,722 with option A
        ("resnet", (3, 32, 32), {"depth": 56}, 855_770),
        ("resnet", (3, 32, 32), {"depth": 20, "skip": False}, 272_474 - 2_752),
        ("wideresnet", (3, 32, 32), {"depth": 40, "width": 2}, 2_243_546),
        ("wideresnet", (3, 32, 32), {"depth": 16, "width": 4}, 2_748_890),
        # 14,728,266 where the convolutions under batch norm keep their 4,224 idle biases
        ("vgg", (3, 32, 32), {"depth": 16, "width": 64}, 14_728_266 - 4_224),
        ("mlp", (1, 28, 28), {"width": 200, "depth": 2}, 784 * 200 + 200 + 200 * 200 + 200 + 2010),
    ],
)
def test_parameter_counts_of_known_networks(name, shape, options, expected):
    assert count(build_model(name, shape, 10, **options)) == expected


def test_resnet_without_skips_is_a_plain_chain():
    with_skips, without = (build_model("resnet", (1, 8, 8), 10, skip=skip) for skip in (True, False))
    assert not [name for name, _ in without.named_parameters() if "shortcut" in name]
    with torch.no_grad():
        for model in (with_skips, without):
            model.eval()
            model.body.stage1[0].norm2.weight.zero_()
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(with_skips.body.stage1[0](x), x)
    assert without.body.stage1[0](x).count_nonzero() == 0


def test_wide_block_without_skip_drops_the_input():
    model = build_model("wideresnet", (1, 8, 8), 10, width=1, skip=False)
    torch.nn.init.zeros_(model.body.stage1[0].conv2.weight)
    assert model.body.stage1[0](torch.rand(2, 16, 8, 8)).count_nonzero() == 0


def test_building_leaves_the_global_random_state():
    before = torch.get_rng_state()
    build_model("cnn", (1, 8, 8), 10)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnett", {}, "unknown model 'resnett'; did you mean 'resnet'"),
        ("mlp", {"skip": True}, "'mlp' takes no option skip; it takes: width, depth, norm, activation"),
        ("lenet", {"depth": 3}, "'lenet' takes no option depth"),
        ("resnet", {"depth": 9}, r"depth 6n \+ 2"),
        ("wideresnet", {"depth": 8}, r"depth 6n \+ 4"),
        ("vgg", {"depth": 12}, "11, 13, 16 or 19"),
        ("mlp", {"width": 0}, "width must be at least 1, got 0"),
        ("cnn", {"norm": "bach"}, "unknown norm 'bach'; did you mean 'batch'"),
        ("cnn", {"activation": "rellu"}, "unknown activation 'rellu'; did you mean 'relu'"),
        ("mlp", {"norm": "instance"}, "a vector has none of"),
    ],
)
def test_bad_choices_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, (1, 8, 8), 10, **options)


@pytest.mark.parametrize(("shape", "message"), [((64,), "signals"), ((1, 6, 8), "at least 8")])
def test_shapes_that_convolutions_cannot_take(shape, message):
    with pytest.raises(ValueError, match=message):
        build_model("cnn", shape, 10)
    build_model("mlp", shape, 10)


def test_activations_and_their_slope():
    assert make_activation("leaky-relu:0.1")(torch.tensor(-2.0)) == pytest.approx(-0.2)
    for name in ACTIVATIONS:
        make_activation(f"{name}:0.01" if name == "leaky-relu" else name)
    for name, message in [
        ("leaky-relu", "needs its slope"),
        ("leaky-relu:x", "needs its slope"),
        ("elu:1", "no slope"),
    ]:
        with pytest.raises(ValueError, match=message):
            make_activation(name)


@pytest.mark.parametrize(("channels", "groups"), [(64, 8), (8, 4), (6, 2), (5, 1), (2, 1)])
def test_group_norm_has_groups_of_at_least_two(channels, groups):
    assert make_norm("group", channels, 2).num_groups == groups


def test_norm_of_layer_averages_channels_and_places():
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1)) * 7 + 2
    out = make_norm("layer", 4, 1)(x)
    torch.testing.assert_close(out.mean((1, 2)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(out.var((1, 2), unbiased=False), torch.ones(3), atol=1e-4, rtol=0)
