"""Dropout, DropConnect, stochastic depth and fractional pooling: closed forms, and every architecture with each."""

from __future__ import annotations

import copy
import math
import pickle
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape import Objective
from landscape.free_units import free_units
from models.architectures import ARCHITECTURES, build_model
from models.regularization import REGULARIZERS, check_regularization, regularize
from models.regularization.connections import variance
from models.regularization.depth import Gate, can_skip
from models.regularization.pooling import FractionalMaxPool, pooled_side, regions
from models.stochastic import drawing, stochastic_modules
from tests.models.test_architectures import SMALL
from tests.problems import seeded

TEXTS = [
    "dropout:0.5,inputs=0.2",
    "dropout:mode=classic,where=activations",
    "dropout:where=head",
    "dropconnect",
    "dropconnect:where=head",
    "dropconnect:0.3,where=all",
    "stochastic-depth",
    "stochastic-depth:0.9,mode=inverted",
    "fractional-pool",
    "fractional-pool:1.3,sequence=random,overlapping=no",
    "dropout+dropconnect:0.2",
]
WITH_BRANCHES = {"resnet", "preresnet", "wideresnet", "efficientnet", "vit"}
WITH_POOLINGS = {"cnn", "vgg", "inception"}


def build(name: str, shape: tuple[int, ...] = (1, 8, 8), **options) -> nn.Module:
    return build_model(name, shape, 10, width=SMALL.get(name, 3 if name != "vit" else 8), **options)


def suits(name: str, text: str) -> bool:
    has_branches, has_poolings = name in WITH_BRANCHES, name in WITH_POOLINGS
    has_activations = name != "deep-linear"
    needs = {"depth": has_branches, "pool": has_poolings, "activations": has_activations}
    return all(has for word, has in needs.items() if word in text)


REFUSED = "'stochastic-depth' skips residual|'fractional-pool' takes the place|'dropout' finds no activations"


@pytest.fixture(autouse=True)
def own_draws():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


# --- every one in every architecture --------------------------------------------------------------------------


def test_every_regularizer_is_tried():
    assert {part.partition(":")[0] for text in TEXTS for part in text.split("+")} == set(REGULARIZERS)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 16)])
def test_it_draws_while_training_and_is_fixed_afterwards(name, text, shape):
    plain = build(name, shape)
    network = copy.deepcopy(plain)
    if not suits(name, text):
        with pytest.raises(ValueError, match=REFUSED):
            regularize(network, text)
        return
    regularize(network, text)
    before, after = plain.state_dict(), network.state_dict()
    assert {n: value.shape for n, value in before.items()} == {n: value.shape for n, value in after.items()}
    plain.load_state_dict(after)
    x = torch.randn(4, *shape)
    network.eval()
    assert torch.equal(network(x), network(x)) and torch.equal(copy.deepcopy(network)(x), network(x))
    assert torch.equal(pickle.loads(pickle.dumps(network))(x), network(x))  # noqa: S301 -- our own bytes
    with drawing(network):
        draws = {tuple(network(x).detach().flatten().tolist()) for _ in range(20)}
    assert len(draws) > 1
    network.train()(x).square().sum().backward()
    torch.manual_seed(3)
    first = network(x)
    torch.manual_seed(3)
    assert torch.equal(network(x), first)


@pytest.mark.parametrize("text", ["dropout", "dropconnect", "stochastic-depth:mode=inverted"])
def test_inverted_ones_leave_the_function_as_it_is_after_training(text):
    network = build("resnet").eval()
    x = torch.randn(4, 1, 8, 8)
    before = network(x)
    regularize(network, text)
    assert torch.equal(network.eval()(x), before)


def test_a_copy_draws_for_itself():
    """Hooks must lead to the copy's own dropout, not to that of the network it was copied from."""
    network = build("mlp")
    regularize(network, "dropout")
    other = copy.deepcopy(network).eval()
    network.train()
    x = torch.randn(64, 1, 8, 8)
    assert torch.equal(other(x), other(x)) and not torch.equal(network(x), network(x))


def test_what_draws_is_found():
    network = build("resnet")
    regularize(network, "dropconnect+stochastic-depth+dropout")
    assert [type(module).__name__ for module in stochastic_modules(network)] == ["Gate"] * 3 + ["_Linear", "Dropout"]


