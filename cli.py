"""The command line: parses, builds, calls, stores, prints. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from textwrap import indent
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from landscape.fields import Field, fields_of, is_text, parse, type_name
from landscape.naming import named_object
from landscape.tables import (
    comparison_table,
    contents,
    continual_table,
    correlation_table,
    describe,
    jsonable,
    nonfinite,
    number,
    probe_rows,
    report_table,
    scalars,
    summary,
    table,
    unfinished,
)
from landscape.text import clean

if TYPE_CHECKING:
    from landscape import Objective, Store
    from landscape.diagnosis import Symptom
    from landscape.doctor import Finding
    from landscape.sharpness import SharpnessReport
    from landscape.store import StoreError
    from models.opened import Run
    from models.sweep import Sweep

# Exit codes; click's 2 is for wrong usage, and errors of the store bring their own, such as 75 for a locked run.
DONE, BAD_INPUT, DAMAGED, FAILED = 0, 3, 4, 5
RUN = click.Path(path_type=Path)
OF_SEVERAL_RUNS = (  # how the names of answers begin that are not about one run
    "barrier-matrix-",
    "connection-",
    "curve-plane-",
    "distances-",
    "double-descent-",
    "effects-",
    "ensemble-",
    "fork-",
    "lr-range-",
    "race-",
    "search-",
    "sharpness-report-",
    "swa-",
    "sweep-",
)
_MOST_BASINS = 20  # rows of a table
DATA = "digits, mnist1d, idx:DIR, npz:FILE or folder:DIR"


# --- errors, signals, progress -----------------------------------------------------------------------------


class Failure(click.ClickException):
    """An error a user can act on: one clear line, and an exit code that says which kind it is."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(clean(" ".join(message.split()), limit=2000))
        self.exit_code = exit_code


class Stopped(KeyboardInterrupt):
    """A signal asked us to stop."""

    def __init__(self, signum: int):
        self.signum = signum


@contextmanager
def stopping() -> Iterator[list[int]]:
    """Turn the first SIGINT or SIGTERM into `Stopped`; a second one ends the process at once."""
    received: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        for each in handlers:
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(signum)

    is_main = threading.current_thread() is threading.main_thread()
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM) if is_main}
    for signum in handlers:
        signal.signal(signum, stop)
    try:
        yield received
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def failure_of(error: Exception) -> Failure:
    """Give an error of the library its exit code; those of the store carry their own.

    What is wrong with the input is a ValueError, TypeError, OSError or ImportError; any other error came while
    computing, such as memory that ran out or a Hessian product that is not finite.
    """
    hint = " (--debug shows where)" if isinstance(error, TypeError) else ""
    code = FAILED if isinstance(error, RuntimeError | MemoryError) else BAD_INPUT
    return Failure(f"{str(error) or type(error).__name__}{hint}", getattr(error, "exit_code", code))


class Landscape(click.Group):
    """The program: every mistake of a user becomes one line, every stop says how to go on."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let --debug stand anywhere, for who adds it to a command that failed."""
        others = [argument for argument in args if argument != "--debug"]
        return super().parse_args(ctx, others if len(others) == len(args) else ["--debug", *others])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command and translate what it raises."""
        with stopping() as received:
            try:
                return super().invoke(ctx)
            except (click.ClickException, click.exceptions.Exit):
                raise
            # Lightning turns an interrupt into SystemExit(1), so the signal and not the exception decides.
            except BaseException as error:
                if received:
                    raise Failure(_how_to_go_on(received[0]), 128 + received[0]) from error
                known = (ValueError, TypeError, RuntimeError, OSError, ImportError, MemoryError)
                if ctx.params["debug"] or not isinstance(error, known):
                    raise
                raise failure_of(error) from error


def _how_to_go_on(signum: int) -> str:
    command = shlex.join(["landscape", *sys.argv[1:]])
    return f"stopped by {signal.Signals(signum).name}; what is finished is saved. To go on: {command}"


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[str, int, int], None] | None]:
    """Yield what draws a bar a stage, with the time left; None where no terminal is watching."""
    if not sys.stderr.isatty():
        yield None
        return
    bars: dict[str, Any] = {}
    reached: dict[str, int] = {}
    with ExitStack() as stack:

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                # What was saved earlier took no time now, so it would spoil the estimate of what is left.
                saved = f", {done} saved before" if done else ""
                bar = click.progressbar(
                    length=total - done,
                    label=f"{label}: {stage}{saved}",
                    file=sys.stderr,
                    show_pos=True,
                    update_min_steps=max(1, total // 500),
                )
                bars[stage], reached[stage] = stack.enter_context(bar), done
            bars[stage].update(done - reached[stage])
            reached[stage] = done

        yield advance


# --- dataclass fields become options -----------------------------------------------------------------------


class Value(click.ParamType):
    """An option's value, of whatever type the dataclass field has."""

    def __init__(self, annotation: Any):
        self.annotation, self.name = annotation, type_name(annotation)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read what was typed."""
        try:
            return parse(value, self.annotation) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


class GroupedOption(click.Option):
    """An option that knows under which heading the help lists it."""

    def __init__(self, *args: Any, group: str, **settings: Any):
        super().__init__(*args, **settings)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose help lists its options under headings, in their order."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section a heading."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                sections.setdefault(getattr(param, "group", "Options"), []).append(record)
        sections["Options"] = sections.pop("Options")
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class ConfigCommand(GroupedCommand):
    """`train`: its options are the fields of RunConfig, read when they are needed."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The options of a run's configuration, then those declared here."""
        from models.config import RunConfig

        return [*options_of(RunConfig, "Configuration"), *super().get_params(ctx)]


