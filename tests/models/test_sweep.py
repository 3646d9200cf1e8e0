"""Sweeps: which runs they are made of, what they keep, and that they go on where they stopped."""

from __future__ import annotations

import io
import json
import math
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner, Result

from cli import cli
from landscape import Objective, Store, open_sweep
from landscape.execution import LostWorkError
from landscape.store import DamagedFileError, MissingError, NewerSchemaError
from landscape.sweep_tables import duration
from landscape.sweeps import PLAN, overviews_of
from models.run import RunConfig, train
from models.space import Choices, Space
from models.sweep import Counts, Sweep, estimate, read_file, read_options
from models.sweep import sweep as sweep_module
from models.sweep.display import Display, row_of
from models.sweep.job import Job, Task, digest_of, settle

SMALL = {"data": "digits", "train_size": "64", "model": "mlp", "width": "8", "epochs": "1", "batch_size": "32"}


def space(**more: str) -> Space:
    return Space.read({**SMALL, **more})


@dataclass(frozen=True)
class Norm:
    """Norm of the parameters, their number of bits, or an error."""

    p: float = 2.0
    broken: bool = False

    def __call__(self, objective: Objective) -> xr.Dataset:
        if self.broken:
            raise KeyError("nothing here")
        theta = objective.theta
        return xr.Dataset({"norm": ((), theta.norm(self.p).item()), "ends": ("end", [theta.min(), theta.max()])})


NORM = "tests.models.test_sweep:Norm"


# --- which runs --------------------------------------------------------------------------------------------


def test_dimensions_are_the_fields_in_their_order_and_seeds_last():
    sweep = Sweep(space(seed="3,1", optimizer="sgd,adam", lr="0.1,0.2,0.3"))
    assert {name: list(values) for name, values in sweep.plan.dims.items()} == {
        "optimizer": ["sgd", "adam"],
        "lr": [0.1, 0.2, 0.3],
        "seed": [3, 1],
    }
    assert len({config.hash for config in sweep.configs}) == 12
    for position, config in sweep.plan.runs.items():
        assert sweep.plan.point(position) == {"optimizer": config.optimizer, "lr": config.lr, "seed": config.seed}
        assert config == RunConfig.from_dict(config.to_dict())  # also those whose seed alone was changed


def test_a_value_stands_as_its_runs_hold_it_where_that_is_one_value():
    short = Sweep(space(init="he,xavier", seed="0,1"))
    assert short.plan.dims["init"] == ("he-normal", "xavier-normal")
    assert {c.hash for c in short.configs} == {
        c.hash for c in Sweep(space(init="he-normal,xavier-normal", seed="0,1")).configs
    }
    rates = Sweep(space(optimizer="sgd,adam", lr="none,0.5"))  # none is another rate for each of them
    assert rates.plan.dims["lr"] == ("none", 0.5)
    decays = Sweep(space(weight_decay="0,1e-3", skip="yes"))
    assert decays.plan.dims["weight_decay"] == (0.0, 1e-3) and decays.plan.dims["seed"] == (0,)


def test_listed_runs_are_crossed_with_the_others():
    runs = ({"optimizer": "sgd", "lr": 0.1}, {"optimizer": "adam"})
    sweep = Sweep(space(batch_size="16,32", seed="0,1"), runs=runs)
    assert list(sweep.plan.dims) == ["optimizer", "lr", "batch_size", "seed"]
    assert sweep.plan.dims["lr"] == (0.1, 0.001)  # of adam by itself
    assert len(sweep.configs) == 8 and math.prod(map(len, sweep.plan.dims.values())) == 16
    own = Sweep(space(), runs=({"seed": 5, "lr": 0.1}, {"seed": 6, "lr": 0.1}))
    assert own.plan.dims == {"lr": (0.1,), "seed": (5, 6)}


