"""Starting from another run, freezing, anchors, tasks, and continual learning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from landscape.store import MissingError, Store
from landscape.weights import load_weights, save_weights
from models.architectures import build_model
from models.data import Examples, load_data
from models.ensembles.members import MEMBERS
from models.opened import AVERAGE_FILE
from models.planes import directions_of
from models.run import RunConfig, open_run, train
from models.transfer.anchors import (
    ANCHORS,
    Before,
    Memory,
    Quadratic,
    Rehearsal,
    distillation_loss,
    fisher_diagonal,
    make_anchor,
)
from models.transfer.continual import Continual, accuracy_metrics, answer_continual, sequence
from models.transfer.freezing import freeze, parameter_groups
from models.transfer.start import classifier_of, copy_weights

TINY = RunConfig(model="cnn", width=4, depth=2, epochs=2, batch_size=64, train_size=200, snapshots="none")
MLP = RunConfig(model="mlp", width=32, depth=1, epochs=6, batch_size=32, optimizer="adam", lr=3e-3, snapshots="none")


def weights_of(folder) -> dict[str, torch.Tensor]:
    return load_weights(folder / "weights.safetensors")[0]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer") / "base"
    train(TINY, folder)
    return folder


# --- start and freeze -----------------------------------------------------------------------------------------


def test_a_run_starts_at_the_weights_of_another(base, tmp_path):
    train(replace(TINY, start=str(base), epochs=0), tmp_path / "run")
    old, new = weights_of(base), weights_of(tmp_path / "run")
    assert all(torch.equal(old[name], new[name]) for name in old)
    about = open_run(tmp_path / "run").about
    assert about["reinitialized"] == [] and about["copied"] == len(old) and len(about["start_sha256"]) == 64


def test_a_classifier_of_other_classes_keeps_its_own_weights():
    torch.manual_seed(0)
    old, new = (build_model("mlp", (1, 8, 8), classes, width=4, depth=1) for classes in (10, 3))
    fresh = new.head.weight.clone()
    copied = copy_weights(new, old.state_dict(), "old")
    assert copied.reinitialized == ("head.weight", "head.bias") and classifier_of(new) == "head"
    assert torch.equal(new.hidden1.weight, old.hidden1.weight) and torch.equal(new.head.weight, fresh)


def test_a_chain_of_starts_that_changed_is_noticed_where_an_anchor_remembers_it(tmp_path):
    first = replace(TINY, epochs=0)
    train(first, tmp_path / "first")
    train(replace(first, start=str(tmp_path / "first")), tmp_path / "second")
    third = replace(first, start=str(tmp_path / "second"))
    train(replace(third, anchor="ewc:1,examples=20"), tmp_path / "before")
    tensors = weights_of(tmp_path / "first")
    tensors["head.bias"] += 1
    save_weights(tmp_path / "first" / "weights.safetensors", tensors)
    train(replace(third, anchor="l2-sp:1"), tmp_path / "near")  # which remembers the second alone
    for name in ("before", "after"):
        with pytest.raises(ValueError, match="have changed since .*second began from them, and an anchor"):
            train(replace(third, anchor="ewc:1,examples=20"), tmp_path / name)
    assert not (tmp_path / "after").exists()


def test_a_penalty_on_a_new_classifier_needs_one(base, tmp_path):
    with pytest.raises(ValueError, match="beta of l2-sp is for a classifier that begins anew, but all weights were"):
        train(replace(TINY, start=str(base), anchor="l2-sp:1,beta=1"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_architecture_is_refused_before_anything_is_written(base, tmp_path):
    with pytest.raises(ValueError, match="another architecture .*width is 4 there, 8 here"):
        train(replace(TINY, start=str(base), width=8), tmp_path / "run")
    with pytest.raises(ValueError, match=r"differs from that of other in 1 tensors \(hidden1.weight is"):
        small, large = (build_model("mlp", (1, side, 8), 10, width=4, depth=1) for side in (7, 8))
        copy_weights(large, small.state_dict(), "other")
    with pytest.raises(MissingError, match="there is no run"):
        train(replace(TINY, start=str(tmp_path / "nothing")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_network_without_a_classifier_is_refused():
    with pytest.raises(ValueError, match="no weight of two axes"):
        classifier_of(nn.BatchNorm1d(3))


def test_a_start_that_changed_is_noticed(tmp_path):
    train(replace(TINY, epochs=0), tmp_path / "base")
    config = replace(TINY, epochs=0, start=str(tmp_path / "base"))
    train(config, tmp_path / "run")
    tensors = weights_of(tmp_path / "base")
    (tmp_path / "base").rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "moved").rename(tmp_path / "elsewhere" / "base")
    moved = replace(config, start=str(tmp_path / "elsewhere" / "base"))
    assert moved.hash == config.hash != replace(config, start="other").hash
    train(moved, tmp_path / "run")  # the same weights in another place are the same start
    tensors["head.bias"] += 1
    save_weights(tmp_path / "elsewhere" / "base" / "weights.safetensors", tensors)
    with pytest.raises(ValueError, match="have changed since"):
        train(moved, tmp_path / "run")


def test_what_is_frozen_moves_by_no_bit(base, tmp_path):
    train(replace(TINY, start=str(base), freeze="trunk"), tmp_path / "frozen")
    train(replace(TINY, start=str(base)), tmp_path / "free")
    old, frozen, free = (weights_of(folder) for folder in (base, tmp_path / "frozen", tmp_path / "free"))
    same = {name for name in old if torch.equal(old[name], frozen[name])}
    assert same == {name for name in old if not name.startswith("head")}
    moved = {name for name in old if not torch.equal(old[name], free[name])}
    assert any("running_mean" in name for name in moved) and any("running_mean" in name for name in same)


def test_frozen_statistics_stay_in_averages_too(base, tmp_path):
    config = replace(TINY, start=str(base), average="ema:0.9", snapshots="epochs:1")
    train(replace(config, freeze="block1"), tmp_path / "frozen")
    train(config, tmp_path / "free")
    old = weights_of(base)
    frozen, free = (load_weights(tmp_path / name / AVERAGE_FILE)[0] for name in ("frozen", "free"))
    first, second = "block1.norm.running_mean", "block2.norm.running_mean"
    assert torch.equal(old[first], frozen[first]) and not torch.equal(old[second], frozen[second])
    assert not torch.equal(old[first], free[first])
    members = MEMBERS.build("snapshots:2,moments=kept", open_run(tmp_path / "frozen"))
    assert all(torch.equal(member.build().block1.norm.running_mean, old[first]) for member in members)


def test_the_trajectory_of_a_frozen_run_lies_in_the_whole_space(base, tmp_path):
    train(replace(TINY, start=str(base), freeze="trunk", snapshots="epochs:1"), tmp_path / "frozen")
    run = open_run(tmp_path / "frozen")
    objective = run.objective()
    directions = directions_of("pca", run, objective)
    head = sum(parameter.numel() for parameter in run.model().head.parameters())
    assert directions.vectors.shape == (2, objective.theta.numel())
    still, moved = directions.vectors[:, :-head].abs().max(), directions.vectors[:, -head:].abs().max()
    assert still < 1e-6 * moved  # rounding of the decomposition


def test_parts_are_frozen_by_the_beginnings_of_their_names():
    network = build_model("cnn", (1, 8, 8), 10, width=4, depth=2)
    still = freeze(network, "block1")
    assert {name.partition(".")[0] for name, p in network.named_parameters() if not p.requires_grad} == {"block1"}
    assert len(still) == 1
    with pytest.raises(ValueError, match="no parameter begins with 'blok'; choose trunk, or of: block1, block2, head"):
        freeze(network, "blok")
    with pytest.raises(ValueError, match="leaves no parameter to train"):
        freeze(network, "trunk,head")


@pytest.mark.parametrize("optimizer", ["sgd", "momentum:form=ema", "adam", "lion"])
def test_the_trunk_learns_at_its_own_rate(optimizer, base, tmp_path):
    network = build_model("mlp", (1, 8, 8), 10, width=4, depth=1)
    head, trunk = parameter_groups(network, 0.5, 0.1)
    assert (head["lr"], trunk["lr"]) == (0.5, 0.05) and len(head["params"]) == len(trunk["params"]) == 2
    config = replace(TINY, optimizer=optimizer, schedule="cosine", clip_norm=1.0, momentum=None, trunk_lr=1e-12)
    train(replace(config, start=str(base)), tmp_path / "run")
    old, new = weights_of(base), weights_of(tmp_path / "run")
    assert torch.allclose(old["block1.conv.weight"], new["block1.conv.weight"], atol=1e-7)
    assert not torch.allclose(old["head.weight"], new["head.weight"], atol=1e-4)


# --- anchors: closed forms ------------------------------------------------------------------------------------


def softmax_regression(features=3, classes=4) -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(features, classes, bias=False).double()


def test_the_minimum_with_l2_sp_is_exact():
    """Minimum of 1/2 sum a_i (w_i - b_i)^2 + s/2 ||w - c||^2 is (a b + s c) / (a + s)."""
    network = nn.Linear(4, 1, bias=False).double()
    a, b = torch.tensor([1.0, 2.0, 3.0, 5.0]).double(), torch.tensor([4.0, -1.0, 0.5, 2.0]).double()
    center = network.weight.detach().clone()
    start = nn.Linear(4, 1, bias=False).double()
    start.load_state_dict(network.state_dict())
    anchor = ANCHORS.build("l2-sp:0.7", Memory([Before(start, None)], ["weight"]))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2)
    for _ in range(300):
        optimizer.zero_grad()
        loss = 0.5 * (a * (network.weight[0] - b) ** 2).sum()
        (loss + anchor.penalty(network, None, None)).backward()
        optimizer.step()
    assert torch.allclose(network.weight[0], (a * b + 0.7 * center[0]) / (a + 0.7), atol=1e-12)


def test_the_fisher_diagonal_is_that_of_softmax_regression():
    """F of W_ki is the mean of p_k (1 - p_k) x_i^2; labels of the data would give another diagonal."""
    network, x = softmax_regression(), torch.randn(37, 3, dtype=torch.float64)
    p = network(x).softmax(1)
    expected = torch.einsum("nk,ni->ki", p * (1 - p), x**2) / 37
    assert torch.allclose(fisher_diagonal(network, x, chunk=5)["weight"], expected, rtol=1e-12)
    residual = p - F.one_hot(torch.zeros(37, dtype=torch.long), 4)
    assert not torch.allclose(torch.einsum("nk,ni->ki", residual**2, x**2) / 37, expected, rtol=0.1)


def test_l2_sp_with_coupled_weights_and_a_new_classifier():
    """The minimum of 1/2 (w - b)' H (w - b) + s/2 |w - c|^2 is (H + s I)^-1 (H b + s c); beta shrinks the head."""
    draw = torch.Generator().manual_seed(0)
    root, b, c = (torch.randn(4, *shape, generator=draw, dtype=torch.float64) for shape in ((4,), (), ()))
    H = root @ root.T + torch.eye(4)
    network, start = (nn.ModuleDict({"trunk": nn.Linear(4, 1, False), "head": nn.Linear(2, 1, False)}) for _ in "ab")
    for each in (network, start):
        each.double().trunk.weight.data.copy_(c)
    anchor = ANCHORS.build("l2-sp:0.7,beta=0.3", Memory([Before(start, None)], ["trunk.weight"]))
    target = torch.tensor([2.0, -1.0]).double()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for _ in range(2000):
        optimizer.zero_grad()
        away = network.trunk.weight[0] - b
        loss = 0.5 * away @ H @ away + 0.5 * (network.head.weight[0] - target).square().sum()
        (loss + anchor.penalty(network, None, None)).backward()
        optimizer.step()
    wanted = torch.linalg.solve(H + 0.7 * torch.eye(4), H @ b + 0.7 * c)
    assert torch.allclose(network.trunk.weight[0], wanted, atol=1e-10)
    assert torch.allclose(network.head.weight[0], target / 1.3, atol=1e-10)


