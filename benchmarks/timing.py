"""Interleaved timing: each round runs every piece once, ratios are taken round by round."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median


def rounds(pieces: Mapping[str, Callable[[], object]], count: int = 15) -> dict[str, list[float]]:
    """Seconds of each piece in each of `count` rounds, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in pieces}
    for number in range(count + 1):
        for name, piece in pieces.items():
            started = time.perf_counter()
            piece()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def table(rows: Sequence[tuple[str, Sequence[float], Sequence[float], int]]) -> str:
    """Median, smallest and largest ratio of two pieces, the first divided by a number of units."""
    lines = [f"{'ratio':<38}{'median':>8}{'min':>8}{'max':>8}{'seconds':>12}"]
    for name, first, second, units in rows:
        ratios = sorted(a / units / b for a, b in zip(first, second, strict=True))
        lines.append(
            f"{name:<38}{median(ratios):>8.2f}{ratios[0]:>8.2f}{ratios[-1]:>8.2f}{median(first) / units:>12.5f}"
        )
    return "\n".join(lines)
