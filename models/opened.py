"""A run as it lies in its folder: its network, its data, its objective."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from landscape import Objective
from landscape.diagnosis import Record, recorded
from landscape.examples import Examples
from landscape.naming import named_object
from landscape.normalization import recalibrate
from landscape.optimizer_state import OptimizerState
from landscape.store import MissingError, NewerSchemaError, Store
from landscape.weights import digest_tensors, fit_weights, fitting_prefix, load_weights, save_weights
from models.architectures import build_model
from models.config import RunConfig
from models.data import Splits, load_data
from models.devices import find_device
from models.initialization import initialize
from models.losses import Loss, make_loss
from models.regularization import regularize

SCHEMA_VERSION = 1
OPTIMIZER_FILE = "optimizer.safetensors"
AVERAGED = "averaged"
"""The answer of a run of kind `averaged`: what its weights were measured to be."""
AVERAGE_FILE, LAST_FILE = "average.safetensors", "last.safetensors"
"""Of a run whose weights were averaged: the average where it was not kept, and the last ones where it was."""


@dataclass(frozen=True)
class Run:
    """A trained or imported network and what it is about.

    Attributes:
        folder: Where it lies.
        about: What `run.json` says.
    """

    folder: Path
    about: dict[str, Any]

    @cached_property
    def store(self) -> Store:
        """The folder's answers."""
        return Store(self.folder, create=False)

    @cached_property
    def config(self) -> RunConfig | None:
        """Every factor of a trained run, of the first source of an averaged one; None for imported weights."""
        return RunConfig.from_dict(self.about["config"]) if "config" in self.about else None

    @property
    def metrics(self) -> dict[str, float]:
        """What training ended with, or what an average was measured to be; empty for imported weights.

        The number of epochs and steps, the last value of everything measured by epoch, and the scalars.
        """
        if self.store.has(AVERAGED):
            return {str(name): float(value) for name, value in self.store.read(AVERAGED).data_vars.items()}
        if not self.store.has("training"):
            return {}
        training = self.store.read("training")
        found: dict[str, float] = {
            "epochs": training.sizes["epoch"],
            "steps": int(training["step"].max(initial=0)),
        }
        for name, values in training.data_vars.items():
            if (values.dims == ("epoch",) and values.size) or values.dims == ():
                found[str(name)] = float(values.values.reshape(-1)[-1])
        return found

    def weights(self) -> dict[str, Tensor]:
        """Read every tensor of the network by name, buffers included.

        Raises:
            MissingError: If training has not finished.
            DamagedFileError: If the file is damaged.
        """
        path = self.folder / "weights.safetensors"
        if not path.exists():
            raise MissingError(f"{self.folder} has no weights yet; run the same train command to finish it")
        return load_weights(path)[0]

    def model(self) -> nn.Module:
        """Build the network with its weights, in eval mode, on the CPU.

        Raises:
            MissingError: If training has not finished.
            WeightsError: If the weights do not fit the network, or are not finite.
        """
        weights, network = self.weights(), self._network()
        fit_weights(network, weights)
        return network.eval()

    def untrained(self, seed: int) -> nn.Module:
        """Build the network with other weights, drawn as those that it began with were, in eval mode, on the CPU.

        BatchNorm has the statistics of the training split under these weights.
        """
        inputs = self.data().train.inputs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self._network()
        if self.config is not None:
            initialize(network, self.config.init, torch.Generator().manual_seed(seed), inputs[:128])
        with torch.no_grad():
            recalibrate(network.eval(), lambda: [network(batch) for batch in inputs[:4096].split(512)])
        return network

    def data(self, name: str | None = None) -> Splits:
        """Load the run's data, or other data treated in the same way.

        Raises:
            ValueError: If the run's own data has changed since.
        """
        options = self.about["data_options"] if self.config is None else self.config.data_options
        own = self.about["data"] if self.config is None else self.config.data
        splits = load_data(name or own, **options)
        if name in (None, own) and splits.digest != self.about["data_sha256"]:
            raise ValueError(f"the data {own!r} has changed since {self.folder} was made; restore it")
        return splits

    def objective(self, data: str | None = None, **options: Any) -> Objective:
        """Ask for the run's own mean loss over the training split, noisy labels included, without augmentation.

        That is the cross-entropy, with the run's label smoothing.

        An anchor's penalty and the old examples of rehearsal are no part of it: it is the loss of the data alone.

        Args:
            data: Other data than the run's own, by name.
            **options: What `landscape.Objective` takes. The test split is measured too, unless `also` says otherwise.
                The optimizer is the run's, read only when a probe asks for it.

        Raises:
            ValueError: If a device is asked for that is not there.
        """
        if options.get("device") is not None:
            options["device"] = find_device(str(options["device"]))
        splits = self.data(data)
        # a function of a module can be sent to other processes, a method of a run with open files cannot
        known = {"also": {"test": splits.test}, "optimizer": partial(_optimizer_state, self.folder)}
        return Objective(self.model(), splits.train, loss=self._loss(), **{**known, **options})

    def optimizer_state(self) -> OptimizerState:
        """Read what the optimizer held when training ended.

        Raises:
            MissingError: If the run has none, or none that belongs to its weights.
            DamagedFileError: If the file is damaged.
        """
        return _optimizer_state(self.folder)

    def record(self) -> Record:
        """Collect what was recorded while it trained, to be diagnosed.

        Raises:
            MissingError: If nothing was.
        """
        if not self.store.has("training"):
            unfinished = self.about["kind"] == "trained"
            state = "run the same train command to finish it" if unfinished else "its weights were not trained here"
            raise MissingError(f"{self.folder} has no training.h5: {state}")
        if self.config is None:
            return recorded(self.store)
        data, asked = self.data(), self.config.batch_size
        examples = len(data.train.targets)
        return recorded(self.store, data.num_classes, examples if asked == "all" else min(asked, examples))

    def test_metrics(self) -> dict[str, float]:
        """Measure loss (nats) and accuracy on the test split."""
        return Objective(self.model(), self.data().test, loss=self._loss()).metrics()

    def _loss(self) -> Loss:
        return make_loss() if self.config is None else make_loss(self.config.label_smoothing)

    def _network(self) -> nn.Module:
        if self.config is None:
            return make_network(self.about["model"])
        splits = self.data()
        network = build_model(
            self.config.model, splits.input_shape, splits.num_classes, **self.config.architecture_options
        )
        regularize(network, self.config.regularization)
        return network


