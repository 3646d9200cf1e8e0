from __future__ import annotations

import collections
import errno
import io
import itertools
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from landscape.store import DamagedFileError, DiskFullError, StoreError, UnsafeFileError
from landscape.store.disk import Disk
from landscape.weights import (
    WeightsError,
    decode_state,
    digest_tensors,
    encode_state,
    fit_weights,
    load_weights,
    save_weights,
)

ROOT = Path(__file__).parents[1]


def network(width: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 4, 2))


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return digest_tensors(ours) == digest_tensors(theirs)


@pytest.fixture
def state() -> dict[str, Tensor]:
    return network().state_dict()


# Our own files.


def test_tensors_of_every_kind_come_back_exactly(tmp_path: Path) -> None:
    shared = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    tensors = {
        "tied.0": shared,
        "tied.1": shared,
        "view": shared.T,
        "half": shared.half(),
        "bfloat16": shared.bfloat16(),
        "double": torch.tensor([torch.nan, torch.inf, -0.0], dtype=torch.float64),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(torch.ones(1)),
    }
    save_weights(tmp_path / "a.safetensors", tensors, {"epoch": "3", "note": "h\u00e9"})
    back, metadata = load_weights(tmp_path / "a.safetensors")
    assert metadata == {"epoch": "3", "note": "h\u00e9"}
    assert same(back, tensors) and {t.dtype for t in back.values()} == {t.dtype for t in tensors.values()}
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_the_digest_is_of_names_types_shapes_and_values(state: dict[str, Tensor]) -> None:
    tensors = {"a": torch.zeros(2), "b": torch.zeros(1)}
    others: list[dict[str, Tensor]] = [
        {"a": torch.zeros(2), "c": torch.zeros(1)},
        {"a": torch.zeros(2, dtype=torch.int32), "b": torch.zeros(1)},
        {"a": torch.zeros(1, 2), "b": torch.zeros(1)},
        {"a": torch.tensor([0.0, -0.0]), "b": torch.zeros(1)},
        {"a": torch.zeros(1), "b": torch.zeros(2)},
    ]
    assert same(tensors, dict(reversed(tensors.items())))
    assert len({digest_tensors(each) for each in [tensors, *others]}) == 1 + len(others)


