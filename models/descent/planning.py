"""From what was typed to a plan: the defaults of each model and axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from landscape.fields import fields_of
from models.config import RunConfig
from models.descent.least_squares import LeastSquares
from models.descent.random_features import PENALTIES, FeatureRegression
from models.descent.sizes import check_axis
from models.tuning.space import Choices, read_dimension

FACTORS = (0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 8.0)
"""Sizes of regressions, in units of the other size, where the peak is."""
NOISES = {"noise": (0.0, 0.05, 0.1, 0.15, 0.2)}
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


def least_squares_of(
    axis: str, texts: Mapping[str, str], seeds: int | None, dimension: int = 100
) -> LeastSquares:
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


def _seeds(texts: Mapping[str, str], number: int) -> tuple[int, ...]:
    first = one("seed", texts.get("seed"), 0)
    return tuple(range(first, first + number))
