"""What races look like: lines are the stored paths, verdicts are on the page, films show every racer arrive."""

from __future__ import annotations

import re
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from landscape import figures
from landscape.figures.race_films import shown_steps
from landscape.figures.races import levels_of
from landscape.figures.style import notes
from landscape.store import Store
from tests.test_figures import drawn
from tests.test_report_browser import BROWSER, OPTIONS

RATES = {"fast": 0.9, "slow, with a name that is longer": 0.99, "lost": -2.0}  # by which each step shortens the way
STEPS = 300


def race_answer(rates: dict[str, float] = RATES, sign: float = 1.0) -> xr.Dataset:
    """Straight paths over w1^2 + w2^2, or with the other sign over w1^2 - w2^2; the lost one ends early."""
    paths = np.array([[np.array([1.0, 0.5]) * rate**k for k in range(STEPS + 1)] for rate in rates.values()])
    paths[abs(paths).max(-1) > 200] = np.nan
    w = np.linspace(-2, 2, 41)
    losses = paths[..., 0] ** 2 + sign * paths[..., 1] ** 2
    goal = [int(np.argmax(np.linalg.norm(path, axis=1) < 0.05)) or np.nan for path in paths]
    return xr.Dataset(
        {
            "path": (("optimizer", "step", "coordinate"), paths),
            "loss": (("optimizer", "step"), losses),
            "lr": ("optimizer", [0.1, 0.1, 3.0][: len(rates)]),
            "escape_step": ("optimizer", goal),
            "goal_step": ("optimizer", goal),
            "diverged": ("optimizer", [abs(rate) > 1 for rate in rates.values()]),
            "surface": (("w1", "w2"), w[:, None] ** 2 + sign * w[None] ** 2),
            "minimizer": (("minimum", "coordinate"), np.zeros((1 if sign > 0 else 0, 2))),
            "saddle": (("critical_point", "coordinate"), np.zeros((0 if sign > 0 else 1, 2))),
        },
        {"optimizer": list(rates), "step": np.arange(STEPS + 1), "coordinate": ["w1", "w2"], "w1": w, "w2": w},
        {
            "probe": "race",
            "level": 0.0,
            "level_is": "minimum" if sign > 0 else "saddle",
            "tolerance": 0.05,
            "escape_radius": 1.0,
            "noise": 0.0,
        },
    )


def sweep_answer() -> xr.Dataset:
    steps = np.array([[np.nan, 100.0, 10.0], [np.nan, 3.0, np.nan]])
    return xr.Dataset(
        {
            "goal_step": (("optimizer", "lr"), steps),
            "escape_step": (("optimizer", "lr"), steps * np.nan),
            "diverged": (("optimizer", "lr"), np.array([[False, False, False], [False, False, True]])),
        },
        {"optimizer": ["sgd", "adam"], "lr": [0.01, 0.1, 1.0]},
        {"probe": "race-sweep", "level_is": "minimum", "tolerance": 0.05, "steps": 1000},
    )


def basins_answer() -> xr.Dataset:
    begin = np.random.default_rng(0).normal(size=(40, 2))
    ended = np.array([[0] * 40, [1] * 30 + [2] * 10])
    counts = np.array([(ended == k).sum(1) for k in range(3)]).T
    race = race_answer()
    return xr.Dataset(
        {
            "begin": (("start", "coordinate"), begin),
            "ended_as": (("optimizer", "start"), ended),
            "share": (("optimizer", "outcome"), counts / 40),
            "low": (("optimizer", "outcome"), counts / 50),
            "high": (("optimizer", "outcome"), counts / 40),
            "surface": race["surface"],
        },
        {"optimizer": ["gd", "newton"], "outcome": ["minimum", "saddle", "elsewhere"]},
        {"probe": "race-basins", "level": 0.0, "spread": 0.3},
    )


def online_answer() -> xr.Dataset:
    t = np.unique(np.geomspace(1, 1e5, 50).round())
    x = np.array([1 - 1 / t, 1 / t - 1])
    return xr.Dataset(
        {
            "x": (("optimizer", "step"), x),
            "regret": (("optimizer", "step"), np.array([0.2 + 10 / t, 10 / t])),
            "final_x": ("optimizer", x[:, -1]),
            "verdict": ("optimizer", ["at the worst point", "at the best point"]),
        },
        {"optimizer": ["adam", "adam:amsgrad=true"], "step": t.astype(int)},
        {"probe": "race-online"},
    )


ANSWERS = {
    "race": race_answer(),
    "race-saddle": race_answer(sign=-1.0),
    "race-alone": race_answer({"sgd": 0.5}),
    "race-sweep": sweep_answer(),
    "race-sweep-none": sweep_answer() * np.nan,
    "race-basins": basins_answer(),
    "race-online": online_answer(),
}
ANSWERS["race-sweep-none"].attrs |= sweep_answer().attrs


@pytest.mark.parametrize("name", ANSWERS)
def test_every_race_is_drawn_within_its_page_from_the_stored_answer(name: str, tmp_path: Path):
    store = Store(tmp_path)
    store.write(name, ANSWERS[name])
    pictures = figures.draw(store.read(name), name)
    assert pictures
    for title, figure in pictures.items():
        (path,) = figures.save(figure, tmp_path / title, formats=["png"])
        assert path.stat().st_size > 5000
        page, ink = figure.bbox_inches, figure.get_tightbbox()
        assert ink.x0 > page.x0 - 2 / 72 and ink.x1 < page.x1 + 2 / 72, title
        assert ink.y0 > page.y0 - 2 / 72 and ink.y1 < page.y1 + 2 / 72, title


