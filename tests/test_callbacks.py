"""The callbacks in somebody else's Trainer, with somebody else's module."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import xarray as xr
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from landscape import Objective, Store
from landscape.callbacks import ProbeEvery, TrainingDynamics
from landscape.callbacks.rows import dataset_of, record_of
from landscape.diagnosis import Record, diagnose
from landscape.moments import Moments
from landscape.parameters import ParameterLayout
from landscape.probes import Spectrum, Stability, SubspaceOverlap


class Foreign(pl.LightningModule):
    """Dropout, BatchNorm, a frozen parameter, logging in three places, a dict for a loss."""

    def __init__(self, lr: float = 0.1):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 3))
        self.body[4].bias.requires_grad_(False)
        self.lr = lr
        self.calls = 0

    def training_step(self, batch):
        x, y = batch
        self.calls += 1
        loss = F.cross_entropy(self.body(x), y)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        assert self.trainer.max_epochs is not None
        return {"loss": loss}

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.body(batch[0]), batch[1]))

    def on_train_epoch_end(self):
        self.log("late", float(self.current_epoch))

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=self.lr, momentum=0.9)


def dataset(count: int = 24) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(count, 4, generator=generator), torch.arange(count) % 3)


def loader(shuffle: bool = True, count: int = 24) -> DataLoader:
    return DataLoader(dataset(count), batch_size=8, shuffle=shuffle)


def trainer(*callbacks, epochs: int = 3, **options) -> pl.Trainer:
    options = {"logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 1, **options}
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )


@dataclass(frozen=True)
class LossAndPlace:
    """Draws random numbers, and answers with a coordinate of words."""

    def __call__(self, objective: Objective) -> xr.Dataset:
        torch.rand(3), np.random.rand(3)
        where = xr.DataArray([1.0, 2.0], dims="end", coords={"end": ["largest", "smallest"]})
        return xr.Dataset({"loss": ((), objective.loss().item()), "where": where, "theta": ("p", objective.theta)})


def fit(tmp_path, *callbacks, module=None, ckpt_path=None, shuffle=True, **options):
    torch.manual_seed(1)
    module = module or Foreign()
    torch.manual_seed(2)
    made = trainer(*callbacks, **{"default_root_dir": tmp_path, **options})
    made.fit(module, loader(shuffle), loader(shuffle=False), ckpt_path=ckpt_path)
    return module, made


def test_training_is_bit_identical_with_and_without(tmp_path):
    plain, _ = fit(tmp_path)
    state = torch.get_rng_state()
    callbacks = TrainingDynamics(tmp_path, snapshots="steps:2"), ProbeEvery(LossAndPlace(), every=2, out=tmp_path)
    watched, _ = fit(tmp_path, *callbacks)
    assert torch.equal(state, torch.get_rng_state())
    assert watched.calls == plain.calls
    for (name, a), b in zip(plain.state_dict().items(), watched.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for p, q in zip(plain.parameters(), watched.parameters(), strict=True):
        assert (p.grad is None and q.grad is None) or torch.equal(p.grad, q.grad)
    assert watched.training == plain.training


def test_what_training_holds(tmp_path):
    fit(tmp_path, TrainingDynamics(tmp_path))
    training = Store(tmp_path).read("training")
    assert {name: training.sizes[name] for name in ("step", "layer", "epoch")} == {"step": 9, "layer": 2, "epoch": 3}
    assert training["step"].values.tolist() == list(range(1, 10))
    assert training["layer"].values.tolist() == ["body.0.weight", "body.4.weight"]
    assert training["epoch_of_step"].values.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert training["learning_rate"].values == pytest.approx(0.1)
    assert np.isfinite(training["update_ratio"]).all() and (training["gradient_norm"] > 0).all()
    # the module logs the mean over equal batches, so the mean of the steps' losses is the same number
    assert training["loss"].values.reshape(3, 3).mean(1) == pytest.approx(training["train_loss"].values, rel=1e-5)
    assert training["late"].values.tolist() == [0, 1, 2]
    assert "val_loss" in training and training["loss"].attrs["units"] == "nats"
    assert training.attrs["finished"] and training.attrs["probe"] == "training-dynamics"
    assert not list(tmp_path.glob("*.journal"))


def test_updates_are_the_actual_differences(tmp_path):
    module, _ = fit(tmp_path, TrainingDynamics(tmp_path, snapshots="steps:1"))
    store = Store(tmp_path)
    training, trajectory = store.read("training"), store.read("trajectory")
    layout = ParameterLayout.of(module)
    assert json.loads(trajectory.attrs["layout"])["names"] == list(layout.names)
    assert trajectory["step"].values.tolist() == list(range(10))
    assert torch.equal(torch.from_numpy(trajectory["theta"].values[-1]), layout.current(module))
    points = [layout.unflatten(torch.from_numpy(theta)) for theta in trajectory["theta"].values]
    for column, name in enumerate(training["layer"].values):
        before = torch.stack([point[name].norm() for point in points[:-1]])
        moved = torch.stack([(b[name] - a[name]).norm() for a, b in pairwise(points)])
        assert training["parameter_norm"].values[:, column] == pytest.approx(before.numpy(), rel=1e-6)
        assert training["update_ratio"].values[:, column] == pytest.approx((moved / before).numpy(), rel=1e-6)
    # the first step of momentum SGD is lr times the gradient
    assert training["layer_gradient_norm"].values[0] * 0.1 == pytest.approx(
        (training["update_ratio"] * training["parameter_norm"]).values[0], rel=1e-4
    )


def test_every_and_sparse_validation(tmp_path):
    fit(tmp_path, TrainingDynamics(tmp_path, every=2), check_val_every_n_epoch=2)
    training = Store(tmp_path).read("training")
    assert training["step"].values.tolist() == [2, 4, 6, 8]
    assert np.isnan(training["val_loss"].values).tolist() == [True, False, True]


def test_gradient_accumulation(tmp_path):
    fit(tmp_path / "plain", TrainingDynamics(tmp_path / "plain"), accumulate_grad_batches=2, shuffle=False)
    training = Store(tmp_path / "plain").read("training")
    assert training["step"].values.tolist() == list(range(1, 7))  # two updates an epoch: two batches, then one
    whole = (2 * training["loss"].values[0::2] + training["loss"].values[1::2]) / 3
    assert whole == pytest.approx(training["train_loss"].values, rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        ("none", [0, 9]),
        ("epochs:2", [0, 6, 9]),
        ("steps:4", [0, 4, 8, 9]),
        ("log:2", [0, 1, 3, 9]),
    ],
)
def test_snapshots_on_schedule(tmp_path, schedule, steps):
    fit(tmp_path, TrainingDynamics(tmp_path, snapshots=schedule))
    trajectory = Store(tmp_path).read("trajectory")
    assert trajectory["step"].values.tolist() == steps
    assert trajectory["epoch"].values.tolist()[-1] == 3


def test_log_schedule_is_log_spaced():
    assert [s for s in range(2000) if Moments.of("log:1").at_step(s)] == [1, 10, 100, 1000]
    assert Moments.of(50) == Moments.of("steps:50")
    for text in ("steps", "epochs:0", "never", "log:x", 0):
        with pytest.raises(ValueError, match="a schedule is 'steps:50'"):
            Moments.of(text)


def test_a_probe_by_step(tmp_path):
    module, _ = fit(tmp_path, ProbeEvery(LossAndPlace(), every="epochs:1", out=tmp_path, examples=12))
    store = Store(tmp_path)
    (name,) = store.names("loss-and-place-by-step-*")
    answer = store.read(name)
    assert answer["step"].values.tolist() == [0, 3, 6, 9]
    assert answer["loss"].dims == ("step",) and answer["where"].dims == ("step", "end")
    assert answer["end"].values.tolist() == ["largest", "smallest"]
    layout = ParameterLayout.of(module)
    assert answer["theta"].values[-1] == pytest.approx(layout.current(module).numpy())
    assert answer["loss"].values[-1] < answer["loss"].values[0]
    assert answer.attrs["num_examples"] == 12 and answer.attrs["probe"] == "loss-and-place"


def test_the_loss_probed_is_that_of_the_training_step(tmp_path):
    module, _ = fit(tmp_path, ProbeEvery(LossAndPlace(), every="epochs:3", out=tmp_path))
    (name,) = Store(tmp_path).names()
    x, y = dataset().tensors
    expected = F.cross_entropy(module.eval().body(x), y).item()
    assert Store(tmp_path).read(name)["loss"].values[-1] == pytest.approx(expected, rel=1e-6)


def test_a_spectrum_while_training(tmp_path):
    def objective(module):
        return Objective(module.body, dataset().tensors, loss=F.cross_entropy)

    fit(tmp_path, ProbeEvery(Spectrum(k=1), every="epochs:3", out=tmp_path, objective=objective))
    (name,) = Store(tmp_path).names("spectrum-by-step-*")
    answer = Store(tmp_path).read(name)
    assert answer["eigenvalue"].dims[0] == "step" and np.isfinite(answer["eigenvalue"]).all()


class Stop(Exception):
    """The power is gone."""


class StopAt(pl.Callback):
    def __init__(self, step, error=Stop):
        self.step, self.error = step, error

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise self.error


def watchers(out):
    return TrainingDynamics(out), ProbeEvery(LossAndPlace(), every="epochs:1", out=out)


@pytest.mark.parametrize("sealed", [True, False], ids=["exception", "killed"])
def test_a_resumed_training_leaves_what_an_uninterrupted_one_does(tmp_path, sealed):
    class SaveEpochs(pl.callbacks.Checkpoint):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "epoch.ckpt", weights_only=False)

    class Plain(Foreign):  # no dropout: Lightning does not restore random states
        def __init__(self):
            super().__init__()
            self.body[3] = nn.Identity()

    options = {"shuffle": False, "enable_checkpointing": True}
    torch.manual_seed(1)
    fit(tmp_path, *watchers(tmp_path / "whole"), SaveEpochs(), module=Plain(), **options)
    torch.manual_seed(1)
    out = tmp_path / "resumed"
    with pytest.raises(Stop):
        fit(tmp_path, *watchers(out), SaveEpochs(), StopAt(5), module=Plain(), **options)
    seen = Store(out)
    assert not seen.read("training").attrs["finished"] and seen.read("training")["step"].values.tolist() == [
        1,
        2,
        3,
        4,
        5,
    ]
    if not sealed:
        for name in seen.names():
            (out / f"{name}.h5").unlink()
    fit(tmp_path, *watchers(out), SaveEpochs(), module=Plain(), ckpt_path=tmp_path / "epoch.ckpt", **options)
    whole, resumed = Store(tmp_path / "whole"), Store(out)
    assert whole.names() == resumed.names()
    for name in whole.names():
        assert whole.read(name).attrs["content_digest"] == resumed.read(name).attrs["content_digest"], name
    assert resumed.read("training").attrs["finished"]


class Warmed(Foreign):
    """Adam on a schedule, without randomness: Lightning does not restore random states."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 20), nn.Tanh(), nn.Linear(20, 3))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def test_the_step_of_the_trainer_is_asked_about(tmp_path):
    fit(tmp_path, ProbeEvery(Stability(), every=2, out=tmp_path), module=Warmed(), epochs=2)
    (name,) = Store(tmp_path).names("stability-by-step-*")
    answer = Store(tmp_path).read(name)
    assert answer["step"].values.tolist() == [0, 2, 4, 6]
    rates = answer["learning_rate"].values  # that of the step that comes next
    assert rates == pytest.approx([0.1, 0.025, 0.1 / 16, 0.1 / 64])
    assert np.isfinite(answer["sharpness"]).all()
    assert np.isnan(answer["ratio"].values).tolist() == [True, False, False, False]  # no metric before the first step
    assert answer["threshold"].values == pytest.approx(38 / rates)


