"""How far a sweep is, on the standard error: a small table in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from landscape.sweep_tables import duration
from landscape.tables import table
from models.sweep.sweep import Counts

_PAUSE = 30.0  # seconds between lines where nobody looks on
_REDRAW = 0.1  # seconds between tables


class Display:
    """Shows the states of the runs whenever one of them ends.

    Args:
        stream: Where to write; standard error if none.
        is_terminal: Whether the last table can be drawn over.
    """

    def __init__(self, stream: TextIO | None = None, is_terminal: bool | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty() if is_terminal is None else is_terminal
        self._drawn = 0  # lines of the last table
        self._last = -float("inf")

    def __call__(self, counts: Counts) -> None:
        """Show where a sweep is."""
        is_over, now = counts.done == counts.total, time.monotonic()
        if now - self._last < (_REDRAW if self._is_terminal else _PAUSE) and not is_over:
            return
        self._last = now
        text = table([row_of(counts)])
        if not self._is_terminal:
            text = ", ".join(f"{name} {value}" for name, value in row_of(counts).items())
        up = f"\x1b[{self._drawn}A\x1b[J" if self._drawn else ""
        self._drawn = text.count("\n") + 1 if self._is_terminal else 0
        self._stream.write(f"{up}{text}\n")
        self._stream.flush()


def row_of(counts: Counts) -> dict[str, int | str]:
    """The numbers that are shown."""
    left = counts.total - counts.done
    row: dict[str, int | str] = {"finished": counts.states["finished"]}
    row |= {state: counts.states[state] for state in ("diverged", "failed", "missing") if counts.states[state]}
    if left:
        row |= {"running": counts.running, "left": left - counts.running, "time left": duration(counts.seconds_left)}
    return {**row, "runs": counts.total}
