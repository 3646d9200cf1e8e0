from __future__ import annotations

import functools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from landscape.objective import Objective
from tests import oracles
from tests.problems import (
    LinearRegression,
    TiedFrozenUnused,
    TinyCNN,
    built,
    images,
    network,
    only_output,
    perceptron,
    quadratic,
    rotated,
    softmax_regression,
    vectors,
)

# One batch and many are summed in another order: in float64 that is 1e-15; the forward pass in float32 itself may
# round differently for other batch sizes (8e-10 of the loss was measured).
ANY_CUT = 1e-6


def classifier(**options) -> Objective:
    return Objective(built(perceptron), vectors(), loss=F.cross_entropy, **options)


def test_the_kinds_of_modules_are_told():
    assert Objective(built(TinyCNN), images(), loss=F.cross_entropy).module_types() >= {
        TinyCNN,
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.Linear,
    }
    assert classifier().module_types() == {nn.Sequential, nn.Linear, nn.Tanh}


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["softmax regression", "BatchNorm", "tied, frozen, unused", "attention"])
def test_loss_and_gradient_are_those_of_plain_torch(name):
    model, data = network(name)
    objective = Objective(model, data, loss=F.cross_entropy)
    value, theta = oracles.function_of_vector(model, data)
    order = torch.cat([torch.full((p.numel(),), n) for n, p in enumerate(oracles.trainable(model).values())])
    assert len(order) == objective.size
    assert objective.loss().item() == pytest.approx(value(theta).item(), rel=1e-13)  # float64, another order of sums
    assert torch.allclose(objective.gradient(), oracles.gradient(model, data), rtol=1e-12, atol=1e-15)
    moved = theta + 0.1
    assert objective.loss(moved).item() == pytest.approx(value(moved).item(), rel=1e-13)