@pytest.mark.parametrize("saver", ["last", "first"])
@pytest.mark.parametrize("sealed", [True, False], ids=["exception", "killed"])
def test_what_a_probe_remembers_survives_an_interruption(tmp_path, sealed, saver):
    class SaveEpochs(pl.callbacks.Checkpoint if saver == "last" else pl.Callback):
        """Lightning calls checkpoints last; another callback that saves may come before the question is asked."""

        def on_train_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "epoch.ckpt", weights_only=False)

    def watching(out):
        asked = [ProbeEvery(SubspaceOverlap(k=2, minibatch=8, draws=3), every="epochs:1", out=out, examples=20)]
        return [SaveEpochs(), *asked, ProbeEvery(Stability(), every="epochs:1", out=out)]

    options = {"shuffle": False, "enable_checkpointing": saver == "last"}
    torch.manual_seed(1)
    fit(tmp_path, *watching(tmp_path / "whole"), module=Warmed(), **options)
    torch.manual_seed(1)
    out = tmp_path / "resumed"
    with pytest.raises(Stop):
        fit(tmp_path, *watching(out), StopAt(7), module=Warmed(), **options)
    if not sealed:
        for name in Store(out).names():
            (out / f"{name}.h5").unlink()
    fit(tmp_path, *watching(out), module=Warmed(), ckpt_path=tmp_path / "epoch.ckpt", **options)
    whole, resumed = Store(tmp_path / "whole"), Store(out)
    assert len(whole.names()) == 2 and whole.names() == resumed.names()
    for name in whole.names():
        assert whole.read(name).attrs["content_digest"] == resumed.read(name).attrs["content_digest"], name
    overlap = whole.read(whole.names("subspace-overlap-*")[0])["overlap_with_previous"].values
    assert np.isnan(overlap).tolist() == [True, False, False, False]


