"""Regression on random features of real data: classes as one-hot targets, solved in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.nn import functional as F

from landscape.execution import Answer
from models.architectures.linear import RandomFeatures
from models.config import RunConfig
from models.data import Examples, Splits, load_data
from models.data.splits import add_label_noise
from models.descent.sizes import check_axis, check_penalties, check_plan
from models.descent.solving import solve
from models.seeds import derived_seed

PENALTIES = tuple(float(f"{penalty:.3g}") for penalty in np.geomspace(1e-4, 1e2, 13))
DECIDES = ("data", "task", "test_size", "val_fraction", "standardize", "data_seed", "activation", "threads")
"""The fields of a run's configuration that count here, besides the sizes; training has no part in it."""


@dataclass(frozen=True)
class FeatureRegression:
    """Minimum-norm least squares on random features, over their number or over the number of examples.

    Each seed draws its training examples from the training split, its wrong labels (exactly the share of noise of them,
    uniform among the incorrect classes) and its features; sizes of one seed are nested. Targets are one-hot less 1/K,
    the loss is the squared error averaged over classes, and the class is the largest output. The second arm, where
    there are penalties, has the ridge penalty of least loss on the validation split, whose labels are right.

    Attributes:
        config: Its data, task, splits, standardization, activation (cosine or relu) and data seed count.
        axis: width (features), samples (examples) or noise (several levels over features).
        sizes: Numbers of features, or of examples.
        other: Examples where features vary, features where examples vary.
        noises: Levels of noise, rising, in [0, 1).
        seeds: Repetitions.
        penalties: Of the ridge arm, rising, added as penalty |w|^2 to the sum of squares; none makes no such arm.

    References:
        Belkin et al., "Reconciling modern machine-learning practice and the classical bias-variance trade-off",
        PNAS 2019, figure 2; Nakkiran et al., "Optimal Regularization Can Mitigate Double Descent", ICLR 2021.
    """

    config: RunConfig
    axis: str
    sizes: tuple[int, ...]
    other: int = 300
    noises: tuple[float, ...] = (0.0, 0.2)
    seeds: tuple[int, ...] = tuple(range(8))
    penalties: tuple[float, ...] = PENALTIES

    axes: ClassVar[tuple[str, ...]] = ("width", "samples", "noise")

    def __post_init__(self) -> None:
        """Refuse what cannot be fitted.

        Raises:
            ValueError: If the axis is unknown, sizes do not fit, there are too few examples, or something of the
                configuration was set that has no part in least squares.
        """
        check_axis(self.axis, self.axes, "random-features")
        check_plan(self.axis, self.sizes, self.noises, self.seeds)
        check_penalties(self.penalties)
        if self.other < 1:
            raise ValueError(f"random features need at least 1 example and 1 feature, got {self.other}")
        plain = RunConfig(model="random-features")
        swept = {"model", "width", "train_size", "label_noise", "seed", *DECIDES}
        for field in fields(RunConfig):
            if field.name not in swept and getattr(self.config, field.name) != getattr(plain, field.name):
                raise ValueError(
                    f"random features are solved in closed form, so {field.name} has no part in it, got "
                    f"{getattr(self.config, field.name)!r}; leave it out, or train the model mlp or cnn"
                )
        if self.penalties and not self.config.val_fraction:
            raise ValueError("the ridge penalty is chosen on the validation split; give val_fraction above 0")

    def about(self) -> dict[str, Any]:
        """Return everything that decides the curves, with a digest of the data."""
        values = self.config.to_dict()
        return {
            "model": "random-features",
            **{name: values[name] for name in DECIDES},
            **{name: getattr(self, name) for name in ("axis", "other")},
            **{name: list(getattr(self, name)) for name in ("sizes", "noises", "seeds", "penalties")},
            "data_sha256": self.splits().digest,
        }

    def splits(self) -> Splits:
        """Load the data, all of the training split.

        Raises:
            ValueError: If it cannot be loaded, or has fewer examples than are asked for.
        """
        c = self.config
        return _splits(c.data, c.task, c.test_size, c.val_fraction, c.standardize, c.data_seed, self._most_examples())

    def _most_examples(self) -> int:
        return self.sizes[-1] if self.axis == "samples" else self.other

    def _most_features(self) -> int:
        return self.other if self.axis == "samples" else self.sizes[-1]

    def counts(self, size: int) -> tuple[int, int]:
        """Return the numbers of examples and features of one size."""
        return (size, self.other) if self.axis == "samples" else (self.other, size)

    def piece(self, size: int) -> Answer:
        """Fit one size for all seeds and levels of noise: losses and errors (arm, noise, seed), unranked (seed)."""
        splits, (n, width) = self.splits(), self.counts(size)
        drawn = [self._draw(seed, splits, n, width) for seed in self.seeds]
        maps, inputs, labels = (list(parts) for parts in zip(*drawn, strict=True))
        features = torch.stack([lift(each) for lift, each in zip(maps, inputs, strict=True)])
        noisy = torch.stack(labels)  # (seeds, noise, n)
        solved = solve(features, _targets(noisy, splits.num_classes), (0.0, *self.penalties))
        weights = _by_level(solved.weights, len(self.noises))
        chosen = self._chosen(weights, maps, splits)
        weights = torch.take_along_dim(weights, chosen[..., None, None], 1)
        train = _measured(weights, features, noisy, splits.num_classes)
        test = [
            _measured(weights[index, None], lift(_flat(splits.test))[None], splits.test.targets, splits.num_classes)
            for index, lift in enumerate(maps)
        ]
        found = {f"train_{name}": value for name, value in train.items()}
        found |= {f"test_{name}": torch.cat([each[name] for each in test]) for name in train}
        answer = {name: value.movedim(0, -1).numpy() for name, value in found.items()}
        answer["penalty"] = torch.tensor((0.0, *self.penalties), dtype=torch.float64)[chosen].movedim(0, -1).numpy()
        return {**answer, "unranked": 1 - solved.rank.numpy() / n}

    def _draw(self, seed: int, splits: Splits, n: int, width: int) -> tuple[_Lift, Tensor, Tensor]:
        """Return one seed's features as a function, its inputs (n, d) and its labels (noise, n)."""
        rng = np.random.default_rng(derived_seed(seed, "descent"))
        chosen = torch.from_numpy(rng.permutation(len(splits.train.targets))[:n].copy())
        right = splits.train.targets[chosen].numpy()
        classes = splits.num_classes
        noisy = [
            add_label_noise(right, level, classes, np.random.default_rng(derived_seed(seed, "noise", index)))
            for index, level in enumerate(self.noises)
        ]
        inputs = _flat(splits.train)[chosen]
        layer = RandomFeatures(inputs.shape[1], self._most_features(), self.config.activation)
        layer.draw(torch.Generator().manual_seed(derived_seed(seed, "weights")))
        return _Lift(layer.double(), width), inputs, torch.from_numpy(np.stack(noisy))

    def _chosen(self, weights: Tensor, maps: list[_Lift], splits: Splits) -> Tensor:
        """Return the penalty of each arm by its place, (seeds, arms, noise): none, and that of least loss on val."""
        none = torch.zeros(len(maps), 1, len(self.noises), dtype=torch.long)
        if splits.val is None or not self.penalties:
            return none
        val, targets = _flat(splits.val), splits.val.targets
        losses = [
            _measured(weights[index, None, 1:], lift(val)[None], targets, splits.num_classes)["loss"]
            for index, lift in enumerate(maps)
        ]
        return torch.cat([none, 1 + torch.cat(losses).argmin(1, keepdim=True)], 1)

    def curves(self, pieces: Sequence[Answer]) -> xr.Dataset:
        """Lay pieces out."""
        dims = ("arm", "noise", "size", "seed")
        names = ("test_loss", "test_error", "train_loss", "train_error", "penalty")
        data: dict[str, Any] = {name: (dims, np.stack([piece[name] for piece in pieces], 2)) for name in names}
        data["unranked"] = (("size", "seed"), np.stack([piece["unranked"] for piece in pieces]))
        data["num_parameters"] = ("size", np.array([self.counts(size)[1] for size in self.sizes]))
        data["num_examples"] = ("size", np.array([self.counts(size)[0] for size in self.sizes]))
        coords = {
            "arm": ["minimum norm", *(["optimal ridge"] if self.penalties else [])],
            "noise": list(self.noises),
            "size": list(self.sizes),
            "seed": list(self.seeds),
        }
        attrs = {"axis": self.axis, "model": "random-features", "loss": "squared error"}
        return xr.Dataset(data, coords, attrs | {"data": self.config.data, "activation": self.config.activation})


