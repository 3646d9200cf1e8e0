"""Laws of initial weights."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.architectures import build_model
from models.initialization import INITIALIZATIONS, check_initialization, initialize
from models.initialization_steps import STEPS, WEIGHTED
from models.layers import Residual
from tests.problems import seeded

FAN_IN, FAN_OUT = 300, 200
BIAS = 1 / (3 * FAN_IN)  # variance of U(+-1/sqrt(fan_in))
VARIANCE = {
    "default": 1 / (3 * FAN_IN),
    "zeros": 0.0,
    "constant": 0.0,
    "constant:0.3": 0.0,
    "normal:0.2": 0.04,
    "uniform:0.3": 0.03,
    "small-normal": 1e-4,
    "large-normal": 1.0,
    "lecun-uniform": 1 / FAN_IN,
    "lecun-normal": 1 / FAN_IN,
    "xavier-uniform": 2 / (FAN_IN + FAN_OUT),
    "xavier-normal": 2 / (FAN_IN + FAN_OUT),
    "he-uniform": 2 / FAN_IN,
    "he-normal": 2 / FAN_IN,
    "orthogonal": 1 / FAN_IN,  # rows of unit length
    "orthogonal:gain=3": 9 / FAN_IN,
}


def test_every_scheme_has_its_variance():
    assert {text.partition(":")[0] for text in VARIANCE} == set(INITIALIZATIONS)


@pytest.mark.parametrize("text", VARIANCE)
def test_variance(text):
    layer = nn.Linear(FAN_IN, FAN_OUT)
    initialize(layer, text, seeded(0))
    # 60,000 draws: the sample variance of a normal has a relative standard error of sqrt(2 / 60,000) = 0.6 %
    assert layer.weight.var().item() == pytest.approx(VARIANCE[text], rel=0.03, abs=1e-12)
    assert layer.bias.var().item() == pytest.approx(BIAS if text == "default" else 0, rel=0.3)


def test_bounds_of_the_uniform_schemes():
    layer = nn.Linear(FAN_IN, FAN_OUT)
    for text, bound in [
        ("xavier-uniform", 6 / (FAN_IN + FAN_OUT)),
        ("he-uniform", 6 / FAN_IN),
        ("lecun-uniform", 3 / FAN_IN),
        ("default", 1 / FAN_IN),
        ("uniform:0.2", 0.2**2),
    ]:
        initialize(layer, text, seeded(0))
        assert 0.99 * math.sqrt(bound) < layer.weight.abs().max().item() <= math.sqrt(bound) * (1 + 1e-6)


def test_convolution_counts_its_field():
    layer = nn.Conv2d(32, 64, 3)
    initialize(layer, "he-normal", seeded(0))
    assert layer.weight.var().item() == pytest.approx(2 / (32 * 9), rel=0.05)
    depthwise = nn.Conv2d(64, 64, 5, groups=64)
    initialize(depthwise, "he-normal", seeded(0))
    assert depthwise.weight.var().item() == pytest.approx(2 / 25, rel=0.15)  # 1,600 draws: 3.5 %


def test_orthogonal_rows():
    layer = nn.Linear(8, 5)
    initialize(layer, "orthogonal", seeded(0))
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(5), atol=1e-6, rtol=0)


def test_norms_keep_ones_and_zeros_and_the_seed_decides():
    models = [build_model("resnet", (1, 8, 8), 10) for _ in range(3)]
    for model, seed in zip(models, (3, 3, 4), strict=True):
        initialize(model, "he-normal", seeded(seed))
    first, same, other = (model.state_dict() for model in models)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["conv.weight"], other["conv.weight"])
    assert (first["norm.weight"] == 1).all() and (first["norm.bias"] == 0).all()
    assert (first["head.bias"] == 0).all()


@pytest.mark.parametrize(("name", "tensor"), [("random-features", "features.phase"), ("vit", "patches.places")])
def test_modules_with_tensors_of_their_own_draw_them_by_the_seed(name, tensor):
    drawn = []
    for seed in (3, 3, 4):
        model = build_model(name, (1, 8, 8), 10)
        initialize(model, "he-normal", seeded(seed))
        drawn.append(model.state_dict())
    assert all(torch.equal(drawn[0][key], drawn[1][key]) for key in drawn[0])
    assert not torch.equal(drawn[0][tensor], drawn[2][tensor])


def test_global_random_state_is_left():
    model = build_model("resnet", (1, 8, 8), 10, norm="none", width=2)
    before = torch.get_rng_state()
    steps = [f"he-normal+{'bias:0.1' if step == 'bias' else step}" for step in STEPS]
    for text in [*VARIANCE, *steps]:
        if text != "he-normal+zero-last-gamma":
            initialize(model, text, seeded(0), torch.rand(4, 1, 8, 8, generator=seeded(1)))
    assert torch.equal(before, torch.get_rng_state())


# --- variance propagation, against theory -----------------------------------------------------------------


def final_second_moments(text: str, activation: str, depth: int, draws: int, width: int = 32) -> Tensor:
    """(draws,) the mean square of what comes out of the last hidden layer before its activation."""
    model = build_model("mlp", (width,), 2, width=width, depth=depth, activation=activation).double()
    x = torch.randn(1, width, generator=seeded(0), dtype=torch.float64)
    x = x / x.square().mean().sqrt()
    found, generator = [], seeded(1)
    for _ in range(draws):
        initialize(model, text, generator)
        with torch.no_grad():
            found.append(model[:-2](x).square().mean())  # without the last activation and the head
    return torch.stack(found)


@pytest.mark.parametrize(
    ("text", "activation", "factor"),
    [
        ("he-normal", "relu", 1.0),
        ("he-uniform", "relu", 1.0),
        ("lecun-normal", "relu", 0.5),
        ("xavier-normal", "relu", 0.5),  # all layers have as many inputs as outputs
        ("lecun-uniform", "identity", 1.0),
        ("xavier-uniform", "identity", 1.0),
        ("he-normal", "identity", 2.0),
        ("orthogonal", "identity", 1.0),
        ("normal:0.1", "identity", 32 * 0.01),
    ],
)
def test_variance_by_layer_is_that_of_theory_in_the_mean_over_draws(text, activation, factor):
    """Each layer multiplies the second moment by width * Var(w) * gain, gain 1/2 for ReLU; here after 5 layers.

    The first layer acts on the input itself, so a ReLU network has only 4 gains.
    """
    moments, depth = final_second_moments(text, activation, 5, 400), 5
    gain = 0.5 if activation == "relu" else 1.0
    expected = factor**depth / gain
    error = moments.std() / math.sqrt(len(moments))
    assert abs(moments.mean() - expected) < 4 * error + 1e-9 * expected
    assert error < 0.15 * expected  # so that the test can tell a factor of two a layer
    if text == "orthogonal":
        assert moments.std() < 1e-12  # lengths are kept exactly


def test_a_residual_network_without_zero_ends_doubles_its_variance_and_with_them_keeps_it():
    """x + W2 W1 x with Var(w) = 1 / fan_in, and zeros around the edge: exact for each place, in the mean over draws."""
    model = build_model("preresnet", (1, 12, 12), 2, width=8, depth=14, norm="none", activation="identity").double()
    blocks = model.body.stage1
    x = torch.ones(1, 8, 12, 12, dtype=torch.float64)
    box = torch.full((1, 1, 3, 3), 1 / 9, dtype=torch.float64)
    moment = torch.ones(1, 1, 12, 12, dtype=torch.float64)
    for _ in blocks:
        moment = moment + F.conv2d(F.conv2d(moment, box, padding=1), box, padding=1)
    assert moment[0, 0, 6, 6].item() == pytest.approx(4, rel=1e-12)  # far from the edge a block doubles it
    drawn, generator = [], seeded(0)
    for _ in range(300):
        initialize(model, "lecun-normal", generator)
        with torch.no_grad():
            drawn.append(blocks(x).square().mean((0, 1)))
    drawn = torch.stack(drawn)
    errors = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - moment[0, 0]).abs() < 5 * errors).all()  # 144 places
    initialize(model, "lecun-normal+zero-last", generator)
    assert torch.equal(blocks(x), x)


# --- symmetry ----------------------------------------------------------------------------------------------


def after_steps(text: str, steps: int = 5) -> nn.Module:
    model = build_model("mlp", (6,), 3, width=5, depth=2, activation="tanh")
    initialize(model, text, seeded(0))
    inputs, targets = torch.randn(20, 6, generator=seeded(1)), torch.arange(20) % 3
    for _ in range(steps):
        gradients = torch.autograd.grad(F.cross_entropy(model(inputs), targets), list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.5 * gradient
    return model


def test_constant_weights_keep_their_units_equal():
    for text in ("constant", "constant:0.5", "constant:0.2+bias:0.1"):
        model = after_steps(text)
        for layer in (model.hidden1, model.hidden2):
            assert (layer.weight - layer.weight[:1]).abs().max() < 1e-6  # float32
            assert (layer.bias - layer.bias[0]).abs().max() < 1e-6
        assert (model.hidden1.weight - 0.2).abs().max() > 1e-3  # and yet they move
    control = after_steps("normal:0.5").hidden1.weight
    assert (control - control[:1]).abs().max() > 0.1


def test_zero_weights_stay_a_critical_point_but_for_the_last_bias():
    model = after_steps("zeros")
    moved = [name for name, parameter in model.named_parameters() if parameter.any()]
    assert moved == ["head.bias"]


def test_large_weights_saturate_tanh():
    model = build_model("mlp", (64,), 3, width=64, depth=2, activation="tanh")
    x = torch.randn(50, 64, generator=seeded(1))
    shares = {}
    for text in ("normal:10", "xavier-normal"):
        initialize(model, text, seeded(0))
        shares[text] = (model[:-1](x).abs() > 0.99).float().mean()
    assert shares["normal:10"] > 0.9 and shares["xavier-normal"] < 0.05


# --- steps -------------------------------------------------------------------------------------------------


def test_biases():
    model = build_model("lenet", (1, 8, 8), 10, width=3)
    initialize(model, "he-normal+bias:0.25", seeded(0))
    layers = [module for module in model.modules() if isinstance(module, WEIGHTED)]
    assert all((layer.bias == 0.25).all() for layer in layers)
    initialize(model, "he-normal+bias-uniform", seeded(0))
    for layer in layers:
        bound = layer.weight[0].numel() ** -0.5
        assert 0.5 * bound < layer.bias.abs().max() <= bound
    bare = build_model("deep-linear", (4,), 2)
    initialize(bare, "he-normal+bias:1+bias-uniform", seeded(0))


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("resnet", {"norm": "batch"}, "he-normal+zero-last-gamma"),
        ("resnet", {"norm": "group"}, "he-normal+zero-last-gamma"),
        ("resnet", {"norm": "none"}, "he-normal+zero-last"),
        ("resnet", {"norm": "none"}, "he-normal+fixup"),
        ("preresnet", {"norm": "batch"}, "he-normal+zero-last"),
        ("wideresnet", {"norm": "none"}, "he-normal+fixup"),
        ("efficientnet", {"norm": "batch"}, "he-normal+zero-last-gamma"),
        ("vit", {"norm": "layer"}, "xavier-uniform+zero-last"),
        ("vit", {"norm": "none"}, "he-normal+fixup"),
    ],
)
def test_zero_ends_make_blocks_their_shortcuts(name, options, text):
    """Whatever the weights inside a branch are, they do not matter yet; with the scheme alone they do."""
    x = torch.randn(4, 1, 8, 8, generator=seeded(1))
    for used, matters in ((text, False), (text.split("+")[0], True)):
        model = build_model(name, (1, 8, 8), 10, width=4 if name != "wideresnet" else 1, **options).double()
        initialize(model, used, seeded(0))
        initialize_head(model)
        before = model(x.double())
        shake_inside(model)
        assert torch.allclose(model(x.double()), before, rtol=1e-10, atol=1e-10) is not matters


def initialize_head(model: nn.Module) -> None:
    """Fixup makes the last layer zero too, which would hide everything."""
    nn.init.normal_(model.head.weight, generator=seeded(5))


def shake_inside(model: nn.Module) -> None:
    """Draw the first layer of every branch anew."""
    for block in model.modules():
        for branch in block.branches() if isinstance(block, Residual) else []:
            nn.init.normal_(branch.layers[0].weight, generator=seeded(6))


def test_fixup_scales_branches_and_ends_with_zero():
    model, plain = (build_model("resnet", (1, 8, 8), 10, norm="none", width=4, depth=14) for _ in range(2))
    initialize(model, "he-normal+fixup", seeded(0))
    initialize(plain, "he-normal", seeded(0))
    blocks = [(a, b) for s in (1, 2, 3) for a, b in zip(*(m.body[s - 1] for m in (model, plain)), strict=True)]
    assert len(blocks) == 6
    for ours, before in blocks:  # L = 6 branches of m = 2 layers: L^(-1/2)
        torch.testing.assert_close(ours.conv1.weight, before.conv1.weight * 6**-0.5)
        assert not ours.conv2.weight.any()
    assert not model.head.weight.any() and torch.equal(model.conv.weight, plain.conv.weight)
    deep = build_model("efficientnet", (1, 8, 8), 10, norm="none", depth=3)
    initialize(deep, "constant:1+fixup", seeded(0))
    # L = 5 branches; those of the second stage have m = 3 layers: L^(-1/4); the first one has m = 2
    assert deep.stage2[1].depthwise.conv.weight.flatten()[0].item() == pytest.approx(5**-0.25)
    assert deep.stage1[0].depthwise.conv.weight.flatten()[0].item() == pytest.approx(5**-0.5)
    assert deep.stage2[0].depthwise.conv.weight.flatten()[0] == 1.0  # no way around it


def outputs_of_layers(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, WEIGHTED):
            hooks.append(module.register_forward_hook(partial(keep, found, name)))
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    return found


def keep(found: dict[str, Tensor], name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    found[name] = output


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"depth": 6, "activation": "relu"}),
        ("mlp", {"depth": 6, "activation": "tanh", "norm": "batch"}),
        ("vgg", {"norm": "none", "width": 4}),
        ("resnet", {"width": 4}),
        ("vit", {}),
        ("mobilenet", {"norm": "ghost-batch:8"}),
    ],
)
def test_lsuv_gives_every_layer_unit_variance(name, options):
    model = build_model(name, (1, 8, 8), 10, **options).double()
    inputs = 3 * torch.randn(24, 1, 8, 8, generator=seeded(1), dtype=torch.float64)
    model(inputs)  # running statistics that are not those of the start
    before = {name: value.clone() for name, value in model.named_buffers()}
    mode = model.eval().training
    initialize(model, "orthogonal+lsuv", seeded(0), inputs)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert model.training == mode and not any(module._forward_hooks for module in model.modules())
    for layer, output in outputs_of_layers(model.train(), inputs).items():
        assert output.var(correction=0).item() == pytest.approx(1, abs=1e-10), layer


def test_lsuv_with_biases_comes_within_its_tolerance():
    model = build_model("mlp", (8,), 3, width=6, depth=3)
    inputs = torch.randn(30, 8, generator=seeded(1))
    initialize(model, "default+lsuv:tolerance=0.01", seeded(0), inputs)
    for output in outputs_of_layers(model, inputs).values():
        assert abs(output.var(correction=0) - 1) <= 0.01
    # the control: torch's own weights are far from it
    initialize(model, "default", seeded(0))
    assert outputs_of_layers(model, inputs)["head"].var() < 0.2


def test_lsuv_is_decided_by_seed_and_inputs():
    weights = []
    for seed, examples in ((0, 24), (0, 24), (1, 24), (0, 12)):
        model = build_model("cnn", (1, 8, 8), 10, width=4)
        initialize(model, "orthogonal+lsuv", seeded(seed), torch.rand(24, 1, 8, 8, generator=seeded(1))[:examples])
        weights.append(model.head.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.allclose(weights[0], weights[2]) and not torch.allclose(weights[0], weights[3])


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("he-norml", "unknown initialization 'he-norml'; did you mean 'he-normal'"),
        ("he-normal+zero-lst", "unknown step of initialization 'zero-lst'; did you mean 'zero-last'"),
        ("lsuv", r"'lsuv' follows a scheme that fills the weights; write 'he-normal\+lsuv'"),
        ("normal", "initialization 'normal' needs its std, got 'normal'; write 'normal:VALUE'"),
        ("normal:-1", "'normal': std must be at least 0 and finite, got -1.0"),
        ("uniform:inf", "'uniform': bound must be at least 0 and finite, got inf"),
        ("he-normal:2", "initialization 'he-normal' takes no option 2; it takes: none"),
        ("he-normal+bias", "step of initialization 'bias' needs its value"),
    ],
)
def test_texts_that_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        check_initialization(text)
    with pytest.raises(ValueError, match=message):
        initialize(nn.Linear(2, 2), text, seeded(0))


@pytest.mark.parametrize(
    ("name", "options", "text", "message"),
    [
        ("mlp", {}, "he-normal+zero-last", "'zero-last' acts on residual branches, and this model has none"),
        ("resnet", {"skip": False}, "he-normal+zero-last-gamma", "this model has none"),
        ("preresnet", {"skip": False}, "he-normal+zero-last", "this model has none"),
        ("resnet", {"norm": "none"}, "he-normal+zero-last-gamma", "a norm that has a scale; use 'zero-last'"),
        ("resnet", {"norm": "layer:affine=no"}, "he-normal+zero-last-gamma", "a norm that has a scale"),
        ("preresnet", {}, "he-normal+zero-last-gamma", "a norm that has a scale; use 'zero-last'"),
        ("resnet", {}, "he-normal+zero-last", "whose gradient is .* use 'zero-last-gamma', or norm 'none'"),
        ("resnet", {}, "he-normal+fixup", "'fixup' is for residual networks without norms"),
        ("vit", {}, "he-normal+fixup", "without norms"),
        ("mlp", {}, "zeros+lsuv", "a variance of 0.0 in the output of 'hidden1'"),
        ("resnet", {"norm": "none"}, "he-normal+zero-last+lsuv", "in the output of 'body.stage1.0.conv2'"),
        ("mlp", {}, "default+lsuv:0", "cannot bring the variance of 'hidden1' within 0.0 of 1 in 10 passes"),
    ],
)
def test_steps_that_find_nothing_to_act_on(name, options, text, message):
    model = build_model(name, (1, 8, 8), 10, **options)
    with pytest.raises(ValueError, match=message):
        initialize(model, text, seeded(0), torch.rand(6, 1, 8, 8, generator=seeded(1)))


def test_lsuv_needs_examples():
    with pytest.raises(ValueError, match="'lsuv' looks at examples to scale the weights; pass inputs="):
        initialize(nn.Linear(2, 2), "orthogonal+lsuv", seeded(0))