def test_a_training_that_starts_anew_remembers_nothing(tmp_path):
    def watch(out):
        return ProbeEvery(SubspaceOverlap(k=2, minibatch=8, draws=3), every="epochs:1", out=out)

    callback = watch(tmp_path / "a")
    torch.manual_seed(1)
    fit(tmp_path, callback, module=Warmed(), epochs=1, shuffle=False)
    callback.out = tmp_path / "b"
    torch.manual_seed(1)
    fit(tmp_path, callback, module=Warmed(), epochs=1, shuffle=False)
    first, second = (Store(tmp_path / folder).read(Store(tmp_path / folder).names()[0]) for folder in "ab")
    assert first.attrs["content_digest"] == second.attrs["content_digest"]


def test_an_error_in_the_first_step_of_a_resumed_training_is_the_one_that_is_seen(tmp_path):
    class Save(pl.callbacks.Checkpoint):
        def on_train_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "end.ckpt", weights_only=False)

    options = {"enable_checkpointing": True}
    fit(tmp_path, Save(), epochs=1, **options)
    out = tmp_path / "new"
    with pytest.raises(Stop):
        fit(tmp_path, TrainingDynamics(out), Save(), StopAt(3), ckpt_path=tmp_path / "end.ckpt", **options)
    assert Store(out).read("training").sizes["step"] == 0
    trajectory = Store(out).read("trajectory")
    assert trajectory.sizes == {"snapshot": 0, "parameter": 60}
    fit(tmp_path, TrainingDynamics(out), Save(), ckpt_path=tmp_path / "end.ckpt", **options)
    assert Store(out).read("training")["epoch_of_step"].dtype == np.int64
    assert Store(out).read("trajectory")["step"].values.tolist() == [6, 9]


