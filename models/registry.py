"""Named choices: one registry for every kind of thing a run can be made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, TypeVar

T = TypeVar("T", bound=Callable[..., Any])


class Registry(dict[str, Callable[..., Any]]):
    """The choices of one kind, by name; an unknown name is answered with the nearest one.

    The keyword-only parameters of a registered callable are the options that it takes.

    Attributes:
        kind: What is chosen, for messages: "model", "optimizer", ...

    Example:
        >>> colours = Registry("colour")
        >>> @colours.register("blue")
        ... def blue(*, shade=1): return f"blue {shade}"
        >>> colours.options("blue")
        {'shade': 1}
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
        """Refuse options that a choice does not take.

        Raises:
            ValueError: If the name or an option is unknown; the message lists what is taken.
        """
        taken = self.options(name)
        if strange := sorted(set(options) - set(taken)):
            listed = ", ".join(taken) or "none"
            raise ValueError(f"{self.kind} {name!r} takes no option {', '.join(strange)}; it takes: {listed}")


def unknown(kind: str, name: str, choices: Any) -> str:
    """Return the message for an unknown name: the nearest one, and all that there are."""
    near = get_close_matches(str(name), choices, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {kind} {name!r}{hint} Choose one of: {', '.join(choices)}"
