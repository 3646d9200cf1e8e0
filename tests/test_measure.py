from __future__ import annotations

import importlib
import json
import multiprocessing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr

import landscape
from landscape import measure
from landscape.execution import SerialExecutor, Work, resumable_map
from landscape.identity import digest
from landscape.measure import answer_name, answered, ask, kebab, probe_fields
from landscape.objective import Objective
from landscape.probes import (
    BUILT_IN,
    CriticalPoint,
    CurvatureSurface,
    GradientNoise,
    Layers,
    Rays,
    Sharpness,
    Slice,
    SpectralDensity,
    Spectrum,
    Stability,
    SubspaceOverlap,
    Surface,
    Symmetry,
    Trace,
)
from landscape.store import Store
from landscape.store.errors import LockedError
from tests.problems import TinyCNN, built, images, perceptron, vectors


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "run")


def cnn(**options) -> Objective:
    return Objective(built(TinyCNN), images(), loss=F.cross_entropy, **options)


def norm_at(objective, scale):
    NormAlong.calls.append(scale)
    if NormAlong.stop_at == len(NormAlong.calls):
        raise InterruptedError("the machine went away")
    return {"norm": (scale * objective.theta).norm().item(), "loss": objective.loss(scale * objective.theta).item()}


@dataclass(frozen=True)
class NormAlong:
    """A user's own probe, resumable point by point."""

    points: int = 4
    name: str = "plain"

    calls: ClassVar[list[float]] = []
    stop_at: ClassVar[int | None] = None

    def __call__(self, objective: Objective) -> xr.Dataset:
        scales = np.linspace(0, 1, self.points)
        found = resumable_map(norm_at, objective, scales.tolist())
        return xr.Dataset({key: ("scale", [f[key] for f in found]) for key in found[0]}, coords={"scale": scales})


@pytest.fixture(autouse=True)
def fresh_counts():
    NormAlong.calls, NormAlong.stop_at = [], None


def test_the_second_call_reads(store):
    objective = cnn()
    first = ask(NormAlong(), objective, store)
    passes = objective.num_passes
    second = ask(NormAlong(), objective, store)
    assert second.identical(first)
    assert len(NormAlong.calls) == 4
    assert objective.num_passes == passes
    third = ask(NormAlong(), cnn(), Store(store.path))
    assert third.identical(first)
    assert len(NormAlong.calls) == 4


def test_what_each_answer_carries(store):
    objective = cnn(also={"test": images(5, seed=2)})
    answer = ask(Slice(resolution=3, seed=2), objective, store)
    assert store.names() == [answer_name(Slice(resolution=3, seed=2), objective)]
    attrs = answer.attrs
    assert (attrs["probe"], attrs["probe_class"]) == ("slice", "landscape.probes.slices:Slice")
    assert json.loads(attrs["probe_fields"]) == {
        **{"directions": "filter", "resolution": 3, "radius": 1.0, "center": 0.0},
        **{"seed": 2, "seeds": 1, "one_dimensional": "zero", "rise": 10.0, "precision": "full"},
    }
    identity = objective.identity()
    for name in ("parameters_sha256", "data_sha256", "test_data_sha256", "normalization", "dtype", "num_examples"):
        assert attrs[name] == identity[name]
    assert json.loads(attrs["loss_values"]) == identity["loss_values"]
    assert attrs["loss_function"] == "torch.nn.functional.cross_entropy".removeprefix("torch.nn.")
    assert attrs["device"] == "cpu"
    assert attrs["threads"] == 1
    assert attrs["data_passes"] == 3  # three points and the centre
    assert attrs["wall_seconds"] > 0
    assert {"created_utc", "command", "git_commit", "git_dirty", "python", "torch", "landscape", "tf32"} <= set(attrs)
    assert answer.loss.attrs["units"] == "nats"


def test_the_name_changes_with_every_field_and_objective():
    base = answer_name(Surface(), cnn())
    others = [
        answer_name(probe, cnn())
        for probe in (
            Surface(directions="layer"),
            Surface(resolution=49),
            Surface(resolution=(51, 49)),
            Surface(radius=0.5),
            Surface(center=0.1),
            Surface(seed=1),
            Surface(seeds=2),
            Surface(one_dimensional="copy"),
        )
    ]
    moved = built(TinyCNN)
    with torch.no_grad():
        moved.fc.bias[0] += 1e-3
    objectives = [
        Objective(moved, images(), loss=F.cross_entropy),
        Objective(built(TinyCNN), images(seed=1), loss=F.cross_entropy),
        cnn(normalization="batch"),
        cnn(parameters="fc.*"),
        cnn(dtype=torch.float64),
        cnn(also={"test": images(5)}),
    ]
    names = [base, *others, *(answer_name(Surface(), objective) for objective in objectives)]
    assert len(set(names)) == len(names)
    assert answer_name(Surface(), cnn()) == base
    assert base.startswith("surface-")


