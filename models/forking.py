"""Linear-interpolation instability after a fork: when do two ways on from one network stay linearly connected?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from landscape.execution import Progress, Work, open_executor, resumable_map, working
from landscape.intervals import mean_and_error, student_factor
from landscape.paths.barriers import with_barriers
from landscape.paths.lines import Travel, places, require_places
from landscape.provenance import provenance
from landscape.store import Store
from landscape.weights import WeightsError
from models.config import RunConfig
from models.data import load_data
from models.joining import join
from models.opened import open_run
from models.trials import run_trials

STABLE = 0.02
"""The published threshold: below this instability of the error two ways count as linearly connected."""


@dataclass(frozen=True)
class Forks:
    """Train to a step, go on in several ways with other orders of the examples, and look at the line between the ends.

    Attributes:
        config: Of every run; its seed is the first.
        steps: After how many steps to fork; 0 shares only the initial weights.
        seeds: How many trunks, with seeds from that of the configuration on.
        copies: Ways on from each fork.
        points: Places on the line between two ends.

    References:
        Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020, algorithm 1.
    """

    config: RunConfig
    steps: tuple[int, ...]
    seeds: int = 3
    copies: int = 2
    points: int = 25

    def __post_init__(self) -> None:
        """Sort the steps, and refuse what cannot be forked before anything is trained."""
        object.__setattr__(self, "steps", tuple(sorted(set(self.steps))))
        require_places("line", self.points, (0.0, 1.0))
        if not self.steps or self.steps[0] < 0:
            raise ValueError(f"steps must be numbers of at least 0, as in 0,50,300, got {self.steps}")
        if self.seeds < 1 or self.copies < 2:
            raise ValueError(f"at least one seed and two copies are needed, got {self.seeds} and {self.copies}")
        if self.config.fork_step is not None:
            raise ValueError("the runs fork after each of the steps; leave out fork_step and fork_seed")
        if self.config.early_stopping or self.config.keep_best:
            raise ValueError("both ways must train to the same end; leave out early_stopping and keep_best")

    @property
    def name(self) -> str:
        """The name of the answer in its folder."""
        return f"fork-{hashlib.sha256(self._about().encode()).hexdigest()[:12]}"

    def run_config(self, step: int, seed: int, copy: int) -> RunConfig:
        """Return the configuration of one way."""
        return replace(self.config, seed=self.config.seed + seed, fork_step=step, fork_seed=copy)

    def configs(self) -> list[RunConfig]:
        """List every run."""
        ways = ((step, seed, copy) for step in self.steps for seed in range(self.seeds) for copy in range(self.copies))
        return [self.run_config(*way) for way in ways]

    def __call__(self, out: Path, executor: str = "serial", progress: Progress | None = None) -> xr.Dataset:
        """Answer from the folder, or train and measure what is missing and keep the answer.

        Args:
            out: The folder of the answer and of all runs, each named by its configuration.
            executor: Where runs are trained and lines measured.
            progress: Called with (stage, done, in all).

        Returns:
            See `instabilities`, with loss, accuracy, test_loss and test_accuracy over (fork_step, seed, pair, alpha).
            What failed or diverged is NaN.

        Raises:
            ValueError: If a step is not before the end of the training, or the configuration does not fit the data.
        """
        self._require_early_steps()
        store = Store(out)
        if not store.has(self.name):
            run_trials(self.configs(), out, executor, progress)
            with store.lock(), store.journal(self.name) as journal, open_executor(executor) as engine:
                with working(Work(engine, journal, progress, scratch=out)):
                    answer = instabilities(self._lines(out))
                about = {"probe": "fork", "probe_fields": self._about(), "normalization": "recalibrated"}
                store.write(self.name, answer.assign_attrs(about, **provenance()))
                journal.discard()
        return store.read(self.name)

    def _lines(self, out: Path) -> xr.Dataset:
        """Measure the line between each two ways of each fork."""
        ways = list(combinations(range(self.copies), 2))
        pairs = [
            tuple(str(out / self.run_config(step, seed, copy).hash) for copy in way)
            for step in self.steps
            for seed in range(self.seeds)
            for way in ways
        ]
        found = resumable_map(_line, self.points, pairs, "line")
        names = sorted({name for each in found for name in each})
        shape = (len(self.steps), self.seeds, len(ways), len(places(self.points)))
        missing = np.full(shape[-1], np.nan)
        values = {name: np.reshape([each.get(name, missing) for each in found], shape) for name in names}
        dims = ("fork_step", "seed", "pair", "alpha")
        return xr.Dataset(
            {name: (dims, column) for name, column in values.items()},
            {
                "fork_step": ("fork_step", list(self.steps), {"units": "optimizer steps"}),
                "seed": [self.config.seed + seed for seed in range(self.seeds)],
                "pair": [f"{i}-{j}" for i, j in ways],
                "alpha": places(self.points),
            },
        )

    def _require_early_steps(self) -> None:
        count = len(load_data(self.config.data, **self.config.data_options).train.targets)
        batch = count if self.config.batch_size == "all" else self.config.batch_size
        steps = -(-count // batch) * self.config.epochs
        if self.steps[-1] >= steps:
            raise ValueError(
                f"a fork after step {self.steps[-1]} is not before the end of this training, which has {steps} steps "
                f"({-(-count // batch)} an epoch); fork earlier or train longer"
            )

    def _about(self) -> str:
        return json.dumps({**asdict(self), "config": self.config.to_dict()}, sort_keys=True)


def instabilities(lines: xr.Dataset) -> xr.Dataset:
    """Summarize the lines between the ways of forks, seeds as the unit.

    Args:
        lines: loss, accuracy, ... over (fork_step, seed, pair, alpha).

    Returns:
        The lines with `barrier` over (fork_step, seed, pair, metric, definition); `instability`, the mean over seeds of
        that by Frankle et al. (a seed is the mean of its pairs), with `instability_low` and `instability_high`,
        Student's 95% interval, over (fork_step, metric); `spearman` of the fork's step and the instability over
        (metric,), and for each seed over (seed, metric); `stable_from` over (metric,): the first fork from which on the
        instability of an error is below 2%, NaN where there is none.
    """
    answer = with_barriers(lines)
    of_seeds = answer["barrier"].sel(definition="frankle").mean("pair").transpose("seed", "fork_step", "metric")
    mean, error = mean_and_error(of_seeds.values)
    reach = student_factor(len(of_seeds)) * error if len(of_seeds) > 1 else error
    dims, units = ("fork_step", "metric"), answer["barrier"].attrs
    answer["instability"] = (dims, mean, {**units, "long_name": "linear-interpolation instability"})
    answer["instability_low"], answer["instability_high"] = (dims, mean - reach, units), (dims, mean + reach, units)
    steps, metrics = answer["fork_step"].values, [str(metric) for metric in answer["metric"].values]
    correlation = [_spearman(steps, column) for column in mean.T]
    answer["spearman"] = ("metric", correlation, {"long_name": "rank correlation of step and instability"})
    of_each = [[_spearman(steps, column) for column in one.T] for one in of_seeds.values]
    answer["seed_spearman"] = (("seed", "metric"), of_each)
    stable = [_stable_from(steps, c) if m.endswith("error") else np.nan for m, c in zip(metrics, mean.T, strict=True)]
    about = {
        "units": "optimizer steps",
        "long_name": f"first fork from which on the mean over seeds is stable ({STABLE:.0%})",
    }
    answer["stable_from"] = ("metric", stable, about)
    return answer.assign_attrs(stable=STABLE)


def fork_rows(answer: xr.Dataset) -> list[dict[str, Any]]:
    """List the instability of each fork: mean and interval; that of errors is a share of the examples."""
    rows = []
    for step in answer["fork_step"].values:
        row: dict[str, Any] = {"fork_step": int(step)}
        for metric in map(str, answer["metric"].values):
            one = answer.sel(fork_step=step, metric=metric)
            low, mean, high = (float(one[f"instability{end}"]) for end in ("_low", "", "_high"))
            row |= {metric: mean, f"{metric}_interval": f"{low:.3g} to {high:.3g}"}
        rows.append(row)
    return rows


def _line(points: int, pair: Sequence[str]) -> dict[str, Any]:
    """Measure the line between two runs; nothing where one failed or diverged."""
    if any((Path(folder) / "failure.json").exists() for folder in pair):
        return {}
    try:
        objective, thetas = join({folder: open_run(folder) for folder in pair})
    except WeightsError:
        return {}
    travel = Travel(objective, thetas[0], thetas[1:], "line")
    found = [travel.metrics(0, float(alpha)) for alpha in places(points)]
    return {name: np.array([each[name] for each in found]) for name in found[0]}


def _spearman(steps: np.ndarray, values: np.ndarray) -> float:
    """Rank correlation; NaN for fewer than two different values."""
    from scipy.stats import rankdata

    if len(steps) < 2 or not np.isfinite(values).all() or np.ptp(values) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(steps), rankdata(values))[0, 1])


def _stable_from(steps: np.ndarray, values: np.ndarray) -> float:
    is_stable = np.flip(np.logical_and.accumulate(np.flip(values < STABLE)))
    return float(steps[is_stable.argmax()]) if is_stable.any() else float("nan")
