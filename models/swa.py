"""Weight averaging against what it should be better than: the last iterate, and SGD whose rate has decayed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from landscape import Objective
from landscape.directions import between, coordinates, through
from landscape.execution import Progress, open_executor
from landscape.intervals import mean_and_error, student_factor
from landscape.measure import ask
from landscape.parameters import ParameterLayout
from landscape.probes import Rays, Slice, Surface
from landscape.provenance import provenance
from landscape.store import MissingError, Store
from models.averaging import check_average
from models.config import RunConfig
from models.losses import make_loss
from models.merging import average_runs
from models.opened import Run, open_run
from models.snapshots import network_at
from models.trials import run_trials

POINTS = ("last", "decayed", "swa", "swa-cyclic", "ema", "lawa")
REFERENCES = ("last", "decayed")
MEASURES = ("train_loss", "test_loss", "test_error", "train_loss_rise", "test_error_rise")
"""Of each point; the rises are means over rays at the largest distance."""
SET_HERE = ("schedule", "average", "keep_average", "keep_best", "early_stopping", "snapshots", "seed")
"""Fields of a run that the study sets."""
_MARGIN = 0.5  # of the half width of the marked points, shown around them in the plane


@dataclass(frozen=True)
class AveragingStudy:
    """Averages of weights over a tail of high rate, the last iterate there, and SGD that has decayed, by seed.

    Runs of one seed begin with the same weights and see the same examples in the same order; up to the tail those of
    the constant and of the cyclic rate are the same, bit for bit. All have equal budgets. Every network is measured
    with statistics of BatchNorm of its own.

    Attributes:
        config: Of every training; its schedule, average, snapshots and seed are set here.
        seeds: Of weights and order, each a repetition.
        tail: The share of the epochs over which weights are averaged.
        high: The rate there, as a factor on the learning rate.
        cycles: Of the cyclic rate; each falls from high to a tenth of it.
        decay: Of the exponential average, by step, from the start of the tail on.
        k: How many of the last epochs the latest average counts.
        rays: Random rays along which widths are measured.
        radius: The largest distance along them; auto for where the loss of the decayed run of the first seed has risen
            by log 2.
        resolution: Points along each axis of the plane; along lines twice as many.

    References:
        Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, figures 1 to 5.
    """

    config: RunConfig
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)
    tail: float = 0.25
    high: float = 0.5
    cycles: int = 5
    decay: float = 0.99
    k: int = 5
    rays: int = 10
    radius: float | Literal["auto"] = "auto"
    resolution: int = 15

    def __post_init__(self) -> None:
        """Refuse what cannot be trained or measured.

        Raises:
            ValueError: If a field is out of range or repeats itself, or the tail has too few epochs or no whole cycles.
        """
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be different and at least one, got {self.seeds}")
        if not 0 < self.tail < 1:
            raise ValueError(f"tail must be a share of the epochs between 0 and 1, got {self.tail}")
        if self.resolution < 3:
            raise ValueError(f"resolution must be at least 3, got {self.resolution}")
        length = self.config.epochs - self.start
        if length < 2:
            raise ValueError(
                f"a tail of {self.tail:g} of {self.config.epochs} epochs has {length}, and a plane needs the ends of "
                "at least 2; train for longer, or take a longer tail"
            )
        if self.cycles < 1 or length % self.cycles:
            raise ValueError(
                f"the {length} epochs of the tail are not {self.cycles} cycles of whole epochs; choose cycles that "
                f"divide {length}"
            )
        Rays(self.rays, radius=self.radius)
        for field in SET_HERE:
            if getattr(self.config, field) != getattr(RunConfig, field):
                raise ValueError(
                    f"{field} is set by the comparison, which gives every run the same budget; leave it out"
                )
        check_average(f"lawa:{self.k}", self.config.epochs)
        self.configs(0)

    @property
    def start(self) -> int:
        """The epoch at the end of which the first weights are averaged."""
        return math.ceil((1 - self.tail) * self.config.epochs - 1e-9)

    def configs(self, seed: int) -> dict[str, RunConfig]:
        """The trainings of a seed."""
        epochs = self.config.epochs
        tail = (epochs - self.start) / epochs
        plain = replace(self.config, seed=seed, snapshots="epochs:1")
        high = f"swa:tail={tail!r},high={self.high!r}"
        constant = replace(plain, schedule=high)
        ema = f"ema:{self.decay!r},start={self.start}"
        return {
            "last": constant,
            "ema": replace(constant, average=ema, keep_average=True),
            "cyclic": replace(constant, schedule=f"{high},cycles={self.cycles}"),
            "decayed": replace(plain, schedule="swa:tail=0.0,high=0.01"),
        }

    @property
    def name(self) -> str:
        """What the answer is called, by everything it depends on."""
        text = json.dumps({**self.fields, "config": self.config.hash}, sort_keys=True)
        return f"swa-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def fields(self) -> dict[str, Any]:
        """The fields as plain values."""
        return {**asdict(self), "config": self.config.to_dict()}

    def __call__(self, out: Path, executor: str | Executor = "serial", progress: Progress | None = None) -> xr.Dataset:
        """Answer from a folder, or train and measure what is missing there and keep the answer.

        Args:
            out: The folder of the answer and of all runs; those trained before are taken.
            executor: Where runs are trained and measured.
            progress: Called with (stage, pieces done, pieces in all).

        Returns:
            `value` (seed, point, measure); its `mean` with Student's 95% interval over seeds, `low` and `high` (point,
            measure); `difference_mean`, `difference_low`, `difference_high` (point, reference, measure) of a point less
            a reference, paired by seed, and `lower`, the share of seeds where it is below zero; `rise` (seed, point,
            metric, radius), the mean over rays, with `rise_standard_error` over rays; `line` (seed, reference, metric,
            alpha) from the average, at 0, to a reference, at 1; `plane` (metric, x, y) of the first seed, through three
            iterates, with the places of `mark` and how far off the plane they are.

        Raises:
            MissingError: If a training has failed or diverged.
        """
        if (out / f"{self.name}.h5").exists():
            return Store(out, create=False).read(self.name)
        opened = open_executor(executor) if isinstance(executor, str) else nullcontext(executor)
        with opened as engine:
            trainings = [config for seed in self.seeds for config in self.configs(seed).values()]
            run_trials(trainings, out, engine, progress)
            points = {seed: self._points(seed, out) for seed in self.seeds}
            answer = _Measured(self, points, engine, progress).answer()
        attrs = {
            "probe": "swa",
            "probe_fields": json.dumps(self.fields, sort_keys=True),
            "normalization": "recalibrated",
        }
        Store(out).write(self.name, answer.assign_attrs(**attrs, **provenance()))
        return Store(out).read(self.name)

    def _points(self, seed: int, out: Path) -> dict[str, Run]:
        """Open the networks of a seed, making averages of snapshots where they are not there yet."""
        runs = {name: _finished(out / config.hash) for name, config in self.configs(seed).items()}
        every = (self.config.epochs - self.start) // self.cycles
        averages = {
            "swa": ("last", f"swa:start={self.start}"),
            "swa-cyclic": ("cyclic", f"swa:start={self.start},every={every}"),
            "lawa": ("last", f"lawa:{self.k}"),
        }
        for name, (source, method) in averages.items():
            run = runs[source]
            label = method.translate(str.maketrans(":=,", "---"))
            runs[name] = average_runs({run.folder.name: run}, method, out / f"{run.folder.name}-{label}")
        return runs


@dataclass(frozen=True)
class _Measured:
    """What is measured of the networks of all seeds; each piece is an answer in the folder of its run."""

    study: AveragingStudy
    runs: Mapping[int, Mapping[str, Run]]
    engine: Executor
    progress: Progress | None

    def answer(self) -> xr.Dataset:
        rises, values = self._rises()
        return xr.merge([values, differences(values["value"]), rises, self._lines(), self._plane()])

    def _ask(self, probe: Any, run: Run, objective: Objective | None = None) -> xr.Dataset:
        objective = objective or run.objective(normalization="recalibrated")
        return ask(probe, objective, run.store, self.engine, self.progress)

    @cached_property
    def _radius(self) -> float:
        if self.study.radius != "auto":
            return self.study.radius
        first = self.runs[self.study.seeds[0]]["decayed"]
        return float(f"{self._ask(Rays(self.study.rays), first)['radius'].values[-1]:.2g}")

    def _rises(self) -> tuple[xr.Dataset, xr.Dataset]:
        """The mean rises along rays, the same for all networks of a seed, and the values at the networks themselves."""
        seeds, found = self.study.seeds, {}
        for seed in seeds:
            probe = Rays(self.study.rays, radius=self._radius, seed=seed)
            for point in POINTS:
                found[seed, point] = self._ask(probe, self.runs[seed][point])
        shape = (len(seeds), len(POINTS))
        rays = [[found[seed, point] for point in POINTS] for seed in seeds]
        kinds = {"train_loss": "loss_rise", "test_error": "test_error_rise"}
        pairs = [[[mean_and_error(ray[kind].values) for kind in kinds.values()] for ray in row] for row in rays]
        means, errors = np.moveaxis(np.array(pairs), 3, 0)  # (seed, point, metric, radius)
        scores = np.array([[_scores(ray) for ray in row] for row in rays]).reshape(*shape, -1)
        everything = np.concatenate([scores, means[..., -1]], axis=-1)
        coords = {"seed": list(seeds), "point": list(POINTS)}
        radii = rays[0][0]["radius"].values
        along = xr.Dataset(coords={**coords, "metric": list(kinds), "radius": radii})
        dims = ("seed", "point", "metric", "radius")
        along["rise"], along["rise_standard_error"] = (dims, means), (dims, errors)
        values = xr.Dataset(coords={**coords, "measure": list(MEASURES)})
        values["value"] = (("seed", "point", "measure"), everything)
        return along, values

    def _lines(self) -> xr.Dataset:
        rows = []
        for seed in self.study.seeds:
            runs = self.runs[seed]
            objective = runs["swa"].objective(normalization="recalibrated")
            for reference in REFERENCES:
                line = between(objective.theta, _theta(runs[reference], objective))
                probe = Slice(line, resolution=2 * self.study.resolution - 1, radius=1.0, center=0.5)
                rows.append(self._ask(probe, runs["swa"], objective))
        shape = (len(self.study.seeds), len(REFERENCES), 2, -1)
        values = np.array([[row["loss"].values, 1 - row["test_accuracy"].values] for row in rows]).reshape(shape)
        coords = {"reference": list(REFERENCES), "alpha": rows[0]["alpha"].values}
        return xr.Dataset({"line": (("seed", "reference", "metric", "alpha"), values)}, coords=coords)

    def _plane(self) -> xr.Dataset:
        """The plane through the first, the middle and the last iterate that the average of the first seed counts."""
        runs = self.runs[self.study.seeds[0]]
        run, steps = runs["last"], [int(word.removeprefix("step ")) for word in runs["swa"].about["entered"]]
        chosen = [steps[0], steps[len(steps) // 2], steps[-1]]
        networks = [network_at(run, step) for step in chosen]
        data = run.data()
        loss = make_loss(self.study.config.label_smoothing)
        objective = Objective(networks[0], data.train, loss, normalization="recalibrated", also={"test": data.test})
        iterates = [ParameterLayout.of(network).current(network).to(objective.theta) for network in networks]
        axes = through(*iterates)
        marks = torch.stack([*iterates, torch.stack(iterates).mean(0), _theta(runs["swa"], objective)])
        inside, off = coordinates(marks, objective.theta, axes.vectors)
        middle, half = _window(inside)
        resolution = (self.study.resolution, self.study.resolution)
        answer = self._ask(Surface(axes, resolution, half, middle), run, objective)
        values = np.stack([answer["loss"].values, 1 - answer["test_accuracy"].values])
        length = axes.vectors[0].norm().item()
        names = [*(f"SGD, step {step}" for step in chosen), "mean of the three", "SWA"]
        return xr.Dataset(
            {
                "plane": (("metric", "x", "y"), values),
                "mark_x": ("mark", length * inside[:, 0].cpu().numpy()),
                "mark_y": ("mark", length * inside[:, 1].cpu().numpy()),
                "mark_off_plane": ("mark", off.cpu().numpy(), {"units": "share of the distance from the first"}),
            },
            coords={"x": length * answer["alpha"].values, "y": length * answer["beta"].values, "mark": names},
        )


def differences(value: xr.DataArray) -> xr.Dataset:
    """Compare points with references, paired by seed.

    Args:
        value: (seed, point, measure); points hold the `REFERENCES`.

    Returns:
        Means and 95% intervals of Student over seeds, of values and of differences, NaN of one seed; and `lower`.
    """
    count = value.sizes["seed"]
    of_pairs = xr.concat([value - value.sel(point=name, drop=True) for name in REFERENCES], "reference")
    of_pairs = of_pairs.assign_coords(reference=list(REFERENCES)).transpose("seed", "point", "reference", "measure")
    found = xr.Dataset({"lower": (of_pairs < 0).mean("seed")})
    found["lower"].attrs["long_name"] = "share of seeds where the point has the lower value"
    factor = student_factor(count) if count > 1 else math.nan
    for prefix, values in (("", value), ("difference_", of_pairs)):
        mean, error = mean_and_error(values.values)
        for name, ends in (("mean", mean), ("low", mean - factor * error), ("high", mean + factor * error)):
            found[f"{prefix}{name}"] = (values.dims[1:], ends)
    return found


def rows(answer: xr.Dataset) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write values, and differences from the references, as rows of tables."""
    values = [
        {"network": point, **{m: _with_reach(answer, "", point=point, measure=m) for m in MEASURES}}
        for point in answer["point"].values.tolist()
    ]
    pairs = [(point, other) for other in REFERENCES for point in answer["point"].values.tolist() if point != other]
    compared = [
        {
            "less": f"{point} - {other}",
            **{m: _with_reach(answer, "difference_", point=point, reference=other, measure=m) for m in MEASURES},
        }
        for point, other in pairs
    ]
    return values, compared


