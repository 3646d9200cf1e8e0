"""Commands that ask a question of a network."""

from __future__ import annotations

from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import click

from commands.options import (
    DATA,
    RUN,
    GroupedCommand,
    chosen_options,
    json_option,
    objective_options,
    options_of,
    run_argument,
    runs_argument,
)
from commands.output import say, saying
from commands.program import BAD_INPUT, DONE, FAILED, Failure, cli, progress_bar
from landscape.naming import named_object
from landscape.tables import comparison_table, contents, nonfinite, number, probe_rows, summary, table, unfinished
from landscape.text import clean

if TYPE_CHECKING:
    from landscape import Objective
    from landscape.doctor import Finding
    from models.opened import Run


class ProbeGroup(click.Group):
    """`probe NAME RUN...`: a built-in probe, or `package.module:Class` of a user."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The built-in probes."""
        from landscape.probes import BUILT_IN

        return sorted(BUILT_IN)

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        """Build the command of a probe from its fields."""
        known = self.list_commands(ctx)
        if name not in known and ":" not in name:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ";"
            raise Failure(
                f"unknown probe {name!r}{hint} choose {', '.join(known)} or write package.module:Class",
                BAD_INPUT,
            )
        return probe_command(name)


@cli.group(cls=ProbeGroup, subcommand_metavar="NAME|PACKAGE.MODULE:CLASS [OPTIONS] RUN...")
def probe() -> None:
    """Ask one question of a trained network."""


def probe_command(name: str) -> click.Command:
    """Make the command of one probe: its fields, then how the objective is evaluated."""
    from landscape.probes import BUILT_IN

    cls = named_object(BUILT_IN.get(name, name))
    own = options_of(cls, "The question")
    taken = {option.name for option in own}
    reserved = taken & {"runs", "executor", "threads", "as_json", "json"}
    if reserved:
        raise ValueError(f"{name} has a field {min(reserved)!r}, a word of the command line itself; rename the field")
    for option in own:
        if option.name == "directions":
            option.help = (
                f"{option.help} Here also pca, of the run's trajectory; to:RUN, toward another run; "
                "to:RUN,RUN, the plane through three."
            )

    def ask_runs(runs: tuple[Path, ...], **values: Any) -> None:
        configuration = {field: values.pop(field) for field in taken}
        ask_all(cls, configuration, runs, **values)

    help_text = (cls.__doc__ or "").strip().split("\n\n")[0]
    common = [option for option in objective_options() if option.name not in taken]
    argument = click.Argument(["runs"], nargs=-1, required=True, type=RUN)
    return GroupedCommand(name, params=[argument, *own, *common], callback=ask_runs, help=help_text)


