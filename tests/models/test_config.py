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


def test_an_optimizer_brings_its_options():
    config = RunConfig(optimizer="momentum:0.8,form=ema")
    assert (config.optimizer, config.momentum, config.lr) == ("momentum:form=ema", 0.8, 0.1)
    assert config.optimizer_name == "momentum" and config.optimizer_options == {"momentum": 0.8, "form": "ema"}
    assert config == RunConfig(optimizer="momentum:form=ema", momentum=0.8) == RunConfig.from_dict(config.to_dict())
    assert config.name.startswith("digits-cnn3-batch-momentum-b128-s0-")
    assert RunConfig(optimizer="adam:amsgrad=false,eps=1e-8") == RunConfig(optimizer="adam")
    changed = RunConfig(optimizer="adam:eps=1e-7,bias_correction=false")
    assert changed.optimizer == "adam:eps=1e-07,bias_correction=false" and changed.betas == (0.9, 0.999)


def test_schedule_and_scaling_are_written_in_one_way():
    config = RunConfig(schedule="cosine-restarts:3,floor=0", lr_scaling="linear:reference=256")
    assert (config.schedule, config.lr_scaling) == ("cosine-restarts:cycles=3", "linear:reference=256")
    assert RunConfig(lr_scaling="linear:256") == RunConfig(lr_scaling="linear:reference=256")


def test_gradient_descent_takes_the_whole_batch():
    assert RunConfig(optimizer="gd").batch_size == "all" == RunConfig(optimizer="gd", batch_size="all").batch_size
    assert RunConfig(optimizer="adam", batch_size="all").name.startswith("digits-cnn3-batch-adam-full-s0-")


def test_hashes_of_before_options_are_still_theirs():
    assert RunConfig().hash == "1a6516313135"
    assert RunConfig(optimizer="adam", schedule="cosine").hash == "98247c44a6ca"


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
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, or all, got 0"),
        ({"batch_size": "some"}, "batch_size must be a whole number of at least 1, or all, got 'some'"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"optimizer": "gd", "batch_size": 64}, "'gd' takes all training examples at each step, got batch_size 64"),
        ({"lr": -0.1}, "lr must be a number from 0 to inf, got -0.1"),
        ({"weight_decay": -1.0}, "weight_decay must be a number from 0 to inf"),
        ({"l1": -1.0}, "l1 must be a number from 0 to inf"),
        ({"sam": -0.05}, "sam must be a number from 0 to inf"),
        ({"clip_norm": 0.0}, "clip_norm must be a number above 0, got 0.0; leave it out to clip nothing"),
        ({"clip_value": float("nan")}, "clip_value must be a number above 0, got nan"),
        ({"clip_value": "1"}, "clip_value must be a number above 0, got '1'"),
        ({"momentum": 1.0}, r"optimizer 'sgd' needs momentum in \[0, 1\), got 1.0"),
        ({"optimizer": "momentum:0.9", "momentum": 0.8}, "momentum is given twice, as 0.8 and in 'momentum:0.9'"),
        ({"optimizer": "adam:eps=0"}, "optimizer 'adam' needs eps > 0, got 0.0"),
        ({"optimizer": "sgd:amsgrad=true"}, "optimizer 'sgd' takes no option amsgrad; it takes: momentum"),
        ({"optimizer": "adam:amsgrad=perhaps"}, "optimizer 'adam': amsgrad: expected bool, got 'perhaps'"),
        ({"schedule": "cosine:floor=2"}, r"schedule 'cosine' needs floor in \[0, 1\), got 2.0"),
        ({"schedule": "linear:cycles=2"}, "schedule 'linear' takes no option cycles; it takes: floor"),
        ({"lr_scaling": "linear"}, "lr_scaling 'linear' needs its reference"),
        ({"lr_scaling": "linear:0"}, "lr_scaling 'linear' needs reference of at least 1, got 0"),
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
        ({"init": "hee"}, "unknown initialization 'hee'"),
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
