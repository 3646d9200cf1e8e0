from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.objective import Objective
from landscape.randomness import gaussian_columns, preserved_rng
from tests.problems import TinyCNN, built, images, vectors


class Careless(nn.Module):
    """Functional dropout that is always on."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 3)

    def forward(self, inputs):
        return F.dropout(self.fc(inputs), 0.5, training=True)


def test_generators_come_back_also_after_an_exception():
    states = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    with pytest.raises(KeyError), preserved_rng():
        torch.rand(3), np.random.rand(3), random.random()
        raise KeyError
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


def test_functional_dropout_is_named_with_its_module():
    model = built(lambda: nn.Sequential(nn.Linear(5, 5), Careless()))
    with pytest.raises(ValueError, match=r"not deterministic .* Careless '1' draws random numbers in its forward pass"):
        Objective(model, vectors(), loss=F.cross_entropy)
    with pytest.raises(ValueError, match="Careless draws random numbers"):  # the model itself has no name
        Objective(built(Careless), vectors(), loss=F.cross_entropy)


def test_dropout_switched_on_inside_the_step_is_named():
    model = built(lambda: nn.Sequential(nn.Linear(5, 5), nn.Dropout(), nn.Linear(5, 3)))

    def step(model, batch):
        model.train()
        return F.cross_entropy(model(batch[0]), batch[1])

    with pytest.raises(ValueError, match="Dropout '1' is in train mode; do not switch it to train mode"):
        Objective(model, vectors(), step=step)


def test_batch_norm_switched_on_inside_the_step_is_named():
    def step(model, batch):
        model.train()
        return F.cross_entropy(model(batch[0]), batch[1])

    with pytest.raises(ValueError, match=r"changes the buffer 'norm.running_mean': a normalization layer is in train"):
        Objective(built(TinyCNN), images(), step=step)


def test_a_random_loss_is_named():
    with pytest.raises(ValueError, match="the random part lies in the loss or step function"):
        Objective(
            built(TinyCNN), images(), loss=lambda output, target: F.cross_entropy(output, target) * torch.rand(())
        )


def test_batch_norm_that_mixes_in_random_numbers_is_named():
    class Noisy(nn.BatchNorm2d):
        def forward(self, inputs):
            return super().forward(inputs) + torch.rand(())

    model = built(lambda: nn.Sequential(Noisy(1), nn.Flatten(), nn.Linear(36, 4)))
    with pytest.raises(ValueError, match=r"Noisy '0' is in train mode; let normalization= choose its statistics"):
        Objective(model, images(), loss=F.cross_entropy)


def test_dropout_in_a_model_left_in_train_mode_is_simply_off():
    model = built(lambda: nn.Sequential(nn.Linear(5, 5), nn.Dropout(), nn.Linear(5, 3))).train()
    objective = Objective(model, vectors(), loss=F.cross_entropy)
    assert objective.loss().item() == objective.loss().item()
    assert model[1].training


def test_a_column_depends_on_seed_stream_and_number_alone():
    block = gaussian_columns(50, range(4), 3, "trace")
    assert torch.equal(block[:, 2:3], gaussian_columns(50, [2], 3, "trace"))
    for other in (gaussian_columns(50, [2], 4, "trace"), gaussian_columns(50, [2], 3, "density"), block[:, 3:4]):
        assert not torch.allclose(block[:, 2:3], other)
    many = gaussian_columns(1000, range(50), 0, "trace")
    assert many.dtype == torch.float64
    assert abs(many.mean().item()) < 4 / 50_000**0.5
    assert many.std().item() == pytest.approx(1, abs=0.01)
    assert (torch.corrcoef(many.T) - torch.eye(50)).abs().max() < 0.2
