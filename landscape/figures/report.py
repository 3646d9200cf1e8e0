"""One self-contained page about a folder of runs: numbers, configurations, and every figure with its origin."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from landscape.figures.critical import index_against_loss
from landscape.figures.drawing import draw, kind_of
from landscape.figures.interactive import interactive_surface, interactive_volume
from landscape.figures.spectra import matrix_of
from landscape.figures.style import rendered
from landscape.store import MissingError, Store, StoreError
from landscape.store.disk import Disk, explained, write_whole
from landscape.summary import Measure, summarize
from landscape.text import clean
from landscape.width import RISE, Width

SECTIONS = (
    "Learning curves",
    "Slices",
    "Surfaces",
    "Spectra",
    "Critical points",
    "Sharpness",
    "Dynamics",
    "Paths",
    "Other answers",
)
_SECTION_OF = {
    "slice": "Slices",
    "surface": "Surfaces",
    "volume": "Surfaces",
    "curvature-surface": "Surfaces",
    "spectrum": "Spectra",
    "critical-point": "Critical points",
    "spectral-density": "Spectra",
    "layers": "Spectra",
    "sharpness": "Sharpness",
    "sharpness-report": "Sharpness",
    "by-step": "Dynamics",
    "connection": "Paths",
    "curve-plane": "Paths",
}
_CAPTIONS = {
    "learning-curves": "Loss and accuracy over training.",
    "slice": "Loss along the slice.",
    "slice-accuracy": "Accuracy along the slice.",
    "contour": "Loss over the plane.",
    "contour-seeds": "Loss over planes along several random directions, and their median, in one scale.",
    "surface3d": "The same plane in 3D; drag to turn it, hover for the numbers.",
    "loss-and-test": "Loss over the plane, on the training and on the test data, in one scale.",
    "error": "Error over the plane.",
    "trajectory-loss": "Loss of the run beside the loss of the plane that it is projected on.",
    "eigenvalue-ratio": "Where the loss curves down: smallest over largest eigenvalue of the Hessian, over the plane.",
    "eigenvalue-ends": "Largest and smallest eigenvalue of the Hessian over the plane.",
    "volume": "Loss over the three planes through the checkpoint; drag to turn the volume.",
    "escape": "Loss along the direction of smallest curvature.",
    "index-against-loss": "Loss of every point that was judged, against its index.",
    "eigenvalues": "Both ends of the spectrum of the {matrix}.",
    "log-density": "Density of the eigenvalues of the {matrix} by magnitude, negative and positive apart.",
    "density": "Density of the eigenvalues of the {matrix}.",
    "layer-bars": "Curvature of every layer's own block of the Hessian.",
    "gradient-flow": "Gradient norm of every layer.",
    "update-ratios": "How far each step moves each layer, relative to its size.",
    "sharpness": "Every measure of sharpness in its own scale, its interval, and how much of it is slope.",
    "paths": "Paths of optimizers over a toy whose critical points are known.",
    "losses": "Losses of these optimizers by step.",
    "steps-by-rate": "Steps that each optimizer needs with each learning rate.",
    "ends": "Where each optimizer ends, at the places where it started.",
    "online": "Forms of Adam on a convex problem whose losses change at every step.",
    "sharpness-runs": "Sharpness of every run, best run first.",
    "matrices": "Distances between the points, cosines of their ways from the start, and different predictions.",
    "principal-plane": "The points in the plane of their principal components.",
    "effects": "What each factor of the sweep, and each pair of factors, does to the metric.",
    "profile": "Loss and error along a trained curve between two networks, and along the straight line.",
    "descent": "Loss of the mini-batches while the curve was trained.",
    "plane": "Loss over the plane of the curve.",
    "plane-error": "Error over the plane of the curve.",
    "double-descent": "Test loss and test error over the size, with where training begins to fit everything.",
    "descent-map": "Test error over the size and the epochs, the median over seeds.",
    "peaks-by-noise": "Peak and first minimum of the test error over the level of label noise.",
    "by-step": "What the probe found while the model trained.",
}
_INTERACTIVE: dict[str, Callable[[xr.Dataset], Any]] = {"surface3d": interactive_surface, "volume": interactive_volume}
# Figures of thousands of facets or bands, and how many colours they need.
_PIXELS = {"surface3d": 2**24} | dict.fromkeys(
    ("contour-seeds", "loss-and-test", "error", "eigenvalue-ratio", "eigenvalue-ends", "volume"), 256
)
_SCRIPT = """
"use strict";
const drawn = {displaylogo: false, responsive: true};
const watch = new IntersectionObserver(entries => {
  for (const {target, isIntersecting} of entries) {
    if (isIntersecting) {
      const figure = JSON.parse(document.getElementById(target.dataset.figure).textContent);
      Plotly.newPlot(target, figure.data, figure.layout, drawn);
    } else {
      Plotly.purge(target);  // browsers keep only about sixteen WebGL canvases alive
    }
  }
}, {rootMargin: "300px"});
if (document.createElement("canvas").getContext("webgl")) {
  document.documentElement.classList.add("live");
  document.querySelectorAll(".interactive").forEach(element => watch.observe(element));
}
"""


@dataclass(frozen=True)
class Shown:
    """One figure of the page."""

    caption: str
    image: str  # a data URI
    command: str
    file: str
    interactive: str = ""  # JSON of a plotly figure, in which plotly has written every < as \u003c


@dataclass
class RunPage:
    """What the page says about one run."""

    name: str
    anchor: str
    config: dict[str, str] = field(default_factory=dict)
    summary: dict[str, Measure | Width] = field(default_factory=dict)
    sections: dict[str, list[Shown]] = field(default_factory=dict)
    damaged: list[tuple[str, str]] = field(default_factory=list)  # file, reason
    unfinished: list[str] = field(default_factory=list)
    critical: list[xr.Dataset] = field(default_factory=list)  # answers of the probe CriticalPoint


def write_report(runs: Sequence[str | Path], out: str | Path, command: str = "") -> Path:
    """Write one HTML page about some runs, which needs nothing but itself: no network, no other file.

    A file that is damaged or cannot be read is listed with the reason, and nothing of it is drawn.

    Args:
        runs: Folders of runs, each with sealed answers and perhaps a `run.json`.
        out: The page to write; its folder is made if need be.
        command: What to type to write the page again, shown on it.

    Returns:
        The page.

    Raises:
        ValueError: If there are no runs.
        MissingError: If a run's folder does not exist.
        DiskFullError: If there is no space left; an older page stays.
        UnwritableError: If the page cannot be written.
    """
    if not runs:
        raise ValueError("expected at least one run to report on; got none")
    folders = [Path(run) for run in runs]
    home = Path(os.path.commonpath([folder.absolute().parent for folder in folders]))
    pages = [
        _read_run(folder, folder.absolute().relative_to(home).as_posix(), f"run-{number}")
        for number, folder in enumerate(folders, start=1)
    ]
    out = Path(out)
    with explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(Disk(), out, _page(pages, home.name, command).encode())
    return out


def _read_run(folder: Path, name: str, anchor: str) -> RunPage:
    store = Store(folder, create=False)
    page, about = RunPage(clean(name), anchor), {}
    try:
        about = store.load_json("run")
        page.config = _flat(about.get("config") or about)
    except MissingError:
        pass  # a folder of answers from somebody else's training
    except StoreError as error:
        page.damaged.append(("run.json", clean(error)))
    answers = {}
    for answer_name in store.names():
        try:
            answers[answer_name] = store.read(answer_name)
        except StoreError as error:
            page.damaged.append((f"{answer_name}.h5", clean(str(error).replace(f"{folder}/", ""))))
    page.unfinished = sorted(clean(path.stem) for path in folder.glob("*.journal"))
    page.summary = summarize(answers, about.get("examples_sha256"))
    for answer_name, answer in answers.items():
        try:
            _add_figures(page, answer, answer_name)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            page.damaged.append((f"{answer_name}.h5", clean(f"cannot be drawn: {error!r}")))
    return page


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested configuration as one level of texts."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{clean(key, 60)}.")
        else:
            flat[f"{prefix}{clean(key, 60)}"] = clean(value)
    return flat


def _add_figures(page: RunPage, answer: xr.Dataset, name: str) -> None:
    kind = kind_of(answer, name)
    if kind == "critical-point":
        page.critical.append(answer)
    for title, figure in draw(answer, name).items():
        section = "Learning curves" if title == "learning-curves" else _SECTION_OF.get(kind, "Other answers")
        section = "Dynamics" if title in ("gradient-flow", "update-ratios") else section
        shown = Shown(
            caption=_caption(answer, title),
            image=_image(figure, _PIXELS.get(title, 0)),
            command=clean(answer.attrs.get("command", "not recorded"), 400),
            file=f"{page.name}/{name}.h5",
            interactive=_INTERACTIVE[title](answer).to_json() if title in _INTERACTIVE else "",
        )
        page.sections.setdefault(section, []).append(shown)


def _together(pages: Sequence[RunPage]) -> list[Shown]:
    """Figures of all runs at once, where there are at least two answers to compare."""
    answers = [answer for page in pages for answer in page.critical]
    if len(answers) < 2:
        return []
    runs = [page.name for page in pages if page.critical]
    return [
        Shown(
            caption=_CAPTIONS["index-against-loss"],
            image=_image(index_against_loss(answers)),
            command="; ".join(dict.fromkeys(clean(a.attrs.get("command", "not recorded"), 400) for a in answers[:3]))
            + (" …" if len(answers) > 3 else ""),
            file=f"critical-point-*.h5 of {', '.join(runs[:6])}{' …' if len(runs) > 6 else ''}",
        )
    ]


def _caption(answer: xr.Dataset, title: str) -> str:
    known = _CAPTIONS.get(title) or _CAPTIONS.get(title.split("-seed")[0])
    if known and "{matrix}" in known:
        return known.replace("{matrix}", matrix_of(answer["curvature" if "curvature" in answer else "eigenvalue"]))
    if known and "directions" in answer.attrs:
        return f"{known} Directions: {clean(answer.attrs['directions'], 60)}."
    return known or f"{clean(title, 60)}, by {clean(answer.attrs.get('probe', 'a probe'), 60)}."


def _image(figure: Figure, colours: int = 0) -> str:
    """A picture inside the page: drawn lines where they stay small, pixels of so many colours where they do not."""
    suffix, kind = ("png", "png") if colours else ("svg", "svg+xml")
    data = rendered(figure, suffix, **({"dpi": 200} if colours else {}))
    if 0 < colours <= 256:
        data = _reduced(data, colours)
    return f"data:image/{kind};base64,{b64encode(data).decode()}"


def _reduced(png: bytes, colours: int) -> bytes:
    """The same picture with a palette."""
    from PIL import Image

    buffer = BytesIO()
    with Image.open(BytesIO(png)) as image:
        image.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _page(pages: list[RunPage], title: str, command: str) -> str:
    from jinja2 import Environment, StrictUndefined
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs(), _SCRIPT] if any(page.sections.get("Surfaces") for page in pages) else []
    hashes = " ".join(f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts)
    differing, shared = _split_config(pages)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("landscape.figures").joinpath("report.html").read_text("utf-8"))
    return template.render(
        title=clean(title),
        command=command,
        created=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        pages=pages,
        together=_together(pages),
        sections=SECTIONS,
        columns=[name for name in _COLUMNS if any(name in page.summary for page in pages)],
        explained=_COLUMNS,
        differing=differing,
        shared=shared,
        scripts=scripts,
        script_hashes=hashes or "'none'",
    )


_COLUMNS = {
    "test error": "share of test examples that the checkpoint gets wrong",
    "loss": "mean loss of the checkpoint over the training data",
    "sharpness": "largest Hessian eigenvalue ± residual",
    "most negative eigenvalue": "smallest Hessian eigenvalue found ± residual",
    "width": f"filter-normalized width: length of the interval of α around 0 in which the loss rises by less than "
    f"{RISE:.3g}, mean over directions ± standard error",
}


def _split_config(pages: list[RunPage]) -> tuple[list[str], dict[str, str]]:
    """The fields in which runs differ, and those that all share with their value."""
    names = list(dict.fromkeys(name for page in pages for name in page.config))
    values = {name: {page.config.get(name, "–") for page in pages} for name in names}
    differing = [name for name in names if len(values[name]) > 1]
    return differing, {name: next(iter(values[name])) for name in names if len(values[name]) == 1}
