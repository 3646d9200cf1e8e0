"""A trajectory that moves over its surface: GIF, and MP4 where ffmpeg is installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from landscape.figures.contours import contour
from landscape.figures.scales import number
from landscape.figures.style import VERMILLION, figure_of, paper_style
from landscape.figures.trajectories import Trajectory, trajectory_of

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_FRAMES = 60
DPI = 180  # 585 pixels for one column
_SECONDS = 6.0  # about how long it runs before it rests on its last frame
_REST = 1.5  # seconds on the last frame


def animation_frames(surface: xr.Dataset, *, metric: str = "loss", dpi: float = DPI) -> list[Image]:
    """Pictures of a trajectory as it grows over the contours of its surface, one a snapshot.

    The picture says the step, the loss of the run there and how much of its distance lies off the plane. Of more
    than 60 snapshots, 60 are shown, first and last among them.

    Args:
        surface: The answer of the probe Surface with a trajectory.
        metric: The variable whose contours are drawn.
        dpi: Pixels an inch; a figure is 3.25 inches wide.

    Returns:
        RGB images of equal size, with even numbers of pixels, as videos need them.

    Raises:
        ValueError: If the answer has no trajectory of a run.
    """
    trajectory = trajectory_of(surface)
    if trajectory is None or not trajectory.is_path:
        raise ValueError("expected the trajectory of a run in the answer; ask Surface with --directions pca")
    with paper_style():
        figure = contour(surface.drop_vars(["trajectory_alpha", "trajectory_beta"]), metric=metric)
        return list(_grown(figure.axes[0], trajectory, dpi))


def shown_snapshots(snapshots: int) -> NDArray[np.int64]:
    """Which of so many snapshots get a frame.

    >>> shown_snapshots(3), len(shown_snapshots(500)), shown_snapshots(500)[-1]
    (array([0, 1, 2]), 60, np.int64(499))
    """
    return np.unique(np.linspace(0, snapshots - 1, min(snapshots, MOST_FRAMES)).round().astype(np.int64))


def gif(frames: Sequence[Image]) -> bytes:
    """Frames as an animated GIF that starts again after a rest, with the colours of its last frame."""
    from PIL.Image import Dither, Quantize

    palette = frames[-1].quantize(256, Quantize.MAXCOVERAGE, dither=Dither.NONE)
    reduced = [frame.quantize(palette=palette, dither=Dither.NONE) for frame in frames]
    each = 1000 * _seconds_a_frame(len(frames))
    buffer = BytesIO()
    reduced[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=reduced[1:],
        duration=[round(each)] * (len(frames) - 1) + [round(each + 1000 * _REST)],
        loop=0,
        optimize=False,
    )
    return buffer.getvalue()


def mp4(frames: Sequence[Image]) -> bytes:
    """Frames as an MP4 video (H.264) by the program ffmpeg.

    Raises:
        ValueError: If there is no ffmpeg on PATH.
        RuntimeError: If ffmpeg fails.
    """
    program = require_ffmpeg()
    rate = 1 / _seconds_a_frame(len(frames))
    rest = [frames[-1]] * round(_REST * rate)
    size = f"{frames[0].width}x{frames[0].height}"
    with TemporaryDirectory() as folder:
        path = Path(folder) / "animation.mp4"
        read = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", f"{rate:.4f}", "-i", "-"]
        write = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-fflags", "+bitexact", str(path)]
        pixels = b"".join(frame.tobytes() for frame in [*frames, *rest])
        command = [program, "-y", "-loglevel", "error", *read, *write]
        done = subprocess.run(command, input=pixels, capture_output=True, check=False)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise RuntimeError(f"ffmpeg failed: {said[-1] if said else 'without a word'}; ask for gif instead")
        return path.read_bytes()


def require_ffmpeg() -> str:
    """The path of the program ffmpeg.

    Raises:
        ValueError: If there is none on PATH.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise ValueError(
            "mp4 needs the program ffmpeg on PATH, which is not there; install it "
            "(apt install ffmpeg, brew install ffmpeg, conda install ffmpeg) or ask for gif"
        )
    return program


def _seconds_a_frame(frames: int) -> float:
    return float(np.clip(_SECONDS / frames, 0.08, 0.5))


def _grown(ax: Axes, trajectory: Trajectory, dpi: float) -> Iterator[Image]:
    """The picture with more and more of the trajectory on it; what stands still is drawn once."""
    from PIL import Image

    figure: Figure = figure_of(ax)
    canvas = canvas_of(figure, dpi)
    halo = [patheffects.withStroke(linewidth=2.4, foreground="white")]
    (path,) = ax.plot([], [], color=VERMILLION, linewidth=1.1, path_effects=halo, animated=True)
    (dots,) = ax.plot([], [], "o", color=VERMILLION, markersize=2, animated=True)
    (head,) = ax.plot([], [], "o", color=VERMILLION, markersize=5, markeredgecolor="white", animated=True)
    x, y = _free_corner(ax, trajectory)
    words = ax.annotate(
        "",
        (0.03 + 0.94 * x, 0.03 + 0.94 * y),
        xycoords="axes fraction",
        ha="right" if x else "left",
        va="top" if y else "bottom",
        fontsize=7,
        linespacing=1.3,
        bbox={"boxstyle": "round,pad=0.3", "facecolor": "white", "alpha": 0.85, "linewidth": 0},
        animated=True,
    )
    canvas.draw()
    still = canvas.copy_from_bbox(figure.bbox)
    for index in shown_snapshots(trajectory.step.size):
        canvas.restore_region(still)
        past = slice(0, index + 1)
        for line in (path, dots):
            line.set_data(trajectory.alpha[past], trajectory.beta[past])
        head.set_data(trajectory.alpha[index : index + 1], trajectory.beta[index : index + 1])
        words.set_text(_said(trajectory, int(index)))
        for artist in (path, dots, head, words):
            ax.draw_artist(artist)
        yield Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def canvas_of(figure: Figure, dpi: float) -> FigureCanvasAgg:
    """A canvas for a figure with even numbers of pixels, as videos need them."""
    width, height = (2 * round(size * dpi / 2) for size in figure.get_size_inches())
    figure.set_dpi(dpi)
    figure.set_size_inches((width + 0.01) / dpi, (height + 0.01) / dpi)
    return FigureCanvasAgg(figure)


def _free_corner(ax: Axes, trajectory: Trajectory) -> tuple[int, int]:
    """The corner of the axes, 0 or 1 along each, with the fewest places of the path near it."""
    x, y = ax.transAxes.inverted().transform(ax.transData.transform(trajectory.along(20))).T
    corners = [(0, 1), (1, 1), (0, 0), (1, 0)]
    return min(corners, key=lambda corner: int(((abs(x - corner[0]) < 0.5) & (abs(y - corner[1]) < 0.25)).sum()))


def _said(trajectory: Trajectory, index: int) -> str:
    """What a frame says: the step, the loss that the run had there, and how far it is from the plane."""
    lines = [f"step {trajectory.step[index]:,}"]
    if np.isfinite(trajectory.loss[index]):
        lines.append(f"loss of the run {number(float(f'{trajectory.loss[index]:.3g}'))}")
    if np.isfinite(trajectory.off_plane[index]):
        lines.append(f"{trajectory.off_plane[index]:.0%} off the plane")
    return "\n".join(lines)
