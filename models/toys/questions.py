"""One race as a question: what it is made of, what its answer is called, and the answer as rows of a table."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import xarray as xr

from landscape.execution import Progress
from landscape.fields import settle
from landscape.store import Journal
from models.optimizers import check_optimizer
from models.toys.online import FORMS, adam_options, online
from models.toys.paths import read_racers
from models.toys.racing import NEWTONS, RACERS, TOLERANCE, basins, race, sweep
from models.toys.registry import TOYS, OnlineToy

SWEPT = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""The learning rates of a sweep, where none are given."""
_STEPS = {"race": 2000, "race-sweep": 2000, "race-basins": 300}
_OPTIMIZERS = {"race": RACERS, "race-sweep": RACERS, "race-basins": NEWTONS, "race-online": ",".join(FORMS)}


@dataclass(frozen=True)
class Race:
    """Which optimizers race over which toy.

    Attributes:
        toy: The toy, with its options, as in bowl:condition=1000; --list shows all.
        optimizers: By commas, with options, and with @ a learning rate of their own, as in
            sgd,momentum:form=ema,adadelta@1; what is usual for the race if left out.
        lr: Learning rate, several by commas for a sweep; for each its usual one if left out.
        steps: Of every optimizer; 2,000 if left out, 300 from many starts, and on an online problem what that needs.
        start: Where all begin, as in 1,1.5; where the toy says if left out.
        noise: Standard deviation of Gaussian noise on each entry of the gradient, the same for every optimizer.
        seed: Of the noise, of the starts, and of an online problem that draws its losses.
        tolerance: Closer to a minimum than this it is reached.
        sweep: Race with each of several learning rates, since the order depends on them.
        starts: Race from so many random starts around the saddle and count where they end.
        spread: Standard deviation of these starts.

    Raises:
        ValueError: If the toy or an optimizer is unknown, or the fields do not go together.
    """

    toy: str = "saddle"
    optimizers: str | None = None
    lr: tuple[float, ...] | None = None
    steps: int | None = None
    start: tuple[float, float] | None = None
    noise: float = 0.0
    seed: int = 0
    tolerance: float = TOLERANCE
    sweep: bool = False
    starts: int | None = None
    spread: float = 0.3

    def __post_init__(self) -> None:
        settle(self)
        self._require_together()
        racers = read_racers(_OPTIMIZERS[self.kind] if self.optimizers is None else self.optimizers)
        for racer in racers:
            for rate in self.lr or ():
                check_optimizer(racer.text, rate)
        problem = TOYS.build(self.toy)
        if isinstance(problem, OnlineToy):
            for racer in racers:
                adam_options(racer.text, problem.betas)
        usual = problem.steps if isinstance(problem, OnlineToy) else _STEPS[self.kind]
        # written out, so that equal questions have one name
        object.__setattr__(self, "toy", TOYS.write(*TOYS.read(self.toy)))
        object.__setattr__(self, "optimizers", ",".join(racer.label for racer in racers))
        object.__setattr__(self, "steps", usual if self.steps is None else self.steps)

    @property
    def kind(self) -> str:
        """Which of the four kinds of race it is."""
        if isinstance(TOYS.build(self.toy), OnlineToy):
            return "race-online"
        return "race-sweep" if self.sweep else "race-basins" if self.starts is not None else "race"

    @property
    def name(self) -> str:
        """What the answer is called, by everything that it depends on."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def answer(self, journal: Journal | None = None, progress: Progress | None = None) -> xr.Dataset:
        """Run the race.

        Args:
            journal: Where the finished races of a sweep are kept, and found again.
            progress: Called with (stage, races done, races in all) of a sweep.
        """
        racers, rate, steps = read_racers(self.optimizers or ""), self.lr[0] if self.lr else None, self.steps or 0
        shared: dict[str, Any] = {"seed": self.seed}
        if self.kind == "race-online":
            return online(self.toy, [racer.text for racer in racers], rate, self.steps, **shared)
        shared["tolerance"] = self.tolerance
        if self.kind == "race-basins":
            return basins(self.toy, racers, rate, steps, self.starts or 0, spread=self.spread, **shared)
        shared["noise"] = self.noise
        if self.kind == "race-sweep":
            return sweep(
                self.toy, racers, self.lr or SWEPT, steps, self.start, journal=journal, progress=progress, **shared
            )
        return race(self.toy, racers, rate, steps, self.start, **shared)

    def _require_together(self) -> None:
        if self.lr is not None and len(self.lr) != 1 and not self.sweep:
            raise ValueError(f"expected one learning rate, got {len(self.lr)}; --sweep races with each of them")
        unused = {
            "race-online": {"start", "noise", "sweep", "starts"},
            "race-basins": {"start", "noise"},
            "race-sweep": {"starts"},
        }.get(self.kind, set())
        if given := sorted(name for name in unused if getattr(self, name)):
            raise ValueError(f"a {self.kind} of toy {self.toy!r} takes no {', '.join(given)}; leave it out")


def rows(answer: xr.Dataset) -> list[dict[str, Any]]:
    """What a race came to, one row an optimizer: for a table."""
    return [_ROWS[answer.attrs["probe"]](answer.isel(optimizer=k)) for k in range(answer.sizes["optimizer"])]


def _race_row(one: xr.Dataset) -> dict[str, Any]:
    return {
        **_racer(one),
        "lr": float(one["lr"]),
        "escape step": _step(one["escape_step"]) if one.attrs["begins_at_saddle"] else "",
        "steps to the minimum": _step(one["goal_step"]) if one.attrs["level_is"] == "minimum" else "",
        "final loss": float(one["final_loss"]),
        "diverged": "yes" if one["diverged"] else "no",
    }


def _sweep_row(one: xr.Dataset) -> dict[str, Any]:
    goal = "goal_step" if one.attrs["level_is"] == "minimum" else "escape_step"
    cells = {}
    for k, rate in enumerate(one["lr"].values):
        at = one.isel(lr=k)
        cells[f"lr {rate:g}"] = "diverged" if at["diverged"] and math.isnan(at[goal]) else _step(at[goal])
    return {**_racer(one), **cells}


def _basins_row(one: xr.Dataset) -> dict[str, Any]:
    row = {**_racer(one), "lr": float(one["lr"])}
    for outcome in map(str, one["outcome"].values):
        at = one.sel(outcome=outcome)
        row[outcome] = f"{float(at['share']):.1%}"
        row[f"95% of {outcome}"] = f"{float(at['low']):.1%} to {float(at['high']):.1%}"
    return row


def _online_row(one: xr.Dataset) -> dict[str, Any]:
    return {
        **_racer(one),
        "x at the end": round(float(one["final_x"]), 4),
        "mean regret": float(one["regret"][-1]),
        "verdict": str(one["verdict"].item()),
    }


def _racer(one: xr.Dataset) -> dict[str, Any]:
    return {"optimizer": str(one["optimizer"].item())}


def _step(value: xr.DataArray) -> int | str:
    return "never" if math.isnan(value) else int(value)


_ROWS = {"race": _race_row, "race-sweep": _sweep_row, "race-basins": _basins_row, "race-online": _online_row}
