"""The report is one page that needs nothing else, trusts no name, and draws nothing that is damaged."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import xarray as xr

from landscape.figures.report import write_report
from landscape.store import MissingError, Store, UnwritableError
from tests.answers import (
    critical_answer,
    slice_answer,
    spectrum_answer,
    spectrum_by_step,
    surface_answer,
    training_answer,
)

HOSTILE = "<img src=x onerror=alert(1)>"


def make_run(folder: Path, number: int = 0) -> Path:
    store = Store(folder)
    config = {"data": "digits", "optimizer": ("sgd", "adam")[number % 2], "batch_size": 32 * 4**number, "seed": 0}
    store.save_json("run", {"schema_version": 1, "kind": "trained", "config": config})
    answers = {
        "slice-1a2b3c4d5e6f": slice_answer(seeds=3, resolution=21),
        "surface-1a2b3c4d5e6f": surface_answer(resolution=(9, 7), trajectory=number == 0),
        "spectrum-1a2b3c4d5e6f": spectrum_answer(k=3),
        "training": training_answer(3, 10, 4),
    }
    answers["surface-1a2b3c4d5e6f"].attrs["directions"] = "</script><b>"
    answers["surface-1a2b3c4d5e6f"]["loss"].attrs["units"] = "</script><b>"
    for name, answer in answers.items():
        answer.attrs["command"] = f"landscape probe {name.split('-')[0]} {folder.name} --seed {number}"
        store.write(name, answer)
    return folder


class Page(HTMLParser):
    """The elements of a page, its visible text and its ids."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._hidden = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.text += " "
        if tag in ("script", "style"):
            self._hidden = tag

    def handle_endtag(self, tag):
        if tag == self._hidden:
            self._hidden = ""

    def handle_data(self, data):
        if self._hidden == "script":
            self.scripts.append(data)
        elif not self._hidden:
            self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> Page:
    """Two runs, one with a spectrum by step and a damaged file and an unfinished probe, and hostile names."""
    root = tmp_path_factory.mktemp("results") / HOSTILE.replace("/", "")
    first, second = make_run(root / "plain", 0), make_run(root / HOSTILE, 1)
    hostile = xr.Dataset({"depth": ("x", [1.0, 2.0], {"units": HOSTILE})})
    hostile.attrs |= {"probe": f"mine:{HOSTILE}", "command": f"{HOSTILE}</script><script>alert(2)</script>"}
    Store(second).write("other-1", hostile)
    Store(first).write("spectrum-by-step-1", spectrum_by_step())
    spoiled = first / "spectrum-1a2b3c4d5e6f.h5"
    content = bytearray(spoiled.read_bytes())
    content[len(content) // 2] ^= 1
    spoiled.write_bytes(content)
    (first / "surface-ffff.journal").write_bytes(b"half")
    out = write_report([first, second], root / "pages" / "report.html", command=f"landscape report {HOSTILE}")
    return Page(out)


def test_the_page_shows_every_answer_with_its_command_and_file(reported: Page):
    shown = reported.all("figure")
    # 3 of training, 2 slices, 4 surfaces, spectrum or by-step; one of a user's own
    assert len(shown) == 10 + 10 + 1
    assert len(reported.all("img")) == len(shown)
    assert all(image["src"].startswith("data:image/") for image in reported.all("img"))
    assert "landscape probe surface plain --seed 0" in reported.text
    assert "plain/surface-1a2b3c4d5e6f.h5" in reported.text


def test_the_summary_has_numbers_with_their_errors(reported: Page):
    assert "18.0 ± 0.5" in reported.text and "-0.90 ± 0.03" in reported.text
    assert re.search(r"width.*\d ± 0\.\d", reported.text, re.DOTALL)


def test_fields_that_differ_come_first(reported: Page):
    text = " ".join(reported.text.split())
    assert "run optimizer batch_size" in text
    assert text.index("batch_size") < text.index("The same in all runs: 2 fields")
    assert "data digits" in text


def test_a_damaged_file_is_named_with_the_reason_and_not_drawn(reported: Page):
    assert "plain/spectrum-1a2b3c4d5e6f.h5" in reported.text
    assert "is damaged" in reported.text
    assert not [f for f in reported.all("figure") if f["id"].startswith("run-1-spectra")]
    assert [f for f in reported.all("figure") if f["id"].startswith("run-2-spectra")]


def test_an_unfinished_probe_is_named(reported: Page):
    assert "plain/surface-ffff" in reported.text


def test_names_are_text_and_never_elements(reported: Page):
    assert HOSTILE in reported.text
    assert not [image for image in reported.all("img") if image["src"] == "x"]
    assert all("onerror" not in attributes for _, attributes in reported.elements)
    assert "alert(2)" in reported.text
    assert not [script for script in reported.scripts if script.strip() == "alert(2)"]


def test_the_page_needs_nothing_but_itself(reported: Page):
    loading = [a for _, a in reported.elements if {"src", "href"} & set(a)]
    assert all((a.get("src") or a["href"]).startswith(("data:", "#")) for a in loading)
    policy = next(m["content"] for m in reported.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "http" not in policy
    assert "unsafe-eval" not in policy and "script-src 'sha256-" in policy


def test_plotly_is_inlined_once_and_surfaces_are_data(reported: Page):
    assert sum(script.lstrip().startswith("/**\n* plotly.js") for script in reported.scripts) == 1
    data = [s for s in reported.all("script") if s.get("type") == "application/json"]
    assert len(data) == 2
    texts = [script for script in reported.scripts if script.startswith("{")]
    assert not [text for text in texts if "<" in text]  # nothing in it can end its element
    surfaces = [json.loads(text) for text in texts]
    assert [figure["data"][0]["type"] for figure in surfaces] == ["surface", "surface"]


def test_every_entry_of_the_contents_leads_somewhere(reported: Page):
    ids = [attributes["id"] for _, attributes in reported.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"].removeprefix("#") for a in reported.all("a")]
    assert links and set(links) <= set(ids)


def test_critical_points_of_all_runs_are_drawn_together(tmp_path: Path):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, loss in zip(folders, (0.1, 0.5, None), strict=True):
        store = Store(folder)
        if loss is not None:
            answer = critical_answer(loss=loss)
            answer.attrs["command"] = f"landscape probe critical-point {folder.name}"
            store.write("critical-point-1", answer)
    page = Page(write_report(folders, tmp_path / "report.html"))
    assert "All runs together" in page.text
    assert "Loss of every point that was judged, against its index." in page.text
    assert "landscape probe critical-point a; landscape probe critical-point b" in page.text
    assert "critical-point-*.h5 of a, b" in page.text
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {"together", "run-1-critical-points"} <= ids
    alone = Page(write_report(folders[:1], tmp_path / "alone.html"))
    assert "All runs together" not in alone.text


def test_a_run_without_anything_is_listed_and_needs_no_script(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    page = Page(write_report([tmp_path / "empty"], tmp_path / "report.html"))
    assert "Nothing to draw yet" in page.text and "No configuration is stored" in page.text
    assert not page.all("script")


def test_a_damaged_configuration_is_named(tmp_path: Path):
    Store(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text('{"config": ')
    assert "run/run.json" in Page(write_report([tmp_path / "run"], tmp_path / "report.html")).text


def test_an_answer_that_cannot_be_drawn_is_named_and_the_rest_is_drawn(tmp_path: Path):
    store = Store(tmp_path / "run")
    store.write("spectrum-1", spectrum_answer())
    store.write("training", training_answer().drop_vars("layer").rename(step="layer", layer="step")[["loss"]])
    store.write("surface-1", surface_answer().assign(trajectory_alpha=("snapshot", [0.0, 1.0]), trajectory_beta=1.0))
    page = Page(write_report([tmp_path / "run"], tmp_path / "report.html"))
    assert "run/surface-1.h5" in page.text and "cannot be drawn" in page.text
    assert len(page.all("figure")) >= 1


def test_a_report_fails_before_it_writes(tmp_path: Path):
    with pytest.raises(ValueError, match="at least one run"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(MissingError, match="does not exist"):
        write_report([tmp_path / "nowhere"], tmp_path / "report.html")
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "run").mkdir()
    with pytest.raises(UnwritableError, match="cannot write"):
        write_report([tmp_path / "run"], tmp_path / "file" / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_a_page_of_six_runs_stays_under_twelve_megabytes(tmp_path: Path):
    folders = []
    for number in range(6):
        store = Store(make_run(tmp_path / f"run{number}", number))
        store.write("surface-1a2b3c4d5e6f", surface_answer(resolution=(31, 31), trajectory=True))
        store.write("training", training_answer(20, 45, 20))
        folders.append(store.path)
    assert write_report(folders, tmp_path / "report.html").stat().st_size < 12e6
