"""Paths between runs, all pairs of them, and what cannot be joined; through the command line too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cli import cli
from landscape import Store
from landscape.figures.drawing import draw
from landscape.measure import ask
from landscape.weights import save_weights
from models.config import RunConfig
from models.joining import factor_groups, matrix_of, path_between, stored_metrics
from models.opened import open_run
from models.run import train

TINY = RunConfig(
    data="digits",
    train_size=60,
    test_size=40,
    model="mlp",
    width=8,
    depth=1,
    lr=0.2,
    epochs=6,
    batch_size=20,
    flow_every=0,
    snapshots="none",
)
LINE = {"points": 5, "refine": 0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("joined")
    configs = {"a0": TINY, "a1": replace(TINY, seed=1), "b0": replace(TINY, batch_size=60, seed=2)}
    for name, config in configs.items():
        train(config, folder / name)
    return {name: folder / name for name in configs}


def permuted_copy(run: Path, out: Path) -> Path:
    """The same function with its hidden units in another order."""
    weights = open_run(run).model().state_dict()
    order = torch.arange(8).roll(3)
    weights |= {name: weights[name][order] for name in ("hidden1.weight", "hidden1.bias")}
    weights["head.weight"] = weights["head.weight"][:, order]
    out.mkdir()
    (out / "run.json").write_text((run / "run.json").read_text())
    save_weights(out / "weights.safetensors", weights)
    return out


def test_a_permuted_copy_lies_behind_a_barrier_that_alignment_removes(runs, tmp_path):
    copied = permuted_copy(runs["a0"], tmp_path / "copy")
    probe, objective = path_between([runs["a0"], copied], True, None, LINE)
    assert torch.equal(probe.ends[1], objective.theta)  # found exactly
    far, objective = path_between([runs["a0"], copied], False, None, LINE)
    answer = far(objective)
    assert answer["barrier"].sel(metric="loss", definition="linear").item() > 0.2
    matched, objective = path_between([runs["a1"], copied], True, None, LINE)
    barrier = matched(objective)["barrier"].sel(metric="loss", definition="linear")
    assert barrier.sel(path="aligned") < barrier.sel(path="as trained")


def test_the_ends_of_a_path_are_the_runs_own_numbers(runs):
    probe, objective = path_between([runs["a0"], runs["b0"]], False, None, LINE)
    answer = probe(objective)
    for alpha, name in ((0.0, "a0"), (1.0, "b0")):
        own, here = stored_metrics(open_run(runs[name])), answer.sel(path="as trained", alpha=alpha)
        assert here["loss"].item() == pytest.approx(own["loss"], rel=1e-6)
        assert 1 - here["test_accuracy"].item() == pytest.approx(own["test_error"])
    assert answer["distance"].item() == pytest.approx((probe.ends[0] - objective.theta).norm().item())


def test_all_pairs_are_grouped_by_the_factors_that_differ(runs, tmp_path):
    probe, objective = matrix_of([runs["b0"], runs["a1"], runs["a0"]], True, None, {"points": 3})
    assert probe.names == ("a0", "a1", "b0") and probe.groups == ("batch_size=20",) * 2 + ("batch_size=60",)
    answer = ask(probe, objective, Store(tmp_path))
    values = answer["barrier"].sel(metric="loss", definition="frankle")
    assert values.dims == ("path", "run", "other") and (values == values.transpose("path", "other", "run").values).all()
    assert (np.diagonal(values.values, axis1=1, axis2=2) == 0).all()
    one, other = path_between([runs["a0"], runs["b0"]], False, None, {"points": 3, "refine": 0})
    pair = one(other)["barrier"].sel(metric="loss", definition="frankle").item()
    assert values.sel(path="as trained", run="a0", other="b0").item() == pytest.approx(pair)
    assert set(draw(answer, "barrier-matrix-1")) == {"barriers"}


def test_an_interrupted_matrix_goes_on(runs, tmp_path):
    probe, objective = matrix_of(list(runs.values()), False, None, {"points": 3})
    whole = ask(probe, objective, Store(tmp_path / "whole"))

    def stop(stage, done, total):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(probe, objective, Store(tmp_path / "cut"), progress=stop)
    seen = []
    found = ask(probe, objective, Store(tmp_path / "cut"), progress=lambda stage, done, total: seen.append(done))
    assert seen[0] == 1 and found.equals(whole)


@pytest.mark.slow
def test_pairs_are_the_same_in_processes(runs, tmp_path):
    probe, objective = matrix_of(list(runs.values()), True, None, {"points": 3})
    one, two = (ask(probe, objective, Store(tmp_path / e), executor=e) for e in ("serial", "processes"))
    assert one.equals(two)


def test_runs_that_no_path_joins_are_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="is named twice"):
        path_between([runs["a0"], runs["a0"]], False, None, LINE)
    with pytest.raises(ValueError, match="needs two different finished runs, got 1"):
        matrix_of([runs["a0"]], False, None, {})
    train(replace(TINY, data_seed=1), tmp_path / "data")
    with pytest.raises(ValueError, match=r"different data \(seed 0 and 1\)"):
        path_between([runs["a0"], tmp_path / "data"], False, None, LINE)
    train(replace(TINY, width=9), tmp_path / "wide")
    with pytest.raises(ValueError, match=r"'hidden1.weight' is .* compare runs of equal architectures"):
        path_between([runs["a0"], tmp_path / "wide"], False, None, LINE)
    equal = tmp_path / "equal"
    train(TINY, equal)
    probe, objective = path_between([runs["a0"], equal], True, None, LINE)
    with pytest.raises(ValueError, match="the same network, bit for bit"):
        probe(objective)
    pairs, objective = matrix_of([runs["a0"], equal], False, None, {})
    with pytest.raises(ValueError, match="the same network, bit for bit"):
        pairs(objective)


def test_features_that_were_drawn_otherwise_lie_on_no_path(tmp_path):
    for seed in (0, 1):
        config = RunConfig(
            data="digits", train_size=40, model="random-features", width=8, lr=0.1, epochs=1, flow_every=0, seed=seed
        )
        train(config, tmp_path / str(seed))
    with pytest.raises(ValueError, match="differ in 'features.weight', which is no parameter"):
        path_between([tmp_path / "0", tmp_path / "1"], False, None, LINE)


def test_a_specification_of_ones_own_is_read_and_checked(runs, tmp_path):
    file = tmp_path / "units.json"
    pair, right = [runs["a0"], runs["a1"]], {"hidden1.weight": ["h", None], "head.weight": [None, "h"]}
    for text, message in (("{", "cannot read the permutation"), ("[]", "should hold an object")):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            path_between(pair, True, file, LINE)
    for ask_for in (path_between, matrix_of):
        with pytest.raises(ValueError, match="has no use without align"):
            ask_for(pair, False, file, {})
    file.write_text(json.dumps(right))
    with pytest.raises(ValueError, match="the permuted network is another function"):
        path_between(pair, True, file, LINE)
    file.write_text(json.dumps({**right, "hidden1.bias": ["h"]}))
    written, _ = path_between(pair, True, file, LINE)
    assert torch.equal(written.ends, path_between(pair, True, None, LINE)[0].ends)


def test_matrices_that_cannot_be_are_refused(runs):
    probe, _ = matrix_of(list(runs.values()), False, None, {})
    with pytest.raises(ValueError, match="at least two networks and a name for each"):
        replace(probe, names=("one",))
    with pytest.raises(ValueError, match="3 networks need as many groups, got 1"):
        replace(probe, groups=("one",))


def test_imported_weights_have_no_factors_and_no_stored_numbers(runs):
    opened = {name: open_run(folder) for name, folder in runs.items()}
    assert factor_groups({"a0": opened["a0"], "a1": opened["a1"]}) == {"a0": "", "a1": ""}
    assert set(stored_metrics(opened["a0"])) == {"loss", "error", "test_loss", "test_error"}


def test_the_commands_print_what_they_store(runs, tmp_path):
    runner, names = CliRunner(), [str(folder) for folder in runs.values()]
    options = ["--points", "3", "--align", "--out", str(tmp_path / "out")]
    found = runner.invoke(cli, ["path", *names[:2], *options, "--reach=-1,2", "--refine", "0", "--json"])
    assert found.exit_code == 0, found.output
    rows = json.loads(found.output)["rows"]
    assert {row["path"] for row in rows} == {"as trained", "aligned"} and "A_stored" in rows[0]
    shown = runner.invoke(cli, ["barriers", str(runs["a0"].parent), *options])
    assert shown.exit_code == 0 and "batch_size=60" in shown.output
    (path,) = Store(tmp_path / "out").names("interpolation-*")
    assert set(draw(Store(tmp_path / "out").read(path), path)) == {"path"}
    refused = runner.invoke(cli, ["path", names[0], names[0]])
    assert refused.exit_code == 3 and "named twice" in refused.output
