"""The report in a real browser: it draws, it obeys its own policy, and names from files stay text."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from landscape.figures.report import write_report
from landscape.store import Store
from tests.answers import surface_answer, training_answer

HOSTILE = "<img src=x onerror=alert(1)>"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--virtual-time-budget=10000",
    "--window-size=1400,3000",
    "--enable-logging=stderr",
    "--v=0",
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine; install Debian's package `chromium`"),
]


def browse(page: Path, profile: Path) -> tuple[str, str]:
    """The page's elements after its scripts ran, and what the browser logged."""
    command = [str(BROWSER), *OPTIONS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("browser")
    for name in ("plain", HOSTILE):
        store = Store(root / name)
        surface = surface_answer(resolution=(11, 9), trajectory=True)
        surface.attrs["command"] = f"{HOSTILE}</script><script>document.title='owned'</script>"
        store.write("surface-1", surface)
        store.write("training", training_answer(2, 5, 3, name=f"{HOSTILE}#"))
    page = write_report([root / "plain", root / HOSTILE], root / "report.html")
    return browse(page, root / "profile")


def test_no_script_fails_and_the_policy_is_never_broken(seen):
    _, log = seen
    complaints = [line for line in log.splitlines() if "CONSOLE" in line]
    assert not [c for c in complaints if re.search(r"Error|Content Security Policy|Refused|violat", c)]


def test_every_surface_is_drawn_in_webgl(seen):
    elements, _ = seen
    assert 'class="live"' in elements
    assert len(re.findall(r'class="interactive js-plotly-plot"', elements)) == 2
    assert elements.count("gl-container") >= 2 and "<canvas" in elements


def test_names_from_files_stay_text(seen):
    elements, _ = seen
    assert "<img src=x" not in elements and '<img src="x"' not in elements
    assert "&lt;img src=x onerror=alert(1)&gt;" in elements
    assert "<title>Landscape report:" in elements and "<title>owned" not in elements


def test_a_script_that_is_not_ours_does_not_run(seen, tmp_path: Path):
    """Negative control: the same page with a foreign script logs that it was refused."""
    (tmp_path / "run").mkdir()
    Store(tmp_path / "run").write("surface-1", surface_answer(resolution=(5, 5)))
    page = write_report([tmp_path / "run"], tmp_path / "report.html")
    page.write_text(page.read_text().replace("</body>", "<script>document.title='owned'</script></body>"))
    elements, log = browse(page, tmp_path / "profile")
    assert "<title>owned" not in elements
    assert "Content Security Policy" in log
