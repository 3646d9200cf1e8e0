"""Imports point one way, landscape -> models -> paper_figures -> commands -> cli, and costly ones wait until needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ("landscape", "models", "paper_figures", "commands", "cli")
# Who alone may import what, inside the packages named.
KEPT_IN = {
    "h5py": (ORDER, "landscape/store/"),
    "pytorch_lightning": (("landscape",), "landscape/callbacks/"),
    "matplotlib": (("landscape",), "landscape/figures/"),
    "plotly": (ORDER, "landscape/figures/"),
    "click": (ORDER, "commands/"),
    "fcntl": (ORDER, "landscape/store/"),
    "dask": (ORDER, "landscape/execution/cluster.py"),
    "distributed": (ORDER, "landscape/execution/cluster.py"),
    "pyhessian": (ORDER, "landscape/verify.py"),
}


def sources(root: Path = ROOT) -> list[Path]:
    """The Python files that a user installs."""
    packages = [path for name in ORDER[:-1] for path in sorted((root / name).rglob("*.py"))]
    return [path for path in [*packages, root / "cli.py"] if path.exists()]


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every absolute import, however deep it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, str(node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in {
            "import_module",
            "__import__",
        }:
            yield from ((node.lineno, a.value) for a in node.args[:1] if isinstance(a, ast.Constant))


def breaches(root: Path = ROOT) -> list[str]:
    """Every import that points back, or that stands outside the one file it is kept in."""
    found = []
    for path in sources(root):
        where = path.relative_to(root).as_posix()
        package = where.split("/")[0].removesuffix(".py")
        for line, name in imports(ast.parse(path.read_text())):
            top = name.split(".")[0]
            if top in ORDER and ORDER.index(top) > ORDER.index(package):
                found.append(f"{where}:{line} imports {name}, which stands above it")
            packages, home = KEPT_IN.get(top, ((), ""))
            if package in packages and not where.startswith(home):
                found.append(f"{where}:{line} imports {name}, which belongs in {home} alone")
    return found


def unsafe_loads(tree: ast.AST) -> list[int]:
    """Lines that call torch.load without saying weights_only=True."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "torch.load"
        and not any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
    ]


def test_imports_point_one_way():
    assert breaches() == []


def test_the_walk_finds_an_import_that_points_back(tmp_path: Path):
    """Negative control: the walker must see what it is there to see."""
    (tmp_path / "landscape").mkdir()
    (tmp_path / "landscape" / "bad.py").write_text("def f():\n    from models.run import train\n    import h5py\n")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "good.py").write_text("from landscape import Store\nfrom . import sibling\n")
    (tmp_path / "cli.py").write_text("import commands, models\nfrom importlib import import_module\n")
    (tmp_path / "models" / "sly.py").write_text("from importlib import import_module\nimport_module('cli')\n")
    assert breaches(tmp_path) == [
        "landscape/bad.py:2 imports models.run, which stands above it",
        "landscape/bad.py:3 imports h5py, which belongs in landscape/store/ alone",
        "models/sly.py:2 imports cli, which stands above it",
    ]


def test_no_file_is_named_utils():
    assert [path for path in sources() if path.stem in {"utils", "helpers", "misc", "common"}] == []


def test_a_progress_display_is_described_once():
    assert [path.name for path in sources() if "\nProgress = " in path.read_text()] == ["work.py"]


def test_opening_a_run_does_not_import_lightning():
    check = "import sys, models.run; print('pytorch_lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_torch_load_never_runs_code():
    found = {path.name: unsafe_loads(ast.parse(path.read_text())) for path in sources()}
    assert {name: lines for name, lines in found.items() if lines} == {}
    assert unsafe_loads(ast.parse("torch.load(p)\ntorch.load(p, weights_only=True)\n")) == [1]


def test_no_pickle_and_no_eval():
    """Files are data: nothing that could run them is imported or called."""
    modules = {"cPickle", "dill", "joblib", "yaml", "shelve", "marshal"}
    functions = {"eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "add_safe_globals"}
    # Work that this process sends to its own workers, through a folder that only it can write.
    allowed = {("landscape/execution/worker.py", "pickle.loads")}
    for path in sources():
        tree, where = ast.parse(path.read_text()), path.relative_to(ROOT).as_posix()
        assert not {name.split(".")[0] for _, name in imports(tree)} & modules, path
        calls = {called(n) for n in ast.walk(tree)}
        assert not {(where, name) for name in calls & functions} - allowed


def called(node: ast.AST) -> str:
    return ast.unparse(node.func).removeprefix("torch.serialization.") if isinstance(node, ast.Call) else ""


@pytest.mark.parametrize("code", ["import landscape", "import landscape.probes", "import cli", "cli-help"])
def test_what_must_be_fast_imports_nothing_heavy(code: str):
    """`import landscape` and `landscape --help` answer before torch could be read from disk."""
    heavy = ["torch", "pytorch_lightning", "h5py", "xarray", "matplotlib", "scipy", "sklearn", "plotly"]
    ask_help = "import cli; cli.cli(['--help'], standalone_mode=False)"
    run = f"import contextlib\nwith contextlib.redirect_stdout(None): {ask_help}" if code == "cli-help" else code
    check = f"{run}\nimport sys\nprint([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