def _with_reach(answer: xr.Dataset, prefix: str, **where: str) -> str:
    mean, low = (answer[f"{prefix}{name}"].sel(where).item() for name in ("mean", "low"))
    sign = "+" if prefix else ""
    return f"{mean:{sign}.4f}" + ("" if math.isnan(low) else f" ± {mean - low:.4f}")


def _scores(ray: xr.Dataset) -> Sequence[float]:
    loss, test_loss, accuracy = (ray[f"center_{name}"].item() for name in ("loss", "test_loss", "test_accuracy"))
    return loss, test_loss, 1 - accuracy


def _theta(run: Run, objective: Objective) -> Tensor:
    model = run.model()
    return ParameterLayout.of(model).matching(objective.parameters).current(model).to(objective.theta)


def _window(inside: Tensor) -> tuple[tuple[float, float], tuple[float, float]]:
    """The middle and the half widths of a square around points (M, 2), with a margin."""
    low, high = inside.min(0).values, inside.max(0).values
    x, y = ((low + high) / 2).tolist()
    half = ((high - low).max() / 2 * (1 + _MARGIN)).item()
    return (x, y), (half, half)


def _finished(folder: Path) -> Run:
    if (folder / "failure.json").exists():
        error = Store(folder, create=False).load_json("failure")["error"]
        raise MissingError(f"{folder} could not be trained ({error}); remove the folder once the cause is mended")
    run = open_run(folder)
    losses = [run.metrics[name] for name in ("test_loss", "final_train_loss")]
    if not all(map(math.isfinite, losses)):
        raise MissingError(f"{folder} diverged, so it has no landscape; choose a lower learning rate")
    return run