def flipped(data: bytes, chance: random.Random) -> bytes:
    bit = chance.randrange(8 * len(data))
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_damage_never_gives_other_numbers(tmp_path: Path, state: dict[str, Tensor], suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_weights(path, state, {"epoch": "3"})
    data, (_, metadata) = path.read_bytes(), load_weights(path)
    chance = random.Random(0)
    flips = [flipped(data, chance) for _ in range(300)]
    header = [flipped(data[:900], chance) + data[900:] for _ in range(300)]
    cuts = [data[: chance.randrange(len(data))] for _ in range(50)]
    seen = 0
    for damaged in flips + header + cuts:
        path.write_bytes(damaged)
        try:
            back, strings = load_weights(path)
            assert same(back, state) and strings == metadata
        except (StoreError, WeightsError):
            seen += 1
    assert seen > 300


def test_a_flipped_bit_is_reported(tmp_path: Path, state: dict[str, Tensor]) -> None:
    for path in (tmp_path / "a.safetensors", tmp_path / "a.pt"):
        save_weights(path, state) if path.suffix == ".safetensors" else torch.save(state, path)
        data = bytearray(path.read_bytes())
        data[data.index(state["0.weight"].numpy().tobytes())] ^= 1
        path.write_bytes(data)
    with pytest.raises(DamagedFileError, match="does not match its digest; restore a copy"):
        load_weights(tmp_path / "a.safetensors")
    with pytest.raises(DamagedFileError, match=r"a\.pt is damaged: entry 'a/data/\d+' fails its checksum"):
        load_weights(tmp_path / "a.pt")


def test_files_that_cannot_be_parsed_are_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"short")
    with pytest.raises(DamagedFileError, match=r"a\.safetensors is damaged: .*restore a copy"):
        load_weights(tmp_path / "a.safetensors")
    (tmp_path / "a.pt").write_bytes(b"not a pickle")
    with pytest.raises(UnsafeFileError, match=r"a\.pt is refused: it is not what torch\.save writes for tensors"):
        load_weights(tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes(b"")
    with pytest.raises(DamagedFileError, match=r"a\.pt cannot be read \(EOFError\); restore a copy"):
        load_weights(tmp_path / "a.pt")
    torch.save(state, tmp_path / "b.pt")
    data = (tmp_path / "b.pt").read_bytes()
    (tmp_path / "b.pt").write_bytes(data.replace(b"PK\x01\x02", b"PK\x01\x03", 1))
    with pytest.raises(DamagedFileError, match=r"b\.pt is damaged: .*restore a copy"):
        load_weights(tmp_path / "b.pt")


class FullDisk(Disk):
    def write(self, descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_old_weights(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "resume.safetensors"
    save_weights(path, state)
    with pytest.raises(DiskFullError, match=r"no space left at .*resume\.safetensors"):
        save_weights(path, network(9).state_dict(), disk=FullDisk())
    assert same(load_weights(path)[0], state) and os.listdir(tmp_path) == ["resume.safetensors"]


# Files of others.


@pytest.mark.parametrize(
    ("suffix", "wrap"),
    [
        (".pt", lambda state: state),
        (".pth", lambda state: {"model_state_dict": state, "epoch": 3}),
        (".bin", lambda state: {"model": state}),
        (
            ".ckpt",
            lambda state: {"state_dict": state, "epoch": 3, "loops": {}, "pytorch-lightning_version": "2"},
        ),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_the_state_dict_is_found(
    tmp_path: Path, state: dict[str, Tensor], suffix: str, wrap: Callable, legacy: bool
) -> None:
    torch.save(wrap(state), tmp_path / f"a{suffix}", _use_new_zipfile_serialization=not legacy)
    tensors, metadata = load_weights(tmp_path / f"a{suffix}")
    assert same(tensors, state) and metadata == {}


def test_a_single_entry_has_a_digest_however_it_lies_in_memory() -> None:
    lone = torch.ones(2, 2).t()[:1, :1]
    assert lone.is_contiguous() and lone.stride() == (1, 2)
    assert same({"a": lone}, {"a": torch.ones(1, 1)})
    assert same({"a": torch.ones(()).expand(1)}, {"a": torch.ones(1)})


def test_foreign_safetensors_are_read_without_a_digest(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "a.safetensors", {"format": "pt"})
    tensors, metadata = load_weights(tmp_path / "a.safetensors")
    assert same(tensors, state) and metadata == {"format": "pt"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(2), "holds a Tensor and no state dict; where you trust it, save model.state_dict"),
        ({}, "holds a dict and no state dict"),
        ({1: torch.ones(2)}, "holds a dict and no state dict"),
        ({"lr": 0.1}, "'lr' is a float, not a tensor"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "'w' is not a plain tensor of real numbers"),
        ({"w": torch.eye(2).to_sparse()}, "'w' is not a plain tensor of real numbers"),
        ({"w": torch.ones(2, device="meta")}, "'w' is not a plain tensor of real numbers"),
    ],
)
def test_what_is_no_state_dict_is_named(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=message):
        load_weights(tmp_path / "a.pt")


def test_what_is_no_file_of_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone\.pt is not a file; give a file of weights"):
        load_weights(tmp_path / "gone.pt")
    (tmp_path / "a.npy").touch()
    with pytest.raises(WeightsError, match=r"a\.npy is not a \.safetensors, .*rename it"):
        load_weights(tmp_path / "a.npy")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "a.pt")
    with pytest.raises(UnsafeFileError, match="is a compressed or TorchScript archive; where you trust it"):
        load_weights(tmp_path / "a.pt")


def test_a_tensor_that_claims_more_than_it_stores_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1).expand(2**34)}, tmp_path / "a.pt")
    with pytest.raises(UnsafeFileError, match=r"'w' claims shape \(17179869184,\) but stores 4 bytes"):
        load_weights(tmp_path / "a.pt")


