"""Races of optimizers over a toy: their paths, a sweep of learning rates, and where many starts end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from landscape.execution import Progress
from landscape.intervals import wilson
from landscape.store import Journal
from models.toys.paths import Racer, follow, outside, read_racers
from models.toys.registry import TOYS, OnlineToy, Point, Toy

TOLERANCE = 0.05
RACERS = "sgd,momentum,nesterov,adagrad,adadelta@1,rmsprop:alpha=0.9,adam"
"""Adadelta's steps have the unit of the parameters already, so that its usual rate is 1."""
NEWTONS = "gd@0.5,newton@1,saddle-free-newton@1"
OUTCOMES = ("minimum", "saddle", "elsewhere")
_AT_SADDLE = 1e-3
_MEANINGS = {
    "escape_step": "first step after which it is farther than escape_radius from the saddle, on the way down",
    "goal_step": "first step after which it is closer than tolerance to a minimizer",
    "diverged": "no longer finite, or 100 widths of the view away at a higher loss than at the start",
}
_SWEPT = ("escape_step", "goal_step", "reached", "diverged", "final_loss")
_GRID = 161  # points along each axis of the picture of a toy


def race(
    toy: str,
    optimizers: str | Sequence[Racer] = RACERS,
    lr: float | None = None,
    steps: int = 2000,
    start: Point | None = None,
    *,
    noise: float = 0.0,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> xr.Dataset:
    """Let optimizers go down a toy from one start.

    A path that begins near a saddle escapes with the first step after which it is farther than the toy's escape radius
    (1) from the nearest one, along the directions in which the loss curves down there. It reaches a minimum with the
    first step after which it is closer to a minimizer than the tolerance. It has diverged if it is no longer finite, or
    more than 100 widths of the view away at a loss above that of its start. Paths end there, and are NaN after.

    Args:
        toy: One of `TOYS`, with its options, as in "bowl:condition=1000".
        optimizers: Texts by commas as `read_racers` takes them, or what it returns.
        lr: Learning rate of those without their own; None takes the usual one of each.
        steps: Of every optimizer.
        start: Where they begin; None takes the toy's.
        noise: Standard deviation of Gaussian noise on each entry of the gradient, the same for every optimizer.
        seed: Of the noise.
        tolerance: Distance from a minimizer that counts as reached.

    Returns:
        Dims (optimizer, step, coordinate): `path`, `loss` and `gradient_norm` without noise, `lr`, `escape_step`,
        `goal_step` (both NaN for never), `reached`, `diverged`, `final_loss`; and of the toy its `surface`
        (w1, w2), `minimizer` and `saddle`.

    Raises:
        ValueError: If the toy, an optimizer, an option or a number is not one that can be used.

    References:
        Radford, "Visualizing optimization algorithms", animations, 2015.
    """
    built = surface_toy(toy)
    racers = read_racers(optimizers) if isinstance(optimizers, str) else list(optimizers)
    begin = np.array([built.start if start is None else start], dtype=np.float64)
    _require_tolerance(tolerance)
    rates = [racer.rate(lr) for racer in racers]
    paths = np.stack(
        [
            follow(built, racer.text, begin, rate, steps, noise=noise, seed=seed)[:, 0]
            for racer, rate in zip(racers, rates, strict=True)
        ]
    )
    found = judged(built, paths, tolerance)
    answer = xr.Dataset(
        {
            "path": (("optimizer", "step", "coordinate"), paths),
            **{name: (("optimizer", "step")[: values.ndim], values) for name, values in found.items()},
            "lr": ("optimizer", rates),
            **picture(built),
        },
        {"optimizer": [racer.label for racer in racers], "step": np.arange(steps + 1), "coordinate": ["w1", "w2"]},
        {
            **about(toy, built, noise, seed, tolerance),
            "probe": "race",
            "begins_at_saddle": bool(built.escape_distances(begin)[0] <= built.escape_radius),
        },
    )
    for name, words in _MEANINGS.items():
        answer[name].attrs["long_name"] = words
    return answer


def sweep(
    toy: str,
    optimizers: str | Sequence[Racer],
    rates: Sequence[float],
    steps: int = 2000,
    start: Point | None = None,
    *,
    noise: float = 0.0,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Race every optimizer with every learning rate, since the order of a race depends on it.

    Args:
        toy: As for `race`, as are all that are not named here.
        optimizers: A rate of their own plays no part.
        rates: Learning rates, > 0.
        steps: Of every race.
        start: Where it begins.
        noise: On the gradient.
        seed: Of the noise.
        tolerance: Distance that counts as reached.
        journal: Where finished races are kept, and read from if there are some of this sweep.
        progress: Called with (stage, races done, races in all).

    Returns:
        Dims (optimizer, lr): `escape_step` and `goal_step` (NaN for never), `reached`, `diverged`, `final_loss`.

    Raises:
        ValueError: As `race` does, or if there are fewer than two different rates.
    """
    if len(set(rates)) < 2 or len(set(rates)) != len(rates):
        raise ValueError(f"a sweep needs two or more different learning rates, got {list(rates)}")
    texts = [r.text for r in (read_racers(optimizers) if isinstance(optimizers, str) else optimizers)]
    racers = [Racer(text) for text in dict.fromkeys(texts)]
    ordered = sorted(map(float, rates))
    known = journal.records() if journal else {}
    for rate in ordered:
        if repr(rate) not in known:
            one = race(toy, racers, rate, steps, start, noise=noise, seed=seed, tolerance=tolerance)
            known[repr(rate)] = {name: one[name].values for name in _SWEPT}
            if journal:
                journal.append(repr(rate), known[repr(rate)])
        if progress:
            progress("learning rates", len(known), len(ordered))
    columns = {name: np.stack([known[repr(rate)][name] for rate in ordered], axis=1) for name in _SWEPT}
    return xr.Dataset(
        {name: (("optimizer", "lr"), values) for name, values in columns.items()},
        {"optimizer": [racer.label for racer in racers], "lr": ordered},
        {**about(toy, surface_toy(toy), noise, seed, tolerance), "probe": "race-sweep", "steps": steps},
    )


def basins(
    toy: str,
    optimizers: str | Sequence[Racer] = NEWTONS,
    lr: float | None = None,
    steps: int = 300,
    starts: int = 400,
    *,
    spread: float = 0.3,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> xr.Dataset:
    """Count where optimizers end from many starts: at a minimum, at a saddle, or elsewhere.

    The starts are N(c, spread^2), c the toy's first saddle, or its start where it has none. At a saddle is closer than
    1e-3 to it; at a minimum is closer to a minimizer than the tolerance.

    Args:
        toy: As for `race`, as are all that are not named here.
        optimizers: Texts.
        lr: Of those without their own.
        steps: From every start.
        starts: How many.
        spread: Their standard deviation.
        seed: They are drawn with it.
        tolerance: Distance that counts as reached.

    Returns:
        Dims (optimizer, start, coordinate, outcome): `begin`, `end` (where each path was last), `ended_as` (a position
        in outcome), `count`, `share`, with its Wilson interval `low` to `high` of 95%.

    Raises:
        ValueError: As `race` does, or if there is no start or no spread.

    References:
        Dauphin et al., "Identifying and attacking the saddle point problem in high-dimensional non-convex
        optimization", NeurIPS 2014.
    """
    if starts < 1 or not 0 < spread < float("inf"):
        raise ValueError(f"expected at least 1 start and a spread above 0, got {starts} and {spread}")
    built = surface_toy(toy)
    _require_tolerance(tolerance)
    racers = read_racers(optimizers) if isinstance(optimizers, str) else list(optimizers)
    generator = torch.Generator().manual_seed(seed)
    center = np.array(built.saddles[0] if built.saddles else built.start)
    begin = center + spread * torch.randn(starts, 2, generator=generator, dtype=torch.float64).numpy()
    rates = [racer.rate(lr) for racer in racers]
    ends = np.stack(
        [last_places(follow(built, racer.text, begin, rate, steps)) for racer, rate in zip(racers, rates, strict=True)]
    )
    ended_as = outcomes(built, ends, tolerance)
    counts = np.stack([(ended_as == k).sum(1) for k in range(len(OUTCOMES))], axis=1)
    intervals = np.array([[wilson(int(n), starts) for n in row] for row in counts])
    return xr.Dataset(
        {
            "begin": (("start", "coordinate"), begin),
            "end": (("optimizer", "start", "coordinate"), ends),
            "ended_as": (("optimizer", "start"), ended_as),
            "count": (("optimizer", "outcome"), counts),
            "share": (("optimizer", "outcome"), counts / starts),
            "low": (("optimizer", "outcome"), intervals[..., 0]),
            "high": (("optimizer", "outcome"), intervals[..., 1]),
            "lr": ("optimizer", rates),
            **picture(built),
        },
        {"optimizer": [racer.label for racer in racers], "coordinate": ["w1", "w2"], "outcome": list(OUTCOMES)},
        {**about(toy, built, 0.0, seed, tolerance), "probe": "race-basins", "spread": spread, "steps": steps},
    )


def surface_toy(text: str) -> Toy:
    """Build a toy with a surface.

    Raises:
        ValueError: If there is none of that name, an option is not taken, or it is an online problem.
    """
    toy = TOYS.build(text)
    if isinstance(toy, OnlineToy):
        raise ValueError(f"toy {text!r} is an online problem, whose loss changes at every step; race it with online()")
    return toy


def judged(toy: Toy, paths: NDArray[np.float64], tolerance: float) -> dict[str, NDArray[Any]]:
    """What became of each path (R, T, 2): by step (R, T) `loss` and `gradient_norm`, and by path (R,) the verdicts."""
    at = torch.from_numpy(paths.copy()).requires_grad_()
    loss = toy.loss(at)
    (gradient,) = torch.autograd.grad(loss.sum(), at)
    losses, last = loss.detach().numpy(), last_places(paths.swapaxes(0, 1))
    final = toy.loss(torch.from_numpy(last)).numpy()
    is_away = toy.escape_distances(paths) > toy.escape_radius
    escape = np.where(is_away[:, 0], np.nan, first(is_away))  # who begins away from saddles cannot escape
    goal = first(toy.distances(paths) < tolerance)
    left = outside(toy, last) & (final > losses[:, 0])
    stopped = np.isnan(paths[:, -1]).any(-1)
    return {
        "loss": losses,
        "gradient_norm": gradient.norm(dim=-1).numpy(),
        "escape_step": escape,
        "goal_step": goal,
        "reached": np.isfinite(goal),
        "diverged": left | (stopped & ~outside(toy, last)),
        "final_loss": final,
    }


def first(holds: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(R,) the first step at which something holds (R, T); NaN for never."""
    return np.where(holds.any(1), holds.argmax(1), np.nan)


def last_places(paths: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, 2) where each path (T, K, 2) was last."""
    steps = np.isfinite(paths).all(-1).sum(0) - 1
    return paths[steps, np.arange(paths.shape[1])]


def outcomes(toy: Toy, ends: NDArray[np.float64], tolerance: float) -> NDArray[np.int64]:
    """(...) positions in `OUTCOMES` of each end (..., 2)."""
    to_saddle = np.full(ends.shape[:-1], np.inf)
    for saddle in toy.saddles:
        to_saddle = np.minimum(to_saddle, np.linalg.norm(ends - np.array(saddle), axis=-1))
    return np.where(toy.distances(ends) < tolerance, 0, np.where(to_saddle < _AT_SADDLE, 1, 2))


def picture(toy: Toy) -> dict[str, Any]:
    """The variables of an answer from which a toy is drawn."""
    left, right, bottom, top = toy.view
    w1, w2 = np.linspace(left, right, _GRID), np.linspace(bottom, top, _GRID)
    grid = torch.from_numpy(np.stack(np.meshgrid(w1, w2, indexing="ij"), -1))
    shown = toy.minimizers[(toy.minimizers >= [left, bottom]).all(1) & (toy.minimizers <= [right, top]).all(1)]
    return {
        "surface": (("w1", "w2"), toy.loss(grid).numpy()),
        "w1": ("w1", w1),
        "w2": ("w2", w2),
        "minimizer": (("minimum", "coordinate"), shown),
        "saddle": (("critical_point", "coordinate"), np.array(toy.saddles, dtype=np.float64).reshape(-1, 2)),
    }


def about(text: str, toy: Toy, noise: float, seed: int, tolerance: float) -> dict[str, Any]:
    """The attributes of an answer: the question, and the loss from which distances in loss are drawn."""
    at_saddle = float(toy.loss(torch.tensor(toy.saddles[0], dtype=torch.float64))) if toy.saddles else 0.0
    return {
        "toy": TOYS.write(*TOYS.read(text)),
        "noise": noise,
        "seed": seed,
        "tolerance": tolerance,
        "escape_radius": toy.escape_radius,
        "level": at_saddle if toy.lowest is None else toy.lowest,
        "level_is": "saddle" if toy.lowest is None else "minimum",
    }


def _require_tolerance(tolerance: float) -> None:
    if not 0 < tolerance < float("inf"):
        raise ValueError(f"tolerance must be above 0 and finite, got {tolerance}")