def test_the_gradient_is_the_slope_of_the_loss():
    model, data = network("perceptron")
    objective = Objective(model, data, loss=F.cross_entropy)
    direction = torch.randn(objective.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slope = objective.gradient() @ direction
    errors = [
        abs(oracles.central_difference(objective.loss, objective.theta, direction, step) - slope)
        for step in (1e-2, 1e-3)
    ]
    assert errors[1] < 1e-5
    assert 50 < errors[0] / errors[1] < 200  # falls as the square of the step


def test_losses_are_the_losses_of_each_point():
    objective = classifier()
    points = torch.stack([objective.theta, objective.theta + 0.1, objective.theta * 0])
    losses = objective.losses(points)
    assert losses.dtype == torch.float64
    assert losses.tolist() == [objective.loss(point).item() for point in points]
    assert losses[2].item() == pytest.approx(torch.tensor(3.0).log().item(), rel=1e-7)  # uniform over 3 classes


def test_metrics_hold_accuracy_where_targets_are_classes_and_the_further_data():
    model = built(perceptron)
    test = vectors(11, seed=5)
    found = Objective(model, vectors(), loss=F.cross_entropy, also={"test": test}).metrics()
    assert list(found) == ["loss", "accuracy", "test_loss", "test_accuracy"]
    with torch.no_grad():
        right = (model(test[0]).argmax(dim=1) == test[1]).sum().item()
        assert found["test_accuracy"] == pytest.approx(right / 11, rel=1e-12)  # 11 is no power of two
        assert found["test_loss"] == pytest.approx(F.cross_entropy(model(test[0]), test[1]).item(), rel=1e-6)  # float32
    regression = Objective(built(LinearRegression), (torch.randn(9, 5), torch.randn(9)), loss=F.mse_loss)
    assert list(regression.metrics()) == ["loss"]


def test_unused_parameters_have_zero_gradient():
    objective = Objective(built(TiedFrozenUnused), vectors(), loss=F.cross_entropy)
    parts = objective.layout.unflatten(objective.gradient())
    assert parts["unused"].tolist() == [0, 0, 0, 0]
    assert parts["encoder.weight"].any()


def test_a_loss_without_parameters_has_zero_gradient():
    objective = Objective(built(perceptron), vectors(), step=lambda model, batch: batch[0].mean())
    assert not objective.gradient().any()


def test_parameters_that_do_not_match_stay():
    model = built(perceptron)
    objective = Objective(model, vectors(), loss=F.cross_entropy, parameters="2.*")
    assert objective.layout.names == ("2.weight", "2.bias")
    whole = Objective(model, vectors(), loss=F.cross_entropy)
    moved = dict(whole.layout.unflatten(whole.theta.clone()))
    moved["2.bias"] += 1
    shifted = objective.layout.flatten(moved)
    assert objective.loss(shifted).item() == whole.loss(whole.layout.flatten(moved)).item()


def test_training_the_model_further_does_not_move_the_objective():
    model = built(perceptron)
    objective = Objective(model, vectors(), loss=F.cross_entropy)
    before = objective.loss().item()
    with torch.no_grad():
        model[0].weight.add_(1.0)
    assert objective.loss().item() == before


def test_step_takes_any_structure():
    inputs, targets = vectors()

    class Dicts(Dataset):
        def __len__(self):
            return len(inputs)

        def __getitem__(self, index):
            return {"x": inputs[index], "y": targets[index], "weight": 1.0}

    def step(model, batch):
        return F.cross_entropy(model(batch["x"]), batch["y"])

    model = built(perceptron)
    objective = Objective(model, DataLoader(Dicts(), batch_size=4, shuffle=True), step=step, batch_size=6)
    assert objective.loss().item() == pytest.approx(
        Objective(model, vectors(), loss=F.cross_entropy).loss().item(), rel=ANY_CUT
    )
    assert list(objective.metrics()) == ["loss"]


def test_batches_kept_as_they_are_count_by_their_examples():
    """Ragged data: the mean over examples is not the mean over batches."""
    lengths, values = [1, 2, 3, 4, 5], torch.tensor([0.0, 1.0, 5.0, 2.0, 9.0])

    class Sequences(Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            return torch.ones(lengths[index]), values[index]

    def step(model, batch):
        sums = torch.stack([part.sum() for part in batch[0]])
        return F.mse_loss(model(sums[:, None])[:, 0], batch[1])

    def collate(items):
        return [x for x, _ in items], torch.stack([y for _, y in items])

    model = built(lambda: nn.Linear(1, 1))
    objective = Objective(model, DataLoader(Sequences(), batch_size=2, collate_fn=collate), step=step)
    with torch.no_grad():
        expected = F.mse_loss(model(torch.tensor(lengths).float()[:, None])[:, 0], values).item()
    assert objective.loss().item() == pytest.approx(expected, rel=1e-6)  # float32 forward pass
    assert len(objective.examples) == 5


def test_a_subset_of_the_examples():
    objective = classifier(examples=9)
    assert len(objective.examples) == 9
    assert objective.identity()["num_examples"] == 9


# --- cutting into batches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 7, 22, 23, 1000])
def test_the_batch_size_changes_nothing(batch_size):
    whole, cut = classifier(batch_size=23), classifier(batch_size=batch_size)
    assert cut.loss().item() == pytest.approx(whole.loss().item(), rel=ANY_CUT)
    assert cut.metrics()["accuracy"] == pytest.approx(whole.metrics()["accuracy"], rel=1e-12)  # sums of integers
    assert torch.allclose(cut.gradient(), whole.gradient(), atol=1e-6)


def test_the_mean_of_batch_means_would_fail():
    """Control: the last of 7 + 7 + 7 + 2 examples counts as much as the others in the wrong formula."""
    objective = classifier(batch_size=7)
    with torch.no_grad(), objective.at():
        wrong = torch.stack([objective.batch_loss(batch) for batch, _ in objective.examples.batches(7)]).mean()
    assert abs(wrong.item() / objective.loss().item() - 1) > 100 * ANY_CUT


def test_the_measured_batch_size_does_not_depend_on_a_clock():
    sizes = {classifier().batch_size for _ in range(3)}
    assert sizes == {32}  # the power of two that holds all 23


def test_a_model_with_large_activations_gets_small_batches():
    model = nn.Sequential(nn.Linear(5, 200_000), nn.Linear(200_000, 1))
    objective = Objective(model, (torch.randn(64, 5), torch.randn(64, 1)), loss=F.mse_loss)
    assert objective.batch_size == 16  # 800 kB an example, under 16 MiB together


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_out_of_memory_halves_the_batch_and_uses_no_partial_sum(error):
    """The first two batches of 16 fit and the third does not: what they summed to must be forgotten."""
    calls = []

    class Hungry(nn.Linear):
        def forward(self, inputs):
            calls.append(len(inputs))
            if len(inputs) > 16 or (len(inputs) == 16 and calls.count(16) == 3):
                raise error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 999 bytes.")
            return super().forward(inputs)

    inputs, targets = vectors(61)
    model = built(lambda: Hungry(5, 3))
    objective = Objective(model, (inputs, targets), loss=F.cross_entropy, batch_size=64)
    calls.clear()
    found = objective.loss().item()
    assert calls == [61, 32, 16, 16, 16, *[8] * 7, 5]
    assert objective.batch_size == 8
    expected = F.cross_entropy(F.linear(inputs, model.weight, model.bias), targets).item()
    assert found == pytest.approx(expected, rel=ANY_CUT)
    assert objective.num_passes == 1


def test_out_of_memory_with_one_example_is_an_error():
    class Full(nn.Linear):
        broken = False

        def forward(self, inputs):
            if Full.broken:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(inputs)

    objective = Objective(built(lambda: Full(5, 3)), vectors(), loss=F.cross_entropy)
    Full.broken = True
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        objective.loss()
    assert objective.batch_size == 1


def test_another_error_is_not_taken_for_out_of_memory():
    class Broken(nn.Linear):
        broken = False

        def forward(self, inputs):
            if Broken.broken:
                raise RuntimeError("a wire is loose")
            return super().forward(inputs)

    objective = Objective(built(lambda: Broken(5, 3)), vectors(), loss=F.cross_entropy)
    Broken.broken = True
    with pytest.raises(RuntimeError, match="a wire is loose"):
        objective.loss()
    assert objective.batch_size == 32


@pytest.mark.parametrize("normalization", ["batch", "recalibrated"])
def test_a_batch_size_that_is_part_of_the_loss_is_never_halved(normalization):
    class Hungry(TinyCNN):
        broken = False

        def forward(self, inputs):
            if Hungry.broken and len(inputs) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(inputs)

    objective = Objective(built(Hungry), images(), loss=F.cross_entropy, normalization=normalization)
    before = objective.batch_size
    Hungry.broken = True
    with pytest.raises(RuntimeError, match=r"out of memory with batches of \d+ examples, whose size is part"):
        objective.loss()
    assert objective.batch_size == before


# --- losses -------------------------------------------------------------------------------------------------------

WEIGHTS = torch.tensor([0.2, 1.0, 5.0])
WEIGHTED = {
    "module": nn.CrossEntropyLoss(weight=WEIGHTS),
    "partial": functools.partial(F.cross_entropy, weight=WEIGHTS),
    "function": lambda output, target: F.cross_entropy(output, target, weight=WEIGHTS.to(output.dtype)),
}


@pytest.mark.parametrize("form", WEIGHTED)
def test_class_weights_are_those_of_the_whole_data(form):
    """Torch divides by the weights of a batch, so the mean of batches is another number."""
    inputs, targets = vectors(60)
    model = built(softmax_regression)
    objective = Objective(model, (inputs, targets), loss=WEIGHTED[form])
    expected = F.cross_entropy(model(inputs), targets, weight=WEIGHTS).item()
    assert objective.depends_on_cuts
    assert objective.loss().item() == pytest.approx(expected, rel=1e-6)  # float32 outputs
    cut = Objective(model, (inputs, targets), loss=WEIGHTED[form], batch_size=7)
    assert abs(cut.loss().item() / expected - 1) > 1e-4  # the control
    assert cut.identity()["batch_size"] == 7


def test_plain_losses_do_not_depend_on_cuts():
    assert not classifier().depends_on_cuts
    assert classifier(batch_size=3).identity()["batch_size"] == 0


def test_the_users_loss_module_stays_in_its_precision():
    loss = nn.CrossEntropyLoss(weight=WEIGHTS.clone())
    Objective(built(softmax_regression), vectors(), loss=loss)
    assert loss.weight.dtype == torch.float32


def test_a_large_constant_in_the_loss_is_summed_exactly():
    """In float32 a mean of 1e4 has steps of 1e-3."""

    def shifted(output, target):
        return F.cross_entropy(output, target) + 1e4

    plain, far = classifier(batch_size=3), Objective(built(perceptron), vectors(), loss=shifted, batch_size=3)
    assert far.loss().item() - 1e4 == pytest.approx(plain.loss().item(), abs=1e-10)


# --- what is let in -----------------------------------------------------------------------------------------------


def test_exactly_one_of_loss_and_step():
    for options in ({}, {"loss": F.cross_entropy, "step": lambda m, b: b}):
        with pytest.raises(TypeError, match="exactly one of loss="):
            Objective(built(perceptron), vectors(), **options)


def test_unknown_words_and_sizes():
    with pytest.raises(ValueError, match="normalization must be one of running, batch, recalibrated, got 'train'"):
        classifier(normalization="train")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        classifier(batch_size=0)
    with pytest.raises(ValueError, match="no trainable parameters"):
        Objective(nn.Flatten(), vectors(), loss=F.cross_entropy)
    with pytest.raises(ValueError, match="expected a vector of 57 parameters"):
        classifier().loss(torch.zeros(3))
    with pytest.raises(TypeError, match=r"dtype must be a floating-point type such as torch.float32, got torch.int64"):
        classifier(dtype=torch.int64)


@pytest.mark.parametrize(("labels", "low", "high"), [([0, 1, 3], 0, 3), ([-1, 0, 1], -1, 1)])
def test_labels_out_of_range_are_named(labels, low, high):
    data = (torch.randn(3, 5), torch.tensor(labels))
    with pytest.raises(ValueError, match=rf"labels of data go from {low} to {high}, but the model has 3 outputs"):
        Objective(built(perceptron), data, loss=F.cross_entropy)
    with pytest.raises(ValueError, match=r"the labels of also\['test'\] go from"):
        classifier(also={"test": data})


@pytest.mark.parametrize(
    ("loss", "ignored"),
    [
        (F.cross_entropy, -100),
        (nn.CrossEntropyLoss(ignore_index=255), 255),
        (functools.partial(F.cross_entropy, ignore_index=-1), -1),
    ],
)
def test_ignored_labels_are_let_in(loss, ignored):
    inputs, targets = vectors()
    targets = targets.clone()
    targets[::3] = ignored
    objective = Objective(built(softmax_regression), (inputs, targets), loss=loss)
    expected = F.cross_entropy(built(softmax_regression)(inputs)[targets != ignored], targets[targets != ignored])
    assert objective.loss().item() == pytest.approx(expected.item(), rel=1e-6)  # float32 outputs


def test_a_sum_over_examples_is_refused():
    summed = functools.partial(F.cross_entropy, reduction="sum")
    with pytest.raises(ValueError, match="the loss is a sum over examples"):
        Objective(built(perceptron), vectors(), loss=summed)
    with pytest.raises(ValueError, match="the loss is a sum over examples"):
        Objective(built(perceptron), vectors(), step=lambda model, batch: summed(model(batch[0]), batch[1]))


def test_a_loss_of_zero_is_a_mean():
    zero = Objective(built(perceptron), vectors(), loss=lambda output, target: 0 * output.mean())
    assert zero.loss().item() == 0


def test_a_loss_for_each_example_is_refused():
    each = functools.partial(F.cross_entropy, reduction="none")
    with pytest.raises(ValueError, match=r"tensor with one number, its mean, got shape \(2,\)"):
        Objective(built(perceptron), vectors(), loss=each)
    with pytest.raises(ValueError, match="its mean, got float"):
        Objective(built(perceptron), vectors(), step=lambda model, batch: 1.0)


def test_data_that_does_not_fit_the_model_is_named():
    with pytest.raises(ValueError, match="the model cannot be evaluated on data: mat1 and mat2 shapes"):
        Objective(built(perceptron), vectors(width=4), loss=F.cross_entropy)
    with pytest.raises(ValueError, match=r"the loss cannot be evaluated on data: expected .*, but got Float"):
        Objective(built(perceptron), (torch.randn(9, 5), torch.randn(9)), loss=F.cross_entropy)
    with pytest.raises(ValueError, match="the loss cannot be evaluated on data: Using a target size"):
        Objective(built(lambda: nn.Linear(5, 1)), (torch.randn(9, 5), torch.randn(9)), loss=F.mse_loss)
    three = TensorDataset(*vectors(), torch.zeros(23))
    with pytest.raises(ValueError, match=r"loss= needs batches \(inputs, targets\), data gives list of 3; pass step="):
        Objective(built(perceptron), three, loss=F.cross_entropy)


def test_one_example_is_data():
    objective = Objective(built(perceptron), vectors(1), loss=F.cross_entropy)
    assert objective.loss().isfinite()


def test_weights_that_are_not_finite_are_named():
    model = built(TinyCNN)
    with torch.no_grad():
        model.fc.weight[1, 2] = float("nan")
        model.fc.weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"'fc.weight' has 2 NaN or infinite of 12 entries"):
        Objective(model, images(), loss=F.cross_entropy)
    model = built(TinyCNN)
    model.norm.running_var[0] = float("inf")
    with pytest.raises(ValueError, match=r"'norm.running_var' has 1 NaN"):
        Objective(model, images(), loss=F.cross_entropy)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_in_float32_and_said(dtype):
    model = built(perceptron, dtype=dtype)
    with pytest.warns(UserWarning, match="half precision; measuring in float32"):
        objective = Objective(model, vectors(), loss=F.cross_entropy)
    assert objective.dtype == objective.theta.dtype == torch.float32
    assert model[0].weight.dtype == dtype
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Objective(model, vectors(), loss=F.cross_entropy, dtype=torch.float64).theta.dtype == torch.float64


def test_complex_parameters_are_refused():
    with pytest.raises(TypeError, match="complex parameters have no real loss landscape"):
        Objective(nn.Linear(5, 3, dtype=torch.complex64), vectors(), loss=F.cross_entropy)


def test_a_model_that_cannot_be_copied_is_named():
    model = built(perceptron)
    model.kept = model[0](torch.ones(1, 5))
    with pytest.raises(ValueError, match=r"the model cannot be copied .* works on a copy so that yours stays"):
        Objective(model, vectors(), loss=F.cross_entropy)


# --- what an answer depends on ------------------------------------------------------------------------------------


def test_the_identity_changes_with_whatever_the_values_depend_on():
    base = dict(model=built(perceptron), data=vectors(), loss=F.cross_entropy)
    moved = built(perceptron)
    with torch.no_grad():
        moved[0].bias[0] += 1e-3
    frozen = built(perceptron)
    frozen[0].bias.requires_grad_(False)
    smooth = built(lambda: nn.Sequential(nn.Linear(5, 6), nn.Sigmoid(), nn.Linear(6, 3)))
    others = [
        {"model": moved},
        {"model": frozen},
        {"model": smooth},
        {"data": vectors(seed=1)},
        {"also": {"test": vectors(seed=1)}},
        {"also": {"test": vectors(seed=2)}},
        {"parameters": "2.*"},
        {"normalization": "batch"},
        {"dtype": torch.float64},
        {"examples": 9},
        {"loss": nn.CrossEntropyLoss()},
        {"loss": nn.CrossEntropyLoss(label_smoothing=1e-7)},
        {"loss": nn.CrossEntropyLoss(weight=torch.ones(3))},
        {"loss": nn.CrossEntropyLoss(weight=torch.tensor([1, 1, 1 + 1e-6]))},
        {"loss": functools.partial(F.cross_entropy, label_smoothing=1e-7)},
        {"loss": functools.partial(F.cross_entropy, label_smoothing=2e-7)},
        {"loss": functools.partial(F.cross_entropy, weight=torch.ones(3))},
        {"loss": functools.partial(F.cross_entropy, weight=torch.tensor([1, 1, 1 + 1e-6]))},
        {"loss": lambda output, target: F.cross_entropy(output, target)},
        {"loss": lambda output, target: 2 * F.cross_entropy(output, target)},
    ]
    identities = [Objective(**base).identity(), *(Objective(**(base | other)).identity() for other in others)]
    for number, identity in enumerate(identities):
        assert identity not in identities[:number], number
    assert Objective(**base).identity() == identities[0]
    assert Objective(**base, batch_size=3).identity() == identities[0]


@pytest.mark.parametrize("normalization", ["running", "recalibrated"])
def test_the_identity_does_not_depend_on_what_was_measured_before(normalization):
    def tied():
        model = built(TinyCNN)
        model.twin = model.conv
        return model

    objective = Objective(tied(), images(), loss=F.cross_entropy, normalization=normalization)
    objective.loss(objective.theta + 1)
    fresh = Objective(tied(), images(), loss=F.cross_entropy, normalization=normalization)
    assert objective.identity() == fresh.identity()


def test_running_statistics_are_part_of_the_identity_unless_they_are_recalibrated():
    def identity(mean: float, normalization: str):
        model = built(TinyCNN)
        model.norm.running_mean.fill_(mean)
        return Objective(model, images(), loss=F.cross_entropy, normalization=normalization).identity()

    assert identity(0.0, "running") != identity(1.0, "running")
    assert identity(0.0, "recalibrated") == identity(1.0, "recalibrated")


def test_a_quadratic_has_its_closed_form():
    A = rotated([3.0, 1.0, -2.0])
    objective = quadratic(A, slope=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), constant=0.5)
    w = objective.theta
    slope = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert objective.loss().item() == pytest.approx((0.5 + slope @ w + w @ A @ w / 2).item(), rel=1e-14)
    assert torch.allclose(objective.gradient(), slope + A @ w, rtol=1e-14)
    assert Objective(built(perceptron), vectors(), loss=only_output).identity()["loss_function"].endswith("only_output")


def test_a_device_that_is_not_there_is_named():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA GPU here")
    with pytest.raises(ValueError, match="device 'cuda' cannot be used here"):
        classifier(device="cuda")
    with pytest.raises(ValueError, match="device 'foo' cannot be used here"):
        classifier(device="foo")


def test_further_data_is_reduced_with_the_data():
    objective = classifier(examples=4, also={"test": vectors(), "small": tuple(part[:2] for part in vectors())})
    assert [len(more) for more in (objective.examples, *objective.also.values())] == [4, 4, 2]


def test_rare_ignored_labels_make_the_loss_depend_on_cuts():
    """Control: they are so rare that a few tried examples do not show them."""
    inputs = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(0, 3, (400,), generator=torch.Generator().manual_seed(1))
    assert not Objective(built(perceptron), (inputs, targets), loss=F.cross_entropy).depends_on_cuts
    targets[399] = -100
    objective = Objective(built(perceptron), (inputs, targets), loss=F.cross_entropy)
    assert objective.depends_on_cuts
    model = built(perceptron).eval()
    assert objective.loss().item() == pytest.approx(F.cross_entropy(model(inputs), targets).item(), rel=1e-6)
