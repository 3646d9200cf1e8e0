"""Figures of the dynamics draw what was recorded, in the order of depth, and say what is left out."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from landscape import figures
from landscape.figures.drawing import draw
from landscape.figures.style import notes

STEPS, MODULES, ACTIVATIONS = np.array([1, 50, 100, 150]), ["a", "b", "c", "unused"], ["a relu", "b tanh"]


def training(dead: float = 0.5) -> xr.Dataset:
    """Gradients that lose a factor of ten a layer; a module that runs second although it is declared first."""
    count, bins = len(STEPS), 40
    norms = np.tile([1e-2, 1e-3, 1e-1, np.nan], (count, 1))
    flow, by_activation = ("flow_step", "module"), ("flow_step", "activation")
    shares = np.full((count, 2, bins), 1 / bins)
    return xr.Dataset(
        {
            "loss": ("step", np.linspace(2, 1, 30)),
            "chord_length": ("step", np.full(30, 2.0)),
            "turn_cosine": ("step", np.r_[np.nan, np.full(29, 0.25)]),
            "distance_from_start": ("step", np.sqrt(np.arange(1, 31)) * 2),
            "output_variance": (flow, np.ones((count, 4))),
            "backpropagated_norm": (flow, norms),
            "gradient_slope": ("flow_step", np.full(count, -1.0)),
            "depth": ("module", [1, 0, 2, -1]),
            "histogram": (("flow_step", "activation", "bin"), shares),
            "histogram_low": (by_activation, np.zeros((count, 2))),
            "histogram_high": (by_activation, np.array([[1.0, np.nan]] * count)),
            "dead_share": (by_activation, np.array([[dead, np.nan]] * count)),
            "dormant_share": (by_activation, np.zeros((count, 2))),
            "saturated_share": (by_activation, np.array([[np.nan, 0.0]] * count)),
        },
        {"step": np.arange(1, 31), "flow_step": STEPS, "module": MODULES, "activation": ACTIVATIONS},
        {"probe": "training-dynamics", "every": 1},
    )


def noise(steps: int = 6, tails: bool = True) -> xr.Dataset:
    falling = np.geomspace(2, 0.1, steps)
    variables = {"loss": falling, "noise_scale": 10 / falling, "noise_scale_low": 8 / falling}
    variables |= {"noise_scale_high": 12 / falling}
    if tails:
        names = ("tail_index", "tail_index_gaussian", "pooled_tail_index", "pooled_tail_index_gaussian")
        variables |= dict.fromkeys(names, np.full(steps, 1.8)) | {"tail_index_gaussian_deviation": np.full(steps, 0.1)}
    answer = xr.Dataset({name: ("step", values) for name, values in variables.items()})
    return answer.assign_coords(step=np.arange(steps) * 10).assign_attrs(probe="gradient-noise")


def line(figure, gid: str) -> np.ndarray:
    found = [line for ax in figure.axes for line in ax.lines if line.get_gid() == gid]
    return np.array([np.asarray(each.get_ydata(), float) for each in found])


def test_a_training_gets_all_figures_that_it_has_something_for():
    named = set(draw(training(), "training"))
    expected = {"path", "backpropagated", "signal-propagation", "activations", "lost-units"}
    assert expected <= named
    healthy = set(draw(training(dead=0.0), "training"))
    assert expected - healthy == {"lost-units"}
    with pytest.raises(ValueError, match="has none to draw"):
        figures.lost_units(training(dead=0.0))


def test_layers_are_drawn_in_the_order_of_the_pass():
    figure = figures.signal_propagation(training())
    assert line(figure, "backpropagated_norm")[0] == pytest.approx([1e-3, 1e-2, 1e-1])
    assert "multiplied a layer by 0.1 at step 1" in " ".join(notes(figure).split())
    heat = figures.backpropagated(training())
    labels = [tick.get_text() for tick in heat.axes[0].get_yticklabels()]
    assert labels == ["b", "a", "c"]
    (mesh,) = heat.axes[0].collections
    assert np.asarray(mesh.get_array()).reshape(3, 4)[:, 0].tolist() == pytest.approx([-3, -2, -1])


def test_lost_units_show_only_shares_that_are_known_and_above_zero():
    figure = figures.lost_units(training())
    labels = [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]
    assert labels == ["Dead units"]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["a relu"]


def test_ridges_leave_out_what_has_no_range():
    figure = figures.activation_histograms(training())
    first, second = figure.axes[:2]
    assert len(first.patches) == len(STEPS) and not second.patches


def test_the_path_is_the_sum_of_its_chords():
    figure = figures.path_geometry(training())
    assert line(figure, "length")[0] == pytest.approx(2.0 * np.arange(1, 31))
    assert f"{np.sqrt(30) / 30:.1%} of the path's length" in notes(figure)
    sparse = figures.path_geometry(training().assign_attrs(every=5))
    assert "every 5th step" in notes(sparse)


def test_noise_with_and_without_tails():
    assert len(figures.noise_by_step(noise()).axes) == 3
    assert len(figures.noise_by_step(noise(tails=False)).axes) == 2
    assert set(draw(noise(), "gradient-noise-by-step-1")) == {"noise-by-step", "noise-against-loss"}


def test_noise_scales_that_cannot_be_drawn_are_counted():
    answer = noise()
    answer["noise_scale"][2] = np.nan
    figure = figures.noise_against_loss(answer)
    assert "1 step without a positive noise scale" in notes(figure)
    (points,) = [c for c in figure.axes[0].collections if c.get_gid() == "noise"]
    assert len(points.get_offsets()) == 5


def test_signal_to_noise_by_layer():
    answer = xr.Dataset(
        {
            "signal_to_noise": ("layer", [0.1, np.nan, 0.001]),
            **dict.fromkeys(("noise_scale", "noise_scale_low", "noise_scale_high"), ((), 10.0)),
            "tail_index": 1.5,
            "tail_index_gaussian": 2.0,
        },
        {"layer": ["one.weight", "two.weight", "three.weight"]},
        {"probe": "gradient-noise"},
    )
    figure = draw(answer, "gradient-noise-1")["noise-by-layer"]
    text = " ".join(notes(figure).split())
    assert "noise scale 10 examples (95%: 10 to 10)" in text and "tail index 1.50, of Gaussian noise 2.00" in text
    assert "1 layer without gradient or noise left out" in text
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["one", "two", "three"]