def test_lines_are_the_paths_and_the_legend_names_all():
    answer = race_answer()
    figure = figures.race_paths(answer)
    for name, path in zip(RATES, answer["path"].values, strict=True):
        np.testing.assert_array_equal(drawn(figure, name), path)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == [*RATES, "minimum", "start"]
    assert "learning rate 0.1; lost 3" in notes(figure) and "1 path leaves the picture; diverged: lost" in notes(figure)
    colours = {line.get_color() for line in figure.axes[0].lines if line.get_gid() in RATES}
    assert len(colours) == 3


def test_more_racers_than_colours_differ_in_their_dashes():
    looks = [tuple(map(str, figures.races.look(k).values())) for k in range(21)]
    assert len(set(looks)) == 21


def test_losses_are_logarithmic_above_a_minimum_and_not_about_a_saddle():
    answer = race_answer()
    figure = figures.race_losses(answer)
    np.testing.assert_allclose(drawn(figure, "fast")[:50, 1], answer["loss"].values[0, :50])
    assert figure.axes[0].get_yscale() == "log" and "dots: closer than 0.05 to a minimum" in notes(figure)
    other = figures.race_losses(race_answer(sign=-1.0))
    assert other.axes[0].get_yscale() == "linear" and "dots: farther than 1 from the saddle" in notes(other)


def test_levels_rise_on_both_sides_of_a_saddle_and_from_a_minimum():
    above, both = levels_of(race_answer()), levels_of(race_answer(sign=-1.0))
    for levels, low, high in ((above, 0, 8), (both, -4, 4)):
        assert (np.diff(levels) > 0).all() and levels[0] <= low and levels[-1] >= high
    assert above[0] == 0 and np.allclose(both, -both[::-1])


def test_a_sweep_says_what_each_cell_is():
    ax = figures.race_sweep(sweep_answer()).axes[0]
    assert [t.get_text() for t in ax.texts[:6]] == ["–", "100", "10", "–", "3", "×"]
    assert [t.get_weight() for t in ax.texts[:6]] == ["normal", "normal", "bold", "normal", "bold", "normal"]


def test_ends_are_told_by_colour_mark_and_share():
    first, second = figures.race_basins(basins_answer()).axes[:2]
    assert first.get_title() == "gd\nminimum 100.0%\n(80.0% to 100.0%)" and "saddle 75.0%" in second.get_title()
    assert [len(line.get_xdata()) for line in second.lines] == [0, 30, 10]


def test_a_film_ends_when_all_have_arrived():
    answer = race_answer()
    steps = shown_steps(answer)
    assert steps[0] == 0 and len(steps) <= 60
    slow = answer["path"].values[1]
    assert np.linalg.norm(slow[steps[-1]] - slow[-1]) <= 0.04 and steps[-1] <= STEPS
    assert shown_steps(race_answer({"sgd": 0.5}))[-1] < 10  # the last 290 steps show nothing
    frames = figures.race_frames(answer, dpi=60)
    assert len(frames) == len(steps) and frames[0].width % 2 == frames[0].height % 2 == 0
    assert np.abs(np.asarray(frames[0], int) - np.asarray(frames[-1], int)).max() > 100
    with Image.open(BytesIO(figures.gif(frames))) as film:
        assert film.n_frames > 10


def test_a_page_has_a_button_and_a_frame_a_step():
    figure = figures.interactive_race(race_answer())
    assert [button.label for button in figure.layout.updatemenus[0].buttons] == ["▶ Play", "❚❚ Pause"]
    names = [frame.name for frame in figure.frames]
    assert names == [str(step) for step in shown_steps(race_answer())]
    assert [trace.name for trace in figure.data[2:]] == list(RATES)
    last = figure.frames[-1].data[1]
    np.testing.assert_allclose([last.x[-1], last.y[-1]], race_answer()["path"].values[1, int(names[-1])], rtol=1e-6)


def test_names_cannot_become_html():
    hostile = "<img src=x onerror=alert(1)>"
    figure = figures.interactive_race(race_answer({hostile: 0.5}))
    assert "<img" not in str(figure.data[2].name) + figure.data[2].hovertemplate + figure.layout.legend.title.text


def test_files_of_a_race(tmp_path: Path):
    written = figures.write_files(race_answer(), "race-abc", tmp_path, ["png", "html", "gif"])
    endings = ["race-abc-paths.png", "race-abc-losses.png", "race-abc.html", "race-abc.gif"]
    assert [path.name for path in written] == endings
    page = (tmp_path / "race-abc.html").read_text()
    assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="https?:', page)  # it needs no network
    assert figures.write_files(sweep_answer(), "race-sweep-abc", tmp_path, ["html", "gif"]) == []


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine; install Debian's package `chromium`")
def test_the_page_plays_in_a_browser_and_keeps_its_ground(tmp_path: Path):
    (path,) = figures.write_files(race_answer(), "race-abc", tmp_path, ["html"])
    press = "<script>setTimeout(() => Plotly.animate('landscape', null, {frame: {duration: 0, redraw: false}}), 500)"
    path.write_text(path.read_text().replace("</body>", f"{press}</script></body>"))
    command = [shutil.which(str(BROWSER)) or "", *OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.count('class="updatemenu-button"') == 2
    assert "<image" in done.stdout and done.stdout.count('class="trace scatter') >= 3
    assert not re.search(r"Uncaught|SyntaxError|TypeError", done.stderr)