def test_ctrl_c_is_saved(tmp_path):
    with pytest.raises(SystemExit):  # Lightning's own way to end
        fit(tmp_path, TrainingDynamics(tmp_path), StopAt(4, KeyboardInterrupt))
    assert Store(tmp_path).read("training").sizes["step"] == 4
    with Store(tmp_path).lock():
        pass


def test_training_longer_goes_on_from_the_sealed_files(tmp_path):
    options = {"shuffle": False}
    callback = TrainingDynamics(tmp_path)
    module, made = fit(tmp_path, callback, epochs=2, **options)
    made.fit_loop.max_epochs = 3
    made.fit(module, loader(False), loader(False))
    training, trajectory = Store(tmp_path).read("training"), Store(tmp_path).read("trajectory")
    assert training["step"].values.tolist() == list(range(1, 10))
    assert training["epoch"].values.tolist() == [0, 1, 2] and np.isfinite(training["train_loss"]).all()
    assert trajectory["step"].values.tolist() == [0, 3, 6, 9]


def test_a_finished_training_is_not_overwritten(tmp_path):
    fit(tmp_path, TrainingDynamics(tmp_path))
    with pytest.raises(ValueError, match=r"already holds a finished training\.h5"):
        fit(tmp_path, TrainingDynamics(tmp_path))


