"""Networks over sizes: what the arms choose and from which split, and that no run is made twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from cli import cli
from landscape import Store
from landscape.figures import draw
from models.config import RunConfig
from models.data import load_data
from models.descent.answering import answer_networks
from models.descent.networks import Networks
from models.descent.planning import networks_of
from models.descent.rows import descent_words
from tests.commands import landscape
from tests.test_kill import killed_until_done

BASE = RunConfig(
    data="digits", model="mlp", train_size=40, test_size=60, batch_size=40, lr=0.2, epochs=3, snapshots="none"
)
PLAN = Networks(BASE, "width", (1, 2, 4), (0.2,), (0, 1), (0.0, 0.5))


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.Dataset]:
    out = tmp_path_factory.mktemp("descent")
    return out, answer_networks(PLAN, Store(out), "serial")[1]


def training(out: Path, size: int, noise: float, seed: int, decay: float = 0.0) -> xr.Dataset:
    return Store(out / PLAN.of(size, noise, seed, decay).hash, create=False).read("training")


def test_every_cell_is_a_normal_run(answered):
    out, answer = answered
    assert answer["test_loss"].sizes == {"arm": 3, "noise": 1, "size": 3, "seed": 2}
    for size, noise, seed in ((1, 0.2, 0), (4, 0.2, 1)):
        run = training(out, size, noise, seed)
        one = answer.sel(arm="as trained", size=size, noise=noise, seed=seed)
        assert one["test_loss"].item() == pytest.approx(run["test_loss"].item(), rel=1e-6)
        assert one["test_error"].item() == pytest.approx(1 - run["test_accuracy"].item())
        assert one["train_error"].item() == pytest.approx(1 - run["final_train_accuracy"].item())


def test_early_stopping_takes_the_epoch_of_least_validation_loss(answered):
    out, answer = answered
    for size, noise, seed in ((1, 0.2, 0), (2, 0.2, 1)):
        run = training(out, size, noise, seed)
        epoch = int(run["val_loss"].values.argmin())
        one = answer.sel(arm="early stopping", size=size, noise=noise, seed=seed)
        assert one["chosen_epoch"] == epoch
        assert one["test_loss"].item() == pytest.approx(float(run["epoch_test_loss"][epoch]))


def test_no_arm_looks_at_the_test_split():
    """Of two epochs and two weight decays the test split would choose the others."""
    run = xr.Dataset(
        {
            "val_loss": ("epoch", [1.0, 2.0]),
            "epoch_test_loss": ("epoch", [5.0, 3.0]),
            "epoch_test_accuracy": ("epoch", [0.1, 0.9]),
            "train_accuracy": ("epoch", [0.5, 0.6]),
            "final_train_accuracy": 0.7,
        }
    )
    plain, stopped = PLAN._arms(run, 1)
    assert plain["test_loss"] == 3.0 and plain["train_error"] == pytest.approx(0.3)
    assert stopped["chosen_epoch"] == 0 and stopped["test_loss"] == 5.0
    values = {"val_loss": np.array([1.0, 2.0]), "test_loss": np.array([9.0, 1.0])}
    chosen = PLAN._best_decays({name: each.reshape(2, 1, 1, 1) for name, each in values.items()})
    assert chosen["test_loss"].item() == 9.0


def test_weight_decay_is_chosen_cell_by_cell(answered):
    out, answer = answered
    one = answer.sel(arm="optimal weight decay", size=2, noise=0.2, seed=0)
    losses = {decay: float(training(out, 2, 0.2, 0, decay)["val_loss"][-1]) for decay in PLAN.decays}
    assert one["weight_decay"].item() == min(losses, key=losses.__getitem__)


def test_noise_is_exactly_the_share_of_wrong_training_labels():
    clean, noisy = (load_data("digits", **PLAN.of(1, noise, 0, 0.0).data_options) for noise in (0.0, 0.2))
    assert (clean.train.targets != noisy.train.targets).sum() == 8  # of 40: none of them drew its own label again
    assert clean.val.targets.equal(noisy.val.targets) and clean.test.targets.equal(noisy.test.targets)


def test_parameters_stand_beside_the_number_of_examples(answered):
    _, answer = answered
    assert answer["num_parameters"].values.tolist() == [65 + 2 + 20, 130 + 6 + 30, 260 + 20 + 50]
    assert answer["num_examples"].values.tolist() == [40] * 3
    assert "not reached by any size" in descent_words(answer)[0]


def test_errors_by_size_and_epoch_are_medians_over_seeds(answered):
    out, answer = answered
    errors = [1 - training(out, 4, 0.2, seed)["epoch_test_accuracy"].values for seed in PLAN.seeds]
    np.testing.assert_allclose(answer["epoch_test_error"].sel(noise=0.2, size=4), np.median(errors, 0), rtol=1e-6)


def test_its_figures(answered):
    _, answer = answered
    figures = draw(answer, "double-descent-abc")
    assert list(figures) == ["double-descent", "descent-map"]
    assert [panel.get_ylabel() for panel in figures["double-descent"].axes] == ["Test loss (nats)", "Test error (%)"]
    assert figures["descent-map"].axes[0].get_title() == "20% noise"


def test_what_was_interrupted_goes_on_and_nothing_is_trained_twice(tmp_path):
    plan = replace(PLAN, decays=(0.0,), seeds=(0,), sizes=(1, 2, 3, 4))

    def stop(_stage: str, done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_networks(plan, Store(tmp_path), "serial", stop)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/training.h5")}
    assert 1 <= len(files) <= 3
    path, answer = answer_networks(plan, Store(tmp_path), "serial")
    assert all(file.stat().st_mtime_ns == time for file, time in files.items())
    assert answer["test_loss"].notnull().all() and len(list(tmp_path.glob("*/training.h5"))) == 4
    before = path.stat().st_mtime_ns
    answer_networks(plan, Store(tmp_path), "serial")
    assert path.stat().st_mtime_ns == before


def test_epochs_are_looked_at_in_one_training(tmp_path):
    plan = replace(PLAN, axis="epochs", sizes=(1, 2, 3), noises=(0.2,), seeds=(0,), decays=(0.0,))
    _, answer = answer_networks(plan, Store(tmp_path), "serial")
    (run,) = tmp_path.glob("*/training.h5")
    curve = Store(run.parent).read("training")["epoch_test_loss"].values
    np.testing.assert_allclose(answer["test_loss"].values.ravel(), curve)
    assert list(answer["arm"].values) == ["as trained"] and "double-descent" in draw(answer, "double-descent-abc")


def test_examples_are_counted_where_they_vary(tmp_path):
    plan = replace(PLAN, axis="samples", sizes=(10, 20, 40), noises=(0.0,), seeds=(0,), decays=(0.0,))
    _, answer = answer_networks(plan, Store(tmp_path), "serial")
    assert answer["num_examples"].values.tolist() == [10, 20, 40]


def test_a_run_that_failed_is_missing_and_all_of_them_are_an_error(tmp_path):
    plan = replace(PLAN, decays=(0.0,), seeds=(0,), noises=(0.0,))
    for size in plan.sizes:
        Store(tmp_path / plan.of(size, 0.0, 0, 0.0).hash).save_json("failure", {"error": "boom", "config": {}})
    with pytest.raises(ValueError, match="every run failed; failure.json in the folders below"):
        answer_networks(plan, Store(tmp_path), "serial")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axis": "depth"}, "mlp has the axes width, epochs, samples, noise, got 'depth'"),
        ({"sizes": (1, 2)}, "at least 3 in all, got 2"),
        ({"sizes": (0, 1, 2)}, "widths must rise from at least 1, got 0, 1, 2"),
        ({"noises": (0.0, 1.0)}, "noise must be in"),
        ({"decays": (0.1, 0.1)}, "weight decays must be different"),
        ({"config": replace(BASE, val_fraction=0.0)}, "chosen on the validation split; give val_fraction above 0"),
        ({"config": replace(BASE, keep_best=True)}, "early stopping is an arm of its own"),
    ],
)
def test_bad_plans(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAN, **changes)


def test_plans_from_words_take_the_usual_training_unless_told_otherwise():
    plan = networks_of("width", "mlp", {}, None)
    assert len(plan.sizes) == 9 and len(plan.seeds) == 8 and plan.config.epochs == 150 and plan.config.momentum == 0.9
    assert networks_of("width", "mlp", {"optimizer": "adam"}, None).config.lr == RunConfig(optimizer="adam").lr
    assert networks_of("epochs", "mlp", {}, 2).of(5, 0.0, 0, 0.0).epochs == 1000
    assert networks_of("noise", "cnn", {"label_noise": "0,0.1,0.2"}, 2).noises == (0.0, 0.1, 0.2)
    with pytest.raises(ValueError, match="no usual widths of 'resnet'; give width"):
        networks_of("width", "resnet", {}, 1)
    with pytest.raises(ValueError, match="unknown model 'mpl'; did you mean 'mlp'"):
        networks_of("width", "mpl", {}, 1)


# --- the command -------------------------------------------------------------------------------------------


def command(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["double-descent", *map(str, words)])
    return result.exit_code, result.output


def test_the_command_draws_and_tells(tmp_path):
    small = ("--width", "4,20,80", "--train-size", "20", "--seeds", "2", "--ridge", "0.1", "--out", tmp_path)
    code, output = command(*small, "--json")
    found = json.loads(output)
    assert code == 0 and found["rows"][0]["peak size"] == 20 and Path(found["figures"][0]).exists()
    code, output = command(*small, "--ridge", "none")
    assert code == 0 and "rank of the features equals n: from size 20, not at 4" in output


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "words",
    [
        (
            "--model",
            "mlp",
            "--width",
            "2,4,8",
            "--epochs",
            20,
            "--seeds",
            2,
            "--train-size",
            200,
            "--executor",
            "serial",
        ),
        ("--width", "30,100,300,1000,3000,6000", "--seeds", 4),
    ],
    ids=["networks", "random-features"],
)
def test_the_command_killed_at_random_ends_with_the_same_answer(words, tmp_path):
    command = ("double-descent", *words, "--format", "none")
    assert landscape(*command, "--out", tmp_path / "whole").returncode == 0

    def pieces() -> int:
        files = [*(tmp_path / "killed").glob("*/training.h5"), *(tmp_path / "killed").glob("*.journal")]
        return sum(path.stat().st_size for path in files)

    assert killed_until_done((*command, "--out", tmp_path / "killed"), 3, seed=0, progress=pieces) >= 1
    (whole,), (killed,) = (sorted((tmp_path / name).glob("double-descent-*.h5")) for name in ("whole", "killed"))
    assert whole.name == killed.name
    digests = [Store(path.parent).read(path).attrs["content_digest"] for path in (whole, killed)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--width", "0,1,2"), "widths must rise from at least 1"),
        (("--label-noise", "0,1"), "noise must be in [0, 1)"),
        (("--model", "mlp", "--ridge", "0.1"), "ridge is for random-features"),
        (("--tolerance", "1"), "tolerance must be in [0, 1)"),
        (("--model", "perceptron"), "perceptron"),
        (("--model", "least-squares", "--dimension", "5"), "at least 3 in all"),
    ],
)
def test_mistakes_of_a_user_are_one_line(words, message, tmp_path):
    code, output = command(*words, "--out", tmp_path)
    assert code == 3 and message in output and output.count("\n") == 1
