"""One training of a stack in Lightning, from its configurations to the sealed files of each run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from landscape.callbacks.answers import training_of, trajectory_of
from landscape.callbacks.rows import Rows
from landscape.execution import Progress
from landscape.parameters import ParameterLayout
from landscape.provenance import provenance
from landscape.store import Store
from models.config import RunConfig
from models.data import Splits, load_data
from models.resuming import Interruption
from models.run import is_finished
from models.stacking.batches import StackedExamples, StackedLoader
from models.stacking.module import StackedClassifier
from models.stacking.recording import NOT_RECORDED, MemberTables, StackRecording
from models.stacking.rows import Rates, copy_member, rows_optimizer
from models.stacking.running import STACK_FILE
from models.training import Training, make_trainer, own_settings


class StackTraining:
    """Runs trained together.

    Attributes:
        members: Each run, as it would be trained alone.
        stores: The folder of each.
        module: All of them.
    """

    def __init__(self, configs: Sequence[RunConfig], stores: Sequence[Store]) -> None:
        """Load and build everything; nothing is written."""
        data = _shared_data(configs)
        self.members = [Training(c, data[_key(c)]) for c in configs]
        self.stores = stores
        first = self.members[0]
        self.config, self.device = first.config, first.device
        build = partial(
            rows_optimizer,
            rates=[_rates(member) for member in self.members],
            name=self.config.optimizer_name,
            options=self.config.optimizer_options,
        )
        self.module = StackedClassifier(
            [member.network for member in self.members],
            build,
            first.schedule(),
            first.rules(),
            self.config.label_smoothing,
        )

    def run(self, progress: Progress | None) -> None:
        """Train to the end, from the last checkpoint if there is one, and seal every run."""
        self._announce()
        home = self.stores[0]
        checkpoint, rows = home.path / f"{STACK_FILE}.safetensors", Rows(home.journal(STACK_FILE))
        recording = StackRecording(rows, checkpoint, self.config.snapshots, self._watched(), progress)
        interruption = Interruption()
        with own_settings(self.config.threads, self.device):
            trainer = make_trainer(self.config, self.device, home.path, [interruption, recording])
            loader = StackedLoader(
                [m.loader for m in self.members], self._stacked([m.data.train for m in self.members])
            )
            try:
                trainer.fit(self.module, loader, ckpt_path=str(checkpoint) if checkpoint.exists() else None)
            except SystemExit:
                if interruption.cause is None:
                    raise
                raise interruption.cause from None
            self._seal(rows, trainer.optimizers[0])

    def _announce(self) -> None:
        for member, store in zip(self.members, self.stores, strict=True):
            member.announce(store)
        home = self.stores[0]
        places = [os.path.relpath(store.path, home.path) for store in self.stores]
        names = {"members": dict(zip([member.config.hash for member in self.members], places, strict=True))}
        if not (home.path / f"{STACK_FILE}.json").exists() or home.load_json(STACK_FILE) != names:
            (home.path / f"{STACK_FILE}.safetensors").unlink(missing_ok=True)  # of other runs
            home.save_json(STACK_FILE, names)

    def _watched(self) -> dict[str, StackedExamples]:
        parts = [member.watched() for member in self.members]
        return {name: self._stacked([part[name] for part in parts]) for name in parts[0]}

    def _stacked(self, parts: Sequence[Any]) -> StackedExamples:
        return StackedExamples(parts, self.device)

    def _seal(self, rows: Rows, optimizer: torch.optim.Optimizer) -> None:
        tables = {name: rows.table(name) for name in ("step", "epoch", "snapshot")}
        layout = self.module.layout
        for number in reversed(range(len(self.members))):
            member, store = self.members[number], self.stores[number]
            if is_finished(store, member.config):
                continue
            _set(member, self.module.theta[number].detach().cpu(), layout)
            alone = member.optimizer()([p for p in member.network.parameters() if p.requires_grad])
            copy_member(optimizer, number, alone, layout)
            self._write(member, store, MemberTables(tables, number, _layers(layout)), member.results(store, alone))

    def _write(self, member: Training, store: Store, tables: MemberTables, results: dict[str, float]) -> None:
        """Seal one run; its training comes last, since it says that the run is finished."""
        layout, together = self.module.layout, {"stacked_with": len(self.members)}
        about: dict[str, Any] = {"finished": True, "every": 1, "flow_every": 0, **provenance(self.device), **together}
        trajectory = trajectory_of(tables, layout)
        training = training_of(tables, [layout.names[index] for index in tables.layers])
        training = training.assign({name: ((), float(value)) for name, value in results.items()})
        store.save_json("run", {**store.load_json("run"), **together})
        for name in ("training", "trajectory"):
            store.journal(name).discard()  # of a training alone that was interrupted
        (store.path / "resume.safetensors").unlink(missing_ok=True)
        store.write("trajectory", trajectory.assign_attrs(probe="trajectory", **about))
        about |= {"probe": "training-dynamics", "not_recorded": NOT_RECORDED}
        store.write("training", training.assign_attrs(about))


def _key(config: RunConfig) -> str:
    return repr(config.data_options)


def _shared_data(configs: Sequence[RunConfig]) -> dict[str, Splits]:
    """Load the data of each run once; inputs that are equal to those of the first share their memory."""
    found: dict[str, Splits] = {}
    for config in configs:
        if _key(config) not in found:
            splits = load_data(config.data, **config.data_options)
            found[_key(config)] = _sharing(splits, next(iter(found.values()), splits))
    return found


def _sharing(splits: Splits, known: Splits) -> Splits:
    parts = {}
    for name in ("train", "val", "test"):
        own, other = getattr(splits, name), getattr(known, name)
        if own is not None and torch.equal(own.inputs, other.inputs):
            parts[name] = own._replace(inputs=other.inputs)
    return replace(splits, **parts)


def _rates(member: Training) -> Rates:
    c = member.config
    return Rates(member.lr, 0.0 if c.decoupled else c.weight_decay, c.weight_decay if c.decoupled else 0.0)


def _layers(layout: ParameterLayout) -> list[int]:
    """The parameters of two or more axes; all where there are none, as in `TrainingDynamics`."""
    return [n for n, shape in enumerate(layout.shapes) if len(shape) > 1] or list(range(len(layout.names)))


@torch.no_grad()
def _set(member: Training, vector: torch.Tensor, layout: ParameterLayout) -> None:
    parameters = dict(member.network.named_parameters())
    for name, value in layout.unflatten(vector).items():
        parameters[name].copy_(value)
