"""Commands that train many runs over chosen factors."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import click

from commands.options import RUN, SearchCommand, json_option
from commands.output import say
from commands.program import BAD_INPUT, FAILED, Failure, cli
from landscape.tables import contents
from landscape.text import clean

if TYPE_CHECKING:
    from models.sweep import Sweep

MOST_RUNS = 1000  # that are trained without --yes


@cli.command(cls=SearchCommand)
@click.argument("plan", type=RUN, required=False)
@click.option("--seeds", type=int, metavar="N", help="Seeds 0 to N - 1; --seed takes a list instead.")
@click.option(
    "--probe",
    "asked",
    multiple=True,
    metavar="NAME:FIELD=VALUE,...",
    help="What to ask of each finished run, as in spectrum:k=1 or package.module:Class; may be given several times.",
)
@click.option("--out", type=RUN, help="Folder of all runs; of a plan its own `out`, or results/ and its name.")
@click.option("--dry-run", is_flag=True, help="Show the plan, what is done of it, and what the rest will cost.")
@click.option("--retry-failed", is_flag=True, help="Try again what has failed.")
@click.option(
    "--stack",
    type=click.Choice(["auto", "never", "always"]),
    help="Whether runs that differ in seed, init or rates alone are trained together: auto (where that is faster, the "
    "default), never or always (where it is possible); the same numbers up to rounding. --dry-run tells which.",
)
@click.option("--yes", is_flag=True, help=f"Train more than {MOST_RUNS} runs.")
@click.option(
    "--executor",
    default="processes",
    metavar="processes|processes:N|serial|dask:ADDRESS",
    help="Where runs are trained: in processes (one a core, or N), here, or by the workers of a Dask scheduler.",
)
@json_option
def sweep(plan: Path | None, out: Path | None, dry_run: bool, yes: bool, as_json: bool, **options: Any) -> None:
    r"""Train every combination of values, and ask probes of each run, as one job that goes on where it stopped.

    Options take values by commas (by semicolons where a value has commas itself) or a range with a number of values:
    --optimizer sgd,adam --batch-size 32,512 --lr 1e-3..1e-1/5 --seeds 8. Runs that are in the folder already, by their
    configuration, are not trained again. No snapshots are kept unless --snapshots says so.

    A PLAN is a TOML file, instead of these options:

    \b
      out = "results/plan"                   # if left out, results/ and the name of the file
      seeds = 8                              # 0 to 7, or a list
      probes = ["spectrum:k=1", "sharpness"]
      stack = "auto"                         # or never, always
      [fixed]                                # one value a field
      data = "mnist1d"
      model = "mlp"
      [sweep]                                # crossed with each other: lists, or ranges as text
      batch_size = [32, 512]
      width = "16..256/5"
      [[runs]]                               # fields that go together; each run is crossed with all others
      optimizer = "sgd"
      lr = 0.1
      [[runs]]
      optimizer = "adam"
      lr = 0.001

    Open the results in Python with landscape.open_sweep(FOLDER). docs/sweeps.md says more.
    """
    executor, retry_failed = options.pop("executor"), options.pop("retry_failed")
    wanted, folder = read_sweep(plan, out, yes or dry_run, **options)
    if dry_run:
        value, text = sweep_plan(wanted, folder, retry_failed)
        say(value, text, as_json)
        return
    from landscape.sweep_tables import counts_of, sweep_text, sweep_value
    from models.sweep.display import Display

    answer = wanted(folder, executor, watch=Display(), retry_failed=retry_failed)
    path = folder / f"{wanted.name}.h5"
    say({"file": str(path), **sweep_value(answer)}, f"{clean(path)}\n{sweep_text(answer)}", as_json)
    if counts_of(answer)["missing"] or (answer["error"] != "").any():
        raise click.exceptions.Exit(FAILED)


def read_sweep(
    plan: Path | None,
    out: Path | None,
    is_sure: bool,
    seeds: int | None,
    asked: tuple[str, ...],
    stack: Any,
    **texts: str | None,
) -> tuple[Sweep, Path]:
    """Read a sweep from a file or from options, and its folder."""
    from models.sweep import read_file, read_options

    given = {name: text for name, text in texts.items() if text is not None}
    if plan is None:
        if out is None:
            raise click.UsageError("give --out, the folder of the sweep, for example --out results/sweep")
        written = read_options(given, seeds, asked)
    elif given or seeds is not None:
        name = next(iter([*given, "seeds"])).replace("_", "-")
        raise click.UsageError(f"--{name} and a plan are two ways to say what is trained; write it into {plan}")
    else:
        written = read_file(plan, asked)
    if written.num_runs > MOST_RUNS and not is_sure:
        raise Failure(
            f"that makes {written.num_runs:,} runs; look at them with --dry-run, and give --yes to train them",
            BAD_INPUT,
        )
    written = replace(written, stack=stack or written.stack)
    folder = out or written.out
    assert folder is not None
    return written.sweep, folder


def sweep_plan(wanted: Sweep, folder: Path, retry_failed: bool) -> tuple[dict[str, Any], str]:
    """Tell what a sweep would do, and what that would cost: for a script, and for a reader."""
    from landscape.sweep_tables import dims_text, duration
    from models.sweep import estimate

    left, counts = wanted.left(folder, retry_failed)
    cost = estimate(folder, [config.hash for config in wanted.configs], left)
    total = cost.seconds * (counts.total - counts.done)
    value = {"dims": wanted.plan.dims, "runs": counts.total, "done": counts.done, "left": counts.total - counts.done}
    value |= {"stacks": [[config.hash for config in task.configs] for task in left if len(task.configs) > 1]}
    value |= {"probes": wanted.probes, "seconds_of_a_run": cost.seconds, "seconds_left": total, "source": cost.source}
    text = [
        f"{clean(folder)}: {counts.total} runs, {counts.done} done, {value['left']} left",
        dims_text(wanted.plan.dims),
        *(f"  asked of each: {clean(probe)}" for probe in wanted.probes),
        *stacks_of(wanted),
        f"  training the rest takes about {duration(total)} on one core, {duration(cost.seconds)} a run, by "
        f"{clean(cost.source)}{'; probes come on top' if wanted.probes else ''}",
    ]
    return value, "\n".join(text)


def stacks_of(wanted: Sweep) -> list[str]:
    """Say which runs of a sweep are trained together, and why others are not."""
    stacks = [len(batch.configs) for batch in wanted.batches if len(batch.configs) > 1]
    alone = Counter(batch.reason for batch in wanted.batches if batch.reason)
    together = [f"  trained together: {sum(stacks)} runs in {len(stacks)} stacks"] if stacks else []
    return [*together, *(f"  trained alone: {count}, since {clean(reason)}" for reason, count in alone.items())]


@cli.command()
@click.argument("sweep", type=RUN)
@click.option("--metric", default="test_accuracy", help="Any number a run: test_loss, wall_seconds, ...")
@click.option(
    "--pairing",
    type=click.Choice(["auto", "seed", "none"]),
    default="auto",
    help="Compare within each seed (what a seed does to all cells cancels), or not; auto: where enough are complete.",
)
@click.option("--drop-incomplete", is_flag=True, help="Leave out levels with a cell where no run finished.")
@click.option("--log", is_flag=True, help="Of the logarithm of the metric, where it spans orders of magnitude.")
@json_option
def effects(sweep: Path, metric: str, pairing: Any, drop_incomplete: bool, log: bool, as_json: bool) -> None:
    """Tell what each factor of a SWEEP, and each pair, does to a metric, with intervals over seeds; draw it."""
    from landscape import figures
    from landscape.effect_tables import ask_effects, effect_rows, effects_text, source_rows

    name, answer, runs = ask_effects(sweep, metric, pairing, drop_incomplete, log)
    drawn = {f"{name}-effects": figures.effect_forest(answer), **figures.draw_sweep(runs, [metric])}
    files = [str(f) for kind, one in drawn.items() for f in figures.save(one, sweep / "figures" / kind)]
    path = sweep / f"{name}.h5"
    rows = {"sources": source_rows(answer), "effects": effect_rows(answer, answer.sizes["effect"])}
    text = f"{clean(path)}\n{indent(effects_text(answer), '  ')}"
    say({**contents(answer, path), **rows, "figures": files}, text, as_json)