@dataclass(frozen=True)
class Holder:
    value: object = None

    def __call__(self, objective):
        return xr.Dataset({"x": 1.0})


def test_fields_of_any_kind_tell_probes_apart():
    large = np.zeros(5000)
    changed = large.copy()
    changed[2500] = 1  # str() of it shows only the ends
    values = [
        *(None, 1, 1.5, "1", (1, 2), [1, 3], {"a": 1}, {"a": 2}, Path("x")),
        *(large, changed, torch.tensor(large), torch.tensor(changed), np.float32(0.25)),
    ]
    names = {answer_name(Holder(value), cnn()) for value in values}
    assert len(names) == len(values)
    assert probe_fields(Holder(np.float64(0.5))) == {"value": 0.5}


def test_a_users_probe_goes_on_after_an_interruption(store):
    whole = answered(NormAlong(points=6), cnn(), Work(SerialExecutor()))
    NormAlong.calls, NormAlong.stop_at = [], 4
    with pytest.raises(InterruptedError):
        ask(NormAlong(points=6), cnn(), store)
    name = answer_name(NormAlong(points=6), cnn())
    assert not store.has(name)
    assert len(store.journal(name).records()) == 3 + 1  # three points and the recipe
    assert not measure_is_locked(store)
    NormAlong.calls, NormAlong.stop_at = [], None
    answer = ask(NormAlong(points=6), cnn(), store)
    assert NormAlong.calls == np.linspace(0, 1, 6).tolist()[3:]
    assert xr.Dataset(answer.data_vars, answer.coords).equals(xr.Dataset(whole.data_vars, whole.coords))
    assert not store.journal(name).path.exists()