@pytest.mark.parametrize("text", ["dropout", "dropconnect", "dropout+dropconnect:where=all"])
def test_units_that_can_be_rescaled_are_found_as_without(text):
    plain, network = build("mlp", norm="none"), build("mlp", norm="none")
    network.load_state_dict(plain.state_dict())
    regularize(network, text)
    data = (torch.randn(20, 1, 8, 8), torch.arange(20) % 10)
    names = [[u.name for u in free_units(Objective(each, data, loss=F.cross_entropy))] for each in (plain, network)]
    assert names[0] == names[1] != []


@pytest.mark.parametrize("text", ["dropout:where=activations", "dropconnect:where=all", "stochastic-depth", "dropout"])
def test_folding_of_batch_norm_leaves_the_loss_as_it_is(text):
    network = build("resnet")
    regularize(network, text)
    data = (torch.randn(20, 1, 8, 8), torch.arange(20) % 10)
    with torch.no_grad():
        network.train()(data[0])
        expected = F.cross_entropy(network.eval()(data[0]), data[1]).item()
    objective = Objective(network, data, loss=F.cross_entropy)
    assert objective.loss().item() == pytest.approx(expected, rel=1e-6)
    many = objective.losses(objective.theta.expand(3, -1))
    assert many.tolist() == pytest.approx([expected] * 3, rel=1e-5)


def test_places_of_dropout():
    def count(name: str, text: str) -> int:
        network = build(name)
        regularize(network, text)
        return len(stochastic_modules(network))

    assert [count("mlp", f"dropout:where={where}") for where in ("dense", "head", "activations")] == [2, 1, 2]
    assert [count("lenet", f"dropout:where={where}") for where in ("dense", "head", "activations")] == [3, 1, 4]
    assert [count("cnn", f"dropout:where={where}") for where in ("dense", "head", "activations")] == [1, 1, 3]
    assert count("mlp", "dropout:inputs=0.2") == 3 == count("deep-linear", "dropout:inputs=0.2")


# --- dropout ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "kept", "later"), [("inverted", 1 / 0.7, 1.0), ("classic", 1.0, 0.7)])
def test_what_is_kept_and_what_comes_later(mode, kept, later):
    """E11 and E12 of the lectures: after training classic scales by the probability of keeping, not of dropping."""
    network = nn.Sequential(nn.Linear(3, 100_000, bias=False), nn.Linear(100_000, 1, bias=False))
    regularize(network, f"dropout:0.3,mode={mode}")
    inputs = []
    network[1].dropout1.register_forward_hook(lambda module, given, output: inputs.append(output))
    nn.init.ones_(network[0].weight)
    network(torch.ones(1, 3))
    assert sorted(set((inputs[0] / 3).flatten().tolist())) == pytest.approx([0, kept])
    assert (inputs[0] > 0).double().mean().item() == pytest.approx(0.7, abs=4 * math.sqrt(0.21 / 100_000))
    network.eval()(torch.ones(1, 3))
    assert (inputs[1] / 3).unique().tolist() == pytest.approx([later])


@pytest.mark.parametrize("mode", ["inverted", "classic"])
def test_dropout_on_linear_regression_is_ridge_regression(mode):
    """Srivastava et al. 2014, section 9.1: E ||y - (R * X) w||^2 = ||y - q X w||^2 + q (1 - q) ||diag(X^T X)^1/2 w||^2.

    q is the probability of keeping; inverted divides it out of the inputs, w = w' / q.
    """
    p, q, copies = 0.4, 0.6, 200_000
    model = build_model("deep-linear", (3,), 1, depth=1)
    x, y = torch.randn(1, 3, generator=seeded(1)), 0.7
    regularize(model, f"dropout:{p},mode={mode}")
    with torch.no_grad():
        losses = (y - model.train()(x.expand(copies, 3))).square().double()
    w = model.head.weight.detach()
    if mode == "classic":
        expected = (y - q * (x @ w.T)).square() + q * (1 - q) * (x.square() @ w.square().T)
    else:
        expected = (y - x @ w.T).square() + (1 - q) / q * (x.square() @ w.square().T)
    error = losses.std().item() / math.sqrt(copies)
    assert losses.mean().item() == pytest.approx(expected.item(), abs=4 * error)
    # the control: without the penalty it would be far off
    assert abs(losses.mean().item() - (y - x @ w.T).square().item()) > 10 * error


# --- DropConnect --------------------------------------------------------------------------------------------------


