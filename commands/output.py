"""What commands print: text for a reader, or JSON for a script."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from textwrap import indent
from typing import TYPE_CHECKING, Any

import click

from landscape.tables import contents, jsonable, number, table
from landscape.text import clean

if TYPE_CHECKING:
    from landscape import Store


def tell_drawn(
    store: Store, name: str, answer: Any, rows: list[dict[str, Any]], as_json: bool, remarks: Sequence[str] = ()
) -> None:
    """Draw an answer, and print its rows."""
    from landscape import figures

    path = store.path / f"{name}.h5"
    files = figures.write_files(answer, name, store.path / "figures", ["png"])
    text = [clean(path), indent(table(rows), "  "), *(f"  {remark}" for remark in remarks), *map(clean, files)]
    say({**contents(answer, path), "rows": rows, "figures": files}, "\n".join(text), as_json)


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


def whole_bytes(name: str, value: Any) -> str:
    """Write a number that has a name; a number of bytes is a whole one."""
    return str(round(value)) if name.endswith("_bytes") else number(value)
