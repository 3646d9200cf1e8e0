"""Commands that compare runs, or let them predict together."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import click

from commands.folders import new_store, refuse_twice, told_apart
from commands.options import RUN, GroupedCommand, json_option, objective_options, options_of, runs_argument
from commands.output import say
from commands.probing import objective_of
from commands.program import cli, progress_bar
from landscape.fields import fields_of
from landscape.tables import contents, correlation_table, jsonable, report_table, scalars, summary, table
from landscape.text import clean

if TYPE_CHECKING:
    from landscape.sharpness import SharpnessReport
    from models.opened import Run


class SharpnessCommand(GroupedCommand):
    """`sharpness-report`: its options are the fields of the probe Sharpness, then how the objective is evaluated."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Options declared here, those of the probe, and those of every probe."""
        from landscape.probes.sharpness import Sharpness

        return [*super().get_params(ctx), *options_of(Sharpness, "The measures"), *objective_options()]


@cli.command("sharpness-report", cls=SharpnessCommand)
@runs_argument
@click.option(
    "--strata",
    default="",
    metavar="FIELD,...",
    help="Fields of the runs, such as lr or batch_size+optimizer, within whose values correlations are also taken.",
)
@click.option(
    "--out", type=RUN, help="Folder for the answer and its figures; sharpness-report beside the runs if left out."
)
def sharpness_report(
    runs: tuple[Path, ...],
    strata: str,
    out: Path | None,
    executor: str,
    threads: int | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Put every measure of sharpness of several runs beside their test error, with rank correlations.

    Runs that have been measured with the same options are not measured again.
    """
    import torch

    from landscape import figures
    from landscape.measure import answer_name, ask
    from landscape.probes.sharpness import Sharpness
    from landscape.provenance import provenance
    from landscape.sharpness import SharpnessReport, generalization
    from models.opened import open_run

    torch.set_num_threads(threads or 1)
    runs = tuple(sorted(runs, key=Path.absolute))  # so that their order makes no other question
    wanted = SharpnessReport(strata=tuple(part.strip() for part in strata.split(",") if part.strip()))
    probe = Sharpness(**{name: values.pop(name) for name in [field.name for field in fields_of(Sharpness)]})
    opened, rows, answers, asked = [open_run(run) for run in runs], [], [], []
    wanted.require_runs([{"run": name, **run_fields(run)} for name, run in zip(told_apart(runs), opened, strict=True)])
    for name, run in zip(told_apart(runs), opened, strict=True):
        with progress_bar(run.folder.name) as progress:
            objective = objective_of(run, **values)
            answer = ask(probe, objective, run.store, executor=executor, progress=progress)
        rows.append({"run": name, **run_fields(run), **generalization(run.metrics, scalars(answer))})
        answers.append(answer)
        asked.append(answer_name(probe, objective))
    report = wanted(rows, answers).assign_attrs(provenance())
    store = new_store(out or Path(os.path.commonpath([run.absolute().parent for run in runs])) / "sharpness-report")
    title = report_name(wanted, rows, asked)
    path = store.write(title, report)
    drawn = figures.draw(report, title).items()
    files = [figures.save(drawing, store.path / "figures" / f"{title}-{kind}") for kind, drawing in drawn]
    text = [clean(path), report_table(report), correlation_table(report), clean(report.attrs["remark"], limit=1000)]
    say({**contents(report, path), "figures": [str(f) for made in files for f in made]}, "\n\n".join(text), as_json)


class EnsembleCommand(GroupedCommand):
    """`ensemble`: its options are the fields of Ensemble, read when they are needed."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Options declared here, then those of an ensemble."""
        from models.ensembles import Ensemble

        return [*super().get_params(ctx), *options_of(Ensemble, "The ensemble")]


@cli.command(cls=EnsembleCommand)
@runs_argument
@click.option(
    "--out",
    type=RUN,
    help="Folder for the answer and its figures; that of the run, or ensemble beside several runs, if left out.",
)
@click.option("--device", default="cpu", help="Where to predict: auto, cpu, cuda or cuda:N.")
@click.option("--threads", default=1, type=click.IntRange(min=1), help="Threads of torch.")
@json_option
def ensemble(runs: tuple[Path, ...], out: Path | None, device: str, threads: int, as_json: bool, **values: Any) -> None:
    """Average the predictions of runs, of snapshots or draws of one, and of views, and tell what that gains.

    Errors and calibration on the test split: of the members, of their average, and by the number of members.
    Intervals are over test examples, not over seeds.
    """
    import torch

    from landscape import figures
    from models.devices import find_device
    from models.ensembles import Ensemble, ask_ensemble
    from models.opened import open_run

    torch.set_num_threads(threads)
    refuse_twice(runs)
    wanted, home = Ensemble(**values), Path(os.path.commonpath([run.absolute().parent for run in runs]))
    opened = {name: open_run(run) for name, run in zip(told_apart(runs), runs, strict=True)}
    folder = out or (home / "ensemble" if len(runs) > 1 else runs[0])
    with progress_bar("ensemble") as progress:
        title, answer = ask_ensemble(wanted, opened, folder, find_device(device), progress)
    drawn = figures.draw(answer, title).items()
    files = [figures.save(drawing, folder / "figures" / f"{title}-{kind}") for kind, drawing in drawn]
    path = folder / f"{title}.h5"
    text = f"{clean(path)}\n{indent(summary(answer), '  ')}"
    say({**contents(answer, path), "figures": [str(f) for made in files for f in made]}, text, as_json)


def report_name(report: SharpnessReport, rows: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> str:
    """Name a report by everything its values depend on, as an answer is named: its fields, its runs, their answers."""
    text = json.dumps(jsonable([asdict(report), rows, answers]), sort_keys=True)
    return f"sharpness-report-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def run_fields(run: Run) -> dict[str, Any]:
    """What a run was trained with, by field; nothing for imported weights."""
    return run.config.to_dict() if run.config else {}


class DistancesCommand(GroupedCommand):
    """`distances`: its options are the fields of Distances, read when they are needed."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The fields, then the options declared here."""
        from models.distances import Distances

        return [*options_of(Distances, "The question"), *super().get_params(ctx)]


@cli.command(cls=DistancesCommand)
@runs_argument
@click.option("--out", type=RUN, help="Folder of the answer; that of the run, or distances beside several runs.")
@json_option
def distances(runs: tuple[Path, ...], out: Path | None, as_json: bool, **values: Any) -> None:
    """Compare runs, or the moments of one run, pair by pair: weights, angles, predictions, and their plane."""
    from landscape import figures
    from models.distances import Distances, ask_distances, distance_rows
    from models.opened import open_run

    refuse_twice(runs)
    opened = {name: open_run(run) for name, run in zip(told_apart(runs), runs, strict=True)}
    home = Path(os.path.commonpath([run.absolute().parent for run in runs]))
    folder = out or (home / "distances" if len(runs) > 1 else runs[0])
    with progress_bar("distances") as progress:
        name, answer = ask_distances(Distances(**values), opened, folder, progress)
    files = [
        str(file)
        for kind, one in figures.draw(answer, name).items()
        for file in figures.save(one, folder / "figures" / f"{name}-{kind}")
    ]
    path, rows = folder / f"{name}.h5", distance_rows(answer)
    say({**contents(answer, path), "rows": rows, "figures": files}, f"{clean(path)}\n{table(rows)}", as_json)
