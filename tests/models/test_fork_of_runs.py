"""A run that forks: bit for bit the trunk until the step, then a way of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from landscape import Store
from models.config import RunConfig
from models.data import Examples, TensorLoader
from models.run import train
from models.seeds import Fork

TRUNK = RunConfig(
    data="digits",
    train_size=50,
    test_size=20,
    model="mlp",
    width=4,
    depth=1,
    norm="batch",
    regularization="dropout:0.2",
    optimizer="momentum",
    batch_size=16,
    epochs=3,
    snapshots="steps:1",
    flow_every=0,
)  # four steps an epoch, the last of two examples


@pytest.fixture(scope="module")
def trajectory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forks")

    def of(config):
        train(config, folder / config.hash)
        return torch.from_numpy(Store(folder / config.hash, create=False).read("trajectory")["theta"].values)

    return of


@pytest.mark.parametrize("step", [0, 4, 6, 11])
def test_a_fork_is_the_trunk_bit_for_bit_until_its_step(trajectory, step):
    trunk, fork = trajectory(TRUNK), trajectory(replace(TRUNK, fork_step=step))
    same = (trunk == fork).all(dim=1)
    assert len(same) == 13 and same[: step + 1].all() and not same[step + 1 :].any()


def test_ways_on_from_one_fork_differ(trajectory):
    one, two = (trajectory(replace(TRUNK, fork_step=6, fork_seed=seed)) for seed in (0, 1))
    assert (one[:7] == two[:7]).all() and not (one[7:] == two[7:]).all(dim=1).any()


def test_an_interrupted_fork_goes_on_to_the_same_bits(trajectory, tmp_path):
    config = replace(TRUNK, fork_step=6)

    def stop(stage, done, total):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", progress=stop)
    train(config, tmp_path / "run")
    assert (Store(tmp_path / "run").read("trajectory")["theta"].values == trajectory(config).numpy()).all()


def test_each_example_is_seen_once_in_the_epoch_of_a_fork():
    examples = Examples(torch.arange(10.0)[:, None], torch.arange(10))
    own, forked = (TensorLoader(examples, 3, shuffle=True, seed=2, fork=fork) for fork in (None, Fork(6)))
    orders = []
    for loader in (own, forked):
        loader.set_epoch(1)  # steps 4 to 7
        orders.append(loader.order().tolist())
    assert orders[0][:6] == orders[1][:6] and orders[0][6:] != orders[1][6:]
    assert sorted(orders[1]) == list(range(10))


def test_no_fork_changes_no_hash():
    assert TRUNK.hash == replace(TRUNK, fork_step=None, fork_seed=0).hash
    assert len({replace(TRUNK, fork_step=step).hash for step in (None, 0, 1)}) == 3


def test_forks_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match="fork_step 12 is not before the end of this training, which has 12 steps"):
        train(replace(TRUNK, fork_step=12), tmp_path / "late")
    with pytest.raises(ValueError, match="fork_step must be a whole number of at least 0"):
        replace(TRUNK, fork_step=-1)
    with pytest.raises(ValueError, match="give fork_step too"):
        replace(TRUNK, fork_seed=1)
