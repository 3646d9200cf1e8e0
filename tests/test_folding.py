from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.objective import Objective
from landscape.operators import Hessian
from tests import oracles
from tests.problems import built, seeded


class Sequence(nn.Module):
    """Layers one after the other, then the mean over places."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.layers:
            inputs = layer(inputs)
        return inputs.flatten(2).mean(dim=2) if inputs.ndim > 2 else inputs


class Aside(Sequence):
    """The output of the first layer also goes around its BatchNorm."""

    def forward(self, inputs: Tensor) -> Tensor:
        first, norm, last = self.layers
        between = first(inputs)
        return last(torch.tanh(norm(between)) + between)


class Again(Sequence):
    """One layer, one BatchNorm, each used twice."""

    def forward(self, inputs: Tensor) -> Tensor:
        first, norm = self.layers
        return norm(first(norm(first(inputs))))


class Sometimes(Sequence):
    """Which way the first layer's output goes depends on the data."""

    def forward(self, inputs: Tensor) -> Tensor:
        first, norm, last = self.layers
        between = first(inputs)
        return last(torch.tanh(norm(between) if inputs[0, 0] < 2 else between))


class Watched(Sequence):
    """What becomes of the first layer's output besides is invisible to derivatives of it."""

    def __init__(self, look, *layers: nn.Module):
        super().__init__(*layers)
        self.look = look

    def forward(self, inputs: Tensor) -> Tensor:
        first, norm, last = self.layers
        between = first(inputs)
        with torch.no_grad():
            gate = self.look(between)
        return last(torch.tanh(norm(between)) * gate)


