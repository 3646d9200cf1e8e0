"""Commands that measure the ways between runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from commands.folders import new_store
from commands.options import (
    DATA,
    RUN,
    ConfigCommand,
    GroupedCommand,
    Value,
    chosen_options,
    executor_option,
    json_option,
    objective_options,
    options_of,
    runs_argument,
    with_options,
)
from commands.output import say, tell_drawn
from commands.program import FAILED, cli, progress_bar
from landscape.fields import fields_of
from landscape.tables import contents, nonfinite, number, table
from landscape.text import clean


class ConnectCommand(GroupedCommand):
    """`connect`: its options are the fields of Connection, then how the objective is evaluated."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Options declared here, those of the curve, and those of every probe; all parameters vary between runs."""
        from landscape.paths.connection import Connection

        own = options_of(Connection, "The curve")
        taken = {"parameters", *(option.name for option in own)}
        return [*super().get_params(ctx), *own, *(option for option in objective_options() if option.name not in taken)]


@cli.command(cls=ConnectCommand)
@click.argument("first", type=RUN, metavar="RUN")
@click.argument("second", type=RUN, metavar="RUN")
@click.option("--plane", default=31, type=click.IntRange(min=0), help="Points a side of the curve's plane; 0 for none.")
@click.option("--out", type=RUN, help="Folder for the answers and figures; that of the first run if left out.")
def connect(
    first: Path, second: Path, plane: int, out: Path | None, executor: str, threads: int | None, **values: Any
) -> None:
    """Join two runs by a curve that is trained to a low loss, and measure it beside the straight line.

    The data and the loss are those of the first run. The control points lie in the answer: in Python,
    landscape.paths.Curve.load(FILE).tensors(0.5) are the weights halfway.
    """
    import torch

    from landscape import figures
    from landscape.paths.connection import Connection
    from landscape.paths.tables import connection_remarks, connection_rows
    from models.connections import connect
    from models.opened import open_run

    torch.set_num_threads(threads or 1)
    as_json, fields = values.pop("as_json"), {field.name for field in fields_of(Connection)}
    asked = {name: values.pop(name) for name in list(values) if name in fields}
    values["normalization"] = values["normalization"] or "recalibrated"
    store = new_store(out or first)
    with progress_bar("connect") as progress:
        how = {"executor": executor, "progress": progress, "threads": threads}
        answers = connect(open_run(first), open_run(second), asked, plane, store, chosen_options(values), **how)
    paths = [store.path / f"{name}.h5" for name in answers]
    files = [file for n, a in answers.items() for file in figures.write_files(a, n, store.path / "figures", ["png"])]
    answer = next(iter(answers.values()))
    rows = connection_rows(answer)
    text = [*map(clean, paths), table(rows), *connection_remarks(answer), *map(clean, files)]
    say({**contents(answer, paths[0]), "rows": rows, "figures": files}, "\n".join(text), as_json)
    if nonfinite(answer):
        raise click.exceptions.Exit(FAILED)


align_options = [
    click.option(
        "--align", is_flag=True, help="Also with hidden units matched (weight matching, Ainsworth et al. 2023)."
    ),
    click.option(
        "--permutations", type=RUN, help="JSON file that says which axes belong to which units; found if not."
    ),
]


measuring_options = [
    click.option("--data", help=f"Other data than the runs' own: {DATA}."),
    click.option("--examples", type=click.IntRange(min=1), help="Use so many examples, a fixed random subset."),
    click.option("--device", help="cpu, cuda, cuda:1, ...; cpu if left out."),
    click.option("--executor", default="serial", metavar="serial|processes|processes:N|dask:ADDRESS"),
    json_option,
]


