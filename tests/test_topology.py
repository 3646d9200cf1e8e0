"""Basins of functions whose minima and saddles are known, and of noise, against a union-find written here."""

from __future__ import annotations

import json
import re
import sys
from math import exp, inf, nan
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from cli import cli
from landscape.store import Store
from landscape.topology import Basin, basin_rows, basins

pytest.importorskip("gudhi", reason="the extra [topology] is not installed")


def on_grid(function, *axes) -> xr.Dataset:
    """A function of alpha, beta, ... on axes from -r to r, each (r, n)."""
    names = ("alpha", "beta", "gamma")[: len(axes)]
    coordinates = [np.linspace(-r, r, n) for r, n in axes]
    values = function(*np.meshgrid(*coordinates, indexing="ij"))
    return xr.Dataset({"loss": (names, values)}, coords=dict(zip(names, coordinates, strict=True)))


def of_values(values) -> xr.Dataset:
    values = np.asarray(values, dtype=float)
    names = ("alpha", "beta", "gamma")[: values.ndim]
    return xr.Dataset(
        {"loss": (names, values)}, coords={n: np.arange(k) for n, k in zip(names, values.shape, strict=True)}
    )


def merge_tree(values: np.ndarray) -> dict[tuple[int, ...], tuple[float, tuple[int, ...] | None]]:
    """Each minimum with its death and parent, by a union-find over the points in rising order; with walls."""
    values = np.where(np.isfinite(values), values, inf)
    parent: dict[tuple[int, ...], tuple[int, ...]] = {}
    ended: dict[tuple[int, ...], tuple[float, tuple[int, ...] | None]] = {}

    def root(place):
        while parent[place] != place:
            place = parent[place]
        return place

    for flat in np.argsort(values, axis=None, kind="stable"):
        place = tuple(int(n) for n in np.unravel_index(flat, values.shape))
        if values[place] == inf:
            break
        parent[place] = place
        for axis in range(values.ndim):
            for step in (1, -1):
                neighbour = tuple(at + step * (n == axis) for n, at in enumerate(place))
                if neighbour not in parent:
                    continue
                first, second = root(place), root(neighbour)
                if first != second:
                    elder, younger = sorted((first, second), key=lambda low: values[low])
                    parent[younger] = elder
                    if values[younger] < values[place]:
                        ended[younger] = values[place], elder
    for place in {root(place) for place in parent}:
        ended[place] = inf, None
    return {low: (death, _lasting(ended, death, joined)) for low, (death, joined) in ended.items()}


def _lasting(ended, death, low):
    """Where several basins meet at one point, all but one end there; the others join that one."""
    while low is not None and ended[low][0] == death:
        low = ended[low][1]
    return low


# --- functions that are known -------------------------------------------------------------------------------------


def wells(*each):
    """A floor at 0 with Gaussian wells (depth, x, y) of width 0.25."""

    def value(x, y):
        return -sum(depth * np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * 0.25**2)) for depth, a, b in each)

    return value


def test_a_bowl_is_one_basin():
    (one,) = basins(on_grid(lambda x, y: x**2 + 2 * y**2, (1.0, 21), (1.0, 31)))
    assert one == Basin(0, 0.0, (0.0, 0.0), inf, None, None, False)
    assert one.persistence == inf


def test_two_wells_join_over_the_saddle_between_them():
    """Wells of depth 3 and 2 at x = -1 and 1: the saddle on the axis is lowest where both are nearly out of reach."""
    answer = on_grid(wells((3.0, -1.0, 0.0), (2.0, 1.0, 0.0)), (2.0, 81), (1.0, 41))
    deep, shallow = basins(answer)
    assert deep.place == pytest.approx((-1.0, 0.0)) and shallow.place == pytest.approx((1.0, 0.0))
    assert deep.birth == pytest.approx(-3.0 - 2 * exp(-32))
    assert (deep.death, deep.parent, deep.saddle) == (inf, None, None)
    assert shallow.parent == 0
    ridge = answer.loss.sel(beta=0.0, method="nearest").sel(alpha=slice(-1, 1))
    assert shallow.death == pytest.approx(float(ridge.max()))
    assert shallow.saddle[1] == pytest.approx(0.0)
    assert shallow.persistence == pytest.approx(2.0, abs=0.01)


def test_three_wells_are_nested_as_they_join():
    """The middle well joins the left one over a low saddle; the right one, deeper than the middle, joins later."""
    answer = on_grid(wells((3.0, -1.2, 0.0), (1.0, -0.3, 0.0), (2.0, 1.2, 0.0)), (2.0, 121), (1.0, 61))
    left, right, middle = basins(answer)
    assert [round(one.place[0], 1) for one in (left, right, middle)] == [-1.2, 1.2, -0.3]
    assert (left.parent, right.parent, middle.parent) == (None, 0, 0)
    assert middle.death < right.death < left.death


