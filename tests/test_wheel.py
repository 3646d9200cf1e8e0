"""What a user installs: the wheel, away from the checkout, beside somebody's own `models.py`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("commands", "landscape", "models", "paper_figures")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources, so that old build folders cannot leak into it."""
    source = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cli.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    out = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)])
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def binaries(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the wheel; dependencies are read where the tests find them."""
    environment = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)])
    site = run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    # A path line only: .pth files there, such as that of an editable install of this checkout, are not followed.
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A user's folder, with a models.py of their own and the probe of story 5."""
    (tmp_path / "models.py").write_text("raise RuntimeError('this is somebody else\\'s models.py')\n")
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "__init__.py").touch()
    (tmp_path / "mypackage" / "probes.py").write_text(
        textwrap.dedent(
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
    )
    return tmp_path


def run(command: list[str], cwd: Path | None = None) -> str:
    """Run a command that knows nothing of the checkout."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_packages_and_their_data(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {*PACKAGES, "cli.py"}
    assert "landscape/py.typed" in names
    shipped = {path for path in (ROOT / "landscape").rglob("*") if path.suffix in {".mplstyle", ".html"}}
    assert {path.relative_to(ROOT).as_posix() for path in shipped} <= set(names)


def test_installed_it_comes_from_the_wheel_and_not_from_the_checkout(binaries: Path, workplace: Path):
    code = "import landscape, models, paper_figures, cli; print(landscape.__file__, models.__file__, cli.__file__)"
    for path in run([str(binaries / "python"), "-P", "-c", code], workplace).split():
        assert Path(path).is_relative_to(binaries.parent)
    assert run([str(binaries / "landscape"), "--version"], workplace).startswith("landscape, version")


def test_training_and_a_probe_of_ones_own_beside_an_unrelated_models_module(binaries: Path, workplace: Path):
    landscape = str(binaries / "landscape")
    tiny = ["--data", "digits", "--model", "mlp", "--epochs", "1", "--train-size", "64"]
    run([landscape, "train", *tiny, "--out", "results/mine"], workplace)
    for order in ("1", "2"):
        out = run([landscape, "probe", "mypackage.probes:WeightNorm", "results/mine", "--p", order], workplace)
        assert "norm: " in out
    assert len(list((workplace / "results" / "mine").glob("weight-norm-*.h5"))) == 2


def test_it_works_without_a_home_a_display_or_a_language(binaries: Path, tmp_path: Path):
    bare = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": "/nonexistent", "OMP_NUM_THREADS": "1"}
    tiny = ["--data", "digits", "--model", "mlp", "--epochs", "1", "--train-size", "64"]
    command = [str(binaries / "landscape"), "train", *tiny, "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, env=bare, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "training.h5").exists()
