"""Everything that decides a run, in one record."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePath
from typing import Any, Literal

from landscape.moments import Moments
from models.activations import make_activation
from models.architectures import ARCHITECTURES
from models.augmentation import AUGMENTATIONS, check_augmentation
from models.averaging import AVERAGES, check_average, make_average
from models.data import TASKS, check_task
from models.data.standardization import STANDARDIZATIONS, check_standardization
from models.initialization import check_initialization, written_out
from models.normalization import make_norm
from models.optimizers import FULL_BATCH, OPTIMIZERS, check_optimizer, default_lr
from models.registry import unknown
from models.regularization import REGULARIZERS, check_regularization
from models.schedules import LR_SCALINGS, SCHEDULES, make_schedule, scaled_lr
from models.transfer.anchors import ANCHORS, anchor_names, check_anchor
from models.watching import read_watches

_ARCHITECTURE_OPTIONS = ("width", "depth", "norm", "activation", "skip", "heads", "patch")
_OPTIMIZER_OPTIONS = ("momentum", "betas")
_LEFT_OUT = (None, "default")
LOGGERS = ("none", "csv", "tensorboard")


def _in(group: str, default: Any) -> Any:
    return field(default=default, metadata={"group": group})


@dataclass(frozen=True)
class RunConfig:
    """Every factor of a run. What is left out takes the architecture's or the optimizer's own default.

    Attributes:
        data: digits, mnist1d, idx:DIR, npz:FILE or folder:DIR.
        task: all, classes:0/1/2 (only these, with outputs for all) or permuted:SEED (inputs in a fixed random order).
        train_size: Training examples; all if none.
        test_size: Test examples; the data's own test set, or a fifth of the pool, if none.
        val_fraction: Share of the training pool held out for validation.
        label_noise: Share of training labels replaced by uniformly random incorrect ones.
        standardize: channel or pixel, by the training split's mean and deviation; pca, rotated to its principal
            components; whiten (whiten:eps=1e-3, form=pca), uncorrelated and of variance one; or none.
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
        regularization: dropout (dropout:0.5,mode=classic,where=head,inputs=0.2), dropconnect:P, stochastic-depth:P,
            fractional-pool:RATIO, several joined by +, or none; on while training, and fixed in whatever is measured.
        init: default (torch's), zeros, constant:VALUE, normal:STD, uniform:BOUND, small-normal, large-normal,
            lecun-uniform, lecun-normal, xavier-uniform, xavier-normal, he-uniform, he-normal or orthogonal; steps may
            follow, as in he-normal+zero-last-gamma: zero-last-gamma, zero-last, fixup, lsuv, bias:VALUE, bias-uniform.
            he and xavier are short for he-normal and xavier-normal.
        start: Folder of a finished run of the same architecture whose weights this one starts from; a classifier of
            another number of classes starts anew. Only the folder's name counts in the hash, and run.json keeps a
            digest of the weights. To train the classifier alone and then everything, start a second run from a first.
        freeze: none, trunk (everything but the last classifier), or beginnings of parameters' names, as in
            block1,block2; running statistics of frozen norms stay too.
        trunk_lr: Factor on the learning rate of everything but the last classifier.
        anchor: What keeps a run near its start: none, l2-sp:STRENGTH, ewc:STRENGTH, rehearsal:SHARE or
            distill:STRENGTH, several joined by +. Its penalty is trained on and logged, but probes ask about the loss
            of the data alone.
        teacher: Folder of a finished run whose outputs distill matches; start if none.
        optimizer: sgd, gd, momentum, nesterov, adagrad, adadelta, rmsprop, adam, adamw, nadam, radam, lion, newton or
            saddle-free-newton, alone or with options, as in momentum:form=ema or adam:amsgrad=true.
        lr: Learning rate; the optimizer's usual one if none.
        lr_scaling: none, linear:REFERENCE or sqrt:REFERENCE: lr is that of a batch of REFERENCE examples.
        momentum: Of sgd, momentum, nesterov and rmsprop.
        betas: Of adam, adamw, nadam, radam and lion, as in 0.9,0.999.
        weight_decay: Coefficient b of b/2 sum theta^2, added to the gradient; decoupled for adamw and lion.
        decoupled: Whether weights decay apart from the gradient for every optimizer.
        l1: Coefficient a of a sum |theta|, added to the gradient; with weight_decay the elastic net.
        clip_norm: Largest norm of the gradient.
        clip_value: Largest magnitude of an entry of the gradient; clipped before its norm.
        sam: Radius of sharpness-aware minimization around any optimizer, two gradients a step; 0 for none.
        label_smoothing: Share of each label that is spread over all classes (Szegedy et al. 2016). The loss with it is
            the run's own: it is trained on, logged, measured at the end and what probes ask about.
        augment: What changes the examples of a step at random: flip, crop, scale, jitter, translate, rotate, stretch,
            shear, lens, cutout, mixup:ALPHA or random:N, several joined by + in their order, as in
            crop:pad=1+rotate:10+mixup:0.2, or none. Probes measure the data as it is.
        batch_size: Examples a step, or all; the last batch of an epoch may be short. gd always takes all.
        schedule: constant, step, cosine, cosine-restarts, triangular, linear, inverse-sqrt, exponential, swa or fge,
            alone or with options, as in step:at=50/75,factor=0.2 or exponential:start=1e-6,end=1.
        warmup: Steps of linear warm-up.
        epochs: Passes over the training split.
        early_stopping: Stop after so many epochs without a lower validation loss; 0 never stops.
        keep_best: Keep the weights of the lowest validation loss instead of the last ones.
        test_each_epoch: Measure the test split after each epoch too, as `epoch_test_loss` and `epoch_test_accuracy`.
        average: none, ema:DECAY (with start=, warmup=corrected, ramp or none), polyak, swa (swa:start=0.75,every=1) or
            lawa:K: the mean of the weights over steps or ends of epochs, measured beside the weights that are kept.
        keep_average: Keep the average of the weights instead of the last ones.
        seed: Seed of initial weights, order of examples, augmentation and whatever else draws while training.
        fork_step: Optimizer steps after which the order of examples and all random draws come from fork_seed; until
            then the run is bit for bit the one without a fork. Never if none.
        fork_seed: Which of the ways on from the fork.
        snapshots: When to keep the parameters: epochs:1, steps:50, log:8 (points a decade) or none.
        flow_every: Look at activations and back-propagated gradients every so many steps; 0 never does.
        probes: Probes to ask while training, joined by +, with their fields and how often, as in
            stability:every=100+gradient-noise:every=epochs:2,batches=32; or none.
        probe_examples: Training examples that they are asked of, a fixed random subset; all if there are fewer.
        logger: Where else to write what is recorded: none, csv or tensorboard, into the folder logs of the run.
        device: auto, cpu, cuda or cuda:N; auto is cuda where there is one.
        threads: Threads of torch; results are bit-equal only for equal numbers of threads.
    """

    data: str = _in("Data", "digits")
    task: str = _in("Data", "all")
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
    regularization: str = _in("Model", "none")
    init: str = _in("Model", "default")
    start: str | None = _in("Transfer", None)
    freeze: str = _in("Transfer", "none")
    trunk_lr: float = _in("Transfer", 1.0)
    anchor: str = _in("Transfer", "none")
    teacher: str | None = _in("Transfer", None)
    optimizer: str = _in("Training", "sgd")
    lr: float | None = _in("Training", None)
    lr_scaling: str = _in("Training", "none")
    momentum: float | None = _in("Training", None)
    betas: tuple[float, float] | None = _in("Training", None)
    weight_decay: float = _in("Training", 0.0)
    decoupled: bool = _in("Training", False)
    l1: float = _in("Training", 0.0)
    clip_norm: float | None = _in("Training", None)
    clip_value: float | None = _in("Training", None)
    sam: float = _in("Training", 0.0)
    label_smoothing: float = _in("Training", 0.0)
    augment: str = _in("Training", "none")
    batch_size: int | Literal["all"] = _in("Training", 128)
    schedule: str = _in("Training", "constant")
    warmup: int = _in("Training", 0)
    epochs: int = _in("Training", 20)
    early_stopping: int = _in("Training", 0)
    keep_best: bool = _in("Training", False)
    test_each_epoch: bool = _in("Training", False)
    average: str = _in("Training", "none")
    keep_average: bool = _in("Training", False)
    seed: int = _in("Training", 0)
    fork_step: int | None = _in("Training", None)
    fork_seed: int = _in("Training", 0)
    snapshots: str = _in("Running", "epochs:1")
    flow_every: int = _in("Running", 50)
    probes: str = _in("Running", "none")
    probe_examples: int = _in("Running", 2048)
    logger: str = _in("Running", "none")
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
        _check_training(self)
        _check_transfer(self)
        for name in (*_REAL, *_ABOVE_0):
            if type(getattr(self, name)) is int:
                object.__setattr__(self, name, float(getattr(self, name)))
        if self.betas is not None:
            object.__setattr__(self, "betas", tuple(map(float, self.betas)))
        check_standardization(self.standardize)
        check_augmentation(self.augment)
        if self.logger not in LOGGERS:
            raise ValueError(unknown("logger", self.logger, LOGGERS))
        self._check_layers()
        Moments.of(self.snapshots)
        read_watches(self.probes)
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {self.device!r}")
        if (self.early_stopping or self.keep_best) and not self.val_fraction:
            raise ValueError("early_stopping and keep_best watch the validation loss; give val_fraction above 0")
        _check_average(self)
        if self.fork_seed and self.fork_step is None:
            raise ValueError("fork_seed chooses among the ways on from a fork; give fork_step too, or leave it out")

    def _check_layers(self) -> None:
        """Refuse layers and weights that cannot be built, whatever their shape."""
        taken = ARCHITECTURES.options(self.model)
        if "norm" in taken:
            make_norm(self.norm, 8, 2)
        if "activation" in taken:
            make_activation(self.activation, 8)
        check_initialization(self.init)
        check_regularization(self.regularization)

    def _fill_in(self) -> None:
        architecture = ARCHITECTURES.options(self.model)
        ARCHITECTURES.check(self.model, self._given(_ARCHITECTURE_OPTIONS, architecture))
        for name, default in {**architecture, **self._of_optimizer()}.items():
            if getattr(self, name) in _LEFT_OUT:
                object.__setattr__(self, name, default)
        object.__setattr__(self, "init", written_out(self.init))
        for registry in (REGULARIZERS, AUGMENTATIONS, ANCHORS):
            object.__setattr__(self, registry.kind, registry.write_all(getattr(self, registry.kind)))
        for registry in (SCHEDULES, LR_SCALINGS, STANDARDIZATIONS, AVERAGES, TASKS):
            object.__setattr__(self, registry.kind, registry.write(*registry.read(getattr(self, registry.kind))))

    def _of_optimizer(self) -> dict[str, Any]:
        """Write the optimizer in one way, and return what its fields are where they are left out."""
        name, written = OPTIMIZERS.read(self.optimizer)
        taken = OPTIMIZERS.options(name)
        given = self._given(_OPTIMIZER_OPTIONS, taken)
        OPTIMIZERS.check(name, given)
        for option in set(given) & set(written):
            raise ValueError(f"{option} is given twice, as {given[option]} and in {self.optimizer!r}; leave one out")
        if name in FULL_BATCH:
            if self.batch_size not in ("all", 128):
                raise ValueError(
                    f"optimizer {name!r} takes all training examples at each step, got batch_size {self.batch_size}; "
                    "leave it out, or choose 'sgd'"
                )
            object.__setattr__(self, "batch_size", "all")
        rest = {option: value for option, value in written.items() if option not in _OPTIMIZER_OPTIONS}
        object.__setattr__(self, "optimizer", OPTIMIZERS.write(name, rest))
        fields = {option: written.get(option, taken[option]) for option in _OPTIMIZER_OPTIONS if option in taken}
        return {**fields, "lr": default_lr(name)}

    def _given(self, names: tuple[str, ...], taken: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that were given; a skip that is on is none to a network that has no skips."""
        given = {name: getattr(self, name) for name in names if getattr(self, name) not in _LEFT_OUT}
        return {name: value for name, value in given.items() if name in taken or value is not True}

    @property
    def architecture_options(self) -> dict[str, Any]:
        """What `build_model` takes."""
        return {name: getattr(self, name) for name in ARCHITECTURES.options(self.model)}

    @property
    def optimizer_name(self) -> str:
        """The optimizer without its options."""
        return OPTIMIZERS.read(self.optimizer)[0]

    @property
    def optimizer_options(self) -> dict[str, Any]:
        """What `build_optimizer` takes besides the name, the learning rate and weight decay."""
        name, options = OPTIMIZERS.read(self.optimizer)
        taken = OPTIMIZERS.options(name)
        return {**taken, **options, **{o: getattr(self, o) for o in _OPTIMIZER_OPTIONS if o in taken}}

    @property
    def data_options(self) -> dict[str, Any]:
        """What `load_data` takes besides the name."""
        names = ("task", "train_size", "test_size", "val_fraction", "label_noise", "standardize")
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

    def command(self, out: str) -> list[str]:
        """Write the command that trains this run into a folder, word by word; defaults are left out."""
        words = ["landscape", "train"]
        values = self.to_dict()
        for f in fields(self):
            value, flag = values[f.name], f.name.replace("_", "-")
            if value == f.default and f.name not in ("data", "model", "optimizer"):
                continue
            if isinstance(value, bool):
                words.append(f"--{'' if value else 'no-'}{flag}")
            elif value is not None:
                words += [f"--{flag}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
        return [*words, "--out", out]

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that stand for every factor.

        Fields at the default of their declaration are left out, so that a new field moves no hash. Of a folder only its
        own name counts, so that it is the same on another machine.
        """
        values = self.to_dict()
        for name in ("start", "teacher"):
            values[name] = values[name] and PurePath(values[name]).name
        factors = {f.name: values[f.name] for f in fields(self) if values[f.name] != f.default}
        return hashlib.sha256(json.dumps(factors, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """A name for people, unique by its end: "digits-resnet8-batch-sgd-b128-s0-1a2b3c"."""
        model, norm = f"{self.model}{self.depth or ''}", self.norm.partition(":")[0]
        words = [self.data.partition(":")[0], model, norm, self.optimizer_name]
        kept = [word for word in words if word not in ("", "none", "default")]
        batch = "full" if self.batch_size == "all" else f"b{self.batch_size}"
        return "-".join([*kept, batch, f"s{self.seed}", self.hash[:6]])


_WHOLE = {
    "train_size": 1,
    "test_size": 1,
    "data_seed": 0,
    "width": 1,
    "depth": 1,
    "heads": 1,
    "patch": 1,
    "warmup": 0,
}
_WHOLE |= {"fork_step": 0, "fork_seed": 0}
_WHOLE |= {"epochs": 0, "early_stopping": 0, "seed": 0, "threads": 1, "flow_every": 0, "probe_examples": 1}
_REAL = {"lr": (0, math.inf), "weight_decay": (0, math.inf), "momentum": (0, 1), "val_fraction": (0, 1)}
_REAL |= {"label_noise": (0, 1), "label_smoothing": (0, 1), "l1": (0, math.inf), "sam": (0, math.inf)}
_REAL |= {"trunk_lr": (0, math.inf)}
_ABOVE_0 = ("clip_norm", "clip_value")


def _check_training(config: RunConfig) -> None:
    """Refuse options of optimizer, schedule and scaling that are out of range."""
    check_optimizer(config.optimizer_name, config.lr or 0.0, config.weight_decay, **config.optimizer_options)
    make_schedule(config.schedule, total=1000)
    scaled_lr(1.0, config.lr_scaling, batch_size=1)


def _check_average(config: RunConfig) -> None:
    check_average(config.average, config.epochs)
    if config.keep_average and make_average(config.average) is None:
        raise ValueError("keep_average needs an average to keep; give average, as in ema:0.99")
    if config.keep_average and config.keep_best:
        raise ValueError("keep_best and keep_average name two sets of weights; choose one")


def _check_transfer(config: RunConfig) -> None:
    """Refuse what needs a run to start from without one, and what cannot go together."""
    check_task(config.task)
    check_anchor(config.anchor)
    names = anchor_names(config.anchor)
    if config.teacher is not None and "distill" not in names:
        raise ValueError(f"teacher is only for anchor distill, got anchor {config.anchor!r}; write distill:1")
    known = {name: config.start or (config.teacher if name == "distill" else None) for name in names}
    if lost := [name for name, folder in known.items() if folder is None]:
        other = ", or teacher" if lost[0] == "distill" else ""
        raise ValueError(f"anchor {config.anchor!r} needs start{other}: the folder of the run to stay near to")
    if config.trunk_lr == 0:
        raise ValueError("trunk_lr must be above 0; write freeze trunk to keep everything but the classifier")
    if config.trunk_lr != 1 and config.optimizer_name in ("newton", "saddle-free-newton"):
        raise ValueError(f"optimizer {config.optimizer_name!r} takes one step for all parameters; leave trunk_lr out")
    if config.freeze != "none" and config.norm == "batch:exact":
        raise ValueError("norm 'batch:exact' measures all statistics anew each epoch; choose 'batch' to freeze layers")


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
    if config.batch_size != "all" and (type(config.batch_size) is not int or config.batch_size < 1):
        raise ValueError(f"batch_size must be a whole number of at least 1, or all, got {config.batch_size!r}")
    for name in _ABOVE_0:
        value = getattr(config, name)
        if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
            raise ValueError(f"{name} must be a number above 0, got {value!r}; leave it out to clip nothing")
    if config.betas is not None and not (len(config.betas) == 2 and all(0 <= beta < 1 for beta in config.betas)):
        raise ValueError(f"betas must be two numbers in [0, 1), got {config.betas}")
    if config.val_fraction == 1:
        raise ValueError("val_fraction must leave something to train on, got 1")
    if config.label_noise == 1:
        raise ValueError("label_noise must be a number in [0, 1), got 1; leave some labels as they are")
