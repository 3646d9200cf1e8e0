"""The command that races optimizers over toys."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from commands.folders import new_store
from commands.options import RUN, GroupedCommand, json_option, options_of
from commands.output import say
from commands.program import cli, progress_bar
from landscape.tables import contents, table
from landscape.text import clean


class RaceCommand(GroupedCommand):
    """`race`: its options are the fields of the question, read when they are needed."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The options of a race, then those declared here."""
        from models.toys import Race

        return [*options_of(Race, "The race"), *super().get_params(ctx)]


@cli.command(cls=RaceCommand)
@click.option("--list", "as_list", is_flag=True, help="List the toys, with their options and sources.")
@click.option(
    "--format",
    "formats",
    default="png,html,gif",
    help="Of its figures, as for `figure`; mp4 needs ffmpeg. Several by commas.",
)
@click.option("--out", type=RUN, default=Path("results/race"), help="Folder for the answer and its figures.")
@json_option
def race(as_list: bool, formats: str, out: Path, as_json: bool, **fields: Any) -> None:
    """Race optimizers over a toy: a loss of two parameters whose minima and saddles are known.

    They are the optimizers of `train`, step by step. A path escapes when it is farther than 1 from a saddle along the
    directions that lead down; it reaches a minimum when it is closer to it than the tolerance.
    """
    from landscape import figures
    from landscape.provenance import provenance
    from models.toys import Race, rows

    if as_list:
        list_toys(as_json)
        return
    wanted = [word.strip() for word in formats.split(",") if word.strip()]
    figures.require_formats(wanted)
    question, store = Race(**fields), new_store(out)
    path = store.path / f"{question.name}.h5"
    if not path.exists():
        with store.lock(), store.journal(question.name) as journal, progress_bar("race") as progress:
            store.write(question.name, question.answer(journal, progress).assign_attrs(provenance()))
            journal.discard()
    answer = store.read(question.name)
    files = figures.write_files(answer, question.name, store.path / "figures", wanted)
    text = [clean(path), table(rows(answer)), "\n".join(map(clean, files))]
    say({**contents(answer, path), "rows": rows(answer), "figures": list(map(str, files))}, "\n\n".join(text), as_json)


def list_toys(as_json: bool) -> None:
    """Print the toys that optimizers race over."""
    from models.factors import factors
    from models.toys import TOYS

    rows = [{**asdict(toy), "options": ",".join(toy.options)} for toy in factors([TOYS])]
    say(rows, table([{name: value for name, value in row.items() if name != "kind"} for row in rows]), as_json)
