"""How long sweeps take: processes against one process, what a sweep adds to its trainings, and reading many runs.

python benchmarks/sweeps.py [speed] [overhead] [reading]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from landscape import Store, open_sweep
from landscape.sweeps import PLAN, overviews_of, read_run
from models.run import train
from models.sweep import Space, Sweep

RUNS = 10_000
EPOCHS = 50
CNN = {"data": "digits", "model": "cnn", "epochs": "12", "batch_size": "64"}


def speed(folder: Path) -> None:
    """A sweep of convolutional networks in two processes, over the same in one."""
    sweep = Sweep(Space.read({**CNN, "optimizer": "sgd,adam", "seed": "0,1,2,3,4,5"}))
    seconds = {}
    for executor in ("serial", "processes:2"):
        started = time.monotonic()
        sweep(folder / executor.replace(":", "-"), executor)
        seconds[executor] = time.monotonic() - started
    gain = seconds["serial"] / seconds["processes:2"]
    print(
        f"speed: serial {seconds['serial']:.1f} s, processes:2 {seconds['processes:2']:.1f} s: {gain:.2f}x (goal 1.7x)"
    )


def overhead(folder: Path) -> None:
    """What a serial sweep takes beyond the same trainings one after the other."""
    sweep = Sweep(Space.read({**CNN, "seed": "0,1,2,3,4,5"}))
    train(sweep.configs[0], folder / "warm-up")
    started = time.monotonic()
    for config in sweep.configs:
        train(config, folder / "alone" / config.hash)
    alone = time.monotonic() - started
    started = time.monotonic()
    sweep(folder / "sweep", "serial")
    swept = time.monotonic() - started
    print(f"overhead: trainings {alone:.1f} s, sweep {swept:.1f} s: {swept / alone - 1:+.1%} (goal below 5%)")


def reading(folder: Path) -> None:
    """Open and list a sweep of ten thousand runs, whose folders are made up."""
    out = folder / "many"
    synthetic(out, RUNS)
    seconds = {}
    for what, read in {"open_sweep": open_sweep, "list in this process": lambda out: overviews_of(out, "")}.items():
        started = time.monotonic()
        read(out)
        seconds[what] = time.monotonic() - started
    command = [sys.executable, str(Path(__file__).parents[1] / "cli.py"), "list", str(out)]
    started = time.monotonic()
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.count("\n")
    seconds["landscape list"] = time.monotonic() - started
    assert lines == RUNS + 1
    shown = ", ".join(f"{what} {value:.2f} s" for what, value in seconds.items())
    print(f"reading {RUNS:,} runs of {EPOCHS} epochs: {shown} (goal 3 s)")


def synthetic(out: Path, number: int) -> None:
    """Make a sweep of so many runs from copies of one, with other numbers in the journal."""
    sweep = Sweep(Space.read({"data": "digits", "model": "mlp", "lr": "1e-3..1e-1/100", "seed": seeds(number // 100)}))
    store, rng = Store(out), np.random.default_rng(0)
    with store.lock(), store.journal(PLAN) as journal:
        sweep.save_plan(store)
        first = out / sweep.configs[0].hash
        train(Space.read({"data": "digits", "model": "mlp", "train_size": "64", "epochs": "1"}).config({}), first)
        files = {path.name: path.read_bytes() for path in first.iterdir() if path.suffix in (".json", ".h5")}
        row = read_run(first)
        curves = [name for name in row if name.startswith("curve/")]
        for config in sweep.configs:
            run = out / config.hash
            run.mkdir(exist_ok=True)
            for name, content in files.items():
                (run / name).write_bytes(content)
            numbers = {name: rng.random(EPOCHS) for name in curves}
            journal.append(config.hash, {**row, **numbers, "wall_seconds": 1.0}, sync=False)


def seeds(number: int) -> str:
    return ",".join(map(str, range(number)))


if __name__ == "__main__":
    known = {"speed": speed, "overhead": overhead, "reading": reading}
    for name in sys.argv[1:] or known:
        with tempfile.TemporaryDirectory() as folder:
            known[name](Path(folder))
