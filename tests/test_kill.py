"""Kill -9 at random moments, then the same command: nothing acknowledged is lost, and the end is the same."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from landscape.store import Journal, Store
from landscape.weights import digest_tensors, load_weights
from tests.commands import landscape, start

SLOW = [pytest.mark.slow, pytest.mark.timeout(1200)]
TRAIN = (
    *("train", "--data", "digits", "--model", "mlp", "--epochs", "12", "--train-size", "256"),
    *("--batch-size", "16", "--optimizer", "adam", "--seed", "3"),
)
SURFACE = ("probe", "surface", "--batch-size", "64")


def killed_until_done(arguments: tuple[object, ...], kills: int, seed: int, progress: Callable[[], int]) -> int:
    """Run a command again and again, killing it at random moments after it has made progress, then to its end.

    Returns:
        How many kills came before it was done.
    """
    moments = random.Random(seed)
    killed = 0
    while killed < kills:
        before = progress()
        with start(*arguments) as process:
            while process.poll() is None and progress() <= before:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.1))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
        killed += 1
    done = landscape(*arguments)
    assert done.returncode == 0, done.stderr
    progress()
    return killed


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained without interruption."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    done = landscape(*TRAIN, "--out", run)
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.parametrize(("kills", "epochs"), [(2, 10), pytest.param(25, 200, marks=SLOW)])
def test_training_killed_at_random_ends_where_the_uninterrupted_one_did(tmp_path: Path, kills: int, epochs: int):
    run, whole = tmp_path / "killed", tmp_path / "whole"
    train = (*TRAIN, "--epochs", epochs)
    assert landscape(*train, "--out", whole).returncode == 0

    def saved_epochs() -> int:
        path = run / "resume.safetensors"
        return path.stat().st_mtime_ns if path.exists() else 0

    assert killed_until_done((*train, "--out", run), kills, seed=1, progress=saved_epochs) == kills
    assert weights_digest(run) == weights_digest(whole)
    for name in ("training", "trajectory"):
        resumed, uninterrupted = Store(run).read(name), Store(whole).read(name)
        assert resumed.attrs["content_digest"] == uninterrupted.attrs["content_digest"], name


@pytest.mark.parametrize(
    ("kills", "resolution", "options"),
    [
        (2, 25, ()),
        pytest.param(3, 25, ("--sampling", "adaptive", "--radius", "auto"), marks=SLOW),
        pytest.param(25, 101, (), marks=SLOW),
        pytest.param(25, 101, ("--sampling", "adaptive", "--tolerance", "0.001"), marks=SLOW),
    ],
)
def test_a_surface_killed_at_random_loses_no_point_that_was_saved(
    trained: Path, tmp_path: Path, kills: int, resolution: int, options: tuple[str, ...]
):
    surface = (*SURFACE, "--resolution", resolution, *options)
    whole, run = tmp_path / "whole", tmp_path / "killed"
    shutil.copytree(trained, whole)
    shutil.copytree(trained, run)
    assert landscape(*surface, whole).returncode == 0
    acknowledged: dict[str, dict] = {}

    def saved_points() -> int:
        found = {key: value for path in run.glob("*.journal") for key, value in Journal(path).records().items()}
        if found:
            assert same(acknowledged, {key: found[key] for key in acknowledged}), "a saved point changed or is gone"
            acknowledged.update(found)
        elif acknowledged:
            assert Store(run).names("surface-*"), "the journal is gone before the answer was sealed"
        return len(found)

    assert killed_until_done((*surface, run), kills, seed=2, progress=saved_points) == kills
    (name,) = Store(whole).names("surface-*")
    resumed, uninterrupted = Store(run).read(name), Store(whole).read(name)
    assert resumed.attrs["content_digest"] == uninterrupted.attrs["content_digest"]
    assert not list(run.glob("*.journal"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_within_seconds_saved_and_says_how_to_go_on(trained: Path, tmp_path: Path, number, code):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    arguments = ("probe", "surface", "--resolution", "401", run)
    process = start(*arguments)
    while process.poll() is None and not list(run.glob("*.journal")):
        time.sleep(0.02)
    started = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert time.monotonic() - started < 5
    assert process.returncode == code, errors
    assert "To go on: landscape probe surface --resolution 401" in errors
    assert list(run.glob("*.journal"))


def test_a_signal_stops_training_too(tmp_path: Path):
    run = tmp_path / "run"
    process = start(*TRAIN, "--epochs", "100000", "--snapshots", "none", "--out", run)
    while process.poll() is None and not (run / "resume.safetensors").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 143, errors
    assert "To go on: landscape train" in errors


def test_two_processes_cannot_write_into_one_run(trained: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    with start("probe", "surface", "--resolution", "401", run) as process:
        while process.poll() is None and not list(run.glob("*.journal")):
            time.sleep(0.02)
        second = landscape("probe", "slice", run)
        process.kill()
    assert second.returncode == 75, second.stderr
    assert f"process {process.pid}" in second.stderr
    assert isinstance(process, subprocess.Popen)


def weights_digest(run: Path) -> str:
    return digest_tensors(load_weights(run / "weights.safetensors")[0])


def same(first: dict, second: dict) -> bool:
    np.testing.assert_equal(first, second)
    return True
