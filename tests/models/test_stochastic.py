"""Networks that go on drawing when they predict."""

import torch
from torch import nn

from models.stochastic import Stochastic, drawing, stochastic_modules


class Coin(Stochastic):
    def forward(self, x):
        return x * torch.bernoulli(torch.full_like(x, 0.5)) if self.training else x


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), Coin(), nn.AlphaDropout(0.1))


def test_ours_and_torch_draw():
    found = stochastic_modules(network())
    assert [type(module).__name__ for module in found] == ["Dropout", "Coin", "AlphaDropout"]


def test_only_they_draw_and_all_modes_come_back():
    net = network()
    net[0].eval()
    before = [module.training for module in net.modules()]
    with drawing(net):
        assert [module.training for module in net] == [False, False, True, True, True]
        assert not torch.equal(net(torch.ones(3, 4)), net(torch.ones(3, 4)))
    assert [module.training for module in net.modules()] == before


def test_eval_mode_is_a_fixed_function():
    net = network().eval()
    assert torch.equal(net(torch.ones(3, 4)), net(torch.ones(3, 4)))