def test_a_compressed_archive_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as plain, zipfile.ZipFile(tmp_path / "b.pt", "w", 8) as packed:
        for entry in plain.namelist():
            packed.writestr(entry, plain.read(entry))
    with pytest.raises(UnsafeFileError, match="is a compressed or TorchScript archive"):
        load_weights(tmp_path / "b.pt")


class Payload:
    """Touches a canary file when it is unpickled as pickle does it."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def zipped(path: Path, payload: Any) -> None:
    torch.save({"state_dict": payload}, path)


def legacy(path: Path, payload: Any) -> None:
    torch.save({"state_dict": payload}, path, _use_new_zipfile_serialization=False)


def raw(path: Path, payload: Any) -> None:
    path.write_bytes(pickle.dumps(payload))


def raw_oldest(path: Path, payload: Any) -> None:
    path.write_bytes(pickle.dumps(payload, protocol=0))


def tarred(path: Path, payload: Any) -> None:
    data = pickle.dumps(payload)
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


PAYLOADS = {
    "system": lambda canary: Payload(os.system, f"touch {canary}"),
    "exec": lambda canary: Payload(exec, f"open({str(canary)!r}, 'w')"),
    "getattr": lambda canary: Payload(getattr, Payload(__import__, "os"), "system"),
    "open": lambda canary: Payload(open, str(canary), "w"),
    "popen": lambda canary: Payload(subprocess.Popen, ["touch", str(canary)]),
    "load": lambda canary: Payload(torch.load, str(canary)),
}
LOADING = """
import sys
from landscape.weights import load_weights
from landscape.store import StoreError
for path in sys.argv[1:]:
    try:
        load_weights(path)
    except StoreError as error:
        print(error)
