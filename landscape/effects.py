"""The factor table of a sweep: what factors and pairs of them do to a metric, with intervals over seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from landscape.intervals import CONFIDENCE, mean_and_error

Array = NDArray[np.float64]
Pairing = Literal["auto", "seed", "none"]
PAIRINGS = ("auto", "seed", "none")
_MOST_NAMED = 3


@dataclass(frozen=True)
class _Cells:
    """A metric over the cells of a full crossing.

    Attributes:
        factors: The swept fields with two levels at least.
        levels: The words of each one's levels.
        values: (*levels, seeds); NaN where no run finished.
    """

    factors: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    values: Array

    @property
    def flat(self) -> Array:
        """(C, n) the cells in a row."""
        return self.values.reshape(-1, self.values.shape[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """Levels of each factor."""
        return self.values.shape[:-1]

    def name(self, position: Sequence[int]) -> str:
        """Name one cell: "optimizer=sgd, norm=batch"."""
        return ", ".join(
            f"{factor}={words[index]}" for factor, words, index in zip(self.factors, self.levels, position, strict=True)
        )


def factor_effects(
    sweep: xr.Dataset,
    metric: str = "test_accuracy",
    pairing: Pairing = "auto",
    drop_incomplete: bool = False,
    log: bool = False,
) -> xr.Dataset:
    """Main effects and two-way interactions of the swept factors on a metric.

    The effect of a level is the mean over the cells with that level minus the mean over all cells, each cell counting
    once. The effect of a pair of levels is what their mean has beyond both of these. The seeds are the sample:

    * paired by seed, each seed gives one estimate of every effect, and Student's t over these estimates gives the
      interval. What a seed does to all cells alike cancels. It needs the same seeds in every cell; seeds that lack a
      cell are left out.
    * unpaired, the variance within each cell is propagated, with the degrees of freedom of Welch and Satterthwaite.

    Args:
        sweep: What `open_sweep` returns. Runs that diverged or failed count as missing.
        metric: A variable over the swept dimensions.
        pairing: ``seed``, ``none``, or ``auto``: by seed where at least half of the seeds, and two, have every cell.
        drop_incomplete: Leave out levels until no cell is empty, those with the most empty cells first.
        log: Take the natural logarithm of the metric first, so that an effect of 0.69 is a factor of two; for losses
            that differ by orders of magnitude, whose means are those of the worst run.

    Returns:
        Over `effect`, with the coordinates `term` ("norm" or "optimizer:norm") and `level`: estimate, standard_error,
        degrees_of_freedom, low and high (95%), simultaneous_low and simultaneous_high (which hold all true effects at
        once in 95% of sweeps at least, by Bonferroni). Over `source`, the terms and what is beyond two-way
        interactions: share of the variance of the cell means, and share_by_chance, the part of it that the seeds alone
        give on average. Also mean, num_seeds, num_cells and num_left_out (runs). Intervals are NaN for one seed.

    Raises:
        ValueError: If there is no such metric, it depends on more than the factors, nothing was swept, a cell has no
            finished run, there are too few for the pairing, or a logarithm does not exist.

    References:
        Welch, "The generalization of Student's problem when several different population variances are involved",
        Biometrika 1947; Montgomery, "Design and Analysis of Experiments", sections 5.3 and 3.2 (model of effects).
    """
    if pairing not in PAIRINGS:
        raise ValueError(f"pairing must be one of {', '.join(PAIRINGS)}, got {pairing!r}.")
    cells = _cells_of(sweep, metric)
    if log:
        cells = _logarithms(cells, metric)
    dropped: list[str] = []
    if drop_incomplete:
        cells, dropped = _without_incomplete(cells)
    _require_full(cells)
    values, is_paired = _sample(cells, pairing)
    terms = _terms(cells)
    weights = np.concatenate([_weights(cells.shape, axes) for axes in terms])
    estimate, error, freedom = _paired(weights, values) if is_paired else _unpaired(weights, values)
    rows = [(_term_name(cells, axes), level) for axes in terms for level in _level_names(cells, axes)]
    answer = _table(rows, estimate, error, freedom).merge(
        _shares(cells, terms, values, rows, estimate, error, is_paired)
    )
    used = int(np.isfinite(values).sum())
    answer = answer.assign(
        mean=float(np.nanmean(values, axis=1).mean()),
        num_seeds=values.shape[1],
        num_cells=len(values),
        num_left_out=cells.values.size - used,
    )
    return answer.assign_attrs(
        probe="effects",
        metric=metric,
        scale="log" if log else "linear",
        pairing="seed" if is_paired else "none",
        dropped=", ".join(dropped),
        confidence=CONFIDENCE,
        note=_note(len(rows), values.shape[1], is_paired),
    )


def finished_values(sweep: xr.Dataset, metric: str) -> xr.DataArray:
    """Return a metric of the runs that finished, NaN for the others, over the factors and `seed` (last).

    Raises:
        ValueError: If there is no such metric, or it is not a number.
    """
    if metric not in sweep:
        numeric = [str(name) for name, variable in sweep.data_vars.items() if variable.dtype.kind in "fiub"]
        raise ValueError(f"the sweep has no {metric!r}; it has {', '.join(numeric) or 'no numbers'}.")
    values = sweep[metric]
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{metric} is text, not a number; choose a metric such as test_accuracy.")
    values = values.astype(float)
    if "status" in sweep:
        values = values.where(sweep["status"] == "finished")
    if "seed" not in values.dims:
        values = values.expand_dims("seed")
    last = [str(dim) for dim in values.dims if dim == "epoch"]
    factors = [str(dim) for dim in values.dims if dim not in ("seed", "epoch")]
    return values.transpose(*factors, "seed", *last).where(np.isfinite)


def level_words(coordinate: xr.DataArray) -> tuple[str, ...]:
    """Write the levels of a factor: numbers in their shortest form, words as they are."""
    values = coordinate.values
    return tuple(f"{value:g}" if values.dtype.kind in "fiu" else str(value) for value in values)


def _cells_of(sweep: xr.Dataset, metric: str) -> _Cells:
    values = finished_values(sweep, metric)
    if "epoch" in values.dims:
        raise ValueError(
            f"{metric} is a curve over epochs, not one number a run; choose one of them, or a final value."
        )
    factors = tuple(str(dim) for dim in values.dims if dim != "seed" and values.sizes[dim] > 1)
    if not factors:
        raise ValueError("nothing was swept but seeds, so there are no effects; sweep a factor over two levels.")
    kept = values.squeeze([dim for dim in values.dims if dim not in (*factors, "seed")], drop=True)
    labelled = [kept[name] if name in kept.coords else kept[name].astype(str) for name in factors]
    return _Cells(factors, tuple(map(level_words, labelled)), kept.values)


def _logarithms(cells: _Cells, metric: str) -> _Cells:
    least = np.nanmin(cells.values) if np.isfinite(cells.values).any() else 1.0
    if least <= 0:
        raise ValueError(f"{metric} has no logarithm, it goes down to {least:g}; leave out log.")
    return _Cells(cells.factors, cells.levels, np.log(cells.values))


def _without_incomplete(cells: _Cells) -> tuple[_Cells, list[str]]:
    """Leave out levels with empty cells until there is none, or a factor would be left with no level."""
    dropped = []
    while (empty := np.asarray(np.isnan(cells.values).all(axis=-1))).any():
        shares = [
            (empty.mean(axis=tuple(other for other in range(empty.ndim) if other != axis))[level], axis, level)
            for axis, size in enumerate(cells.shape)
            for level in range(size)
        ]
        _, axis, level = max(shares, key=lambda share: (share[0], -share[1]))
        dropped.append(f"{cells.factors[axis]}={cells.levels[axis][level]}")
        words = cells.levels[axis][:level] + cells.levels[axis][level + 1 :]
        levels = (*cells.levels[:axis], words, *cells.levels[axis + 1 :])
        cells = _Cells(cells.factors, levels, np.delete(cells.values, level, axis=axis))
        if not words:
            raise ValueError("leaving out the levels with empty cells leaves nothing; finish the sweep first.")
    return _of_several_levels(cells), dropped


def _of_several_levels(cells: _Cells) -> _Cells:
    kept = [axis for axis, size in enumerate(cells.shape) if size > 1]
    if not kept:
        raise ValueError("leaving out the levels with empty cells leaves one cell; finish the sweep first.")
    values = cells.values.reshape(*(cells.shape[axis] for axis in kept), -1)
    return _Cells(tuple(cells.factors[a] for a in kept), tuple(cells.levels[a] for a in kept), values)


def _require_full(cells: _Cells) -> None:
    empty = np.argwhere(np.asarray(np.isnan(cells.values).all(axis=-1)))
    if len(empty):
        named = "; ".join(cells.name(position) for position in empty[:_MOST_NAMED].tolist())
        more = f" and {len(empty) - _MOST_NAMED} more" if len(empty) > _MOST_NAMED else ""
        raise ValueError(
            f"no run finished with {named}{more} ({len(empty)} of {math.prod(cells.shape)} cells), so effects averaged "
            "over all cells are not known; finish the sweep, or leave out such levels with --drop-incomplete "
            "(drop_incomplete=True)."
        )


def _sample(cells: _Cells, pairing: Pairing) -> tuple[Array, bool]:
    """Return the values (C, n) that are used, and whether they are paired by seed."""
    flat = cells.flat
    complete = np.asarray(~np.isnan(flat).any(axis=0))
    counts = (~np.isnan(flat)).sum(axis=1)
    if flat.shape[1] == 1:
        return flat, True
    if pairing == "seed" and complete.sum() < 2:
        raise ValueError(
            f"pairing by seed needs two seeds at least that finished in every cell, there are {complete.sum()} of "
            f"{len(complete)}; finish the sweep, or choose pairing none."
        )
    if pairing == "seed" or (pairing == "auto" and complete.sum() >= max(2, len(complete) / 2)):
        return flat[:, complete], True
    if counts.min() < 2:
        name = cells.name(np.unravel_index(int(counts.argmin()), cells.shape))  # type: ignore[arg-type]
        raise ValueError(
            f"without pairing every cell needs two seeds at least, {name} has {counts.min()}, and {complete.sum()} of "
            f"{len(complete)} seeds finished in every cell; finish the sweep, or leave out levels."
        )
    return flat, False


def _terms(cells: _Cells) -> list[tuple[int, ...]]:
    axes = range(len(cells.factors))
    return [(axis,) for axis in axes] + list(itertools.combinations(axes, 2))


def _weights(shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """(effects of the term, C) what each effect takes from each cell: a product of an identity or a mean by axis."""
    product = np.ones((1, 1))
    for axis, size in enumerate(shape):
        own = np.eye(size) - 1 / size if axis in axes else np.full((1, size), 1 / size)
        product = np.kron(product, own)
    return product


def _paired(weights: Array, values: Array) -> tuple[Array, Array, Array]:
    estimate, error = mean_and_error((weights @ values).T)
    return estimate, error, np.full(len(estimate), values.shape[1] - 1.0)


def _unpaired(weights: Array, values: Array) -> tuple[Array, Array, Array]:
    counts = (~np.isnan(values)).sum(axis=1)
    of_mean = np.nanvar(values, axis=1, ddof=1) / counts
    parts = weights**2 * of_mean
    variance = parts.sum(axis=1)
    spread = (parts**2 / (counts - 1)).sum(axis=1)
    freedom = np.divide(variance**2, spread, out=np.full(len(variance), 1.0), where=spread > 0)
    return weights @ np.nanmean(values, axis=1), np.sqrt(variance), freedom


def _table(rows: list[tuple[str, str]], estimate: Array, error: Array, freedom: Array) -> xr.Dataset:
    from scipy.stats import t

    found = {"estimate": estimate, "standard_error": error, "degrees_of_freedom": freedom}
    for prefix, risk in (("", 1 - CONFIDENCE), ("simultaneous_", (1 - CONFIDENCE) / len(rows))):
        reach = t.ppf(1 - risk / 2, np.maximum(freedom, 1.0)) * error
        found |= {f"{prefix}low": estimate - reach, f"{prefix}high": estimate + reach}
    terms, levels = zip(*rows, strict=True)
    return xr.Dataset(
        {name: ("effect", values) for name, values in found.items()},
        coords={"term": ("effect", list(terms)), "level": ("effect", list(levels))},
    )


def _shares(
    cells: _Cells,
    terms: list[tuple[int, ...]],
    values: Array,
    rows: list[tuple[str, str]],
    estimate: Array,
    error: Array,
    is_paired: bool,
) -> xr.Dataset:
    """Sums of squares of the cell means by term over their total, and what the errors of the effects add to them."""
    names = [_term_name(cells, axes) for axes in terms]
    of_row = np.array([name for name, _ in rows])
    squares, chance = [], []
    for name in names:
        chosen = of_row == name
        repeats = len(values) / chosen.sum()
        squares.append(repeats * (estimate[chosen] ** 2).sum())
        chance.append(repeats * (error[chosen] ** 2).sum())
    means = np.nanmean(values, axis=1)
    total, total_chance = ((means - means.mean()) ** 2).sum(), _total_chance(values, is_paired)
    if len(cells.factors) > 2:
        names.append("higher orders")
        squares.append(max(total - sum(squares), 0.0))
        chance.append(max(total_chance - sum(chance), 0.0) if np.isfinite(total_chance) else np.nan)
    is_known = total > 1e-24 * max((means**2).sum(), np.finfo(float).tiny)
    share, by_chance = (
        np.array(part) / total if is_known else np.full(len(names), np.nan) for part in (squares, chance)
    )
    return xr.Dataset(
        {"share": ("source", share), "share_by_chance": ("source", by_chance)}, coords={"source": ("source", names)}
    )


def _total_chance(values: Array, is_paired: bool) -> float:
    """Expected sum of squares of the cell means around their mean if all cells were alike but for the seeds."""
    if is_paired:
        return float((mean_and_error((values - values.mean(axis=0)).T)[1] ** 2).sum())
    of_mean = np.nanvar(values, axis=1, ddof=1) / (~np.isnan(values)).sum(axis=1)
    return float(of_mean.sum() * (1 - 1 / len(values)))


def _term_name(cells: _Cells, axes: tuple[int, ...]) -> str:
    return ":".join(cells.factors[axis] for axis in axes)


def _level_names(cells: _Cells, axes: tuple[int, ...]) -> list[str]:
    return [" × ".join(words) for words in itertools.product(*(cells.levels[axis] for axis in axes))]


def _note(effects: int, seeds: int, is_paired: bool) -> str:
    if seeds < 2:
        return "one seed: effects have no intervals, and what is noise cannot be told from an effect"
    how = f"Student's t over {seeds} seeds, paired" if is_paired else "Welch's t over the seeds of each cell, unpaired"
    return (
        f"95% intervals: {how}; of {effects} effects that are zero about {0.05 * effects:.2g} would seem not to be, so "
        "judge many by the simultaneous intervals (Bonferroni)"
    )