def test_mean_and_variance_of_dropconnect():
    p, draws = 0.3, 20_000
    model = build_model("deep-linear", (5,), 4, depth=1)
    x = torch.randn(1, 5, generator=seeded(0))
    regularize(model, f"dropconnect:{p}")
    with torch.no_grad():
        fixed = model.eval()(x)
        model.train()
        found = torch.stack([model(x) for _ in range(draws)]).squeeze(1).double()
    expected = variance(model.head, x, p)[0].double()
    assert ((found.mean(0) - fixed[0]).abs() < 4 * (expected / draws).sqrt()).all()
    assert torch.allclose(found.var(0), expected, rtol=0.06)  # 4 standard errors of a variance, sqrt(2 / n)


def test_one_mask_is_shared_by_a_batch():
    model = build_model("deep-linear", (5,), 4, depth=1)
    regularize(model, "dropconnect")
    y = model.train()(torch.ones(7, 5))
    assert torch.allclose(y, y[:1].expand(7, 4), atol=1e-6)
    regularize(model, "dropout")  # the control: its draws are each example's own
    assert not torch.allclose(model(torch.ones(7, 5)), model(torch.ones(7, 5))[:1].expand(7, 4), atol=1e-6)


def test_all_layers_or_those_at_the_end():
    for where, count in (("dense", 1), ("head", 1), ("all", 4)):
        network = build("cnn")
        regularize(network, f"dropconnect:where={where}")
        assert len(stochastic_modules(network)) == count


# --- stochastic depth -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "branches"), [(8, 3), (20, 9)])
def test_survival_falls_linearly_and_the_depth_is_three_quarters_on_average(depth, branches):
    network = build("resnet", depth=depth)
    regularize(network, "stochastic-depth:0.5")
    survivals = [m.survival for m in network.modules() if isinstance(m, Gate)]
    assert survivals == pytest.approx([1 - 0.5 * (k + 1) / branches for k in range(branches)])
    assert sum(survivals) == pytest.approx(float(Fraction(3 * branches - 1, 4)))


def test_branches_of_a_transformer_are_counted_one_by_one():
    network = build("vit", depth=2)
    regularize(network, "stochastic-depth:0.8")
    assert [[g.survival for g in network.get_submodule(f"block{k}").gates] for k in (1, 2)] == [
        pytest.approx([0.8, 0.6]),
        pytest.approx([0.4, 0.2]),
    ]


def test_as_published_a_branch_is_scaled_by_its_survival_after_training():
    network = build("resnet").eval()
    block = network.body.stage1[0]
    x = torch.randn(2, 2, 8, 8) if SMALL.get("resnet", 3) == 2 else torch.randn(2, 3, 8, 8)
    residual = block.norm2(block.conv2(F.relu(block.norm1(block.conv1(x)))))
    regularize(network, "stochastic-depth:0.6")
    assert torch.allclose(network.eval().body.stage1[0](x), F.relu(x + 0.8 * residual), atol=1e-6)


def test_a_skipped_branch_is_not_computed_and_is_what_it_should_be_on_average():
    network = build("preresnet", norm="batch")
    regularize(network, "stochastic-depth:0.9")
    block = network.body.stage3[0]
    norm = block.norm2
    network.train()
    x = torch.randn(4, 1, 8, 8)
    for _ in range(200):
        network(x)
    computed = int(norm.num_batches_tracked)  # of 200, each with probability 0.1
    assert 4 < computed < 40
    assert int(network.body.stage3[0].norm1.num_batches_tracked) == 200  # its projection needs it
    gate, values = Gate(0.3, is_inverted=False).train(), []
    for _ in range(4000):
        values.append(gate(lambda: torch.tensor(1.0), lambda: torch.tensor(2.0)).item())
    assert set(values) == {2.0, 3.0}
    assert sum(values) / 4000 == pytest.approx(2.3, abs=4 * math.sqrt(0.21 / 4000))
    assert gate.eval()(lambda: torch.tensor(1.0), lambda: torch.tensor(2.0)).item() == pytest.approx(2.3)
    inverted = Gate(0.25, is_inverted=True)
    assert {inverted(lambda: torch.tensor(1.0), lambda: torch.tensor(2.0)).item() for _ in range(50)} == {2.0, 6.0}
    assert inverted.eval()(lambda: torch.tensor(1.0), lambda: torch.tensor(2.0)).item() == 3.0


def test_who_can_skip():
    network = build("resnet")
    assert not can_skip(network)
    regularize(network, "stochastic-depth")
    assert can_skip(network)