def test_anchors_that_are_joined_add_their_penalties_and_examples():
    start = softmax_regression()
    old = Examples(torch.ones(8, 3).double(), torch.ones(8, dtype=torch.long))
    memory = Memory([Before(start, old)], ["weight"], teacher=start)
    words = ("l2-sp:0.7", "ewc:2", "rehearsal:0.5", "distill:1")
    network, batch = nn.Linear(3, 4, bias=False).double(), Examples(torch.zeros(6, 3).double(), torch.zeros(6).long())
    joined = make_anchor("+".join(words), memory)
    extended = joined.extended(batch)
    assert len(extended.targets) == 12 and int(extended.targets.sum()) == 6
    logits = network(extended.inputs)
    alone = [make_anchor(word, memory).penalty(network, extended.inputs, logits) for word in words]
    assert alone[2] is None and all(part.detach() > 0 for part in alone if part is not None)
    total = joined.penalty(network, extended.inputs, logits)
    assert torch.allclose(total, alone[0] + alone[1] + alone[3], rtol=1e-12)
    config = RunConfig(start="x", anchor="ewc:strength=2.0,examples=1000+l2-sp:0.7,0")
    assert config.anchor == "ewc:strength=2.0+l2-sp:strength=0.7"


def test_ewc_is_the_joint_solution_where_the_old_loss_is_a_diagonal_quadratic():
    """With inputs of diagonal second moment H, the old loss is H/2 (w - w*)^2 exactly, and so EWC joins both."""
    old_h, new_h = torch.tensor([[2.0, 0.5]]).double(), torch.tensor([[1.0, 3.0]]).double()
    old_best, new_best = torch.tensor([[1.0, -1.0]]).double(), torch.tensor([[3.0, 2.0]]).double()
    network = nn.Linear(2, 1, bias=False).double()
    anchor = Quadratic(1.0, [{"weight": (old_h, old_best)}])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2)
    for _ in range(300):
        optimizer.zero_grad()
        loss = 0.5 * (new_h * (network.weight - new_best) ** 2).sum()
        (loss + anchor.penalty(network, None, None)).backward()
        optimizer.step()
    joint = (old_h * old_best + new_h * new_best) / (old_h + new_h)
    assert torch.allclose(network.weight, joint, atol=1e-12)


