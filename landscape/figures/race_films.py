"""A race that runs: frames of an animation, and a page with a button that plays it."""

from __future__ import annotations

import textwrap
from base64 import b64encode
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from landscape.figures.animations import DPI, MOST_FRAMES, canvas_of
from landscape.figures.interactive import untagged
from landscape.figures.races import (
    HALO,
    PALE,
    draw_contours,
    draw_ground,
    draw_marks,
    labels,
    legend_over,
    levels_of,
    look,
    loss_label,
    rates_note,
    rgb,
    words_of,
)
from landscape.figures.style import LINES, note, paper_style

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from PIL.Image import Image

_MOST_POINTS = 200  # of a path on a page
_MOVED = 0.01  # of the width of the view: what is left of the way when a racer counts as arrived
_PLOTLY_DASHES = ("solid", "dash", "dot")
_GROUND_DPI = 160
_AXIS = {"showgrid": False, "zeroline": False, "showline": True, "mirror": True, "ticks": "outside"}
_MILLISECONDS = 90  # of a frame on a page


def shown_steps(race: xr.Dataset) -> NDArray[np.int64]:
    """The steps that get a frame: at most 60, closer at the beginning, until every racer has arrived or left."""
    path = race["path"].values
    low, high = _window(race)
    inside = ((path >= low) & (path <= high)).all(-1)
    to_end = np.linalg.norm(path - _last(path)[:, None], axis=-1)
    moves = inside & (to_end > _MOVED * float((high - low).max()))
    last = max((int(np.flatnonzero(row)[-1]) + 1 for row in moves if row.any()), default=1)
    shares = np.linspace(0, 1, min(MOST_FRAMES, last + 1)) ** 2
    return np.unique((shares * min(1.05 * last, path.shape[1] - 1)).round().astype(np.int64))


