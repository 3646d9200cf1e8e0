"""Figures of continual learning write each number of the matrix, and draw each method over the tasks."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from landscape.figures.drawing import draw


def answer(methods: int) -> xr.Dataset:
    """A made-up matrix of two tasks, whose two seeds differ by 20 points on the first task after the second."""
    after = np.array([[[0.9, 0.1], [0.3, 0.8]], [[0.9, 0.1], [0.5, 0.8]]])
    return xr.Dataset(
        {"accuracy": (("strategy", "seed", "after", "task"), np.stack([after] * methods))},
        {"strategy": [f"ewc:{index}" for index in range(methods)], "seed": [0, 1], "after": [0, 1], "task": [0, 1]},
        {"probe": "continual"},
    )


@pytest.mark.parametrize(("methods", "columns"), [(1, 1), (3, 3), (4, 2), (5, 3)])
def test_the_matrix_has_its_numbers_and_tasks_under_every_column(methods, columns):
    figure = draw(answer(methods), "continual-abc")["accuracy-matrices"]
    figure.canvas.draw()
    panels = [panel for panel in figure.axes if panel.get_title()]
    assert [panel.get_title() for panel in panels] == [f"ewc:{index}" for index in range(methods)]
    assert [text.get_text() for text in panels[0].texts] == ["90", "10", "40", "80"]
    labelled = [panel.xaxis.get_tick_params()["labelbottom"] for panel in panels]
    assert labelled == [index >= methods - columns for index in range(methods)]
    assert [label.get_text() for label in panels[-1].get_xticklabels()] == ["1", "2"]


def test_the_first_task_falls_from_task_to_task():
    figure = draw(answer(2), "continual-abc")["first-task"]
    (axes,) = figure.axes
    line, caps, _ = axes.containers[0]
    assert np.allclose(line.get_ydata(), [90, 40])
    assert np.allclose([cap.get_ydata() for cap in caps], [[90, 30], [90, 50]])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ewc:0", "ewc:1"]
