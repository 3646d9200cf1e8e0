"""Commands that tell what is stored."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent
from typing import Any

import click

from commands.folders import open_store, overviews, run_folders
from commands.options import RUN, json_option
from commands.output import say, saying, whole_bytes
from commands.program import BAD_INPUT, Failure, cli
from landscape.tables import contents, describe, scalars, table
from landscape.text import clean

_MOST_BASINS = 20  # rows of a table


@cli.command("list")
@click.argument("folder", type=RUN, default=Path("results"))
@json_option
def list_(folder: Path, as_json: bool) -> None:
    """List the runs in a folder: state, test error, loss, sharpness, negative curvature, width."""
    from landscape.sweeps import overviews_of, sweeps_in

    rows = overviews(folder, run_folders(folder, alone=True))
    for one in sweeps_in(folder):
        rows += overviews_of(one, "" if one == folder else one.relative_to(folder).as_posix())
    shown = [{name: value for name, value in row.items() if name != "reason"} for row in rows]
    reasons = [f"{row['run']}: {clean(row['reason'], limit=500)}" for row in rows if "reason" in row]
    say(rows, "\n".join([table(shown), *reasons]) if rows else f"no runs in {folder}", as_json)


@cli.command()
@click.argument("things", nargs=-1, required=True, type=RUN, metavar="RUN|FILE...")
@json_option
def show(things: tuple[Path, ...], as_json: bool) -> None:
    """Show a run or an answer: what is in it, its errors, and the command that made it."""
    from landscape.sweeps import is_sweep

    with saying(as_json, several=len(things) > 1) as say:
        for path in things:
            shown = show_sweep if is_sweep(path) else show_run if path.is_dir() else show_answer
            say(*shown(path))


@cli.command()
@click.argument("things", nargs=-1, required=True, type=RUN, metavar="RUN|FILE...")
@click.option("--metric", default="loss", help="The variable whose basins are found, such as test_loss.")
@click.option(
    "--least", type=click.FloatRange(min=0), help="Leave out basins of less persistence; rounding, if not set."
)
@json_option
def topology(things: tuple[Path, ...], metric: str, least: float | None, as_json: bool) -> None:
    """Find the basins of slices and surfaces: how deep, over which saddles they join."""
    paths = [path for thing in things for path in grids_in(thing)]
    with saying(as_json, several=len(paths) > 1) as say:
        for path in paths:
            say(*show_basins(path, metric, least))


def show_sweep(folder: Path) -> tuple[dict[str, Any], str]:
    """Tell what became of a sweep: for a script, and for a reader."""
    from landscape import open_sweep
    from landscape.sweep_tables import sweep_text, sweep_value

    answer = open_sweep(folder)
    return {"sweep": str(folder), **sweep_value(answer)}, f"{clean(folder)}\n{sweep_text(answer)}"


def show_answer(path: Path) -> tuple[dict[str, Any], str]:
    """Tell what is in an answer: for a script, and for a reader."""
    answer = open_store(path.parent).read(path)
    return contents(answer, path), f"{clean(path)}\n{describe(answer)}\n"


def grids_in(thing: Path) -> list[Path]:
    """The slices and surfaces in a run's folder, or the one file that was named."""
    if not thing.is_dir():
        return [thing]
    names = [name for kind in ("slice", "surface") for name in open_store(thing).names(f"{kind}-*")]
    if not names:
        raise Failure(f"{thing} has no slice and no surface; make one: landscape probe surface {thing}", BAD_INPUT)
    return [thing / f"{name}.h5" for name in names]


def show_basins(path: Path, metric: str, least: float | None) -> tuple[dict[str, Any], str]:
    """Tell the basins of a slice or a surface, seed by seed: for a script, and for a reader."""
    from landscape.topology import basin_rows, basins
    from landscape.width import axes_of

    answer = open_store(path.parent).read(path)
    if metric not in answer or "alpha" not in answer[metric].dims:
        raise Failure(f"{path} has no {metric!r} over a line or plane; give a slice or a surface", BAD_INPUT)
    axes = axes_of(answer, metric)
    found, lines = [], [str(clean(path))]
    for position in range(answer.sizes.get("seed", 1)):
        one = answer.isel(seed=position) if "seed" in answer.dims else answer
        of_seed = basins(one, metric, least)
        about = {"seed": one["seed"].item()} if "seed" in one.coords else {}
        found.append({**about, "basins": of_seed})
        title = f"seed {about['seed']}: {len(of_seed)} basins" if about else f"{len(of_seed)} basins"
        lines += [
            title if len(of_seed) > 1 else title[:-1],
            indent(table(basin_rows(of_seed[:_MOST_BASINS], axes)), "  "),
        ]
        if len(of_seed) > _MOST_BASINS:
            lines.append(f"  and {len(of_seed) - _MOST_BASINS} of less persistence; --json prints all of them")
    if "evaluated" in answer and not answer["evaluated"].all():
        lines.append("most of this surface is a spline between computed points: it shows no smaller basins")
    return {"file": str(path), "axes": axes, "metric": metric, "seeds": found}, "\n".join(lines)


def show_run(folder: Path) -> tuple[dict[str, Any], str]:
    """Tell what a run's folder holds: for a script, and for a reader."""
    from landscape.overview import overview

    store = open_store(folder)
    about = store.load_json("run") if (folder / "run.json").exists() else {}
    row, answers = overview(store, str(folder)), store.names()
    settings = {name: value for name, value in {**about, **about.get("config", {})}.items() if name != "config"}
    source = next((name for name in ("training", "averaged") if name in answers), None)
    ended = scalars(store.read(source)) if row["state"] != "damaged" and source else {}
    lines = [
        table([row]),
        *(f"  {clean(name)}: {clean(value)}" for name, value in settings.items()),
        *([f"{'training ended with' if source == 'training' else 'measured'}:"] if ended else []),
        *(f"  {clean(name)}: {whole_bytes(name, value)}" for name, value in ended.items()),
        *("answers:", *(f"  {clean(name)}" for name in answers)),
    ]
    return {**row, "about": about, "training": ended, "answers": answers}, "\n".join(lines)
