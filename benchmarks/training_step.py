"""Time a training step in Lightning against a bare loop on the small CNN (batch 128), in one run.

    python benchmarks/training_step.py [--data idx:DIR --train-size 4096]

Ways to train the same network on the same batches: a bare PyTorch loop, Lightning with our module and loader and no
monitors, the same with `TrainingDynamics` as it is by default, and with the probe GradientNoise too. Each round trains
a few epochs of each in turn; what is compared is the time inside the epochs, without Lightning's start and end.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from statistics import median

import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from landscape.callbacks import ProbeEvery, TrainingDynamics
from landscape.probes import GradientNoise
from models.architectures import build_model
from models.classifier import Classifier
from models.data import Splits, TensorLoader, load_data

EPOCHS, ROUNDS, BATCH = 6, 7, 128


class EpochClock(pl.Callback):
    """Seconds of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, *_: object) -> None:
        """Start."""
        self.started = time.perf_counter()

    def on_train_epoch_end(self, *_: object) -> None:
        """Stop."""
        self.seconds.append(time.perf_counter() - self.started)


def pieces(data: Splits) -> tuple[torch.nn.Module, TensorLoader]:
    """Build a fresh network and its loader."""
    network = build_model("cnn", data.input_shape, data.num_classes)
    return network, TensorLoader(data.train, BATCH, shuffle=True, seed=0)


def bare(data: Splits) -> float:
    """Seconds a step of a plain loop."""
    network, loader = pieces(data)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    seconds = []
    for epoch in range(EPOCHS):
        loader.set_epoch(epoch)
        started = time.perf_counter()
        for inputs, targets in loader:
            optimizer.zero_grad()
            F.cross_entropy(network(inputs), targets).backward()
            optimizer.step()
        seconds.append(time.perf_counter() - started)
    return median(seconds[1:]) / len(loader)


def lightning(data: Splits, *monitors: pl.Callback) -> float:
    """Seconds a step inside Lightning's loop."""
    network, loader = pieces(data)
    clock = EpochClock()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        callbacks=[*monitors, clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(network, lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)), loader)
    return median(clock.seconds[1:]) / len(loader)


def monitored(data: Splits) -> float:
    """Seconds a step with what every run records by default."""
    with tempfile.TemporaryDirectory() as folder:
        return lightning(data, TrainingDynamics(folder, submodule="network"))


def probed(data: Splits) -> float:
    """Seconds a step when, besides, the gradient noise of 512 examples is asked for every 100 steps."""
    with tempfile.TemporaryDirectory() as folder:
        noise = ProbeEvery(GradientNoise(batches=32), every=100, out=folder, examples=512)
        return lightning(data, TrainingDynamics(folder, submodule="network"), noise)


def main() -> None:
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--train-size", type=int)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    data = load_data(asked.data, train_size=asked.train_size)
    ways = {"bare loop": bare, "Lightning, monitors off": lightning, "Lightning, default dynamics": monitored}
    ways["and gradient noise by step"] = probed
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(asked.rounds + 1):
        for name, run in ways.items():
            seconds = run(data)
            if number:
                found[name].append(seconds)
    print(f"{'one training step':<30}{'milliseconds':>14}{'to bare loop':>14}{'to monitors off':>17}")
    for name, seconds in found.items():
        ratios = [
            median(s / b for s, b in zip(seconds, found[other], strict=True))
            for other in ("bare loop", "Lightning, monitors off")
        ]
        print(f"{name:<30}{1e3 * median(seconds):>14.2f}{ratios[0]:>14.2f}{ratios[1]:>17.2f}")


if __name__ == "__main__":
    main()
