"""Surfaces and volumes to turn around with the mouse, alone or as a page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from landscape.figures.labels import SYMBOLS, at_seed, direction_label, quantity, sampling_note, seed_note, stored
from landscape.figures.planes import Plane, Scale, metric_of
from landscape.figures.scales import finite, is_wide, linear_levels, log_levels, number
from landscape.figures.style import VERMILLION
from landscape.figures.trajectories import Trajectory, trajectory_of
from landscape.text import clean

if TYPE_CHECKING:
    import plotly.graph_objects as go

_LIFT = 1.02  # of the loss on a log axis, by which a trajectory floats over its surface
_PARTS = 8  # of the way from a snapshot to the next, so that the line follows the surface
_EYE = {"x": 1.4, "y": -2.2, "z": 1.45}  # the view of the printed figure
_NUM_SHELLS = 5  # surfaces of equal loss in a volume
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{{ title }}</title>
<style>
html, body { height: 100%; margin: 0; font: 14px/1.4 system-ui, sans-serif; color: #222; }
body { display: flex; flex-direction: column; }
header { padding: 0.6rem 1rem 0; }
h1 { font-size: 1rem; margin: 0; }
p { margin: 0.1rem 0; color: #555; font-size: 0.85rem; overflow-wrap: anywhere; }
main { flex: 1; min-height: 0; }
</style></head>
<body>
<header><h1>{{ title }}</h1>{% for line in lines %}<p>{{ line }}</p>{% endfor %}</header>
<main>{{ figure | safe }}</main>
</body></html>
"""


def interactive_surface(surface: xr.Dataset, *, metric: str = "loss", seed: int = 0) -> go.Figure:
    """A plotly surface: hover for the numbers of a point; heights and colours are logarithmic where the loss is wide.

    A point says its coordinates, every metric with its unit, how far it lies from the checkpoint, and, where a spline
    filled in most of the grid, whether it was computed.

    Args:
        surface: The answer of the probe Surface: dims (alpha, beta) or (seed, alpha, beta).
        metric: The variable to draw; `error` and `test_error` are one minus the accuracy.
        seed: Which of several direction seeds, by position.

    Returns:
        The plotly figure: x is α, y is β, z the metric. Non-finite points are holes.
    """
    import plotly.graph_objects as go

    one = at_seed(surface, seed)
    plane = Plane.of(one, metric)
    scale, label = Scale.over([plane]), untagged(quantity(surface, metric))
    is_log = scale is not None and scale.is_log
    figure = go.Figure([_sheet(one, plane, scale, label)])
    trajectory = trajectory_of(one)
    if trajectory and scale:
        figure.add_trace(_flight(plane, scale, trajectory, label))
    vertical = {"title": label, "type": "log" if is_log else "linear", **_ticks(scale, logs=False)}
    return _dressed(figure, vertical, height=0.75)


def interactive_volume(volume: xr.Dataset, *, metric: str = "loss") -> go.Figure:
    """Nested plotly surfaces of equal loss in a volume, at values evenly spread over the lower half of its range.

    Args:
        volume: The answer of the probe Surface with three axes: dims (alpha, beta, gamma).
        metric: The variable to draw.

    Returns:
        The plotly figure: x is α, y is β, z is γ. Points that are not finite count as higher than all others.
    """
    import plotly.graph_objects as go

    values = metric_of(volume, metric).transpose("alpha", "beta", "gamma").values.astype(float)
    is_log, label = is_wide(values, 3), untagged(quantity(volume, metric))
    numbers = finite(values)
    shown = np.log10(np.where(values > 0, values, np.nan)) if is_log else values
    low, high = (float(finite(shown).min()), float(finite(shown).max())) if numbers.size else (0.0, 1.0)
    alpha, beta, gamma = np.meshgrid(*(volume[axis].values for axis in SYMBOLS), indexing="ij")
    levels = np.linspace(low, high, 2 * _NUM_SHELLS + 1)[1 : _NUM_SHELLS + 1]
    shells = go.Isosurface(
        x=alpha.ravel(),
        y=beta.ravel(),
        z=gamma.ravel(),
        value=np.where(np.isfinite(shown), shown, high).ravel(),
        isomin=levels[0],
        isomax=levels[-1],
        surface={"count": _NUM_SHELLS},
        opacity=0.35,
        caps={"x": {"show": False}, "y": {"show": False}, "z": {"show": False}},
        colorscale="Viridis",
        colorbar={
            "title": {"text": label},
            "len": 0.6,
            "thickness": 12,
            "tickvals": levels.tolist(),
            "ticktext": [number(float(f"{10.0**v if is_log else v:.2g}")) for v in levels],
        },
        hoverinfo="x+y+z",
        showscale=bool(numbers.size),
    )
    center = go.Scatter3d(x=[0], y=[0], z=[0], mode="markers", marker={"color": "black", "size": 4}, name="checkpoint")
    center.hovertemplate = "the checkpoint<extra></extra>"
    return _dressed(go.Figure([shells, center]), {"title": SYMBOLS["gamma"]}, height=1)


def page(answer: xr.Dataset, figure: go.Figure, title: str, *, seed: int = 0) -> str:
    """One HTML page with a plotly figure, plotly itself and where the numbers come from: it works without a network.

    Args:
        answer: The answer that is drawn.
        figure: What `interactive_surface` or `interactive_volume` made of it.
        title: What stands above it.
        seed: Which of several direction seeds is drawn, by position.
    """
    from jinja2 import Environment, StrictUndefined

    closer = {axis: 0.72 * place for axis, place in _EYE.items()}
    figure = figure.update_layout(scene_camera_eye=closer, font_size=14)
    drawn = figure.to_html(
        full_html=False,
        include_plotlyjs=True,
        div_id="landscape",
        default_height="100%",
        auto_play=False,
        config={"displaylogo": False, "responsive": True},
    )
    axes = ", ".join(direction_label(answer, axis) for axis in SYMBOLS if axis in answer.dims)
    command = clean(answer.attrs.get("command", ""), 400)
    lines = [axes, seed_note(answer, seed), sampling_note(at_seed(answer, seed)), command and f"made by {command}"]
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_PAGE)
    return template.render(title=clean(title), lines=[line for line in lines if line], figure=drawn)


