"""Independent pieces, cut into tasks of about half a second, and those whose workers die."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Any

_WANTED = 0.5  # seconds a task: its message costs milliseconds, and a kill loses no more than that from each worker
_LEAST = 0.3  # towards the end tasks get shorter, so that all workers end together, but no shorter than this
_GROWTH = 4  # times the pieces of the last task, for the pieces to come may be slower than those measured
_TRIES = 3  # workers that may die over a task before its pieces are computed alone


@dataclass
class Tile:
    """The pieces of one task.

    Attributes:
        pieces: (key, item) each.
        deaths: How many workers died over it.
        is_suspect: Whether it is computed with nothing else running, so that there is no doubt what killed a worker.
    """

    pieces: list[tuple[str, Any]]
    deaths: int = 0
    is_suspect: bool = False


class Tiles:
    """What is left to do.

    Which pieces make up a task changes no bit, since each is computed on its own. A task whose worker dies is handed
    out again; if that happens three times, its pieces are tried once more one by one at the very end, with nothing
    else running, so that only the piece which kills is given up.

    Args:
        pieces: (key, item) each.
        num_workers: How many share them.

    Attributes:
        given_up: The keys of pieces whose workers died every time.
    """

    def __init__(self, pieces: Iterable[tuple[str, Any]], num_workers: int):
        self.given_up: list[str] = []
        self._left = deque(pieces)
        self._again: deque[Tile] = deque()
        self._suspects: deque[Tile] = deque()
        self._num_workers = num_workers
        self._seconds: float | None = None  # a piece
        self._last = 1
        self._deaths = 0

    def take(self, alone: bool) -> Tile | None:
        """Hand out the next task, or None if there is none for now.

        Args:
            alone: Whether nothing else is running.
        """
        if self._again:
            return self._again.popleft()
        if self._left:
            return Tile([self._left.popleft() for _ in range(self._size())])
        return self._suspects.popleft() if self._suspects and alone else None

    def measure(self, tile: Tile, seconds: float) -> None:
        """Learn from a finished task how many pieces the next one should have."""
        self._last = len(tile.pieces)
        self._seconds = max(seconds, 1e-9) / self._last

    def put_back(self, tile: Tile, deaths: int = 0) -> None:
        """Take back a task that was not finished.

        Args:
            tile: The task.
            deaths: How many workers died over it.

        Raises:
            RuntimeError: If workers die over whatever they are given.
        """
        tile.deaths += deaths
        self._deaths += deaths
        if self._seconds is None and self._deaths > _TRIES * (self._num_workers + 1):
            raise RuntimeError(
                f"{self._deaths} workers died and none has finished a task; look for what kills them: their memory, "
                "their logs, or a script without `if __name__ == '__main__':`."
            )
        if deaths and tile.is_suspect:
            self.given_up += [key for key, _ in tile.pieces]
        elif deaths and tile.deaths >= _TRIES:
            self._suspects.extend(Tile([piece], tile.deaths, is_suspect=True) for piece in tile.pieces)
        else:
            self._again.append(tile)

    def _size(self) -> int:
        if self._seconds is None:
            return 1
        share = ceil(len(self._left) / self._num_workers)
        size = min(_WANTED / self._seconds, max(share, _LEAST / self._seconds), _GROWTH * self._last)
        return max(1, min(round(size), len(self._left)))