def measure_is_locked(store: Store) -> bool:
    """Whether another process is refused."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_is_locked, (str(store.path),))


def _is_locked(path: str) -> bool:
    try:
        with Store(path).lock():
            return False
    except LockedError:
        return True


def test_progress_is_reported_and_goes_on_where_it_was(store):
    seen = []
    ask(NormAlong(points=2), cnn(), store, progress=lambda *progress: seen.append(progress))
    assert seen == [("point", 0, 2), ("point", 1, 2), ("point", 2, 2)]


def test_an_executor_that_is_open_stays_open(store):
    executor = SerialExecutor()
    ask(NormAlong(points=2), cnn(), store, executor)
    assert executor.submit(abs, -1).result() == 1


def test_an_unknown_executor_is_refused_before_anything_is_computed(store):
    with pytest.raises(ValueError, match="executor must be serial, processes, processes:N or dask:ADDRESS, got 'gpu'"):
        ask(NormAlong(), cnn(), store, "gpu")
    assert NormAlong.calls == []


def test_another_recipe_is_refused(store, monkeypatch):
    NormAlong.stop_at = 3
    with pytest.raises(InterruptedError):
        ask(NormAlong(), cnn(), store)
    monkeypatch.setattr(torch, "__version__", "9.9")
    NormAlong.calls, NormAlong.stop_at = [], None
    with pytest.raises(
        ValueError, match=r"was begun with torch .* on cpu, this is torch 9.9 on cpu; their numbers are"
    ):
        ask(NormAlong(), cnn(), store)
    assert NormAlong.calls == []


class NoDataclass:
    def __call__(self, objective):
        return xr.Dataset()


@dataclass(frozen=True)
class Number:
    def __call__(self, objective):
        return 3.0


def test_what_is_no_probe_is_refused(store):
    with pytest.raises(TypeError, match="a probe must be a frozen dataclass, NoDataclass is not; add @dataclass"):
        ask(NoDataclass(), cnn(), store)
    with pytest.raises(TypeError, match=r"must be an instance, Slice is a class; write Slice\(\)"):
        ask(Slice, cnn(), store)
    with pytest.raises(TypeError, match=r"Number must answer with an xarray.Dataset, got float"):
        ask(Number(), cnn(), store)
    assert store.names() == []


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("Slice", "slice"),
        ("WeightNorm", "weight-norm"),
        ("HTTPProbe", "http-probe"),
        ("CKA", "cka"),
        ("Top5Error", "top5-error"),
        ("_Private", "private"),
    ],
)
def test_class_names_become_words_of_the_command_line(name, word):
    assert kebab(name) == word


def test_every_built_in_probe_can_be_asked(store):
    objective = Objective(built(perceptron), vectors(), loss=F.cross_entropy)
    probes = (Slice(resolution=3), Surface(resolution=3), Spectrum(k=1), SpectralDensity(steps=3), Trace(), Layers())
    probes += (CriticalPoint(k=1), Sharpness(measures="eigenvalue"), SubspaceOverlap(k=1, minibatch=2, draws=2))
    probes += (Stability(lr=0.1, optimizer="sgd"), CurvatureSurface(resolution=1))
    probes += (GradientNoise(batches=4, tails=False), Symmetry(), Rays(rays=2, resolution=1, radius=1.0))
    answers = [ask(probe, objective, store) for probe in probes]
    assert {answer.attrs["probe_class"] for answer in answers} == set(BUILT_IN.values())


def test_public_names_are_found_and_others_are_not():
    assert landscape.ask is measure.ask
    assert {"Objective", "Hessian", "Store"} <= set(dir(landscape))
    assert landscape.trace is importlib.import_module("landscape.traces").trace  # never hidden by a module of its name
    assert "Surface" in dir(landscape.probes)
    with pytest.raises(AttributeError, match="module 'landscape' has no attribute 'nothing'"):
        landscape.nothing  # noqa: B018
    with pytest.raises(AttributeError, match=r"module 'landscape.probes' has no attribute 'nothing'"):
        landscape.probes.nothing  # noqa: B018


def test_equal_questions_have_one_name():
    objective = cnn()
    assert answer_name(Slice(radius=1, center=0), objective) == answer_name(Slice(radius=1.0, center=0.0), objective)
    assert answer_name(Surface(resolution=5), objective) == answer_name(Surface(resolution=(5, 5), radius=1), objective)


def test_a_finished_answer_is_read_while_another_process_works(tmp_path, monkeypatch):
    objective, store = cnn(), Store(tmp_path)
    probe = Slice(resolution=3)
    answer = ask(probe, objective, store)
    store.journal(answer_name(probe, objective)).append("point/0", {"loss": 0.0})  # left by a kill after sealing

    def held(_store):
        raise LockedError("held")

    monkeypatch.setattr(Store, "lock", held)
    assert ask(probe, objective, store).identical(answer)


def test_what_another_process_finished_meanwhile_is_not_computed_again(tmp_path, monkeypatch):
    objective, store, probe = cnn(), Store(tmp_path), Slice(resolution=3)
    answer = ask(probe, objective, store)
    has, looks = Store.has, iter([False])
    monkeypatch.setattr(Store, "has", lambda self, name: next(looks, None) is not False and has(self, name))
    passes = objective.num_passes
    assert ask(probe, objective, store).identical(answer)
    assert objective.num_passes == passes


def test_identity_survives_little_memory(monkeypatch):
    """A device that holds eight examples at a time names its answers too."""
    objective = cnn()
    original = Objective.batch_loss

    def greedy(self, batch):
        if len(batch[0]) > 8:
            raise torch.OutOfMemoryError("out of memory")
        return original(self, batch)

    monkeypatch.setattr(Objective, "batch_loss", greedy)
    assert len(objective.identity()["loss_values"]) == 2


def test_no_memory_address_enters_the_identity():
    """Another process has other addresses, and would compute everything again."""

    class Margin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.base, self.marker = F.cross_entropy, object()

        def forward(self, output, target):
            return self.base(output, target)

    objective = Objective(built(TinyCNN), images(), loss=Margin())
    assert "cross_entropy" in objective.identity()["loss_function"]
    assert "0x" not in json.dumps(objective.identity())


@pytest.mark.parametrize("tensor", [torch.ones(2, 2).t()[:1, :1], torch.ones(()).expand(1), torch.ones(0, 3)])
def test_tensors_of_odd_strides_have_a_digest(tensor):
    assert digest(tensor) == digest(tensor.clone(memory_format=torch.contiguous_format))
