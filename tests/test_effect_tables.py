"""The factor table of a sweep in a folder: stored by its question, and told in rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from cli import cli
from landscape.effect_tables import ask_effects, effect_rows, effects_text, source_rows
from landscape.effects import factor_effects
from landscape.store import MissingError, Store
from tests.sweeps import lost, sweep_of

FACTORS = {"lr": [0.01, 0.1], "norm": ["none", "batch"]}


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> xr.Dataset:
    """A sweep that `open_sweep` finds in the folder."""
    made = sweep_of(FACTORS, [[0.2, 0.4], [0.6, 0.9]], seeds=3, noise=0.01)
    monkeypatch.setattr("landscape.effect_tables.open_sweep", lambda folder: made)
    return made


def test_the_table_is_stored_by_its_question(sweep: xr.Dataset, tmp_path: Path):
    name, table, opened = ask_effects(tmp_path, "test_accuracy")
    assert opened is sweep
    assert table["estimate"].values == pytest.approx(factor_effects(sweep)["estimate"].values)
    written = (tmp_path / f"{name}.h5").stat().st_mtime_ns
    assert ask_effects(tmp_path, "test_accuracy")[0] == name
    assert (tmp_path / f"{name}.h5").stat().st_mtime_ns == written
    assert Store(tmp_path, create=False).read(name).attrs["metric"] == "test_accuracy"
    assert ask_effects(tmp_path, "test_loss")[0] != name
    sweep["test_accuracy"][0, 0, 0] = 0.3  # one run was trained again
    assert ask_effects(tmp_path, "test_accuracy")[0] != name


def test_rows_say_what_is_beyond_zero():
    table = factor_effects(sweep_of(FACTORS, [[0.2, 0.4], [0.6, 0.9]], seeds=8, noise=0.01))
    rows = effect_rows(table)
    sure = {(row["term"], row["level"]) for row in rows if row["beyond_zero"] == "**"}
    assert sure >= {("lr", "0.1"), ("norm", "batch")}
    assert [row["source"] for row in source_rows(table)] == ["lr", "norm", "lr:norm"]
    assert "**: the simultaneous one too" in effects_text(table)
    alone = factor_effects(sweep_of(FACTORS, [[0.2, 0.4], [0.6, 0.9]], seeds=1))
    assert {row["beyond_zero"] for row in effect_rows(alone)} == {""}
    assert "**" not in effects_text(alone)
    logarithms = factor_effects(sweep_of(FACTORS, [[1, 2], [3, 6]], seeds=2), log=True)
    assert "geometric mean 2.449" in effects_text(logarithms)


def test_long_tables_keep_main_effects_and_the_largest_interactions():
    table = factor_effects(sweep_of({"width": np.arange(9), "norm": ["none", "batch"]}, seeds=3, noise=1.0))
    rows = effect_rows(table, most=15)
    assert [row["term"] for row in rows] == ["width"] * 9 + ["norm"] * 2 + ["width:norm"] * 4
    sizes = np.abs(table["estimate"].values[11:])
    assert min(abs(row["estimate"]) for row in rows[11:]) == pytest.approx(np.sort(sizes)[-4])


def test_the_text_says_what_was_left_out():
    whole = sweep_of(FACTORS, seeds=4, noise=1.0)
    broken = lost(lost(whole, "failed", lr=0.1, norm="none", seed=0), "diverged", norm="batch", lr=0.01)
    text = effects_text(factor_effects(broken, drop_incomplete=True))
    assert "left out for empty cells: lr=0.01" in text


def test_the_command_prints_stores_and_draws(sweep: xr.Dataset, tmp_path: Path):
    result = CliRunner().invoke(cli, ["effects", str(tmp_path), "--log", "--metric", "test_loss", "--json"])
    assert result.exit_code == 0
    assert "share_by_chance" in result.output
    drawn = {path.name for path in (tmp_path / "figures").glob("*.png")}
    assert {"heat-map-test-loss.png", "curves-test-loss.png", "parallel-test-loss.png"} < drawn
    assert any(name.startswith("effects-") for name in drawn)
    assert '"scale": "log"' in result.output
    result = CliRunner().invoke(cli, ["effects", str(tmp_path), "--metric", "error"])
    assert "the sweep has no 'error'" in result.output


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path):
    with pytest.raises(MissingError, match="there is no sweep in"):
        ask_effects(tmp_path, "test_accuracy")
