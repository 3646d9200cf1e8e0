"""What the probes answer is what the figures expect."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from landscape import Objective, Store, ask, figures
from landscape.figures.report import write_report
from landscape.figures.style import notes
from landscape.probes import CriticalPoint, Layers, Slice, SpectralDensity, Spectrum, Surface, Trace
from landscape.summary import summarize


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Every probe of a small classifier, answered into a store."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    inputs, targets = torch.randn(60, 4), torch.randint(0, 3, (60,))
    data, test = (inputs[:40], targets[:40]), (inputs[40:], targets[40:])
    objective = Objective(model, data, loss=F.cross_entropy, also={"test": test})
    store = Store(tmp_path_factory.mktemp("run"))
    for probe in (
        Slice(resolution=9, seeds=3),
        Surface(resolution=(7, 5)),
        Surface(resolution=4, seeds=2),
        Spectrum(k=3),
        CriticalPoint(k=3, resolution=5),
        SpectralDensity(steps=20, num_probes=3, k=2),
        Trace(),
        Layers(),
    ):
        ask(probe, objective, store)
    return store


def test_every_probe_is_drawn_by_its_own_figures(store: Store):
    drawn = {name: figures.draw(store.read(name), name) for name in store.names()}
    kinds = sorted((name.split("-")[0], *pictures) for name, pictures in drawn.items())
    assert kinds == [
        ("critical", "escape", "eigenvalues"),
        ("layers", "layer-bars"),
        ("slice", "slice", "slice-accuracy"),
        ("spectral", "log-density", "density"),
        ("spectrum", "eigenvalues"),
        ("surface", "contour", "surface3d", "loss-and-test", "error"),
        ("surface", "contour-seeds", "contour-seed0", "contour-seed1", "surface3d", "loss-and-test", "error"),
        ("trace",),
    ]
    for pictures in drawn.values():
        for figure in pictures.values():
            flat = [ax for ax in figure.axes if ax.name != "3d"]
            assert all(any(s.get_ylabel() for s in ax.get_shared_y_axes().get_siblings(ax)) for ax in flat)


def test_directions_units_and_verdict_are_on_the_figures(store: Store):
    (line,), (spectrum,) = (
        [store.read(name) for name in store.names(pattern)] for pattern in ("slice-*", "spectrum-*")
    )
    figure = figures.slice_band(line)
    assert figure.axes[0].get_xlabel() == "α, filter-normalized direction"
    assert figure.axes[0].get_ylabel() == "Loss (nats)"
    assert "α = 1: " in notes(figure) and "3 directions" in notes(figure)
    assert notes(figures.eigenvalues(spectrum)).startswith(spectrum.attrs["verdict"])


def test_the_summary_and_the_page_read_them(store: Store, tmp_path: Path):
    found = summarize({name: store.read(name) for name in store.names()})
    assert list(found) == ["test error", "loss", "sharpness", "most negative eigenvalue", "width"]
    text = write_report([store.path], tmp_path / "report.html").read_text("utf-8")
    assert text.count("<figure") == 18 and str(found["sharpness"]) in text
