"""Commands that average weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from commands.folders import refuse_twice, told_apart
from commands.options import RUN, GroupedCommand, executor_option, json_option, options_of, runs_argument
from commands.output import say
from commands.program import cli, progress_bar
from landscape.fields import fields_of
from landscape.tables import contents, number, table
from landscape.text import clean


@cli.command()
@runs_argument
@click.option(
    "--method",
    required=True,
    metavar="METHOD",
    help="Of the snapshots of one run swa (swa:start=0.75), lawa:K, ema:DECAY or polyak, as for train --average; of "
    "several runs soup or greedy-soup.",
)
@click.option("--out", type=RUN, required=True, help="Folder of the run that is made, for example results/avg.")
@json_option
def average(runs: tuple[Path, ...], method: str, out: Path, as_json: bool) -> None:
    """Average the weights of one run's snapshots, or of several runs, into a run of its own.

    BatchNorm is measured again on the training split. The new folder is a run to every other command.
    """
    from models.merging import average_runs
    from models.opened import open_run

    refuse_twice(runs)
    opened = {name: open_run(run) for name, run in zip(told_apart(runs), runs, strict=True)}
    made = average_runs(opened, method, out)
    found = {"entered": made.about["entered"], **made.metrics}
    lines = [
        f"  entered: {clean(', '.join(found['entered']))}",
        *(f"  {n}: {number(v)}" for n, v in made.metrics.items()),
    ]
    say({"run": str(out), **found}, "\n".join([clean(out), *lines]), as_json)


class SwaCommand(GroupedCommand):
    """`swa`: the fields of the study, then those of its runs but for what it sets itself."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The study, the configuration, then the options declared here."""
        from models.config import RunConfig
        from models.swa import SET_HERE, AveragingStudy

        configuration = [option for option in options_of(RunConfig, "Configuration") if option.name not in SET_HERE]
        return [*options_of(AveragingStudy, "The comparison"), *configuration, *super().get_params(ctx)]


@cli.command(cls=SwaCommand)
@click.option("--out", type=RUN, required=True, help="Folder of the answer, its figures and all its runs.")
@executor_option
@json_option
def swa(out: Path, executor: str, as_json: bool, **values: Any) -> None:
    """Stochastic weight averaging against the last iterate and against SGD that has decayed, over seeds.

    Trains, or takes what is trained; then measures averages (SWA, cyclic SWA, EMA, LAWA), the plane of three iterates,
    lines and random rays.
    """
    from landscape import figures
    from models.config import RunConfig
    from models.swa import AveragingStudy, rows

    own = {field.name: values.pop(field.name) for field in fields_of(AveragingStudy) if field.name in values}
    study = AveragingStudy(RunConfig(**values), **own)
    with progress_bar(out.name) as progress:
        answer = study(out, executor, progress)
    path = out / f"{study.name}.h5"
    drawn = figures.draw(answer, study.name).items()
    files = [figures.save(drawing, out / "figures" / f"{study.name}-{kind}") for kind, drawing in drawn]
    networks, compared = rows(answer)
    text = [clean(path), table(networks), "less, paired by seed:", table(compared)]
    say({**contents(answer, path), "figures": [str(f) for made in files for f in made]}, "\n".join(text), as_json)
