"""Which points to try next. The only file that imports Optuna, and only when a search is made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from models.space import Choices, Point, Range

Sampler = Literal["grid", "random", "tpe"]
SAMPLERS: tuple[Sampler, ...] = ("grid", "random", "tpe")


def import_optuna() -> Any:
    """Import Optuna, and keep it quiet.

    Raises:
        ImportError: If it is not installed, with the command that installs it.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "a search over hyper-parameters needs the package optuna; install it: pip install 'landscape-lab[tune]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Proposals:
    """Points that a sampler of Optuna asks for, one after the other; a function of the seed and of what it was told.

    Args:
        dimensions: What may be chosen; a grid takes choices alone.
        sampler: grid, every combination once, in an order drawn from the seed; random, independent draws; tpe, the
            tree-structured Parzen estimator, which learns from the values that it is told.
        seed: Of the draws.

    Raises:
        ImportError: If Optuna is not installed.

    References:
        Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011 (tpe).
        Bergstra & Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 2012 (random against grid).
    """

    def __init__(self, dimensions: Mapping[str, Choices | Range], sampler: Sampler, seed: int = 0) -> None:
        optuna = import_optuna()
        self._dimensions = dimensions
        samplers = {
            "grid": lambda: optuna.samplers.GridSampler(
                {name: list(range(len(d.ends))) for name, d in dimensions.items()}, seed=seed
            ),
            "random": lambda: optuna.samplers.RandomSampler(seed=seed),
            "tpe": lambda: optuna.samplers.TPESampler(seed=seed),
        }
        self._study = optuna.create_study(sampler=samplers[sampler]())

    def ask(self) -> tuple[int, Point]:
        """Return the number of the next trial, and its point."""
        trial = self._study.ask()
        return trial.number, {name: _suggested(trial, name, d) for name, d in self._dimensions.items()}

    def tell(self, number: int, value: float) -> None:
        """Tell the value at the point of a trial, the lower the better; what is not a number counts as worst."""
        self._study.tell(number, math.inf if math.isnan(value) else value)


def _suggested(trial: Any, name: str, dimension: Choices | Range) -> Any:
    if isinstance(dimension, Choices):
        return dimension.values[trial.suggest_categorical(name, list(range(len(dimension.values))))]
    suggest = trial.suggest_int if dimension.whole else trial.suggest_float
    return suggest(name, dimension.low, dimension.high, log=dimension.log)


def importances(
    dimensions: Mapping[str, Choices | Range], points: Sequence[Point], values: Sequence[float], seed: int = 0
) -> dict[str, float]:
    """Estimate which share of the variance of the values each dimension explains, over its own.

    Args:
        dimensions: What the points were chosen from.
        points: The trials.
        values: What they reached; those that are not finite are left out.
        seed: Of the random forest that is fitted.

    Returns:
        Shares by dimension that sum to 1; NaN for all with fewer than 4 finite values, or where all are equal.

    References:
        Hutter et al., "An Efficient Approach for Assessing Hyperparameter Importance", ICML 2014 (fANOVA).
    """
    kept = [(point, value) for point, value in zip(points, values, strict=True) if math.isfinite(value)]
    if len(kept) < 4 or np.ptp([value for _, value in kept]) == 0:
        return dict.fromkeys(dimensions, math.nan)
    optuna = import_optuna()
    study = optuna.create_study()
    distributions = {name: _distribution(optuna, dimension) for name, dimension in dimensions.items()}
    for point, value in kept:
        params = {
            name: d.values.index(point[name]) if isinstance(d, Choices) else point[name]
            for name, d in dimensions.items()
        }
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
    found = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=seed)
    )
    return {name: float(found.get(name, math.nan)) for name in dimensions}


def _distribution(optuna: Any, dimension: Choices | Range) -> Any:
    if isinstance(dimension, Choices):
        return optuna.distributions.CategoricalDistribution(list(range(len(dimension.values))))
    kind = optuna.distributions.IntDistribution if dimension.whole else optuna.distributions.FloatDistribution
    return kind(dimension.low, dimension.high, log=dimension.log)
