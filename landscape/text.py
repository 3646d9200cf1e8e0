"""Text that came out of a file, made fit to be printed or drawn."""

from __future__ import annotations

LONGEST_TEXT = 200  # characters that are printed or drawn; a figure with 200,000 would take 11 s


def clean(text: object, limit: int = LONGEST_TEXT) -> str:
    """Make one printable line of at most `limit` characters.

    What could steer a terminal or turn the direction of writing is left out, a space of any kind is a space, and a
    text that was cut ends in "…".

    Example:
        >>> clean("run" + chr(27) + "]0;owned" + chr(7)), clean("two" + chr(10) + "lines"), clean("long name", 5)
        ('run]0;owned', 'two lines', 'long…')
    """
    characters = (c if c.isprintable() else " " if c.isspace() else "" for c in str(text)[: 4 * limit])
    line = "".join(characters)
    return line if len(line) <= limit else line[: limit - 1] + "…"