class SearchCommand(GroupedCommand):
    """`tune grid`, `tune random` and `sweep`: each field of RunConfig takes values or a range, as text."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The fields of a run, then the options declared here."""
        return [*self._fields, *super().get_params(ctx)]

    @cached_property
    def _fields(self) -> list[click.Parameter]:
        """Made once, since click finds out by identity in which order options were given."""
        from models.config import RunConfig

        return [_text_option(field) for field in fields_of(RunConfig) if is_text(field.annotation)]


def _text_option(field: Field) -> click.Option:
    flag = "--" + field.name.replace("_", "-")
    return GroupedOption([flag, field.name], group=field.group or "Configuration", metavar="VALUES", help=field.help)


def options_of(cls: type, group: str) -> list[click.Parameter]:
    """Make one option of each field of a dataclass that text can fill in."""
    return [_option(field, field.group or group) for field in fields_of(cls) if is_text(field.annotation)]


def _option(field: Field, group: str) -> click.Option:
    flag = "--" + field.name.replace("_", "-")
    is_flag = field.annotation is bool
    names = [f"{flag}/--no-{flag[2:]}" if is_flag else flag, field.name]
    settings: dict[str, Any] = {"required": True} if field.required else {"default": field.default}
    kind = None if is_flag else Value(field.annotation)
    return GroupedOption(names, group=group, type=kind, help=field.help, **settings)


# --- the program -------------------------------------------------------------------------------------------

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
run_argument = click.argument("run", type=RUN)
runs_argument = click.argument("runs", nargs=-1, required=True, type=RUN)


@click.group(
    cls=Landscape,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True},
)
@click.version_option(package_name="landscape-lab", prog_name="landscape")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Loss landscapes, curvature and training dynamics of neural networks.

    A RUN is a folder under results/. Interrupt any command at any moment and give it again: it goes on where it
    stopped, and what is finished is never computed twice.
    """


@cli.command(cls=ConfigCommand)
@click.option("--out", type=RUN, required=True, help="Folder of the run, for example results/r0.")
@json_option
def train(out: Path, as_json: bool, **factors: Any) -> None:
    """Train a network and leave everything it did in a folder."""
    from models.config import RunConfig
    from models.run import train

    with progress_bar(out.name) as progress:
        found = train(RunConfig(**factors), out, progress=progress)
    lines = [clean(out), *(f"  {name}: {_whole_bytes(name, value)}" for name, value in found.items())]
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


def objective_options() -> list[click.Parameter]:
    """The options every probe takes: what is measured on, and how."""
    at_least_one = click.IntRange(min=1)
    settings: dict[str, dict[str, Any]] = {
        "--data": {"help": f"Other data than the run's own: {DATA}."},
        "--parameters": {"default": "*", "help": "Which parameters vary: a name or a pattern."},
        "--normalization": {
            "type": click.Choice(["running", "batch", "recalibrated"]),
            "help": "What BatchNorm does; running if left out, recalibrated toward other runs. "
            "Eigenvalues under recalibrated hold the statistics fixed.",
        },
        "--dtype": {"type": click.Choice(["float32", "float64"]), "help": "Precision; the model's own if left out."},
        "--device": {"help": "cpu, cuda, cuda:1, ...; cpu if left out."},
        "--batch-size": {"type": at_least_one, "help": "Examples a batch; measured if left out."},
        "--examples": {"type": at_least_one, "help": "Use so many examples, a fixed random subset."},
        "--threads": {
            "type": at_least_one,
            "help": "Threads of torch; 1 if left out, for a long surface what a measurement finds faster. More help "
            "large networks, and move the last bits of Hessian products.",
        },
        "--executor": {
            "default": "serial",
            "metavar": "serial|processes|processes:N|dask:ADDRESS",
            "help": "Where points are computed: here, in processes (one a core, or N), or by the workers of a Dask "
            "scheduler, such as dask:tcp://127.0.0.1:8786; the answer is the same.",
        },
        "--json": {"is_flag": True, "help": "Print JSON instead of text."},
    }
    return [
        GroupedOption([flag, "as_json"] if flag == "--json" else [flag], group="How it is measured", **options)
        for flag, options in settings.items()
    ]


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


def chosen_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Read the options of an objective; what was left out keeps its default."""
    import torch

    dtype = {"dtype": getattr(torch, options["dtype"])} if options.get("dtype") else {}
    return {name: value for name, value in options.items() if value is not None} | dtype


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


