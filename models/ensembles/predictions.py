"""What members predict on the test split, kept in a journal until all have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from landscape.execution import Progress
from landscape.provenance import device_name
from landscape.store import Journal
from models.data import Splits
from models.ensembles.members import Member, predict
from models.ensembles.scores import Array, log_softmax
from models.ensembles.views import View
from models.opened import Run

Key = tuple[str, str, str]
"""The names of a run, of one of its members and of a view."""


class Asked(NamedTuple):
    """One member of a run, and the views that it looks at."""

    run: str
    member: Member
    views: list[View]


@dataclass(frozen=True)
class Predictions:
    """Logits of members, from a journal or computed into it.

    Pieces of another torch version or device are not taken, since their numbers are not bit-equal.
    """

    device: torch.device
    journal: Journal | None = None
    progress: Progress | None = None

    def of(self, runs: Mapping[str, Run], splits: Mapping[str, Splits], asked: list[Asked]) -> dict[Key, np.ndarray]:
        """Return logits (N, K) by run, member and view, in the order that was asked for."""
        recipe = f"torch {torch.__version__} on {device_name(self.device)}"
        done = self.journal.records() if self.journal else {}
        found: dict[Key, np.ndarray] = {}
        for count, (run, member, views) in enumerate(asked, start=1):
            key = f"{recipe}/{run}/{member.name}"
            if key not in done:
                done[key] = {"logits": self._computed(member, views, splits[run])}
                if self.journal:
                    self.journal.append(key, done[key])
            logits = np.asarray(done[key]["logits"])
            _require_finite(logits, runs[run], member)
            found |= {(run, member.name, view.name): one for view, one in zip(views, logits, strict=True)}
            if self.progress:
                self.progress("members", count, len(asked))
        return _require_alike(found)

    def _computed(self, member: Member, views: list[View], splits: Splits) -> np.ndarray:
        with member.predicting(self.device) as network:
            return np.stack([predict(network, view.of(splits.test.inputs)).numpy() for view in views])


def log_probabilities(logits: Mapping[Key, np.ndarray]) -> Array:
    """Turn logits (N, K) of M predictions into log-probabilities (M, N, K)."""
    return log_softmax(np.stack(list(logits.values())))


def _require_finite(logits: np.ndarray, run: Run, member: Member) -> None:
    if not np.isfinite(logits).all():
        who = f"{run.folder}{f' at {member.name}' if member.name else ''}"
        raise ValueError(f"{who} predicts values that are not finite on the test data; leave it out")


def _require_alike(found: dict[Key, np.ndarray]) -> dict[Key, np.ndarray]:
    (first, one), *rest = found.items()
    for key, other in rest:
        if other.shape != one.shape:
            raise ValueError(
                f"{key[0]} tells {other.shape[1]} classes apart and {first[0]} {one.shape[1]}; "
                "an ensemble averages over the same classes: choose runs that have them"
            )
    return found
