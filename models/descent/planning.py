"""From what was typed to a plan: the defaults of each model and axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from landscape.fields import fields_of
from models.architectures import ARCHITECTURES
from models.config import RunConfig
from models.descent.least_squares import LeastSquares
from models.descent.networks import FIELD, Networks
from models.descent.random_features import PENALTIES, FeatureRegression
from models.descent.sizes import AXES, check_axis
from models.registry import unknown
from models.space import Choices, read_dimension

FACTORS = (0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 8.0)
"""Sizes of regressions, in units of the other size, where the peak is."""
NOISES = {"noise": (0.0, 0.05, 0.1, 0.15, 0.2)}
TRAINING = {"data": "mnist1d", "optimizer": "momentum", "lr": 0.01, "momentum": 0.9, "batch_size": 100, "epochs": 150}
"""What networks are trained with where nothing else was given: the setting of Greydanus & Kobak 2024."""
QUIET = {"snapshots": "none", "flow_every": 0}
OF_EPOCHS = {"train_size": 1000, "width": 256}
WIDTHS = {"mlp": (2, 4, 8, 16, 27, 47, 80, 150, 300), "cnn": (2, 3, 4, 6, 8, 12, 16, 24, 32)}
SAMPLES = (200, 400, 800, 1200, 1600, 2000, 2400, 3000, 3600)
EPOCHS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000)
_ANNOTATIONS = {field.name: field.annotation for field in fields_of(RunConfig)}


def several(name: str, text: str | None, default: Sequence[Any]) -> tuple[Any, ...]:
    """Read the values of a field of a run, by commas or as LOW..HIGH/COUNT, as a search does.

    Raises:
        ValueError: If a value cannot be read, or a range does not say how many values it should give.
    """
    if text is None:
        return tuple(default)
    try:
        found = read_dimension(name, text, _ANNOTATIONS[name])
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None
    if not isinstance(found, Choices):
        raise ValueError(f"{name} needs values, got the range {text}; write {text}/9 for nine values of it")
    return found.values


def one(name: str, text: str | None, default: Any) -> Any:
    """Read the only value of a field.

    Raises:
        ValueError: If it cannot be read, or there are several.
    """
    values = several(name, text, (default,))
    if len(values) != 1:
        raise ValueError(f"{name} takes one value here, got {text}; only the sizes of the axis and the noise vary")
    return values[0]


def regression_sizes(other: int, most: int) -> tuple[int, ...]:
    """Sizes around another one, at most so large."""
    sizes = {max(round(factor * other), 1) for factor in FACTORS}
    return tuple(sorted({min(size, most) for size in sizes}))


def least_squares_of(axis: str, texts: Mapping[str, str], seeds: int | None, dimension: int = 100) -> LeastSquares:
    """Plan least squares on Gaussian data from fields that were typed.

    Raises:
        ValueError: If another field than width, train_size, label_noise and seed was given, or the plan has no curve.
    """
    check_axis(axis, LeastSquares.axes, "least-squares")
    for name in sorted(set(texts) - {"width", "train_size", "label_noise", "seed"}):
        raise ValueError(f"least squares draws its own Gaussian data, so {name} has no part in it; leave it out")
    size, other, default = ("train_size", "width", 30) if axis == "samples" else ("width", "train_size", 40)
    fixed = one(other, texts.get(other), default)
    most = 10 * fixed if axis == "samples" else dimension
    return LeastSquares(
        axis,
        several(size, texts.get(size), regression_sizes(fixed, most)),
        fixed,
        dimension,
        several("label_noise", texts.get("label_noise"), NOISES.get(axis, (0.0, 0.2))),
        _seeds(texts, 100 if seeds is None else seeds),
    )


def random_features_of(
    axis: str, texts: Mapping[str, str], seeds: int | None, penalties: Sequence[float] | None = None
) -> FeatureRegression:
    """Plan regression on random features from fields that were typed.

    Raises:
        ValueError: If a field has no part in it, or the plan has no curve.
    """
    check_axis(axis, FeatureRegression.axes, "random-features")
    size, other = ("train_size", "width") if axis == "samples" else ("width", "train_size")
    fixed = one(other, texts.get(other), 300)
    swept = {"width", "train_size", "label_noise", "seed"}
    rest = {name: one(name, text, None) for name, text in texts.items() if name not in swept}
    config = RunConfig(**{**rest, "model": "random-features"})
    default = [n for n in regression_sizes(fixed, 8 * fixed) if axis != "samples" or n <= 3 * fixed]
    return FeatureRegression(
        config,
        axis,
        several(size, texts.get(size), default),
        fixed,
        several("label_noise", texts.get("label_noise"), NOISES.get(axis, (0.0, 0.2))),
        _seeds(texts, 8 if seeds is None else seeds),
        tuple(PENALTIES if penalties is None else penalties),
    )


def networks_of(axis: str, model: str, texts: Mapping[str, str], seeds: int | None) -> Networks:
    """Plan trainings of a network from fields that were typed.

    Raises:
        ValueError: If the plan has no curve, or a run cannot be trained.
    """
    check_axis(axis, AXES, model)
    if model not in ARCHITECTURES:
        raise ValueError(unknown("model", model, [*ARCHITECTURES, "least-squares"]))
    size = FIELD[axis]
    swept = {size, "label_noise", "seed", "weight_decay"}
    rest = {name: one(name, text, None) for name, text in texts.items() if name not in swept}
    defaults = {**TRAINING, **QUIET, **(OF_EPOCHS if axis == "epochs" else {})}
    if "optimizer" in rest:  # of another optimizer its own rate and momentum
        defaults = {name: value for name, value in defaults.items() if name not in ("lr", "momentum")}
    if model == "cnn":
        defaults["norm"] = "none"
    usual = {"width": WIDTHS.get(model), "train_size": SAMPLES, "epochs": EPOCHS}[size]
    if usual is None and size not in texts:
        raise ValueError(f"there are no usual widths of {model!r}; give width, as in 2,4,8,16,32")
    known = {name: value for name, value in defaults.items() if name != size}
    return Networks(
        RunConfig(**{**known, **rest, "model": model}),
        axis,
        several(size, texts.get(size), usual or ()),
        several("label_noise", texts.get("label_noise"), NOISES.get(axis, (0.0, 0.2))),
        _seeds(texts, 8 if seeds is None else seeds),
        several("weight_decay", texts.get("weight_decay"), (0.0,)),
    )


def _seeds(texts: Mapping[str, str], number: int) -> tuple[int, ...]:
    first = one("seed", texts.get("seed"), 0)
    return tuple(range(first, first + number))