@cli.command("path")
@click.argument("a", type=RUN)
@click.argument("b", type=RUN)
@click.option("--kind", type=click.Choice(["line", "arc"]), default="line", help="Straight, or Keskar's arc.")
@click.option("--points", default=25, help="Places between A and B that are measured first.")
@click.option("--reach", type=Value(tuple[float, float]), default=(0.0, 1.0), help="First and last place, as -1,2.")
@click.option("--refine", default=2, help="Rounds in which the places around the highest points are halved.")
@with_options(align_options)
@click.option("--out", type=RUN, help="Folder of the answer; that of A if left out.")
@with_options(measuring_options)
def path_from_a_to_b(
    a: Path,
    b: Path,
    align: bool,
    permutations: Path | None,
    out: Path | None,
    executor: str,
    as_json: bool,
    **values: Any,
) -> None:
    """Loss and error on the way from run A to run B, BatchNorm recalibrated at each point, and the barrier."""
    import torch

    from landscape.measure import answer_name, ask
    from landscape.paths.rows import path_rows
    from models.joining import path_between, stored_metrics
    from models.opened import open_run

    torch.set_num_threads(1)  # more are slower on small networks, and move the last bits
    settings = {name: values.pop(name) for name in ("kind", "points", "reach", "refine")}
    probe, objective = path_between([a, b], align, permutations, settings, **chosen_options(values))
    store = new_store(out or a)
    with progress_bar(a.name) as progress:
        answer = ask(probe, objective, store, executor, progress)
    rows = path_rows(answer, [stored_metrics(open_run(run)) for run in (a, b)] if values["data"] is None else ())
    tell_drawn(store, answer_name(probe, objective), answer, rows, as_json)


@cli.command()
@runs_argument
@click.option("--kind", type=click.Choice(["line", "arc"]), default="line", help="Straight, or Keskar's arc.")
@click.option("--points", default=11, help="Places on each path.")
@with_options(align_options)
@click.option("--out", type=RUN, required=True, help="Folder of the answer.")
@with_options(measuring_options)
def barriers(
    runs: tuple[Path, ...],
    align: bool,
    permutations: Path | None,
    out: Path,
    executor: str,
    as_json: bool,
    **values: Any,
) -> None:
    """The barrier between all pairs of RUNS, or of the runs below a folder, grouped by the factors that differ."""
    import torch

    from landscape.measure import answer_name, ask
    from landscape.paths.rows import group_rows
    from models.joining import matrix_of

    torch.set_num_threads(1)  # more are slower on small networks, and move the last bits
    settings = {name: values.pop(name) for name in ("kind", "points")}
    probe, objective = matrix_of(runs, align, permutations, settings, **chosen_options(values))
    store = new_store(out)
    with progress_bar(out.name) as progress:
        answer = ask(probe, objective, store, executor, progress)
    tell_drawn(store, answer_name(probe, objective), answer, group_rows(answer), as_json)


@cli.command(cls=ConfigCommand)
@click.option("--steps", type=Value(tuple[int, ...]), required=True, help="Steps to fork after, as 0,50,300.")
@click.option("--seeds", default=3, help="Trunks, with seeds from that of the configuration on.")
@click.option("--copies", default=2, help="Ways on from each fork, with other orders of the examples.")
@click.option("--points", default=25, help="Places on the line between two ends.")
@click.option("--out", type=RUN, required=True, help="Folder of the answer and of all its runs.")
@executor_option
@json_option
def fork(
    steps: tuple[int, ...],
    seeds: int,
    copies: int,
    points: int,
    out: Path,
    executor: str,
    as_json: bool,
    **factors: Any,
) -> None:
    """Linear-interpolation instability: train to a step, go on in several ways, and look at the line between them."""
    from models.config import RunConfig
    from models.forking import Forks, fork_rows

    forks = Forks(RunConfig(**factors), steps, seeds, copies, points)
    with progress_bar(out.name) as progress:
        answer = forks(out, executor, progress)
    found = {name: number(answer[name].sel(metric="error").item()) for name in ("stable_from", "spearman")}
    remark = "training error: " + ", ".join(f"{name} {value}" for name, value in found.items())
    tell_drawn(new_store(out), forks.name, answer, fork_rows(answer), as_json, [remark])
