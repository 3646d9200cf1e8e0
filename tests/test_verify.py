"""Two packages, one batch: they must agree where both are right, and disagree where one is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from landscape import verify as module
from landscape.operators import Hessian
from landscape.verify import Comparison, verify


@pytest.fixture
def problem() -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(64, 5)
    )
    inputs, targets = torch.randn(60, 1, 6, 6), torch.randint(5, (60,))
    return model, (inputs, targets)


def test_the_packages_agree_on_a_network_with_batchnorm_and_dropout(problem):
    model, data = problem
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    found = verify(model, data, cross_entropy, examples=40)
    assert [c.quantity for c in found][-1] == "trace"
    assert all(c.agrees for c in found), found
    # The same sign vectors on both sides: what is left is float32 against float64 sums.
    assert found[-1].difference < 1e-4 * abs(found[-1].theirs)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_wrong_hessian_is_caught(problem, monkeypatch):
    """Negative control: a factor of 1.06 in our products must not pass."""

    class Wrong(Hessian):
        def matmat(self, V):
            return 1.06 * super().matmat(V)

    monkeypatch.setattr(module, "Hessian", Wrong)
    found = verify(*problem, cross_entropy)
    assert not found[0].agrees
    assert not found[-1].agrees


def test_a_nan_never_agrees():
    assert not Comparison("x", float("nan"), 0.0, 1.0, 0.0, 1.0, "").agrees


def test_a_model_pyhessian_cannot_take_is_named(problem):
    _, data = problem

    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(36, 5), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x.flatten(1))

    with pytest.raises(RuntimeError, match="freeze the unused ones"):
        verify(Unused(), data, cross_entropy)


def test_pyhessian_is_imported_only_when_asked():
    code = "import sys, landscape.verify; print('pyhessian' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
