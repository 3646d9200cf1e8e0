"""Double descent of networks: normal runs over width, epochs, number of examples or label noise."""

from __future__ import annotations

import math
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from landscape.execution import Progress
from landscape.store import Store
from models.architectures import build_model
from models.config import RunConfig
from models.data import load_data
from models.descent.sizes import AXES, check_axis, check_plan
from models.run import train
from models.space import Choices, Space
from models.sweep import Sweep

FIELD = {"width": "width", "noise": "width", "samples": "train_size", "epochs": "epochs"}
"""The field of a run that the sizes of an axis are."""
STOPPED, DECAYED = "early stopping", "optimal weight decay"
_MEASURED = ("test_loss", "test_error", "train_error", "val_loss", "chosen_epoch", "weight_decay")


@dataclass(frozen=True)
class Networks:
    """Trainings over one axis, levels of noise and seeds, with what is gained by stopping early and by weight decay.

    Every training is a run of its own, and its test split is measured after each epoch. The seed decides initial
    weights and the order of examples; splits and wrong labels are those of the configuration's data seed. The arms are
    "as trained"; early stopping, at the epoch of least validation loss; and, with several weight decays, that of least
    validation loss at the end. Nothing is chosen on the test split; labels of the validation split are right ones.

    Attributes:
        config: Of every run; the field of the axis, label_noise, seed and weight_decay are set here.
        axis: width, epochs, samples or noise (several levels over widths).
        sizes: Widths, numbers of examples, or epochs of one training at which it is looked at.
        noises: Shares of wrong labels, rising, in [0, 1).
        seeds: Repetitions.
        decays: Weight decays; the first is that of the runs as trained.

    References:
        Nakkiran et al., "Deep Double Descent: Where Bigger Models and More Data Hurt", ICLR 2020; and "Optimal
        Regularization Can Mitigate Double Descent", ICLR 2021.
    """

    config: RunConfig
    axis: str
    sizes: tuple[int, ...]
    noises: tuple[float, ...] = (0.0, 0.2)
    seeds: tuple[int, ...] = tuple(range(8))
    decays: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        """Refuse what has no curve.

        Raises:
            ValueError: If the axis is unknown, sizes or levels do not fit, weight decays repeat, or nothing is held out
                for validation.
        """
        check_axis(self.axis, AXES, self.config.model)
        check_plan(self.axis, self.sizes, self.noises, self.seeds)
        if not self.decays or len(set(self.decays)) < len(self.decays):
            raise ValueError(f"weight decays must be different and at least one, got {self.decays}")
        if not self.config.val_fraction:
            raise ValueError("epochs and weight decays are chosen on the validation split; give val_fraction above 0")
        if self.config.early_stopping or self.config.keep_best or self.config.keep_average:
            raise ValueError(
                "early stopping is an arm of its own; leave out early_stopping, keep_best and keep_average"
            )
        for size in self.sizes:
            self.of(size, self.noises[0], self.seeds[0], self.decays[0])

    def about(self) -> dict[str, Any]:
        """Return everything that decides the curves."""
        values = asdict(replace(self, config=RunConfig()))
        return {**values, "model": self.config.model, "config": self.config.to_dict()}

    def of(self, size: int, noise: float, seed: int, decay: float) -> RunConfig:
        """Return the configuration of one run; on the axis epochs all sizes have the same."""
        number = self.sizes[-1] if self.axis == "epochs" else size
        changes: dict[str, Any] = {FIELD[self.axis]: number, "label_noise": noise, "seed": seed, "weight_decay": decay}
        return replace(self.config, **changes, test_each_epoch=True)

    def _train(self, out: Path, executor: str | Executor, progress: Progress | None) -> None:
        """Train what is missing as a sweep; a single training is none."""
        sizes = self.sizes[-1:] if self.axis == "epochs" else self.sizes
        swept = {FIELD[self.axis]: sizes, "label_noise": self.noises, "weight_decay": self.decays, "seed": self.seeds}
        only = self.of(sizes[0], self.noises[0], self.seeds[0], self.decays[0])
        if all(len(values) == 1 for values in swept.values()):
            train(only, out / only.hash)
            return
        fixed = {name: value for name, value in asdict(only).items() if name not in swept}
        Sweep(Space({name: Choices(values) for name, values in swept.items()}, fixed))(out, executor, progress)

    def __call__(self, out: Path, executor: str | Executor = "serial", progress: Progress | None = None) -> xr.Dataset:
        """Train what is missing and lay out what was measured, as `landscape.descent.analysed` takes it.

        Args:
            out: Folder of the runs, each in a folder named by its configuration's hash.
            executor: Where runs are trained.
            progress: Called with (stage, runs done, runs in all).

        Returns:
            Over (arm, noise, size, seed) test_loss, test_error, train_error, the epoch and the weight_decay that were
            chosen; test_error by epoch as epoch_test_error (noise, size, epoch), its median over seeds, where sizes are
            not the epochs themselves; num_parameters and num_examples (size). What failed is NaN.
        """
        self._train(out, executor, progress)
        shape = (len(self.decays), len(self.noises), len(self.sizes), len(self.seeds))
        found = {name: np.full((2, *shape), math.nan) for name in _MEASURED}
        by_epoch = np.full((*shape[1:], self._epochs()), math.nan)
        for decay, noise, size, seed in np.ndindex(*shape):
            place = (decay, noise, size, seed)
            training = self._training(out, *place)
            if training is None:
                continue
            for arm, values in enumerate(self._arms(training, self.sizes[size])):
                for name, value in {**values, "weight_decay": self.decays[decay]}.items():
                    found[name][(arm, *place)] = value
            if decay == 0:
                errors = 1 - training["epoch_test_accuracy"].values
                by_epoch[place[1:]][: len(errors)] = errors
        return self._answer(found, by_epoch)

    def _epochs(self) -> int:
        return self.sizes[-1] if self.axis == "epochs" else self.config.epochs

    def _training(self, out: Path, decay: int, noise: int, size: int, seed: int) -> xr.Dataset | None:
        config = self.of(self.sizes[size], self.noises[noise], self.seeds[seed], self.decays[decay])
        folder = out / config.hash
        return None if (folder / "failure.json").exists() else Store(folder, create=False).read("training")

    def _arms(self, training: xr.Dataset, size: int) -> list[dict[str, float]]:
        """Measure one run as it was trained, and at its epoch of least validation loss."""
        if self.axis == "epochs":
            return [_at(training, size - 1)]
        last = _at(training, training.sizes["epoch"] - 1)
        last["train_error"] = 1 - float(training["final_train_accuracy"])  # of the last weights, not while they moved
        losses = training["val_loss"].values
        return [last, _at(training, int(np.nanargmin(losses)))] if np.isfinite(losses).any() else [last]

    def _answer(self, found: dict[str, np.ndarray], by_epoch: np.ndarray) -> xr.Dataset:
        arms = {"as trained": {name: values[0, 0] for name, values in found.items()}}
        if self.axis != "epochs":
            arms[STOPPED] = {name: values[1, 0] for name, values in found.items()}
        if len(self.decays) > 1:
            arms[DECAYED] = self._best_decays({name: values[0] for name, values in found.items()})
        dims = ("arm", "noise", "size", "seed")
        data: dict[str, Any] = {name: (dims, np.stack([arm[name] for arm in arms.values()])) for name in _MEASURED}
        data |= self._counts()
        if self.axis != "epochs":
            median = np.median(by_epoch, 2)
            data["epoch_test_error"] = (("noise", "size", "epoch"), median, {"long_name": "median over seeds"})
        coords = {
            "arm": list(arms),
            "noise": list(self.noises),
            "size": list(self.sizes),
            "seed": list(self.seeds),
        }
        attrs = {"axis": self.axis, "model": self.config.model, "loss": "nats", "data": self.config.data}
        return xr.Dataset(data, coords, attrs)

    def _best_decays(self, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Choose the weight decay of least validation loss in the end; of one training by its last size."""
        losses = np.where(np.isfinite(found["val_loss"]), found["val_loss"], np.inf)
        if self.axis == "epochs":
            losses = np.broadcast_to(losses[:, :, -1:], losses.shape)
        best = losses.argmin(0)[None]
        return {name: np.take_along_axis(values, best, 0)[0] for name, values in found.items()}

    def _counts(self) -> dict[str, Any]:
        configs = [self.of(size, 0.0, self.seeds[0], self.decays[0]) for size in self.sizes]
        splits = [load_data(config.data, **config.data_options) for config in _different_data(configs)]
        examples = [len(each.train.targets) for each in splits]
        shape, classes = splits[0].input_shape, splits[0].num_classes
        networks = [build_model(c.model, shape, classes, **c.architecture_options) for c in configs]
        parameters = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
        return {
            "num_parameters": ("size", np.array(parameters)),
            "num_examples": ("size", np.array(examples if len(examples) > 1 else examples * len(configs))),
        }


def _different_data(configs: list[RunConfig]) -> list[RunConfig]:
    return configs if configs[0].train_size != configs[-1].train_size else configs[:1]


def _at(training: xr.Dataset, epoch: int) -> dict[str, float]:
    """Measure a run after one of its epochs; its training error is the mean while the weights moved."""
    if epoch >= training.sizes["epoch"]:
        return {}
    one = training.isel(epoch=epoch)
    return {
        "test_loss": float(one["epoch_test_loss"]),
        "test_error": 1 - float(one["epoch_test_accuracy"]),
        "train_error": 1 - float(one["train_accuracy"]),
        "val_loss": float(one["val_loss"]),
        "chosen_epoch": float(epoch),
    }
