"""What the figures of a trained curve draw, and what they write underneath."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from landscape import figures
from landscape.figures.style import notes
from landscape.paths import with_barriers


def made_up(control: bool = True) -> xr.Dataset:
    """A line whose loss rises to 1 and a chain of one bend whose loss stays at 0.01; the ends fall to 0.001."""
    t = np.linspace(0, 1, 5)
    loss = np.stack([np.full(5, 0.01), [0.01, 0.2, 1.0, 0.2, 0.01]])
    answer = xr.Dataset(
        {
            "loss": (("path", "t"), loss, {"units": "nats"}),
            "accuracy": (("path", "t"), 1 - loss / 4),
            "test_loss": (("path", "t"), loss + 0.1),
            "test_accuracy": (("path", "t"), 0.95 - loss / 4),
            "length": ("path", [2.5, 2.0]),
            "control_point": (("control", "parameter"), np.zeros((3, 2))),
            "step_loss": (
                "step",
                np.geomspace(1, 0.01, 20),
                {"units": "nats", "long_name": "at one place of the curve"},
            ),
        },
        {"path": ["curve", "line"], "t": t},
        {"probe": "connection", "curve": "polychain"},
    )
    if control:
        for name, values in {"loss": [0.001, 0.002], "accuracy": [1, 0.99], "test_accuracy": [0.9, 0.8]}.items():
            answer[f"tuned_{name}"] = ("end", values)
        answer["tuned_test_loss"] = ("end", [0.3, 0.4])
    return with_barriers(answer, "t")


def plane(off: float = 0.0) -> xr.Dataset:
    alpha, beta = np.linspace(-0.2, 1.2, 7), np.linspace(-0.3, 0.9, 6)
    loss = 0.01 + (beta - 0.5 + 2 * (alpha[:, None] - 0.5) ** 2) ** 2
    t = np.linspace(0, 1, 9)
    return xr.Dataset(
        {
            "loss": (("alpha", "beta"), loss, {"units": "nats"}),
            "accuracy": (("alpha", "beta"), 1 - loss / 2),
            "curve_alpha": ("t", t),
            "curve_beta": ("t", 1.2 * t * (1 - t)),
            "curve_off_plane": ("t", np.full(9, off)),
            "control_alpha": ("control", [0, 0.5, 1]),
            "control_beta": ("control", [0, 0.6, 0]),
        },
        {"alpha": alpha, "beta": beta, "t": t},
        {"probe": "curve-plane", "directions": "curve", "curve": "bezier"},
    )


def test_a_connection_is_drawn_as_it_was_measured():
    answer = made_up()
    drawn = figures.draw(answer, "connection-1")
    assert set(drawn) == {"profile", "descent"}
    losses, errors = drawn["profile"].axes
    lines = {line.get_label(): line.get_ydata() for line in losses.lines if not line.get_label().startswith("_")}
    assert lines.keys() == {
        "chain, training", "chain, test", "straight line, training", "straight line, test", "end trained on alone"
    }  # fmt: skip
    np.testing.assert_array_equal(lines["straight line, training"], answer["loss"].sel(path="line"))
    assert losses.get_yscale() == "log"
    tuned = [line.get_ydata().tolist() for ax in (losses, errors) for line in ax.lines if line.get_gid() == "tuned"]
    np.testing.assert_allclose(tuned, [[0.001, 0.002], [0.3, 0.4], [0, 0.01], [0.1, 0.2]], atol=1e-12)
    np.testing.assert_allclose(errors.lines[1].get_ydata(), answer["loss"].sel(path="line") / 4)
    written = notes(drawn["profile"]).replace("\n", " ")
    assert "1 bend; 1.25 times as long as the straight line" in written
    assert "barrier of the loss (frankle): 0; straight line: 0.99" in written
    assert "at one place of the curve" in notes(drawn["descent"])


def test_without_classes_test_data_or_control_only_losses_are_drawn():
    answer = made_up(control=False).drop_vars(["accuracy", "test_accuracy", "test_loss", "barrier"])
    answer["loss"][1, 2] = np.nan
    drawn = figures.draw(answer, "connection-1")["profile"]
    (losses,) = drawn.axes
    assert len(losses.lines) == 2 and "1 non-finite value left out" in notes(drawn)


def test_a_curve_lies_in_its_plane_between_its_ends():
    drawn = figures.draw(plane(), "curve-plane-1")
    assert set(drawn) == {"plane", "plane-error"}
    ax = drawn["plane"].axes[0]
    lines = {line.get_gid(): line.get_xydata() for line in ax.lines}
    np.testing.assert_array_equal(lines["line"], [[0, 0], [1, 0]])
    np.testing.assert_allclose(lines["curve"][4], [0.5, 0.3])
    np.testing.assert_array_equal(lines["bends"], [[0.5, 0.6]])
    np.testing.assert_array_equal([lines["first end"][0], lines["other end"][0]], [[0, 0], [1, 0]])
    assert "shadow" not in notes(drawn["plane"])


def test_how_far_a_curve_lies_off_the_plane_is_written_under_its_shadow():
    answer = plane(off=0.31)
    answer["loss"][0, 0] = np.inf
    written = notes(figures.curve_plane(answer)).replace("\n", " ")
    assert "up to 31% of its distance from the first end lies off the plane" in written
    assert "1 non-finite point (hatched)" in written


def test_a_plane_of_one_point_or_without_the_metric_is_refused():
    with pytest.raises(ValueError, match="at least 2 points along each axis"):
        figures.curve_plane(plane().isel(alpha=[0]))
    with pytest.raises(KeyError, match="expected a variable 'test_error'"):
        figures.curve_plane(plane(), metric="test_error")
