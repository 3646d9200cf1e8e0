"""Commands that find hyper-parameters."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from commands.options import RUN, ConfigCommand, SearchCommand, executor_option, json_option, with_options
from commands.output import say
from commands.program import cli, progress_bar
from landscape.tables import number, scalars, table
from landscape.text import clean

search_options = [
    click.option("--out", type=RUN, required=True, help="Folder of the answer and of all its runs."),
    click.option(
        "--objective", default="best-val-loss", help="best- or last-, val-loss or val-error; lower is better."
    ),
    click.option("--search-seed", default=0, type=click.IntRange(min=0), help="Of the draws and of the order."),
    executor_option,
    json_option,
]


@cli.group()
def tune() -> None:
    """Find hyper-parameters: a range test, searches, or a recipe of seven steps. Every trial is a run of its own."""


@tune.command("lr", cls=ConfigCommand)
@click.option("--lowest", default=1e-5, help="First learning rate.")
@click.option("--highest", default=10.0, help="Last learning rate.")
@click.option("--steps", default=200, help="At least so many optimizer updates.")
@click.option("--seeds", default=1, help="Trainings to average over.")
@click.option("--out", type=RUN, required=True, help="Folder of the answer and of its runs.")
@executor_option
@json_option
def tune_lr(
    lowest: float, highest: float, steps: int, seeds: int, out: Path, executor: str, as_json: bool, **factors: Any
) -> None:
    """Range test: the loss while the learning rate rises by equal factors."""
    from models.config import RunConfig
    from models.tuning import LrRange

    test = LrRange(RunConfig(**factors), lowest, highest, steps, seeds)
    with progress_bar(out.name) as progress:
        answer = test(out, executor, progress)
    found = scalars(answer)
    lines = [clean(out / f"{test.name}.h5"), *(f"  {name}: {number(value)}" for name, value in found.items())]
    say({"file": str(out / f"{test.name}.h5"), **found}, "\n".join(lines), as_json)


@tune.command("grid", cls=SearchCommand)
@with_options(search_options)
def tune_grid(**options: Any) -> None:
    """Train every combination of values, such as --lr 0.01,0.1 or --lr 1e-4..1e-1/7 (seven of a range)."""
    search_runs("grid", None, **options)


@tune.command("random", cls=SearchCommand)
@click.option("--trials", default=20, type=click.IntRange(min=1), help="How many runs.")
@click.option(
    "--sampler", default="random", type=click.Choice(["random", "tpe"]), help="tpe learns from the runs before."
)
@with_options(search_options)
def tune_random(trials: int, sampler: str, **options: Any) -> None:
    """Draw from values and ranges: --lr 1e-4..1e-1 (uniform in the logarithm), --momentum uniform:0..0.99."""
    search_runs(sampler, trials, **options)


@tune.command("recipe", cls=ConfigCommand)
@click.option("--out", type=RUN, required=True, help="Folder of all its runs.")
@executor_option
@json_option
def tune_recipe(out: Path, executor: str, as_json: bool, **factors: Any) -> None:
    """Seven steps from the initial loss to a tuned run, each with what it found; ends with the command to type."""
    from models.config import RunConfig
    from models.tuning import Recipe, Step

    def tell(step: Step) -> None:
        if not as_json:
            advice = [f"    -> {clean(step.advice)}"] if step.advice else []
            click.echo("\n".join([f"{step.number}. {step.title}: {step.status}", f"    {clean(step.found)}", *advice]))

    steps, best = Recipe(RunConfig(**factors))(out, executor, tell)
    command = shlex.join(best.command(str(out / "tuned")))
    say({"steps": [asdict(step) for step in steps], "command": command}, f"next: {command}", as_json)


def search_runs(
    sampler: Any,
    trials: int | None,
    out: Path,
    objective: Any,
    search_seed: int,
    executor: str,
    as_json: bool,
    **texts: str | None,
) -> None:
    """Search, and print the best trials."""
    from models.tuning import Search, Space, best_trials

    space = Space.read({name: text for name, text in texts.items() if text is not None})
    search = Search(space, sampler, trials, search_seed, objective)
    with progress_bar(out.name) as progress:
        answer = search(out, executor, progress)
    rows = best_trials(answer)
    path = out / f"{search.name}.h5"
    say({"file": str(path), "trials": rows}, f"{clean(path)}\n{table(rows)}", as_json)
