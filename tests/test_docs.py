"""What the documents show is run as it stands."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [page for page in DOCS if python_blocks(page)], ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    script = tmp_path / "page.py"
    script.write_text("\n\n".join(python_blocks(page)))
    runpy.run_path(str(script), run_name="page")
    assert "±" in capsys.readouterr().out


def test_a_broken_block_would_be_noticed(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("text\n```python\nraise LookupError\n```\n```console\nnot python\n```\n")
    assert python_blocks(page) == ["raise LookupError\n"]


def test_contributing_stays_short():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) < 80


PAGES = [*DOCS, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_and_pages_that_are_pointed_to_exist(page: Path):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    missing = [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]
    assert not missing


def test_the_gallery_shows_every_picture_that_its_script_makes():
    script, page = ((ROOT / "docs" / name).read_text() for name in ("gallery.sh", "gallery.md"))
    made = {line.split()[0] for line in script.partition("<<'LIST'\n")[2].splitlines() if len(line.split()) == 3}
    assert len(made) == 20 and made == set(re.findall(r"pictures/gallery/([\w-]+)\.png", page))
