"""Everything that decides a run, in one record."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from landscape.moments import Moments
from models.activations import make_activation
from models.architectures import ARCHITECTURES
from models.data import STANDARDIZATIONS
from models.initialization import check_initialization
from models.normalization import make_norm
from models.optimizers import OPTIMIZERS, default_lr
from models.registry import unknown
from models.schedules import SCHEDULES

_ARCHITECTURE_OPTIONS = ("width", "depth", "norm", "activation", "skip", "heads", "patch")
_OPTIMIZER_OPTIONS = ("momentum", "betas")
_LEFT_OUT = (None, "default")


def _in(group: str, default: Any) -> Any:
    return field(default=default, metadata={"group": group})


@dataclass(frozen=True)
class RunConfig:
    """Every factor of a run. What is left out takes the architecture's or the optimizer's own default.

    Attributes:
        data: digits, mnist1d, idx:DIR, npz:FILE or folder:DIR.
        train_size: Training examples; all if none.
        test_size: Test examples; the data's own test set, or a fifth of the pool, if none.
        val_fraction: Share of the training pool held out for validation.
        label_noise: Share of training labels replaced by uniformly random incorrect ones.
        standardize: channel, pixel or none: by the training split's mean and deviation.
        data_seed: Seed of splits, subsets and label noise.
        model: mlp, lenet, cnn, vgg, resnet, preresnet, wideresnet, alexnet, inception, mobilenet, efficientnet, vit,
            deep-linear or random-features.
        width: Units or channels; for wideresnet the multiplier, for inception channels a unit.
        depth: Layers, modules or blocks; 6n + 2 for resnet and preresnet, 6n + 4 for wideresnet.
        norm: batch (batch:exact measures its statistics at the end of each epoch), ghost-batch:SIZE, batch-renorm
            (with r_max=, d_max=, start=, r_end=, d_end=, momentum=), layer, instance (both also with affine=no),
            group (group:4 for other than 8 groups) or none; default is the architecture's own.
        activation: relu, tanh, sigmoid, leaky-relu:SLOPE, prelu, elu, selu (selu:dropout=0.05), gelu, silu, softplus,
            maxout, cosine or identity; default is the architecture's own.
        skip: Whether a residual network has its skip connections.
        heads: Attention heads of vit.
        patch: Side of the patches of vit; by default about a quarter of an image's, an eighth of a signal's.
        init: default (torch's), zeros, constant:VALUE, normal:STD, uniform:BOUND, small-normal, large-normal,
            lecun-uniform, lecun-normal, xavier-uniform, xavier-normal, he-uniform, he-normal or orthogonal; steps may
            follow, as in he-normal+zero-last-gamma: zero-last-gamma, zero-last, fixup, lsuv, bias:VALUE, bias-uniform.
        optimizer: sgd, momentum, nesterov, adagrad, adadelta, rmsprop, adam, adamw, nadam, radam or lion.
        lr: Learning rate; the optimizer's usual one if none.
        momentum: Of sgd, momentum, nesterov and rmsprop.
        betas: Of adam, adamw, nadam, radam and lion, as in 0.9,0.999.
        weight_decay: Decoupled for adamw and lion, added to the gradient elsewhere.
        batch_size: Examples a step; the last batch of an epoch may be short.
        schedule: constant, step, cosine, linear or inverse-sqrt.
        warmup: Steps of linear warm-up.
        epochs: Passes over the training split.
        early_stopping: Stop after so many epochs without a lower validation loss; 0 never stops.
        keep_best: Keep the weights of the lowest validation loss instead of the last ones.
        seed: Seed of initial weights, order of examples and dropout.
        snapshots: When to keep the parameters: epochs:1, steps:50, log:8 (points a decade) or none.
        device: auto, cpu, cuda or cuda:N; auto is cuda where there is one.
        threads: Threads of torch; results are bit-equal only for equal numbers of threads.
    """

    data: str = _in("Data", "digits")
    train_size: int | None = _in("Data", None)
    test_size: int | None = _in("Data", None)
    val_fraction: float = _in("Data", 0.1)
    label_noise: float = _in("Data", 0.0)
    standardize: str = _in("Data", "channel")
    data_seed: int = _in("Data", 0)
    model: str = _in("Model", "cnn")
    width: int | None = _in("Model", None)
    depth: int | None = _in("Model", None)
    norm: str = _in("Model", "default")
    activation: str = _in("Model", "default")
    skip: bool = _in("Model", True)
    heads: int | None = _in("Model", None)
    patch: int | None = _in("Model", None)
    init: str = _in("Model", "default")
    optimizer: str = _in("Training", "sgd")
    lr: float | None = _in("Training", None)
    momentum: float | None = _in("Training", None)
    betas: tuple[float, float] | None = _in("Training", None)
    weight_decay: float = _in("Training", 0.0)
    batch_size: int = _in("Training", 128)
    schedule: str = _in("Training", "constant")
    warmup: int = _in("Training", 0)
    epochs: int = _in("Training", 20)
    early_stopping: int = _in("Training", 0)
    keep_best: bool = _in("Training", False)
    seed: int = _in("Training", 0)
    snapshots: str = _in("Running", "epochs:1")
    device: str = _in("Running", "auto")
    threads: int = _in("Running", 1)

    def __post_init__(self) -> None:
        """Fill in the defaults of architecture and optimizer, and refuse what cannot be run.

        Raises:
            ValueError: If a name is unknown (with the nearest one), an option is not taken, or a value is out of
                range.
        """
        self._fill_in()
        _check_numbers(self)
        for name in _REAL:
            if type(getattr(self, name)) is int:
                object.__setattr__(self, name, float(getattr(self, name)))
        if self.betas is not None:
            object.__setattr__(self, "betas", tuple(map(float, self.betas)))
        for name, choices in (
            ("standardize", STANDARDIZATIONS),
            ("schedule", SCHEDULES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(unknown(name, getattr(self, name), choices))
        self._check_layers()
        Moments.of(self.snapshots)
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {self.device!r}")
        if (self.early_stopping or self.keep_best) and not self.val_fraction:
            raise ValueError("early_stopping and keep_best watch the validation loss; give val_fraction above 0")

    def _check_layers(self) -> None:
        """Refuse layers and weights that cannot be built, whatever their shape."""
        taken = ARCHITECTURES.options(self.model)
        if "norm" in taken:
            make_norm(self.norm, 8, 2)
        if "activation" in taken:
            make_activation(self.activation, 8)
        check_initialization(self.init)

    def _fill_in(self) -> None:
        architecture, optimizer = ARCHITECTURES.options(self.model), OPTIMIZERS.options(self.optimizer)
        ARCHITECTURES.check(self.model, self._given(_ARCHITECTURE_OPTIONS, architecture))
        OPTIMIZERS.check(self.optimizer, self._given(_OPTIMIZER_OPTIONS, optimizer))
        for name, default in {**architecture, **optimizer, "lr": default_lr(self.optimizer)}.items():
            if getattr(self, name) in _LEFT_OUT:
                object.__setattr__(self, name, default)

    def _given(self, names: tuple[str, ...], taken: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that were given; a skip that is on is none to a network that has no skips."""
        given = {name: getattr(self, name) for name in names if getattr(self, name) not in _LEFT_OUT}
        return {name: value for name, value in given.items() if name in taken or value is not True}

    @property
    def architecture_options(self) -> dict[str, Any]:
        """What `build_model` takes."""
        return {name: getattr(self, name) for name in ARCHITECTURES.options(self.model)}

    @property
    def optimizer_options(self) -> dict[str, Any]:
        """What `build_optimizer` takes besides the learning rate and weight decay."""
        return {name: getattr(self, name) for name in OPTIMIZERS.options(self.optimizer)}

    @property
    def data_options(self) -> dict[str, Any]:
        """What `load_data` takes besides the name."""
        names = ("train_size", "test_size", "val_fraction", "label_noise", "standardize")
        return {**{name: getattr(self, name) for name in names}, "seed": self.data_seed}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Build a configuration from plain values.

        Raises:
            ValueError: If a field is unknown (with the nearest one) or a value cannot be run.
        """
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(unknown("field of a run's configuration", name, known))
        return cls(**values)

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that stand for every factor.

        Fields at the default of their declaration are left out, so that a new field moves no hash.
        """
        values = self.to_dict()
        factors = {f.name: values[f.name] for f in fields(self) if values[f.name] != f.default}
        return hashlib.sha256(json.dumps(factors, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """A name for people, unique by its end: "digits-resnet8-batch-sgd-b128-s0-1a2b3c"."""
        norm = self.norm.partition(":")[0]
        words = [self.data.partition(":")[0], f"{self.model}{self.depth or ''}", norm, self.optimizer]
        kept = [word for word in words if word not in ("", "none", "default")]
        return "-".join([*kept, f"b{self.batch_size}", f"s{self.seed}", self.hash[:6]])


_WHOLE = {
    "train_size": 1,
    "test_size": 1,
    "data_seed": 0,
    "width": 1,
    "depth": 1,
    "heads": 1,
    "patch": 1,
    "batch_size": 1,
    "warmup": 0,
}
_WHOLE |= {"epochs": 0, "early_stopping": 0, "seed": 0, "threads": 1}
_REAL = {"lr": (0, math.inf), "weight_decay": (0, math.inf), "momentum": (0, 1), "val_fraction": (0, 1)}
_REAL |= {"label_noise": (0, 1)}


def _check_numbers(config: RunConfig) -> None:
    for name, least in _WHOLE.items():
        value = getattr(config, name)
        if value is not None and (type(value) is not int or value < least):
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    for name, (low, high) in _REAL.items():
        value = getattr(config, name)
        if value is None:
            continue
        if not isinstance(value, int | float) or not low <= value <= high or not math.isfinite(value):
            raise ValueError(f"{name} must be a number from {low} to {high}, got {value!r}")
    if config.betas is not None and not (len(config.betas) == 2 and all(0 <= beta < 1 for beta in config.betas)):
        raise ValueError(f"betas must be two numbers in [0, 1), got {config.betas}")
    if config.val_fraction == 1:
        raise ValueError("val_fraction must leave something to train on, got 1")
