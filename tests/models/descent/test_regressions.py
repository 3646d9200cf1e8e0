"""Double descent in closed form: where its peak is, what noise does, and that it goes on where it stopped."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from landscape import Store
from models.config import RunConfig
from models.descent import double_descent
from models.descent.answering import answer_regression
from models.descent.least_squares import LeastSquares
from models.descent.planning import least_squares_of, random_features_of, regression_sizes
from models.descent.random_features import FeatureRegression

N = 40
SIZES = (4, 8, 16, 32, 40, 48, 80, 200, 400)
PLAIN = RunConfig(model="random-features")


def features(**changes) -> FeatureRegression:
    return replace(FeatureRegression(PLAIN, "width", SIZES, N, seeds=tuple(range(6)), penalties=(0.01, 1.0)), **changes)


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory):
    return answer_regression(features(), Store(tmp_path_factory.mktemp("descent")))


def test_the_loss_of_cosine_features_peaks_where_their_rank_is_n(answer):
    assert (answer["peak_size"].sel(arm="minimum norm", metric="loss") == N).all()
    assert (answer["threshold"].sel(criterion="rank") == N).all()
    plain = answer.sel(arm="minimum norm", metric="loss")
    assert (plain["peak"] > 10 * plain["first_minimum"]).all() and (plain["bump_low"] > 0).all()


def test_ridge_has_no_peak_and_is_chosen_on_the_validation_split(answer):
    ridge = answer.sel(arm="optimal ridge", metric="loss")
    assert (ridge["bump_low"] <= 0.001).all()
    assert set(np.unique(answer["penalty"].sel(arm="optimal ridge"))) <= {0.01, 1.0}
    assert (answer["penalty"].sel(arm="minimum norm") == 0).all()


def test_beyond_the_threshold_all_labels_are_fitted_wrong_ones_too(answer):
    beyond = answer.sel(arm="minimum norm").where(answer["size"] >= N, drop=True)
    assert (beyond["train_loss"] < 1e-12).all() and (beyond["train_error"] == 0).all()
    below = answer.sel(arm="minimum norm", size=8)
    assert (below["train_loss"] > 1e-3).all()


def test_noise_is_the_share_of_labels_that_are_wrong():
    plan = features(noises=(0.0, 0.25))
    splits = plan.splits()
    for seed in range(3):
        _, _, labels = plan._draw(seed, splits, N, 8)
        assert (labels[0] != labels[1]).sum() == round(0.25 * N)


def test_smaller_sizes_are_parts_of_larger_ones():
    plan = features()
    splits = plan.splits()
    (few, inputs, labels), (many, all_inputs, all_labels) = plan._draw(0, splits, 20, 8), plan._draw(0, splits, N, 80)
    assert torch.equal(inputs, all_inputs[:20])
    assert torch.equal(labels[0], all_labels[0, :20])
    assert torch.allclose(few(inputs) * math.sqrt(8), many(inputs)[:, :8] * math.sqrt(80))


def test_features_average_to_their_kernel():
    plan = features(sizes=(10, 100, 20_000), seeds=(0,))
    lift, inputs, _ = plan._draw(0, plan.splits(), 10, 20_000)
    distances = torch.cdist(inputs, inputs) ** 2
    expected = torch.exp(-distances / (2 * inputs.shape[1]))
    assert torch.allclose(lift(inputs) @ lift(inputs).T, expected, atol=5 / math.sqrt(20_000))


def test_more_data_hurts_next_to_the_number_of_features(tmp_path):
    plan = FeatureRegression(PLAIN, "samples", (20, 40, 80, 160), N, seeds=tuple(range(4)), penalties=())
    found = answer_regression(plan, Store(tmp_path))
    assert list(found["arm"].values) == ["minimum norm"]
    assert (found["peak_size"].sel(metric="loss") == N).all() and (found["threshold"].sel(criterion="rank") == N).all()
    median = found["test_loss"].median("seed").isel(arm=0)
    assert (median.sel(size=N) > 5 * median.sel(size=N // 2)).all()


def test_relu_features_may_lack_rank_at_n():
    plan = features(config=replace(PLAIN, activation="relu"), sizes=(20, 40, 80), seeds=tuple(range(20)), penalties=())
    ranks = N * (1 - plan.piece(40)["unranked"])
    assert np.median(ranks) <= N and ranks.min() < N
    assert np.isfinite(plan.piece(40)["test_loss"]).all()


def test_least_squares_follow_their_theory(tmp_path):
    plan = LeastSquares("width", (5, 10, 20, 40, 60, 100), seeds=tuple(range(400)))
    found = answer_regression(plan, Store(tmp_path))
    for arm, tolerance in (("minimum norm", 0.0), ("optimal ridge", 0.02)):  # the limit of ridge is off by O(1/n)
        one = found.sel(arm=arm)
        for size in (5, 10, 20, 60, 100):
            losses = one["test_loss"].sel(size=size)
            error = losses.std("seed", ddof=1) / math.sqrt(400)
            theory = one["theory_loss"].sel(size=size)
            assert (abs(losses.mean("seed") - theory) < 4 * error + tolerance * theory).all(), (arm, size)
    assert np.isposinf(found["theory_loss"].sel(arm="minimum norm", size=40)).all()
    assert (found["threshold"].sel(criterion="rank") == 40).all()


def test_least_squares_over_examples_have_their_peak_at_the_number_of_features(tmp_path):
    found = answer_regression(LeastSquares("samples", (10, 20, 30, 60, 120), other=30), Store(tmp_path))
    assert (found["peak_size"].sel(arm="minimum norm") == 30).all()
    assert np.isposinf(found["theory_loss"].sel(arm="minimum norm", size=30)).all()


# --- going on ----------------------------------------------------------------------------------------------


def test_interrupted_work_goes_on_and_ends_with_the_same_bits(tmp_path, monkeypatch):
    whole = answer_regression(features(), Store(tmp_path / "whole"))
    measured: list[int] = []
    piece = FeatureRegression.piece

    def counted(self, size):
        measured.append(size)
        return piece(self, size)

    def stop(_stage: str, done: int, _total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(FeatureRegression, "piece", counted)
    with pytest.raises(KeyboardInterrupt):
        answer_regression(features(), Store(tmp_path / "parts"), progress=stop)
    parts = answer_regression(features(), Store(tmp_path / "parts"))
    assert measured == list(SIZES)  # each once
    assert parts.attrs["content_digest"] == whole.attrs["content_digest"]
    answer_regression(features(), Store(tmp_path / "parts"))
    assert measured == list(SIZES) and not list((tmp_path / "parts").glob("*.journal"))


def test_a_journal_of_another_torch_is_refused(tmp_path, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_regression(features(), Store(tmp_path), progress=stop)
    monkeypatch.setattr(torch, "__version__", "0.1")
    with pytest.raises(ValueError, match="was begun with torch"):
        answer_regression(features(), Store(tmp_path))


# --- what cannot be measured -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axis": "epochs"}, "random-features has the axes width, samples, noise, got 'epochs'"),
        ({"sizes": (10, 20)}, "a peak needs widths on both sides, at least 3 in all, got 2"),
        ({"sizes": (0, 10, 20)}, "widths must rise from at least 1, got 0, 10, 20"),
        ({"sizes": (20, 10, 30)}, "widths must rise"),
        ({"axis": "samples", "sizes": (0, 10, 20)}, "numbers of examples must rise from at least 1"),
        ({"noises": (0.0, 1.0)}, re.escape("noise must be in [0, 1), a share of the labels, got 0.0, 1.0")),
        ({"noises": (-0.1,)}, re.escape("noise must be in [0, 1)")),
        ({"noises": (0.2, 0.1)}, "levels of noise must rise"),
        ({"axis": "noise"}, "the axis noise needs at least 3 levels"),
        ({"seeds": (0, 0)}, "seeds must be different"),
        ({"penalties": (0.0, 1.0)}, "penalties must be finite and rise from above 0"),
        ({"penalties": (float("nan"),)}, "penalties must be finite and rise from above 0, got nan"),
        ({"other": 0}, "random features need at least 1 example and 1 feature, got 0"),
        ({"config": replace(PLAIN, lr=0.5)}, "solved in closed form, so lr has no part in it, got 0.5"),
        ({"config": replace(PLAIN, val_fraction=0.0)}, "chosen on the validation split; give val_fraction above 0"),
    ],
)
def test_bad_plans_of_random_features(changes, message):
    with pytest.raises(ValueError, match=message):
        features(**changes)


def test_more_examples_than_there_are(tmp_path):
    with pytest.raises(ValueError, match="the training split has 1294 examples, fewer than 5000"):
        answer_regression(features(other=5000), Store(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axis": "epochs"}, "least-squares has the axes"),
        ({"other": 0}, "at least 1 example and 1 feature, got 0"),
        ({"sizes": (10, 20, 200)}, "there are 100 features, fewer than 200; give more dimensions"),
        ({"axis": "samples", "other": 101}, "there are 100 features, fewer than 101"),
    ],
)
def test_bad_plans_of_least_squares(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(LeastSquares("width", (10, 20, 30)), **changes)


def test_plans_from_words():
    plan = random_features_of("width", {"train_size": "50", "width": "5..500/3", "activation": "relu"}, 2)
    assert plan.sizes == (5, 50, 500) and plan.other == 50 and plan.config.activation == "relu" and plan.seeds == (0, 1)
    assert 300 in random_features_of("samples", {}, None).sizes
    assert len(random_features_of("noise", {}, None).noises) == 5
    assert least_squares_of("width", {"seed": "7"}, 3).seeds == (7, 8, 9)
    assert least_squares_of("samples", {"width": "20"}, None).other == 20
    assert all(before < after for before, after in pairwise(regression_sizes(3, 10)))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"width": "5..500"}, "width needs values, got the range 5..500; write 5..500/9"),
        ({"width": "wide"}, "width "),
        ({"train_size": "50,60"}, "train_size takes one value here, got 50,60"),
        ({"lr": "0.5"}, "lr has no part in it"),
    ],
)
def test_words_that_make_no_plan(texts, message):
    with pytest.raises(ValueError, match=message):
        random_features_of("width", texts, None)


def test_penalties_that_are_no_numbers(tmp_path):
    with pytest.raises(ValueError, match=r"ridge must be penalties by commas, as in 0.01,1, or none, got 'strong'"):
        double_descent(Store(tmp_path), ridge="strong")


def test_least_squares_take_no_data():
    with pytest.raises(ValueError, match="draws its own Gaussian data, so data has no part in it"):
        least_squares_of("width", {"data": "digits"}, None)
