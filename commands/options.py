"""How options are declared: those that fields of dataclasses become, and those that commands share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from landscape.fields import Field, fields_of, is_text, parse, type_name

RUN = click.Path(path_type=Path)
DATA = "digits, mnist1d, idx:DIR, npz:FILE or folder:DIR"


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


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
run_argument = click.argument("run", type=RUN)


runs_argument = click.argument("runs", nargs=-1, required=True, type=RUN)


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


def chosen_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Read the options of an objective; what was left out keeps its default."""
    import torch

    dtype = {"dtype": getattr(torch, options["dtype"])} if options.get("dtype") else {}
    return {name: value for name, value in options.items() if value is not None} | dtype


executor_option = click.option(
    "--executor", default="serial", metavar="serial|processes|processes:N|dask:ADDRESS", help="Where runs are trained."
)


def with_options(options: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Declare several options at once, in their order."""

    def declare(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return declare
