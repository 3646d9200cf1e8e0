from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
import xarray as xr

from landscape import provenance as module
from landscape.provenance import provenance
from landscape.store import Store

ROOT = Path(__file__).parents[1]


def test_provenance_says_how_an_answer_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/me/bin/landscape", "probe", "my run"])
    found = provenance()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", str(found["created_utc"]))
    assert found["command"] == "landscape probe 'my run'"
    assert found["torch"] == str(torch.__version__) and found["threads"] == torch.get_num_threads()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert isinstance(found["tf32"], bool) and isinstance(found["git_dirty"], bool)


def test_provenance_can_be_stored_whatever_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["landscape", "\udcff\u00e9"])
    Store(tmp_path).write("a", xr.Dataset(attrs=provenance()))
    assert Store(tmp_path).read("a").attrs["command"] == "landscape '\\udcff\u00e9'"


def git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    command = ["git", *settings, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_the_checkout(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "code").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    (tmp_path / "result").write_text("untracked files do not change the code")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert module._git_state(tmp_path) == (commit, False)
    (tmp_path / "code").write_text("2")
    module._git_state.cache_clear()
    assert module._git_state(tmp_path) == (commit, True)


def test_a_package_in_somebody_elses_checkout_has_no_commit(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "site-packages").mkdir()
    assert module._git_state(tmp_path / "site-packages") == ("", False)


def test_without_git_or_a_commit_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init")
    assert module._git_state(tmp_path) == ("", False)
    module._git_state.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert module._git_state(tmp_path) == ("", False)


def test_a_package_that_is_not_installed_has_an_unknown_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "version", missing)
    assert module.version_of("no-such-distribution") == "0+unknown"


@pytest.mark.parametrize(
    ("device", "precision", "convolutions", "expected"),
    [
        ("cpu", "high", True, False),
        ("cuda", "high", False, True),
        ("cuda", "highest", True, True),
        ("cuda", "highest", False, False),
    ],
)
def test_tf32_is_a_matter_of_the_gpu(
    monkeypatch: pytest.MonkeyPatch, device: str, precision: str, convolutions: bool, expected: bool
) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", convolutions)
    assert module.allows_tf32(torch.device(device)) is expected


def test_tf32_is_assumed_where_torch_refuses_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", refuse)
    assert module.allows_tf32(torch.device("cuda"))


def test_provenance_does_not_import_lightning() -> None:
    code = "import landscape.provenance, sys; assert 'pytorch_lightning' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
