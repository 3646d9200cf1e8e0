"""Linear classifiers on what each layer of a network hands to the next: where the classes become separable."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from landscape.execution import Progress
from landscape.intervals import wilson
from landscape.provenance import provenance
from landscape.store import Journal, Store
from landscape.weights import digest_tensors
from models.data import Examples, Splits
from models.opened import Run
from models.seeds import derived_seed

STRENGTHS = tuple(10.0**power for power in range(-4, 1))
"""Inverse strengths C of the squared penalty, among which a held-out fifth of the training examples chooses."""
MOST_FEATURES = 2048
INPUT = "input"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LinearProbes:
    """Multinomial logistic regression on the input of each layer, against the same network with random weights.

    A layer is a module with a weight of two or more axes. What is probed is what enters it, so that the first is the
    raw input and the last what the network's own classifier sees; layers that see the same tensor are probed once.
    Features are standardized by the training examples.

    Attributes:
        pool: mean averages each channel over all places, as before a classifier; flatten keeps the places. The raw
            input is always flattened. More than 2,048 features are projected on so many random directions.
        amounts: Numbers of training examples to fit on; all where none is given.
        nulls: How many networks of random weights stand beside it.
        seed: Of the choice of examples, the random networks and projections.

    References:
        Alain and Bengio, "Understanding intermediate layers using linear classifier probes", ICLR workshop 2017.
    """

    pool: Literal["mean", "flatten"] = "mean"
    amounts: tuple[int, ...] = ()
    nulls: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be fitted.

        Raises:
            ValueError: If a value is out of range.
        """
        if self.pool not in ("mean", "flatten"):
            raise ValueError(f"pool must be mean or flatten, got {self.pool!r}")
        if any(amount < 20 for amount in self.amounts) or len(set(self.amounts)) < len(self.amounts):
            raise ValueError(f"amounts must be different numbers of at least 20 examples, got {list(self.amounts)}")
        for name, least in (("nulls", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def __call__(
        self, run: Run, data: str | None = None, *, journal: Journal | None = None, progress: Progress | None = None
    ) -> xr.Dataset:
        """Fit.

        Args:
            run: A trained or imported network.
            data: Other data than the run's own, of the same input shape, standardized by its own training split.
            journal: Where finished fits are kept and found.
            progress: Called with ("fits", fits done, fits in all).

        Returns:
            By (amount, layer): accuracy on the test split with its 95% interval, strength (the C that was chosen) and
            null_accuracy with a leading axis `null`; features by layer; the network's own network_accuracy (NaN on
            other data), and chance, the share of the largest class.

        Raises:
            ValueError: If the data has another input shape, or fewer training examples than asked for.
        """
        splits = run.data(data)
        self.require(run, splits)
        amounts = self.amounts or (len(splits.train.targets),)
        nulls = [run.untrained(derived_seed(self.seed, "null", number)) for number in range(self.nulls)]
        networks = [run.model(), *nulls]
        jobs = [(who, amount) for who in range(len(networks)) for amount in amounts]
        fits: dict[tuple[int, int], dict[str, Floats]] = {}
        for done, (who, amount) in enumerate(jobs):
            key = f"{who}/{amount}"
            known = journal.records().get(key) if journal is not None else None
            fits[who, amount] = known or self._fits(networks[who], splits, amount)
            if journal is not None and known is None:
                journal.append(key, fits[who, amount])
            if progress is not None:
                progress("fits", done + 1, len(jobs))
        own = _accuracy(networks[0], splits.test) if data is None else np.nan
        return self._answer(networks[0], splits, amounts, fits, own)

    def require(self, run: Run, splits: Splits) -> None:
        """Refuse data that does not suit the network or the amounts.

        Raises:
            ValueError: If it has another input shape, or fewer training examples than asked for.
        """
        expected = run.data().input_shape
        if splits.input_shape != expected:
            raise ValueError(f"the network takes inputs of shape {expected}, this data has {splits.input_shape}")
        available = len(splits.train.targets)
        if self.amounts and max(self.amounts) > available:
            raise ValueError(f"amounts go to {max(self.amounts)}, there are {available} training examples")

    def _fits(self, network: nn.Module, splits: Splits, amount: int) -> dict[str, Floats]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "examples"))
        chosen = torch.randperm(len(splits.train.targets), generator=generator)[:amount]
        train = features(network, splits.train.inputs[chosen], self.pool, self.seed)
        test = features(network, splits.test.inputs, self.pool, self.seed)
        targets, wanted = splits.train.targets[chosen].numpy(), splits.test.targets.numpy()
        found = [_fit(train[name], targets, test[name], wanted) for name in train]
        return {"correct": np.array([c for c, _ in found]), "strength": np.array([s for _, s in found])}

    def _answer(
        self,
        network: nn.Module,
        splits: Splits,
        amounts: tuple[int, ...],
        fits: dict[tuple[int, int], dict[str, Floats]],
        own: float,
    ) -> xr.Dataset:
        names = list(features(network, splits.test.inputs[:2], self.pool, self.seed).items())
        count = len(splits.test.targets)
        correct = np.array([fits[0, amount]["correct"] for amount in amounts])
        intervals = np.array([[wilson(int(c), count) for c in row] for row in correct])
        null = [[fits[1 + n, amount]["correct"] / count for amount in amounts] for n in range(self.nulls)]
        dims = ("amount", "layer")
        largest = np.bincount(splits.test.targets.numpy()).max() / count
        return xr.Dataset(
            {
                "accuracy": (dims, correct / count),
                "accuracy_low": (dims, intervals[..., 0]),
                "accuracy_high": (dims, intervals[..., 1]),
                "strength": (dims, np.array([fits[0, amount]["strength"] for amount in amounts])),
                "null_accuracy": (("null", *dims), np.array(null).reshape(self.nulls, len(amounts), len(names))),
                "features": ("layer", [values.shape[1] for _, values in names]),
                "network_accuracy": own,
                "chance": float(largest),
            },
            {"amount": list(amounts), "layer": [name for name, _ in names]},
        )


