"""A sweep: many runs and probes of them as one job that can be interrupted."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import xarray as xr

from landscape.execution import LostWorkError, Progress, Work, num_workers, open_executor, resumable_map, working
from landscape.measure import kebab
from landscape.provenance import provenance
from landscape.store import Journal, Store
from landscape.sweeps import PLAN, SCHEMA_VERSION, Row, is_current, open_sweep
from models.config import RunConfig
from models.data import load_data
from models.space import Space
from models.sweep.job import Job, Task, digest_of, is_failed, settle, settle_lost, unpacked
from models.sweep.plan import Plan, make_plan
from models.trials import Batch, Stack, batches
from models.watching import read_probe

_PAUSES = (0.0, 2.0, 10.0, 30.0)  # seconds before runs that another process held are tried again, and again


@dataclass(frozen=True)
class Sweep:
    """Train every combination of values, or runs of a list, and ask probes of each that has finished.

    Each run lies in a folder of its own, named by its configuration's hash. What exists is never trained again, in
    whatever sweep of the same folder it was trained, or by hand; a run whose folder was removed is trained again.

    Attributes:
        space: Values that are crossed with each other, and one value for every other field; no snapshots are kept
            unless it says so.
        probes: What is asked of each finished run, as in "spectrum:k=1".
        runs: Further fields that are chosen together, one mapping a run; each is crossed with the space.
        stack: Whether runs that differ in seed, initialization or rates alone are trained together: auto, where a
            measurement says that it pays; never; or always, wherever it is possible. What a run becomes is the same up
            to rounding.
    """

    space: Space
    probes: tuple[str, ...] = ()
    runs: tuple[Mapping[str, Any], ...] = ()
    stack: Stack = "auto"

    def __post_init__(self) -> None:
        """Build every run and probe, so that nothing is trained of a sweep that cannot end well.

        Raises:
            ValueError: If nothing varies, a run or a probe is there twice or cannot be run.
        """
        asked = [read_probe(text) for text in self.probes]
        for text, probe in zip(self.probes, asked, strict=True):
            if asked.count(probe) > 1:
                raise ValueError(f"probe {text!r} is there twice; ask it once")
        _ = self.batches

    @cached_property
    def plan(self) -> Plan:
        """The runs by their cells."""
        return make_plan(self.space, self.runs)

    @cached_property
    def batches(self) -> list[Batch]:
        """The runs that are trained by one worker each, several of them together."""
        return batches(self.configs, self.stack)

    @property
    def configs(self) -> list[RunConfig]:
        """All runs."""
        return list(self.plan.runs.values())

    @property
    def labels(self) -> dict[str, str]:
        """What the variables of each probe begin with, and how it is written."""
        found: dict[str, str] = {}
        counts: Counter[str] = Counter()
        for text in self.probes:
            word = kebab(type(read_probe(text)).__name__).replace("-", "_")
            counts[word] += 1
            found[word if counts[word] == 1 else f"{word}_{counts[word]}"] = text
        return found

    @property
    def question(self) -> dict[str, Any]:
        """Everything that the values of the answer depend on."""
        dims = {name: list(values) for name, values in self.plan.dims.items()}
        runs = {config.hash: position for position, config in self.plan.runs.items()}
        return {"dims": dims, "runs": runs, "probes": self.labels}

    @property
    def name(self) -> str:
        """The answer's name, by everything its values depend on."""
        text = json.dumps(self.question, sort_keys=True)
        return f"sweep-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def __call__(
        self,
        out: str | Path,
        executor: str | Executor = "processes",
        progress: Progress | None = None,
        watch: Callable[[Counts], None] | None = None,
        retry_failed: bool = False,
    ) -> xr.Dataset:
        """Train and ask what is missing, and open all of it.

        Args:
            out: Folder of the plan (`sweep.json`), the journal, the answer and the folders of the runs.
            executor: Where runs are trained, as `landscape.execution.open_executor` names it, or one that is open.
                Workers of a cluster must see the folder under the same path.
            progress: Called with ("runs", runs done, runs in all).
            watch: Called with the number of runs in each state.
            retry_failed: Whether what has failed is tried again; otherwise its error is kept.

        Returns:
            As `landscape.open_sweep` says.

        Raises:
            ValueError: If the data cannot be loaded.
            StoreError: If a file cannot be written, or another process is at work on this sweep.
            RuntimeError: If a cluster is lost; what is finished is saved.
        """
        self._require_data()
        store = Store(out)
        with store.lock(), store.journal(PLAN) as journal:
            tasks, counts = self.left(store.path, retry_failed)
            opened = open_executor(executor) if isinstance(executor, str) and tasks else nullcontext(executor)
            with opened as engine:
                self.save_plan(store)  # once there are workers: a wrong word for them takes the place of no plan
                rows = _Rows(journal, counts, progress, watch)
                rows.tell()
                for pause in _PAUSES:
                    if tasks and not isinstance(engine, str):
                        time.sleep(pause)
                        self._settle(store, tasks, rows, engine)
                        tasks, _ = self.left(store.path)
            answer = open_sweep(out)
            store.write(self.name, answer)
            for name in store.names(f"{PLAN}-*"):
                if name != self.name:  # of the plan that this one takes the place of
                    (store.path / f"{name}.h5").unlink()
        return answer

    def left(self, out: Path, retry_failed: bool = False) -> tuple[list[Task], Counts]:
        """List what there is to do in a folder, which need not exist, and count what is done."""
        rows = Store(out, create=False).journal(PLAN).records() if out.is_dir() else {}
        tasks, counts = [], Counts(total=len(self.plan.runs))
        for batch in self.batches:
            known = {config.hash: rows.get(config.hash, {}) for config in batch.configs}
            again = frozenset(name for name, row in known.items() if retry_failed and is_failed(row))
            done = {name for name, row in known.items() if is_current(out / name, row) and self._has_asked(row)} - again
            counts.states.update(known[name]["status"] for name in done)
            left = tuple(config for config in batch.configs if config.hash not in done)
            seconds = {c.hash: known[c.hash]["wall_seconds"] for c in left if "wall_seconds" in known[c.hash]}
            tasks += [Task(left, seconds, again)] if left else []
        return tasks, counts

    def _has_asked(self, row: Row) -> bool:
        return set(self.probes) <= set(json.loads(row.get("probes", "{}")))

    def _require_data(self) -> None:
        """Load each data set once: what is missing fails here, and not in every run."""
        for config in {config.data: config for config in self.configs}.values():
            load_data(config.data, **config.data_options)

    def save_plan(self, store: Store) -> None:
        """Write the plan into a folder, in the place of an older one."""
        plan = {"schema_version": SCHEMA_VERSION, "kind": "sweep", **self.question}
        before = store.load_json(PLAN) if (store.path / f"{PLAN}.json").exists() else {}
        if any(before.get(name) != value for name, value in plan.items()):
            fields = {"fixed": self.space.fixed, "probes": self.probes, "dims": plan["dims"]}
            about = {"question": json.loads(json.dumps(fields, default=str)), "provenance": provenance()}
            store.save_json(PLAN, {**plan, **about})

    def _settle(self, store: Store, tasks: Sequence[Task], rows: _Rows, engine: Executor) -> None:
        """Do what there is to do, and write a row as soon as a run is done."""
        job = Job(str(store.path.absolute()), digest_of(store.path), self.probes)
        with working(Work(engine, rows, scratch=store.path)):
            rows.begin(num_workers())
            try:
                resumable_map(settle, job, tasks, stage="runs")
            except LostWorkError as lost:
                self._settle_lost(job, [tasks[place] for place in lost.places], rows)

    def _settle_lost(self, job: Job, tasks: Sequence[Task], rows: _Rows) -> None:
        """Give the runs of stacks that killed their workers a worker each; those that kill them alone have failed."""
        alone = [one for task in tasks for one in task.alone()]
        places = range(len(alone))
        if len(alone) > len(tasks):
            try:
                resumable_map(settle, job, alone, stage="runs of stacks")
                return
            except LostWorkError as lost:
                places = lost.places
        for place in places:
            (config,) = alone[place].configs
            rows.append(config.hash, settle_lost(job, config))