def told_apart(runs: tuple[Path, ...]) -> list[str]:
    """Name runs by their folders below the one that holds them all."""
    home = os.path.commonpath([run.absolute().parent for run in runs])
    return [run.absolute().relative_to(home).as_posix() for run in runs]


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


@cli.command()
@runs_argument
@click.option(
    "--format",
    "formats",
    default="pdf",
    help="pdf, png, svg; html to turn around; gif or mp4 of a trajectory; vtk for ParaView; csv. Several by commas.",
)
@click.option("--width", type=click.Choice(["single", "double"]), default="single", help="Columns.")
@click.option(
    "--side-by-side",
    is_flag=True,
    help="Only the surfaces that several runs answered with the same options, in one scale.",
)
@json_option
def figure(runs: tuple[Path, ...], formats: str, width: Any, side_by_side: bool, as_json: bool) -> None:
    """Draw every answer of a run, from its stored file alone, into RUN/figures/.

    A format that does not suit an answer is left out for it. Several critical points are also drawn together, index
    against loss; those of several runs, and what is drawn side by side, go into figures/ of the folder that holds
    these runs.
    """
    from landscape import figures

    wanted = [word.strip() for word in formats.split(",") if word.strip()]
    figures.require_formats(wanted)
    if side_by_side:
        written, damaged = compare(runs, wanted, width)
        say({"runs": list(map(str, runs)), "files": written}, "\n".join(map(clean, written)), as_json)
    else:
        damaged = draw_runs(runs, wanted, width, as_json)
    if damaged:
        raise Failure(f"not drawn: {damaged[0]}", damaged[0].exit_code)


def draw_runs(runs: tuple[Path, ...], formats: list[str], width: Any, as_json: bool) -> list[StoreError]:
    """Write the files of every answer of every run; returns what could not be read."""
    from landscape import figures

    damaged: list[StoreError] = []
    critical: dict[Path, list[Any]] = {}
    written: dict[Path, list[Path]] = {}
    drawn = {"formats": figures.pictures_among(formats), "width": width}
    num_answers = 0
    for folder in runs:
        files = written.setdefault(folder, [])
        for name, answer in readable(folder, damaged):
            num_answers += 1
            if figures.kind_of(answer, name) == "critical-point":
                critical.setdefault(folder, []).append(answer)
            files += figures.write_files(answer, name, folder / "figures", formats, width)
        if len(points := critical.get(folder, [])) > 1 and drawn["formats"]:
            files += figures.save(figures.index_against_loss(points), folder / "figures/index-against-loss", **drawn)
    if num_answers and not damaged and not any(written.values()):
        raise Failure(
            f"nothing was written: {', '.join(formats)} suits none of {num_answers} answers; html, vtk and csv need "
            "a surface (csv also takes a slice), gif and mp4 one along a trajectory (--directions pca)",
            BAD_INPUT,
        )
    with saying(as_json, several=len(runs) > 1) as say:
        for folder, files in written.items():
            say({"run": str(folder), "files": files}, f"{clean(folder / 'figures')}: {len(files)} files")
        if len(critical) > 1 and drawn["formats"]:
            path = common_folder(critical) / "figures" / "index-against-loss"
            points = [answer for answers in critical.values() for answer in answers]
            together = figures.save(figures.index_against_loss(points), path, **drawn)
            say({"runs": list(map(str, critical)), "files": together}, f"{clean(path.parent)}: {len(together)} files")
    return damaged