@pytest.mark.parametrize(
    ("fields", "runs", "message"),
    [
        ({}, (), "nothing varies, so there is nothing to sweep"),
        ({}, ({"lr": 0.1},), "nothing varies"),
        ({"lr": "0.1..0.2"}, (), "a sweep needs values of lr, got the range 0.1..0.2"),
        ({"lr": "0.1,0.1"}, (), "lr has the value 0.1 twice"),
        ({"lr": ";"}, (), "lr needs at least one value"),
        ({"init": "he,he-normal"}, (), "a run is there twice: init=.*, seed=0 and .* are the same"),
        ({}, ({"lr": 0.1}, {"lr": 0.1}), "a run is there twice: lr=0.1, seed=0 and lr=0.1, seed=0"),
        ({"lr": "0.1,0.2"}, ({"lr": 0.1}, {"lr": 0.3}), "lr is given to single runs and to the whole sweep"),
        ({"width": "4,0"}, (), r"width must be a whole number of at least 1, got 0 \(for .*width=0"),
        ({"label_noise": "0.2,1"}, (), r"label_noise must be a number in \[0, 1\), got 1"),
        ({"label_noise": "0,-0.1"}, (), "label_noise must be a number from 0 to 1"),
        ({"seed": "0,-1"}, (), "seed must be a whole number of at least 0"),
        ({"optimizer": "sgd,adm"}, (), "unknown optimizer 'adm'; did you mean 'adam'"),
        ({"norm": "none,batch:fast"}, (), "norm 'batch'"),
        ({"width": "1..999/999", "lr": "1e-3..1e-1/1000"}, (), "the values make .* runs, more than the 100,000"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_trained(fields, runs, message):
    with pytest.raises(ValueError, match=message):
        Sweep(space(**fields), runs=runs)


def test_too_many_runs_or_cells_are_refused():
    listed = tuple({"width": n, "depth": 1 + n % 3} for n in range(1, 7))
    with pytest.raises(ValueError, match="that makes 120,000 runs, more than the 100,000"):
        Sweep(Space({"seed": Choices(tuple(range(20000)))}, {}), runs=listed)
    spread = tuple({"width": n, "batch_size": n, "warmup": n, "lr": n / 10} for n in range(1, 40))
    with pytest.raises(ValueError, match="the fields of the runs span 2,313,441 cells"):
        Sweep(space(batch_size="32"), runs=spread)
    with pytest.raises(ValueError, match="takes at most 100,000 values of a range"):
        space(lr="1e-3..1/1000000000")


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        (("spectrm",), "did you mean 'spectrum'"),
        (("spectrum:every=5",), "takes no 'every=5'"),
        (("spectrum:k=one",), "k: expected int"),
        ((f"{NORM}:q=1",), "takes no 'q=1'"),
        (("spectrum:k=10", "spectrum"), "probe 'spectrum:k=10' is there twice"),
        (("tests.models.test_sweep:Nrm",), "did you mean"),
    ],
)
def test_probes_that_cannot_be_asked_are_refused(probes, message):
    with pytest.raises(ValueError, match=message):
        Sweep(space(seed="0,1"), probes)


def test_probes_of_one_class_are_told_apart():
    sweep = Sweep(space(seed="0,1"), (NORM, f"{NORM}:p=1", "spectrum:k=1"))
    assert list(sweep.labels) == ["norm", "norm_2", "spectrum"]


# --- plans -------------------------------------------------------------------------------------------------

PLAN_FILE = """
out = "elsewhere"
seeds = 2
probes = ["spectrum:k=1"]
[fixed]
data = "digits"
betas = [0.9, 0.99]
optimizer = "adam"
keep_best = true
[sweep]
width = "4..16/3"
model = ["mlp"]
lr = [0.1, "none"]
"""


def test_a_plan_says_what_options_say(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(PLAN_FILE)
    written = read_file(path, ["symmetry"])
    fields = {"data": "digits", "betas": "0.9,0.99", "optimizer": "adam", "keep_best": "yes", "model": "mlp"}
    options = read_options({**fields, "width": "4,8,16", "lr": "0.1,none"}, 2, ["spectrum:k=1", "symmetry"])
    assert written.out == Path("elsewhere") and written.num_runs == 12
    assert written.sweep.question == options.sweep.question
    path.write_text("seeds = [4, 7]\n[[runs]]\nlr = 0.1\n[[runs]]\nlr = 1\n")
    assert read_file(path).sweep.plan.dims == {"lr": (0.1, 1.0), "seed": (4, 7)}
    assert read_file(path).out == Path("results/mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = [", "is no TOML"),
        ("sed = 3", "unknown key of a plan 'sed'; did you mean 'seeds'"),
        ("[sweeps]", "unknown key of a plan 'sweeps'; did you mean 'sweep'"),
        ("[sweep]\nbatch-size = [1]", "unknown field of a run's configuration 'batch-size'; did you mean 'batch_size'"),
        ("[fixed]\nwidht = 3", "did you mean 'width'"),
        ("[sweep]\nlr = []", "lr needs at least one value"),
        ("[sweep]\nlr = ['fast']", "lr expected float"),
        ("[fixed]\nlr = 'fast'", "lr: expected float"),
        ("[fixed]\nlr = 0.1\n[sweep]\nlr = [0.1]", "lr is fixed and swept"),
        ("seeds = 2\n[fixed]\nseed = 1", "seeds and seed are both given"),
        ("seeds = 0", "seeds must be a number from 1 to 100,000, got 0"),
        ("seeds = 'many'", "seeds must be a whole number, or a list"),
        ("probes = 'spectrum'", "probes must be a list, got 'spectrum'"),
        ("runs = [3]", "each of runs must be a table, got 3"),
        ("[sweep]\nwidth = [4, 0]", "width must be a whole number of at least 1, got 0"),
    ],
)
def test_mistakes_in_a_plan_are_named(tmp_path, text, message):
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_file(tmp_path / "plan.toml")


