"""Which runs can be trained together, and why others cannot."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from models.config import RunConfig

MAY_DIFFER = ("seed", "init", "lr", "weight_decay", "label_noise", "data_seed")
"""The fields in which the members of a stack may differ: each has its own weights, examples, labels and rates."""

_STATELESS_NORMS = ("default", "none", "layer", "instance", "group")
_TOGETHER = ("mlp", "deep-linear", "random-features", "lenet", "cnn", "vgg", "resnet", "preresnet", "wideresnet")
_WHOLE_GRADIENT = ("newton", "saddle-free-newton")

_OBSTACLES: tuple[tuple[Callable[[RunConfig], bool], str], ...] = (
    (lambda c: c.model not in _TOGETHER, "model {model!r} is not known to give the same results in a stack"),
    (
        lambda c: c.norm.partition(":")[0] not in _STATELESS_NORMS,
        "norm {norm!r} keeps running statistics, which a stack does not",
    ),
    (lambda c: c.activation.startswith("selu:dropout"), "activation {activation!r} draws at random in each step"),
    (lambda c: c.regularization != "none", "regularization {regularization!r} draws at random in each step"),
    (lambda c: c.augment != "none", "augment {augment!r} draws at random in each step"),
    (
        lambda c: c.optimizer_name in _WHOLE_GRADIENT,
        "optimizer {optimizer!r} takes one step for all entries together",
    ),
    (lambda c: c.sam > 0, "sam takes a second gradient at a point of its own"),
    (lambda c: c.start is not None or c.teacher is not None, "it starts from another run"),
    (lambda c: c.anchor != "none", "anchor {anchor!r} adds a penalty of its own"),
    (lambda c: c.freeze != "none" or c.trunk_lr != 1, "its layers have different learning rates"),
    (lambda c: c.early_stopping > 0, "early_stopping ends each run at its own time"),
    (lambda c: c.keep_best, "keep_best keeps the weights of another epoch for each run"),
    (lambda c: c.average != "none", "average {average!r} is not kept in a stack"),
    (lambda c: c.probes != "none", "probes {probes!r} ask about one run while it trains"),
    (lambda c: c.logger != "none", "logger {logger!r} writes of one run"),
    (lambda c: c.fork_step is not None, "its order of examples forks"),
    (lambda c: c.epochs == 0, "there is nothing to train in 0 epochs"),
)


_TAKEN = {
    *("data", "task", "train_size", "test_size", "val_fraction", "label_noise", "standardize", "data_seed"),
    *("model", "width", "depth", "norm", "activation", "skip", "heads", "patch", "init"),
    *("optimizer", "lr", "lr_scaling", "momentum", "betas", "weight_decay", "decoupled", "l1", "clip_norm"),
    *("clip_value", "label_smoothing", "batch_size", "schedule", "warmup", "epochs", "test_each_epoch", "seed"),
    *("snapshots", "flow_every", "probe_examples", "device", "threads"),
}
"""The fields whose values a stack does justice to; any other must be at its default."""


@dataclass(frozen=True)
class Group:
    """Runs that can be trained together, or one that cannot.

    Attributes:
        members: Their places in what was asked about.
        configs: Their configurations.
        reason: Why this run must be trained alone; empty for a stack.
    """

    members: tuple[int, ...]
    configs: tuple[RunConfig, ...]
    reason: str = ""


def stackable(configs: Sequence[RunConfig]) -> list[Group]:
    """Sort runs into stacks, in the order of their first members; each that cannot be stacked is a group with a reason.

    The members of a stack are equal in all but `MAY_DIFFER`. A stack may have a single member.

    Example:
        >>> runs = [RunConfig(model="mlp", seed=seed) for seed in range(3)] + [RunConfig(model="mlp", sam=0.1)]
        >>> [(group.members, group.reason) for group in stackable(runs)]
        [((0, 1, 2), ''), ((3,), 'sam takes a second gradient at a point of its own')]
    """
    found: dict[str, list[int]] = {}
    reasons: dict[str, str] = {}
    for index, config in enumerate(configs):
        reason = why_alone(config)
        key = str(index) if reason else _shared(config)
        found.setdefault(key, []).append(index)
        reasons[key] = reason
    return [Group(tuple(m), tuple(configs[i] for i in m), reasons[key]) for key, m in found.items()]


def why_alone(config: RunConfig) -> str:
    """Say why a run cannot be trained in a stack; empty if it can."""
    reasons = [reason.format_map(vars(config)) for hinders, reason in _OBSTACLES if hinders(config)]
    other = [f.name for f in fields(config) if f.name not in _TAKEN and getattr(config, f.name) != f.default]
    return next(iter([*reasons, *(f"{name} is not known in a stack" for name in other)]), "")


def _shared(config: RunConfig) -> str:
    return json.dumps({name: value for name, value in config.to_dict().items() if name not in MAY_DIFFER})
