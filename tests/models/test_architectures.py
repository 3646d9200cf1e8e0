"""Every architecture on every kind of input, under every norm, and parameter counts by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.activations import ACTIVATIONS
from models.architectures import ARCHITECTURES, build_model
from models.architectures.inception import Inception
from models.architectures.linear import RandomFeatures
from models.architectures.mobilenet import InvertedBottleneck, SqueezeExcitation
from models.architectures.vit import Attention, Patches, TransformerBlock
from models.normalization import NORMS
from tests.problems import seeded

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 40)]
SMALL = {"mlp": 8, "lenet": 3, "wideresnet": 1, "inception": 1, "deep-linear": 8, "random-features": 8, "vit": 8}
WRITTEN = {"ghost-batch": "ghost-batch:2", "leaky-relu": "leaky-relu:0.01"}
"""Choices that need an option."""

WITH_NORM = [name for name in ARCHITECTURES if "norm" in ARCHITECTURES.options(name)]
WITH_ACTIVATION = [name for name in WITH_NORM if "activation" in ARCHITECTURES.options(name)]
WITH_MAXOUT = ["mlp", "lenet", "cnn", "vgg", "alexnet", "inception", "vit"]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def small(name: str, shape: tuple[int, ...] = (1, 8, 8), **options) -> nn.Module:
    return build_model(name, shape, 7, **{"width": SMALL.get(name, 4), **options})


def check_training_step(model: nn.Module, shape: tuple[int, ...]) -> None:
    logits = model(torch.randn(4, *shape, generator=seeded(0)))
    F.cross_entropy(logits, torch.arange(4)).backward()
    assert logits.shape == (4, 7)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_forward_and_backward_on_every_kind_of_input(name, shape):
    check_training_step(small(name, shape), shape)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", WITH_NORM)
def test_forward_and_backward_under_every_norm(name, norm):
    if name == "mlp" and norm == "instance":
        pytest.skip("vectors have no places to average over")
    for shape in ((1, 8, 8), (1, 40)):
        check_training_step(small(name, shape, norm=WRITTEN.get(norm, norm)), shape)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", WITH_ACTIVATION)
def test_forward_and_backward_with_every_activation(name, activation):
    options = {"activation": WRITTEN.get(activation, activation)}
    if activation == "maxout" and name not in WITH_MAXOUT:
        with pytest.raises(ValueError, match=f"model '{name}' also activates sums .* use it with mlp, lenet, cnn"):
            small(name, **options)
        return
    check_training_step(small(name, **options), (1, 8, 8))


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
        # DeiT-Ti has 5,717,416 with 1000 classes, of which a class token and its place
        ("vit", (3, 224, 224), {"width": 192, "depth": 12, "heads": 3, "patch": 16}, 5_717_416 - 2 * 192 - 990 * 193),
    ],
)
def test_parameter_counts_of_known_networks(name, shape, options, expected):
    assert count(build_model(name, shape, 10, **options)) == expected


def test_parameter_counts_of_known_blocks():
    assert count(Inception(2, 192, 16, "none", "relu")) == 163_696  # GoogLeNet's 3a, with biases
    stages = (
        (1, 16, 1, 3),
        (2, 24, 6, 3),
        (2, 40, 6, 5),
        (3, 80, 6, 3),
        (3, 112, 6, 5),
        (4, 192, 6, 5),
        (1, 320, 6, 3),
    )
    total, channels = convolution(9, 3, 32) + convolution(1, 320, 1280) + dense(1280, 1000), 32
    for repeats, after, expansion, kernel in stages:
        for _ in range(repeats):
            total += count(InvertedBottleneck(2, channels, after, expansion, kernel, 1, "batch", "silu", True))
            channels = after
    assert total == 5_288_548  # EfficientNet-B0


def dense(*sizes: int) -> int:
    """Linear layers with biases."""
    return sum(a * b + b for a, b in pairwise(sizes))


def convolution(field: int, channels_in: int, channels: int) -> int:
    """A convolution without bias and its batch norm."""
    return field * channels_in * channels + 2 * channels


def preresnet_count(channels: int, w: int, n: int) -> int:
    total, c = 9 * channels * w, w
    for stage in (w, 2 * w, 4 * w):
        for block in range(n):
            total += 2 * c + 9 * c * stage + 2 * stage + 9 * stage * stage
            total += c * stage if c != stage and not block else 0
            c = stage
    return total + 2 * c + dense(c, 10)


def alexnet_count(channels: int, w: int, places: int) -> int:
    shapes = [(25, channels, w), (25, w, 3 * w), (9, 3 * w, 6 * w), (9, 6 * w, 4 * w), (9, 4 * w, 4 * w)]
    return sum(f * a * b + b for f, a, b in shapes) + dense(4 * w * places, 16 * w, 16 * w, 10)


def inception_count(channels: int, units: list[int]) -> int:
    total, c = convolution(9, channels, 4 * units[0]), 4 * units[0]
    for u in units:
        total += convolution(1, c, 4 * u) + convolution(1, c, 6 * u) + convolution(9, 6 * u, 8 * u)
        total += convolution(1, c, u) + convolution(25, u, 2 * u) + convolution(1, c, 2 * u)
        c = 16 * u
    return total + dense(c, 10)


def mobilenet_count(channels: int, widths: list[int]) -> int:
    total = convolution(9, channels, widths[0])
    for c, after in pairwise(widths):
        total += convolution(9, 1, c) + convolution(1, c, after)
    return total + dense(widths[-1], 10)


def efficientnet_count(channels: int, first: int, blocks: list[tuple[int, int, int]]) -> int:
    """Blocks are (channels, expansion, field)."""
    total, c = convolution(9, channels, first), first
    for after, expansion, field in blocks:
        e, s = c * expansion, max(c // 4, 1)
        total += convolution(1, c, e) if expansion > 1 else 0
        total += convolution(field, 1, e) + dense(e, s, e) + convolution(1, e, after)
        c = after
    return total + convolution(1, c, 4 * c) + dense(4 * c, 10)


def vit_count(entries: int, tokens: int, d: int, depth: int) -> int:
    block = 2 * d + 4 * dense(d, d) + 2 * d + dense(d, 4 * d, d)
    return dense(entries, d) + tokens * d + depth * block + 2 * d + dense(d, 10)


COUNTS = [
    ("preresnet", (3, 32, 32), {"depth": 20}, preresnet_count(3, 16, 3)),
    ("preresnet", (1, 8, 8), {"width": 5, "depth": 8}, preresnet_count(1, 5, 1)),
    ("alexnet", (1, 8, 8), {}, alexnet_count(1, 16, 2 * 2)),
    ("alexnet", (1, 28, 28), {"width": 4}, alexnet_count(1, 4, 4 * 4)),
    ("alexnet", (3, 32, 32), {"width": 4}, alexnet_count(3, 4, 4 * 4)),
    ("inception", (1, 8, 8), {}, inception_count(1, [2, 4, 8])),
    ("inception", (3, 32, 32), {"width": 3, "depth": 5}, inception_count(3, [3, 6, 12, 12, 12])),
    ("mobilenet", (1, 8, 8), {}, mobilenet_count(1, [8, 16, 32, 32, 64, 64])),
    ("mobilenet", (3, 32, 32), {"width": 2, "depth": 6}, mobilenet_count(3, [2, 4, 8, 8, 16, 16, 32])),
    (
        "efficientnet",
        (1, 8, 8),
        {},
        efficientnet_count(1, 8, [(8, 1, 9), (12, 6, 9), (12, 6, 9), (20, 6, 25), (20, 6, 25)]),
    ),
    ("efficientnet", (3, 32, 32), {"depth": 1}, efficientnet_count(3, 8, [(8, 1, 9), (12, 6, 9), (20, 6, 25)])),
    ("vit", (1, 8, 8), {}, vit_count(2 * 2, 16, 32, 2)),
    ("vit", (1, 28, 28), {"width": 8, "depth": 1}, vit_count(7 * 7, 16, 8, 1)),
    ("vit", (3, 32, 32), {"patch": 4}, vit_count(3 * 4 * 4, 64, 32, 2)),
    ("vit", (1, 40), {}, vit_count(5, 8, 32, 2)),
    ("deep-linear", (1, 8, 8), {"width": 5, "depth": 4}, 64 * 5 + 5 * 5 + 5 * 5 + 5 * 10),
    ("deep-linear", (1, 8, 8), {"depth": 1}, 64 * 10),
    ("random-features", (1, 8, 8), {"width": 30}, 30 * 10),
]


@pytest.mark.parametrize(("name", "shape", "options", "expected"), COUNTS)
def test_parameter_counts_by_hand(name, shape, options, expected):
    assert count(build_model(name, shape, 10, **options)) == expected


@pytest.mark.parametrize(
    ("name", "shape", "options", "stated"),
    [
        ("preresnet", (3, 8, 8), {"width": 4, "depth": 14}, 27 * 4 + (378 * 2 - 80) * 16 + 2 * 29 * 4 + 17 * 10),
        ("alexnet", (3, 8, 8), {"width": 2}, 150 + 597 * 4 + 36 + (8 * 4 + 1) * 32 + 33 * 32 + 33 * 10),
        ("vit", (1, 8, 8), {"width": 8, "depth": 3}, 5 * 8 + 16 * 8 + 3 * (12 * 64 + 13 * 8) + 16 + 9 * 10),
    ],
)
def test_the_formulas_that_the_docstrings_state(name, shape, options, stated):
    assert count(build_model(name, shape, 10, **options)) == stated


def test_maxout_doubles_the_layers_before_it():
    relu, maxout = (build_model("mlp", (1, 8, 8), 10, width=5, activation=a) for a in ("relu", "maxout"))
    assert count(relu) == dense(64, 5, 5, 10)
    assert count(maxout) == 2 * dense(64, 5) + 2 * dense(5, 5) + dense(5, 10)
    three = build_model("cnn", (1, 8, 8), 10, width=5, depth=1, activation="maxout:3")
    assert count(three) == convolution(9, 1, 15) + dense(5, 10)


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


@pytest.mark.parametrize("name", ["wideresnet", "preresnet"])
def test_pre_activation_block_without_skip_drops_the_input(name):
    block = build_model(name, (1, 8, 8), 10, width=1, skip=False).body.stage1[0]
    nn.init.zeros_(block.conv2.weight)
    assert block(torch.rand(2, block.conv1.in_channels, 8, 8)).count_nonzero() == 0


def test_pre_activation_leaves_the_way_around_untouched():
    """What He et al. changed: signs survive a block whose branch is zero; in the first form its ReLU takes them."""
    x = torch.randn(2, 4, 8, 8, generator=seeded(0))
    for name, expected in (("preresnet", x), ("resnet", x.relu())):
        block = build_model(name, (1, 8, 8), 10, width=4, norm="none").body.stage1[0]
        nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(block.conv2.bias)
        assert torch.equal(block(x), expected)


def test_inception_concatenates_its_four_ways():
    module = build_model("inception", (1, 8, 8), 10, width=1, depth=1).inception1.eval()
    x = torch.randn(2, 4, 8, 8, generator=seeded(0))
    y = module(x)
    for part, way in zip(
        y.split([4, 8, 2, 2], dim=1), (module.one, module.three, module.five, module.pool), strict=True
    ):
        assert torch.equal(part, way(x))


def test_depthwise_convolutions_look_at_one_channel():
    depthwise = build_model("mobilenet", (1, 8, 8), 10).block1[0].conv
    x = torch.zeros(1, 8, 8, 8)
    x[:, 3] = torch.rand(8, 8, generator=seeded(0))
    assert [c for c in range(8) if depthwise(x)[0, c].any()] == [3]


def test_squeeze_and_excitation_by_hand():
    layer = SqueezeExcitation(4, 2, "relu").double()
    x = torch.randn(3, 4, 5, 6, generator=seeded(0), dtype=torch.float64)
    hidden = F.relu(x.mean((2, 3)) @ layer.squeeze.weight.T + layer.squeeze.bias)
    gate = 1 / (1 + torch.exp(-(hidden @ layer.excite.weight.T + layer.excite.bias)))
    torch.testing.assert_close(layer(x), x * gate[:, :, None, None], rtol=1e-12, atol=0)


def test_efficientnet_adds_only_where_shapes_agree():
    model = build_model("efficientnet", (1, 8, 8), 10)
    assert [[block.skip for block in stage] for stage in (model.stage1, model.stage2, model.stage3)] == [
        [True],
        [False, True],
        [False, True],
    ]
    assert not build_model("efficientnet", (1, 8, 8), 10, skip=False).stage1[0].branches()


def test_attention_against_torch():
    ours = Attention(12, 3).double()
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        layers = (ours.query, ours.key, ours.value)
        theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in layers]))
        theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in layers]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(2, 5, 12, generator=seeded(0), dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0], rtol=1e-12, atol=1e-14)


def test_a_transformer_block_is_blind_to_order_and_places_are_not():
    block = TransformerBlock(8, 2, "layer", "gelu").double()
    x = torch.randn(2, 6, 8, generator=seeded(0), dtype=torch.float64)
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    torch.testing.assert_close(block(x)[:, order], block(x[:, order]), rtol=1e-12, atol=1e-14)
    patches = Patches((1, 8, 8), 8, 2).double()
    images = torch.randn(2, 1, 8, 8, generator=seeded(1), dtype=torch.float64)
    upside_down = images.unflatten(2, (4, 2)).flip(2).flatten(2, 3)  # whole patches in another order
    flipped = patches(images).unflatten(1, (4, 4)).flip(1).flatten(1, 2)
    torch.testing.assert_close(patches(upside_down), flipped, rtol=1e-12, atol=1e-14)
    patches.draw(seeded(2))
    assert (patches(upside_down) - patches(images).unflatten(1, (4, 4)).flip(1).flatten(1, 2)).abs().max() > 0.01


def test_random_features_are_fixed_and_approximate_their_kernels():
    x, y = torch.randn(2, 6, generator=seeded(0), dtype=torch.float64)
    angle = torch.acos(x @ y / (x.norm() * y.norm()))
    arc_cosine = x.norm() * y.norm() * (angle.sin() + (math.pi - angle) * angle.cos()) / (math.pi * 6)
    for activation, expected in (("cosine", torch.exp(-(x - y).square().sum() / 12)), ("relu", arc_cosine)):
        features = RandomFeatures(6, 40_000, activation).double()
        features.draw(seeded(1))
        products = features(x[None])[0] * features(y[None])[0]
        # the kernel is a mean over features; four of its standard errors
        error = 40_000 * products.std() / math.sqrt(40_000)
        assert abs(products.sum() - expected) < 4 * error
        assert not list(features.parameters()) and set(features.state_dict()) == {"weight", "phase"}


def test_a_deep_linear_network_is_one_matrix():
    model = build_model("deep-linear", (1, 8, 8), 3, width=6, depth=4)
    product = model.head.weight @ model.linear3.weight @ model.linear2.weight @ model.linear1.weight
    x = torch.randn(5, 1, 8, 8, generator=seeded(0))
    torch.testing.assert_close(model(x), x.flatten(1) @ product.T, rtol=1e-4, atol=1e-6)  # float32


def test_building_leaves_the_global_random_state():
    before = torch.get_rng_state()
    for name in ARCHITECTURES:
        build_model(name, (1, 8, 8), 10)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnett", {}, "unknown model 'resnett'; did you mean 'resnet'"),
        ("mlp", {"skip": True}, "'mlp' takes no option skip; it takes: width, depth, norm, activation"),
        ("lenet", {"depth": 3}, "'lenet' takes no option depth"),
        ("deep-linear", {"activation": "relu"}, "'deep-linear' takes no option activation; it takes: width, depth"),
        ("random-features", {"norm": "batch"}, "'random-features' takes no option norm"),
        ("random-features", {"activation": "tanh"}, "random features are 'cosine' or 'relu', got activation 'tanh'"),
        ("resnet", {"depth": 9}, r"'resnet' has depth 6n \+ 2"),
        ("preresnet", {"depth": 9}, r"'preresnet' has depth 6n \+ 2"),
        ("wideresnet", {"depth": 8}, r"depth 6n \+ 4"),
        ("vgg", {"depth": 12}, "11, 13, 16 or 19"),
        ("vit", {"width": 10}, "equal heads, got width 10 and 4 heads"),
        ("vit", {"patch": 3}, r"cuts sides \(8, 8\) into whole patches, got patch 3"),
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
    vectors = {"mlp", "deep-linear", "random-features"}
    for name in ARCHITECTURES:
        if name in vectors:
            build_model(name, shape, 10)
            continue
        with pytest.raises(ValueError, match=f"model '{name}' needs .*{message}"):
            build_model(name, shape, 10)
