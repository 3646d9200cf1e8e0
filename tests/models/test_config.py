"""RunConfig: defaults filled in, names, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from landscape.fields import fields_of, parse
from models.config import RunConfig


def test_defaults_of_architecture_and_optimizer_are_filled_in():
    config = RunConfig(model="resnet", optimizer="adam")
    assert (config.depth, config.width, config.norm, config.activation) == (8, 16, "batch", "relu")
    assert (config.lr, config.betas, config.momentum) == (0.001, (0.9, 0.999), None)
    assert config == RunConfig(model="resnet", depth=8, optimizer="adam", lr=0.001, norm="batch")
    assert RunConfig(model="lenet").depth is None


def test_the_command_of_the_stories():
    config = RunConfig(model="resnet", depth=8, norm="batch", init="he-normal", optimizer="sgd", lr=0.1, momentum=0.9)
    assert config.optimizer_options == {"momentum": 0.9}
    assert config.name == f"digits-resnet8-batch-sgd-b128-s0-{config.hash[:6]}"
    assert RunConfig(data="idx:data/mnist", model="mlp").name.startswith("idx-mlp2-sgd-b128-s0-")


def test_json_and_hash():
    config = RunConfig(optimizer="adam", label_noise=0.1, seed=3)
    again = RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and again.hash == config.hash and len(config.hash) == 12
    others = [RunConfig(seed=1), RunConfig(epochs=3), RunConfig(model="resnet"), RunConfig(model="resnet", skip=False)]
    assert len({RunConfig().hash, *(other.hash for other in others)}) == 5


def test_a_number_is_the_same_factor_whole_or_real():
    whole = RunConfig(optimizer="adam", lr=1, weight_decay=0, betas=(0, 0.5))
    real = RunConfig(optimizer="adam", lr=1.0, weight_decay=0.0, betas=(0.0, 0.5))
    assert json.dumps(whole.to_dict()) == json.dumps(real.to_dict()) and whole.hash == real.hash


def test_a_field_at_its_default_moves_no_hash():
    @dataclass(frozen=True)
    class Later(RunConfig):
        added: str = "off"

    assert Later(seed=3).hash == RunConfig(seed=3).hash
    assert Later(seed=3, added="on").hash != RunConfig(seed=3).hash


def test_every_field_explains_itself():
    for field in fields_of(RunConfig):
        assert field.help and field.group, field.name
        assert not field.required


def test_no_norm_can_be_asked_for_in_text():
    (norm,) = (field for field in fields_of(RunConfig) if field.name == "norm")
    assert RunConfig(model="cnn", norm=parse("none", norm.annotation)).norm == "none"
    assert RunConfig(model="cnn").norm == "batch"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": -1}, "epochs must be a whole number of at least 0, got -1"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"seed": True}, "seed must be a whole number"),
        ({"lr": float("nan")}, "lr must be a number from 0 to inf, got nan"),
        ({"lr": float("inf")}, "lr must be a number"),
        ({"momentum": 2.0}, "momentum must be a number from 0 to 1"),
        ({"val_fraction": 1.0}, "val_fraction must leave something"),
        ({"label_noise": 1.5}, "label_noise must be a number from 0 to 1"),
        ({"optimizer": "adam", "betas": (0.9, 1.0)}, "betas must be two numbers"),
        ({"optimizer": "adam", "momentum": 0.9}, "optimizer 'adam' takes no option momentum; it takes: betas"),
        ({"model": "mlp", "skip": False}, "model 'mlp' takes no option skip"),
        ({"model": "lenet", "depth": 5}, "model 'lenet' takes no option depth"),
        ({"model": "resnett"}, "unknown model 'resnett'; did you mean 'resnet'"),
        ({"optimizer": "admw"}, "unknown optimizer 'admw'; did you mean 'adamw'"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ({"init": "he"}, "unknown initialization 'he'"),
        ({"standardize": "pixels"}, "unknown standardize 'pixels'; did you mean 'pixel'"),
        ({"norm": "bach"}, "unknown norm 'bach'; did you mean 'batch'"),
        ({"activation": "leaky-relu"}, "needs its negative_slope"),
        ({"snapshots": "often"}, "a schedule is"),
        ({"device": "tpu"}, "device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        ({"early_stopping": 3, "val_fraction": 0.0}, "watch the validation loss"),
        ({"keep_best": True, "val_fraction": 0.0}, "watch the validation loss"),
        ({"widht": 3}, "unknown field of a run's configuration 'widht'; did you mean 'width'"),
    ],
)
def test_what_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        RunConfig.from_dict(values)
