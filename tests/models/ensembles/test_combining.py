"""Members put together: by hand, and the laws that hold whatever they predict."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import scipy.stats

from models.ensembles import report_on
from models.ensembles.combining import (
    combine,
    disagreement,
    growth,
    mutual_information,
    paired_interval,
    sizes_up_to,
    subsets,
)
from models.ensembles.scores import SCORES, entropy, log_softmax, mean_scores, per_example

AVERAGES = ("probabilities", "logits")


def random_members(members=6, examples=50, classes=4, scale=3.0, seed=0):
    rng = np.random.default_rng(seed)
    return log_softmax(scale * rng.standard_normal((members, examples, classes))), rng.integers(classes, size=examples)


def test_two_members_by_hand():
    log_p = np.log([[[0.9, 0.1], [0.2, 0.8]], [[0.3, 0.7], [0.4, 0.6]]])
    assert np.exp(combine(log_p)) == pytest.approx(np.array([[0.6, 0.4], [0.3, 0.7]]))
    first, second = np.sqrt([0.27, 0.07]), np.sqrt([0.08, 0.48])
    expected = np.stack([first / first.sum(), second / second.sum()])
    assert np.exp(combine(log_p, "logits")) == pytest.approx(expected)
    assert disagreement(log_p).tolist() == [1, 0]


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("scale", [0.1, 3.0, 300.0])
def test_the_average_is_never_less_likely_than_the_members_are(average, scale):
    """Jensen's inequality, and Hölder's for the geometric mean, at every single example."""
    log_p, targets = random_members(scale=scale)
    members = per_example(log_p, targets)["nll"].mean(axis=0)
    assert (per_example(combine(log_p, average), targets)["nll"] <= members + 1e-12 * scale).all()
    if average == "probabilities":  # the squared error is convex in them, too
        assert (
            per_example(combine(log_p), targets)["brier"] <= per_example(log_p, targets)["brier"].mean(axis=0) + 1e-12
        ).all()


def test_equal_members_gain_exactly_nothing():
    one, targets = random_members(members=1)
    answer = report_on(np.repeat(one, 5, axis=0), targets)
    assert (answer["gain"].values == 0).all()
    assert (answer["gain_low"].values[:, :3] == 0).all() and (answer["gain_high"].values[:, :3] == 0).all()
    assert np.abs(answer["growth_spread"].values).max() < 1e-15  # numpy's mean of equal numbers is rounded
    assert answer["disagreement"] == 0 and answer["mutual_information"] < 1e-15
    np.testing.assert_allclose(combine(np.repeat(one, 5, axis=0), "logits"), one[0], atol=1e-12)


def test_disagreement_is_counted_over_pairs():
    log_p, _ = random_members(members=7)
    chosen = log_p.argmax(axis=-1)
    pairs = [chosen[a] != chosen[b] for a, b in combinations(range(7), 2)]
    assert disagreement(log_p) == pytest.approx(np.mean(pairs, axis=0))
    assert np.isnan(disagreement(log_p[:1])).all()


def test_mutual_information_is_the_mean_divergence_from_the_average():
    log_p, _ = random_members()
    mean = combine(log_p)
    divergence = (np.exp(log_p) * (log_p - mean)).sum(axis=-1).mean(axis=0)
    assert mutual_information(log_p) == pytest.approx(divergence)
    assert (mutual_information(log_p) <= entropy(mean) + 1e-12).all()


def test_sizes_and_subsets():
    assert sizes_up_to(5) == [1, 2, 3, 4, 5]
    assert sizes_up_to(64) == [*range(1, 11), 15, 20, 30, 50, 64]
    assert list(subsets(4, 2, most=6, seed=0)) == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    some = list(subsets(20, 5, most=30, seed=0))
    assert len(some) == 30 and all(len(set(chosen)) == 5 and max(chosen) < 20 for chosen in some)
    assert some == list(subsets(20, 5, most=30, seed=0)) != list(subsets(20, 5, most=30, seed=1))


def test_growth_starts_at_the_members_and_ends_at_the_ensemble():
    log_p, targets = random_members(members=4)
    found = growth(log_p, targets, "probabilities", most=20, bins=15, seed=0)
    single = np.array([mean_scores(one, targets) for one in log_p])
    np.testing.assert_allclose(found["mean"][0], single.mean(axis=0))
    np.testing.assert_allclose(found["spread"][0], single.std(axis=0))
    np.testing.assert_allclose(found["mean"][-1], mean_scores(combine(log_p), targets))
    assert found["number"].tolist() == [4, 6, 4, 1]
    nll = found["mean"][:, SCORES.index("nll")]
    assert (np.diff(nll) <= 1e-12).all()  # averaged over all subsets it can only fall


def test_the_bootstrap_agrees_with_scipys():
    differences = np.random.default_rng(0).gamma(2.0, size=(400, 2)) - [1.0, 2.0]
    low, high = paired_interval(differences, 4000, seed=0)
    for column in range(2):
        oracle = scipy.stats.bootstrap((differences[:, column],), np.mean, method="percentile", rng=1)
        ends = oracle.confidence_interval
        assert (low[column], high[column]) == pytest.approx((ends.low, ends.high), abs=0.02)  # of a width of 0.28
    assert low[0] > 0.8 and low[1] < 0 < high[1]  # one that is there, and none


# The report


def test_gains_are_paired_by_example():
    log_p, targets = random_members(members=3, examples=200)
    answer = report_on(log_p, targets, log_p[:1], resamples=500)
    assert answer["baseline"].values.tolist() == ["members", "plain"]
    ensemble = mean_scores(combine(log_p), targets)
    assert answer["ensemble_score"].values.tolist() == ensemble.tolist()
    plain = answer.sel(baseline="plain")
    assert plain["gain"].values == pytest.approx(mean_scores(log_p[0], targets) - ensemble)
    known = plain.isel(score=slice(3))
    assert (known["gain_low"] <= known["gain"]).all() and (known["gain"] <= known["gain_high"]).all()
    assert np.isnan(answer["gain_low"].sel(score="ece")).all()
    paired = float(plain["gain_high"].sel(score="nll") - plain["gain_low"].sel(score="nll"))
    both = [per_example(p, targets)["nll"] for p in (log_p[0], combine(log_p))]
    apart = 2 * 1.96 * np.sqrt(sum(np.var(one) for one in both) / 200)
    assert paired < apart  # the same examples are hard for both


def test_reliability_pools_the_networks_before_averaging():
    log_p, targets = random_members(members=3)
    answer = report_on(log_p, targets, bins=10)
    assert answer["prediction"].values.tolist() == ["members", "ensemble"]
    assert answer["bin_count"].sum("bin").values.tolist() == [150, 50]
    plain = report_on(log_p, targets, log_p[:2])
    assert plain["prediction"].values.tolist() == ["plain", "ensemble"]
    assert plain["bin_count"].sum("bin").values.tolist() == [100, 50]


def test_predictions_of_every_example_are_kept_if_asked_for():
    log_p, targets = random_members()
    assert "probability" not in report_on(log_p, targets)
    answer = report_on(log_p, targets, per_example_too=True)
    assert answer["probability"].sum("class").values == pytest.approx(1)
    assert answer["target"].values.tolist() == targets.tolist()
    for name in ("disagreement", "predictive_entropy", "mutual_information"):
        assert answer[f"example_{name}"].mean().item() == pytest.approx(answer[name].item())
