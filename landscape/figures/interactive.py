"""The surface to turn around with the mouse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from landscape.figures.labels import SYMBOLS, at_seed, quantity
from landscape.figures.planes import Plane
from landscape.figures.scales import linear_levels, log_levels, number
from landscape.figures.style import VERMILLION
from landscape.figures.trajectories import Trajectory, trajectory_of
from landscape.text import clean

if TYPE_CHECKING:
    import plotly.graph_objects as go

_LIFT = 1.02  # of the loss on a log axis, by which a trajectory floats over its surface


def interactive_surface(surface: xr.Dataset, *, metric: str = "loss", seed: int = 0) -> go.Figure:
    """A plotly surface: hover for the numbers of a point; heights and colours are logarithmic where the loss is wide.

    Args:
        surface: The answer of the probe Surface: dims (alpha, beta) or (seed, alpha, beta).
        metric: The variable to draw.
        seed: Which of several direction seeds, by position.

    Returns:
        The plotly figure: x is α, y is β, z the metric. Non-finite points are holes.
    """
    import plotly.graph_objects as go

    one = at_seed(surface, seed)
    plane = Plane.of(one, metric)
    label = _untagged(quantity(surface, metric))
    figure = go.Figure([_sheet(one, plane, label)])
    trajectory = trajectory_of(one)
    if trajectory and plane.finite.size:
        figure.add_trace(_flight(plane, trajectory, label))
    figure.update_layout(
        scene={
            "xaxis_title": SYMBOLS["alpha"],
            "yaxis_title": SYMBOLS["beta"],
            "zaxis": {"title": label, "type": "log" if plane.is_log else "linear", **_ticks(plane, logs=False)},
            "camera_eye": {"x": -1.5, "y": -2.05, "z": 1.2},
            "aspectratio": {"x": 1, "y": 1, "z": 0.75},
        },
        font={"family": "system-ui, sans-serif", "size": 12},
        margin={"l": 0, "r": 0, "t": 8, "b": 0},
        paper_bgcolor="white",
        template="none",
        showlegend=False,
    )
    return figure


def _sheet(answer: xr.Dataset, plane: Plane, label: str) -> go.Surface:
    import plotly.graph_objects as go

    height = plane.gaps.T  # plotly's rows run along y
    return go.Surface(
        x=plane.alpha,
        y=plane.beta,
        z=height,
        surfacecolor=np.log10(height) if plane.is_log else height,
        colorscale="Viridis",
        colorbar={
            "title": {"text": label},
            "len": 0.6,
            "thickness": 12,
            "tickfont": {"size": 10},
            **_ticks(plane, logs=plane.is_log),
        },
        text=_hover(answer, plane),
        hoverinfo="text",
        showscale=bool(plane.finite.size),
    )


def _untagged(text: str) -> str:
    """A text that plotly cannot take for HTML."""
    return clean(text, 40).replace("<", "‹")


def _ticks(plane: Plane, *, logs: bool) -> dict[str, list[float] | list[str]]:
    """Round tick values inside the range, and how they read; as log10 where the colour is."""
    if not plane.finite.size:
        return {}
    low, high = float(plane.finite.min()), float(plane.finite.max())
    levels = log_levels(low, high, 9) if plane.is_log else linear_levels(low, high, 8)
    levels = levels[(levels >= low) & (levels <= high)]
    return {"tickvals": [float(np.log10(v) if logs else v) for v in levels], "ticktext": [number(v) for v in levels]}


def _hover(answer: xr.Dataset, plane: Plane) -> NDArray[np.str_]:
    """(B, A) what each point says: its coordinates and every metric measured there."""
    metrics = [str(n) for n, v in answer.data_vars.items() if set(v.dims) == {"alpha", "beta"} and n != "done"]
    lines = [np.char.add("α ", np.array([f"{a:.3g}" for a in plane.alpha]))[None, :]]
    lines += [np.char.add("β ", np.array([f"{b:.3g}" for b in plane.beta]))[:, None]]
    for name in metrics:
        values = answer[name].transpose("beta", "alpha").values
        words = f"{_untagged(quantity(answer, name)).lower()} "
        lines.append(np.vectorize(lambda v, words=words: f"{words}{v:.4g}", otypes=[str])(values))
    text = lines[0]
    for line in lines[1:]:
        text = np.char.add(np.char.add(text, "<br>"), line)
    return text


def _flight(plane: Plane, trajectory: Trajectory, label: str) -> go.Scatter3d:
    import plotly.graph_objects as go

    height = trajectory.heights(plane.alpha, plane.beta, plane.gaps)
    lifted = height * _LIFT if plane.is_log else height + 0.01 * np.ptp(plane.finite)
    return go.Scatter3d(
        x=trajectory.alpha,
        y=trajectory.beta,
        z=lifted,
        mode="lines+markers" if trajectory.is_path else "markers",
        line={"color": VERMILLION, "width": 5},
        marker={"color": VERMILLION, "size": 2.5},
        text=[
            f"step {step:,}<br>own {label.lower()} {own:.4g}<br>{label.lower()} of the surface under it {z:.4g}"
            f"<br>{off:.0%} of its distance lies off the plane"
            for step, own, z, off in zip(trajectory.step, trajectory.loss, height, trajectory.off_plane, strict=True)
        ],
        hoverinfo="text",
        name="trajectory",
    )