def compare(runs: tuple[Path, ...], formats: list[str], width: Any) -> tuple[list[Path], list[StoreError]]:
    """Draw the surfaces that several runs answered with the same options; returns the files, and what was damaged."""
    from landscape import figures
    from landscape.store import MissingError

    pictures = figures.pictures_among(formats)
    if not pictures:
        raise Failure(
            f"nothing was written: side by side are pictures, pdf, png or svg, not {', '.join(formats)}", BAD_INPUT
        )
    damaged: list[StoreError] = []
    surfaces, configs = [], {}
    for folder, run in zip(runs, told_apart(runs), strict=True):
        try:
            configs[run] = open_store(folder).load_json("run").get("config", {})
        except MissingError:
            configs[run] = {}  # answers from somebody else's training
        surfaces += [
            figures.Asked(run, answer)
            for name, answer in readable(folder, damaged)
            if figures.kind_of(answer, name) == "surface" and min(answer.sizes["alpha"], answer.sizes["beta"]) > 1
        ]
    written = []
    for title, drawing in figures.draw_side_by_side(surfaces, configs, width).items():
        written += figures.save(drawing, common_folder(runs) / "figures" / title, pictures, width)
    return written, damaged


def draw_symptoms(run: Path, found: Sequence[Symptom], formats: list[str]) -> dict[str, list[Path]]:
    """Write the figures of what is not well; returns the files by check."""
    from landscape import figures

    if formats:
        figures.require_formats(formats)
    store, drawn = open_store(run), {}
    wanted = {s.check: s.figure for s in found if s.figure and s.status != "ok" and formats}
    for name in store.names():
        of_answer = {
            check: figure.removeprefix(f"{name}-") for check, figure in wanted.items() if figure.startswith(f"{name}-")
        }
        pictures = figures.draw(store.read(name), name) if of_answer else {}
        for check, figure in of_answer.items():
            if figure in pictures:
                drawn[check] = figures.save(pictures[figure], run / "figures" / f"{name}-{figure}", formats)
    return drawn


def readable(folder: Path, damaged: list[StoreError]) -> Iterator[tuple[str, Any]]:
    """Yield the answers of a run by name; what cannot be read is added to `damaged`."""
    from landscape.store import StoreError

    store = open_store(folder)
    for name in store.names():
        try:
            answer = store.read(name)
        except StoreError as error:
            damaged.append(error)
            continue
        yield name, answer


def common_folder(runs: Iterable[Path]) -> Path:
    """Find the folder that holds all these runs."""
    return Path(os.path.commonpath([folder.absolute() for folder in runs]))


@cli.command()
@click.argument("folder", type=RUN)
@click.option("--out", type=RUN, required=True, help="The page to write, for example report.html.")
def report(folder: Path, out: Path) -> None:
    """Write one self-contained page about every run in a folder."""
    from landscape.figures.report import write_report

    write_report(run_folders(folder), out, command=shlex.join(["landscape", *sys.argv[1:]]))
    click.echo(out)
    damaged = [row["reason"] for row in overviews(folder, run_folders(folder)) if "reason" in row]
    if damaged:
        raise Failure(f"left out of the page: {damaged[0]}", DAMAGED)


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


executor_option = click.option(
    "--executor", default="serial", metavar="serial|processes|processes:N|dask:ADDRESS", help="Where runs are trained."
)
search_options = [
    click.option("--out", type=RUN, required=True, help="Folder of the answer and of all its runs."),
    click.option(
        "--objective", default="best-val-loss", help="best- or last-, val-loss or val-error; lower is better."
    ),
    click.option("--search-seed", default=0, type=click.IntRange(min=0), help="Of the draws and of the order."),
    executor_option,
    json_option,
]


