"""Answers as text and as JSON."""

from __future__ import annotations

import doctest
import json

import numpy as np
import xarray as xr

from landscape import tables
from landscape.summary import Measure
from tests.answers import layers_answer


def spectrum() -> xr.Dataset:
    dims = ("end", "rank")
    return xr.Dataset(
        {
            "eigenvalue": (dims, [[3.0, 2.0], [-0.5, -0.25]]),
            "residual": (dims, [[1e-4, 2e-4], [1e-5, 0.1]]),
            "converged": (dims, [[True, True], [True, False]]),
            "loss": ((), 0.125),
        },
        coords={"end": ["largest", "smallest"], "rank": [1, 2]},
        attrs={"verdict": "saddle", "verdict_reason": "-0.5 < -0.001"},
    )


def test_doctests_of_the_module_hold():
    assert doctest.testmod(tables).failed == 0


def test_a_table_aligns_numbers_right_and_drops_empty_columns():
    text = tables.table([{"run": "a", "loss": 0.5, "none": None}, {"run": "bcd", "loss": 12, "none": None}])
    assert text == "run  loss\na     0.5\nbcd    12"


def test_eigenvalues_are_printed_with_their_residuals_and_whether_they_converged():
    lines = tables.summary(spectrum()).splitlines()
    assert lines[0].split() == ["end", "rank", "eigenvalue", "±", "residual", "converged"]
    assert lines[1].split() == ["largest", "1", "3", "0.0001", "yes"]
    assert lines[4].split() == ["smallest", "2", "-0.25", "0.1", "no"]
    assert lines[-1] == "verdict: saddle (-0.5 < -0.001)"


def test_layers_are_a_table_with_errors_and_whether_all_converged():
    lines = tables.summary(layers_answer(3)).splitlines()
    assert lines[0].split()[:6] == ["layer", "parameters", "largest", "±", "largest", "smallest"]
    assert lines[1].split() == ["features.0.conv", "100", "10", "0.1", "-0.5", "0.005", "yes", "100", "5", "20", "0.1"]
    assert lines[2].split()[6] == "no"
    without = tables.summary(layers_answer(3, eigenvalues=False)).splitlines()
    assert without[1].split() == ["features.0.conv", "100", "100", "5", "0.1"]
    assert lines[-1].startswith("loss: ")


def test_nonfinite_and_unfinished_points_are_counted_apart():
    answer = xr.Dataset({"loss": ("alpha", [1.0, np.nan, np.inf]), "done": ("alpha", [True, False, True])})
    assert tables.nonfinite(answer) == 1
    assert tables.unfinished(answer) == 1
    assert "non-finite: 1 of 3 points" in tables.summary(answer)


def test_names_from_files_cannot_steer_the_terminal():
    answer = xr.Dataset({"x\x1b[2J": ("y\x07", [1.0])}, attrs={"command": "a\x1b]0;owned\x07\nb"})
    assert not {"\x1b", "\x07"} & set(tables.describe(answer) + tables.summary(answer))


def test_everything_becomes_json_also_what_json_has_no_word_for():
    answer = xr.Dataset({"loss": ("alpha", [1.0, np.nan])}, attrs={"n": np.int64(3)})
    found = json.loads(json.dumps(tables.jsonable(tables.contents(answer, "f.h5")), allow_nan=False))
    assert found["variables"]["loss"] == {"dims": ["alpha"], "values": [1.0, "nan"]}
    assert found["attributes"] == {"n": 3}


def test_a_number_with_its_error_keeps_it_in_json_and_in_a_table():
    assert tables.jsonable(Measure(2.0, 0.1)) == {"value": 2.0, "error": 0.1, "remark": ""}
    assert tables.table([{"sharpness": Measure(2.0, 0.1)}]).splitlines()[1] == "2.0 ± 0.1"


def test_an_answer_says_what_it_moved_and_what_it_is_not_invariant_to():
    sentence = "not invariant: " + "a long sentence " * 30
    answer = spectrum()[["loss"]].assign_attrs(moved="conv.weight: 5 of 9 parameters", invariance_warning=sentence)
    for text in (tables.summary(answer), tables.describe(answer)):
        assert "moved: conv.weight: 5 of 9 parameters" in text
        assert f"warning: {sentence.strip()}" in text
        assert text.count("not invariant") == 1
    plain = tables.summary(spectrum()[["loss"]].assign_attrs(invariance_warning=""))
    assert "warning" not in plain
