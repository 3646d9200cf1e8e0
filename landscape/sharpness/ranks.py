"""Rank correlations, overall and within strata, with intervals over runs and permutation p-values."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import factorial, nan, prod

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
FEWEST = 4  # runs below which nothing is said
FEWEST_FOR_INTERVAL = 6  # below, bootstrap intervals cover 88% instead of 95% (normal data, correlation 0.8)
FEWEST_IN_STRATUM = 3  # two runs are always perfectly ranked
_MOST_EXACT = 50_000  # permutations that are all tried


@dataclass(frozen=True)
class RankCorrelation:
    """A rank correlation and how far to trust it.

    Attributes:
        value: From -1 to 1; NaN where one side is constant or there are too few runs.
        low: Lower end of the 95% interval over runs; NaN below `FEWEST_FOR_INTERVAL` runs.
        high: Upper end.
        p_value: Two-sided, by permutation within strata; NaN where there is no value.
        smallest_p: The least p-value that so few runs could give.
        is_exact: Whether every permutation was tried.
        num_runs: Runs that count.
        num_strata: Strata that count; 1 without strata.
    """

    value: float
    low: float = nan
    high: float = nan
    p_value: float = nan
    smallest_p: float = nan
    is_exact: bool = False
    num_runs: int = 0
    num_strata: int = 0


def spearman(x: Numbers, y: Numbers) -> Numbers:
    """Spearman's rank correlation along the last axis, ties by mean ranks; NaN where one side is constant."""
    from scipy.stats import rankdata

    a, b = (rankdata(v, axis=-1) - (v.shape[-1] + 1) / 2 for v in (x, y))
    return _ratio((a * b).sum(axis=-1), (a * a).sum(axis=-1), (b * b).sum(axis=-1))


def kendall(x: Numbers, y: Numbers) -> Numbers:
    """Kendall's tau-b along the last axis; NaN where one side is constant."""
    a, b = (np.sign(_differences(v)) for v in (x, y))
    return _ratio(*((p * q).sum(axis=(-1, -2)) for p, q in ((a, b), (a, a), (b, b))))


COEFFICIENTS: dict[str, Callable[[Numbers, Numbers], Numbers]] = {"spearman": spearman, "kendall": kendall}


def rank_correlation(
    x: Sequence[float] | Numbers,
    y: Sequence[float] | Numbers,
    strata: Sequence[Hashable] | None = None,
    coefficient: str = "spearman",
    resamples: int = 2000,
    seed: int = 0,
) -> RankCorrelation:
    """Correlate two quantities over runs, by ranks; with strata, within each of them and averaged.

    The average over strata has weights n - 1, inversely to the variance where nothing is correlated; strata of fewer
    than three runs, or in which one side is constant, do not count. The interval is the bias-corrected and accelerated
    bootstrap over runs (within strata). The p-value tries all permutations (within strata) where there are at most
    50,000, and that many divided by 5 at random elsewhere.

    Args:
        x: (N,) one quantity; pairs with NaN are left out, infinities rank as they are.
        y: (N,) the other.
        strata: (N,) what stratum each run belongs to; default: one for all.
        coefficient: ``spearman`` or ``kendall`` (tau-b).
        resamples: Of the bootstrap.
        seed: Of bootstrap and random permutations.

    Raises:
        ValueError: If lengths differ, or the coefficient is unknown.

    References:
        DiCiccio and Efron, "Bootstrap Confidence Intervals", Statistical Science 1996. Correlation within strata:
        Simpson's paradox, as in Jiang et al., ICLR 2020, section 2.2.2.
    """
    if coefficient not in COEFFICIENTS:
        raise ValueError(f"coefficient must be one of {', '.join(COEFFICIENTS)}, got {coefficient!r}.")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if strata is None:
        strata = [0] * len(x)
    if not len(x) == len(y) == len(strata):
        raise ValueError(f"a correlation needs one value a run, got {len(x)}, {len(y)} and {len(strata)} strata.")
    groups = _groups(x, y, strata)
    counted = sum(len(a) for a, _ in groups)
    if counted < FEWEST:
        return RankCorrelation(nan, num_runs=counted, num_strata=len(groups))
    function = COEFFICIENTS[coefficient]
    value = float(_averaged(function, groups))
    p_value, smallest, is_exact = _permuted(function, groups, value, seed)
    low, high = nan, nan
    if counted >= FEWEST_FOR_INTERVAL:
        low, high = _bootstrapped(function, groups, value, resamples, seed)
    return RankCorrelation(value, low, high, p_value, smallest, is_exact, counted, len(groups))


def _ratio(ab: Numbers, aa: Numbers, bb: Numbers) -> Numbers:
    size = np.sqrt(aa * bb)
    return np.where(size > 0, ab / np.where(size > 0, size, 1), nan)


def _differences(values: Numbers) -> Numbers:
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=-1)  # of infinities there is no difference
    return ranks[..., :, None] - ranks[..., None, :]


