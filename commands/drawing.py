"""Commands that draw what is stored."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.folders import common_folder, open_store, overviews, readable, run_folders, told_apart
from commands.options import RUN, json_option, runs_argument
from commands.output import say, saying
from commands.program import BAD_INPUT, DAMAGED, Failure, cli
from landscape.tables import table
from landscape.text import clean

if TYPE_CHECKING:
    from landscape.diagnosis import Symptom
    from landscape.store import StoreError


@cli.command()
@runs_argument
@click.option(
    "--format",
    "formats",
    default="pdf",
    help="pdf, png, svg; html to turn around; gif or mp4 of a trajectory; vtk for ParaView; csv. Several by commas.",
)
@click.option("--width", type=click.Choice(["single", "double"]), default="single", help="Columns.")
@click.option(
    "--side-by-side",
    is_flag=True,
    help="Only the surfaces that several runs answered with the same options, in one scale.",
)
@json_option
def figure(runs: tuple[Path, ...], formats: str, width: Any, side_by_side: bool, as_json: bool) -> None:
    """Draw every answer of a run, from its stored file alone, into RUN/figures/.

    A format that does not suit an answer is left out for it. Several critical points are also drawn together, index
    against loss; those of several runs, and what is drawn side by side, go into figures/ of the folder that holds
    these runs.
    """
    from landscape import figures

    wanted = [word.strip() for word in formats.split(",") if word.strip()]
    figures.require_formats(wanted)
    if side_by_side:
        written, damaged = compare(runs, wanted, width)
        say({"runs": list(map(str, runs)), "files": written}, "\n".join(map(clean, written)), as_json)
    else:
        damaged = draw_runs(runs, wanted, width, as_json)
    if damaged:
        raise Failure(f"not drawn: {damaged[0]}", damaged[0].exit_code)


def draw_runs(runs: tuple[Path, ...], formats: list[str], width: Any, as_json: bool) -> list[StoreError]:
    """Write the files of every answer of every run; returns what could not be read."""
    from landscape import figures

    damaged: list[StoreError] = []
    critical: dict[Path, list[Any]] = {}
    written: dict[Path, list[Path]] = {}
    drawn = {"formats": figures.pictures_among(formats), "width": width}
    num_answers = 0
    for folder in runs:
        files = written.setdefault(folder, [])
        for name, answer in readable(folder, damaged):
            num_answers += 1
            if figures.kind_of(answer, name) == "critical-point":
                critical.setdefault(folder, []).append(answer)
            files += figures.write_files(answer, name, folder / "figures", formats, width)
        if len(points := critical.get(folder, [])) > 1 and drawn["formats"]:
            files += figures.save(figures.index_against_loss(points), folder / "figures/index-against-loss", **drawn)
    if num_answers and not damaged and not any(written.values()):
        raise Failure(
            f"nothing was written: {', '.join(formats)} suits none of {num_answers} answers; html, vtk and csv need "
            "a surface (csv also takes a slice), gif and mp4 one along a trajectory (--directions pca)",
            BAD_INPUT,
        )
    with saying(as_json, several=len(runs) > 1) as say:
        for folder, files in written.items():
            say({"run": str(folder), "files": files}, f"{clean(folder / 'figures')}: {len(files)} files")
        if len(critical) > 1 and drawn["formats"]:
            path = common_folder(critical) / "figures" / "index-against-loss"
            points = [answer for answers in critical.values() for answer in answers]
            together = figures.save(figures.index_against_loss(points), path, **drawn)
            say({"runs": list(map(str, critical)), "files": together}, f"{clean(path.parent)}: {len(together)} files")
    return damaged


def compare(runs: tuple[Path, ...], formats: list[str], width: Any) -> tuple[list[Path], list[StoreError]]:
    """Draw the surfaces that several runs answered with the same options; returns the files, and what was damaged."""
    from landscape import figures
    from landscape.store import MissingError

    pictures = figures.pictures_among(formats)
    if not pictures:
        raise Failure(
            f"nothing was written: side by side are pictures, pdf, png or svg, not {', '.join(formats)}", BAD_INPUT
        )
    damaged: list[StoreError] = []
    surfaces, configs = [], {}
    for folder, run in zip(runs, told_apart(runs), strict=True):
        try:
            configs[run] = open_store(folder).load_json("run").get("config", {})
        except MissingError:
            configs[run] = {}  # answers from somebody else's training
        surfaces += [
            figures.Asked(run, answer)
            for name, answer in readable(folder, damaged)
            if figures.kind_of(answer, name) == "surface" and min(answer.sizes["alpha"], answer.sizes["beta"]) > 1
        ]
    written = []
    for title, drawing in figures.draw_side_by_side(surfaces, configs, width).items():
        written += figures.save(drawing, common_folder(runs) / "figures" / title, pictures, width)
    return written, damaged


def draw_symptoms(run: Path, found: Sequence[Symptom], formats: list[str]) -> dict[str, list[Path]]:
    """Write the figures of what is not well; returns the files by check."""
    from landscape import figures

    if formats:
        figures.require_formats(formats)
    store, drawn = open_store(run), {}
    wanted = {s.check: s.figure for s in found if s.figure and s.status != "ok" and formats}
    for name in store.names():
        of_answer = {
            check: figure.removeprefix(f"{name}-") for check, figure in wanted.items() if figure.startswith(f"{name}-")
        }
        pictures = figures.draw(store.read(name), name) if of_answer else {}
        for check, figure in of_answer.items():
            if figure in pictures:
                drawn[check] = figures.save(pictures[figure], run / "figures" / f"{name}-{figure}", formats)
    return drawn


@cli.command()
@click.argument("folder", type=RUN)
@click.option("--out", type=RUN, required=True, help="The page to write, for example report.html.")
def report(folder: Path, out: Path) -> None:
    """Write one self-contained page about every run in a folder."""
    from landscape.figures.report import write_report

    write_report(run_folders(folder), out, command=shlex.join(["landscape", *sys.argv[1:]]))
    click.echo(out)
    damaged = [row["reason"] for row in overviews(folder, run_folders(folder)) if "reason" in row]
    if damaged:
        raise Failure(f"left out of the page: {damaged[0]}", DAMAGED)


@cli.command()
@runs_argument
@click.option(
    "--format", "formats", default="png", help="Of the figures that show what was found: pdf,png,svg; or none."
)
@json_option
def diagnose(runs: tuple[Path, ...], formats: str, as_json: bool) -> None:
    """Say in words what a training shows: gradients, dead units, updates, gaps, sharpness; with the figures."""
    from landscape.diagnosis import diagnose, recorded
    from models.opened import open_run

    with saying(as_json, several=len(runs) > 1) as say:
        for run in runs:
            is_ours = (run / "run.json").exists()
            record = open_run(run).record() if is_ours else recorded(open_store(run))
            found = diagnose(record)
            drawn = draw_symptoms(run, found, [] if formats == "none" else formats.split(","))
            rows = [{name: value for name, value in asdict(symptom).items() if name != "figure"} for symptom in found]
            shown = [f"  {check}: {clean(path)}" for check, paths in drawn.items() for path in paths]
            say(
                {"run": str(run), "found": [asdict(s) for s in found], "figures": drawn},
                "\n".join([clean(run), table(rows), *(["shown by:", *shown] if shown else [])]),
            )
