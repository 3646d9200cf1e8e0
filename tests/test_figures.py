"""Figures show what is stored: the drawn data, the right way round, with what is missing marked and counted."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure

from landscape import figures
from landscape.figures.report import _caption
from landscape.figures.scales import is_wide, log_levels, number
from landscape.figures.style import notes, shortened, told_apart
from landscape.store import UnwritableError
from landscape.text import clean
from tests.answers import (
    bowl,
    critical_answer,
    density_answer,
    layers_answer,
    overlap_answer,
    overlap_by_step,
    slice_answer,
    spectrum_answer,
    spectrum_by_step,
    stability_by_step,
    surface_answer,
    training_answer,
)


def drawn(figure: Figure, gid: str) -> np.ndarray:
    """(N, 2) the data of the one line that was drawn under this name."""
    (line,) = [line for ax in figure.axes for line in ax.lines if line.get_gid() == gid]
    return np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)])


def filled(figure: Figure) -> QuadContourSet:
    return next(c for c in figure.axes[0].collections if isinstance(c, QuadContourSet) and c.filled)


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def with_gaps(answer: xr.Dataset) -> xr.Dataset:
    """Three points along alpha that are not finite, in one of the seeds."""
    answer = answer.copy(deep=True)
    loss = answer["loss"].transpose(..., "alpha")
    loss[..., 0] = np.nan
    loss[..., 1] = np.inf
    loss[..., -1] = -np.inf
    return answer.drop_vars(["loss_lower", "loss_median", "loss_upper"], errors="ignore")


# Every figure of every answer, also of the awkward ones, is drawn without a warning and fits its own page.

ANSWERS = {
    "slice": slice_answer(),
    "slice-seeds": slice_answer(seeds=5),
    "slice-gaps": with_gaps(slice_answer(seeds=3)),
    "slice-nan": slice_answer(test=False) * np.nan,
    "slice-flat": slice_answer(test=False) * 0 + 0.7,
    "slice-one-point": slice_answer().isel(alpha=[20]),
    "surface": surface_answer(),
    "surface-seeds": surface_answer(seeds=2),
    "surface-path": surface_answer(trajectory=True, directions="pca"),
    "surface-flat": surface_answer() * 0 + 0.7,
    "surface-zero": surface_answer() * 0,
    "surface-nan": surface_answer(trajectory=True) * np.nan,
    "spectrum": spectrum_answer(),
    "spectrum-one": spectrum_answer(1, negative=False),
    "spectrum-zero": spectrum_answer() * 0,
    "spectrum-by-step-1": spectrum_by_step(),
    "critical": critical_answer(),
    "critical-flat": critical_answer(loss=0.0) * 0 + 0.7,
    "critical-nan": critical_answer() * np.nan,
    "critical-long": critical_answer(1e4, 1e4, 1e-7, "not a critical point", "gradient-flat: " + 40 * "reason "),
    "spectral-density": density_answer(),
    "spectral-density-positive": density_answer(negative=False),
    "spectral-density-alone": density_answer(k=0, probes=1),
    "spectral-density-zero": density_answer() * 0,
    "spectral-density-nan": density_answer() * np.nan,
    "layers": layers_answer(),
    "layers-positive": layers_answer(negative=False),
    "layers-traces": layers_answer(eigenvalues=False),
    "layers-one": layers_answer(1),
    "layers-deep": layers_answer(40, name="encoder.layers.#.attention.self.query"),
    "layers-zero": layers_answer() * 0,
    "layers-nan": layers_answer() * np.nan,
    "layers-strange": layers_answer(name="$\\frac{1}{$" + 300 * "{" + "<b>#\n\x1b[31m"),
    "stability-by-step-1": stability_by_step(),
    "subspace-overlap-1": overlap_answer(),
    "subspace-overlap-by-step-1": overlap_by_step(),
    "training": training_answer(),
    "training-deep": training_answer(20, 50, 60, "encoder.a.very.long.path.of.modules.block#.conv1.weight"),
    "training-one-step": training_answer(1, 1, 1),
    "training-strange": training_answer(name="$\\frac{1}{$" + 300 * "{" + "<b>#\n\x1b[31m"),
}
PROBES = {
    "slice": "Slice",
    "surface": "Surface",
    "spectrum": "Spectrum",
    "critical": "critical-point",
    "training": "TrainingDynamics",
    "layers": "layers",
    "spectral": "spectral-density",
    "stability": "stability",
    "subspace": "subspace-overlap",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_is_drawn_within_its_page(name: str, tmp_path: Path):
    answer = ANSWERS[name]
    answer.attrs |= {"probe": PROBES[name.split("-")[0]]}
    pictures = figures.draw(answer, name)
    assert pictures
    for title, figure in pictures.items():
        (path,) = figures.save(figure, tmp_path / title, formats=["png"])
        assert path.stat().st_size > 5000
        assert figure.get_figwidth() == pytest.approx(3.25)
        # Nothing is cut at the edge: what is drawn fits the page with two points of tolerance.
        page, ink = figure.bbox_inches, figure.get_tightbbox()
        assert ink.x0 > page.x0 - 2 / 72 and ink.x1 < page.x1 + 2 / 72, title
        assert ink.y0 > page.y0 - 2 / 72 and ink.y1 < page.y1 + 2 / 72, title


def test_figures_leave_the_settings_of_the_user_alone(tmp_path: Path):
    with matplotlib.rc_context({"font.size": 31, "text.usetex": True, "axes.labelsize": 40}):
        before = dict(matplotlib.rcParams)
        figure = figures.slice_band(slice_answer())
        figures.save(figure, tmp_path / "slice")
        assert dict(matplotlib.rcParams) == before
    assert figure.axes[0].xaxis.label.get_size() == 7
    assert {label.get_size() for label in figure.axes[0].get_xticklabels()} == {6.5}


def test_pyplot_is_never_imported():
    code = "import sys, landscape.figures; sys.exit('matplotlib.pyplot' in sys.modules or 'plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Slices


def test_slice_draws_the_median_the_band_and_the_checkpoint():
    answer = slice_answer(seeds=5)
    figure = figures.slice_band(answer)
    np.testing.assert_array_equal(drawn(figure, "loss"), np.column_stack([answer.alpha, answer.loss_median]))
    np.testing.assert_array_equal(drawn(figure, "test_loss")[:, 1], answer.test_loss_median)
    (band,) = [c for c in figure.axes[0].collections if c.get_gid() == "loss band"]
    edges = band.get_paths()[0].vertices
    at = edges[np.isclose(edges[:, 0], answer.alpha[3].item())][:, 1]
    assert (at.min(), at.max()) == pytest.approx((answer.loss_lower[3].item(), answer.loss_upper[3].item()))
    assert legend(figure.axes[0]) == ["training", "test", "checkpoint"]
    assert "5 directions" in notes(figure)
    assert figure.axes[0].get_yscale() == "log"
    assert figure.axes[0].get_ylabel() == "Loss (nats)"
    assert figure.axes[0].get_xlabel() == "α, filter-normalized direction"


def test_slice_without_a_stored_band_takes_percentiles_over_seeds():
    answer = slice_answer(seeds=5)
    stored = figures.slice_band(answer)
    computed = figures.slice_band(answer.drop_vars(["loss_lower", "loss_median", "loss_upper"]))
    np.testing.assert_allclose(drawn(computed, "loss"), drawn(stored, "loss"))
    bands = [next(c for c in f.axes[0].collections if c.get_gid() == "loss band") for f in (stored, computed)]
    np.testing.assert_allclose(*(band.get_paths()[0].vertices for band in bands))


def test_slice_marks_the_checkpoint_at_its_own_loss_with_an_even_resolution():
    figure = figures.slice_band(slice_answer(resolution=10, test=False))
    np.testing.assert_allclose(drawn(figure, "checkpoint"), [[0, bowl(0.0)]])


def test_slice_of_one_direction_has_no_band():
    figure = figures.slice_band(slice_answer(seeds=1))
    assert not [c for c in figure.axes[0].collections if "band" in str(c.get_gid())]
    assert "directions" not in notes(figure)


def test_slice_keeps_gaps_and_counts_them():
    answer = with_gaps(slice_answer())
    figure = figures.slice_band(answer)
    np.testing.assert_array_equal(np.isnan(drawn(figure, "loss")[:, 1]), ~np.isfinite(answer.loss))
    np.testing.assert_array_equal(drawn(figure, "non-finite")[:, 0], answer.alpha[[0, 1, -1]])
    assert "3 non-finite values" in notes(figure)


def test_a_slice_whose_median_is_infinite_there_has_a_gap_there():
    answer = slice_answer(seeds=3)
    answer["loss"][:2, 0] = np.inf
    answer["loss_median"][0] = np.inf
    figure = figures.slice_band(answer)
    assert np.isnan(drawn(figure, "loss")[0, 1]) and np.isfinite(drawn(figure, "loss")[1:]).all()
    assert "2 non-finite values" in notes(figure)


def test_slice_of_another_metric_is_linear():
    assert figures.slice_band(slice_answer(), metric="accuracy").axes[0].get_yscale() == "linear"


def test_slice_can_be_drawn_into_the_axes_of_a_larger_figure():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert figures.slice_band(slice_answer(), ax=right) is figure
    assert not left.lines and right.lines


# Surfaces


def test_contour_runs_alpha_to_the_right_and_beta_up():
    answer = surface_answer(resolution=(31, 21), radius=(1.0, 0.5))
    figure = figures.contour(answer)
    ax, contours = figure.axes[0], filled(figure)
    assert ax.get_xlim() == (-1, 1) and ax.get_ylim() == (-0.5, 0.5)
    assert ax.get_xlabel().startswith("α") and ax.get_ylabel().startswith("β")
    np.testing.assert_array_equal(contours.zmin, answer.loss.min())
    np.testing.assert_array_equal(contours.zmax, answer.loss.max())
    # The loss of the checker: it rises along alpha only, so no contour line crosses x = 0.
    along_alpha = answer.assign(loss=np.exp(answer.alpha) + 0 * answer.beta)
    for path in filled(figures.contour(along_alpha)).get_paths():
        if len(path.vertices):
            assert np.ptp(path.vertices[:, 1]) == pytest.approx(1.0)  # each band spans all of beta


def test_contour_of_transposed_storage_is_the_same():
    answer = surface_answer()
    one, other = filled(figures.contour(answer)), filled(figures.contour(answer.transpose("beta", "alpha")))
    for a, b in zip(one.get_paths(), other.get_paths(), strict=True):
        np.testing.assert_array_equal(a.vertices, b.vertices)


def test_contour_levels_are_round_log_spaced_and_cover_every_value():
    answer = surface_answer()
    levels = filled(figures.contour(answer)).levels
    assert levels[0] <= answer.loss.min() and levels[-1] >= answer.loss.max()
    assert 6 <= len(levels) <= 18
    ratios = levels[1:] / levels[:-1]
    assert ratios.max() / ratios.min() < 1.5
    labels = [t.get_text() for t in figures.contour(answer).axes[1].get_yticklabels()]
    assert {"0.05", "0.1", "0.2", "0.5", "1"} <= set(labels)


def test_contour_hatches_and_counts_what_is_not_finite():
    answer = surface_answer()
    clean = figures.contour(answer).axes[0]
    answer["loss"][:3, :4] = np.nan
    answer["loss"][20, 10] = np.inf
    figure = figures.contour(answer)
    assert clean.patch.get_hatch() is None and figure.axes[0].patch.get_hatch()
    assert "13 non-finite points of 651" in notes(figure)
    covered = [path.contains_point((-0.97, -0.47)) for path in filled(figure).get_paths()]
    assert not any(covered)


def test_contour_of_one_seed_says_which():
    answer = surface_answer(seeds=3)
    figure = figures.contour(answer, seed=2)
    assert filled(figure).zmax == answer.loss[2].max()
    assert "direction seed 2, one of 3" in notes(figure)
    with pytest.raises(IndexError, match="among the 3 direction seeds"):
        figures.contour(answer, seed=3)


def test_contour_shows_the_trajectory_and_its_share_off_the_plane():
    answer = surface_answer(trajectory=True)
    figure = figures.contour(answer)
    np.testing.assert_array_equal(
        drawn(figure, "trajectory"), np.column_stack([answer.trajectory_alpha, answer.trajectory_beta])
    )
    np.testing.assert_array_equal(drawn(figure, "start")[0], [answer.trajectory_alpha[0], answer.trajectory_beta[0]])
    np.testing.assert_array_equal(drawn(figure, "end")[0], [answer.trajectory_alpha[-1], answer.trajectory_beta[-1]])
    steps = {text.get_text() for text in figure.axes[0].texts if text.get_gid() == "step"}
    assert {"0", "220"} <= steps
    assert "50% of its distance lies off the plane (median; 20% to 80%)" in notes(figure).replace("\n", " ")


def test_contour_says_when_the_trajectory_leaves_the_window_and_does_not_grow():
    answer = surface_answer(trajectory=True)
    answer["trajectory_alpha"][0] = -7.0
    figure = figures.contour(answer)
    assert "1 snapshot outside the window" in notes(figure).replace("\n", " ")
    assert figure.axes[0].get_xlim() == (-1, 1)


def test_contour_writes_the_variance_of_a_pca_plane_beside_its_null():
    text = notes(figures.contour(surface_answer(directions="pca", trajectory=True)))
    assert "90% of the variance (random walk: 76%)" in text


def test_a_surface_of_one_row_has_no_contours():
    answer = surface_answer(resolution=(5, 1))
    assert figures.draw(answer, "surface-1") == {}
    with pytest.raises(ValueError, match=r"at least 2 points along each axis of a surface; got \(5, 1\)"):
        figures.contour(answer)


def test_points_that_span_a_plane_are_no_trajectory():
    answer = surface_answer(trajectory=True)
    answer.attrs["directions"] = "through"
    figure = figures.contour(answer)
    assert "first point" in legend(figure.axes[0])
    assert not [line for line in figure.axes[0].lines if line.get_gid() == "trajectory"]


def test_surface3d_stands_on_log_heights_with_holes():
    answer = surface_answer(trajectory=True)
    answer["loss"][:2, :2] = np.nan
    figure = figures.surface3d(answer)
    (ax,) = figure.axes
    low, high = ax.get_zlim()
    assert low <= np.log10(answer.loss.min()) and np.log10(answer.loss.max()) <= high
    labels = [text.get_text() for text in ax.get_zticklabels()]
    assert {"0.1", "1"} <= set(labels)
    assert "4 non-finite points" in notes(figure) and "off the plane" in notes(figure)
    (path,) = [line for line in ax.lines if line.get_gid() == "trajectory"]
    alpha, beta, height = path.get_data_3d()
    np.testing.assert_array_equal(alpha, answer.trajectory_alpha)
    np.testing.assert_array_equal(beta, answer.trajectory_beta)
    assert height[-1] == pytest.approx(np.log10(bowl(0.0)), abs=0.05)  # on the surface, lifted a little


def test_interactive_surface_has_the_right_way_round_and_real_numbers_on_hover():
    answer = surface_answer(resolution=(7, 5), trajectory=True)
    answer["loss"][0, 1] = np.inf
    figure = figures.interactive_surface(answer)
    sheet, path = figure.data
    assert np.shape(sheet.z) == (5, 7)
    expected = np.where(np.isfinite(answer.loss), answer.loss, np.nan).T
    np.testing.assert_array_equal(sheet.z, expected)
    np.testing.assert_allclose(sheet.surfacecolor, np.log10(expected))
    assert figure.layout.scene.zaxis.type == "log"
    assert sheet.text[2][3].split("<br>")[:2] == ["α 0", "β 0"]
    assert f"loss (nats) {bowl(0.0):.4g}" in sheet.text[2][3] and "accuracy" in sheet.text[2][3]
    assert "inf" in sheet.text[1][0]
    assert "off the plane" in path.text[0]


def test_interactive_surface_takes_no_markup_from_a_file():
    answer = surface_answer(resolution=(3, 3))
    answer["loss"].attrs["units"] = answer["accuracy"].attrs["units"] = "<a href=x>"
    figure = figures.interactive_surface(answer)
    assert figure.layout.scene.zaxis.title.text == "Loss (‹a href=x>)"
    assert "<a" not in str(figure.to_json())


def test_interactive_surface_of_nothing_finite_is_still_a_figure():
    figure = figures.interactive_surface(surface_answer() * np.nan)
    assert len(figure.data) == 1


# Spectra


def test_eigenvalues_are_stems_with_residual_bars_from_the_top_down():
    answer = spectrum_answer(k=4)
    figure = figures.eigenvalues(answer)
    np.testing.assert_array_equal(drawn(figure, "largest")[:, 1], answer.eigenvalue.sel(end="largest"))
    converged = answer.eigenvalue.sel(end="smallest")[2::-1]
    np.testing.assert_array_equal(drawn(figure, "smallest")[:, 1], converged)
    bars = [c for c in figure.axes[0].containers if c.has_yerr]
    segments = np.array(bars[0].lines[2][0].get_segments())
    np.testing.assert_allclose(np.ptp(segments[:, :, 1], axis=1) / 2, answer.residual.sel(end="largest"))
    assert figure.axes[0].get_yscale() == "symlog"
    assert notes(figure).startswith("saddle: ")


def test_eigenvalues_that_did_not_converge_are_hollow():
    figure = figures.eigenvalues(spectrum_answer(k=4))
    assert len(drawn(figure, "smallest, not converged")) == 1
    (hollow,) = [line for line in figure.axes[0].lines if line.get_gid() == "smallest, not converged"]
    assert hollow.get_markerfacecolor() == "white"


def test_error_bars_that_reach_across_zero_stay_on_the_figure():
    answer = spectrum_answer(k=3, negative=False)
    answer["residual"][:] = 0.1
    low, _ = figures.eigenvalues(answer).axes[0].get_ylim()
    assert low < (answer.eigenvalue - answer.residual).min()


def test_eigenvalues_of_similar_size_stand_on_a_linear_axis():
    answer = spectrum_answer(k=2)
    answer["eigenvalue"][:] = [[3.0, 2.0], [-2.0, -1.0]]
    assert figures.eigenvalues(answer).axes[0].get_yscale() == "linear"


# Critical points


def test_the_way_out_is_drawn_beside_its_quadratic_model():
    answer = critical_answer()
    figure = figures.escape(answer)
    assert np.allclose(drawn(figure, "loss")[:, 1], answer.loss)
    assert np.allclose(drawn(figure, "quadratic_loss")[:, 1], answer.quadratic_loss)
    assert drawn(figure, "point").tolist() == [[0, 0.3]]
    assert "−0.9" in figure.axes[0].get_xlabel()
    said = notes(figure).replace("\n", " ")
    assert "saddle: curvature of both signs" in said
    assert "40 (between 25 and 55) of 12810 eigenvalues below −τ, 10 of them certified" in said
    exact = notes(figures.escape(critical_answer(spread=0.0))).replace("\n", " ")
    assert "40 of 12810 eigenvalues" in exact


def test_gaps_on_the_way_out_are_counted():
    answer = critical_answer()
    answer["loss"][-2:] = np.inf
    figure = figures.escape(answer)
    assert np.isnan(drawn(figure, "loss")[-2:, 1]).all()
    assert "2 non-finite values left out" in notes(figure)


def test_index_against_loss_has_a_point_an_answer_with_its_interval():
    flat = critical_answer(60.0, 5.0, 0.9, "not a critical point", "gradient-flat: the gradient")
    away = critical_answer(70.0, 0.0, 1.0, "not a critical point", "the gradient does not vanish")
    answers = [critical_answer(40.0), critical_answer(10.0, 20.0, 0.1), flat, away]
    figure = figures.index_against_loss(answers)
    assert drawn(figure, "critical").tolist() == [[40 / 12_810, 0.3], [10 / 12_810, 0.1]]
    assert drawn(figure, "not a critical point").tolist() == [[60 / 12_810, 0.9], [70 / 12_810, 1.0]]
    bars = [c for c in figure.axes[0].collections if str(c.get_gid()).endswith(" error")]
    ends = np.concatenate([np.array(bar.get_segments())[:, :, 0] for bar in bars])
    assert ends * 12_810 == pytest.approx(np.array([[25, 55], [0, 30], [55, 65]]))
    assert "2 critical points, 2 not critical, 1 of them gradient-flat" in notes(figure)
    assert "bars: interval of the count" in notes(figure)


def test_index_against_loss_of_one_kind_or_none():
    figure = figures.index_against_loss([critical_answer(0.0, 0.0)])
    assert notes(figure) == "1 critical point"
    assert legend(figure.axes[0]) == ["critical"]
    away = critical_answer(verdict="not a critical point", loss=np.nan)
    said = notes(figures.index_against_loss([away, critical_answer(loss=2.0)]))
    assert "1 critical point, 1 not critical" in said and "1 non-finite loss left out" in said
    with pytest.raises(ValueError, match="expected at least one answer of the probe CriticalPoint"):
        figures.index_against_loss([])


def test_many_decades_of_loss_stand_on_a_log_axis(tmp_path: Path):
    figure = figures.index_against_loss([critical_answer(loss=10.0**-k) for k in range(5)])
    assert figure.axes[0].get_yscale() == "log"
    (path,) = figures.save(figure, tmp_path / "f", formats=["png"])
    assert path.exists()


def test_by_step_follows_the_extreme_eigenvalues():
    answer = spectrum_by_step(steps=6, k=2)
    figure = figures.by_step(answer)
    lines = {c.get_label(): c.lines[0] for c in figure.axes[0].containers}
    np.testing.assert_array_equal(lines["largest"].get_xdata(), answer.step)
    np.testing.assert_array_equal(lines["largest"].get_ydata(), answer.eigenvalue.sel(end="largest").max("rank"))
    np.testing.assert_array_equal(lines["most negative"].get_ydata(), answer.eigenvalue.sel(end="smallest").min("rank"))


def test_an_answer_without_a_number_by_step_has_no_figure_and_other_errors_are_seen(monkeypatch):
    step = {"step": [1, 2]}
    for empty in (
        xr.Dataset({"word": ("step", ["a", "b"])}, step),
        xr.Dataset({"eigenvalue": (("step", "layer"), [[1.0], [2.0]])}, step),
        xr.Dataset({"loss": ("step", np.empty(0))}, {"step": np.empty(0, int)}),
    ):
        assert figures.draw(empty, "slice-by-step-1") == {}
    monkeypatch.setattr("landscape.figures.curves.log_y", _fail)
    with pytest.raises(ValueError, match="a mistake of ours"):
        figures.draw(xr.Dataset({"loss": ("step", [1e-9, 1.0])}, step), "slice-by-step-1")


def test_stability_is_drawn_with_its_edge():
    answer = stability_by_step()
    figure = figures.draw(answer, "stability-by-step-1")["stability-by-step"]
    assert set(drawn(figure, "edge")[:, 1]) == {1.0}
    np.testing.assert_allclose(drawn(figure, "loss")[:, 1], answer.loss)
    lower = figure.axes[1]
    assert lower.containers[0].has_yerr and lower.get_ylim()[0] == 0
    written = " ".join(notes(figure).split())
    assert "Adam" in written and "1 eigenvalue not converged" in written
    assert "1 step without a ratio: the optimizer had made no step yet" in written
    assert "without a ratio" not in notes(figures.stability_by_step(stability_by_step(late=False)))


def test_overlap_is_drawn_with_chance_beside_it():
    answer = overlap_by_step()
    figure = figures.draw(answer, "subspace-overlap-by-step-1")["overlap-by-step"]
    np.testing.assert_allclose(drawn(figure, "chance")[:, 1], answer.chance)
    assert legend(figure.axes[0]).count("chance k/n") == 1
    assert "change a share by at most 0.02" in notes(figure) and "12 eigenvalues not converged" in notes(figure)
    one = overlap_answer()
    by_rank = figures.draw(one, "subspace-overlap-1")["overlap-by-rank"]
    np.testing.assert_allclose(drawn(by_rank, "full")[:, 1], one.overlap_by_rank)
    np.testing.assert_allclose(drawn(by_rank, "chance")[:, 1], one.chance.item() * np.arange(1, 11) / 10)


def test_a_stability_answer_that_lacks_its_variables_is_drawn_plainly():
    answer = stability_by_step().drop_vars("ratio")
    assert list(figures.draw(answer, "stability-by-step-1")) == ["by-step"]


def _fail(*_: object) -> None:
    raise ValueError("a mistake of ours")


def test_by_step_of_an_answer_without_numbers_says_what_it_needs():
    with pytest.raises(ValueError, match=r"dims \(step,\)"):
        figures.by_step(xr.Dataset({"word": ("step", ["a", "b"])}, coords={"step": [1, 2]}))


# Training


def test_learning_curves_stand_at_the_end_of_their_epochs():
    answer = training_answer(epochs=4, steps_per_epoch=10)
    figure = figures.learning_curves(answer)
    np.testing.assert_array_equal(drawn(figure, "val_loss"), np.column_stack([[1, 2, 3, 4], answer.val_loss]))
    steps = drawn(figure, "steps")
    np.testing.assert_allclose(steps[:, 0], np.arange(1, 41) / 10)
    np.testing.assert_array_equal(steps[:, 1], answer.loss)
    np.testing.assert_array_equal(drawn(figure, "train_accuracy")[:, 1], answer.train_accuracy)


def test_learning_curves_call_the_test_split_of_each_epoch_by_its_name():
    answer = training_answer(epochs=4, steps_per_epoch=10)
    figure = figures.learning_curves(answer.assign(epoch_test_loss=answer.val_loss + 1))
    (line,) = [line for line in figure.axes[0].get_lines() if line.get_gid() == "epoch_test_loss"]
    assert line.get_label() == "test"


def test_learning_curves_of_a_foreign_trainer_use_the_means_of_the_steps():
    answer = training_answer(epochs=4, steps_per_epoch=10)[["loss", "epoch_of_step"]]
    means = drawn(figures.learning_curves(answer), "epoch means")
    np.testing.assert_allclose(means[:, 1], answer.loss.values.reshape(4, 10).mean(axis=1))


def test_learning_curves_leave_out_and_count_a_diverged_loss():
    answer = training_answer()
    answer["loss"][-5:] = np.nan
    answer["val_loss"][-1] = np.inf
    assert "6 non-finite loss values" in notes(figures.learning_curves(answer))


def test_gradient_flow_is_log10_by_layer_and_step():
    answer = training_answer(epochs=2, steps_per_epoch=5, layers=3)
    answer["layer_gradient_norm"][4, 1] = 0.0
    answer["layer_gradient_norm"][5, 2] = np.nan
    figure = figures.gradient_flow(answer)
    ax = figure.axes[0]
    (mesh,) = ax.collections
    cells = mesh.get_array()
    assert cells.shape == (3, 10)
    expected = np.log10(answer.layer_gradient_norm.where(answer.layer_gradient_norm > 0)).T
    np.testing.assert_allclose(cells.filled(np.nan), expected)
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first layer at the top
    assert [t.get_text() for t in ax.get_yticklabels()] == ["features.0.conv", "features.1.conv", "features.2.conv"]
    assert "1 zero value and 1 non-finite value" in notes(figure)


def test_gradient_flow_thins_many_layers_and_steps():
    answer = training_answer(10, 100, 60)
    figure = figures.gradient_flow(answer)
    assert figure.axes[0].collections[0].get_array().shape == (60, 250)
    assert 10 < len(figure.axes[0].get_yticklabels()) <= 26
    assert "mean of log10 over 4 steps" in notes(figure)


def test_update_ratios_have_the_guide_and_a_line_a_layer():
    answer = training_answer(epochs=2, steps_per_epoch=5, layers=3)
    figure = figures.update_ratios(answer)
    assert set(drawn(figure, "guide")[:, 1]) == {1e-3}
    for layer in answer.layer.values:
        np.testing.assert_allclose(drawn(figure, str(layer))[:, 1], answer.update_ratio.sel(layer=layer))
    assert figure.axes[0].get_yscale() == "log"
    assert legend(figure.axes[0])[-1] == "1e-3 guide"


def test_update_ratios_leave_out_and_count_what_has_no_logarithm():
    answer = training_answer(epochs=2, steps_per_epoch=5, layers=3)
    answer["update_ratio"][0, 0] = 0.0
    answer["update_ratio"][1, 0] = np.nan
    figure = figures.update_ratios(answer)
    assert np.isnan(drawn(figure, str(answer.layer.values[0]))[:2, 1]).all()
    assert "2 zero or non-finite ratios" in notes(figure)


# Densities and layers


@pytest.mark.parametrize(("title", "matrix"), [("", "Hessian"), ("eigenvalue of the Fisher matrix", "Fisher matrix")])
def test_the_figures_say_whose_eigenvalues_they_show(title, matrix):
    label = "Hessian eigenvalue" if matrix == "Hessian" else f"Eigenvalue of the {matrix}"
    spectra, density = spectrum_by_step(steps=3, k=1), density_answer()
    for array in (spectra["eigenvalue"], density["curvature"]):
        array.attrs["long_name"] = title
    assert figures.by_step(spectra).axes[0].get_ylabel() in (label, label.replace("of the ", "of the\n"))
    assert figures.density(density).axes[0].get_xlabel() == f"{label}, λ"
    assert (f"λ of the {matrix}" in notes(figures.log_density(density))) == (matrix != "Hessian")
    for answer, name in ((spectra.isel(step=0), "eigenvalues"), (density, "density"), (density, "log-density")):
        assert f"of the {matrix}" in _caption(answer, name)


def test_the_logarithmic_density_is_mirrored_about_zero():
    answer = density_answer()
    figure = figures.log_density(answer)
    left, right = figure.axes
    assert left.get_xlim() == right.get_xlim()[::-1]
    assert left.get_ylim() == right.get_ylim() and right.get_xscale() == right.get_yscale() == "log"
    line = drawn(figure, "positive")
    np.testing.assert_array_equal(line[:, 0], answer.magnitude)
    shown = np.isfinite(line[:, 1])
    assert shown.any()
    np.testing.assert_array_equal(line[shown, 1], answer.log_density_positive.values[shown])
    assert "not shown: 40.0% between −10⁻⁴ and 2×10⁻⁴" in notes(figure)
    assert "4 probes of 30 Lanczos steps" in notes(figure)


def test_outliers_are_marked_on_their_side_hollow_where_not_converged():
    answer = density_answer(k=3)
    figure = figures.log_density(answer)
    marks = [[line for line in ax.lines if line.get_gid() == "outlier"] for ax in figure.axes]
    values = [[line.get_xdata()[0] for line in lines] for lines in marks]
    np.testing.assert_allclose(values[0], -answer.eigenvalue.sel(end="smallest"))
    np.testing.assert_allclose(values[1], answer.eigenvalue.sel(end="largest"))
    assert [line.get_markerfacecolor() == "white" for line in marks[0]] == [False, False, True]
    one = 1 / (12_810 * 0.1 * np.sqrt(2 * np.pi))  # the height of one eigenvalue, smoothed over a tenth of a decade
    assert marks[0][0].get_ydata()[0] == pytest.approx(one)


def test_the_linear_density_has_its_band_and_outliers():
    answer = density_answer()
    figure = figures.density(answer)
    (ax,) = figure.axes
    (band,) = [c for c in ax.collections if c.get_gid() == "positive band"]
    edges = band.get_paths()[0].vertices
    middle = int(answer.density.values.argmax())
    at = edges[np.isclose(edges[:, 0], answer.curvature[middle].item())][:, 1]
    top = answer.density[middle].item()
    assert (at.min(), at.max()) == pytest.approx((0.9 * top, 1.1 * top))
    assert legend(ax) == ["density", "outlier", "outlier, not converged"]
    assert sum(line.get_gid() == "outlier" for line in ax.lines) == 6


def test_layer_bars_run_from_the_first_layer_down():
    answer = layers_answer(6)
    figure = figures.layer_bars(answer)
    left = figure.axes[0]
    assert left.yaxis_inverted()
    assert [label.get_text() for label in left.get_yticklabels()] == [f"features.{i}.conv" for i in range(6)]
    np.testing.assert_allclose([bar.get_x() + bar.get_width() for bar in left.patches], answer.trace)
    assert left.get_xscale() == "linear"
    deep = figures.layer_bars(layers_answer(30))
    assert deep.axes[0].get_xscale() == "symlog"
    assert figures.layer_bars(layers_answer(30, negative=False)).axes[0].get_xscale() == "log"
    converged = answer.largest_converged.values
    np.testing.assert_allclose(drawn(figure, "largest")[:, 0], answer.largest_eigenvalue.values[converged])
    np.testing.assert_allclose(
        drawn(figure, "smallest, not converged")[:, 0], answer.smallest_eigenvalue.values[~converged]
    )
    assert "hollow: not converged" in notes(figure)
    assert len(figures.layer_bars(layers_answer(6, eigenvalues=False)).axes) == 1


def test_forty_layers_keep_their_names_apart():
    figure = figures.layer_bars(layers_answer(40, name="encoder.layers.#.attention.self.query"))
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(set(names)) == 40
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(low.y1 <= high.y0 + 1 for high, low in pairwise(boxes))


# Somebody else's probe


def test_own_probes_get_plain_figures_of_what_has_one_dimension():
    answer = xr.Dataset(
        {
            "norm": 3.0,
            "profile": ("depth", [1.0, 2.0, np.nan]),
            "profile_standard_error": ("depth", [0.1, 0.1, 0.1]),
            "words": ("depth", ["a", "b", "c"]),
            "matrix": (("depth", "other"), np.ones((3, 2))),
        },
        attrs={"probe": "mypackage.probes:Depth"},
    )
    pictures = figures.draw(answer, "depth-0123")
    assert list(pictures) == ["profile"]
    assert "1 non-finite value" in notes(pictures["profile"])
    assert pictures["profile"].axes[0].containers[0].has_yerr


def test_a_probe_that_borrows_our_name_but_not_our_variables_is_drawn_plainly():
    answer = xr.Dataset({"depth": ("x", [1.0, 2.0])}, attrs={"probe": "mine:Slice"})
    assert list(figures.draw(answer, "slice-1")) == ["depth"]


def test_an_answer_of_scalars_and_a_trajectory_have_no_figures():
    assert figures.draw(xr.Dataset({"norm": 3.0}, attrs={"probe": "WeightNorm"})) == {}
    trajectory = xr.Dataset({"theta": (("snapshot", "parameter"), np.ones((3, 9)))})
    assert figures.draw(trajectory, "trajectory") == {}


# Numbers, names, files


def test_log_levels_cover_the_range_with_round_numbers():
    for low, high in ((0.02, 4.0), (1e-9, 1e12), (3.0, 10.0), (1.0, 1000.0)):
        levels = log_levels(low, high, 12)
        assert 2 <= len(levels) <= 12
        assert levels[0] <= low and levels[-1] >= high
        assert levels[1] > low and levels[-2] < high  # no idle level beyond the ends


def test_wide_values_are_positive_ones_only():
    assert is_wide([0.1, 2.0, np.nan, np.inf])
    assert not is_wide([0.0, 100.0]) and not is_wide([-1.0, 100.0]) and not is_wide([1.0, 2.0]) and not is_wide([])


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.05, "0.05"), (1000, "1,000"), (1e5, "10⁵"), (-2e-7, "−2×10⁻⁷"), (-1e-4, "−10⁻⁴")]
)
def test_numbers_read_as_in_print(value: float, text: str):
    assert number(value) == text


def test_texts_from_files_are_cut_and_never_parsed():
    assert clean("a\x1b[31m\nb") == "a[31m b"
    assert len(clean("x" * 100_000)) == 200
    answer = xr.Dataset({"$\\frac{1}{$" + "{" * 5000: ("x", [1.0, 2.0])})
    (figure,) = figures.draw(answer).values()
    label = figure.axes[0].yaxis.label
    assert not label.get_parse_math() and len(label.get_text()) <= 48


def test_layer_names_are_shortened_but_stay_apart():
    assert shortened("encoder.layers.11.attention.weight", 16).endswith("on.weight")
    names = [f"backbone.features.stage{i}.conv1.weight" for i in range(3)]
    assert told_apart(names, 16) == ["stage0.conv1", "stage1.conv1", "stage2.conv1"]
    assert told_apart(["a.weight", "b.bias"]) == ["a.weight", "b.bias"]


def test_saved_pdf_embeds_truetype_and_is_the_same_file_again(tmp_path: Path):
    figure = figures.contour(surface_answer())
    pdf, png = figures.save(figure, tmp_path / "deep" / "surface-1.2", width="double")
    assert (pdf.name, png.name) == ("surface-1.2.pdf", "surface-1.2.png")
    assert b"/Type3" not in pdf.read_bytes() and b"/CIDFontType2" in pdf.read_bytes()
    assert matplotlib.image.imread(png).shape[1] == pytest.approx(6.75 * 300, abs=1)
    again, _ = figures.save(figures.contour(surface_answer()), tmp_path / "again", width="double")
    assert again.read_bytes() == pdf.read_bytes()


def test_saving_fails_before_it_writes(tmp_path: Path):
    figure = figures.slice_band(slice_answer())
    with pytest.raises(ValueError, match=r"expected figure formats among .*; got bmpx"):
        figures.save(figure, tmp_path / "slice", formats=["pdf", "bmpx"])
    with pytest.raises(ValueError, match="expected width 'single'"):
        figures.save(figure, tmp_path / "slice", width="triple")  # type: ignore[arg-type]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UnwritableError, match="cannot write"):
        figures.save(figure, tmp_path / "file" / "slice")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_different_layers_never_get_the_same_label():
    names = [f"body.stage{stage}.0.shortcut.{part}" for stage in (2, 3) for part in (0, 1)]
    assert len(set(told_apart([*names, "head"]))) == 5
    assert told_apart(["a", "a"]) == ["a", "a"]
