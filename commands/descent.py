"""The command that measures double descent."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent
from typing import Any

import click

from commands.folders import new_store
from commands.options import RUN, SearchCommand, json_option
from commands.output import say
from commands.program import cli, progress_bar
from landscape.tables import contents, table
from landscape.text import clean


@cli.command("double-descent", cls=SearchCommand)
@click.option(
    "--axis", default="width", type=click.Choice(["width", "epochs", "samples", "noise"]), help="What varies."
)
@click.option("--seeds", type=click.IntRange(min=1), help="Repetitions; 100 of least-squares, else 8, if left out.")
@click.option("--dimension", default=100, type=click.IntRange(min=1), help="Of the Gaussian data of least-squares.")
@click.option("--ridge", help="Penalties of random-features to choose from on validation data, or none.")
@click.option("--tolerance", default=0.01, help="Training error at the interpolation threshold.")
@click.option("--format", "formats", default="png", help="Of the figures: pdf,png,svg; or none.")
@click.option("--out", type=RUN, default=Path("results/double-descent"), help="Folder of the answer and of its runs.")
@click.option(
    "--executor",
    metavar="serial|processes|processes:N|dask:ADDRESS",
    help="Where it is computed; processes for networks, serial for regressions, if left out.",
)
@json_option
def double_descent(out: Path, formats: str, as_json: bool, **options: Any) -> None:
    """Test loss and test error over width, epochs or samples, where training begins to fit everything.

    --model is mlp, cnn or any other network, random-features or least-squares; the sizes are the values of --width,
    --train-size or --epochs, the levels of noise those of --label-noise. Values by commas, or LOW..HIGH/COUNT.
    """
    from landscape import figures
    from models.descent import double_descent
    from models.descent.rows import descent_rows, descent_words

    wanted = [] if formats == "none" else formats.split(",")
    figures.require_formats(wanted)
    with progress_bar(out.name) as progress:
        path, answer = double_descent(new_store(out), progress=progress, **options)
    drawn = figures.write_files(answer, path.stem, out / "figures", wanted)
    rows, words = descent_rows(answer), descent_words(answer)
    text = "\n".join([clean(path), indent(table(rows), "  "), *(f"  {line}" for line in words), *map(clean, drawn)])
    say({**contents(answer, path), "rows": rows, "threshold": words, "figures": list(map(str, drawn))}, text, as_json)
