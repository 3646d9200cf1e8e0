"""Sweeps whose processes, workers, scheduler or driver are killed: all go on, and end with the same numbers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from landscape import Store, open_sweep
from landscape.store import Journal
from landscape.store.sealed import content_digest
from models.space import Space
from models.sweep import Sweep
from tests.commands import environment, landscape, start
from tests.test_dask import CLUSTER, LOOPBACK

FIELDS = {"data": "digits", "train_size": "400", "model": "mlp", "epochs": "40", "batch_size": "16,20", "lr": "0.1"}
FIELDS |= {"seed": "0,1,2"}
FLAGS = [word for name, text in FIELDS.items() for word in (f"--{name.replace('_', '-')}", text)]
SWEEP = ("sweep", *FLAGS, "--probe", "symmetry")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def digest(sweep: xr.Dataset) -> str:
    """Of everything but the seconds that trainings took."""
    return content_digest(dict(sweep.drop_vars("wall_seconds").variables))


@pytest.fixture(scope="module", params=["never", "always"])
def stack(request):
    return request.param


@pytest.fixture(scope="module")
def whole(tmp_path_factory, stack):
    """The same sweep, not interrupted."""
    sweep = Sweep(Space.read(FIELDS), ("symmetry",), stack=stack)
    return digest(sweep(tmp_path_factory.mktemp("whole"), "serial"))


def weights(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.glob("*/weights.safetensors")}


def rows(out: Path) -> set[str]:
    return set(Journal(out / "sweep.journal").records())


def in_training(out: Path) -> list[str]:
    """Runs, or the first of stacks, that have saved a whole epoch and are not finished."""
    return [path.parent.name for name in ("resume", "stack") for path in out.glob(f"*/{name}.safetensors")]


def killed(out: Path, *options: str) -> None:
    """A driver that is killed -9 once it has kept a row, and its processes have ended."""
    with start(*SWEEP, "--out", out, *options) as process:
        while process.poll() is None and not rows(out):
            time.sleep(0.02)
        process.kill()
    assert 0 < len(rows(out)) < 6


@pytest.mark.parametrize("executor", ["processes:2", "serial"])
def test_a_driver_that_is_killed_goes_on_and_trains_nothing_twice(tmp_path, whole, stack, executor):
    killed(tmp_path, "--stack", stack, "--executor", executor)
    before, kept = weights(tmp_path), rows(tmp_path)
    done = landscape(*SWEEP, "--out", tmp_path, "--stack", stack, "--executor", "serial")
    assert done.returncode == 0, done.stderr
    after = weights(tmp_path)
    assert all(after[path] == before[path] for path in before if path.parent.name in kept)
    assert len(after) == 6 and digest(open_sweep(tmp_path)) == whole


def test_a_signal_ends_a_sweep_and_says_how_to_go_on(tmp_path):
    process = start(*SWEEP, "--epochs", "2000", "--out", tmp_path, "--executor", "processes:2")
    while process.poll() is None and not in_training(tmp_path):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "To go on: landscape sweep" in errors


# --- Dask --------------------------------------------------------------------------------------------------

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def local():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, **LOOPBACK) as local:
        local.wait_for_workers(2)
        yield local


def test_a_worker_that_is_killed_in_mid_run_is_replaced(tmp_path, local, whole, stack):
    with distributed.Client(local, set_as_default=False) as client:
        pids = list(client.run(os.getpid).values())
    sweep = Sweep(Space.read(FIELDS), ("symmetry",), stack=stack)
    hit: list[str] = []

    def kill() -> None:
        while not (hit or rows(tmp_path)):
            hit.extend(in_training(tmp_path))
            time.sleep(0.01)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    answer = sweep(tmp_path, f"dask:{local.scheduler_address}")
    killer.join()
    assert hit, "nothing was in training when the workers were killed"
    assert (answer["status"] == "finished").all() and digest(answer) == whole
    local.wait_for_workers(2)


def test_a_lost_scheduler_ends_the_sweep_and_keeps_what_is_finished(tmp_path, whole, stack):
    command = [sys.executable, "-c", CLUSTER]
    with subprocess.Popen(command, env=environment(), stdin=-1, stdout=-1, stderr=-3, text=True) as head:
        address = head.stdout.readline().strip()
        with start(*SWEEP, "--out", tmp_path, "--stack", stack, "--executor", f"dask:{address}") as driver:
            while driver.poll() is None and not rows(tmp_path):
                time.sleep(0.02)
            head.kill()
            _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 5, errors
    assert f"scheduler at {address} was lost" in errors and "the same command goes on" in errors
    before, kept = weights(tmp_path), rows(tmp_path)
    assert 0 < len(kept) < 6
    done = landscape(*SWEEP, "--out", tmp_path, "--stack", stack, "--executor", "serial")
    assert done.returncode == 0, done.stderr
    assert all(weights(tmp_path)[path] == before[path] for path in before if path.parent.name in kept)
    assert digest(open_sweep(tmp_path)) == whole


def test_a_driver_on_dask_that_is_killed_goes_on(tmp_path, local, whole, stack):
    """Its workers may still be at the runs that they were at, which are left to them until they are finished."""
    on_dask = ("--stack", stack, "--executor", f"dask:{local.scheduler_address}")
    killed(tmp_path, *on_dask)
    before, kept = weights(tmp_path), rows(tmp_path)
    done = landscape(*SWEEP, "--out", tmp_path, *on_dask)
    assert done.returncode == 0, done.stderr
    after = weights(tmp_path)
    assert all(after[path] == before[path] for path in before if path.parent.name in kept)
    assert digest(open_sweep(tmp_path)) == whole
    assert np.isfinite(Store(tmp_path).read(Store(tmp_path).names("sweep-*")[0])["test_loss"]).all()
