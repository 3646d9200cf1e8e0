"""Figures of ensembles: what they draw is what the answer holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from landscape import figures
from landscape.figures.style import notes
from landscape.tables import describe, ensemble_table, summary
from models.ensembles import report_on
from models.ensembles.scores import log_softmax
from tests.test_figures import drawn


def answer(members=6, plain=True, examples=300, scale=2.0):
    rng = np.random.default_rng(0)
    targets = rng.integers(4, size=examples)
    signal = 2.0 * np.eye(4)[targets]
    log_p = log_softmax(signal + scale * rng.standard_normal((members, examples, 4)))
    found = report_on(log_p, targets, log_p[:2] if plain else None, resamples=200)
    return found.assign_attrs(probe="ensemble")


ANSWERS = {
    "both": answer(),
    "members alone": answer(plain=False),
    "two": answer(2),
    "many": answer(40, scale=3.0),
    "perfect": answer(3, scale=0.0),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_is_drawn_within_its_page(name, tmp_path: Path):
    pictures = figures.draw(ANSWERS[name], "ensemble-0123456789ab")
    assert list(pictures) == ["growth", "reliability"]
    for title, figure in pictures.items():
        (path,) = figures.save(figure, tmp_path / title, formats=["png"])
        assert path.stat().st_size > 5000
        assert figure.get_figwidth() == pytest.approx(3.25)
        page, ink = figure.bbox_inches, figure.get_tightbbox()
        assert ink.x0 > page.x0 - 2 / 72 and ink.x1 < page.x1 + 2 / 72, title
        assert ink.y0 > page.y0 - 2 / 72 and ink.y1 < page.y1 + 2 / 72, title


def test_growth_is_the_mean_over_subsets_beside_the_plain_networks():
    one = ANSWERS["both"]
    figure = figures.ensemble_growth(one)
    for ax, score in zip(figure.axes, ("error", "nll"), strict=True):
        (line,) = [line for line in ax.lines if line.get_gid() == "growth"]
        np.testing.assert_allclose(line.get_ydata(), one["growth_mean"].sel(score=score))
        (plain,) = [line for line in ax.lines if line.get_gid() == "plain"]
        assert plain.get_ydata()[0] == one["baseline_score"].sel(baseline="plain", score=score)
    assert "gain over the plain networks: " in notes(figure) and "over test examples" in notes(figure)
    alone = figures.ensemble_growth(ANSWERS["members alone"])
    assert not [line for line in alone.axes[0].lines if line.get_gid() == "plain"]
    assert "gain over the members: " in notes(alone)


def test_reliability_shows_bins_that_hold_predictions_and_marks_those_that_hold_few():
    one = ANSWERS["both"]
    figure = figures.reliability(one)
    for name in ("plain", "ensemble"):
        part = one.sel(prediction=name)
        share = part["bin_count"].values / part["bin_count"].values.sum()
        expected = np.stack([part["confidence"], part["accuracy"]], axis=1)
        np.testing.assert_allclose(drawn(figure, name), expected[share >= 0.01])
        np.testing.assert_allclose(drawn(figure, f"{name} few"), expected[(share > 0) & (share < 0.01)])
    before, after = one["baseline_score"].sel(baseline="plain", score="ece"), one["ensemble_score"].sel(score="ece")
    assert f"plain networks {before.item():.3f}, ensemble {after.item():.3f}" in notes(figure)


def test_the_table_says_what_is_gained_and_over_what():
    one = ANSWERS["both"]
    text = ensemble_table(one)
    assert text in summary(one) and text in describe(one)
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert {"ensemble", "members, mean", "gain over members", "plain, mean", "gain over plain"} <= set(lines)
    gain, low, high = (
        float(one[name].sel(baseline="plain", score="nll")) for name in ("gain", "gain_low", "gain_high")
    )
    assert f"{gain:.4g} ({low:.4g} to {high:.4g})" in lines["gain over plain"]
    assert "not over seeds" in text and "gain over plain" not in ensemble_table(
        ANSWERS["two"].sel(baseline=["members"])
    )