def test_a_basin_may_join_another_that_joins_a_third():
    chain = of_values([0.0, 9.0, 1.0, 5.0, 2.0, 3.0, 2.5])
    found = basins(chain)
    assert [(b.birth, b.death, b.parent) for b in found] == [(0, inf, None), (1, 9, 0), (2, 5, 1), (2.5, 3, 2)]
    assert [b.saddle for b in found] == [None, (1.0,), (3.0,), (5.0,)]
    assert [b.at_border for b in found] == [True, False, False, True]


def test_a_monkey_saddle_has_three_valleys_that_leave_the_grid():
    """x^3 - 3 x y^2 falls outwards in three directions, which meet at 0."""
    found = basins(on_grid(lambda x, y: x**3 - 3 * x * y**2, (1.0, 41), (1.0, 41)))
    assert len(found) == 3
    assert all(one.at_border for one in found)
    assert sorted(one.death for one in found)[:2] == pytest.approx([0.0, 0.0], abs=0.01)
    assert [one.parent for one in found] == [None, 0, 0]


def test_an_ordinary_saddle_has_two():
    found = basins(on_grid(lambda x, y: x**2 - y**2, (1.0, 21), (1.0, 21)))
    assert [(one.birth, one.death) for one in found] == [(-1.0, inf), (-1.0, 0.0)]


def test_a_plateau_is_one_basin():
    flat = on_grid(lambda x, y: np.maximum(x**2 + y**2, 0.3), (1.0, 21), (1.0, 21))
    assert [(one.birth, one.parent) for one in basins(flat)] == [(0.3, None)]
    assert len(basins(of_values(np.ones((4, 5))))) == 1


def test_points_across_a_corner_are_no_neighbours():
    found = basins(of_values([[0.0, 9.0], [5.0, 1.0]]))
    assert [(one.birth, one.death) for one in found] == [(0.0, inf), (1.0, 5.0)]


def test_a_slice_and_a_volume_have_basins_too():
    line = basins(on_grid(lambda x: (x**2 - 1) ** 2 + 0.1 * x, (1.5, 301)))
    assert [round(one.place[0], 1) for one in line] == [-1.0, 1.0]
    volume = basins(on_grid(lambda x, y, z: (x**2 - 1) ** 2 + 0.1 * x + y**2 + z**2, (1.5, 31), (1.0, 9), (1.0, 7)))
    assert [one.place[1:] for one in volume] == [(0.0, 0.0)] * 2
    assert volume[1].persistence == pytest.approx(line[1].persistence, rel=0.05)


def test_an_axis_of_one_point_is_no_axis():
    flat = on_grid(lambda x, y: (x**2 - 1) ** 2 + 0.1 * x + 0 * y, (1.5, 31), (1.0, 1))
    assert len(basins(flat)) == 2
    assert not any(one.at_border for one in basins(flat))
    assert len(basins(of_values([[3.0]]))) == 1


# --- walls --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wall", [nan, inf])
def test_what_is_not_finite_is_a_wall(wall):
    values = np.array([[0.0, wall, 1.0], [2.0, wall, 3.0], [1.5, wall, 2.5]])
    found = basins(of_values(values))
    assert [(one.birth, one.death) for one in found] == [(0.0, inf), (1.0, inf), (1.5, 2.0), (2.5, 3.0)]
    assert [one.parent for one in found] == [None, None, 0, 1]
    values[2, 1] = 7.0  # a pass
    found = basins(of_values(values))
    assert [(one.birth, one.death, one.parent) for one in found][:2] == [(0.0, inf, None), (1.0, 7.0, 0)]


def test_a_wall_is_no_basin():
    found = basins(of_values([[1.0, 2.0], [3.0, nan]]))
    assert [(one.birth, one.death) for one in found] == [(1.0, inf)]
    enclosed = basins(of_values([[nan, nan, nan], [nan, 5.0, nan], [nan, nan, nan]]))
    assert [(one.birth, one.place) for one in enclosed] == [(5.0, (1.0, 1.0))]


def test_negative_losses_are_losses():
    found = basins(of_values([-5.0, -1.0, -3.0, nan, -4.0]))
    assert [(one.birth, one.death) for one in found] == [(-5.0, inf), (-4.0, inf), (-3.0, -1.0)]


# --- against the union-find ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40,), (13, 17), (24, 5), (6, 7, 5)])
@pytest.mark.parametrize("walls", [0.0, 0.15])
def test_noise_has_the_merge_tree_of_a_union_find(shape, walls):
    generator = np.random.default_rng(len(shape))
    values = generator.normal(size=shape)
    values[generator.random(shape) < walls] = nan
    expected = merge_tree(values)
    found = basins(of_values(values), least=0.0)
    assert len(found) == len(expected) > 3
    for one in found:
        death, parent = expected[tuple(int(at) for at in one.place)]
        assert one.birth == values[tuple(int(at) for at in one.place)]
        assert one.death == death
        assert (one.parent is None) == (parent is None)
        if parent is not None:
            assert found[one.parent].place == tuple(map(float, parent))
            assert values[tuple(int(at) for at in one.saddle)] == one.death
    lives = [one.persistence for one in found]
    assert lives == sorted(lives, reverse=True)