def _optimizer_state(folder: Path) -> OptimizerState:
    path, hint = folder / OPTIMIZER_FILE, "give --lr and --optimizer sgd to compare with gradient descent"
    if not path.is_file():
        raise MissingError(
            f"{folder} has no optimizer state (its weights were imported, averaged, or trained by an earlier version); "
            f"{hint}"
        )
    state, weights = OptimizerState.load(path)
    if weights != digest_tensors(load_weights(folder / "weights.safetensors")[0]):
        raise MissingError(
            f"the optimizer state of {folder} belongs to its last weights, but those of its best epoch, or an average, "
            f"were kept; "
            f"{hint}"
        )
    return state


def open_run(folder: str | Path) -> Run:
    """Open a run.

    Raises:
        MissingError: If there is no run in the folder.
        NewerSchemaError: If a later version of this package made it.
    """
    folder = Path(folder)
    if not (folder / "run.json").is_file():
        raise MissingError(f"there is no run in {folder} (no run.json); give a folder made by train or import")
    about = Store(folder, create=False).load_json("run")
    if about.get("schema_version", 0) > SCHEMA_VERSION:
        raise NewerSchemaError(f"{folder} was made by a newer version of landscape-lab; install that one")
    return Run(folder, about)


def import_weights(
    file: str | Path,
    factory: str,
    data: str,
    out: str | Path,
    *,
    standardize: str = "none",
    prefix: str | None = None,
) -> Run:
    """Make a run of somebody else's weights. The file is read as data; no code in it is ever run.

    Args:
        file: `.safetensors`, `.pt`, `.pth`, `.bin` or a Lightning `.ckpt`.
        factory: "package.module:function" that builds the network without arguments.
        data: "digits", "mnist1d", "idx:DIR", "npz:FILE" or "folder:DIR".
        out: The run's folder.
        standardize: How inputs are standardized, as the network was trained: "none" (images from 0 to 1, as they
            come), "channel", "pixel", "pca" or "whiten". Other constants belong into the factory's network.
        prefix: Take only the names in the file that begin with this, without it; default: what fits, such as
            ``model.`` of a LightningModule.

    Raises:
        ValueError: If the folder holds a run already, the factory cannot be found, the weights do not fit its network,
            or the network cannot tell the classes of the data apart.
        DamagedFileError: If the file is damaged.
        UnsafeFileError: If it holds code.
    """
    out = Path(out)
    if (out / "run.json").exists():
        raise ValueError(f"{out} holds a run already; choose another folder")
    tensors, _ = load_weights(file)
    network = make_network(factory)
    prefix = fitting_prefix(network, tensors) if prefix is None else prefix
    fit_weights(network, tensors, prefix)
    options = {"val_fraction": 0.0, "standardize": standardize}
    splits = load_data(data, **options)
    _require_outputs(network, splits, factory)
    store = Store(out)
    with store.lock():
        save_weights(store.path / "weights.safetensors", network.state_dict())
        about = {
            "schema_version": SCHEMA_VERSION,
            "kind": "imported",
            "model": factory,
            "file": Path(file).name,
            "prefix": prefix,
            "data": data,
            "data_options": options,
            "data_sha256": splits.digest,
            "examples_sha256": Examples.of(splits.train).digest(),
        }
        store.save_json("run", about)
    return open_run(out)


def make_network(factory: str) -> nn.Module:
    """Build a network with somebody's function, "package.module:function".

    Raises:
        ValueError: If there is no such module or function, or it makes no network.
    """
    network = named_object(factory)()
    if not isinstance(network, nn.Module):
        raise ValueError(f"{factory!r} made a {type(network).__name__}, expected a torch.nn.Module")
    return network


@torch.no_grad()
def _require_outputs(network: nn.Module, splits: Splits, factory: str) -> None:
    inputs = splits.train.inputs[:2]
    try:
        logits = network.eval()(inputs)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{factory!r} cannot take inputs of shape {splits.input_shape}: {error}") from error
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != len(inputs):
        raise ValueError(f"{factory!r} should give logits (N, classes) for N inputs, got {shape}")
    if logits.shape[1] < splits.num_classes:
        raise ValueError(
            f"the labels go to {splits.num_classes - 1}, the model has {logits.shape[1]} outputs "
            f"(classes 0 to {logits.shape[1] - 1}); use a model with enough outputs, or other data"
        )
