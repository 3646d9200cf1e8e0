"""Factor tables against closed forms, other ways to compute them, and simulated sweeps."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from landscape.effects import factor_effects
from tests.sweeps import lost, sweep_of

TWO = {"optimizer": ["sgd", "adam"], "norm": ["none", "batch", "group"]}


def row(table: xr.Dataset, term: str, level: str) -> xr.Dataset:
    chosen = (table["term"] == term) & (table["level"] == level)
    return table.isel(effect=int(np.flatnonzero(chosen.values).item()))


def test_effects_of_a_known_table():
    """By hand: rows 1, 2, 6 and 3, 8, 10 have the mean 5, row means 3 and 7, column means 2, 5, 8."""
    table = factor_effects(sweep_of(TWO, [[1, 2, 6], [3, 8, 10]]))
    assert table["mean"] == 5
    assert row(table, "optimizer", "adam")["estimate"] == pytest.approx(2)
    assert [row(table, "norm", n)["estimate"].item() for n in TWO["norm"]] == pytest.approx([-3, 0, 3])
    assert row(table, "optimizer:norm", "sgd × batch")["estimate"] == pytest.approx(2 - 5 - (3 - 5) - 0)
    # sums of squares by hand: rows 6 * 4 = 24, columns 2 * (9 + 9) = 36, all 16 + 9 + 1 + 4 + 9 + 25 = 64
    assert table["share"].values == pytest.approx([24 / 64, 36 / 64, 4 / 64])
    assert table["share_by_chance"].values == pytest.approx([0, 0, 0])
    assert table["low"].values == pytest.approx(table["estimate"].values)


def test_two_levels_are_a_paired_t_test():
    sweep = sweep_of({"optimizer": ["sgd", "adam"]}, [0.1, 0.4], seeds=7, noise=0.2, of_seed=1.0)
    first, second = sweep["test_accuracy"].values
    reference = stats.ttest_rel(second, first).confidence_interval()
    adam = row(factor_effects(sweep), "optimizer", "adam")
    assert (2 * adam["low"].item(), 2 * adam["high"].item()) == pytest.approx(tuple(reference))
    welch = stats.ttest_ind(second, first, equal_var=False)
    adam = row(factor_effects(sweep, pairing="none"), "optimizer", "adam")
    assert (2 * adam["low"].item(), 2 * adam["high"].item()) == pytest.approx(tuple(welch.confidence_interval()))
    assert adam["degrees_of_freedom"] == pytest.approx(welch.df)


def test_shares_agree_with_least_squares_on_dummies():
    """Sequential sums of squares of a balanced design, from residuals of regressions that share no code with us."""
    rng = np.random.default_rng(1)
    factors = {"a": [1, 2, 3], "b": ["x", "y"], "c": [0.1, 0.2, 0.3, 0.4]}
    sweep = sweep_of(factors, rng.standard_normal((3, 2, 4)), seeds=3, noise=0.3)
    means = sweep["test_accuracy"].mean("seed").values.ravel()
    index = np.indices((3, 2, 4)).reshape(3, -1)

    def dummies(*axes: int) -> np.ndarray:
        groups = np.unique(index[list(axes)], axis=1, return_inverse=True)[1].ravel()
        return np.eye(groups.max() + 1)[groups]

    def residual(*blocks: np.ndarray) -> float:
        design = np.column_stack([np.ones(len(means)), *blocks])
        return float(np.square(means - design @ np.linalg.lstsq(design, means)[0]).sum())

    mains = [dummies(0), dummies(1), dummies(2)]
    pairs = [dummies(0, 1), dummies(0, 2), dummies(1, 2)]
    total, additive = residual(), residual(*mains)
    expected = [total - residual(main) for main in mains] + [additive - residual(*mains, pair) for pair in pairs]
    table = factor_effects(sweep)
    assert list(table["source"].values) == ["a", "b", "c", "a:b", "a:c", "b:c", "higher orders"]
    assert table["share"].values == pytest.approx([*np.array(expected) / total, residual(*pairs) / total])
    assert table["share"].sum() == pytest.approx(1)


@pytest.mark.parametrize("pairing", ["seed", "none"])
def test_intervals_cover_zero_at_their_rate_where_there_is_no_effect(pairing: str):
    simulate_coverage(pairing, sweeps=150, slack=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("pairing", ["seed", "none"])
def test_intervals_cover_at_their_rate_in_many_sweeps(pairing: str):
    simulate_coverage(pairing, sweeps=3000, slack=0.012)


def simulate_coverage(pairing: str, sweeps: int, slack: float) -> None:
    """Share of the intervals that hold zero; the three standard errors of dependent effects are below the slack."""
    held, at_once, shares, chances = [], [], [], []
    for draw in range(sweeps):
        sweep = sweep_of(TWO, seeds=6, noise=1.0, of_seed=5.0 if pairing == "seed" else 0.0, draw=draw)
        table = factor_effects(sweep, pairing=pairing)
        held.append(((table["low"] <= 0) & (table["high"] >= 0)).mean().item())
        at_once.append(((table["simultaneous_low"] <= 0) & (table["simultaneous_high"] >= 0)).all().item())
        shares.append(table["share"].values)
        chances.append(table["share_by_chance"].values)
    assert np.mean(held) == pytest.approx(0.95, abs=slack)
    assert np.mean(at_once) >= 0.95 - slack
    # With no effect the shares go by degrees of freedom, 1, 2 and 2 of 5, and chance explains all of them.
    assert np.mean(shares, axis=0) == pytest.approx([0.2, 0.4, 0.4], abs=2 * slack)


def test_pairing_takes_out_what_a_seed_does_to_all_cells():
    sweep = sweep_of(TWO, seeds=6, noise=0.01, of_seed=1.0)
    paired, unpaired = (factor_effects(sweep, pairing=pairing) for pairing in ("seed", "none"))
    assert (paired.attrs["pairing"], unpaired.attrs["pairing"]) == ("seed", "none")
    assert paired["standard_error"].max() < 0.05 * unpaired["standard_error"].min()


def test_seeds_that_lack_a_cell_are_left_out_or_not_paired():
    sweep = sweep_of(TWO, [[1, 2, 6], [3, 8, 10]], seeds=4, noise=0.1)
    one = lost(sweep, "diverged", optimizer="sgd", norm="batch", seed=2)
    table = factor_effects(one)
    assert (table.attrs["pairing"], table["num_seeds"], table["num_left_out"]) == ("seed", 3, 6)
    xr.testing.assert_identical(
        table.drop_vars("num_left_out"), factor_effects(sweep.isel(seed=[0, 1, 3])).drop_vars("num_left_out")
    )
    for seed, norm in ((0, "none"), (1, "group")):
        one = lost(one, "failed", optimizer="adam", norm=norm, seed=seed)
    table = factor_effects(one)
    assert (table.attrs["pairing"], table["num_left_out"]) == ("none", 3)
    assert row(table, "optimizer", "adam")["estimate"] == pytest.approx(2, abs=0.1)


def test_a_status_other_than_finished_counts_as_missing():
    """A run that diverged may have numbers still; they are not an outcome of its cell."""
    sweep = sweep_of(TWO, seeds=3, noise=0.1)
    sweep["status"][0, 0, 0] = "diverged"
    assert factor_effects(sweep)["num_left_out"] == 6


def test_levels_with_empty_cells_can_be_left_out():
    sweep = lost(sweep_of(TWO, [[1, 2, 6], [3, 8, 10]], seeds=3), "diverged", optimizer="sgd", norm="none")
    with pytest.raises(ValueError, match=r"no run finished with optimizer=sgd, norm=none \(1 of 6 cells\)"):
        factor_effects(sweep)
    table = factor_effects(sweep, drop_incomplete=True)
    assert table.attrs["dropped"] == "norm=none"  # half of its cells are empty, a third of those of sgd
    assert row(table, "optimizer", "adam")["estimate"] == pytest.approx((9 - 4) / 2)
    table = factor_effects(lost(sweep, "failed", optimizer="sgd"), drop_incomplete=True)
    assert table.attrs["dropped"] == "optimizer=sgd"
    assert list(table["source"].values) == ["norm"]


def test_factors_that_multiply_have_no_interaction_in_logarithms():
    table = factor_effects(sweep_of(TWO, np.outer([1, 10], [1, 2, 8]), seeds=2), log=True)
    assert row(table, "optimizer", "adam")["estimate"] == pytest.approx(np.log(10) / 2)
    assert table["share"].values[2] == pytest.approx(0, abs=1e-12)
    assert table["mean"] == pytest.approx(np.log(10) / 2 + np.log(16) / 3)
    with pytest.raises(ValueError, match="test_accuracy has no logarithm, it goes down to 0; leave out log"):
        factor_effects(sweep_of(TWO, np.outer([0, 10], [1, 2, 8])), log=True)


def test_one_seed_has_effects_without_intervals():
    table = factor_effects(sweep_of(TWO, [[1, 2, 6], [3, 8, 10]], seeds=1).isel(seed=0))
    assert row(table, "optimizer", "adam")["estimate"] == pytest.approx(2)
    assert np.isnan(table["low"]).all()
    assert np.isnan(table["share_by_chance"]).all()
    assert "one seed" in table.attrs["note"]


def test_what_has_no_effects_is_refused():
    sweep = sweep_of(TWO, seeds=3, epochs=2)
    with pytest.raises(ValueError, match="the sweep has no 'accuracy'; it has test_accuracy"):
        factor_effects(sweep, "accuracy")
    with pytest.raises(ValueError, match="status is text"):
        factor_effects(sweep, "status")
    with pytest.raises(ValueError, match="train_loss is a curve over epochs"):
        factor_effects(sweep, "train_loss")
    with pytest.raises(ValueError, match="nothing was swept but seeds"):
        factor_effects(sweep.isel(optimizer=[0], norm=[0]))
    with pytest.raises(ValueError, match="pairing must be one of auto, seed, none, got 'run'"):
        factor_effects(sweep, pairing="run")
    thin = lost(lost(sweep, "missing", optimizer="sgd", norm="none", seed=0), "missing", norm="batch", seed=1)
    thin = lost(thin, "missing", norm="batch", optimizer="sgd", seed=2)
    with pytest.raises(ValueError, match=r"needs two seeds at least that finished in every cell, there are 0 of 3"):
        factor_effects(thin, pairing="seed")
    with pytest.raises(ValueError, match=r"every cell needs two seeds at least, optimizer=sgd, norm=batch has 1"):
        factor_effects(thin)
    with pytest.raises(ValueError, match="leaves nothing"):
        factor_effects(lost(sweep, "failed"), drop_incomplete=True)
    diagonal = lost(sweep.isel(norm=[0, 1]), "failed", optimizer="sgd", norm="none")
    with pytest.raises(ValueError, match="leaves one cell"):
        factor_effects(lost(diagonal, "failed", optimizer="adam", norm="batch"), drop_incomplete=True)