def with_options(options: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Declare several options at once, in their order."""

    def declare(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return declare


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


@cli.command()
@runs_argument
@click.option(
    "--format", "formats", default="png", help="Of the figures that show what was found: pdf,png,svg; or none."
)
@json_option
def diagnose(runs: tuple[Path, ...], formats: str, as_json: bool) -> None:
    """Say in words what a training shows: gradients, dead units, updates, gaps, sharpness; with the figures."""
    from landscape.diagnosis import diagnose, recorded
    from models.opened import open_run

    with saying(as_json, several=len(runs) > 1) as say:
        for run in runs:
            is_ours = (run / "run.json").exists()
            record = open_run(run).record() if is_ours else recorded(open_store(run))
            found = diagnose(record)
            drawn = draw_symptoms(run, found, [] if formats == "none" else formats.split(","))
            rows = [{name: value for name, value in asdict(symptom).items() if name != "figure"} for symptom in found]
            shown = [f"  {check}: {clean(path)}" for check, paths in drawn.items() for path in paths]
            say(
                {"run": str(run), "found": [asdict(s) for s in found], "figures": drawn},
                "\n".join([clean(run), table(rows), *(["shown by:", *shown] if shown else [])]),
            )


# --- curves between runs -----------------------------------------------------------------------------------


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


# --- double descent -----------------------------------------------------------------------------------------


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


# --- sweeps ------------------------------------------------------------------------------------------------

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


def show_sweep(folder: Path) -> tuple[dict[str, Any], str]:
    """Tell what became of a sweep: for a script, and for a reader."""
    from landscape import open_sweep
    from landscape.sweep_tables import sweep_text, sweep_value

    answer = open_sweep(folder)
    return {"sweep": str(folder), **sweep_value(answer)}, f"{clean(folder)}\n{sweep_text(answer)}"


# --- averages of weights -----------------------------------------------------------------------------------


# --- paths between runs ------------------------------------------------------------------------------------

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


def tell_drawn(
    store: Store, name: str, answer: Any, rows: list[dict[str, Any]], as_json: bool, remarks: Sequence[str] = ()
) -> None:
    """Draw an answer, and print its rows."""
    from landscape import figures

    path = store.path / f"{name}.h5"
    files = figures.write_files(answer, name, store.path / "figures", ["png"])
    text = [clean(path), indent(table(rows), "  "), *(f"  {remark}" for remark in remarks), *map(clean, files)]
    say({**contents(answer, path), "rows": rows, "figures": files}, "\n".join(text), as_json)


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


def refuse_twice(runs: Sequence[Path]) -> None:
    """Refuse a run that is named twice."""
    if twice := [run for run in runs if runs.count(run) > 1]:
        raise Failure(f"run {twice[0]} is there twice; name each run once", BAD_INPUT)


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


# --- sweeps in tables, distances between runs ---------------------------------------------------------------


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


# --- what the commands share -------------------------------------------------------------------------------


def open_store(folder: Path) -> Store:
    """Open the folder of a run to read what is there."""
    from landscape import Store

    return Store(folder, create=False)


def new_store(folder: Path) -> Store:
    """Make a folder to write an answer into."""
    from landscape import Store

    return Store(folder)


def run_folders(folder: Path, alone: bool = False) -> list[Path]:
    """List the folders at or below one that hold a run or answers, sorted by name.

    The runs of a sweep are left out: its own folder stands for all of them.

    Args:
        folder: Where to look.
        alone: Leave out what is not about one run: folders that hold nothing but reports over several, ensembles,
            searches, comparisons of averages or races.
    """
    from landscape.sweeps import files_outside_sweeps

    if not folder.is_dir():
        raise Failure(
            f"{folder} is not a folder; give the folder that holds your runs, for example results/", BAD_INPUT
        )
    files = [path for path in files_outside_sweeps(folder) if path.name == "run.json" or path.suffix == ".h5"]
    return sorted({path.parent for path in files if not (alone and path.name.startswith(OF_SEVERAL_RUNS))})


def overviews(folder: Path, runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Collect the rows of the runs in a folder."""
    from landscape.overview import overview

    return [overview(open_store(run), run.relative_to(folder).as_posix()) for run in runs]


def say(value: Any, text: str, as_json: bool) -> None:
    """Print text for a reader, or a value for a script."""
    click.echo(json.dumps(jsonable(value), indent=1) if as_json else text)


@contextmanager
def saying(as_json: bool, several: bool) -> Iterator[Callable[[Any, str], None]]:
    """Yield what prints text at once, or gathers values for one JSON document: a list if several were asked for."""
    values: list[Any] = []

    def say(value: Any, text: str) -> None:
        if as_json:
            values.append(jsonable(value))
        else:
            click.echo(text)

    yield say
    if as_json:
        click.echo(json.dumps(values if several else values[0], indent=1))


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
        *(f"  {clean(name)}: {_whole_bytes(name, value)}" for name, value in ended.items()),
        *("answers:", *(f"  {clean(name)}" for name in answers)),
    ]
    return {**row, "about": about, "training": ended, "answers": answers}, "\n".join(lines)


def _whole_bytes(name: str, value: Any) -> str:
    return str(round(value)) if name.endswith("_bytes") else number(value)


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


def main() -> None:
    """Run the command line."""
    # Idle OpenMP threads that spin make small networks many times slower when anything else runs; set before torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    cli(prog_name="landscape")


if __name__ == "__main__":
    main()
