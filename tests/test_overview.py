"""The row of a run: state from locks and journals, numbers from answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import xarray as xr

from landscape.overview import overview, state
from landscape.store import Store


def test_row_collects_what_was_measured(tmp_path: Path):
    store = Store(tmp_path)
    store.write("slice-1", xr.Dataset({"loss": ("alpha", [1.0, 0.5, 1.0]), "center_loss": ((), 0.5)}))
    row = overview(store, "r")
    assert (row["run"], row["state"]) == ("r", "finished")
    assert row["loss"].value == 0.5


def test_a_damaged_answer_is_said_and_nothing_is_read_off_the_run(tmp_path: Path):
    store = Store(tmp_path)
    path = store.write("slice-1", xr.Dataset({"center_loss": ((), 0.5)}))
    path.write_bytes(path.read_bytes()[:-1])
    row = overview(store, "r")
    assert set(row) == {"run", "state", "reason"}
    assert row["state"] == "damaged"
    assert "slice-1.h5" in row["reason"]


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
