"""Averages of weights in somebody else's Trainer."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from landscape.averaging import WeightAverage, latest_average, stochastic_weight_average
from landscape.callbacks import WeightAveraging
from tests.test_callbacks import Foreign, dataset, loader

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    pytest.mark.filterwarnings("ignore:GPU available"),
    pytest.mark.filterwarnings("ignore:.*val_dataloader"),
]


class Recorder(pl.Callback):
    """The parameters after each epoch."""

    def __init__(self):
        self.points = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.points.append(torch.cat([p.detach().reshape(-1) for p in pl_module.parameters() if p.requires_grad]))


def trained(callback: pl.Callback, module: pl.LightningModule, epochs: int = 4, **settings) -> Recorder:
    recorder = Recorder()
    torch.manual_seed(0)
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[callback, recorder], **{**QUIET, **settings})
    trainer.fit(module, loader(shuffle=False))
    return recorder


@pytest.fixture(scope="module")
def averaged() -> tuple[WeightAveraging, Foreign, Recorder]:
    torch.manual_seed(0)
    module, callback = Foreign(), WeightAveraging(stochastic_weight_average(start=0.5), submodule="body")
    return callback, module, trained(callback, module)


def flat(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters() if p.requires_grad])


@pytest.mark.parametrize("accumulated", [1, 2])
def test_weights_at_ends_of_epochs_enter(accumulated):
    module, callback = Foreign(), WeightAveraging(stochastic_weight_average(start=0.5), submodule="body")
    points = trained(callback, module, accumulate_grad_batches=accumulated).points
    assert callback.count == 3
    with callback.applied(module, loader()):
        assert torch.allclose(flat(module), torch.stack(points[1:]).mean(0), atol=1e-6)


def test_statistics_are_those_of_all_the_data_and_everything_comes_back(averaged):
    callback, module, _ = averaged
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with callback.applied(module, loader()):
        inputs = dataset().tensors[0]
        hidden = module.body[0](inputs)
        assert torch.allclose(module.body[1].running_mean, hidden.mean(0), atol=1e-6)
        assert torch.allclose(module.body[1].running_var, hidden.var(0), atol=1e-6)
        assert not torch.allclose(module.body[1].running_mean, before["body.1.running_mean"], atol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_it_takes_batches_of_any_structure(averaged):
    callback, module, _ = averaged
    inputs = dataset().tensors[0]
    with callback.applied(module, [inputs]):
        expected = module.body[1].running_mean.clone()
    with callback.applied(module, [{"x": inputs}], forward=lambda network, batch: network(batch["x"])):
        assert torch.equal(module.body[1].running_mean, expected)


def without_dropout() -> Foreign:
    torch.manual_seed(0)
    module = Foreign()
    module.body[3].p = 0.0
    return module


@pytest.mark.parametrize("average", [stochastic_weight_average(start=1), latest_average(k=2)])
def test_a_training_goes_on_with_the_same_average(average, tmp_path):
    found = []
    for cut in (False, True):
        module, callback = without_dropout(), WeightAveraging(average, submodule="body")
        first = pl.Trainer(max_epochs=2 if cut else 4, accelerator="cpu", callbacks=[callback], **QUIET)
        first.fit(module, loader(shuffle=False))
        if cut:
            first.save_checkpoint(tmp_path / "cut.ckpt")
            module, callback = without_dropout(), WeightAveraging(average, submodule="body")
            second = pl.Trainer(max_epochs=4, accelerator="cpu", callbacks=[callback], **QUIET)
            second.fit(module, loader(shuffle=False), ckpt_path=tmp_path / "cut.ckpt")
        with callback.applied(module, loader(shuffle=False)):
            found.append((callback.count, flat(module)))
    assert found[0][0] == found[1][0] == 4
    assert torch.equal(found[0][1], found[1][1])


def test_a_network_without_norms_needs_no_data():
    module = nn.Linear(1, 1, bias=False)
    callback = WeightAveraging(latest_average(k=3))
    for value in (9.0, 1.0, 2.0, 6.0):
        callback._running.add([torch.full((1, 1), value)])
    callback.apply(module)
    assert module.weight.item() == pytest.approx(3.0)


class Endless(IterableDataset):
    def __iter__(self):
        return iter(dataset())


def test_what_it_refuses(averaged):
    callback, module, _ = averaged
    with pytest.raises(ValueError, match="statistics of BatchNorm are not those of the averaged weights; give the tr"):
        callback.apply(module)
    late = WeightAveraging(stochastic_weight_average(start=2), submodule="body")
    with pytest.raises(ValueError, match="no weights have entered the average yet; let it start earlier"):
        late.apply(module, loader())
    half = WeightAveraging(stochastic_weight_average(start=0.5), submodule="body")
    with pytest.raises(ValueError, match=r"starts after a share of 0\.5 of the epochs, but their number is not known"):
        trained(half, Foreign(), epochs=-1, max_steps=2)
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[late], **QUIET)
    with pytest.raises(ValueError, match="the training data has no length; give limit_train_batches"):
        trainer.fit(Foreign(), DataLoader(Endless(), batch_size=8))


def test_without_statistics_of_its_own_an_average_is_worse():
    """The negative control: layers that are averaged under the statistics of other weights."""
    torch.manual_seed(0)
    inputs, targets = dataset().tensors
    network = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    for _ in range(300):
        loss = F.cross_entropy(network(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    callback = WeightAveraging(WeightAverage(lambda n: 1 / n))
    mirrored = [-p if name.startswith("0.") else p for name, p in network.named_parameters()]  # tanh(0) of the first
    callback._running.add(mirrored)
    network.eval()
    before = (network(inputs).argmax(1) == targets).float().mean()
    with callback.applied(network, [inputs]):
        own = F.cross_entropy(network(inputs), targets)
    callback._put_into(network)
    assert before > 0.9 and own < F.cross_entropy(network(inputs), targets) - 0.1