def test_a_plan_that_is_not_there_and_seeds_given_twice(tmp_path):
    with pytest.raises(ValueError, match="there is no plan .* to read"):
        read_file(tmp_path / "plan.toml")
    with pytest.raises(ValueError, match="seeds and seed are both given"):
        read_options({"seed": "1,2"}, 3)


# --- what is kept ------------------------------------------------------------------------------------------


def values(sweep: xr.Dataset) -> xr.Dataset:
    """Everything but what differs from time to time."""
    return sweep.drop_vars("wall_seconds").drop_attrs()


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of two rates, one of which diverges, two seeds, and batch normalization that fails."""
    out = tmp_path_factory.mktemp("swept") / "sweep"
    sweep = Sweep(space(lr="0.1,1e20", norm="none,batch", batch_size="63", seed="0,1"), (f"{NORM}:p=1", NORM))
    return sweep, sweep(out, "serial"), out


def test_runs_open_as_one_data_set(swept):
    sweep, answer, out = swept
    assert answer["status"].dims == ("lr", "norm", "seed")
    assert answer["status"].sel(norm="batch").values.tolist() == [["failed"] * 2] * 2
    assert answer["status"].sel(norm="none").values.tolist() == [["finished"] * 2, ["diverged"] * 2]
    assert all("leave a batch of one" in error for error in answer["error"].sel(norm="batch").values.flat)
    one = answer.sel(lr=0.1, norm="none", seed=1)
    run = Store(out / one["run"].item())
    training, model = run.read("training"), run.read(run.names("norm-*")[0])
    assert one["test_loss"] == training["test_loss"] and one["final_train_loss"] == training["final_train_loss"]
    assert one["train_loss"].values == pytest.approx(training["train_loss"].values)
    assert one["norm_norm"] > one["norm_2_norm"] > 0 and float(model["norm"]) in (one["norm_norm"], one["norm_2_norm"])
    assert one["norm_ends_0"] < 0 < one["norm_ends_1"]
    assert 0 < one["wall_seconds"] < 60
    assert np.isnan(answer["norm_norm"].sel(lr=1e20)).all() and np.isnan(answer["test_loss"].sel(norm="batch")).all()
    assert values(Store(out).read(sweep.name)).equals(values(answer))
    assert answer.attrs["num_runs"] == 8 and "created_utc" in answer.attrs


def test_nothing_is_done_twice(swept):
    sweep, answer, out = swept
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*/*")}
    assert sweep(out, "serial").equals(answer)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*/*")} == times
    assert list(overviews_of(out, "mine")[0]) == ["run", "state", "test error", "loss"]
    assert {row["state"] for row in overviews_of(out, "")} == {"finished", "diverged", "failed"}


def test_the_folders_decide_what_there_is(tmp_path):
    """Removed runs are missing and trained again; runs trained by hand belong to the sweep; more seeds go on."""
    out, two = tmp_path / "sweep", Sweep(space(seed="0,1"), stack="never")
    whole = two(out, "serial")
    names = whole["run"].values.tolist()
    shutil.rmtree(out / names[0])
    gone = open_sweep(out)
    assert gone["status"].values.tolist() == ["missing", "finished"] and gone["run"].values[0] == ""
    assert np.isnan(gone["test_loss"].values[0])
    assert values(two(out, "serial")).equals(values(whole))
    four = Sweep(space(seed="0,1,2,3"), stack="never")
    train(four.configs[2], out / four.configs[2].hash)
    time_by_hand = (out / four.configs[2].hash / "weights.safetensors").stat().st_mtime_ns
    counts = []
    more = four(out, "serial", watch=lambda c: counts.append((c.begun, c.done)))
    assert counts[0] == (2, 2) and counts[-1] == (2, 4)
    assert (out / four.configs[2].hash / "weights.safetensors").stat().st_mtime_ns == time_by_hand
    assert np.isnan(more["wall_seconds"].values[2]) and more["status"].values.tolist() == ["finished"] * 4
    assert values(more.sel(seed=[0, 1])).equals(values(whole))
    assert Store(out).names("sweep-*") == [four.name]
    (out / f"{PLAN}.journal").unlink()  # which is only a copy of what the folders hold
    assert values(open_sweep(out)).equals(values(more))


def test_what_has_failed_is_tried_again_only_if_asked(tmp_path):
    broken = Sweep(space(seed="0,1"), (f"{NORM}:broken=yes",), stack="never")
    first = broken(tmp_path, "serial")
    assert (first["error"] == f"probe {NORM}:broken=yes: KeyError: 'nothing here'").all()
    assert (first["status"] == "finished").all()
    assert broken.left(tmp_path)[0] == [] and len(broken.left(tmp_path, retry_failed=True)[0]) == 2
    name = broken.configs[0].hash
    Store(tmp_path / name).save_json("failure", {"error": "the machine was out of memory"})
    assert open_sweep(tmp_path)["status"].values.tolist() == ["failed", "finished"]
    plain = Sweep(space(seed="0,1"))
    assert plain(tmp_path, "serial")["status"].values.tolist() == ["failed", "finished"]
    assert plain(tmp_path, "serial", retry_failed=True)["status"].values.tolist() == ["finished"] * 2
    assert not (tmp_path / name / "failure.json").exists()


def test_a_run_that_another_process_holds_is_left_to_it(tmp_path, monkeypatch):
    from landscape.store import LockedError

    def locked(config, folder):
        raise LockedError("process 1 works here")

    sweep = Sweep(space(seed="0,1"), stack="never")
    with monkeypatch.context() as held:
        held.setattr("models.trials.train_or_record", locked)
        held.setattr("models.sweep.sweep._PAUSES", (0, 0))
        answer = sweep(tmp_path, "serial")
    assert (answer["status"] == "missing").all() and len(sweep.left(tmp_path)[0]) == 2
    monkeypatch.setattr("models.sweep.sweep._PAUSES", (0, 0.5))
    with monkeypatch.context() as held:
        held.setattr("models.trials.train_or_record", locked)
        assert (sweep(tmp_path, "serial", watch=lambda counts: counts.states["missing"] and held.undo()) == "finished")[
            "status"
        ].all()


def test_runs_are_stacked_where_it_pays_and_alone_where_they_cannot_be(tmp_path):
    mixed = space(seed="0,1", sam="0,0.1")
    together, alone = Sweep(mixed, (NORM,), stack="always"), Sweep(mixed, (NORM,), stack="never")
    assert sorted(len(batch.configs) for batch in together.batches) == [1, 1, 2]
    assert {batch.reason for batch in together.batches if len(batch.configs) == 1} == {
        "sam takes a second gradient at a point of its own"
    }
    assert [len(batch.configs) for batch in alone.batches] == [1] * 4
    stacked, single = together(tmp_path / "stacked", "serial"), alone(tmp_path / "single", "serial")
    for name in ("test_loss", "train_loss", "norm_norm"):
        assert stacked[name].values == pytest.approx(single[name].values, rel=1e-4), name
    assert not stacked["test_loss"].equals(single["test_loss"])  # but for rounding, as the stack was one
    assert stacked["run"].equals(single["run"]) and (stacked["wall_seconds"] > 0).all()
    of_one = Sweep(space(model="mlp,cnn", norm="none", seed="0,1"))
    assert any("are not trained faster together" in batch.reason for batch in of_one.batches)
    alone_by_seed = Sweep(space(batch_size="16,32"), stack="always").batches
    assert alone_by_seed[0].reason.startswith("no other run differs")
    many = Sweep(space(seed=",".join(map(str, range(20)))), stack="always").batches
    assert [len(batch.configs) for batch in many] == [10, 10]  # of at most 16
    with pytest.raises(ValueError, match="stack must be one of auto, never, always"):
        Sweep(mixed, stack="sometimes")


def test_a_stack_that_fails_is_trained_one_by_one(tmp_path, monkeypatch):
    def broken(configs, folders):
        raise RuntimeError("no memory for all of them")

    monkeypatch.setattr("models.trials.train_stack", broken)
    answer = Sweep(space(seed="0,1"), stack="always")(tmp_path, "serial")
    assert (answer["status"] == "finished").all()


def test_a_run_that_kills_its_workers_is_recorded_and_the_others_go_on(tmp_path, monkeypatch):
    """First the runs of a stack alone, then each that still kills has failed, or its probe has."""
    asked = []

    def deadly(function, job, tasks, stage):
        asked.append([len(task.configs) for task in tasks])
        if len(asked) == 1:
            raise LostWorkError(["runs/0"])
        for task in tasks[1:]:
            rows[0].append("", function(job, task))
        raise LostWorkError(["runs/0"])

    rows = []
    begin = sweep_module._Rows.begin
    monkeypatch.setattr(sweep_module._Rows, "begin", lambda self, n: (rows.append(self), begin(self, n))[1])
    monkeypatch.setattr(sweep_module, "resumable_map", deadly)
    sweep = Sweep(space(seed="0,1,2"), stack="always")
    answer = sweep(tmp_path, "serial")
    assert asked == [[3], [1, 1, 1]]
    assert answer["status"].values.tolist() == ["failed", "finished", "finished"]
    assert answer["error"].values[0].startswith("every worker that was given this run died")
    assert sweep.left(tmp_path)[0] == [] and len(sweep.left(tmp_path, retry_failed=True)[0]) == 1
    again = Sweep(space(seed="1,2"), (NORM,), stack="never")
    asked[:] = [[]]
    probed = again(tmp_path, "serial")
    assert probed["status"].values.tolist() == ["finished"] * 2 and "died" in probed["error"].values[0]
    assert again.left(tmp_path)[0] == []


def test_another_run_in_the_folder_of_a_run_is_named(tmp_path):
    sweep = Sweep(space(seed="0,1"), stack="never")
    first, _ = sweep.configs
    train(replace(first, lr=0.5), tmp_path / first.hash)
    answer = sweep(tmp_path, "serial")
    assert answer["status"].values.tolist() == ["failed", "finished"]
    assert "holds another run (lr is 0.5 there" in answer["error"].values[0]
    assert open_sweep(tmp_path)["status"].values.tolist() == ["failed", "finished"]


def test_a_wrong_executor_takes_the_place_of_no_plan(tmp_path):
    with pytest.raises(ValueError, match="executor must be"):
        Sweep(space(seed="0,1"))(tmp_path, "procesess")
    assert not (tmp_path / f"{PLAN}.json").exists()


def test_a_damaged_run_is_named(tmp_path):
    sweep = Sweep(space(seed="0,1"))
    name = str(sweep(tmp_path, "serial")["run"].values[1])
    path = tmp_path / name / "training.h5"
    path.write_bytes(path.read_bytes()[:-1])
    answer = open_sweep(tmp_path)
    assert answer["status"].values.tolist() == ["finished", "failed"] and "is damaged" in answer["error"].values[1]
    assert "is damaged" in sweep(tmp_path, "serial")["error"].values[1]


def test_what_is_no_sweep_is_refused(tmp_path):
    with pytest.raises(MissingError, match="there is no sweep in"):
        open_sweep(tmp_path)
    Store(tmp_path).save_json(PLAN, {"kind": "sweep"})
    with pytest.raises(DamagedFileError, match="is no plan of a sweep"):
        open_sweep(tmp_path)
    Store(tmp_path).save_json(PLAN, {"schema_version": 99})
    with pytest.raises(NewerSchemaError, match="newer version"):
        open_sweep(tmp_path)


def test_missing_data_fails_once(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        Sweep(space(seed="0,1", data=f"idx:{tmp_path}/nowhere"))(tmp_path / "out", "serial")
    assert not (tmp_path / "out").exists()


def test_a_worker_that_sees_another_folder_is_refused(tmp_path):
    sweep = Sweep(space(seed="0,1"))
    sweep.save_plan(Store(tmp_path / "here"))
    job = Job(str(tmp_path / "there"), digest_of(tmp_path / "here"), ())
    with pytest.raises(RuntimeError, match="a worker does not see the sweep in"):
        settle(job, Task((sweep.configs[0],)))


# --- how far, how long -------------------------------------------------------------------------------------


def test_the_table_is_drawn_over_in_a_terminal_and_rare_elsewhere():
    counts = Counts(total=4, begun=1, workers=2, started=time.monotonic() - 10)
    counts.states.update({"finished": 2, "failed": 1})
    assert row_of(counts) == {
        "finished": 2, "failed": 1, "running": 1, "left": 0, "time left": "5 s", "runs": 4
    }  # fmt: skip
    stream = io.StringIO()
    terminal, pipe = Display(stream, True), Display(stream, False)
    terminal(counts)
    assert stream.getvalue().count("\n") == 2 and "time left" in stream.getvalue()
    counts.states["finished"] += 1
    terminal(counts)
    assert "\x1b[2A\x1b[J" in stream.getvalue() and stream.getvalue().endswith("4\n")
    stream.truncate(0)
    for _ in range(3):
        pipe(Counts(total=4))
    assert stream.getvalue().count("\n") == 1 and "running 1, left 3, time left ?" in stream.getvalue()


def test_times_are_for_people():
    assert [duration(s) for s in (0.2, 60, 86400, math.nan)] == ["0 s", "1 min", "1 d", "?"]


def test_costs_come_from_finished_runs_or_a_pilot(tmp_path, swept):
    sweep, answer, out = swept
    known = estimate(out, [config.hash for config in sweep.configs], [])
    assert known.seconds == pytest.approx(float(answer["wall_seconds"].mean())) and "8 finished runs" in known.source
    new = Sweep(space(seed="0,1", epochs="10"))
    pilot = estimate(tmp_path / "none", [c.hash for c in new.configs], new.left(tmp_path / "none")[0])
    assert 0 < pilot.seconds < 60 and "pilot of one epoch of 2 runs" in pilot.source
    bad = Sweep(space(norm="batch,layer", batch_size="63"))
    tasks = [task for task in bad.left(tmp_path)[0] if task.configs[0].norm == "batch"]
    assert "no pilot run could be trained (ValueError" in estimate(tmp_path, [], tasks).source
    assert estimate(tmp_path, [], []).seconds == 0


# --- the command -------------------------------------------------------------------------------------------


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


def flags(**more: str) -> list[str]:
    return [word for name, text in {**SMALL, **more}.items() for word in (f"--{name.replace('_', '-')}", text)]


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr("models.sweep.cost._PILOTS", 1)
    out = tmp_path / "sweep"
    sweep = ("sweep", *flags(), "--optimizer", "sgd,adam", "--init", "he", "--seeds", 2, "--executor", "serial")
    plan = json.loads(call(*sweep, "--out", out, "--dry-run", "--json").stdout)
    assert list(plan["dims"]) == ["optimizer", "seed"] and plan["left"] == 4 and plan["seconds_left"] > 0
    assert not out.exists()
    done = json.loads(call(*sweep, "--out", out, "--probe", "symmetry", "--json").stdout)
    assert done["states"] == {"finished": 4, "diverged": 0, "failed": 0, "missing": 0}
    assert len(done["best"]["test_loss"]) == 4 and done["failed"] == []
    assert "4 done, 0 left" in call(*sweep, "--out", out, "--dry-run").stdout
    shown = call("show", out).stdout
    assert "optimizer (2): sgd, adam" in shown and "lowest val loss" in shown
    assert call("list", out).stdout.count("finished") == 4
    assert f"sweep/{done['best']['test_loss'][0]['run']}" in call("list", tmp_path).stdout
    assert len(json.loads(call("list", tmp_path, "--json").stdout)) == 4


@pytest.mark.slow
def test_a_sweep_is_drawn_and_reported(swept, tmp_path):
    out = swept[2]
    assert "files" in call("figure", out, "--format", "png").stdout
    call("report", out.parent, "--out", tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_the_command_with_a_plan_and_failures(tmp_path):
    plan = tmp_path / "plan.toml"
    lines = [f"{name} = '{value}'" for name, value in SMALL.items() if name != "batch_size"]
    plan.write_text("\n".join(["[fixed]", *lines, "batch_size = 63", "[sweep]", "norm = ['none', 'batch']"]))
    result = call("sweep", plan, "--out", tmp_path / "out", "--executor", "serial", code=5)
    assert "1 finished, 1 failed" in result.output and "leave a batch of one" in result.output
    assert "batch of one" in call("show", tmp_path / "out").stdout
    assert "two ways to say" in call("sweep", plan, "--lr", "0.1", code=2).output
    assert "two ways to say" in call("sweep", plan, "--seeds", "3", code=2).output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--lr", "0.1,0.2"), 2, "give --out"),
        (("--out", "x"), 3, "nothing varies"),
        (("--out", "x", "--seeds", "1000000000"), 3, "seeds must be a number from 1 to 100,000"),
        (("--out", "x", "--lr", "1e-3..1/1000", "--width", "1..9999/1000", "--seeds", "1000"), 3, "the values make"),
        (("--out", "x", "--seeds", "1001"), 3, "that makes 1,001 runs; .* give --yes"),
        (("--out", "x", "--seeds", "2", "--seed", "3"), 3, "seeds and seed are both given"),
        (("nowhere.toml",), 3, "there is no plan nowhere.toml"),
    ],
)
def test_bad_commands_end_at_once(arguments, code, message):
    import re

    started = time.monotonic()
    assert re.search(message, call("sweep", *arguments, code=code).output)
    assert time.monotonic() - started < 2