@dataclass(frozen=True)
class _Lift:
    """The first features of a layer, of all of which the mean square stays that of the layer."""

    layer: RandomFeatures
    width: int

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        features: Tensor = self.layer(inputs)[:, : self.width]
        return features * (len(self.layer.weight) / self.width) ** 0.5


@lru_cache(maxsize=1)
def _splits(
    data: str, task: str, test_size: int | None, val_fraction: float, standardize: str, seed: int, needed: int
) -> Splits:
    options: dict[str, Any] = {"task": task, "test_size": test_size, "val_fraction": val_fraction}
    splits = load_data(data, **options, standardize=standardize, seed=seed)
    if needed > len(splits.train.targets):
        raise ValueError(f"the training split has {len(splits.train.targets)} examples, fewer than {needed}; ask fewer")
    return splits


def _flat(examples: Examples) -> Tensor:
    return examples.inputs.flatten(1).double()


def _targets(labels: Tensor, classes: int) -> Tensor:
    """Turn labels (seeds, noise, n) into targets (seeds, n, noise x classes)."""
    hot = F.one_hot(labels, classes).double() - 1 / classes
    return hot.movedim(1, 2).flatten(2)


def _by_level(weights: Tensor, levels: int) -> Tensor:
    """Part the outputs: (seeds, penalties, m, noise x classes) to (seeds, penalties, noise, m, classes)."""
    return weights.unflatten(-1, (levels, -1)).movedim(-2, 2)


def _measured(weights: Tensor, features: Tensor, labels: Tensor, classes: int) -> dict[str, Tensor]:
    """Squared error and share of wrong classes, each (seeds, arms, noise).

    Args:
        weights: (seeds, arms, noise, m, classes).
        features: (seeds, n, m).
        labels: (seeds, noise, n), or (n,) for all of them.
        classes: How many (K).
    """
    outputs = features[:, None, None] @ weights
    labels = labels.expand(*outputs.shape[:1], outputs.shape[2], outputs.shape[3])[:, None]
    targets = F.one_hot(labels, classes).double() - 1 / classes
    wrong = (outputs.argmax(-1) != labels).double()
    return {"loss": ((outputs - targets) ** 2).mean((-2, -1)), "error": wrong.mean(-1)}