def ask_all(
    cls: type,
    values: dict[str, Any],
    runs: tuple[Path, ...],
    executor: str,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Ask a probe of several runs, print each answer; exit code 5 where points failed or are not finite."""
    import torch

    from landscape.execution import open_executor
    from landscape.measure import answer_name, ask
    from models.opened import open_run
    from models.planes import objective_and_probe

    torch.set_num_threads(threads or 1)
    asked = []
    for run in map(open_run, runs):
        objective, probe = objective_and_probe(cls(**values), run, **chosen_options(options))
        asked.append((probe, objective, run.store))
    bad = 0
    with saying(as_json, several=len(runs) > 1) as say, open_executor(executor) as engine:
        for probe, objective, store in asked:
            with progress_bar(store.path.name) as progress:
                answer = ask(probe, objective, store, executor=engine, progress=progress, threads=threads)
            bad += nonfinite(answer) + unfinished(answer)
            path = store.path / f"{answer_name(probe, objective)}.h5"
            say(contents(answer, path), f"{clean(path)}\n{indent(summary(answer), '  ')}")
    if bad:
        raise click.exceptions.Exit(FAILED)


def objective_of(run: Run, **options: Any) -> Objective:
    """Build the objective of a run from the command's options; what was left out keeps its default."""
    return run.objective(**chosen_options(options))


@cli.command()
@run_argument
@click.option("--examples", default=512, type=click.IntRange(min=1), help="Size of the batch.")
@click.option("--k", default=3, type=click.IntRange(min=1), help="Eigenvalues to compare.")
@click.option("--tol", default=1e-3, help="Allowed difference, relative to the largest eigenvalue.")
@json_option
@click.pass_context
def verify(ctx: click.Context, run: Path, examples: int, k: int, tol: float, as_json: bool) -> None:
    """Compute eigenvalues and trace here and with the package pyhessian, on the same batch."""
    from torch.nn.functional import cross_entropy

    from landscape.verify import verify
    from models.opened import open_run

    opened = open_run(run)
    found = verify(opened.model(), opened.data().train, cross_entropy, examples=examples, k=k, tol=tol)
    agree = all(comparison.agrees for comparison in found)
    numbers = [{**asdict(c), "difference": c.difference, "agrees": c.agrees} for c in found]
    verdict = "the two packages agree" if agree else "the two packages DISAGREE"
    say({"comparisons": numbers, "agree": agree}, f"{comparison_table(numbers)}\nverdict: {verdict}", as_json)
    ctx.exit(DONE if agree else FAILED)


@cli.command()
@click.argument("run", type=RUN, required=False)
@click.option("--model", metavar="PACKAGE.MODULE:FACTORY", help="A function that builds a network, instead of a RUN.")
@click.option("--data", help=f"{DATA}, together with --model.")
@json_option
@click.pass_context
def doctor(ctx: click.Context, run: Path | None, model: str | None, data: str | None, as_json: bool) -> None:
    """Look at this machine, and at a run or a model: can it be measured?"""
    from landscape.doctor import PROBLEM, environment

    findings = environment()
    if run is not None or model is not None:
        findings += examine_network(run, model, data)
    rows = [asdict(finding) for finding in findings]
    say(rows, table(rows), as_json)
    ctx.exit(BAD_INPUT if any(row["status"] == PROBLEM for row in rows) else DONE)


class LinearProbesCommand(GroupedCommand):
    """`linear-probes`: its options are the fields of LinearProbes, read when they are needed."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The fields, then the options declared here."""
        from models.linear_probes import LinearProbes

        return [*options_of(LinearProbes, "The question"), *super().get_params(ctx)]


@cli.command("linear-probes", cls=LinearProbesCommand)
@runs_argument
@click.option("--data", help=f"Other data than the run's own: {DATA}.")
@json_option
def linear_probes(runs: tuple[Path, ...], data: str | None, as_json: bool, **values: Any) -> None:
    """Fit linear classifiers on what enters each layer: where the classes become separable, and what transfers."""
    from models.linear_probes import LinearProbes, ask_linear_probes
    from models.opened import open_run

    probes = LinearProbes(**values)
    with saying(as_json, several=len(runs) > 1) as say:
        for run in runs:
            with progress_bar(run.name) as progress:
                name, answer = ask_linear_probes(probes, open_run(run), data, run, progress)
            path = run / f"{name}.h5"
            rows = probe_rows(answer)
            own, chance = (number(answer[name].item()) for name in ("network_accuracy", "chance"))
            text = f"{clean(path)}\n{indent(table(rows), '  ')}\n  network itself {own}, chance {chance}"
            say({**contents(answer, path), "rows": rows}, text)


def examine_network(run: Path | None, model: str | None, data: str | None) -> list[Finding]:
    """Look at a run, or at a network that is not a run yet."""
    from torch.nn.functional import cross_entropy

    from landscape.doctor import examine
    from models.data import load_data
    from models.opened import make_network, open_run

    if run is not None:
        opened = open_run(run)
        return examine(opened.model(), opened.data().train, cross_entropy)
    if model is None or data is None:
        raise click.UsageError("give a RUN, or both --model and --data")
    return examine(make_network(model), load_data(data).train, cross_entropy)