def test_a_hot_teacher_matches_logits_and_a_cold_one_gives_labels():
    z = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    v = torch.randn(6, 5, dtype=torch.float64)
    (hot,) = torch.autograd.grad(distillation_loss(z, v, 1e4), z)
    centered = (z - z.mean(1, keepdim=True)) - (v - v.mean(1, keepdim=True))
    assert torch.allclose(hot, (centered / 5 / 6).detach(), atol=1e-4)
    (warm,) = torch.autograd.grad(distillation_loss(z, v, 1.0), z)
    assert not torch.allclose(warm, (centered / 5 / 6).detach(), atol=1e-2)
    labels = torch.arange(6) % 5
    certain = 1e3 * F.one_hot(labels, 5).double()
    assert torch.allclose(distillation_loss(z, certain, 1.0), F.cross_entropy(z, labels), rtol=1e-12)


@pytest.mark.parametrize(("share", "new", "old"), [(0.5, 32, 32), (0.2, 32, 8), (0.75, 8, 24)])
def test_the_share_of_old_examples_is_exact(share, new, old):
    pool = Examples(torch.ones(50, 2), torch.ones(50, dtype=torch.long))
    batch = Rehearsal(share, pool).extended(Examples(torch.zeros(new, 2), torch.zeros(new, dtype=torch.long)))
    assert len(batch.targets) == new + old and int(batch.targets.sum()) == old
    assert old / (new + old) == share