def _groups(x: Numbers, y: Numbers, strata: Sequence[Hashable]) -> list[tuple[Numbers, Numbers]]:
    """The strata that count, each as its pairs."""
    known = ~(np.isnan(x) | np.isnan(y))
    names = dict.fromkeys(name for name, k in zip(strata, known, strict=True) if k)
    member = {name: np.array([s == name for s in strata]) & known for name in names}
    groups = [(x[m], y[m]) for m in member.values()]
    fewest = FEWEST_IN_STRATUM if len(set(strata)) > 1 else 1
    return [(a, b) for a, b in groups if len(a) >= fewest and np.ptp(_ranks(a)) > 0 and np.ptp(_ranks(b)) > 0]


def _ranks(values: Numbers) -> Numbers:
    return np.unique(values, return_inverse=True)[1].astype(np.float64)


def _averaged(function: Callable[[Numbers, Numbers], Numbers], groups: Sequence[tuple[Numbers, Numbers]]) -> Numbers:
    """Mean over strata with weights n - 1, along leading axes; those without a value there do not count."""
    values = np.stack([function(a, b) for a, b in groups])
    weights = np.array([a.shape[-1] - 1.0 for a, _ in groups]).reshape(-1, *[1] * (values.ndim - 1))
    weights = np.where(np.isnan(values), 0.0, weights)
    total = weights.sum(axis=0)
    return np.where(total > 0, (weights * np.nan_to_num(values)).sum(axis=0) / np.where(total > 0, total, 1), nan)


def _permuted(
    function: Callable[[Numbers, Numbers], Numbers],
    groups: Sequence[tuple[Numbers, Numbers]],
    value: float,
    seed: int,
) -> tuple[float, float, bool]:
    """Two-sided p-value, the least one possible, and whether all permutations were tried."""
    number = prod(factorial(len(a)) for a, _ in groups)
    is_exact = number <= _MOST_EXACT
    if is_exact:
        orders = [np.array(list(permutations(range(len(a))))) for a, _ in groups]
        chosen = np.array(list(product(*(range(len(order)) for order in orders))))
        drawn = [order[chosen[:, n]] for n, order in enumerate(orders)]
    else:
        rng = np.random.default_rng(seed)
        times = _MOST_EXACT // 5
        drawn = [rng.permuted(np.tile(np.arange(len(a)), (times, 1)), axis=1) for a, _ in groups]
    by_chance = _in_pieces(
        function, [(np.broadcast_to(a, o.shape), b[o]) for (a, b), o in zip(groups, drawn, strict=True)]
    )
    as_far = int((np.abs(by_chance) >= abs(value) - 1e-12).sum())
    if is_exact:
        most = np.abs(by_chance).max()
        return as_far / number, float((np.abs(by_chance) >= most - 1e-12).mean()), True
    return (as_far + 1) / (len(by_chance) + 1), 1 / (len(by_chance) + 1), False


def _bootstrapped(
    function: Callable[[Numbers, Numbers], Numbers],
    groups: Sequence[tuple[Numbers, Numbers]],
    value: float,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """The 95% BCa interval over runs drawn with replacement within strata."""
    from scipy.stats import norm

    rng = np.random.default_rng(seed)
    drawn = [rng.integers(0, len(a), (resamples, len(a))) for a, _ in groups]
    found = _in_pieces(function, [(a[i], b[i]) for (a, b), i in zip(groups, drawn, strict=True)])
    found = found[~np.isnan(found)]
    if len(found) < resamples / 2:
        return nan, nan
    below = (found < value - 1e-12).mean() + (np.abs(found - value) <= 1e-12).mean() / 2
    bias = norm.ppf(np.clip(below, 1 / len(found), 1 - 1 / len(found)))
    left_out = np.array(
        [
            float(_averaged(function, [*groups[:g], (np.delete(a, i), np.delete(b, i)), *groups[g + 1 :]]))
            for g, (a, b) in enumerate(groups)
            for i in range(len(a))
        ]
    )
    away = np.nanmean(left_out) - left_out[~np.isnan(left_out)]
    spread = (away**2).sum()
    acceleration = (away**3).sum() / (6 * spread**1.5) if spread > 0 else 0.0
    z = bias + norm.ppf([0.025, 0.975])
    levels = norm.cdf(bias + z / (1 - acceleration * z))
    low, high = np.quantile(found, levels)
    return float(low), float(high)


def _in_pieces(
    function: Callable[[Numbers, Numbers], Numbers], groups: Sequence[tuple[Numbers, Numbers]], most: int = 2_000_000
) -> Numbers:
    """`_averaged` over a long first axis, a piece at a time: Kendall's needs N^2 numbers for each of its rows."""
    length = len(groups[0][0])
    rows = max(1, most // sum(a.shape[-1] ** 2 for a, _ in groups))
    starts = range(0, length, rows)
    return np.concatenate(
        [_averaged(function, [(a[s : s + rows], b[s : s + rows]) for a, b in groups]) for s in starts]
    )