class ByHand(Foreign):
    def __init__(self, optimizers):
        super().__init__()
        self.automatic_optimization = False
        self.number = optimizers

    def configure_optimizers(self):
        return [torch.optim.SGD(self.body.parameters(), lr=0.1) for _ in range(self.number)]

    def training_step(self, batch, batch_idx):
        for optimizer in [self.optimizers()] if self.number == 1 else self.optimizers():
            optimizer.zero_grad()
            loss = F.cross_entropy(self.body(batch[0]), batch[1])
            self.manual_backward(loss)
            optimizer.step()
        return loss


def test_optimizing_by_hand(tmp_path):
    fit(tmp_path, TrainingDynamics(tmp_path), module=ByHand(1))
    assert (Store(tmp_path).read("training")["gradient_norm"] > 0).all()
    with pytest.raises(ValueError, match="ByHand optimizes by hand"):
        fit(tmp_path, ProbeEvery(LossAndPlace(), out=tmp_path), module=ByHand(1))
    with pytest.raises(ValueError, match="follows one optimizer, ByHand has 2"):
        fit(tmp_path, TrainingDynamics(tmp_path / "two"), module=ByHand(2))


def test_what_cannot_be_recorded(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="every must be at least 1 step, got 0"):
        TrainingDynamics(tmp_path, every=0)
    with pytest.raises(ValueError, match="a schedule is"):
        TrainingDynamics(tmp_path, snapshots="sometimes")
    with pytest.raises(ValueError, match="examples must be at least 1"):
        ProbeEvery(LossAndPlace(), out=tmp_path, examples=0)
    monkeypatch.setattr("landscape.callbacks.dynamics._LARGEST_TRAJECTORY", 100)
    with pytest.raises(ValueError, match="keep fewer with snapshots="):
        fit(tmp_path, TrainingDynamics(tmp_path))


def test_loaders_without_a_dataset_need_an_objective(tmp_path):
    made = trainer(ProbeEvery(LossAndPlace(), out=tmp_path), default_root_dir=tmp_path)
    with pytest.raises(ValueError, match="cannot choose examples from a list"):
        made.fit(Foreign(), list(loader()), loader(False))


def test_probes_skip_parameters_that_are_not_finite(tmp_path):
    with pytest.warns(UserWarning, match="not finite at step"):
        fit(tmp_path, ProbeEvery(LossAndPlace(), every="epochs:1", out=tmp_path), module=Foreign(lr=float("inf")))
    (name,) = Store(tmp_path).names()
    assert Store(tmp_path).read(name)["step"].values.tolist() == [0]


def test_a_data_set_as_a_record():
    answer = LossAndPlace()(Objective(Foreign().body.eval(), dataset().tensors, loss=F.cross_entropy))
    answer = answer.assign_attrs(units="1", done=True)
    record = {key: value for key, value in record_of(answer).items()}
    xr.testing.assert_identical(dataset_of(record), answer)