# --- tasks and whole runs -------------------------------------------------------------------------------------


def test_tasks_are_cut_from_the_data():
    whole, some, moved = (load_data("digits", task=task) for task in ("all", "classes:3/7", "permuted:1"))
    assert some.train.targets.unique().tolist() == [3, 7] == some.test.targets.unique().tolist()
    assert some.num_classes == whole.num_classes == 10 and some.digest != whole.digest
    assert torch.equal(moved.train.targets, whole.train.targets)
    a, b = (splits.train.inputs.flatten(1) for splits in (whole, moved))
    assert torch.allclose(a.sort(1)[0], b.sort(1)[0], atol=1e-5) and not torch.allclose(a, b)
    assert load_data("digits", task="permuted:0").digest == whole.digest


@pytest.mark.parametrize(
    "anchor", ["l2-sp:0.1", "ewc:10,examples=50", "rehearsal:0.5", "distill:1", "none", "ewc:10,50+rehearsal:0.5"]
)
@pytest.mark.parametrize("sam", [0.0, 0.05])
def test_resumed_is_uninterrupted(anchor, sam, base, tmp_path):
    config = replace(TINY, start=str(base), anchor=anchor, task="classes:0/1/2", epochs=2, train_size=90, sam=sam)
    train(config, tmp_path / "whole")

    def stop(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", progress=stop)
    train(config, tmp_path / "cut")
    whole, cut = (Store(tmp_path / name).read("training") for name in ("whole", "cut"))
    assert whole.attrs["content_digest"] == cut.attrs["content_digest"]
    assert ("train_penalty" in whole) == (anchor.partition(":")[0] in ("l2-sp", "ewc", "distill"))
    old, new = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    assert all(torch.equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"anchor": "ewc:1"}, "needs start: the folder of the run"),
        ({"anchor": "distill:1"}, "needs start, or teacher"),
        ({"anchor": "ewc:-1", "start": "x"}, "'ewc' needs strength of at least 0, got -1"),
        ({"anchor": "rehearsal:1", "start": "x"}, "'rehearsal' needs share between 0 and 1, got 1"),
        ({"anchor": "distill:1,0", "start": "x"}, "'distill' needs temperature above 0, got 0"),
        ({"anchor": "ewc:1+ewc:2", "start": "x"}, "'ewc' is there twice"),
        ({"anchor": "ewc:1+none", "start": "x"}, "'none' stands alone"),
        ({"anchor": "distill:1+l2-sp:1", "teacher": "x"}, "needs start: the folder"),
        ({"anchor": "l2-sp:1,beta=-1", "start": "x"}, "'l2-sp' needs beta of at least 0, got -1"),
        ({"anchor": "ewd:1"}, "unknown anchor 'ewd'; did you mean 'ewc'"),
        ({"teacher": "x"}, "teacher is only for anchor distill"),
        ({"trunk_lr": 0.0}, "trunk_lr must be above 0"),
        ({"trunk_lr": 0.1, "optimizer": "newton", "model": "mlp"}, "one step for all parameters"),
        ({"freeze": "trunk", "norm": "batch:exact"}, "measures all statistics anew"),
        ({"task": "classes:1/1"}, "needs different labels such as 0/1/2"),
        ({"task": "class:1"}, "unknown task 'class'"),
    ],
)
def test_what_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(**values)