def test_without_skips_there_is_nothing_to_skip():
    with pytest.raises(ValueError, match="skips residual branches, and this network has none; choose resnet"):
        regularize(build("resnet", skip=False), "stochastic-depth")


# --- fractional pooling -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "ratio", "pooled"), [(36, math.sqrt(2), 25), (8, 1.5, 5), (3, 1.9, 2), (1, 1.5, 1)])
def test_pooled_sides(side, ratio, pooled):
    assert pooled_side(side, ratio) == pooled
    pool = FractionalMaxPool(ratio, "pseudorandom", overlapping=True)
    assert pool(torch.randn(2, 3, side, 2 * side)).shape == (2, 3, pooled, pooled_side(2 * side, ratio))


@pytest.mark.parametrize("sequence", ["pseudorandom", "random"])
@pytest.mark.parametrize("side", [2, 5, 8, 28])
def test_regions_cover_a_side_by_steps_of_one_and_two(sequence, side):
    pool, seen = FractionalMaxPool(1.5, sequence, overlapping=False), set()
    for _ in range(50):
        bounds = pool.bounds(side)
        steps = bounds.diff()
        assert (bounds[0], bounds[-1]) == (0, side) and set(steps.tolist()) <= {1, 2}
        seen.add(tuple(steps.tolist()))
    assert len(seen) > 1 or side == 2
    pool.eval()
    assert torch.equal(pool.bounds(side), pool.bounds(side)) and pool.bounds(side)[-1] == side


def test_the_pseudorandom_sequence_is_that_of_the_paper():
    torch.manual_seed(5)
    u = torch.rand(()).item()
    torch.manual_seed(5)
    found = FractionalMaxPool(1.5, "pseudorandom", overlapping=True).bounds(28)
    cuts = [math.ceil(28 / 18 * (i + u)) for i in range(19)]
    assert found.tolist() == [cut - cuts[0] for cut in cuts]


@pytest.mark.parametrize("overlapping", [False, True])
def test_pooling_takes_the_largest_of_each_rectangle(overlapping):
    pool = FractionalMaxPool(1.5, "random", overlapping).train()
    x = torch.randn(2, 3, 8, 5)
    torch.manual_seed(1)
    rows, columns = pool.bounds(8).tolist(), pool.bounds(5).tolist()
    torch.manual_seed(1)
    found, more = pool(x), int(overlapping)
    for i in range(len(rows) - 1):
        for j in range(len(columns) - 1):
            region = x[:, :, rows[i] : rows[i + 1] + more, columns[j] : columns[j + 1] + more]
            assert torch.equal(found[:, :, i, j], region.amax((2, 3)))


def test_short_regions_name_their_last_place_again():
    assert regions(torch.tensor([0, 2, 3]), 3, overlapping=True).tolist() == [[0, 1, 2], [2, 2, 2]]
    assert regions(torch.tensor([0, 2, 3]), 3, overlapping=False).tolist() == [[0, 1], [2, 2]]


def test_only_poolings_that_shrink_are_replaced():
    network = build("inception")
    regularize(network, "fractional-pool")
    assert isinstance(network.pool1, FractionalMaxPool) and "sequence" not in repr(network.inception1.pool[0])
    assert "1.5, pseudorandom, overlapping=True" in repr(network.pool1)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("droput:0.5", "unknown regularization 'droput'; did you mean 'dropout'"),
        ("dropout:1", r"regularization 'dropout' needs p in \[0, 1\), got 1.0"),
        ("dropout:inputs=-0.1", r"regularization 'dropout' needs inputs in \[0, 1\), got -0.1"),
        ("dropout:where=somewhere", "expected dense | head | activations, got 'somewhere'"),
        ("dropout:0.1+dropout:0.2", "gives dropout twice; leave one out"),
        ("dropconnect:1.5", r"regularization 'dropconnect' needs p in \[0, 1\), got 1.5"),
        ("stochastic-depth:nan", r"regularization 'stochastic-depth' needs p in \[0, 1\), got nan"),
        ("fractional-pool:2", "regularization 'fractional-pool' needs a ratio above 1 and below 2, got 2.0"),
        ("dropout+", "unknown regularization ''"),
        ("dropout:0.5,keep=1", "regularization 'dropout' takes no option keep; it takes: p, mode, where, inputs"),
    ],
)
def test_bad_choices_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        check_regularization(text)


def test_a_pooling_whose_sides_count_stays():
    with pytest.raises(ValueError, match="averages over all places before its classifier, and this one has none"):
        regularize(build("alexnet"), "fractional-pool")