class Doubling(nn.BatchNorm1d):
    """A BatchNorm of one's own."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class ByKeyword(Sequence):
    """Calls its layers by keyword."""

    def forward(self, inputs: Tensor) -> Tensor:
        first, norm, last = self.layers
        return last(torch.tanh(norm(input=first(input=inputs))))


def patched(index: int) -> nn.Module:
    """A network one of whose layers has a forward method of its own."""
    model = Sequence(nn.Linear(5, 6), norm(nn.BatchNorm1d, 6), nn.Tanh(), nn.Linear(6, 3))
    layer = model.layers[index]
    layer.forward = Tripled(layer)
    return model


class Tripled:
    """Three times what a layer gives."""

    def __init__(self, layer: nn.Module):
        self.layer = layer

    def __call__(self, inputs: Tensor) -> Tensor:
        return 3 * type(self.layer).forward(self.layer, inputs)


LOOKS = {
    "detached": lambda y: y.detach(),
    "compared": lambda y: (y > 0).double(),
    "statistic": lambda y: torch.stack([y, y]).mean(dim=(0, 2)).unsqueeze(1),
    "data": lambda y: y.data,
    "number": lambda y: y.new_tensor([[max(row)] for row in y.tolist()]),
    "numpy": lambda y: torch.from_numpy(y.numpy().copy()),
}


def norm(kind: type, channels: int, **options) -> nn.Module:
    layer = kind(channels, **options)
    layer.running_mean.uniform_(-0.5, 0.5)
    layer.running_var.uniform_(0.3, 2)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -1, 1)
    return layer


def convolutions() -> nn.Module:
    return Sequence(
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", stride=2),
        norm(nn.BatchNorm2d, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 4, 2, groups=1, bias=False, dilation=2),
        norm(nn.BatchNorm2d, 4, affine=False),
        nn.Softplus(),
    )


PAIRED = {  # name -> (factory, shape of one input, layers folded)
    "images": (convolutions, (2, 7, 7), 2),
    "sequences": (
        lambda: Sequence(nn.Conv1d(2, 4, 3, groups=2), norm(nn.BatchNorm1d, 4), nn.Tanh(), nn.Conv1d(4, 3, 1)),
        (2, 6),
        1,
    ),
    "volumes": (lambda: Sequence(nn.Conv3d(1, 3, 2), norm(nn.BatchNorm3d, 3, eps=0.1), nn.Tanh()), (1, 3, 3, 3), 1),
    "vectors": (lambda: Sequence(nn.Linear(5, 6), norm(nn.BatchNorm1d, 6), nn.Tanh(), nn.Linear(6, 3)), (5,), 1),
    "before": (lambda: Sequence(norm(nn.BatchNorm1d, 5), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)), (5,), 0),
    "transposed": (lambda: Sequence(nn.ConvTranspose2d(1, 3, 2), norm(nn.BatchNorm2d, 3), nn.Tanh()), (1, 3, 3), 0),
    "aside": (lambda: Aside(nn.Linear(5, 6), norm(nn.BatchNorm1d, 6), nn.Linear(6, 3)), (5,), 0),
    **{
        f"{kind.__name__} in place before": (
            lambda kind=kind: Sequence(nn.Conv2d(1, 3, 2), kind(inplace=True), norm(nn.BatchNorm2d, 3), nn.Tanh()),
            (1, 4, 4),
            0,
        )
        for kind in (nn.ReLU, nn.LeakyReLU, nn.ELU)
    },
    **{
        name: (lambda look=look: Watched(look, nn.Linear(5, 6), norm(nn.BatchNorm1d, 6), nn.Linear(6, 3)), (5,), 0)
        for name, look in LOOKS.items()
    },
    "subclass": (lambda: Sequence(nn.Linear(5, 6), norm(Doubling, 6), nn.Tanh(), nn.Linear(6, 3)), (5,), 0),
    "patched layer": (lambda: patched(0), (5,), 0),
    "patched norm": (lambda: patched(1), (5,), 0),
    "keyword": (lambda: ByKeyword(nn.Linear(5, 6), norm(nn.BatchNorm1d, 6), nn.Linear(6, 3)), (5,), 0),
    "linear on sequences": (lambda: Sequence(nn.Linear(5, 4), norm(nn.BatchNorm1d, 4), nn.Tanh()), (4, 5), 0),
    "linear on longer ones": (lambda: Sequence(nn.Linear(5, 4), norm(nn.BatchNorm1d, 7), nn.Tanh()), (7, 5), 0),
    "again": (lambda: Again(nn.Linear(5, 5), norm(nn.BatchNorm1d, 5)), (5,), 0),
}


def problem(factory, shape) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    model = built(factory, dtype=torch.float64)
    inputs = torch.randn(11, *shape, generator=seeded(1), dtype=torch.float64)
    return model.eval(), (inputs, torch.randint(0, 3, (11,), generator=seeded(2)))


@pytest.mark.parametrize("name", PAIRED)
def test_derivatives_of_folded_layers_are_exact(name):
    factory, shape, folded = PAIRED[name]
    model, data = problem(factory, shape)
    objective = Objective(model, data, loss=F.cross_entropy, batch_size=4)
    frozen = objective.frozen()
    assert len(frozen.folds) == folded
    assert torch.allclose(frozen.loss(), objective.loss(), rtol=1e-13)
    # An activation in place cannot be differentiated again where nothing is folded, as in the oracle.
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    exact = oracles.dense_hessian(plain, data)
    assert (Hessian(objective).dense() - exact).abs().max() < 1e-12 * exact.abs().max().clamp_min(1)


def test_the_objective_itself_and_the_users_model_are_not_folded():
    model, data = problem(*PAIRED["images"][:2])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objective = Objective(model, data, loss=F.cross_entropy)
    loss = objective.loss()
    Hessian(objective).dense()
    assert torch.equal(objective.loss(), loss)
    assert not objective.folds
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())


def test_statistics_of_the_batch_are_not_folded():
    model, data = problem(*PAIRED["vectors"][:2])
    assert not Objective(model, data, loss=F.cross_entropy, normalization="batch").frozen().folds


def test_recalibrated_statistics_are_folded_as_they_are_at_the_point():
    model, data = problem(*PAIRED["vectors"][:2])
    objective = Objective(model, data, loss=F.cross_entropy, normalization="recalibrated")
    theta = objective.theta + 0.1
    frozen = objective.frozen(theta)
    assert len(frozen.folds) == 1
    assert torch.allclose(frozen.loss(), objective.loss(theta), rtol=1e-13)


def test_a_layer_with_hooks_is_left_alone():
    model, data = problem(*PAIRED["vectors"][:2])
    model.layers[0].register_forward_hook(lambda module, inputs, output: output * 2)
    objective = Objective(model, data, loss=F.cross_entropy)
    assert not objective.frozen().folds
    assert torch.allclose(objective.frozen().loss(), objective.loss(), rtol=1e-13)


def test_a_fold_that_does_not_hold_for_other_data_is_undone():
    model, (inputs, targets) = problem(
        lambda: Sometimes(nn.Linear(5, 6), norm(nn.BatchNorm1d, 6), nn.Linear(6, 3)), (5,)
    )
    inputs[:4, 0], inputs[4:8, 0], inputs[8:, 0] = 0, 3, 0
    objective = Objective(model, (inputs, targets), loss=F.cross_entropy, batch_size=4)
    assert len(objective.frozen().folds) == 1
    H = Hessian(objective)
    v = torch.randn(H.size, generator=seeded(3), dtype=torch.float64)
    slope = oracles.central_difference(objective.gradient, objective.theta, v, 1e-4)
    assert (H @ v - slope).norm() < 1e-6 * slope.norm()
    assert not H.objective.folds
    last = Objective(model, (inputs[:8], targets[:8]), loss=F.cross_entropy, batch_size=4)  # nothing comes after it
    slope = oracles.central_difference(last.gradient, last.theta, v, 1e-4)
    assert (Hessian(last) @ v - slope).norm() < 1e-6 * slope.norm()


class Cheating(nn.Module):
    """Does something else with the output of a folded layer, where no call of torch shows it."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 6), norm(nn.BatchNorm1d, 6), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        between = self.first(inputs)
        with torch._C.DisableTorchFunction():
            gate = (between > 0).double()
        return self.last(torch.tanh(self.norm(between)) * gate)


def test_a_fold_that_changes_the_loss_is_undone():
    model, data = problem(Cheating, (5,))
    objective = Objective(model, data, loss=F.cross_entropy)
    assert not objective.frozen().folds
    assert torch.allclose(objective.frozen().loss(), objective.loss(), rtol=1e-13)


def test_a_frozen_copy_stays_where_it_is():
    model, data = problem(*PAIRED["vectors"][:2])
    objective = Objective(model, data, loss=F.cross_entropy)
    with pytest.raises(ValueError, match="stands at one point"):
        objective.frozen().loss(objective.theta)


class Keeping(nn.Module):
    """Keeps what it saw last, graph and all."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        self.last = self.layer(inputs)
        return self.last


def test_a_model_that_keeps_its_last_output_can_be_frozen():
    model, data = problem(Keeping, (5,))
    objective = Objective(model, data, loss=F.cross_entropy)
    objective.gradient()
    assert (Hessian(objective).dense() - oracles.dense_hessian(model, data)).abs().max() < 1e-12