"""


@pytest.mark.parametrize("write", [zipped, legacy, raw, raw_oldest, tarred])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_pickle_that_needs_code_is_refused_and_does_not_run(
    tmp_path: Path, write: Callable, payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    canary = tmp_path / "canary"
    write(tmp_path / "a.ckpt", PAYLOADS[payload](canary))
    with pytest.raises(UnsafeFileError, match=r"a\.ckpt is .*(would|may|is not what).*; where you trust it"):
        load_weights(tmp_path / "a.ckpt")
    assert not canary.exists()


def test_the_payloads_do_run_where_code_is_allowed(tmp_path: Path) -> None:
    """The negative control: without our reader the canary appears."""
    zipped(tmp_path / "a.pt", PAYLOADS["open"](tmp_path / "canary"))
    torch.load(tmp_path / "a.pt", weights_only=False)["state_dict"].close()
    assert (tmp_path / "canary").exists()


def test_no_environment_makes_a_pickle_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    paths = [tmp_path / f"{number}.pt" for number in range(3)]
    for path, write in zip(paths, (zipped, legacy, raw_oldest), strict=True):
        write(path, PAYLOADS["system"](canary))
    result = subprocess.run(
        [sys.executable, "-c", LOADING, *map(str, paths)],
        cwd=ROOT,
        env={**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.count("would run posix.system") == 3 and not canary.exists()


def test_the_commonest_accident_is_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save({"state_dict": state, "accuracy": np.float64(0.9)}, tmp_path / "a.pt")
    with pytest.raises(UnsafeFileError, match=r"would run numpy.*scalar.*save model\.state_dict\(\) alone"):
        load_weights(tmp_path / "a.pt")


# Fitting.


def test_weights_that_fit_are_loaded(state: dict[str, Tensor]) -> None:
    module = network()
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    fit_weights(module, state)
    assert same(module.state_dict(), state)


def test_a_prefix_is_taken_off_and_narrower_types_are_widened(state: dict[str, Tensor]) -> None:
    module = network()
    halves = {f"model.{name}": t.half() if t.is_floating_point() else t for name, t in state.items()}
    fit_weights(module, {**halves, "metric.count": torch.ones(1)}, prefix="model.")
    assert torch.equal(module[0].weight, state["0.weight"].half().float())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net._orig_mod."])
def test_a_prefix_is_offered_not_guessed(state: dict[str, Tensor], prefix: str) -> None:
    tensors = {prefix + name: tensor for name, tensor in state.items()}
    with pytest.raises(WeightsError, match=f"9 missing .*; the names would fit without '{prefix}': give prefix="):
        fit_weights(network(), tensors)
    fit_weights(network(), tensors, prefix=prefix)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("0.bias"), r"1 missing \(0\.bias\); build the module with the settings"),
        (lambda s: s.update(extra=torch.ones(1)), r"1 unexpected \(extra\)"),
        (
            lambda s: s.update({"3.bias": torch.ones(3)}),
            r"1 of another shape \(3\.bias is \(3,\), expected \(2,\)\)",
        ),
        (
            lambda s: s.update({"3.bias": torch.ones(2).double()}),
            r"3\.bias is torch\.float64, expected torch\.float32",
        ),
        (lambda s: s.update({"3.bias": torch.ones(2).int()}), r"1 of another type \(3\.bias is torch\.int32"),
        (
            lambda s: s.update({"3.bias": torch.tensor([torch.nan, -torch.inf])}),
            r"1 not finite \(3\.bias has 1 NaN and 1 infinite of 2\)",
        ),
        (
            lambda s: s.clear(),
            r"9 missing \(0\.weight, 0\.bias, 1\.weight, 1\.bias, 1\.running_mean and 4 more\)",
        ),
    ],
)
def test_what_does_not_fit_is_listed_and_nothing_is_loaded(
    state: dict[str, Tensor], change: Callable, message: str
) -> None:
    module = network()
    before = digest_tensors(module.state_dict())
    tensors = {name: tensor + 1 for name, tensor in state.items()}
    change(tensors)
    with pytest.raises(WeightsError, match=f"the weights do not fit Sequential: .*{message}"):
        fit_weights(module, tensors)
    assert digest_tensors(module.state_dict()) == before


# Nested states.


def identical(ours: Any, theirs: Any) -> bool:
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, Tensor):
        return same({"": ours}, {"": theirs})
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and all(identical(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(itertools.starmap(identical, zip(ours, theirs, strict=True)))
    return struct.pack("d", ours) == struct.pack("d", theirs) if isinstance(ours, float) else ours == theirs


def checkpoint() -> dict:
    module = network()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    module(torch.ones(2, 1, 4, 4)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])
    return {
        "epoch": 3,
        "state_dict": module.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
        "rng": {"torch": torch.get_rng_state(), "python": random.Random(0).getstate()},
        "odd": [
            True,
            None,
            -0.0,
            float("inf"),
            float("nan"),
            2**80,
            "h\u00e9",
            (),
            [],
            {},
            ((1,),),
            {"tensor": "0"},
        ],
        "counts": collections.Counter("aab"),
        1: {2.5: {None: {False: "keys"}}},
    }


def test_a_checkpoint_comes_back_exactly_through_safetensors(tmp_path: Path) -> None:
    state = checkpoint()
    tensors, text = encode_state(state)
    save_weights(tmp_path / "resume.safetensors", tensors, {"state": text})
    back, metadata = load_weights(tmp_path / "resume.safetensors")
    assert identical(decode_state(back, metadata["state"]), state)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"hparams": {"dir": Path("x")}},
            r"state\.hparams\.dir is a PosixPath, which a checkpoint without pickles",
        ),
        ({"metrics": [np.float64(1)]}, r"state\.metrics\.0 is a float64"),
        ({(1, 2): 0}, "state has a key of type tuple; use strings or numbers"),
    ],
)
def test_a_state_that_needs_a_pickle_is_refused(state: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        encode_state(state)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        '{"tensor": "0"}',
        '{"set": []}',
        '{"dict": [1]}',
        '{"dict": [[[], 1]]}',
        "[" * 10**5,
        '{"tuple": 1}',
    ],
)
def test_a_state_of_another_program_is_refused(text: str) -> None:
    with pytest.raises(DamagedFileError, match="the state was not written by landscape"):
        decode_state({}, text)
    assert json.loads(encode_state([1])[1]) == [1]
