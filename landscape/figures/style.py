"""One look for every figure: the style file, colours, short names, notes, and saving whole or not at all."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cache, wraps
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from landscape.figures.scales import round_ticks
from landscape.store.disk import Disk, explained, write_whole
from landscape.text import clean

STYLE_FILE = Path(__file__).with_name("paper.mplstyle")
Width = Literal["single", "double"]
WIDTHS: dict[str, float] = {"single": 3.25, "double": 6.75}  # inches: one column and two of a two-column page

# Okabe & Ito, "Color Universal Design" (2008): told apart with every common form of colour blindness.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
LINES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
GREY = "0.35"
NOTE_WIDTH = 60  # characters of a line of notes, which fit one column

P = ParamSpec("P")
T = TypeVar("T")


@cache
def _paper_parameters() -> Any:
    """Matplotlib's own defaults under our style file, so that no `matplotlibrc` of the user's changes a figure."""
    parameters = matplotlib.rc_params_from_file(STYLE_FILE, use_default_template=True)
    return {name: parameters[name] for name in parameters if not name.startswith(("backend", "interactive", "toolbar"))}


def paper_style() -> AbstractContextManager[None]:
    """The context in which figures are drawn and saved."""
    return matplotlib.rc_context(_paper_parameters())


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the paper style, down to the ticks, which matplotlib otherwise makes only when the figure is saved."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with paper_style():
            figure = draw(*args, **kwargs)
            if kwargs.get("ax") is None:
                figure.draw_without_rendering()
        return figure

    return drawn


def new_axes(height: float = 2.3, **options: Any) -> Axes:
    """The only axes of a new figure, one column wide and `height` inches high; a layout that fits the labels."""
    layout = options.pop("layout", "constrained")
    ax = Figure(figsize=(WIDTHS["single"], height), layout=layout).add_subplot(**options)
    few_ticks(ax)
    return ax


def few_ticks(ax: Axes) -> None:
    """Few round ticks on both axes, until a scale sets its own."""
    ax.xaxis.set_major_locator(round_ticks())
    ax.yaxis.set_major_locator(round_ticks())


def figure_of(ax: Axes) -> Figure:
    """The whole figure that `ax` belongs to."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def shortened(name: str, limit: int = 22) -> str:
    """A long name with its middle left out: the ends of a layer's name tell most."""
    name = clean(name)
    if len(name) <= limit:
        return name
    tail = (limit - 1) * 2 // 3
    return name[: limit - 1 - tail] + "…" + name[-tail:]


def told_apart(names: Sequence[str], limit: int = 22) -> list[str]:
    """Long names shortened where they are alike: an ending that all share goes, then a beginning, then middles."""
    short = [clean(name) for name in names]
    if len(short) > 1 and all(name.endswith(".weight") for name in short):
        short = [name.removesuffix(".weight") for name in short]
    while len(short) > 1 and max(map(len, short)) > limit and len({n.partition(".")[0] for n in short}) == 1:
        if not all("." in name for name in short):
            break
        short = [name.partition(".")[2] for name in short]
    while len({shortened(name, limit) for name in short}) < len(set(short)):
        limit += 2  # two different names must not look the same
    return [shortened(name, limit) for name in short]


def note(ax: Axes, lines: Iterable[str], below: Artist | None = None) -> None:
    """Write what a reader must know under the x label (or under another artist): counts, shares, verdicts."""
    text = "\n".join(textwrap.fill(clean(line), NOTE_WIDTH, break_on_hyphens=False) for line in lines if line)
    if not text:
        return
    annotation = ax.annotate(
        text,
        xy=(0.5, 0),
        xycoords=below or ax.xaxis.label,
        xytext=(0, -2),
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize=6,
        color=GREY,
        annotation_clip=False,
    )
    annotation.set_gid("note")


def note_under(figure: Figure, lines: Iterable[str]) -> None:
    """Write notes under all panels of a figure, in room that is kept free for them."""
    text = "\n".join(textwrap.fill(clean(line), NOTE_WIDTH, break_on_hyphens=False) for line in lines if line)
    if not text:
        return
    free = (0.1 * (text.count("\n") + 1) + 0.04) / figure.get_figheight()
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.set_layout_engine("constrained", rect=(0, free, 1, 1 - free))
    annotation = figure.axes[0].annotate(
        text,
        (0.5, free),
        xycoords="figure fraction",
        ha="center",
        va="top",
        fontsize=6,
        color=GREY,
        annotation_clip=False,
    )
    annotation.set_in_layout(False)
    annotation.set_gid("note")


def notes(figure: Figure) -> str:
    """All notes written on a figure."""
    return "\n".join(text.get_text() for ax in figure.axes for text in ax.texts if text.get_gid() == "note")


def legend_above(ax: Axes, columns: int = 3) -> None:
    """A legend over the axes, where it can never hide data; in a single column more than three words do not fit."""
    handles, _ = ax.get_legend_handles_labels()
    if handles:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(columns, len(handles)))


def count(number: int, what: str) -> str:
    """Write a number with what it counts, "1 value" or "3 values"; nothing for none."""
    return f"{number:,} {what}{'' if number == 1 else 's'}" if number else ""


def save(
    figure: Figure,
    path: str | Path,
    formats: Sequence[str] = ("pdf", "png"),
    width: Width | None = None,
) -> list[Path]:
    """Save a figure in each format, each file whole or not at all.

    Args:
        figure: A figure from this package. Its text keeps its size; its height grows less than its width.
        path: Where, without the suffix; the folder is made if need be.
        formats: File suffixes that matplotlib knows. PDF embeds its fonts as TrueType (Type 42); PNG has 300 dpi.
        width: "single" (3.25 in) or "double" (6.75 in) column; None keeps the figure's own.

    Returns:
        The files, in the order of `formats`.

    Raises:
        ValueError: If a format or the width is unknown.
        DiskFullError: If there is no space left; an older file of that name stays.
        UnwritableError: If the operating system refuses for another reason.
    """
    known = figure.canvas.get_supported_filetypes()
    if unknown := [suffix for suffix in formats if suffix not in known]:
        raise ValueError(f"expected figure formats among {', '.join(sorted(known))}; got {', '.join(unknown)}")
    if width is not None and width not in WIDTHS:
        raise ValueError(f"expected width 'single' (3.25 in) or 'double' (6.75 in); got {width!r}")
    if width is not None:
        growth = WIDTHS[width] / figure.get_figwidth()
        figure.set_size_inches(WIDTHS[width], figure.get_figheight() * growth**0.5)
    path = Path(path)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(f"{path.name}.{suffix}") for suffix in formats]
    for file, suffix in zip(files, formats, strict=True):
        write_whole(Disk(), file, rendered(figure, suffix))
    return files


def rendered(figure: Figure, suffix: str, **options: Any) -> bytes:
    """A figure as the bytes of a file, the same for the same figure: no date goes into it."""
    undated: dict[str, Any] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(suffix, {})
    buffer = BytesIO()
    with paper_style():
        figure.savefig(buffer, format=suffix, metadata=undated or None, **options)
    return buffer.getvalue()
