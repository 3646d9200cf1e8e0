"""Time surfaces against their peers, and hold adaptive sampling against the whole grid.

    python benchmarks/surfaces.py --cifar cifar10_jpeg_bytes.npz --work DIR --peers PYTHON

`--cifar` is CIFAR-10 as one archive of JPEG bytes (`jpeg_train`, `offset_train`, `y_train`); without it only digits are
measured. `--work` keeps the networks and the whole grids from one call to the next. `--peers` is the interpreter of an
environment of its own with `pip install torch==2.13.0 numpy` and `pip install --no-deps loss-landscapes==3.0.6`.

Seconds a point are medians over rounds in which every contestant takes its turn, so that the speed of the machine
cancels in the ratios. The peers use the threads that torch gives them (all cores); ours are timed as one process with
the plan that it measures for itself, and as two processes of one thread. `--whole` computes the whole 51 x 51 grids and
replays adaptive sampling on them with several seeds, `--memory` looks at the peak after ever larger grids. `--device
cuda` times the same networks on a GPU against the plain loop there.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

RESOLUTION = 51
IMAGES = 512
ROUNDS = 5
PEER = """
import sys, time, torch
sys.path.insert(0, sys.argv[3])
import loss_landscapes, loss_landscapes.metrics
network, inputs, targets = torch.load(sys.argv[1], weights_only=False)  # written by the benchmark itself
metric = loss_landscapes.metrics.Loss(torch.nn.CrossEntropyLoss(), inputs, targets)
for _ in range(int(sys.argv[2])):
    started = time.perf_counter()
    loss_landscapes.random_plane(
        network, metric, distance=1.0, steps=4, normalization="filter", deepcopy_model=True
    )
    print((time.perf_counter() - started) / 16)
