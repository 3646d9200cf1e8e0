"""Time a training step in Lightning against a bare loop on the small CNN (digits, batch 128), in one run.

    python benchmarks/training_step.py

Three ways to train the same network on the same batches: a bare PyTorch loop, Lightning with our module and loader and
no monitors, and the same with `TrainingDynamics` at every step. Each round trains a few epochs of each in turn; what is
compared is the time inside the epochs, without Lightning's start and end.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from statistics import median

import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from landscape.callbacks import TrainingDynamics
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
    """Seconds a step with every monitor of a run on."""
    with tempfile.TemporaryDirectory() as folder:
        return lightning(data, TrainingDynamics(folder, submodule="network"))


def main() -> None:
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    data = load_data("digits")
    ways = {"bare loop": bare, "Lightning, monitors off": lightning, "Lightning, dynamics every step": monitored}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        for name, run in ways.items():
            seconds = run(data)
            if number:
                found[name].append(seconds)
    print(f"{'one training step':<34}{'milliseconds':>14}{'ratio: median':>16}{'min':>8}{'max':>8}")
    for name, seconds in found.items():
        ratios = sorted(s / b for s, b in zip(seconds, found["bare loop"], strict=True))
        print(f"{name:<34}{1e3 * median(seconds):>14.2f}{median(ratios):>16.2f}{ratios[0]:>8.2f}{ratios[-1]:>8.2f}")


if __name__ == "__main__":
    main()
