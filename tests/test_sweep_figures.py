"""Figures of sweeps show what the sweep holds, and what it lacks as lacking."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from landscape.effects import factor_effects
from landscape.figures.drawing import draw, kind_of
from landscape.figures.style import notes
from landscape.figures.sweeps import (
    draw_sweep,
    effect_forest,
    factor_curves,
    heat_map,
    parallel_coordinates,
    training_curves,
)
from tests.sweeps import lost, sweep_of

LR = [0.001, 0.01, 0.1, 1.0]
MEAN = np.array([[0.5, 0.6], [0.7, 0.8], [0.9, 0.95], [0.2, 0.3]])


def two_factors(**options: object):
    return sweep_of({"lr": LR, "norm": ["none", "batch"]}, MEAN, **options)


def texts(figure: Figure, gid: str) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts if text.get_gid() == gid]


def test_a_sweep_is_known_and_gets_its_figures():
    sweep = two_factors(epochs=3)
    assert kind_of(sweep, "sweep") == "sweep"
    assert set(draw(sweep, "sweep")) == {
        f"{kind}-test-{metric}" for kind in ("heat-map", "curves", "parallel") for metric in ("error", "loss")
    } | {"training-train-loss", "training-val-loss"}
    assert set(draw_sweep(sweep, ["wall_seconds"])) == {
        f"{kind}-wall-seconds" for kind in ("heat-map", "curves", "parallel")
    }
    one = sweep_of({"lr": LR}, MEAN[:, 0])
    assert set(draw_sweep(one)) == {"curves-test-error", "curves-test-loss"}
    assert draw_sweep(sweep_of({}, 0.5)) == {}
    table = factor_effects(sweep)
    assert set(draw(table, "effects-0123456789ab")) == {"effects"}


def test_a_heat_map_writes_the_mean_of_each_cell():
    sweep = two_factors(seeds=2)
    sweep["test_accuracy"][0, 0] = [0.4, 0.8]  # mean 0.6, so 40% of errors
    figure = heat_map(sweep)
    assert texts(figure, "value") == ["40", "30", "10", "80", "40", "20", "5", "70"]
    assert figure.axes[0].get_xlabel() == "Learning rate"


def test_cells_without_a_finished_run_say_why_and_are_no_numbers():
    sweep = lost(two_factors(seeds=2), "diverged", lr=1.0)
    sweep = lost(lost(sweep, "failed", lr=0.1, norm="none"), "missing", lr=0.1, norm="batch", seed=1)
    figure = heat_map(sweep)
    assert sorted(texts(figure, "lost")) == ["!", "×", "×"]
    assert len(texts(figure, "value")) == 5
    assert len([patch for patch in figure.axes[0].patches if patch.get_gid() == "partial"]) == 1
    assert "of 16 runs 4 diverged (×), 2 failed (!), 1 missing (?)" in notes(figure)
    curves = factor_curves(sweep)
    assert sorted(texts(curves, "lost")) == ["!", "×", "×"]
    assert "4 diverged" in notes(parallel_coordinates(sweep))


def test_curves_have_students_interval_over_seeds():
    sweep = sweep_of({"lr": LR}, seeds=3)
    sweep["test_accuracy"][:] = np.array([0.1, 0.2, 0.3])
    figure = factor_curves(sweep)
    bars = figure.axes[0].collections[0].get_segments()
    # mean 80%, deviation 10 and t of 2 degrees of freedom 4.303
    assert bars[0][:, 1] == pytest.approx([80 - 4.3027 * 10 / 3**0.5, 80 + 4.3027 * 10 / 3**0.5], rel=1e-4)
    assert figure.axes[0].get_xscale() == "log"
    median = factor_curves(sweep, center="median")
    assert median.axes[0].collections[0].get_segments()[0][:, 1] == pytest.approx([75, 85])
    assert "median and quartiles over 3 seeds" in notes(median)


def test_a_seed_that_blew_up_does_not_decide_for_its_cell():
    sweep = two_factors(seeds=3)
    sweep["test_loss"][0, 0] = [1.0, 2.0, 1e6]
    sweep = lost(sweep, "diverged", lr=1.0)
    assert texts(heat_map(sweep, "test_loss"), "value")[0] == "2"
    assert "median and quartiles" in notes(factor_curves(sweep, "test_loss"))
    assert "mean and 95% interval" in notes(factor_curves(sweep, "test_loss", center="mean"))


def test_one_seed_has_no_interval():
    figure = factor_curves(two_factors(seeds=1))
    assert "one seed: no interval" in notes(figure)
    lengths = [np.ptp(segment[:, 1]) for bars in figure.axes[0].collections for segment in bars.get_segments()]
    assert max(lengths) == 0


def test_further_factors_make_panels_and_then_are_averaged_within_seeds():
    factors = {"lr": LR, "batch_size": [32, 512], "norm": ["none", "batch", "group"], "optimizer": ["sgd", "adam"]}
    figure = heat_map(sweep_of(factors, seeds=2, noise=0.1))
    assert len([ax for ax in figure.axes if ax.images]) == 6
    figure = factor_curves(sweep_of({**factors, "init": ["he", "xavier"], "skip": ["yes", "no"]}, seeds=2, noise=0.1))
    assert "averaged over skip within each seed" in notes(figure).replace("\n", " ")


def test_training_curves_are_means_over_seeds():
    sweep = sweep_of({"lr": LR}, [0.2, 0.4, 0.6, 0.8], seeds=2, epochs=3)
    figure = training_curves(sweep)
    drawn = [line.get_ydata() for line in figure.axes[0].lines if line.get_gid() == "curve"]
    assert drawn[0] == pytest.approx(2.5 - 2 * 0.2 - 0.1 + 2.0 / np.array([1, 2, 3]))
    assert len(drawn) == 4


def test_long_rows_of_levels_are_thinned():
    sweep = sweep_of({"width": np.arange(1, 31), "lr": np.geomspace(1e-4, 1, 30)}, seeds=2, noise=0.1)
    assert "7 of 30 levels of learning rate drawn" in notes(factor_curves(sweep))
    assert texts(heat_map(sweep), "value") == []
    table = factor_effects(sweep)
    assert "smaller interactions not shown" in notes(effect_forest(table))


def test_words_with_long_names_stay_different():
    names = ["mixup:alpha=0.4+cutout:size=8", "mixup:alpha=0.4+cutout:size=4", "none"]
    figure = heat_map(sweep_of({"augment": names, "optimizer": ["sgd", "adam"]}, 0.5))
    shown = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert len(set(shown)) == 3
    assert max(map(len, shown)) <= 20


def test_every_run_is_a_line():
    figure = parallel_coordinates(lost(two_factors(seeds=3, noise=0.01), "diverged", lr=1.0, norm="none"))
    runs = [lines for lines in figure.axes[0].collections if lines.get_gid() == "run"]
    assert len(runs) == 24
    ends = [lines.get_segments()[0][-1, 1] for lines in runs]
    assert sum(end > 1.1 for end in ends) == 3


def test_the_forest_shows_every_effect_with_both_intervals():
    table = factor_effects(two_factors(seeds=4, noise=0.01))
    figure = effect_forest(table)
    drawn = {gid: [line for line in figure.axes[0].lines if line.get_gid() == gid] for gid in ("interval", "estimate")}
    assert [line.get_xdata()[0] for line in drawn["estimate"]] == pytest.approx(table["estimate"].values)
    assert [line.get_xdata()[1] for line in drawn["interval"]] == pytest.approx(table["high"].values)
    bars = [patch.get_width() for patch in figure.axes[1].patches]
    assert bars == pytest.approx(100 * table["share"].values)
    alone = effect_forest(factor_effects(two_factors(seeds=1)))
    assert not [line for line in alone.axes[0].lines if line.get_gid() == "interval"]
    assert "one seed" in notes(alone)


def test_what_cannot_be_drawn_is_refused():
    sweep, alone = two_factors(epochs=2), sweep_of({}, 0.5)
    with pytest.raises(ValueError, match="a heat map needs two swept factors, got lr; draw curves"):
        heat_map(sweep_of({"lr": LR}, 0.5))
    with pytest.raises(ValueError, match="'depth' was not swept over two levels; choose among lr, norm"):
        heat_map(sweep, x="depth")
    with pytest.raises(ValueError, match="center must be one of auto, mean, median, got 'mode'"):
        factor_curves(sweep, center="mode")
    with pytest.raises(ValueError, match="no factor to draw a curve over"):
        factor_curves(alone)
    with pytest.raises(ValueError, match="no coordinates to draw"):
        parallel_coordinates(alone)
    with pytest.raises(ValueError, match="test_loss is one number a run"):
        training_curves(sweep, "test_loss")