def test_a_probe_that_needs_a_metric_waits_for_the_first_step(tmp_path):
    probe = Spectrum(k=1, operator="preconditioned")
    with pytest.warns(UserWarning, match="made no step .* skips step 0"):
        fit(tmp_path, ProbeEvery(probe, every=2, out=tmp_path), module=Warmed(), epochs=2)
    (name,) = Store(tmp_path).names("spectrum-by-step-*")
    assert Store(tmp_path).read(name)["step"].values[0] == 2


def test_two_callbacks_with_the_same_probe_have_names(tmp_path):
    first = ProbeEvery(Spectrum(k=1), out=tmp_path)
    second = ProbeEvery(Spectrum(k=1), out=tmp_path, name="other-data")
    assert first.state_key != second.state_key
    assert "spectrum-by-step-other-data-" in second.state_key
    with pytest.raises(ValueError, match=r"name must consist of letters, digits, - and _, got 'a/b'"):
        ProbeEvery(Spectrum(k=1), out=tmp_path, name="a/b")


def test_what_flows_is_recorded_on_schedule(tmp_path):
    fit(tmp_path, TrainingDynamics(tmp_path, flow_every=4))
    training = Store(tmp_path).read("training")
    assert training["flow_step"].values.tolist() == [1, 4, 8]
    assert training["module"].values.tolist() == ["body.0", "body.4"]
    assert training["activation"].values.tolist() == ["body.0 relu"]
    assert training["depth"].values.tolist() == [0, 1]
    assert np.isfinite(training["backpropagated_norm"]).all() and np.isfinite(training["gradient_slope"]).all()
    assert training["histogram"].sum("bin").values == pytest.approx(1)
    largest = training["layer_gradient_norm"].sel(step=training["flow_step"].values).values
    assert (training["gradient_magnitude"].values > 0).all() and (training["gradient_magnitude"].values < largest).all()
    assert ((training["sign_coherence"] >= 0) & (training["sign_coherence"] <= 1)).all()


def test_the_way_is_that_of_the_snapshots(tmp_path):
    fit(tmp_path, TrainingDynamics(tmp_path, every=2, snapshots="steps:2"))
    store = Store(tmp_path)
    training, theta = store.read("training"), store.read("trajectory")["theta"].values[:5].astype(np.float64)
    chords = np.diff(theta, axis=0)
    lengths = np.linalg.norm(chords, axis=1)
    cosines = (chords[1:] * chords[:-1]).sum(1) / lengths[1:] / lengths[:-1]
    assert training["chord_length"].values == pytest.approx(lengths, rel=1e-5)
    assert training["turn_cosine"].values[1:] == pytest.approx(cosines, rel=1e-4) and np.isnan(
        training["turn_cosine"][0]
    )
    assert training["distance_from_start"].values == pytest.approx(
        np.linalg.norm(theta[1:] - theta[0], axis=1), rel=1e-5
    )


def test_no_flow_on_request_and_only_of_the_first_batch_of_an_update(tmp_path):
    fit(tmp_path / "off", TrainingDynamics(tmp_path / "off", flow_every=0))
    assert "flow_step" not in Store(tmp_path / "off").read("training").dims
    fit(tmp_path / "two", TrainingDynamics(tmp_path / "two", flow_every=1), accumulate_grad_batches=2, shuffle=False)
    two = Store(tmp_path / "two").read("training")
    assert two["flow_step"].values.tolist() == list(range(1, 7))
    fit(tmp_path / "one", TrainingDynamics(tmp_path / "one", flow_every=1), shuffle=False)
    one = Store(tmp_path / "one").read("training")
    for name in ("backpropagated_norm", "backpropagated_variance"):  # of the loss of the batch, not of half of it
        assert one[name].values[0] == pytest.approx(two[name].values[0], rel=1e-5)
    with pytest.raises(ValueError, match="flow_every must be at least 0"):
        TrainingDynamics(tmp_path, flow_every=-1)


