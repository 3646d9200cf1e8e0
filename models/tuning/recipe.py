"""Finding hyper-parameters by hand in seven steps, each with what it looks for and what it found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from landscape.diagnosis import diagnose
from landscape.doctor import NOTE, OK, PROBLEM
from landscape.normalization import recalibrate
from landscape.store import Store
from models.config import RunConfig
from models.opened import open_run
from models.space import Choices, Space
from models.trials import outcome, run_trials
from models.tuning.search import Search, best_trials

INITIAL = 0.15  # distance of the first loss from log C, as a share of log C
FEW_BATCHES, FEW_EPOCHS = 8, 60
OVERFITTED = 0.99  # training accuracy on a few batches
ITERATIONS, DROP = 100, 0.7  # the loss of the 100th step over the first one
SMALL_DECAY = 1e-4
COARSE_EPOCHS, REFINED_EPOCHS = 3, 10
WITHOUT = {
    "weight_decay": 0.0,
    "l1": 0.0,
    "label_smoothing": 0.0,
    "regularization": "none",
    "augment": "none",
    "label_noise": 0.0,
    "early_stopping": 0,
    "keep_best": False,
    "average": "none",
    "keep_average": False,
    "schedule": "constant",
    "warmup": 0,
    "snapshots": "none",
}
"""What the first steps switch off: they look at the network and the rate alone."""


@dataclass(frozen=True)
class Step:
    """What one step of the recipe found.

    Attributes:
        number: 1 to 7.
        title: What it looks at.
        status: ``ok``, ``note`` or ``problem``.
        found: What was seen, against which threshold.
        advice: What to do; empty if there is nothing to.
    """

    number: int
    title: str
    status: str
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Recipe:
    """The seven steps: initial loss, a few batches by heart, a rate, a coarse grid, a finer one, curves, and again.

    Each training is a run in a folder of its own, so that the recipe goes on where it was interrupted.

    Attributes:
        config: What is tuned; its own rate and weight decay are where the search begins, if they are given.

    References:
        Johnson, "Deep Learning for Computer Vision", University of Michigan, 2019, lecture 11 ("Choosing
        hyperparameters").
    """

    config: RunConfig

    def __post_init__(self) -> None:
        """Refuse what cannot be tuned in this way.

        Raises:
            ValueError: If nothing is held out for validation.
        """
        if not self.config.val_fraction:
            raise ValueError("the recipe compares runs on the validation split; give val_fraction above 0")

    def __call__(
        self, out: str | Path, executor: str | Executor = "serial", tell: Callable[[Step], None] | None = None
    ) -> tuple[list[Step], RunConfig]:
        """Go through the steps.

        Args:
            out: Folder of all runs.
            executor: Where they are trained.
            tell: Called with each step as soon as it is done.

        Returns:
            The steps, and the configuration that they end with.

        Raises:
            ImportError: If Optuna is not installed.
            ValueError: If the data or the network cannot be built.
            StoreError: If a file cannot be written or read.
        """
        work = _Work(self.config, Path(out), executor)
        steps = []
        for step in work.steps():
            steps.append(step)
            if tell is not None:
                tell(step)
        return steps, work.best


class _Work:
    """The recipe on its way: what it has found so far decides the next step."""

    def __init__(self, config: RunConfig, out: Path, executor: str | Executor) -> None:
        self.given, self.out, self.executor = config, out, executor
        self.best = config
        self.rate = config.lr or 0.01

    def steps(self) -> Iterator[Step]:
        yield self.initial_loss()
        yield self.few_batches()
        yield self.rate_that_learns()
        yield self.coarse_grid()
        yield self.refined_grid()
        yield self.curves()
        yield self.again()

    def initial_loss(self) -> Step:
        from models.training import Training, measure

        training = Training(replace(self.given, **WITHOUT))
        inputs = training.data.train.inputs[:1024].to(training.device)
        network = training.network.to(training.device).eval()
        recalibrate(network, lambda: network(inputs))  # BatchNorm has no statistics of its own yet
        loss = measure(training.network, training.data.train, training.module.loss)[0]
        expected = math.log(training.data.num_classes)
        away = abs(loss - expected) / expected
        found = f"loss {loss:.3f} before training, log {training.data.num_classes} = {expected:.3f}"
        advice = "" if away <= INITIAL else "not a uniform guess: smaller weights in the last layer, or centred inputs"
        status = OK if away <= INITIAL else PROBLEM if away > 1 else NOTE
        return Step(1, "initial loss against log C, no weight decay", status, found, advice)

    def few_batches(self) -> Step:
        batch = 32 if self.given.batch_size == "all" else min(self.given.batch_size, 64)
        few = replace(
            self.given,
            **WITHOUT,
            train_size=FEW_BATCHES * batch,
            batch_size=batch,
            epochs=FEW_EPOCHS,
            lr_scaling="none",
        )
        configs = [replace(few, lr=self.rate * factor) for factor in (1.0, 10.0, 0.1)]
        accuracy, rate, broken = -1.0, self.rate, False
        for config in configs:  # the first rate that learns them by heart is enough
            training = self._train([config])[0]
            broken |= not np.isfinite(training["loss"].values).all()
            if float(training["final_train_accuracy"]) > accuracy:
                accuracy, rate = float(training["final_train_accuracy"]), config.lr
            if accuracy >= OVERFITTED:
                break
        found = f"training accuracy {accuracy:.3f} on {FEW_BATCHES} batches of {batch} after {FEW_EPOCHS} epochs"
        found += f" at lr {rate:.3g}, without regularization"
        if accuracy >= OVERFITTED:
            return Step(2, "a few batches by heart", OK, found)
        advice = "a loss that explodes: lr too high" if broken else "a loss that does not fall: lr too low, or a bad "
        advice += "" if broken else "initialization; look at it with landscape diagnose"
        return Step(2, "a few batches by heart", PROBLEM, found, advice)

    def rate_that_learns(self) -> Step:
        base = replace(self.given, **{**WITHOUT, "weight_decay": SMALL_DECAY}, lr_scaling="none")
        rates = [float(f"{self.rate * 10.0**power:.3g}") for power in (1, 0.5, 0, -0.5, -1, -2)]
        epochs = math.ceil(ITERATIONS / self._steps_an_epoch())
        trainings = self._train([replace(base, lr=rate, epochs=epochs) for rate in rates])
        drops = [_drop(training) for training in trainings]
        listed = ", ".join(f"{rate:.3g}: {drop:.2f}" for rate, drop in zip(rates, drops, strict=True))
        found = f"loss of step {ITERATIONS} over that of step 1, by lr: {listed}"
        best = int(np.argmin(np.where(np.isfinite(drops), drops, np.inf)))
        self.rate = rates[best]
        if drops[best] <= DROP:
            return Step(3, f"a rate that drops the loss within {ITERATIONS} steps", OK, f"{found}; lr {self.rate:.3g}")
        advice = f"none falls below {DROP:.0%}: other rates, initialization or normalization"
        return Step(3, f"a rate that drops the loss within {ITERATIONS} steps", PROBLEM, found, advice)

    def coarse_grid(self) -> Step:
        rates = [float(f"{self.rate * factor:.3g}") for factor in (0.25, 0.5, 1.0, 2.0)]
        return self._grid(4, "coarse grid", rates, [0.0, 1e-5, 1e-4], COARSE_EPOCHS)

    def refined_grid(self) -> Step:
        rates = [float(f"{self.rate * factor:.3g}") for factor in (0.7, 1.0, 1.4)]
        decay = self.best.weight_decay
        decays = sorted({decay, max(decay * 5, 5e-5)})
        return self._grid(5, "refined grid, longer", rates, decays, REFINED_EPOCHS)

    def _grid(self, number: int, title: str, rates: list[float], decays: list[float], epochs: int) -> Step:
        dimensions = {"lr": Choices(tuple(dict.fromkeys(rates))), "weight_decay": Choices(tuple(decays))}
        fixed = {name: value for name, value in vars(self.given).items() if name not in dimensions}
        search = Search(Space(dimensions, {**fixed, "epochs": epochs, "snapshots": "none", "lr_scaling": "none"}))
        answer = search(self.out, self.executor)
        good = best_trials(answer, 1)
        if not good or good[0]["status"] != "finished":
            return Step(number, title, PROBLEM, "no trial has finished with a finite loss", "smaller rates")
        best = good[0]
        self.rate = best["lr"]
        self.best = replace(
            self.given, lr=best["lr"], weight_decay=best["weight_decay"], lr_scaling="none", epochs=epochs
        )
        lost = int((~np.isfinite(answer["objective"].values)).sum())
        at_edge = best["lr"] in (min(rates), max(rates))
        found = (
            f"{answer.sizes['trial']} runs of {epochs} epochs ({lost} diverged or failed): best validation loss "
            f"{best['objective']:.4g} at lr {best['lr']:.3g}, weight decay {best['weight_decay']:.3g}"
        )
        advice = "the best rate lies at the edge of the grid: search beyond it" if at_edge else ""
        return Step(number, title, NOTE if at_edge else OK, found, advice)

    def curves(self) -> Step:
        folder = self.out / replace(self.best, snapshots="none").hash
        symptoms = [s for s in diagnose(open_run(folder).record()) if s.status != OK]
        last = outcome(folder, "last-val-error")
        found = f"validation error {last.value:.3f} at the end of {folder}"
        found += "".join(f"; {s.check}: {s.detail}" for s in symptoms)
        worst = PROBLEM if any(s.status == PROBLEM for s in symptoms) else NOTE if symptoms else OK
        return Step(6, "curves", worst, found, f"landscape figure {folder}")

    def again(self) -> Step:
        folder = self.out / replace(self.best, snapshots="none").hash
        metrics = open_run(folder).metrics
        gap = metrics["train_accuracy"] - metrics["val_accuracy"]
        if gap > 0.05:
            advice = "the gap is large: more weight decay, --regularization, --augment"
        elif metrics["train_accuracy"] < OVERFITTED:
            advice = "it has not fitted yet: more epochs, a schedule such as cosine, a wider or deeper network"
        else:
            advice = "longer with --schedule cosine, then other seeds"
        found = f"training accuracy {metrics['train_accuracy']:.3f}, validation accuracy {metrics['val_accuracy']:.3f}"
        return Step(7, "and again", OK, found, advice)

    def _steps_an_epoch(self) -> int:
        from models.data import load_data

        size = len(load_data(self.given.data, **self.given.data_options).train.targets)
        return 1 if self.given.batch_size == "all" else math.ceil(size / self.given.batch_size)

    def _train(self, configs: list[RunConfig]) -> list[xr.Dataset]:
        run_trials(configs, self.out, self.executor)
        return [self._training(config) for config in configs]

    def _training(self, config: RunConfig) -> xr.Dataset:
        store = Store(self.out / config.hash, create=False)
        if (store.path / "failure.json").exists():
            raise ValueError(f"{store.path} could not be trained: {store.load_json('failure')['error']}")
        return store.read("training")


def _drop(training: xr.Dataset) -> float:
    """Loss around the hundredth step over that of the first; infinite where it is not finite."""
    losses: Any = training["loss"].values[:ITERATIONS].astype(float)
    return float(np.median(losses[-10:]) / losses[0]) if np.isfinite(losses).all() else math.inf
