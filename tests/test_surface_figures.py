"""Surfaces on paper: labelled levels, marks, panels in one scale, curvature, volumes, projected trajectories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import SymLogNorm
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.interpolate import RegularGridInterpolator

from landscape import figures
from landscape.figures.level_labels import label_levels
from landscape.figures.panels import _rounded
from landscape.figures.planes import Plane, Scale
from landscape.figures.style import notes
from tests.answers import curvature_answer, surface_answer, volume_answer


def lines(figure: Figure, gid: str) -> list[np.ndarray]:
    """The data (N, 2) of the line of this name in every axes that has one."""
    found = [line for ax in figure.axes for line in ax.lines if line.get_gid() == gid]
    return [np.column_stack([np.asarray(v, float) for v in line.get_data()]) for line in found]


def filled(figure: Figure) -> list[QuadContourSet]:
    return [c for ax in figure.axes for c in ax.collections if isinstance(c, QuadContourSet) and c.filled]


def level_labels(figure: Figure, axes: int = 0) -> list[Text]:
    return [text for text in figure.axes[axes].texts if text.get_gid() == "level"]


def said(figure: Figure) -> str:
    return " ".join(notes(figure).split())


# Levels


def value_of(label: Text) -> float:
    return float(label.get_text().replace(",", "").replace("−", "-"))


def test_a_level_stands_on_its_own_line():
    answer = surface_answer(resolution=(41, 41), radius=(1.0, 1.0))
    labels = level_labels(figures.contour(answer))
    loss = RegularGridInterpolator((answer.alpha.values, answer.beta.values), answer.loss.values)
    assert len(labels) >= 4
    for label in labels:
        # Half the width of a number off a bent line, and a bilinear surface instead of triangles.
        assert loss([label.get_position()])[0] == pytest.approx(value_of(label), rel=0.12)


@pytest.mark.parametrize("width", ["single", "double"])
def test_no_number_stands_on_another_or_on_a_mark(width, tmp_path: Path):
    answer = surface_answer(resolution=(41, 41), radius=(1.0, 1.0), trajectory=True)
    figure = figures.contour(answer)
    figures.save(figure, tmp_path / "contour", ["png"], width)
    ax = figure.axes[0]
    points = 72 / figure.dpi
    labels = level_labels(figure)
    assert labels
    middles = [ax.transData.transform(label.get_position()) * points for label in labels]
    for i, one in enumerate(middles):
        assert all(np.hypot(*(one - other)) > 6 for other in middles[:i])
        assert np.hypot(*(one - ax.transData.transform((0, 0)) * points)) > 5
        for place in lines(figure, "snapshots")[0]:
            assert np.hypot(*(one - ax.transData.transform(place) * points)) > 5
    for label in labels:
        box = label.get_window_extent()
        for step in (text for text in ax.texts if text.get_gid() == "step"):
            assert not box.overlaps(step.get_window_extent().shrunk(0.7, 0.7))


def upright(levels: list[float], avoid: list[tuple[float, float]] | None = None) -> list[Text]:
    """The numbers on upright lines at these places."""
    with figures.paper_style():
        figure = Figure(figsize=(3.25, 2.3))
        ax = figure.add_subplot(xlim=(-1, 1), ylim=(-1, 1))
        across = np.linspace(-1, 1, 41)
        drawn = ax.contour(across, across, np.tile(across, (41, 1)), levels=levels)
        label_levels(ax, drawn, levels, np.array(avoid or []))
    return level_labels(figure)


def test_lines_that_stand_too_close_have_no_numbers():
    assert [label.get_text() for label in upright([-0.5, 0, 0.5])] == ["−0.5", "0", "0.5"]
    # The axes are about 180 points wide: these lines stand two points apart, and a number is five high.
    assert upright([-0.02, 0, 0.02]) == []


def test_a_number_makes_way_for_a_mark():
    (label,) = upright([0.0])
    (moved,) = upright([0.0], [label.get_position()])
    assert abs(moved.get_position()[1] - label.get_position()[1]) > 0.05
    assert upright([0.0], [(0.0, y) for y in np.linspace(-1, 1, 50)]) == []


def test_a_flat_surface_has_no_levels_to_label():
    assert level_labels(figures.contour(surface_answer() * 0 + 0.7)) == []


# Marks


def test_the_lowest_point_of_the_grid_is_marked():
    answer = surface_answer(resolution=(31, 21))
    answer["loss"][4, 17] = 1e-3
    answer["loss"][0, 0] = -np.inf
    figure = figures.contour(answer)
    np.testing.assert_array_equal(lines(figure, "lowest")[0], [[answer.alpha[4], answer.beta[17]]])
    (star,) = [line for line in figures.surface3d(answer).axes[0].lines if line.get_gid() == "lowest"]
    np.testing.assert_allclose(np.ravel(star.get_data_3d()), [answer.alpha[4], answer.beta[17], -3])


def test_computed_points_are_dotted_and_the_error_of_the_others_is_written():
    answer = surface_answer(resolution=(31, 21))
    answer["evaluated"] = (("alpha", "beta"), np.zeros((31, 21), dtype=bool))
    answer["evaluated"][::6, ::5] = True
    answer.attrs |= {"sampling": "adaptive", "error_p95": 0.0123, "error_max": 0.02}
    figure = figures.contour(answer)
    rows, columns = np.nonzero(answer.evaluated.values)
    expected = np.column_stack([answer.alpha[rows], answer.beta[columns]])
    np.testing.assert_array_equal(lines(figure, "computed")[0], expected)
    assert "30 of 651 points computed, the others interpolated" in said(figure)
    assert "held-out points: 95% within 1.2% of their loss, all within 2% of its range" in said(figure)
    assert "interpolated" not in said(figures.contour(surface_answer()))
    unknown = answer.assign_attrs(error_p95=np.nan, error_max=np.nan)
    assert "held-out" not in said(figures.contour(unknown))


def test_a_window_that_the_loss_chose_and_a_low_precision_are_told():
    answer = surface_answer().assign_attrs(radius_alpha=0.8123, radius_beta=0.4, rise=10.0, precision="bfloat16")
    for figure in (figures.contour(answer), figures.contours_side_by_side([answer, answer], ["a", "b"])):
        assert "radius chosen: α 0.812, β 0.4, where the loss has risen by a factor of 10" in said(figure)
        assert "computed in bfloat16" in said(figure)
    plain = said(figures.contour(surface_answer().assign_attrs(precision="float32")))
    assert "radius" not in plain and "float32" not in plain


def test_error_is_one_minus_accuracy():
    answer = surface_answer()
    contours = filled(figures.contour(answer, metric="error"))[0]
    assert contours.zmax == pytest.approx(1 - answer.accuracy.min().item())
    assert figures.contour(answer, metric="error").axes[1].get_ylabel() == "Error"
    with pytest.raises(KeyError, match="expected a variable 'test_error' in the answer; it has loss, accuracy"):
        figures.contour(answer, metric="test_error")


# Panels in one scale


def test_side_by_side_panels_share_levels_colours_and_axes():
    low, high = surface_answer(resolution=(21, 15)), surface_answer(resolution=(31, 21))
    high["loss"] *= 30
    figure = figures.contours_side_by_side([low, high], ["skip", "no skip"])
    one, other = filled(figure)
    np.testing.assert_array_equal(one.levels, other.levels)
    assert one.norm.vmin == other.norm.vmin and one.norm.vmax == other.norm.vmax
    assert one.levels[0] <= low.loss.min() and one.levels[-1] >= high.loss.max()
    left, right, bar = figure.axes
    assert [left.get_title(), right.get_title()] == ["skip", "no skip"]
    assert left.get_shared_x_axes().joined(left, right) and left.get_shared_y_axes().joined(left, right)
    assert bar.get_ylabel() == "Loss (nats)"
    assert figure.get_figwidth() == 6.75


def test_panels_of_unequal_windows_keep_their_own_axes():
    figure = figures.contours_side_by_side([surface_answer(), surface_answer(radius=(2.0, 1.0))], ["a", "b"])
    left, right, _ = figure.axes
    assert left.get_xlim() == (-1, 1) and right.get_xlim() == (-2, 2)
    assert left.get_xlabel() == right.get_xlabel() == "α" and left.get_ylabel() == right.get_ylabel() == "β"


def test_3d_panels_share_heights_colours_and_the_side_they_are_seen_from():
    low, high = surface_answer(resolution=(21, 15)), surface_answer(resolution=(21, 15))
    high["loss"] *= 30
    figure = figures.surfaces_side_by_side([low, high], ["a", "b"])
    left, right, bar = figure.axes
    assert left.get_zlim() == right.get_zlim()
    assert left.get_zlim()[0] < np.log10(low.loss.min()) and left.get_zlim()[1] > np.log10(high.loss.max())
    assert (left.elev, left.azim) == (right.elev, right.azim)
    assert bar.get_ylim() == pytest.approx((low.loss.min().item(), high.loss.max().item()))


def test_what_is_alike_is_said_once_and_what_differs_by_panel():
    one, other = surface_answer(trajectory=True), surface_answer()
    other["loss"][0, 0] = np.nan
    text = said(figures.contours_side_by_side([one, other], ["first", "second"]))
    assert text.count("filter-normalized directions") == 1
    assert "first: trajectory projected" in text and "second: trajectory" not in text
    assert "1 non-finite point of 1,302" in text


def test_panels_need_a_label_each_and_fit_a_figure():
    with pytest.raises(ValueError, match="1 to 12 surfaces with a label each; got 1 surfaces, 2 labels"):
        figures.contours_side_by_side([surface_answer()], ["a", "b"])
    with pytest.raises(ValueError, match="got 13 surfaces"):
        figures.surfaces_side_by_side([surface_answer(resolution=(3, 3))] * 13, list("abcdefghijklm"))


def test_panels_of_nothing_finite_are_still_a_figure():
    nothing = surface_answer(resolution=(5, 5)) * np.nan
    assert not filled(figures.contours_side_by_side([nothing, nothing], ["a", "b"]))
    assert len(figures.surfaces_side_by_side([nothing, nothing], ["a", "b"]).axes) == 2
    half = figures.contours_side_by_side([nothing, surface_answer(resolution=(5, 5))], ["a", "b"])
    assert len(filled(half)) == 1


def test_seeds_stand_beside_their_median_in_one_scale():
    answer = surface_answer(seeds=3)
    figure = figures.seeds_side_by_side(answer)
    titles = [ax.get_title() for ax in figure.axes[:4]]
    assert titles == ["seed 0", "seed 1", "seed 2", "median of 3"]
    assert {tuple(contours.levels) for contours in filled(figure)} == {tuple(filled(figure)[0].levels)}
    assert filled(figure)[3].zmax == pytest.approx(answer.loss.median("seed").max().item())
    answer["loss_median"] = answer.loss[0] * 1.5
    assert filled(figures.seeds_side_by_side(answer))[3].zmax == pytest.approx(1.5 * answer.loss[0].max().item())
    many = figures.seeds_side_by_side(surface_answer(seeds=14, resolution=(3, 3)))
    assert "3 further seeds not shown, but in the median" in said(many)


def test_training_and_test_stand_side_by_side():
    answer = surface_answer()
    train, test = filled(figures.train_and_test(answer))
    assert (train.zmax, test.zmax) == (answer.loss.max(), answer.test_loss.max())
    np.testing.assert_array_equal(train.levels, test.levels)
    answer["test_accuracy"] = answer.accuracy - 0.1
    train, test = filled(figures.train_and_test(answer, metric="error"))
    assert test.zmin == pytest.approx(train.zmin + 0.1)
    several = figures.train_and_test(surface_answer(seeds=2), seed=1)
    assert "direction seed 1, one of 2" in said(several)


@pytest.mark.parametrize("panels", [2, 3, 5])
@pytest.mark.parametrize("width", ["single", "double"])
def test_panels_fit_their_page(panels, width):
    answers, names = [surface_answer(resolution=(9, 7), trajectory=True)] * panels, [f"run {i}" for i in range(panels)]
    for draw in (figures.contours_side_by_side, figures.surfaces_side_by_side):
        figure = draw(answers, names, width=width)
        page, ink = figure.bbox_inches, figure.get_tightbbox()
        # Two points of tolerance.
        assert ink.x0 > page.x0 - 2 / 72 and ink.x1 < page.x1 + 2 / 72
        assert ink.y0 > page.y0 - 2 / 72 and ink.y1 < page.y1 + 2 / 72


# Which runs go together


def asked(run: str, **attributes) -> figures.Asked:
    return figures.Asked(run, surface_answer(resolution=(5, 5)).assign_attrs(attributes))


def test_runs_stand_side_by_side_where_they_answer_the_same_question():
    configs = {"a": {"skip": True, "seed": 0}, "b": {"skip": False, "seed": 0}, "c": {"skip": True, "seed": 0}}
    surfaces = [
        asked("a", probe_fields="{1}", parameters_sha256="x"),
        asked("b", probe_fields="{1}", parameters_sha256="y"),
        asked("a", probe_fields="{2}"),
        asked("c", probe_fields="{2}", normalization="batch"),
    ]
    drawn = figures.draw_side_by_side(surfaces, configs)
    assert [name.split("-", 2)[2] for name in drawn] == ["side-by-side", "side-by-side-3d"]
    assert [ax.get_title() for ax in next(iter(drawn.values())).axes[:2]] == ["skip", "no skip"]
    with pytest.raises(ValueError, match="surfaces of at least two runs with the same options; found none"):
        figures.draw_side_by_side(surfaces[1:3], configs)
    with pytest.raises(ValueError, match="at most 12 runs side by side; got 13"):
        figures.draw_side_by_side([asked(str(i)) for i in range(13)], {})


def test_labels_come_from_the_fields_that_differ():
    assert figures.labels_of({"a": {"lr": 0.1, "skip": True}, "b": {"lr": 0.2, "skip": False}}) == [
        "lr 0.1, skip",
        "lr 0.2, no skip",
    ]
    assert figures.labels_of({"a": {"optimizer": "sgd"}, "b": {"optimizer": "adam"}, "c": {}}) == ["a", "b", "c"]
    assert figures.labels_of({"x/a": {"lr": 1}, "x/b": {"lr": 1}}) == ["x/a", "x/b"]
    assert figures.labels_of({"a": {"data": "d" * 50}, "b": {"data": "e"}}) == ["data " + "d" * 29 + "…", "data e"]
    assert figures.labels_of({"a": {str(i): 0.1 for i in range(30)}, "b": {str(i): 1 for i in range(30)}}) == ["a", "b"]


# Curvature


def test_the_ratio_of_eigenvalues_is_one_cell_a_point_under_contours_of_the_loss():
    answer = curvature_answer()
    answer["eigenvalue_ratio"][2, 1] = np.nan
    figure = figures.eigenvalue_ratio(answer)
    cells = next(
        c for c in figure.axes[0].collections if c.get_array() is not None and not isinstance(c, QuadContourSet)
    )
    np.testing.assert_array_equal(cells.get_array().filled(np.nan), answer.eigenvalue_ratio.T)
    assert cells.norm.vmin == 0 and cells.norm.vmax == answer.eigenvalue_ratio.max()
    contours = next(c for c in figure.axes[0].collections if isinstance(c, QuadContourSet))
    assert contours.zmax == answer.loss.max()
    negative = int((answer.smallest_eigenvalue < 0).sum())
    assert 0 < negative < answer.loss.size
    assert f"smallest eigenvalue < 0 at {negative} of {answer.loss.size} points" in said(figure)
    assert "residuals up to 0.5 (largest), 0.02 (smallest)" in said(figure)
    assert "1 point of 63 without a value (hatched)" in said(figure)


@pytest.mark.parametrize("width", ["single", "double"])
def test_both_ends_stand_on_scales_that_diverge_at_zero(width):
    answer = curvature_answer()
    answer["largest_eigenvalue"] *= 10.0 ** (3 * np.abs(answer.alpha))
    figure = figures.eigenvalue_ends(answer, width=width)
    meshes = [c for ax in figure.axes[:2] for c in ax.collections if hasattr(c, "get_coordinates")]
    for mesh, end in zip(meshes, ("largest", "smallest"), strict=True):
        np.testing.assert_array_equal(mesh.get_array().filled(np.nan), answer[f"{end}_eigenvalue"].T)
        assert mesh.norm.vmin == -mesh.norm.vmax and mesh.norm(0.0) == pytest.approx(0.5)
    assert isinstance(meshes[0].norm, SymLogNorm) and not isinstance(meshes[1].norm, SymLogNorm)
    ticks = meshes[0].colorbar.get_ticks()
    assert 0 in ticks and sorted(-ticks) == sorted(ticks)
    assert figure.get_figwidth() == (3.25 if width == "single" else 6.75)


def test_a_map_of_curvature_is_drawn_as_one_and_of_one_row_not_at_all():
    answer = curvature_answer()
    assert list(figures.draw(answer, "curvature-surface-1")) == ["eigenvalue-ratio", "eigenvalue-ends"]
    assert figures.draw(answer.isel(beta=[0]), "curvature-surface-1") == {}
    nothing = curvature_answer() * np.nan
    nothing.attrs = answer.attrs
    assert len(figures.draw(nothing, "curvature-surface-1")) == 2


# Volumes


def test_a_volume_is_cut_through_the_checkpoint_in_one_scale():
    answer = volume_answer()
    figure = figures.draw(answer, "surface-1")["volume"]
    first, second, third = filled(figure)
    assert tuple(first.levels) == tuple(second.levels) == tuple(third.levels)
    cuts = [answer.loss.sel(gamma=0), answer.loss.sel(beta=0), answer.loss.sel(alpha=0)]
    assert [c.zmax for c in (first, second, third)] == [cut.max() for cut in cuts]
    names = [(ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) for ax in figure.axes[:3]]
    assert names == [("α", "β", "γ = 0"), ("α", "γ", "β = 0"), ("β", "γ", "α = 0")]
    assert figure.axes[1].get_ylim() == (-0.25, 0.25) and figure.axes[2].get_xlim() == (-0.5, 0.5)


def test_a_volume_without_a_point_at_zero_says_where_it_is_cut_and_counts_its_gaps():
    answer = volume_answer(resolution=(4, 4, 4))
    answer["loss"][0, 0, 0] = np.nan
    figure = figures.volume_slices(answer, width="double")
    assert figure.axes[2].get_title() in ("α = 0.3333", "α = −0.3333")
    assert "1 non-finite point of 64 in the volume" in said(figure)
    assert figures.draw(volume_answer(resolution=(4, 4, 1)), "surface-1") == {}


def test_a_volume_to_turn_around_has_every_point():
    answer = volume_answer()
    answer["loss"][0, 0, 0] = np.inf
    shells, center = figures.interactive_volume(answer).data
    at = 1 * 5 * 3 + 2 * 3 + 2  # alpha 1, beta 2, gamma 2 of (7, 5, 3)
    assert (shells.x[at], shells.y[at], shells.z[at]) == (answer.alpha[1], answer.beta[2], answer.gamma[2])
    assert shells.value[at] == pytest.approx(np.log10(answer.loss[1, 2, 2]))
    assert np.isfinite(shells.value).all()
    assert (center.x[0], center.y[0], center.z[0]) == (0, 0, 0)
    assert len(figures.interactive_volume(answer * np.nan).data) == 2


# Projected trajectories


def with_losses(answer: xr.Dataset) -> xr.Dataset:
    answer["trajectory_loss"] = ("snapshot", np.geomspace(2.0, 0.02, 12), {"units": "nats"})
    return answer


def test_the_loss_of_the_run_stands_beside_that_of_the_plane():
    answer = with_losses(surface_answer(trajectory=True, radius=(1.0, 1.0)))
    answer["trajectory_plane_loss"] = ("snapshot", np.geomspace(3.0, 0.02, 12))
    figure = figures.trajectory_loss(answer)
    np.testing.assert_array_equal(
        lines(figure, "run")[0], np.column_stack([answer.snapshot_step, answer.trajectory_loss])
    )
    np.testing.assert_array_equal(lines(figure, "plane")[0][:, 1], answer.trajectory_plane_loss)
    np.testing.assert_array_equal(lines(figure, "off plane")[0][:, 1], answer.trajectory_off_plane)
    assert figure.axes[0].get_yscale() == "log"
    assert "trajectory-loss" in figures.draw(answer, "surface-1")


def test_without_it_the_loss_of_the_plane_is_read_between_grid_points():
    answer = with_losses(surface_answer(trajectory=True, resolution=(31, 21)))
    answer["trajectory_alpha"][0] = -7.0
    answer["trajectory_loss"][1] = np.nan
    figure = figures.trajectory_loss(answer)
    under = lines(figure, "plane")[0][:, 1]
    assert np.isnan(under[0])
    at = answer.isel(snapshot=6)
    exact = answer.loss.interp(alpha=at.trajectory_alpha, beta=at.trajectory_beta)
    assert under[6] == pytest.approx(exact.item())
    assert "1 snapshot without a loss of the plane" in said(figure) and "1 non-finite loss of the run" in said(figure)


def test_a_trajectory_needs_its_loss():
    with pytest.raises(ValueError, match="expected trajectory_alpha, trajectory_beta and trajectory_loss"):
        figures.trajectory_loss(surface_answer(trajectory=True))
    assert "trajectory-loss" not in figures.draw(surface_answer(trajectory=True), "surface-1")


# Scales


def test_a_scale_covers_all_planes_and_there_is_none_of_nothing():
    one, other = Plane.of(surface_answer(), "loss"), Plane.of(surface_answer() * 100, "loss")
    scale = Scale.over([one, other])
    assert scale is not None and scale.is_log
    assert (scale.low, scale.high) == (one.finite.min(), other.finite.max())
    assert Scale.over([Plane.of(surface_answer() * np.nan, "loss")]) is None


def test_runs_side_by_side_say_which_of_several_seeds_they_show():
    """One pair of directions of an ensemble must not pass for all of them."""
    several = xr.concat([surface_answer(), surface_answer()], dim="seed").assign_coords(seed=[3, 4])
    figure = figures.contours_side_by_side([several, several], ["one", "other"])
    assert "direction seed 3, one of 2" in notes(figure)
    assert "direction seed" not in notes(
        figures.contours_side_by_side([surface_answer(), surface_answer()], ["one", "other"])
    )


def test_the_note_of_a_whole_grid_and_of_a_lower_precision():
    """A grid that was computed whole has nothing interpolated and nothing held out."""
    answer = surface_answer()
    whole = answer.assign(evaluated=xr.ones_like(answer["loss"], dtype=bool)).assign_attrs(error_p95=0.0, error_max=0.0)
    assert "all 651 points computed" in notes(figures.contour(whole))
    assert "interpolated" not in notes(figures.contour(whole))
    low = answer.assign(precision_error_max=0.004).assign_attrs(precision="bfloat16")
    assert "computed in bfloat16, off by 0.4% of the loss at most" in notes(figures.contour(low)).replace("\n", " ")


def test_ticks_of_small_panels_are_short():
    assert [_rounded(value) for value in (-2.987, 3.125, 0.0, -1.0, 0.1836)] == [-2.9, 3.1, 0.0, -1.0, 0.18]