"""

Point = Callable[[Tensor], float]


def cifar_pool(path: Path, work: Path) -> str:
    """Decode 5,000 training and 1,000 test images once; the name under which `train` takes them."""
    target = work / "cifar.npz"
    if not target.exists():
        from PIL import Image

        kept = np.load(path)
        arrays = {}
        for part, count in (("train", 5000), ("test", 1000)):
            jpeg, offsets, labels = (kept[f"{what}_{part}"] for what in ("jpeg", "offset", "y"))
            chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[:count])
            opened = [Image.open(io.BytesIO(jpeg[offsets[i] : offsets[i + 1]].tobytes())) for i in chosen]
            arrays[f"x_{part}"] = np.stack([np.array(image).transpose(2, 0, 1) for image in opened])
            arrays[f"y_{part}"] = labels[chosen].astype(np.int64)
        np.savez(target, **arrays)
    return f"npz:{target}"


def trained(work: Path, cifar: Path | None) -> dict[str, Path]:
    """Train the networks that are not there yet."""
    from models.config import RunConfig
    from models.run import train

    common = {"norm": "batch", "optimizer": "sgd", "lr": 0.1, "snapshots": "none", "threads": os.cpu_count() or 1}
    wanted: dict[str, dict[str, Any]] = {
        "digits-cnn": {"data": "digits", "model": "cnn", "batch_size": 32, "epochs": 30}
    }
    if cifar is not None:
        images = {"data": cifar_pool(cifar, work), "momentum": 0.9, "weight_decay": 5e-4, "schedule": "cosine"}
        for name, skip in (("resnet20", True), ("resnet20-no-skip", False)):
            wanted[name] = {**images, "model": "resnet", "depth": 20, "skip": skip, "epochs": 12}
    for name, config in wanted.items():
        if not (work / name / "weights.safetensors").exists():
            train(RunConfig(**common, **config), work / name)
    return {name: work / name for name in wanted}


def objective_of(run: Path, device: str) -> Any:
    """The objective on the whole training split of digits, or on 512 images."""
    from landscape import Objective
    from landscape.examples import Examples
    from models.opened import open_run

    opened = open_run(run)
    examples = Examples.of(opened.data().train)
    data = examples.take(IMAGES) if len(examples) > 2000 else examples
    return Objective(opened.model(), data, loss=F.cross_entropy, device=device)


def data_of(objective: Any) -> tuple[Tensor, Tensor]:
    """Inputs and targets, whole."""
    ((inputs, targets), _), *_ = objective.examples.batches(len(objective.examples))
    return inputs, targets


def li_loop(network: nn.Module, inputs: Tensor, targets: Tensor, objective: Any, batch_size: int = 128) -> Point:
    """Set the weights, then the loop of Li et al. (`evaluation.eval_loss`): a DataLoader in evaluation mode."""
    dataset = torch.utils.data.TensorDataset(inputs, targets)
    criterion = nn.CrossEntropyLoss()
    parameters = dict(network.named_parameters())

    def point(theta: Tensor) -> float:
        for name, value in objective.layout.unflatten(theta).items():
            parameters[name].data = value.clone()
        network.eval()
        total = correct = 0.0
        with torch.no_grad():
            for x, y in torch.utils.data.DataLoader(dataset, batch_size=batch_size, shuffle=False):
                output = network(x)
                total += criterion(output, y).item() * len(x)
                correct += output.max(1)[1].eq(y).sum().item()
        return total / len(targets)

    return point


def plane_of(objective: Any) -> Tensor:
    from landscape.directions import random_directions

    return random_directions(objective.theta, objective.layout, "filter", 2, seed=0)


def some_points(objective: Any, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    places = (2 * torch.rand(count, 2, generator=generator) - 1).to(objective.theta)
    return objective.theta + places @ plane_of(objective)


def timed(work: Callable[[], Any], device: str) -> float:
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def speeds(run: Path, peers: str | None, device: str) -> dict[str, Any]:
    """Seconds a point of every contestant, and how far the values are from Li's loop."""
    from landscape.evaluation import Evaluator
    from landscape.planning import measured_plan
    from models.opened import open_run

    objective = objective_of(run, device)
    inputs, targets = data_of(objective)
    network = open_run(run).model().to(device)
    li = li_loop(network, inputs, targets, objective)
    plans = {p: measured_plan(objective, RESOLUTION**2, p) for p in ("full", "bfloat16")}
    ours = {name: Evaluator(objective, plan) for name, plan in plans.items()}
    count = max(4, max(plan.together for plan in plans.values()))
    points = some_points(objective, count)
    few = points[:4]
    values = torch.tensor([li(theta) for theta in few], dtype=torch.float64)
    off = {name: ((e.losses(few) - values).abs() / values).max().item() for name, e in ours.items()}
    contestants: dict[str, tuple[Callable[[], Any], int]] = {
        "loop of Li et al.": (lambda: [li(theta) for theta in few], len(few)),
        **{f"ours, {name}, one process": (lambda e=e: e.losses(points), count) for name, e in ours.items()},
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(ROUNDS + 1):
        for name, (work, size) in contestants.items():
            taken = timed(work, device) / size
            if number:
                seconds[name].append(taken)
    found = {name: median(times) for name, times in seconds.items()}
    if device == "cpu":
        found.update(in_processes(objective))
    if peers:
        found["loss-landscapes 3.0.6"] = peer_seconds(network, inputs, targets, peers)
    return {
        "seconds a point": found,
        "largest relative difference from Li's loop": off,
        "plans": {name: json.loads(plan.to_json()) for name, plan in plans.items()},
    }


def in_processes(objective: Any) -> dict[str, float]:
    """Seconds a point of a Surface in two processes: a large grid less a small one, so that no start counts."""
    from landscape.execution import Work, open_executor, working
    from landscape.probes import Surface

    found = {}
    with open_executor("processes:2") as engine, working(Work(engine)):
        for precision in ("full", "bfloat16"):
            seconds = [
                timed(lambda n=n, p=precision: Surface(resolution=n, precision=p)(objective), "cpu") for n in (6, 6, 18)
            ]
            found[f"ours, {precision}, two processes"] = (seconds[2] - seconds[1]) / (18**2 - 6**2)
    return found


def peer_seconds(network: nn.Module, inputs: Tensor, targets: Tensor, python: str) -> float:
    path = Path("peer.pt").absolute()
    torch.save((network, inputs, targets), path)
    try:
        command = [python, "-c", PEER, str(path), str(ROUNDS), str(Path(__file__).parent.parent)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    finally:
        path.unlink()
    return median(float(line) for line in done.stdout.split()[1:])


def whole_grid(run: Path, work: Path) -> np.ndarray:
    """Every point of the plane in full precision, kept for the next call."""
    from landscape.execution import Work, open_executor, working
    from landscape.probes import Surface

    path = work / f"{run.name}-whole.npy"
    if not path.exists():
        with open_executor("processes") as engine, working(Work(engine)):
            np.save(path, Surface(resolution=RESOLUTION)(objective_of(run, "cpu")).loss.values)
    return np.load(path)


def adaptive_errors(whole: np.ndarray, tolerance: float = 0.01, seeds: int = 10) -> dict[str, Any]:
    """Points that adaptive sampling takes, and its true error, by replay on the known grid."""
    from landscape.adaptive import sample

    true = whole.ravel()
    rows = []
    for seed in range(seeds):
        found = sample(whole.shape, lambda chosen: {"loss": true[chosen]}, tolerance, seed)
        errors = np.abs(found.values["loss"] - true)
        relative = errors / true
        rows.append(
            (int(found.computed.sum()), np.quantile(relative, 0.95), errors.max() / np.ptp(true), found.error_p95)
        )
    points, p95, largest, stated = (np.array(column) for column in zip(*rows, strict=True))
    return {
        "loss from and to": (float(true.min()), float(true.max())),
        "points": sorted(points.tolist()),
        "true error, 95th percentile": (float(np.median(p95)), float(p95.max())),
        "true largest error, share of the range": (float(np.median(largest)), float(largest.max())),
        "held-out error stated": (float(np.median(stated)), float(stated.max())),
    }


def peak_memory(run: Path) -> dict[int, float]:
    """Peak memory in MiB after ever larger grids, in one process."""
    from landscape.probes import Surface

    peaks = {}
    objective = objective_of(run, "cpu")
    for resolution in (5, 51, 101):
        Surface(resolution=resolution)(objective)
        peaks[resolution**2] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--peers")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name, run in trained(options.work, options.cifar).items():
        found = speeds(run, options.peers, options.device)
        if options.whole:
            found["adaptive"] = adaptive_errors(whole_grid(run, options.work))
        if options.memory and name == "digits-cnn":
            found["peak MiB after a grid of so many points"] = peak_memory(run)
        print(json.dumps({name: found}, indent=1), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
