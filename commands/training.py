"""Commands that train or bring in networks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from textwrap import indent
from typing import Any

import click

from commands.folders import new_store
from commands.options import DATA, RUN, ConfigCommand, json_option
from commands.output import say, whole_bytes
from commands.program import BAD_INPUT, Failure, cli, progress_bar
from landscape.fields import parse
from landscape.tables import contents, continual_table, table
from landscape.text import clean


@cli.command(cls=ConfigCommand)
@click.option("--out", type=RUN, required=True, help="Folder of the run, for example results/r0.")
@json_option
def train(out: Path, as_json: bool, **factors: Any) -> None:
    """Train a network and leave everything it did in a folder."""
    from models.config import RunConfig
    from models.run import train

    with progress_bar(out.name) as progress:
        found = train(RunConfig(**factors), out, progress=progress)
    lines = [clean(out), *(f"  {name}: {whole_bytes(name, value)}" for name, value in found.items())]
    say({"run": str(out), **found}, "\n".join(lines), as_json)


@cli.command(cls=ConfigCommand)
@click.option("--tasks", required=True, metavar="classes:N|permuted:N", help="N tasks: shares of classes, or orders.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    default=("none",),
    metavar="METHOD",
    help="none, anchors (l2-sp:STRENGTH, ewc:STRENGTH, rehearsal:SHARE, distill:STRENGTH, several joined by +), "
    "freeze:NAMES, or joint (all classes so far at once); may be given several times.",
)
@click.option("--seeds", help="Several seeds by commas; that of the configuration if left out.")
@click.option("--out", type=RUN, required=True, help="Folder of the answer and of every training.")
@json_option
def continual(
    tasks: str, methods: tuple[str, ...], seeds: str | None, out: Path, as_json: bool, **factors: Any
) -> None:
    """Train on tasks one after the other, by several methods, and measure what is forgotten."""
    from models.config import RunConfig
    from models.transfer.continual import answer_continual, sequence

    config = RunConfig(**factors)
    chosen = parse(seeds, tuple[int, ...]) if seeds else (config.seed,)
    plan = sequence(tasks, config, methods, chosen)
    with progress_bar(out.name) as progress:
        answer, path = answer_continual(plan, new_store(out), progress)
    say(contents(answer, path), f"{clean(path)}\n{indent(continual_table(answer), '  ')}", as_json)


@cli.command()
@click.argument("kinds", nargs=-1, metavar="[KIND]...")
@click.option("--markdown", is_flag=True, help="Write the page docs/factors.md.")
@json_option
def factors(kinds: tuple[str, ...], markdown: bool, as_json: bool) -> None:
    """List what a run can be made of: models, norms, optimizers, schedules, ..., with options and sources."""
    from models.factors import REGISTRIES, factors, page

    known = {registry.kind: registry for registry in REGISTRIES}
    if unknown := sorted(set(kinds) - set(known)):
        raise Failure(f"unknown kind {unknown[0]!r}; choose {', '.join(known)}", BAD_INPUT)
    chosen = [registry for kind, registry in known.items() if not kinds or kind in kinds]
    if markdown:
        click.echo(page(chosen), nl=False)
        return
    rows = [{**asdict(factor), "options": ",".join(factor.options)} for factor in factors(chosen)]
    say(rows, table(rows), as_json)


@cli.command("import")
@click.argument("file", type=RUN)
@click.option("--model", required=True, metavar="PACKAGE.MODULE:FACTORY", help="A function that builds the network.")
@click.option("--data", required=True, help=f"{DATA}.")
@click.option("--out", type=RUN, required=True, help="Folder of the run to make.")
@click.option(
    "--standardize",
    default="none",
    help="Inputs as the network was trained on: none, as they come (images 0 to 1), or channel, pixel, pca or whiten "
    "by the training split's statistics. Other constants belong into the network.",
)
@click.option("--prefix", help="What stands before every name in the file; found by itself if left out.")
@json_option
def import_(file: Path, model: str, data: str, out: Path, standardize: str, prefix: str | None, as_json: bool) -> None:
    """Bring in trained weights: .safetensors, .pt or a Lightning .ckpt. No code in the file is ever run."""
    from models.opened import import_weights

    run = import_weights(file, model, data, out, standardize=standardize, prefix=prefix)
    found = run.test_metrics()
    stripped = f" (names without {run.about['prefix']!r})" if run.about["prefix"] else ""
    say(
        {"run": str(run.folder), **run.about, **found},
        f"{clean(run.folder)}: weights of {clean(file.name)} fit {clean(model)}{stripped}\n"
        f"  on the test data, standardize={standardize}: loss {found['loss']:.4g}, accuracy {found['accuracy']:.4g}; "
        "if that is not what you know of this network, its inputs were prepared in another way",
        as_json,
    )
