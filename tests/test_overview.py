"""The row of a run: state from locks and journals, numbers from answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from landscape.overview import WIDTH_RISE, overview, state, width
from landscape.store import Store


def parabola(curvature: float, seeds: int = 0) -> xr.Dataset:
    alpha = np.linspace(-2, 2, 41)
    loss = 0.25 + curvature * alpha**2
    variable = (("seed", "alpha"), [loss, loss, 1e3 * loss][:seeds]) if seeds else ("alpha", loss)
    return xr.Dataset({"loss": variable}, coords={"alpha": alpha})


def test_width_of_a_parabola_is_where_it_has_risen():
    exact = 2 * (WIDTH_RISE / 2.0) ** 0.5
    assert width(parabola(2.0)) == pytest.approx(exact, rel=0.02)  # linear interpolation on a grid of 0.1
    assert width(parabola(2.0, seeds=3)) == pytest.approx(exact, rel=0.02)


def test_width_is_not_known_where_the_slice_ends_before():
    assert width(parabola(0.01)) is None


def test_an_overflow_counts_as_risen():
    answer = parabola(0.01)
    answer["loss"][answer["alpha"].values < -1.05] = np.inf
    answer["loss"][answer["alpha"].values > 1.05] = np.nan
    assert width(answer) == pytest.approx(2.0)


def test_row_collects_what_was_measured(tmp_path: Path):
    store = Store(tmp_path)
    epochs = {"train_loss": ("epoch", [1.0, 0.5]), "test_accuracy": ("epoch", [0.5, 0.9])}
    store.write("training", xr.Dataset(epochs))
    store.write("spectrum-1", xr.Dataset({"eigenvalue": (("end", "rank"), [[3.0], [-0.5]])}))
    row = overview(store, "r")
    assert row == pytest.approx(
        {
            "run": "r",
            "state": "finished",
            "epochs": 2,
            "train loss": 0.5,
            "test error": 0.1,
            "sharpness": 3.0,
            "most negative": -0.5,
        }
    )


def test_state_follows_the_lock_and_the_journals(tmp_path: Path):
    store = Store(tmp_path)
    assert state(store) == "finished"
    store.journal("surface-1").append("0", {"loss": 1.0})
    assert state(store) == "interrupted"
    holder = (
        "import sys; from landscape.store import Store\n"
        "with Store(sys.argv[1]).lock(): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert state(store) == "running"
        process.kill()
    assert state(store) == "interrupted"