def test_an_error_in_a_watched_step_lets_go_of_the_module(tmp_path):
    class Broken(Foreign):
        def training_step(self, batch):
            self.body(batch[0])
            raise Stop

    module = Broken()
    with pytest.raises(Stop):
        fit(tmp_path, TrainingDynamics(tmp_path, flow_every=1), module=module)
    assert not any(part._forward_hooks for part in module.modules())
    assert not torch.overrides._get_current_function_mode_stack()


def test_dead_units_are_found_at_the_default_schedule_within_two_looks(tmp_path):
    """A layer that dies after the first step: no later pass has a unit that fires."""

    class Dying(Foreign):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

        def training_step(self, batch):
            if self.calls == 1:
                self.body[0].bias.data.fill_(-1e4)
            return super().training_step(batch)

    torch.manual_seed(0)
    made = trainer(TrainingDynamics(tmp_path, flow_every=4), epochs=4)
    many = DataLoader(dataset(300), batch_size=100, shuffle=False)
    made.fit(Dying(), many, loader(shuffle=False))
    training = Store(tmp_path).read("training")
    assert training["flow_step"].values.tolist() == [1, 4, 8, 12]
    assert training["dead_share"].values[:, 0].tolist()[1:] == [1, 1, 1]
    assert training["dead_share"].values[0, 0] < 1


@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")
def test_a_batch_that_is_skipped_leaves_nothing_behind(tmp_path):
    class Skipping(Foreign):
        def training_step(self, batch):
            loss = super().training_step(batch)
            return None if self.calls % 2 else loss

    fit(tmp_path, TrainingDynamics(tmp_path, flow_every=1), module=Skipping())
    assert not torch.overrides._get_current_function_mode_stack()
    training = Store(tmp_path).read("training")
    assert training["activation"].values.tolist() == ["body.0 relu"]
    assert np.isnan(training["loss"]).values.tolist() == [True, False] * 4 + [True]  # Lightning steps all the same
    found = {symptom.check: symptom.status for symptom in diagnose(Record(training))}
    assert found["loss"] == "ok"


def test_a_compiled_function_is_not_watched(tmp_path):
    class Compiled(Foreign):
        def __init__(self):
            super().__init__()
            self.body.inner = torch.compile(lambda x: x, backend="eager")

    with pytest.warns(UserWarning, match="compiled, so what flows through it is not recorded"):
        fit(tmp_path, TrainingDynamics(tmp_path, flow_every=1), module=Compiled())
    assert "flow_step" not in Store(tmp_path).read("training").dims


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_finished_training_goes_on_from_its_checkpoint(tmp_path):
    options = {"shuffle": False, "enable_checkpointing": True}
    _, made = fit(tmp_path, TrainingDynamics(tmp_path), epochs=2, **options)
    made.save_checkpoint(tmp_path / "end.ckpt", weights_only=False)
    with pytest.raises(ValueError, match="already holds a finished training.h5"):
        fit(tmp_path, TrainingDynamics(tmp_path), epochs=2, **options)
    fit(tmp_path, TrainingDynamics(tmp_path), epochs=4, ckpt_path=tmp_path / "end.ckpt", **options)
    training = Store(tmp_path).read("training")
    assert training["step"].values.tolist() == list(range(1, 13)) and training.sizes["epoch"] == 4


def test_half_precision_is_recorded(tmp_path):
    class Half(Foreign):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

    fit(tmp_path, TrainingDynamics(tmp_path, flow_every=2), module=Half(), precision="bf16-true")
    training = Store(tmp_path).read("training")
    assert training.sizes["step"] == 9 and np.isfinite(training["update_ratio"]).all()


def test_two_updates_in_one_batch_are_one_row(tmp_path):
    class ByHand(Foreign):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch):
            for _ in range(2):
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(F.cross_entropy(self.body(batch[0]), batch[1]))
                optimizer.step()

    fit(tmp_path, TrainingDynamics(tmp_path), module=ByHand())
    training = Store(tmp_path).read("training")
    assert training["step"].values.tolist() == list(range(2, 19, 2))
    assert np.isnan(training["loss"]).all() and (training["update_ratio"] > 0).all()
