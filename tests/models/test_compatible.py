"""Which runs have weights that can be compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.compatible import differing_tensors, require_compatible, require_equal_tensors
from models.run import Run, RunConfig, open_run, train


def untrained(folder: Path, **factors: object) -> Run:
    given = {"model": "mlp", "width": 8, "epochs": 0, "train_size": 64, "test_size": 16, **factors}
    train(RunConfig(**given), folder)
    return open_run(folder)


def test_runs_that_differ_only_in_training_are_compatible(tmp_path: Path):
    require_compatible(
        {"a": untrained(tmp_path / "a"), "b": untrained(tmp_path / "b", seed=1, optimizer="adam", batch_size=16)}
    )


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (
            {"width": 9},
            r"b has other parameters than a: .*'hidden1.weight' is \(9, 64\) there and \(8, 64\) in a .*differ\)",
        ),
        ({"depth": 3}, "is only in b"),
        ({"activation": "tanh"}, "another function of them: activation is 'tanh' there, 'relu' in a"),
    ],
)
def test_runs_of_other_architectures_are_refused(tmp_path: Path, factors: dict[str, object], message: str):
    runs = {"a": untrained(tmp_path / "a"), "b": untrained(tmp_path / "b", **factors)}
    with pytest.raises(ValueError, match=message):
        require_compatible(runs)


def test_buffers_tell_batch_from_group_norm(tmp_path: Path):
    """Both have the same parameters; only one has running statistics."""
    runs = {
        norm: untrained(tmp_path / norm, model="cnn", width=4, norm=norm, train_size=32) for norm in ("group", "batch")
    }
    with pytest.raises(ValueError, match=r"batch has other parameters than group: '.*running_mean' is only in batch"):
        require_compatible(runs)


def test_differing_tensors_are_listed_by_both_shapes():
    first, second = {"w": torch.zeros(2, 3), "b": torch.zeros(3)}, {"w": torch.zeros(3, 2), "b": torch.zeros(3)}
    assert differing_tensors(first, second) == {"w": ((2, 3), (3, 2))}
    require_equal_tensors(first, {**second, "w": first["w"]})
    with pytest.raises(ValueError, match=r"one has other parameters than the other: 'w' is \(2, 3\) there"):
        require_equal_tensors(first, second)