def _window(race: xr.Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lower left and the upper right corner of the picture, (2,) each."""
    corners = np.array([race[axis].values[[0, -1]] for axis in ("w1", "w2")])
    return corners[:, 0], corners[:, 1]


def _spread(path: NDArray[np.float64]) -> NDArray[np.int64]:
    """Positions of places of a path (T, 2): evenly spread along it, and, since it may tremble, early in time."""
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    wanted = np.searchsorted(along, np.linspace(0, along[-1], _MOST_POINTS // 2))
    early = np.geomspace(1, len(path), _MOST_POINTS // 2).round() - 1
    return np.unique(np.minimum(np.concatenate([wanted, early]).astype(np.int64), len(path) - 1))


def _last(path: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R, 2) where each path (R, T, 2) was last."""
    ends = np.isfinite(path).all(-1).sum(1) - 1
    return path[np.arange(len(path)), ends]


def race_frames(race: xr.Dataset, *, dpi: float = DPI) -> list[Image]:
    """Pictures of a race as its paths grow over the contours of the toy; each says its step.

    Args:
        race: The answer of a race.
        dpi: Pixels an inch; a figure is 3.25 inches wide.

    Returns:
        RGB images of equal size, with even numbers of pixels.
    """
    with paper_style():
        return list(_frames(race, dpi))


def _frames(race: xr.Dataset, dpi: float) -> Iterator[Image]:
    from PIL import Image

    ax = draw_ground(race)
    lines, heads = [], []
    for index, name in enumerate(labels(race)):
        lines += ax.plot([], [], **look(index), label=name, path_effects=HALO, zorder=3, animated=True)
        heads += ax.plot(
            [], [], "o", color=look(index)["color"], markersize=4.5, markeredgecolor="white", animated=True
        )
    draw_marks(ax, race)
    words = ax.set_title("step 0", loc="left", fontsize=7, animated=True)
    figure: Figure = ax.figure  # type: ignore[assignment]
    legend_over(ax, race)
    note(ax, [rates_note(race)])
    canvas = canvas_of(figure, dpi)
    canvas.draw()
    still = canvas.copy_from_bbox(figure.bbox)
    for step in shown_steps(race):
        canvas.restore_region(still)
        for line, head, path in zip(lines, heads, race["path"].values, strict=True):
            line.set_data(*path[: step + 1].T)
            at = path[: step + 1][np.isfinite(path[: step + 1]).all(1)][-1:]
            head.set_data(*at.T)
        words.set_text(f"step {step:,}")
        for artist in [*lines, *heads, words]:
            ax.draw_artist(artist)
        yield Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def interactive_race(race: xr.Dataset) -> go.Figure:
    """A plotly figure of a race with a play button and a slider over the steps.

    Args:
        race: The answer of a race.

    Returns:
        The figure; hovering says step and loss.
    """
    import plotly.graph_objects as go

    steps = shown_steps(race)
    ground = [_bar(race), _marks(race)]
    runners = [line.update(at) for line, at in zip(_runners(race), _places(race, int(steps[-1])), strict=True)]
    figure = go.Figure([*ground, *runners])
    moving = list(range(len(ground), len(figure.data)))
    figure.frames = [
        go.Frame(data=[{"type": "scatter", **at} for at in _places(race, int(step))], traces=moving, name=str(step))
        for step in steps
    ]
    low, high = _window(race)
    figure.update_layout(
        template="none",
        font={"family": "system-ui, sans-serif"},
        margin={"l": 60, "r": 20, "t": 40, "b": 110},
        xaxis={"title": "w₁", "range": [low[0], high[0]], **_AXIS},
        yaxis={"title": "w₂", "range": [low[1], high[1]], **_AXIS},
        images=[
            {
                "source": _ground(race),
                "xref": "x",
                "yref": "y",
                "x": low[0],
                "y": high[1],
                "sizex": high[0] - low[0],
                "sizey": high[1] - low[1],
                "sizing": "stretch",
                "layer": "below",
            }
        ],
        legend={
            "x": 1.1,
            "title": {"text": textwrap.fill(untagged(rates_note(race)), 24).replace("\n", "<br>")},
            "itemsizing": "constant",
        },
        updatemenus=[_buttons()],
        sliders=[_slider(steps)],
    )
    return figure


def _ground(race: xr.Dataset) -> str:
    """The printed contours as a picture in an address: plotly loses contours of its own while lines move over them."""
    from PIL import Image

    figure = Figure(figsize=(5, 5), dpi=_GROUND_DPI)
    with paper_style():
        ax = figure.add_axes((0, 0, 1, 1))
        draw_contours(ax, race)
        ax.set_axis_off()
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    buffer = BytesIO()
    shades = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(64)
    shades.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def _bar(race: xr.Dataset) -> Any:
    """A trace without points that brings the bar of the contours' levels."""
    import plotly.graph_objects as go

    levels = levels_of(race)
    parts = len(levels) - 1
    shades = np.linspace(0, 1, parts)[:, None] * (rgb(PALE[1]) - rgb(PALE[0])) + rgb(PALE[0])
    words = [f"rgb({','.join(str(round(255 * part)) for part in shade)})" for shade in shades]
    colours = [[(place + end) / parts, words[place]] for place in range(parts) for end in (0, 1)]
    ticks = {"tickvals": list(range(parts + 1)), "ticktext": words_of(race, levels)}
    bar = {"title": {"text": loss_label(race)}, "x": 1.01, "len": 1.05, "thickness": 14, **ticks}
    marker = {"color": [0], "cmin": 0, "cmax": parts, "colorscale": colours, "colorbar": bar, "showscale": True}
    return go.Scatter(x=[None], y=[None], mode="markers", marker=marker, showlegend=False, hoverinfo="skip")


def _marks(race: xr.Dataset) -> Any:
    import plotly.graph_objects as go

    minima = race["minimizer"].values
    kinds = [("square", "start", race["path"].values[:1, 0]), ("x", "saddle", race["saddle"].values)]
    kinds += [("star", "minimum", minima)] if len(minima) <= 8 else []
    return go.Scatter(
        x=[float(x) for _, _, places in kinds for x in places[:, 0]],
        y=[float(y) for _, _, places in kinds for y in places[:, 1]],
        text=[name for _, name, places in kinds for _ in places],
        mode="markers",
        marker={
            "symbol": [symbol for symbol, _, places in kinds for _ in places],
            "size": 11,
            "color": "black",
            "line": {"color": "white", "width": 1},
        },
        hoverinfo="text",
        showlegend=False,
    )


def _runners(race: xr.Dataset) -> list[Any]:
    """A line for every optimizer, still without points."""
    import plotly.graph_objects as go

    return [
        go.Scatter(
            mode="lines+markers",
            line={
                "color": look(index)["color"],
                "width": 2.4,
                "dash": _PLOTLY_DASHES[index // len(LINES) % len(_PLOTLY_DASHES)],
            },
            marker={"opacity": 1, "color": look(index)["color"], "line": {"width": 0}},
            hovertemplate=f"{name}<br>step %{{customdata[0]:,d}}<br>loss %{{customdata[1]:.4g}}<extra></extra>",
            name=name,
        )
        for index, name in enumerate(untagged(name) for name in labels(race))
    ]


def _places(race: xr.Dataset, step: int) -> list[dict[str, Any]]:
    """Every path until a step, with a dot where it is."""
    places = []
    low, high = _window(race)
    for path, losses in zip(race["path"].values, race["loss"].values, strict=True):
        known = np.flatnonzero(np.isfinite(path[: step + 1]).all(1))
        kept = known[_spread(np.clip(path[known], low, high))]
        places.append(
            {
                "x": path[kept, 0].astype(np.float32),
                "y": path[kept, 1].astype(np.float32),
                "customdata": np.column_stack([kept, losses[kept]]).astype(np.float32),
                "marker": {"size": [0] * (len(kept) - 1) + [10]},
            }
        )
    return places


def _buttons() -> dict[str, Any]:
    playing = {"frame": {"duration": _MILLISECONDS, "redraw": False}, "transition": {"duration": 0}}
    pause = {"frame": {"duration": 0, "redraw": False}, "mode": "immediate", "transition": {"duration": 0}}
    return {
        "type": "buttons",
        "direction": "left",
        "x": 0,
        "y": -0.1,
        "xanchor": "left",
        "yanchor": "top",
        "pad": {"t": 12, "r": 10},
        "showactive": False,
        "buttons": [
            {"label": "▶ Play", "method": "animate", "args": [None, {**playing, "fromcurrent": False}]},
            {"label": "❚❚ Pause", "method": "animate", "args": [[None], pause]},
        ],
    }


def _slider(steps: NDArray[np.int64]) -> dict[str, Any]:
    jump = {"frame": {"duration": 0, "redraw": False}, "mode": "immediate", "transition": {"duration": 0}}
    return {
        "active": len(steps) - 1,
        "x": 0.22,
        "len": 0.78,
        "y": -0.1,
        "pad": {"t": 8},
        "currentvalue": {"prefix": "step ", "xanchor": "left"},
        "minorticklen": 0,
        "steps": [{"label": f"{s:,}", "method": "animate", "args": [[str(s)], jump]} for s in steps],
    }
