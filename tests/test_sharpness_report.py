"""Correlations over runs: against SciPy, known laws, and what few runs cannot tell."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from landscape import figures
from landscape.figures.style import notes
from landscape.sharpness import SharpnessReport, generalization, rank_correlation
from landscape.sharpness.ranks import FEWEST_FOR_INTERVAL
from landscape.store import Store
from landscape.tables import correlation_table, report_table
from tests.commands import TINY, landscape
from tests.test_figures import drawn

NAN = float("nan")


def correlated(number, rho, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(number)
    return x, rho * x + np.sqrt(1 - rho**2) * rng.standard_normal(number)


def simpson(groups=4, each=6, seed=0):
    """Within every group the correlation is -1, over all of them it is positive."""
    rng = np.random.default_rng(seed)
    offsets = np.repeat(10.0 * np.arange(groups), each)
    within = np.concatenate([rng.permutation(each) for _ in range(groups)])
    return offsets + within, offsets - within, np.repeat(np.arange(groups), each).tolist()


@pytest.mark.parametrize("coefficient", ["spearman", "kendall"])
@pytest.mark.parametrize("ties", [False, True])
def test_values_are_those_of_scipy(coefficient, ties):
    x, y = correlated(15, 0.6)
    if ties:
        x, y = np.round(x), np.round(y)
    oracle = {"spearman": scipy.stats.spearmanr, "kendall": scipy.stats.kendalltau}[coefficient]
    found = rank_correlation(x, y, coefficient=coefficient, resamples=100)
    assert found.value == pytest.approx(oracle(x, y).statistic, abs=1e-12)
    assert found.num_runs == 15
    assert found.num_strata == 1


@pytest.mark.parametrize("coefficient", ["spearman", "kendall"])
def test_exact_p_values(coefficient):
    x, y = correlated(6, 0.7, seed=3)
    found = rank_correlation(x, y, coefficient=coefficient)
    oracle = {"spearman": scipy.stats.spearmanr, "kendall": scipy.stats.kendalltau}[coefficient]
    by_chance = [abs(oracle(x, y[list(order)]).statistic) for order in permutations(range(6))]
    assert found.is_exact
    assert found.p_value == pytest.approx(np.mean(np.array(by_chance) >= abs(found.value) - 1e-12))
    assert found.smallest_p == pytest.approx(2 / 720)


def test_random_permutations_agree_with_theory():
    x, y = correlated(40, 0.35, seed=1)
    found = rank_correlation(x, y, coefficient="kendall")
    assert not found.is_exact
    assert found.p_value == pytest.approx(scipy.stats.kendalltau(x, y).pvalue, abs=0.01)
    assert found.smallest_p == pytest.approx(1 / 10_001)


def test_p_values_within_strata_are_by_permutation_within_strata():
    x = np.array([1.0, 2, 3, 1, 2, 3])
    y = np.array([1.0, 2, 3, 10, 20, 30])
    found = rank_correlation(x, y, [0, 0, 0, 1, 1, 1])
    assert found.value == 1.0
    assert found.p_value == pytest.approx(2 / 36)


@pytest.mark.parametrize("coefficient", ["spearman", "kendall"])
def test_simpsons_paradox(coefficient):
    x, y, groups = simpson()
    overall = rank_correlation(x, y, coefficient=coefficient)
    within = rank_correlation(x, y, groups, coefficient)
    assert overall.value > 0.5
    assert overall.low > 0
    assert within.value == pytest.approx(-1.0)
    assert within.num_strata == 4
    assert within.high < -0.5


def test_strata_are_weighted_by_their_runs_less_one():
    x = np.array([1.0, 2, 3, 4, 5, 1, 2, 3])
    y = np.array([1.0, 2, 3, 4, 5, 3, 2, 1])
    found = rank_correlation(x, y, list("aaaaabbb"), resamples=100)
    assert found.value == pytest.approx((4 * 1 - 2 * 1) / 6)


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_intervals_are_those_of_scipy(rho):
    x, y = correlated(20, rho, seed=2)
    found = rank_correlation(x, y, resamples=4000)
    oracle = scipy.stats.bootstrap(
        (x, y),
        lambda a, b: scipy.stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        rng=0,
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), abs=0.04)


def test_the_bias_of_the_bootstrap_is_corrected_as_in_scipy():
    """Data on which an interval without the correction begins 0.09 lower; many resamples, so that no luck is left."""

    def spearman(a, b, axis=-1):
        a, b = (scipy.stats.rankdata(v, axis=-1) - 6.5 for v in (a, b))
        return (a * b).sum(axis=-1) / np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))

    x, y = correlated(12, 0.9, seed=4)
    found = rank_correlation(x, y, resamples=20_000)
    oracle = scipy.stats.bootstrap((x, y), spearman, paired=True, vectorized=True, n_resamples=20_000, rng=1)
    expected = (oracle.confidence_interval.low, oracle.confidence_interval.high)
    assert (found.low, found.high) == pytest.approx(expected, abs=0.015)


def test_small_and_constant_strata_do_not_count():
    x = np.array([1.0, 2, 3, 4, 1, 2, 5, 5, 5])
    y = np.array([1.0, 3, 2, 4, 2, 1, 1, 2, 3])
    found = rank_correlation(x, y, list("aaaabbccc"), resamples=100)
    assert found.num_strata == 1
    assert found.num_runs == 4
    assert found.value == pytest.approx(0.8)


def test_missing_values_are_left_out_and_infinite_ones_rank():
    x = np.array([1.0, 2, 3, 4, 5, NAN])
    y = np.array([1.0, 2, 3, 4, np.inf, 0])
    assert rank_correlation(x, y).value == 1.0
    assert rank_correlation(x, y).num_runs == 5
    both = np.array([1.0, 2, 3, np.inf, np.inf])
    assert rank_correlation(both, both, coefficient="kendall").value == 1.0


def test_few_runs():
    three = rank_correlation([1, 2, 3], [1, 2, 3])
    assert np.isnan(three.value) and three.num_runs == 3
    four = rank_correlation([1, 2, 3, 4], [1, 2, 3, 4])
    assert four.value == 1.0
    assert np.isnan(four.low)
    assert four.p_value == four.smallest_p == pytest.approx(2 / 24)
    assert not np.isnan(rank_correlation(*correlated(FEWEST_FOR_INTERVAL, 0.5)).low)
    constant = rank_correlation([1, 1, 1, 1, 1], [1, 2, 3, 4, 5])
    assert np.isnan(constant.value) and np.isnan(constant.p_value)


def test_correlation_refusals():
    with pytest.raises(ValueError, match="coefficient must be one of spearman, kendall, got 'pearson'"):
        rank_correlation([1, 2], [1, 2], coefficient="pearson")
    with pytest.raises(ValueError, match="a correlation needs one value a run, got 2, 3 and 2 strata"):
        rank_correlation([1, 2], [1, 2, 3])


def test_monotone_changes_and_the_order_of_runs_do_not_matter():
    x, y = correlated(12, 0.5)
    order = np.random.default_rng(0).permutation(12)
    values = [rank_correlation(a, b, resamples=100).value for a, b in ((x, y), (np.exp(x), y**3), (x[order], y[order]))]
    assert values[1:] == pytest.approx(values[:1] * 2)


@pytest.mark.slow
@pytest.mark.parametrize(("coefficient", "seeds"), [("spearman", 1000), ("kendall", 300)])
def test_coverage_of_the_interval(coefficient, seeds):
    """Bivariate normal with correlation 0.5 and 20 runs; BCa over so few is near its 95%, not at it."""
    truth = {"spearman": 6 / np.pi * np.arcsin(0.25), "kendall": 2 / np.pi * np.arcsin(0.5)}[coefficient]
    answers = [rank_correlation(*correlated(20, 0.5, seed), None, coefficient, 500, seed) for seed in range(seeds)]
    held = sum(found.low <= truth <= found.high for found in answers)
    assert 0.915 * seeds <= held <= 0.98 * seeds
    assert sum(found.p_value < 0.05 for found in answers) > 0.4 * seeds


@pytest.mark.slow
def test_p_values_are_uniform_where_nothing_is_correlated():
    groups = [0] * 6 + [1] * 6
    found = [rank_correlation(*correlated(12, 0.0, seed), groups, resamples=100).p_value for seed in range(1000)]
    assert 30 <= sum(p < 0.05 for p in found) <= 71


# The report

MEASURES = ["eigenvalue", "keskar-0.001", "asam"]


def answer_of(values, share=0.1, normalization="running", fields="{}", **metrics):
    number = len(values)
    texts = {
        name: ("measure", [f"{name} of {m}" for m in MEASURES[:number]]) for name in ("definition", "scale", "bounds")
    }
    answer = xr.Dataset(
        {
            "value": ("measure", np.array(values, float)),
            "standard_error": ("measure", np.full(number, NAN)),
            "low": ("measure", np.array(values) * 0.9),
            "high": ("measure", np.array(values) * 1.1),
            "rise": ("measure", np.array(values, float)),
            "first_order_share": ("measure", np.full(number, share)),
            "nonfinite": ("measure", np.zeros(number, int)),
            "num_passes": ("measure", np.ones(number, int)),
            "resolved": ("measure", np.ones(number, bool)),
            **texts,
            "loss": 0.1,
            "gradient_norm": 0.02,
            **metrics,
        },
        coords={"measure": MEASURES[:number]},
    )
    return answer.assign_attrs(probe="sharpness", probe_fields=fields, normalization=normalization)


def runs(number=12, seed=0):
    """eigenvalue rises with the test error, asam falls with it, keskar does not care; batch size decides both."""
    rng = np.random.default_rng(seed)
    error = rng.permutation(np.linspace(0.02, 0.3, number))
    rows = [
        {"run": f"r{i}", "test_error": e, "error_gap": e / 2, "batch_size": 16 if i % 2 else 256, "lr": 0.1}
        for i, e in enumerate(error)
    ]
    return rows, [answer_of([10 * e, noise, 1 / e]) for e, noise in zip(error, rng.random(number), strict=True)]


def test_a_report_holds_what_was_put_in():
    rows, answers = runs()
    report = SharpnessReport(strata=("batch_size", "batch_size+lr"))(rows, answers)
    assert (np.diff(report["outcome_value"].sel(outcome="test_error")) > 0).all()
    for row, answer in zip(rows, answers, strict=True):
        one = report.sel(run=row["run"])
        assert one["value"].values.tolist() == answer["value"].values.tolist()
        assert one["outcome_value"].values.tolist() == [row["test_error"], row["error_gap"]]
        assert one["field_batch_size"].item() == str(row["batch_size"])
        assert one["field_batch_size.lr"].item() == f"{row['batch_size']} 0.1"
    assert report["outcome"].values.tolist() == ["test_error", "error_gap"]
    assert report["scope"].values.tolist() == ["overall", "within batch_size", "within batch_size+lr"]
    found = report["correlation"].sel(outcome="test_error")
    assert found.sel(measure="eigenvalue").values == pytest.approx(1)
    assert found.sel(measure="asam").values == pytest.approx(-1)
    within = report.sel(scope="within batch_size", outcome="test_error", measure="eigenvalue", coefficient="kendall")
    assert (within["num_runs"].item(), within["num_strata"].item()) == (12, 2)
    x = [float(a["value"][1]) for a in answers]
    sizes = [row["batch_size"] for row in rows]
    stratified = rank_correlation(x, [row["test_error"] for row in rows], sizes, resamples=100)
    one = report.sel(scope="within batch_size", outcome="test_error", measure="keskar-0.001", coefficient="spearman")
    assert one["correlation"].item() == pytest.approx(stratified.value)
    expected = rank_correlation(x, [row["test_error"] for row in rows], resamples=2000)
    noise = report.sel(scope="overall", outcome="test_error", measure="keskar-0.001", coefficient="spearman")
    assert noise["correlation"].item() == pytest.approx(expected.value)
    assert noise["p_value"].item() == pytest.approx(expected.p_value, abs=0.02)
    assert noise["definition"].item() == "definition of keskar-0.001"
    assert "3 measures: about 0.2 would have p < 0.05 by chance alone" in report.attrs["remark"]


def test_simpsons_paradox_in_a_report():
    x, y, groups = simpson()
    rows = [{"run": f"r{i}", "test_error": e, "optimizer": g} for i, (e, g) in enumerate(zip(y, groups, strict=True))]
    report = SharpnessReport(strata=("optimizer",), resamples=200)(rows, [answer_of([v]) for v in x])
    found = report["correlation"].sel(coefficient="kendall", measure="eigenvalue", outcome="test_error")
    assert found.sel(scope="overall").item() > 0.4
    assert found.sel(scope="within optimizer").item() == pytest.approx(-1)


def test_few_runs_are_declared():
    rows, answers = runs(4)
    report = SharpnessReport(strata=("batch_size",))(rows, answers)
    assert "4 runs are too few for an interval" in report.attrs["remark"]
    assert "no p-value below 0.083 is possible" in report.attrs["remark"]
    assert "within strata: fewer than 4 runs in strata of 3 or more" in report.attrs["remark"]
    assert np.isnan(report["correlation_low"]).all()
    assert "8 runs: intervals over so few are rough" in SharpnessReport(resamples=100)(*runs(8)).attrs["remark"]
    assert "rough" not in SharpnessReport(resamples=100)(*runs(12)).attrs["remark"]


def test_report_refusals():
    rows, answers = runs(5)
    report = SharpnessReport()
    with pytest.raises(ValueError, match="a sharpness report needs at least 4 runs, got 3"):
        report(rows[:3], answers[:3])
    with pytest.raises(ValueError, match="expected one answer a run, got 4 for 5 runs"):
        report(rows, answers[:4])
    with pytest.raises(ValueError, match="run r1 is there twice"):
        report([*rows[:4], rows[1]], answers)
    with pytest.raises(ValueError, match="no run has any of test_error, error_gap, loss_gap"):
        report([{"run": row["run"]} for row in rows], answers)
    with pytest.raises(ValueError, match="strata: run r0 has no field 'colour'; it has batch_size, .*test_error"):
        SharpnessReport(strata=("colour",))(rows, answers)
    with pytest.raises(ValueError, match="measured with different fields of the probe"):
        report(rows, [*answers[:4], answers[4].assign_attrs(probe_fields="other")])
    with pytest.raises(ValueError, match="under different normalization .batch, running."):
        report(rows, [*answers[:4], answers[4].assign_attrs(normalization="batch")])
    with pytest.raises(ValueError, match="resamples must be at least 100, got 5"):
        SharpnessReport(resamples=5)
    with pytest.raises(ValueError, match="outcomes needs at least one column"):
        SharpnessReport(outcomes=())


def test_a_run_without_an_outcome_does_not_count():
    rows, answers = runs(6)
    del rows[2]["test_error"]
    report = SharpnessReport(resamples=100)(rows, answers)
    assert (report["num_runs"].sel(outcome="test_error") == 5).all()
    assert (report["num_runs"].sel(outcome="error_gap") == 6).all()


def test_generalization():
    trained = {"test_accuracy": 0.9, "test_loss": 0.4, "final_train_accuracy": 1.0, "final_train_loss": 0.1}
    measured = {"test_accuracy": 0.5, "accuracy": 0.7, "loss": 3.0}
    assert generalization(trained, measured) == pytest.approx({"test_error": 0.1, "error_gap": 0.1, "loss_gap": 0.3})
    assert generalization({}, measured) == pytest.approx({"test_error": 0.5, "error_gap": 0.2})
    assert generalization({}, {"loss": 1.0}) == {}


def test_a_report_is_stored_and_printed(tmp_path):
    report = SharpnessReport(strata=("batch_size",), resamples=100)(*runs(8))
    store = Store(tmp_path)
    store.write("sharpness-report", report)
    back = store.read("sharpness-report")
    assert back.drop_attrs().identical(report.drop_attrs())
    text = correlation_table(back)
    assert "test_error, within batch_size, 2 strata, 8 runs in them" in text
    assert report_table(back).splitlines()[1].split()[0] == back["run"].values[0]
    back["first_order_share"][:] = 0.9
    assert "* more than half of this rise is the slope" in report_table(back)


# Figures


def cells(figure):
    return [text.get_text() for text in figure.axes[0].texts if text.get_gid() == "cell"]


@pytest.mark.parametrize("number", [4, 8, 30])
def test_report_figures_fit_their_page(number, tmp_path: Path):
    rows, answers = runs(number)
    answers[0]["value"][0] = NAN
    answers[1]["value"][1] = np.inf
    report = SharpnessReport(strata=("batch_size",), resamples=100)(rows, answers)
    pictures = figures.draw(report, "sharpness-report")
    assert list(pictures) == ["sharpness-runs", "correlations-test-error", "correlations-error-gap"]
    for title, figure in {**pictures, **figures.draw(answers[2], "sharpness-0a")}.items():
        figures.save(figure, tmp_path / title, formats=["png"])
        assert figure.get_figwidth() == pytest.approx(3.25)
        figure.set_dpi(300)  # as it is saved; at fewer dots every line of a note is rounded up by one
        page, ink = figure.bbox_inches, figure.get_tightbbox()
        assert ink.x0 > page.x0 - 2 / 72 and ink.x1 < page.x1 + 2 / 72, title
        assert ink.y0 > page.y0 - 2 / 72 and ink.y1 < page.y1 + 2 / 72, title
    assert len(cells(pictures["sharpness-runs"])) == (4 * number if number <= 8 else 0) + 6


def test_the_table_of_runs_shows_values_in_order():
    rows, answers = runs(5)
    for row, answer, error in zip(rows, answers, (0.5, 0.1, 0.4, 0.2, 0.3), strict=True):
        row["test_error"] = error
        answer["value"][:] = [error, 1000 * error, 1e-3 * error]
    answers[1]["first_order_share"][:] = 0.9
    figure = figures.sharpness_runs(SharpnessReport(resamples=100)(rows, answers))
    assert cells(figure)[:5] == ["0.10", "0.20", "0.30", "0.40", "0.50"]
    assert cells(figure)[5:11] == ["100", "200", "300", "400", "500", "+1.00"]
    assert cells(figure)[11:16] == ["100", "200", "300", "400", "500"]
    units = [text.get_text() for text in figure.axes[0].texts if text.get_text().startswith("×")]
    assert units == ["×0.001", "×10⁻⁶"]
    assert len([patch for patch in figure.axes[0].patches if patch.get_gid() == "slope"]) == 3
    assert "red corner" in notes(figure)


def test_correlations_are_drawn_where_they_are():
    report = SharpnessReport(strata=("batch_size",), resamples=100)(*runs(12))
    figure = figures.sharpness_correlations(report, coefficient="kendall")
    part = report.sel(outcome="test_error", scope="overall", coefficient="kendall")
    points = np.concatenate([drawn(figure, "overall significant"), drawn(figure, "overall not")])
    assert sorted(points[:, 0]) == pytest.approx(sorted(part["correlation"].values))
    assert (drawn(figure, "overall significant")[:, 0] != 0).all() and len(drawn(figure, "overall significant")) == 2
    (bars,) = [c for c in figure.axes[0].collections if c.get_gid() == "overall interval"]
    ends = np.array([segment[:, 0] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, np.stack([part["correlation_low"], part["correlation_high"]], axis=1))
    assert figure.axes[0].get_xlabel() == "Kendall's τ with test error"
    assert "chance" in notes(figure)


def test_one_answer_as_a_table():
    answer = answer_of([18.0, 0.02, 3e-7], share=0.8)
    answer["resolved"][2] = False
    figure = figures.sharpness_table(answer)
    values = [text.get_text() for text in figure.axes[0].texts if text.get_gid() == "value"]
    assert values == ["18", "0.02", "3×10⁻⁷ ?"]
    assert len([patch for patch in figure.axes[0].patches if patch.get_gid() == "slope"]) == 3
    assert "gradient norm 0.02" in notes(figure)
    assert "within the rounding of the loss" in notes(figure)


# The command

QUICK = (
    "--draws",
    2,
    "--steps",
    2,
    "--matvecs",
    20,
    "--subspace",
    3,
    "--restarts",
    1,
    "--measures",
    "eigenvalue,sam,average",
)


@pytest.mark.slow
def test_the_command(tmp_path: Path):
    folders = [tmp_path / f"r{i}" for i in range(4)]
    for seed, folder in enumerate(folders):
        assert landscape("train", *TINY, "--seed", seed, "--out", folder).returncode == 0
    done = landscape("sharpness-report", *folders, *QUICK, "--strata", "seed")
    assert done.returncode == 0, done.stderr
    assert "4 runs are too few for an interval" in done.stdout
    (sealed,) = (tmp_path / "sharpness-report").glob("*.h5")
    assert (tmp_path / "sharpness-report" / "figures" / f"{sealed.stem}-sharpness-runs.pdf").exists()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("r*/sharpness-*.h5")}
    assert len(written) == 4
    again = landscape("sharpness-report", *folders, *QUICK, "--json", "--out", tmp_path / "other")
    found = json.loads(again.stdout)
    assert found["sizes"]["run"] == 4
    assert Path(found["file"]).parent == tmp_path / "other"
    assert {path: path.stat().st_mtime_ns for path in written} == written, "measured once"
    for arguments, message in {
        (*folders[:3],): "needs at least 4 runs, got 3",
        (*folders[:3], folders[0]): "run r0 is there twice",
        (*folders, "--strata", "colour"): "has no field 'colour'",
        (*folders, "--measures", "flatness"): "measures must be all",
    }.items():
        refused = landscape("sharpness-report", *arguments)
        assert refused.returncode == 3
        assert message in refused.stderr