def _dressed(figure: go.Figure, vertical: Mapping[str, Any], height: float) -> go.Figure:
    """View, labels and fonts of a scene."""
    figure.update_layout(
        scene={
            "xaxis_title": SYMBOLS["alpha"],
            "yaxis_title": SYMBOLS["beta"],
            "zaxis": vertical,
            "camera_eye": _EYE,
            "aspectratio": {"x": 1, "y": 1, "z": height},
        },
        font={"family": "system-ui, sans-serif", "size": 12},
        margin={"l": 0, "r": 0, "t": 8, "b": 0},
        paper_bgcolor="white",
        template="none",
        showlegend=False,
    )
    return figure


def _sheet(answer: xr.Dataset, plane: Plane, scale: Scale | None, label: str) -> go.Surface:
    import plotly.graph_objects as go

    height = plane.gaps.T  # plotly's rows run along y
    return go.Surface(
        x=plane.x,
        y=plane.y,
        z=height,
        surfacecolor=scale.heights(height) if scale else height,
        colorscale="Viridis",
        colorbar={
            "title": {"text": label},
            "len": 0.6,
            "thickness": 12,
            "tickfont": {"size": 10},
            **_ticks(scale, logs=True),
        },
        text=_hover(answer, plane),
        hoverinfo="text",
        showscale=scale is not None,
    )


def untagged(text: str) -> str:
    """A text that plotly cannot take for HTML."""
    return clean(text, 40).replace("<", "‹")


def _ticks(scale: Scale | None, *, logs: bool) -> dict[str, list[float] | list[str]]:
    """Round tick values inside the range, and how they read; as log10 where the colour is."""
    if scale is None:
        return {}
    levels = log_levels(scale.low, scale.high, 9) if scale.is_log else linear_levels(scale.low, scale.high, 8)
    levels = levels[(levels >= scale.low) & (levels <= scale.high)]
    places = scale.heights(levels) if logs else levels
    return {"tickvals": [float(v) for v in places], "ticktext": [number(v) for v in levels]}


def _hover(answer: xr.Dataset, plane: Plane) -> NDArray[np.str_]:
    """(B, A) what each point says: its coordinates, every metric there, its distance, whether it was computed."""
    metrics = [
        str(name)
        for name, variable in answer.data_vars.items()
        if set(variable.dims) == {"alpha", "beta"} and variable.dtype.kind == "f"
    ]
    lines = [np.char.add("α ", np.array([f"{a:.3g}" for a in plane.x]))[None, :]]
    lines += [np.char.add("β ", np.array([f"{b:.3g}" for b in plane.y]))[:, None]]
    for name in metrics:
        values = answer[name].transpose("beta", "alpha").values
        words = f"{untagged(quantity(answer, name)).lower()} "
        lines.append(np.vectorize(lambda v, words=words: f"{words}{v:.4g}", otypes=[str])(values))
    distances = distance(answer, plane)
    if distances is not None:
        lines.append(np.vectorize(lambda v: f"{v:.3g} filter norms away", otypes=[str])(distances.T))
    if "evaluated" in answer:
        lines.append(np.where(answer["evaluated"].transpose("beta", "alpha").values, "computed", "interpolated"))
    text = lines[0]
    for line in lines[1:]:
        text = np.char.add(np.char.add(text, "<br>"), line)
    return text


def distance(answer: xr.Dataset, plane: Plane) -> NDArray[np.float64] | None:
    """(A, B) how far each point lies from the checkpoint, in norms of all its filters; None if not known."""
    a, b = (stored(answer, f"step_ratio_{axis}") for axis in ("alpha", "beta"))
    cosine = stored(answer, "cosine")
    if a is None or b is None or cosine is None or not np.isfinite([a, b, cosine]).all():
        return None
    x, y = a * plane.x[:, None], b * plane.y[None, :]
    return np.sqrt(np.maximum(x**2 + y**2 + 2 * cosine * x * y, 0))


def _flight(plane: Plane, scale: Scale, trajectory: Trajectory, label: str) -> go.Scatter3d:
    import plotly.graph_objects as go

    parts = _PARTS if trajectory.is_path else 1
    height = trajectory.heights(plane.x, plane.y, plane.gaps, parts)
    text, size = np.full(height.size, "", dtype=object), np.zeros(height.size)
    size[::parts] = 3
    text[::parts] = [
        f"step {step:,}<br>own {label.lower()} {own:.4g}<br>{label.lower()} of the surface under it {z:.4g}"
        f"<br>{off:.0%} of its distance lies off the plane"
        for step, own, z, off in zip(
            trajectory.step, trajectory.loss, height[::parts], trajectory.off_plane, strict=True
        )
    ]
    return go.Scatter3d(
        x=trajectory.along(parts)[:, 0],
        y=trajectory.along(parts)[:, 1],
        z=height * _LIFT if scale.is_log else height + 0.01 * (scale.high - scale.low),
        mode="lines+markers" if trajectory.is_path else "markers",
        line={"color": VERMILLION, "width": 5},
        marker={"color": VERMILLION, "size": size, "line": {"width": 0}},
        text=text.tolist(),
        hoverinfo="text",
        name="trajectory",
    )