def test_tasks_that_the_data_lacks_are_refused():
    with pytest.raises(ValueError, match="asks for class 11, of which the data has no example"):
        load_data("digits", task="classes:0/11")
    with pytest.raises(ValueError, match="needs a seed of at least 0"):
        load_data("digits", task="permuted:-1")


def test_a_teacher_of_other_inputs_is_refused(tmp_path):
    train(replace(MLP, data="mnist1d", epochs=0), tmp_path / "signals")
    with pytest.raises(ValueError, match="cannot take inputs of shape"):
        train(replace(MLP, anchor="distill:1", teacher=str(tmp_path / "signals")), tmp_path / "run")


# --- continual learning ---------------------------------------------------------------------------------------


def test_metrics_of_a_hand_made_matrix():
    a = np.array([[0.9, 0.1, 0.1], [0.5, 0.8, 0.2], [0.6, 0.4, 0.7]])
    found = {name: float(value) for name, value in accuracy_metrics(a).items()}
    assert found["average_accuracy"] == pytest.approx(1.7 / 3)
    assert found["backward_transfer"] == pytest.approx((-0.3 - 0.4) / 2)
    assert found["forgetting"] == pytest.approx((0.3 + 0.4) / 2)
    assert accuracy_metrics(np.stack([a, a]))["forgetting"].shape == (2,)


def test_forgetting_is_seen_and_rehearsal_helps(tmp_path):
    plan = sequence("classes:2", MLP, ("none", "rehearsal:0.5"), (0,))
    answer, path = answer_continual(plan, Store(tmp_path / "c"))
    naive, rehearsed = answer["forgetting"].isel(seed=0).values
    assert naive > 0.5 and rehearsed < naive / 2
    before = path.stat().st_mtime_ns
    again, _ = answer_continual(plan, Store(tmp_path / "c"))
    assert again.attrs["content_digest"] == answer.attrs["content_digest"] and path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ("all",)}, "at least 2 tasks, got 1"),
        ({"methods": ("none", "none")}, "methods must be different"),
        ({"seeds": ()}, "seeds must be different and at least one"),
        ({"methods": ("ewcc:1",)}, "unknown anchor 'ewcc'"),
        ({"methods": ("joint",), "tasks": ("all", "permuted:1")}, "'joint' trains on several classes"),
        ({"config": replace(MLP, task="classes:0/1")}, "are set for each task"),
    ],
)
def test_sequences_that_are_refused(changes, message):
    fields = {"config": MLP, "tasks": ("classes:0/1", "classes:2/3"), "methods": ("none",), "seeds": (0,)}
    with pytest.raises(ValueError, match=message):
        Continual(**{**fields, **changes})


@pytest.mark.parametrize(
    ("text", "message"), [("classes:11", "needs 2 to 10 tasks"), ("permuted:1", "at least 2 tasks")]
)
def test_numbers_of_tasks_that_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        sequence(text, MLP, ("none",), (0,))


def test_names_to_freeze_are_checked_before_the_first_task():
    with pytest.raises(ValueError, match="no parameter begins with 'stage1'"):
        sequence("classes:2", MLP, ("freeze:stage1",), (0,))
    assert sequence("classes:2", MLP, ("freeze:trunk",), (0,)).methods == ("freeze:trunk",)
