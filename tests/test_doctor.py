"""What would make a measurement fail is found before it starts, with its remedy."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from landscape import Objective
from landscape.doctor import NOTE, OK, PROBLEM, _determinism, environment, examine


def data(labels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, 4, generator=generator), torch.arange(20) % labels


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3))


def by_check(findings) -> dict:
    return {finding.check: finding for finding in findings}


def test_a_healthy_network_has_notes_but_no_problem():
    found = by_check(examine(network(), data(), cross_entropy))
    assert {f.status for f in found.values()} == {OK, NOTE}
    assert "1 layers" in found["batch normalization"].detail
    assert "switched off" in found["dropout"].detail
    assert "63 vary" in found["parameters"].detail
    assert "accuracy" in found["loss here"].detail


def test_the_loss_is_computed_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Objective, "loss", None)
    assert by_check(examine(network(), data(), cross_entropy))["loss here"].detail.startswith("loss ")


def test_only_what_was_checked_is_said_of_determinism():
    assert _determinism(torch.device("cpu")).detail == "two evaluations gave the same bits"
    assert _determinism(torch.device("cuda")).detail == "two evaluations agreed within 1e-6 of the loss"


def test_labels_that_do_not_fit_are_a_problem():
    found = by_check(examine(network(), data(labels=5), cross_entropy))
    assert found["objective"].status == PROBLEM
    assert "3 outputs" in found["objective"].detail


def test_nan_in_the_weights_is_a_problem():
    model = network()
    model[0].weight.data[0, 0] = float("nan")
    assert by_check(examine(model, data(), cross_entropy))["objective"].status == PROBLEM


def test_a_loss_that_overflows_is_a_problem():
    model = network()
    model[4].weight.data.fill_(3e38)
    model[4].bias.data.fill_(3e38)
    assert PROBLEM in {f.status for f in examine(model, data(), cross_entropy)}


def test_unused_parameters_are_named():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(4, 3), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    found = by_check(examine(Unused(), data(), cross_entropy))
    assert found["unused parameters"].detail.endswith("spare.weight, spare.bias")


def test_the_environment_names_versions_and_device():
    found = by_check(environment())
    assert found["torch"].detail == torch.__version__
    assert "device" in found


def test_a_broken_torchvision_is_named(tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    found = by_check(environment())["torchvision"]
    assert found.status == PROBLEM
    assert "uninstall it" in found.detail