@torch.no_grad()
def features(network: nn.Module, inputs: Tensor, pool: str, seed: int, batch_size: int = 512) -> dict[str, Floats]:
    """What enters each weighted layer, in the order of the pass: (N, features) by the layer's name.

    Args:
        network: In eval mode; unchanged afterwards.
        inputs: (N, ...).
        pool: "mean" or "flatten".
        seed: Of the projection of more than 2,048 features.
        batch_size: Examples at once.
    """
    parts: dict[str, list[Tensor]] = {}
    seen: set[int] = set()
    kept: list[Tensor] = []

    def watch(name: str) -> Any:
        def on_input(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            tensor = arguments[0]
            if id(tensor) in seen:
                return
            seen.add(id(tensor))
            kept.append(tensor)  # so that no other tensor takes its id
            is_sequence = isinstance(module, nn.Linear) and tensor.ndim > 2
            values = tensor.transpose(1, -1) if is_sequence else tensor
            is_input = tensor is batch
            keeps = pool == "flatten" or is_input or values.ndim == 2
            flat = values.flatten(1) if keeps else values.flatten(2).mean(2)
            parts.setdefault(INPUT if is_input else name, []).append(_projected(flat, seed).double())

        return on_input

    weighted = [(n, m) for n, m in network.named_modules() if any(p.ndim > 1 for p in m.parameters(False))]
    handles = [module.register_forward_pre_hook(watch(name)) for name, module in weighted]
    try:
        for batch in inputs.split(batch_size):
            seen.clear()
            kept.clear()
            network(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(values).numpy() for name, values in parts.items() if len(torch.cat(values)) == len(inputs)}


def _projected(values: Tensor, seed: int) -> Tensor:
    size = values.shape[1]
    if size <= MOST_FEATURES:
        return values
    generator = torch.Generator().manual_seed(derived_seed(seed, "projection", size))
    return values @ (torch.randn(size, MOST_FEATURES, generator=generator) / MOST_FEATURES**0.5).to(values)


def _fit(train: Floats, targets: NDArray[np.int64], test: Floats, wanted: NDArray[np.int64]) -> tuple[float, float]:
    """Choose the penalty on a held-out fifth, fit on all; return the number of right answers and the strength."""
    mean, deviation = train.mean(0), train.std(0)
    scale = np.where(deviation > 1e-12, deviation, 1.0)
    train, test = (train - mean) / scale, (test - mean) / scale
    held_out = np.arange(len(targets)) % 5 == 0  # the examples come shuffled
    scores = [
        _model(train[~held_out], targets[~held_out], c).score(train[held_out], targets[held_out]) for c in STRENGTHS
    ]
    best = STRENGTHS[int(np.argmax(scores))]
    return float((_model(train, targets, best).predict(test) == wanted).sum()), best


def _model(train: Floats, targets: NDArray[np.int64], strength: float) -> Any:
    from sklearn.dummy import DummyClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(targets)) == 1:
        return DummyClassifier().fit(train, targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what is not quite at its optimum is still a classifier
        return LogisticRegression(C=strength, max_iter=200, tol=1e-3).fit(train, targets)


@torch.no_grad()
def _accuracy(network: nn.Module, examples: Examples) -> float:
    right = [(network(x).argmax(1) == y).sum() for x, y in zip(*(t.split(512) for t in examples), strict=True)]
    return float(sum(right)) / len(examples.targets)


def ask_linear_probes(
    probes: LinearProbes, run: Run, data: str | None, folder: Path, progress: Progress | None = None
) -> tuple[str, xr.Dataset]:
    """Fit and store, or find what is stored; finished fits of an interrupted call are not made again.

    Returns:
        The answer's name and the answer.

    Raises:
        ValueError: As `LinearProbes.__call__` does.
        StoreError: If a file cannot be read or written.
    """
    splits = run.data(data)
    about = {**asdict(probes), "data": splits.digest, "weights": digest_tensors(run.model().state_dict())}
    name = f"linear-probes-{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]}"
    store = Store(folder)
    if store.has(name):
        return name, store.read(name)
    probes.require(run, splits)
    with store.lock(), store.journal(name) as journal:
        answer = probes(run, data, journal=journal, progress=progress)
        fields = json.dumps({**asdict(probes), "data": data}, sort_keys=True)
        store.write(name, answer.assign_attrs(probe="linear-probes", probe_fields=fields, **provenance()))
        journal.discard()
    return name, store.read(name)
