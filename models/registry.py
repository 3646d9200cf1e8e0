"""Named choices: one registry for every kind of thing a run can be made of."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from difflib import get_close_matches
from itertools import islice
from typing import Any, Literal, TypeVar

from landscape.fields import parse

T = TypeVar("T", bound=Callable[..., Any])


class Registry(dict[str, Callable[..., Any]]):
    """The choices of one kind, by name; an unknown name is answered with the nearest one.

    The keyword-only parameters of a registered callable are the options that it takes. A choice can be written with
    them as one text, "name:value,option=value": by name, or in the order in which they are declared.

    Attributes:
        kind: What is chosen, for messages: "model", "optimizer", ...

    Example:
        >>> colours = Registry("colour")
        >>> @colours.register("blue")
        ... def blue(*, shade=1): return f"blue {shade}"
        >>> colours.options("blue")
        {'shade': 1}
        >>> colours.read("blue:2") == colours.read("blue:shade=2") == ("blue", {"shade": "2"})
        True
        >>> colours["bleu"]
        Traceback (most recent call last):
        ValueError: unknown colour 'bleu'; did you mean 'blue'? Choose one of: blue
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that adds a callable under `name`."""

        def add(choice: T) -> T:
            self[name] = choice
            return choice

        return add

    def __missing__(self, name: str) -> Callable[..., Any]:
        raise ValueError(unknown(self.kind, name, self))

    def options(self, name: str) -> dict[str, Any]:
        """Return the options that a choice takes, with their defaults.

        Raises:
            ValueError: If the name is unknown.
        """
        parameters = inspect.signature(self[name]).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def check(self, name: str, options: dict[str, Any]) -> None:
        """Refuse options that a choice does not take, and words that an option does not know.

        Raises:
            ValueError: If the name, an option or a word is unknown; the message lists what is taken.
        """
        taken = self.options(name)
        if strange := sorted(set(options) - set(taken)):
            listed = ", ".join(taken) or "none"
            raise ValueError(f"{self.kind} {name!r} takes no option {', '.join(strange)}; it takes: {listed}")
        hints = typing.get_type_hints(self[name]) if options else {}
        for option, value in options.items():
            words = typing.get_args(hints.get(option)) if typing.get_origin(hints.get(option)) is Literal else ()
            if words and value not in words:
                listed = " or ".join(map(str, words))
                raise ValueError(f"{self.kind} {name!r}: {option} must be {listed}, got {value!r}")

    def read(self, text: str) -> tuple[str, dict[str, Any]]:
        """Read a choice that is written with its options.

        Args:
            text: As in "none", "leaky-relu:0.01" or "batch-renorm:r_max=2,d_max=1".

        Returns:
            The name, and the options that were given, as their annotations say.

        Raises:
            ValueError: If the name or an option is unknown, a value cannot be read, or an option without a default is
                missing.
        """
        name, colon, written = text.partition(":")
        taken = self.options(name)
        given: dict[str, Any] = {}
        for position, word in enumerate(written.split(",") if colon else []):
            option, _, value = word.rpartition("=")
            option = option or next(islice(taken, position, None), word)
            if option not in taken:
                self.check(name, {option: value})
            if option in given:
                raise ValueError(f"{self.kind} {text!r} gives {option} twice")
            given[option] = self._value(name, option, value)
        if missing := [o for o, default in taken.items() if default is inspect.Parameter.empty and o not in given]:
            raise ValueError(f"{self.kind} {name!r} needs its {missing[0]}, got {text!r}; write '{name}:VALUE'")
        return name, given

    def build(self, text: str, *arguments: Any) -> Any:
        """Call a choice that is written with its options.

        Raises:
            ValueError: As `read` does, or as the choice itself does.
        """
        name, options = self.read(text)
        return self[name](*arguments, **options)

    def write(self, name: str, options: dict[str, Any]) -> str:
        """Write a choice with its options so that equal ones have one text: in order, and without what is default.

        Raises:
            ValueError: If the name or an option is unknown.
        """
        self.check(name, options)
        given = [(o, options[o]) for o, default in self.options(name).items() if options.get(o, default) != default]
        return f"{name}:{','.join(f'{option}={_text(value)}' for option, value in given)}" if given else name

    def read_all(self, text: str) -> list[tuple[str, dict[str, Any]]]:
        """Read choices that are joined by "+", each with its options; "none" alone stands for no choice.

        Raises:
            ValueError: As `read` does.
        """
        return [] if text == "none" else [self.read(part) for part in text.split("+")]

    def write_all(self, text: str) -> str:
        """Write choices that are joined by "+" so that equal ones have one text.

        Raises:
            ValueError: As `read` does.
        """
        return "+".join(self.write(*choice) for choice in self.read_all(text)) or "none"

    def build_all(self, text: str) -> list[Any]:
        """Call each of the choices that are joined by "+".

        Raises:
            ValueError: As `read` does, or as a choice itself does; then its kind and name stand before the message.
        """
        built = []
        for name, options in self.read_all(text):
            try:
                built.append(self[name](**options))
            except ValueError as error:
                raise ValueError(f"{self.kind} {name!r} {error}") from None
        return built

    def _value(self, name: str, option: str, value: str) -> Any:
        try:
            return parse(value, typing.get_type_hints(self[name]).get(option, str))
        except ValueError as error:
            raise ValueError(f"{self.kind} {name!r}: {option}: {error}") from None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def unknown(kind: str, name: str, choices: Any) -> str:
    """Return the message for an unknown name: the nearest one, and all that there are."""
    near = get_close_matches(str(name), choices, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {kind} {name!r}{hint} Choose one of: {', '.join(choices)}"
