"""What a training takes over from other runs: weights, old examples and a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from landscape.weights import digest_tensors
from models.config import RunConfig
from models.data import Splits
from models.opened import open_run
from models.transfer.anchors import ANCHORS, Before, Memory, anchor_names, needs_ancestors
from models.transfer.start import Copied, ancestors, require_unchanged_ancestors, start_from


@dataclass(frozen=True)
class Beginning:
    """Where a training begins.

    Attributes:
        config: Of the training.
        copied: What became of the start's tensors; None without a start.
    """

    config: RunConfig
    copied: Copied | None

    @classmethod
    def of(cls, config: RunConfig, network: nn.Module, data: Splits) -> Beginning:
        """Copy the start's weights into a network, and refuse what the anchor cannot use.

        Raises:
            MissingError: If a run is not there, or has not finished.
            ValueError: If the start has another architecture, or its data or the teacher's classes do not fit.
        """
        copied = None if config.start is None else start_from(network, config, config.start)
        if needs_ancestors(config.anchor):
            require_unchanged_ancestors(config.start)
            _require_old_data(config, data)
        if copied is not None and not copied.reinitialized:
            _refuse_idle_beta(config.anchor)
        if "distill" in anchor_names(config.anchor):
            _require_teacher(config.teacher or str(config.start), network, data)
        return cls(config, copied)

    def about(self) -> dict[str, Any]:
        """Return what run.json says of it."""
        found: dict[str, Any] = {}
        for name in ("start", "teacher"):
            folder = getattr(self.config, name)
            if folder is not None:
                found[f"{name}_sha256"] = digest_tensors(open_run(folder).model().state_dict())
        if self.copied is not None:
            found["copied"], found["reinitialized"] = len(self.copied.names), list(self.copied.reinitialized)
        return found

    def memory(self, device: torch.device) -> Memory:
        """Load what an anchor may know, onto a device; of data only what rehearsal and EWC read."""
        names = anchor_names(self.config.anchor)
        runs = ancestors(self.config.start)
        if not needs_ancestors(self.config.anchor):
            runs = runs[:1]
        before = [Before(run.model().to(device), run.data().train.to(device)) for run in runs]
        teacher = self.config.teacher or self.config.start
        network = None if "distill" not in names else open_run(str(teacher)).model().to(device)
        return Memory(before, () if self.copied is None else self.copied.names, network)


def _refuse_idle_beta(anchor: str) -> None:
    for name, options in ANCHORS.read_all(anchor):
        if name == "l2-sp" and options.get("beta"):
            raise ValueError(
                f"anchor {anchor!r}: beta of l2-sp is for a classifier that begins anew, but all weights were copied; "
                "leave it out, or give weight_decay"
            )


def _require_old_data(config: RunConfig, data: Splits) -> None:
    for run in ancestors(config.start):
        old = run.data()
        if (old.input_shape, old.num_classes) != (data.input_shape, data.num_classes):
            raise ValueError(
                f"anchor {config.anchor!r} needs old data of the same shape and classes; {run.folder} has "
                f"{old.input_shape} and {old.num_classes}, here are {data.input_shape} and {data.num_classes}; "
                "choose l2-sp"
            )


@torch.no_grad()
def _require_teacher(folder: str, network: nn.Module, data: Splits) -> None:
    teacher = open_run(folder).model()
    try:
        outputs = teacher(data.train.inputs[:2]).shape[1]
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the teacher {folder} cannot take inputs of shape {data.input_shape}: {error}") from error
    if outputs != data.num_classes:
        raise ValueError(
            f"the teacher {folder} tells {outputs} classes apart, the data has {data.num_classes}; "
            "choose another teacher"
        )