@dataclass
class Counts:
    """How far a sweep is.

    Attributes:
        total: Runs in all.
        states: How many runs have ended in each state: finished, diverged or failed; missing are those that another
            process holds.
        begun: How many of them were there before.
        workers: How many runs are trained at a time.
        started: When this work began, on the clock of `time.monotonic`.
    """

    total: int
    states: Counter[str] = field(default_factory=Counter)
    begun: int | None = None
    workers: int = 1
    started: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """Runs that have ended."""
        return sum(self.states.values())

    @property
    def running(self) -> int:
        """Runs that are being trained, at most."""
        return min(self.workers, self.total - self.done)

    @property
    def seconds_left(self) -> float | None:
        """By what was done since this work began; None before the first run has ended."""
        done = self.done - (self.begun or 0)
        return (time.monotonic() - self.started) / done * (self.total - self.done) if done else None


class _Rows:
    """The journal of a map over runs: keeps each row under the name of its run, and counts."""

    def __init__(
        self,
        journal: Journal,
        counts: Counts,
        progress: Progress | None,
        watch: Callable[[Counts], None] | None,
    ) -> None:
        self._journal, self._counts = journal, counts
        self._progress, self._watch = progress, watch
        counts.begun = counts.done

    def begin(self, workers: int) -> None:
        """Begin to train what is left, also what another process held before."""
        self._counts.workers = workers
        self._counts.states.pop("missing", None)
        self.tell()

    def records(self) -> dict[str, dict[str, Any]]:
        """Nothing that the tasks ask for is known: what is done is no task."""
        return {}

    def append(self, key: str, row: dict[str, Any], sync: bool = True) -> None:
        """Keep a row."""
        rows = unpacked(row)
        for number, (name, values) in enumerate(rows.items(), 1):
            self._counts.states[values["status"]] += 1
            if values["status"] != "missing":
                self._journal.append(name, values, sync and number == len(rows))
        self.tell()

    def tell(self) -> None:
        """Tell whoever watches."""
        if self._progress is not None:
            self._progress("runs", self._counts.done, self._counts.total)
        if self._watch is not None:
            self._watch(self._counts)
