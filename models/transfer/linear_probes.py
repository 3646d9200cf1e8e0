"""What a linear classifier can read from the output of each layer."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from landscape.provenance import provenance
from landscape.weights import digest_tensors
from models.architectures import build_model
from models.data import Examples, Splits
from models.initialization import initialize
from models.opened import Run
from models.seeds import derived_seed

_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_LARGEST = 2048  # features of a flattened output; larger ones are averaged over space


@dataclass(frozen=True)
class LinearProbes:
    """Accuracy of a multinomial logistic regression on the output of each part of a frozen network.

    The parts are the network's own children, in order, and "input", the flattened inputs. An output is flattened if
    that gives at most 2,048 features, and otherwise averaged over space; features are standardized by the training
    split. The strength of the L2 penalty is chosen by the accuracy on the validation split. Beside the network stand
    the null, the same architecture at random initial weights, and chance, the share of the most frequent class.

    Attributes:
        seed: Of the random initial weights.
        most: Training examples to fit on, the first so many of them.

    References:
        Alain & Bengio, "Understanding intermediate layers using linear classifier probes", 2016.
    """

    seed: int = 0
    most: int = 5000

    def __post_init__(self) -> None:
        """Refuse what is out of range.

        Raises:
            ValueError: If there are too few examples to fit on.
        """
        if self.seed < 0 or self.most < 10:
            raise ValueError(f"seed must be at least 0 and most at least 10, got {self.seed} and {self.most}")

    def __call__(self, run: Run, data: str | None = None) -> xr.Dataset:
        """Fit and measure.

        Args:
            run: A finished run that was trained, not imported.
            data: Other data than the run's own, of the same shape.

        Returns:
            accuracy, random_accuracy, strength and features by layer; network_accuracy (of the run's own
            classifier, on its own data alone) and chance.

        Raises:
            ValueError: If the weights were imported, there is no validation split, or other data has another shape.
        """
        if run.config is None:
            raise ValueError(f"{run.folder} holds imported weights, of unknown initialization; give a run of `train`")
        splits, own = run.data(data), run.data()
        if splits.val is None:
            raise ValueError(f"{run.folder} has no validation split to choose the penalty on; train with val_fraction")
        if splits.input_shape != own.input_shape:
            raise ValueError(f"{data} has inputs of shape {splits.input_shape}, the network takes {own.input_shape}")
        network, null = run.model(), self._null(run, own)
        names, found = ["input", *(name for name, _ in network.named_children())], []
        for trained, untrained in zip(self._layers(network, splits), self._layers(null, splits), strict=True):
            found.append((*trained, untrained[0]))
        accuracy, strength, features, random = (np.array(column) for column in zip(*found, strict=True))
        counts = torch.bincount(splits.test.targets)
        measured: dict[str, Any] = {"chance": float(counts.max() / counts.sum())}
        if data in (None, run.config.data):
            measured["network_accuracy"] = run.test_metrics()["accuracy"]
        by_layer = {"accuracy": accuracy, "random_accuracy": random, "strength": strength, "features": features}
        return xr.Dataset(
            {**{name: ("layer", values) for name, values in by_layer.items()}, **measured}, coords={"layer": names}
        )

    def _null(self, run: Run, own: Splits) -> nn.Module:
        assert run.config is not None
        c = run.config
        network = build_model(c.model, own.input_shape, own.num_classes, **c.architecture_options)
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "null"))
        initialize(network, c.init, generator, own.train.inputs[:128])
        return network.eval()

    def _layers(self, network: nn.Module, splits: Splits) -> list[tuple[float, float, int]]:
        """Accuracy, strength and number of features of each layer."""
        assert splits.val is not None
        train = Examples(splits.train.inputs[: self.most], splits.train.targets[: self.most])
        parts = (train, splits.val, splits.test)
        outputs = [layer_outputs(network, part.inputs) for part in parts]
        targets = [part.targets.numpy() for part in parts]
        return [_fitted(list(layer), targets) for layer in zip(*outputs, strict=True)]


@torch.no_grad()
def layer_outputs(network: nn.Module, inputs: Tensor, batch_size: int = 512) -> list[np.ndarray]:
    """Return the features (N, D) of the inputs and of the output of every child of a network in eval mode."""
    kept: dict[str, list[Tensor]] = {name: [] for name, _ in network.named_children()}

    def keep(name: str) -> Any:
        return lambda module, arguments, output: kept[name].append(_features(output))

    handles = [module.register_forward_hook(keep(name)) for name, module in network.named_children()]
    try:
        for batch in inputs.split(batch_size):
            network(batch)
    finally:
        for handle in handles:
            handle.remove()
    return [_features(inputs).numpy(), *(torch.cat(parts).numpy() for parts in kept.values())]


def _features(output: Tensor) -> Tensor:
    flat = output.flatten(1)
    return flat if output.ndim == 2 or flat.shape[1] <= _LARGEST else output.flatten(2).mean(2)


def _fitted(features: list[np.ndarray], targets: list[np.ndarray]) -> tuple[float, float, int]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    shift, scale = features[0].mean(0), features[0].std(0)
    train, val, test = ((part - shift) / np.where(scale > 0, scale, 1) for part in features)
    best: tuple[float, float, float] = (-1.0, 0.0, 0.0)
    for strength in _STRENGTHS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # validation judges what was reached
            model = LogisticRegression(C=1 / (strength * len(train)), max_iter=200).fit(train, targets[0])
        score = float(model.score(val, targets[1]))
        if score >= best[0]:  # of equal ones the stronger penalty
            best = (score, strength, float(model.score(test, targets[2])))
    return best[2], best[1], train.shape[1]


def answer_linear_probes(probes: LinearProbes, run: Run, data: str | None = None) -> tuple[xr.Dataset, Path]:
    """Answer from the run's store, or fit and keep the answer.

    Returns:
        The answer, and its file.
    """
    digests = {"theta": digest_tensors(run.model().state_dict()), "data_sha256": run.data(data).digest}
    about = json.dumps({**asdict(probes), "data": data, **digests}, sort_keys=True)
    name = f"linear-probes-{hashlib.sha256(about.encode()).hexdigest()[:12]}"
    if not run.store.has(name):
        answer = probes(run, data).assign_attrs(probe="linear-probes", probe_fields=about, **digests, **provenance())
        run.store.write(name, answer)
    return run.store.read(name), run.folder / f"{name}.h5"
