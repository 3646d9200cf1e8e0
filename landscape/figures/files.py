"""The files of an answer, in every format that suits it: pictures, pages, animations, VTK, CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr
from matplotlib.figure import Figure

from landscape.figures.animations import animation_frames, gif, mp4, require_ffmpeg
from landscape.figures.drawing import draw, kind_of
from landscape.figures.interactive import interactive_surface, interactive_volume, page
from landscape.figures.race_films import interactive_race, race_frames
from landscape.figures.spreadsheets import tables
from landscape.figures.style import WIDTHS, Width, save
from landscape.figures.trajectories import trajectory_of
from landscape.figures.vtk import surface_vtr, surface_vts, trajectory_vtp, volume_vti
from landscape.store.disk import Disk, explained, write_whole

if TYPE_CHECKING:
    from PIL.Image import Image

ANIMATIONS = ("gif", "mp4")
OTHERS = ("html", "vtk", "csv")


def require_formats(formats: Sequence[str]) -> None:
    """Check formats before anything is drawn.

    Raises:
        ValueError: If one is unknown, or is mp4 and there is no ffmpeg on PATH.
    """
    pictures = sorted(set(Figure().canvas.get_supported_filetypes()) - set(ANIMATIONS))
    known = [*pictures, *OTHERS, *ANIMATIONS]
    if unknown := [word for word in formats if word not in known]:
        raise ValueError(f"expected figure formats among {', '.join(known)}; got {', '.join(unknown)}")
    if "mp4" in formats:
        require_ffmpeg()


def pictures_among(formats: Sequence[str]) -> list[str]:
    """Those formats that a single picture can have."""
    return [word for word in formats if word not in (*ANIMATIONS, *OTHERS)]


def write_files(
    answer: xr.Dataset, name: str, folder: str | Path, formats: Sequence[str], width: Width = "single"
) -> list[Path]:
    """Write an answer in each format that suits it, each file whole or not at all.

    Pictures (pdf, png, svg, ...) suit every answer that has figures. A page to turn around (html), VTK and an
    animation of its trajectory (gif, mp4) suit surfaces, the first two also volumes and maps of curvature; CSV suits
    all of these and slices. A race has a page that plays it, and an animation.

    Args:
        answer: A stored answer.
        name: Its name in the store, with which all files begin.
        folder: Where to write; made if need be.
        formats: What to write.
        width: How many columns of a paper the pictures fill; those whose panels need two fill two.

    Returns:
        The files; none where no format suits the answer.

    Raises:
        ValueError: If a format is unknown, or is mp4 and there is no ffmpeg on PATH.
        DiskFullError: If there is no space left; an older file of that name stays.
        UnwritableError: If the operating system refuses for another reason.
    """
    require_formats(formats)
    folder, written = Path(folder), []
    if pictures := pictures_among(formats):
        for title, figure in draw(answer, name, width).items():
            fits = figure.get_figwidth() <= WIDTHS[width]  # panels that need two columns keep them
            written += save(figure, folder / f"{name}-{title}", pictures, width if fits else None)
    kind = kind_of(answer, name)
    for ending, content in _contents(answer, name, kind, formats):
        path = folder / f"{name}{ending}"
        with explained(path):
            folder.mkdir(parents=True, exist_ok=True)
        write_whole(Disk(), path, content)
        written.append(path)
    return written


def _contents(answer: xr.Dataset, name: str, kind: str, formats: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """What is not a picture: how the name of each file ends, and what is in it."""
    if "html" in formats:
        yield from _pages(answer, name, kind)
    if "vtk" in formats:
        yield from _vtk(answer, kind)
    if "csv" in formats and kind in ("slice", "surface", "volume", "curvature-surface"):
        for table, content in tables(answer).items():
            yield f"{table and f'-{table}'}.csv", content
    moving = [word for word in formats if word in ANIMATIONS]
    if moving and (frames := _frames(answer, kind)):
        for word in moving:
            yield f".{word}", {"gif": gif, "mp4": mp4}[word](frames)


def _frames(answer: xr.Dataset, kind: str) -> list[Image]:
    """The frames of an answer that moves; none of others."""
    if kind == "race":
        return race_frames(answer)
    trajectory = trajectory_of(answer) if kind == "surface" else None
    return animation_frames(answer) if trajectory and trajectory.is_path else []


def _seeds(answer: xr.Dataset) -> list[tuple[int, str]]:
    """Every direction seed, and what it adds to the name of a file."""
    several = answer.sizes.get("seed", 1)
    return [(seed, f"-seed{seed}" if several > 1 else "") for seed in range(several)]


def _pages(answer: xr.Dataset, name: str, kind: str) -> Iterator[tuple[str, bytes]]:
    if kind == "race":
        yield ".html", page(answer, interactive_race(answer), name).encode()
    elif kind == "volume":
        yield ".html", page(answer, interactive_volume(answer), name).encode()
    elif is_sheet(answer, kind):
        metric = "eigenvalue_ratio" if kind == "curvature-surface" else "loss"
        for seed, ending in _seeds(answer):
            yield (
                f"{ending}.html",
                page(answer, interactive_surface(answer, metric=metric, seed=seed), name, seed=seed).encode(),
            )


def _vtk(answer: xr.Dataset, kind: str) -> Iterator[tuple[str, bytes]]:
    if kind == "volume":
        yield ".vti", volume_vti(answer)
    elif is_sheet(answer, kind):
        for seed, ending in _seeds(answer):
            yield f"{ending}.vts", surface_vts(answer, seed=seed)
            yield f"{ending}.vtr", surface_vtr(answer, seed=seed)
        if kind == "surface" and (path := trajectory_vtp(answer)):
            yield "-trajectory.vtp", path


def is_sheet(answer: xr.Dataset, kind: str) -> bool:
    """Whether an answer is a plane with at least two points along each axis."""
    return (
        kind in ("surface", "curvature-surface", "curve-plane") and min(answer.sizes["alpha"], answer.sizes["beta"]) > 1
    )
