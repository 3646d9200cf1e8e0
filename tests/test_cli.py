"""The command line, end to end: the six stories, what bad input gets, and the exit codes."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pickle
import re
import shlex
import shutil
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import torch
import xarray as xr
from click.testing import CliRunner, Result
from torch import nn
from torch.nn.functional import cross_entropy

from cli import cli
from landscape.store import Store
from landscape.weights import load_weights, save_weights
from models.opened import make_network
from tests.commands import ROOT, TINY, environment


def call(*arguments: object, code: int = 0) -> Result:
    """Run a command in this process and expect an exit code."""
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    if result.exit_code != code:
        raise AssertionError(f"exit {result.exit_code}, expected {code}\n{result.output}") from result.exception
    return result


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as small as one can be; tests that change it copy it."""
    run = tmp_path_factory.mktemp("results") / "r0"
    call("train", *TINY, "--out", run)
    return run


@pytest.fixture
def own(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    shutil.copytree(trained, tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder with a package of their own, data in IDX files, and nothing of it left behind."""
    (tmp_path / "mynets").mkdir()
    (tmp_path / "mynets" / "__init__.py").touch()
    (tmp_path / "mynets" / "resnet.py").write_text(NETWORK)
    (tmp_path / "mynets" / "probes.py").write_text(PROBE)
    write_idx(tmp_path / "data" / "fashion-mnist")
    path, modules = list(sys.path), set(sys.modules)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.path[:] = path
    for name in {name for name in sys.modules if name.startswith("mynets")} - modules:
        del sys.modules[name]


NETWORK = textwrap.dedent(
    """
    from torch import nn

    def resnet20():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    """
)
PROBE = textwrap.dedent(
    '''
    from __future__ import annotations
    from dataclasses import dataclass
    import xarray as xr
    from landscape import Objective

    @dataclass(frozen=True)
    class WeightNorm:
        """Norm of the parameters."""
        p: int = 2
        def __call__(self, objective: Objective) -> xr.Dataset:
            return xr.Dataset({"norm": ((), objective.theta.norm(self.p).item())})
    '''
)


def write_idx(folder: Path, number: int = 60, side: int = 8) -> None:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for part in ("train", "t10k"):
        images = draw.integers(0, 256, (number, side, side), dtype=np.uint8)
        labels = (np.arange(number) % 10).astype(np.uint8)
        images_head, labels_head = struct.pack(">IIII", 0x803, number, side, side), struct.pack(">II", 0x801, number)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images_head + images.tobytes()))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels_head + labels.tobytes())


def checkpoint(path: Path, change: Callable[[dict], None] = lambda state: None) -> Path:
    """A checkpoint as Lightning leaves it, of the user's network."""
    torch.manual_seed(0)
    space: dict = {}
    exec(NETWORK, space)
    state = space["resnet20"]().state_dict()
    change(state)
    torch.save({"state_dict": state, "epoch": 3, "pytorch-lightning_version": "2.6.6"}, path)
    return path


def digest(folder: Path) -> str:
    sha = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"):
        sha.update(path.name.encode() + path.read_bytes())
    return sha.hexdigest()


# --- the stories ----------------------------------------------------------------------------------------------


def commands_in(page: Path) -> list[list[str]]:
    """Every complete `landscape ...` line that a page shows."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"^(?: {4})?(landscape .*)$", text, flags=re.MULTILINE)
    return [part for line in lines for part in split_at_semicolons(shlex.split(line, comments=True))]


def split_at_semicolons(words: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == ";":
            parts.append([])
        else:
            parts[-1].append(word)
    return [part[1:] for part in parts]


def parse(command: click.Command, arguments: list[str], parent: click.Context | None = None) -> None:
    """Parse a command line through every level of the program without running it."""
    context = command.make_context(command.name or "landscape", list(arguments), parent=parent)
    if isinstance(command, click.Group):
        _, subcommand, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        parse(subcommand, rest, context)


@pytest.mark.parametrize("page", ["README.md", "docs/own-probe.md"])
def test_every_command_that_a_page_shows_is_one(page: str):
    shown = [words for words in commands_in(ROOT / page) if not any("mypackage" in word for word in words)]
    assert shown or page != "README.md"
    for words in shown:
        if {"-h", "--help", "COMMAND"}.isdisjoint(words):
            parse(cli, words)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_story_1_the_demo_runs_and_running_it_again_computes_nothing(tmp_path: Path):
    (tmp_path / "bin").mkdir()
    launcher = tmp_path / "bin" / "landscape"
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "cli.py"}" "$@"\n')
    launcher.chmod(0o755)
    variables = {**environment(), "PATH": f"{launcher.parent}:{os.environ['PATH']}"}
    demo = ["bash", str(ROOT / "docs" / "demo.sh"), str(tmp_path / "demo")]
    first = subprocess.run(demo, env=variables, capture_output=True, text=True, check=True)
    assert "sharpness" in first.stdout
    answers = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.h5")}
    assert len(answers) >= 6 * 5
    started = time.monotonic()
    subprocess.run(demo, env=variables, capture_output=True, check=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.h5")} == answers
    assert time.monotonic() - started < 120


def test_story_2_from_somebodys_checkpoint_to_a_report(folder: Path):
    checkpoint(folder / "resnet.ckpt")
    data = "idx:data/fashion-mnist"
    call("import", "resnet.ckpt", "--model", "mynets.resnet:resnet20", "--data", data, "--out", "results/mine")
    assert "determinism" in call("doctor", "results/mine").output
    surface = ("--directions", "filter", "--resolution", "5", "--radius", "1.0", "--seeds", "3")
    assert "loss: " in call("probe", "surface", "results/mine", *surface).output
    assert "± residual" in call("probe", "spectrum", "results/mine", "--k", "2", "--tol", "1e-3").output
    call("figure", "results/mine", "--format", "pdf", "--width", "single")
    drawn = {path.name.split("-")[0] for path in (folder / "results/mine/figures").glob("*.pdf")}
    assert {"surface", "spectrum"} <= drawn
    call("report", "results/", "--out", "report.html")
    assert "<html" in (folder / "report.html").read_text()[:500].lower()


def test_story_3_every_factor_is_an_option(tmp_path: Path):
    out = tmp_path / "results" / "r0"
    factors = (
        *("--data", "digits", "--model", "resnet", "--depth", "8", "--norm", "batch", "--init", "he-normal"),
        *("--optimizer", "sgd", "--lr", "0.1", "--momentum", "0.9", "--batch-size", "128", "--schedule", "cosine"),
        *("--epochs", "1", "--train-size", "64", "--seed", "0"),
    )
    call("train", *factors, "--out", out)
    weights = (out / "weights.safetensors").read_bytes()
    call("train", *factors, "--out", out)
    assert (out / "weights.safetensors").read_bytes() == weights
    rows = json.loads(call("list", tmp_path / "results", "--json").output)
    assert [(row["run"], row["state"]) for row in rows] == [("r0", "finished")]
    assert "he-normal" in call("show", out).output
    assert {"training", "trajectory"} <= set(json.loads(call("show", out, "--json").output)["answers"])


@pytest.mark.filterwarnings("ignore")  # whatever Lightning says of somebody else's Trainer is theirs
def test_story_4_two_lines_in_a_trainer_of_ones_own(tmp_path: Path):
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader, TensorDataset

    from landscape.callbacks import ProbeEvery, TrainingDynamics
    from landscape.probes import Spectrum

    class Theirs(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))

        def training_step(self, batch, _):
            return cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    loader = DataLoader(TensorDataset(torch.randn(24, 4), torch.arange(24) % 3), batch_size=8)
    out = tmp_path / "results" / "mine"
    trainer = pl.Trainer(
        callbacks=[TrainingDynamics(out), ProbeEvery(Spectrum(k=1), every=2, out=out)],
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Theirs(), loader)
    assert Store(out).read("training").sizes["step"] == 6
    (name,) = Store(out).names("spectrum-by-step-*")
    assert "step" in Store(out).read(name)["eigenvalue"].dims
    assert "mine" in call("list", tmp_path / "results").output


def test_a_run_is_asked_about_its_own_optimizer(own: Path):
    assert "threshold" in call("probe", "stability", own, "--lr", "0.1").output
    assert "chance" in call("probe", "subspace-overlap", own, "--k", "3", "--draws", "3").output
    (own / "optimizer.safetensors").unlink()
    refused = call("probe", "stability", own, "--lr", "0.2", code=3).output
    assert "give --lr and --optimizer sgd" in refused
    call("probe", "stability", own, "--lr", "0.2", "--optimizer", "sgd")


def test_story_5_a_probe_of_ones_own(own: Path, folder: Path):
    probe = "mynets.probes:WeightNorm"
    first = call("probe", probe, own, "--p", "1").output
    (name,) = Store(own).names("weight-norm-*")
    answer = Store(own).read(name)
    assert json.loads(answer.attrs["probe_fields"]) == {"p": 1}
    assert answer["norm"].item() == pytest.approx(float(re.search(r"norm: (\S+)", first)[1]), rel=1e-3)
    assert "--p INT" in call("probe", probe, "--help").output


def test_story_6_the_sceptic(own: Path):
    agreement = json.loads(call("verify", own, "--examples", "64", "--json").output)
    assert agreement["agree"]
    assert agreement["comparisons"][-1]["quantity"] == "trace"
    call("probe", "spectrum", own, "--k", "2")
    (path,) = own.glob("spectrum-*.h5")
    shown = call("show", path).output
    for word in ("± residual", "seed", "normalization", "torch", "content_digest", "command"):
        assert word in shown
    with xr.open_dataset(path, engine="h5netcdf") as opened:
        assert opened["eigenvalue"].dims == ("end", "rank")


def test_a_plane_of_the_trajectory_and_a_line_toward_another_run(own: Path, tmp_path: Path):
    other = tmp_path / "other"
    call("train", *TINY, "--epochs", "2", "--seed", "1", "--out", other)
    call("probe", "surface", other, "--directions", "pca", "--resolution", "3")
    (name,) = Store(other).names("surface-*")
    assert Store(other).read(name).sizes["snapshot"] == 3
    call("probe", "slice", own, "--directions", f"to:{other}", "--resolution", "3")
    (name,) = Store(own).names("slice-*")
    assert Store(own).read(name).attrs["directions"] == "between"


def test_critical_points_are_searched_for_and_drawn_together(own: Path, tmp_path: Path):
    search = ("--search", "levenberg", "--max-iterations", 2, "--parameters", "head.bias", "--k", 2)
    printed = call("probe", "critical-point", *search, own).output
    assert "negative_count_lower" in printed and "search: out of iterations" in printed
    call("probe", "critical-point", *search, "--displacement", 0.1, own)
    assert "figures: " in call("figure", own, "--format", "png").output
    assert (own / "figures" / "index-against-loss.png").exists()
    assert len(list((own / "figures").glob("critical-point-*-escape.png"))) == 2
    other = tmp_path / "other"
    shutil.copytree(own, other)
    printed = json.loads(call("figure", own, other, "--format", "png", "--json").output)
    assert [list(entry) for entry in printed] == [["run", "files"], ["run", "files"], ["runs", "files"]]
    assert (tmp_path / "figures" / "index-against-loss.png").exists()
    row = json.loads(call("list", own, "--json").output)[0]
    assert "sharpness" not in row  # of the point that was found, not of the run


def test_runs_named_relatively_and_absolutely_are_drawn_together(own: Path, tmp_path: Path, monkeypatch):
    search = ("--search", "levenberg", "--max-iterations", 1, "--parameters", "head.bias", "--k", 2)
    call("probe", "critical-point", *search, own)
    shutil.copytree(own, tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    call("figure", own.absolute(), "other", "--format", "png")
    assert (tmp_path / "figures" / "index-against-loss.png").exists()


def test_a_report_over_runs_is_named_by_its_question_and_is_no_run(own: Path, tmp_path: Path):
    """Other strata, measures or runs are other reports; the order of the runs and the way a number is typed are not."""
    runs = [tmp_path / "all" / f"r{i}" for i in range(5)]
    for run in runs:
        shutil.copytree(own, run)

    def names(*arguments: object) -> set[str]:
        quick = ("--draws", 2, "--steps", 1, "--restarts", 1, "--measures", "sam-one-step,m-sharpness")
        call("sharpness-report", *arguments, *quick)
        return {path.name for path in (tmp_path / "all" / "sharpness-report").glob("*.h5")}

    first = names(*runs[:4])
    assert len(first) == 1
    assert names(*runs[3::-1]) == names(*runs[:4], "--rho", "5e-2") == first
    for number, other in enumerate([(*runs[:4], "--strata", "lr"), (*runs[:4], "--rho", 0.1), runs[1:]], start=2):
        assert len(names(*other)) == number
    rows = json.loads(call("list", tmp_path / "all", "--json").output)
    assert [row["run"] for row in rows] == [run.name for run in runs]
    call("report", tmp_path / "all", "--out", tmp_path / "page.html")
    assert "sharpness-report" in (tmp_path / "page.html").read_text()


def test_several_runs_one_question_and_other_ways_to_evaluate(own: Path, trained: Path, tmp_path: Path):
    shutil.copytree(trained, tmp_path / "second")
    options = ("--examples", "32", "--dtype", "float64", "--normalization", "recalibrated", "--parameters", "*weight")
    call("probe", "slice", own, tmp_path / "second", "--resolution", "3", *options)
    for run in (own, tmp_path / "second"):
        (name,) = Store(run).names("slice-*")
        how = Store(run).read(name).attrs
        assert (how["num_examples"], how["dtype"], how["normalization"]) == (32, "float64", "recalibrated")


def test_json_is_one_document_however_many_runs_were_asked(own: Path, trained: Path, tmp_path: Path):
    shutil.copytree(trained, tmp_path / "second")
    runs = (own, tmp_path / "second")
    files = (own / "training.h5", tmp_path / "second" / "training.h5")
    for command in (
        ("probe", "slice", *runs, "--resolution", "3"),
        ("figure", *runs),
        ("show", *runs),
        ("show", *files),
    ):
        found = json.loads(call(*command, "--json").stdout)
        assert [type(one) for one in found] == [dict, dict]
    for command in (("probe", "slice", own, "--resolution", "3"), ("figure", own), ("show", own), ("show", files[0])):
        assert isinstance(json.loads(call(*command, "--json").stdout), dict)


# --- what bad input gets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("train", "--data", "digist", "--out", "OUT"), 3, "did you mean 'digits'"),
        (("train", "--model", "resnt", "--out", "OUT"), 3, "did you mean 'resnet'"),
        (("train", "--optimizer", "adm", "--out", "OUT"), 3, "did you mean 'adam"),
        (("train", "--data", "npz:nowhere.npz", "--out", "OUT"), 3, "nowhere.npz"),
        (("train", "--epochs", "many", "--out", "OUT"), 2, "expected int"),
        (("train", "--epohcs", "1", "--out", "OUT"), 2, "--epochs"),
        (("train", *TINY, "--out", "FILE"), 3, "FILE"),
        (("probe", "surfac", "RUN"), 3, "did you mean 'surface'"),
        (("probe", "nowhere.mod:Probe", "RUN"), 3, "nowhere"),
        (("probe", "landscape.probes:Surfac", "RUN"), 3, "did you mean 'Surface'"),
        (("probe", "builtins:int", "RUN"), 3, "dataclass"),
        (("probe", "slice", "MISSING"), 3, "MISSING"),
        (("probe", "slice", "FILE"), 3, "FILE"),
        (("probe", "slice", "RUN", "--directions", "filtr"), 3, "filter"),
        (("probe", "slice", "RUN", "--directions", "to:MISSING"), 3, "MISSING"),
        (("probe", "slice", "RUN", "--resolution", "5.5"), 2, "expected int"),
        (("probe", "slice", "RUN", "--examples", "100000"), 3, "examples must lie"),
        (("probe", "slice", "RUN", "--parameters", "nothing*"), 3, "nothing"),
        (("probe", "slice", "RUN", "--device", "gpu0"), 3, "device must be"),
        (("probe", "slice", "RUN", "--executor", "thread"), 3, "serial, processes"),
        (("probe", "surface", "RUN", "--resolution", "100001"), 3, "does not fit the memory"),
        (("probe", "spectrum", "RUN", "--k", "100000000"), 3, "number of parameters"),
        (("figure", "MISSING"), 3, "MISSING"),
        (("report", "MISSING", "--out", "OUT"), 3, "MISSING"),
        (("list", "MISSING"), 3, "MISSING"),
        (("show", "MISSING"), 3, "MISSING"),
        (("verify", "MISSING"), 3, "MISSING"),
        (("doctor", "--model", "x:y"), 2, "--data"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, tuple) else None,
)
def test_bad_input_gets_one_clear_line_and_touches_nothing(
    trained: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
):
    (tmp_path / "FILE").write_text("not a run")
    places = {"RUN": trained, "OUT": tmp_path / "OUT", "FILE": tmp_path / "FILE", "MISSING": tmp_path / "MISSING"}
    filled = [re.sub("RUN|OUT|FILE|MISSING", lambda m: str(places[m[0]]), word) for word in arguments]
    before = digest(trained)
    result = call(*filled, code=code)
    assert message in result.stderr
    assert code == 2 or len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert result.stdout == ""
    assert digest(trained) == before
    assert not (tmp_path / "OUT").exists()


def rename(state: dict) -> None:
    state["encoder.weight"] = state.pop("4.weight")


def reshape(state: dict) -> None:
    state["4.weight"] = state["4.weight"][:, :100].clone()


def poison(state: dict) -> None:
    state["0.weight"][0] = float("nan")


@pytest.mark.parametrize(("change", "message"), [(rename, "4.weight"), (reshape, r"4.weight"), (poison, "0.weight")])
def test_weights_that_do_not_fit_are_named(folder: Path, change: Callable[[dict], None], message: str):
    checkpoint(folder / "net.ckpt", change)
    data = "idx:data/fashion-mnist"
    arguments = ("import", "net.ckpt", "--model", "mynets.resnet:resnet20", "--data", data, "--out", "results/mine")
    assert message in call(*arguments, code=3).stderr
    assert not (folder / "results" / "mine" / "weights.safetensors").exists()


class Payload:
    def __reduce__(self):
        return (os.system, ("touch canary",))


@pytest.mark.parametrize("save", [torch.save, lambda payload, path: path.write_bytes(pickle.dumps(payload))])
def test_a_pickle_that_needs_code_is_refused_and_never_run(folder: Path, save: Callable, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    save({"state_dict": Payload()}, folder / "evil.ckpt")
    data = "idx:data/fashion-mnist"
    result = call(
        *("import", "evil.ckpt", "--model", "mynets.resnet:resnet20", "--data", data, "--out", "results/evil"), code=4
    )
    assert "evil.ckpt is refused" in result.stderr
    assert save is not torch.save or "system" in result.stderr
    assert not (folder / "canary").exists()
    assert not (folder / "results" / "evil").exists()


def test_a_truncated_checkpoint_is_damaged(folder: Path):
    path = checkpoint(folder / "net.ckpt")
    path.write_bytes(path.read_bytes()[:-100])
    data = "idx:data/fashion-mnist"
    call("import", path, "--model", "mynets.resnet:resnet20", "--data", data, "--out", "results/mine", code=4)


@pytest.mark.parametrize("command", [("show",), ("figure",), ("report", "--out", "page.html")])
def test_a_flipped_bit_in_an_answer_is_reported_and_never_drawn(own: Path, folder: Path, command):
    call("probe", "slice", own, "--resolution", "3")
    (path,) = own.glob("slice-*.h5")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    name, *options = command
    result = call(name, path if name == "show" else own, *options, code=4)
    assert path.name in result.stderr
    assert not list(own.glob("figures/slice-*"))
    call("probe", "slice", own, "--resolution", "3", code=4)


def test_flipped_bits_in_the_weights_are_reported(own: Path):
    path = own / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert "weights" in call("probe", "slice", own, code=4).stderr


def test_points_that_overflow_are_kept_and_give_exit_code_5(own: Path):
    result = call("probe", "slice", own, "--radius", "1e30", "--resolution", "3", code=5)
    assert "non-finite: 2 of 3 points" in result.output
    (name,) = Store(own).names("slice-*")
    assert np.isfinite(Store(own).read(name)["loss"].values).tolist() == [False, True, False]


def test_a_compute_that_fails_gives_exit_code_5(own: Path):
    tensors, _ = load_weights(own / "weights.safetensors")
    largest = {name: tensor * 1e30 if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}
    save_weights(own / "weights.safetensors", largest, None)
    assert "a Hessian product is not finite" in call("probe", "spectrum", own, "--k", "1", code=5).stderr


def test_nan_in_the_weights_is_named_before_any_compute(own: Path):
    tensors, _ = load_weights(own / "weights.safetensors")
    name = next(iter(tensors))
    tensors[name].view(-1)[0] = float("nan")
    save_weights(own / "weights.safetensors", tensors, None)
    assert name in call("probe", "slice", own, code=3).stderr
    assert not list(own.glob("*.journal"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
def test_a_read_only_folder_is_refused(own: Path):
    own.chmod(0o555)
    assert "read-only" in call("probe", "slice", own, code=3).stderr


def test_a_mistake_shows_its_traceback_only_when_asked(tmp_path: Path):
    result = CliRunner().invoke(cli, ["show", str(tmp_path / "none"), "--debug"])
    assert type(result.exception).__name__ == "MissingError"


def test_names_from_files_cannot_steer_the_terminal(own: Path):
    answer = xr.Dataset({"norm": ((), 1.0)}, attrs={"verdict": "\x1b]0;owned\x07", "command": "\x1b[2J"})
    path = Store(own).write("weight-norm-1", answer)
    assert "\x1b" not in call("show", path).output


def test_a_lightning_checkpoint_is_imported_on_the_inputs_it_was_trained_on(folder: Path):
    """Control: standardized, the same network sees other inputs."""
    network = make_network("mynets.resnet:resnet20")
    save_weights(folder / "net.safetensors", {f"model.{name}": t for name, t in network.state_dict().items()})
    words = ("net.safetensors", "--model", "mynets.resnet:resnet20", "--data", "idx:data/fashion-mnist", "--json")
    found = json.loads(call("import", *words, "--out", "results/plain").stdout)
    assert (found["prefix"], found["data_options"]["standardize"]) == ("model.", "none")
    other = json.loads(call("import", *words, "--out", "results/other", "--standardize", "channel").stdout)
    assert found["loss"] != other["loss"]
    text = call("import", *words[:-1], "--out", "results/text").stdout
    assert "names without 'model.'" in text
    assert f"loss {found['loss']:.4g}, accuracy {found['accuracy']:.4g}" in text


def test_settings_an_optimizer_refuses_leave_nothing_behind(tmp_path: Path):
    call("train", *TINY, "--optimizer", "nesterov", "--momentum", "0", "--out", tmp_path / "r", code=3)
    assert not (tmp_path / "r").exists()


def test_between_networks_statistics_are_recalibrated(own: Path, trained: Path):
    words = ("probe", "slice", own, "--directions", f"to:{trained}", "--resolution", "3", "--json")
    network = load_weights(own / "weights.safetensors")[0]
    moved = {name: t + 0.1 if t.is_floating_point() and t.ndim > 1 else t for name, t in network.items()}
    save_weights(own / "weights.safetensors", moved)
    assert json.loads(call(*words).stdout)["attributes"]["normalization"] == "recalibrated"
    chosen = call(*words, "--normalization", "running")
    assert json.loads(chosen.stdout)["attributes"]["normalization"] == "running"


def test_a_field_that_is_a_word_of_the_command_line_is_refused(folder: Path):
    (folder / "mynets" / "probes.py").write_text(PROBE.replace("p: int", "runs: int").replace("self.p", "self.runs"))
    result = call("probe", "mynets.probes:WeightNorm", "results/mine", code=3)
    assert "has a field 'runs', a word of the command line itself" in result.stderr


def test_a_damaged_answer_keeps_no_other_from_being_drawn(own: Path):
    call("probe", "slice", own, "--resolution", "3")
    path = Store(own).write("slice-0", xr.Dataset({"center_loss": ((), 0.5)}))
    path.write_bytes(path.read_bytes()[:-1])
    result = call("figure", own, "--format", "png", code=4)
    assert "not drawn" in result.stderr and "slice-0" in result.stderr
    assert list((own / "figures").glob("training-*.png"))
    assert "damaged" in call("list", own.parent).stdout


def commands_of(group, path=()):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands_of(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


@pytest.mark.parametrize(
    ("name", "command"), list(commands_of(cli)), ids=lambda value: value if isinstance(value, str) else ""
)
def test_no_command_has_two_options_of_one_name(name, command):
    options = [option for p in command.get_params(click.Context(command)) for option in (*p.opts, *p.secondary_opts)]
    names = [p.name for p in command.get_params(click.Context(command))]
    assert len(set(options)) == len(options) and len(set(names)) == len(names)
