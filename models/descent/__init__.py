"""Double descent: test error over the size of a model, of its data, or of its training."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path

import xarray as xr

from landscape.descent import TOLERANCE
from landscape.execution import Progress
from landscape.fields import parse
from landscape.store import Store
from models.descent.answering import Plan, answer_name, answer_networks, answer_regression
from models.descent.planning import least_squares_of, networks_of, random_features_of

__all__ = ["double_descent"]


def double_descent(
    store: Store,
    *,
    axis: str = "width",
    model: str | None = None,
    seeds: int | None = None,
    dimension: int = 100,
    ridge: str | None = None,
    tolerance: float = TOLERANCE,
    executor: str | Executor | None = None,
    progress: Progress | None = None,
    **texts: str | None,
) -> tuple[Path, xr.Dataset]:
    """Answer a question about double descent as it was typed; what is in the store is not computed again.

    Args:
        store: Where the answer and its runs go.
        axis: width, epochs, samples or noise.
        model: random-features (the default), least-squares, or a network.
        seeds: Repetitions.
        dimension: Of the data of least-squares.
        ridge: Penalties for random-features by commas, or none.
        tolerance: Training error at the interpolation threshold.
        executor: Where it is computed; by default processes for networks, and this one for regressions.
        progress: Called with (stage, done, in all).
        **texts: Fields of a run's configuration as typed.

    Returns:
        The file and the answer, as `landscape.descent.analysed` describes it.

    Raises:
        ValueError: If something that was typed cannot be used; it says what and what to do.
        StoreError: If a file cannot be written or read.
    """
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must be in [0, 1), a share of the training examples, got {tolerance}")
    typed = {name: text for name, text in texts.items() if text is not None}
    if ridge is not None and model not in (None, "random-features"):
        raise ValueError("ridge is for random-features; give several values of weight_decay to a network")
    plan: Plan
    if model == "least-squares":
        plan = least_squares_of(axis, typed, seeds, dimension)
    elif model in (None, "random-features"):
        penalties = None if ridge is None else _penalties(ridge)
        plan = random_features_of(axis, typed, seeds, penalties)
    else:
        networks = networks_of(axis, model, typed, seeds)
        return answer_networks(networks, store, executor or "processes", progress, tolerance)
    answer = answer_regression(plan, store, executor or "serial", progress, tolerance)
    return store.path / f"{answer_name(plan.about(), tolerance)}.h5", answer


def _penalties(text: str) -> tuple[float, ...]:
    if text == "none":
        return ()
    try:
        found: tuple[float, ...] = parse(text, tuple[float, ...])
    except ValueError:
        raise ValueError(f"ridge must be penalties by commas, as in 0.01,1, or none, got {text!r}") from None
    return found
