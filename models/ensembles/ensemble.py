"""An ensemble: which members, which views, how they are averaged; asked of one run or of several."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from landscape.execution import Progress
from landscape.provenance import provenance
from landscape.store import Journal, Store
from landscape.weights import digest_tensors
from models.data import Splits
from models.ensembles.combining import AverageOf
from models.ensembles.members import MEMBERS, Member
from models.ensembles.predictions import Asked, Predictions, log_probabilities
from models.ensembles.report import report_on
from models.ensembles.scores import Array
from models.ensembles.shared import data_of, shared_test
from models.ensembles.views import VIEWS, View, make_views
from models.opened import Run

_MOST_BYTES = 2 * 2**30  # of all members' predictions, which are in memory at once


@dataclass(frozen=True)
class Ensemble:
    """Average the predictions of several networks, snapshots, draws or views on the test split.

    Attributes:
        members: Who predicts: runs, the weights that each run kept; snapshots, where the rate of a run's cycles
            (cosine-restarts, swa, fge, triangular) was lowest, or snapshots:last=N; dropout:N, as many draws of a
            network with dropout (dropout:N,seed=1).
        views: What each looks at: plain, or crops (crops:scales=1/1.143,places=center,flips=yes), four corners and the
            center of the inputs at each scale, mirrored too with flips.
        average: What is averaged: probabilities, or logits, their normalized geometric mean.
        subsets: Random subsets of members for each smaller ensemble; all where there are no more.
        resamples: Of the bootstrap over test examples.
        bins: Of the calibration error.
        per_example: Also keep probabilities and uncertainty of every test example.
        seed: Of subsets and bootstrap.
    """

    members: str = "runs"
    views: str = "plain"
    average: AverageOf = "probabilities"
    subsets: int = 20
    resamples: int = 2000
    bins: int = 15
    per_example: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be asked of any run.

        Raises:
            ValueError: If a name is unknown, an option is not taken, or a number is out of range.
        """
        for registry in (MEMBERS, VIEWS):
            object.__setattr__(self, registry.kind, registry.write(*registry.read(getattr(self, registry.kind))))
        for name, least in (("subsets", 1), ("resamples", 100), ("bins", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def __call__(
        self,
        runs: Mapping[str, Run],
        *,
        device: torch.device | None = None,
        journal: Journal | None = None,
        progress: Progress | None = None,
    ) -> xr.Dataset:
        """Predict, and compare the average with those it is made of.

        Args:
            runs: By the names that the answer gives them.
            device: Where to predict; the CPU if None.
            journal: Where finished predictions are kept and found.
            progress: Called with ("members", members done, members in all).

        Returns:
            What `models.ensembles.report.report_on` returns; the coordinates of `member` are the run, the name and the
            view of each, and the seed of what it drew (-1 where it drew nothing).

        Raises:
            ValueError: As `plan` does, or if a prediction is not finite.
        """
        splits, asked = self.plan(runs)
        predictions = Predictions(device or torch.device("cpu"), journal, progress)
        members = log_probabilities(predictions.of(runs, splits, asked))
        targets = next(iter(splits.values())).test.targets.numpy()
        answer = report_on(
            members,
            targets,
            self._plain(runs, splits, predictions),
            average=self.average,
            subsets=self.subsets,
            resamples=self.resamples,
            bins=self.bins,
            seed=self.seed,
            per_example_too=self.per_example,
        )
        return answer.assign_coords(_labels(asked)).assign_attrs(
            probe="ensemble",
            probe_fields=json.dumps(asdict(self), sort_keys=True),
            normalization="recalibrated" if self.members.startswith("snapshots") else "running",
            num_examples=len(targets),
        )

    def plan(self, runs: Mapping[str, Run]) -> tuple[dict[str, Splits], list[Asked]]:
        """Load the data and list who predicts what, before anything is computed.

        Raises:
            ValueError: If the runs have no test data in common, members or views do not suit a run, there is no more
                than one member, or their predictions would take more than 2 GiB.
        """
        splits = shared_test(runs)
        asked = []
        for name, run in runs.items():
            views = make_views(self.views, splits[name].input_shape, data_of(run)[0])
            asked += [Asked(name, member, views) for member in MEMBERS.build(self.members, run)]
        number = sum(len(one.views) for one in asked)
        if number < 2:
            raise ValueError(
                "an ensemble needs at least two members, got one; give several runs, or choose other members, as in "
                "--members dropout:20 or snapshots, or --views crops"
            )
        first = next(iter(splits.values()))
        size = 8 * number * len(first.test.targets) * first.num_classes
        if size > _MOST_BYTES:
            raise ValueError(
                f"the predictions of {number} members would take {size / 2**30:.1f} GiB, more than 2; "
                "choose fewer runs, members or views"
            )
        return splits, asked

    def _plain(self, runs: Mapping[str, Run], splits: Mapping[str, Splits], predictions: Predictions) -> Array | None:
        """What the networks predict as they are; None where these are the members."""
        if (self.members, self.views) == ("runs", "plain"):
            return None
        as_it_is = [View("plain", lambda inputs: inputs)]
        asked = [Asked(name, Member("", run.model), as_it_is) for name, run in runs.items()]
        return log_probabilities(replace(predictions, journal=None, progress=None).of(runs, splits, asked))


def ask_ensemble(
    ensemble: Ensemble,
    runs: Mapping[str, Run],
    out: Path,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> tuple[str, xr.Dataset]:
    """Answer from a folder, computing what is missing; what is finished is never computed again.

    Args:
        ensemble: The question.
        runs: By the names that the answer gives them.
        out: The folder, made once the question has been found to suit the runs.
        device: Where to predict; the CPU if None.
        progress: Called with ("members", members done, members in all).

    Returns:
        The answer's name in the folder, by everything its values depend on, and the answer.

    Raises:
        ValueError: As `Ensemble` does.
        LockedError: If another process is at work in the folder.
    """
    question = {"fields": asdict(ensemble), "runs": {name: _identity(run) for name, run in runs.items()}}
    text = json.dumps(question, sort_keys=True)
    name = f"ensemble-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if (out / f"{name}.h5").is_file():
        return name, Store(out, create=False).read(name)
    ensemble.plan(runs)  # what does not fit fails before a folder is made
    store, started = Store(out), time.monotonic()
    with store.lock(), store.journal(name) as journal:
        answer = ensemble(runs, device=device, journal=journal, progress=progress)
        attrs = {
            "runs": json.dumps(question["runs"], sort_keys=True),
            **provenance(device or torch.device("cpu")),
            "wall_seconds": time.monotonic() - started,
        }
        store.write(name, answer.assign_attrs(attrs))
        journal.discard()
    return name, store.read(name)


def _labels(asked: list[Asked]) -> dict[str, Any]:
    rows = [
        (run, member.name, view.name, -1 if member.seed is None else member.seed)
        for run, member, views in asked
        for view in views
    ]
    runs, names, views, seeds = zip(*rows, strict=True)
    return {
        "member_run": ("member", list(runs)),
        "member_name": ("member", list(names)),
        "member_view": ("member", list(views)),
        "member_seed": ("member", np.array(seeds, np.int64)),
    }


def _identity(run: Run) -> dict[str, str]:
    """What the predictions of a run depend on."""
    weights = digest_tensors(run.model().state_dict())
    trajectory = str(run.store.read("trajectory").attrs["content_digest"]) if run.store.has("trajectory") else ""
    return {"weights_sha256": weights, "data_sha256": str(run.about["data_sha256"]), "trajectory": trajectory}