def test_leaving_out_small_basins_changes_no_other():
    values = np.random.default_rng(3).normal(size=(15, 15))
    every, some = basins(of_values(values), least=0.0), basins(of_values(values), least=1.0)
    assert 1 < len(some) < len(every)
    assert some == every[: len(some)]


def test_noise_within_a_bound_moves_persistences_by_twice_the_bound():
    """The stability theorem, and rounding is not counted."""
    clean = on_grid(wells((3.0, -1.0, 0.0), (2.0, 1.0, 0.0)), (2.0, 41), (1.0, 21))
    noise = np.random.default_rng(0).uniform(-0.05, 0.05, size=(41, 21))
    noisy = basins(clean + noise, least=0.1)
    assert len(noisy) == 2
    assert noisy[1].persistence == pytest.approx(basins(clean)[1].persistence, abs=0.1)
    assert len(basins(clean + noise)) > 10
    assert len(basins(on_grid(lambda x, y: 1 + 0 * x * y, (1.0, 9), (1.0, 9)) + 1e-8 * noise[:9, :9])) == 1


# --- what is refused, and rows ------------------------------------------------------------------------------------


def test_what_is_refused(monkeypatch):
    answer = of_values([1.0, 0.0, 1.0])
    with pytest.raises(ValueError, match=r"'loss' runs over seed, alpha; choose a seed with .isel\(seed=0\)"):
        basins(answer.expand_dims("seed"))
    with pytest.raises(ValueError, match="no loss of this grid is finite"):
        basins(answer * nan)
    with pytest.raises(ValueError, match="least must be at least 0, got -1.0"):
        basins(answer, least=-1.0)
    monkeypatch.setitem(sys.modules, "gudhi", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'landscape-lab\[topology\]'"):
        basins(answer)


def test_basins_are_rows_of_a_table():
    rows = basin_rows(basins(of_values([[0.0, 9.0], [5.0, 1.0]])), ("alpha", "beta"))
    assert rows[0] == {
        **{"basin": 0, "lowest": 0.0, "alpha": 0.0, "beta": 0.0, "persistence": inf, "joins": "none"},
        **{"over": "", "at": "", "": "at the border"},
    }
    assert (rows[1]["joins"], rows[1]["over"], rows[1]["at"]) == ("basin 0", 5.0, "1, 0")


# --- from the command line ----------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path) -> Path:
    """A folder with a surface over two seeds and a slice."""
    pair = [on_grid(wells((3.0, -1.0, 0.0), (d, 1.0, 0.0)), (2.0, 41), (1.0, 21)) for d in (2.0, 1.0)]
    surface = xr.concat([one.loss for one in pair], "seed").to_dataset().assign_coords(seed=[4, 5])
    store = Store(tmp_path / "run")
    store.write("surface-1", surface.assign(test_loss=surface.loss.isel(seed=0).drop_vars("seed")))
    store.write("slice-1", of_values([0.0, 2.0, 1.0, 3.0]))
    store.write("spectrum-1", xr.Dataset({"loss": 0.0}))
    return store.path


def call(*arguments, code: int = 0) -> str:
    result = CliRunner().invoke(cli, ["topology", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_shows_the_basins_of_every_grid_of_a_run(run):
    said = call(run)
    assert said.index("slice-1.h5") < said.index("surface-1.h5")
    assert "seed 4: 2 basins" in said and "seed 5: 2 basins" in said
    assert re.search(r"\n  +1 +1 +2 +1 +basin 0 +2 +1\n", said)  # of the slice: lowest 1 at 2, joins at 1 over 2
    assert "1 basin\n" in call(run / "slice-1.h5", "--least", "1.5")
    one = json.loads(call(run / "surface-1.h5", "--json"))
    assert [seed["seed"] for seed in one["seeds"]] == [4, 5]
    assert [basin["parent"] for basin in one["seeds"][0]["basins"]] == [None, 0]
    assert one["seeds"][0]["basins"][0]["death"] == "inf"
    assert len(json.loads(call(run, "--json"))) == 2
    assert "2 basins" in call(run / "surface-1.h5", "--metric", "test_loss")


def test_the_command_cuts_long_tables_and_tells_a_spline(tmp_path):
    store = Store(tmp_path / "run")
    answer = of_values(np.random.default_rng(0).normal(size=(20, 20)))
    store.write("surface-1", answer.assign(evaluated=(("alpha", "beta"), np.arange(400).reshape(20, 20) < 60)))
    said = call(store.path)
    assert re.search(r"and \d+ of less persistence; --json prints all of them", said)
    assert "most of this surface is a spline" in said


def test_what_the_command_refuses(run, tmp_path):
    assert "has no 'loss' over a line or plane" in call(run / "spectrum-1.h5", code=3)
    assert "has no 'accuracy' over" in call(run, "--metric", "accuracy", code=3)
    assert "does not exist" in call(tmp_path / "nothing.h5", code=3)
    (tmp_path / "empty").mkdir()
    assert "has no slice and no surface; make one: landscape probe surface" in call(tmp_path / "empty", code=3)
