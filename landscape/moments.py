"""When to record while a model trains: by steps, by epochs, or ever more rarely."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Moments:
    """The steps at which something is due; the first (step 0) and the last are always taken.

    Attributes:
        kind: "steps", "epochs", "log" or "none".
        count: Every so many steps or epochs; points a decade for "log".

    Example:
        >>> [step for step in range(100) if Moments.of("log:4").at_step(step)]
        [1, 2, 3, 6, 10, 18, 32, 56]
    """

    kind: str
    count: int

    @classmethod
    def of(cls, text: str | int) -> Moments:
        """Read "steps:50" (or 50), "epochs:1", "log:8" or "none".

        Raises:
            ValueError: If the text is none of these.
        """
        kind, colon, count = str(text).partition(":") if not isinstance(text, int) else ("steps", ":", str(text))
        if text == "none":
            return cls("none", 0)
        if kind not in ("steps", "epochs", "log") or not (colon and count.isdecimal() and int(count)):
            raise ValueError(f"a schedule is 'steps:50', 'epochs:1', 'log:8' (points a decade) or 'none', got {text!r}")
        return cls(kind, int(count))

    def at_step(self, step: int) -> bool:
        """Whether something is due after `step` optimizer updates."""
        if self.kind == "log":
            return step in _log_spaced(step, self.count)
        return self.kind == "steps" and step % self.count == 0

    def at_epoch(self, epochs: int) -> bool:
        """Whether something is due after `epochs` whole epochs."""
        return self.kind == "epochs" and epochs % self.count == 0

    def expected(self, steps: int, epochs: int) -> int:
        """About how many moments a training of this length has."""
        if self.kind == "log":
            return 2 + sum(self.at_step(step) for step in range(1, min(steps, 10_000) + 1))
        return 2 + {"steps": steps, "epochs": epochs, "none": 0}[self.kind] // max(self.count, 1)


def _log_spaced(step: int, per_decade: int) -> set[int]:
    """The steps round(10^(k / per_decade)) near `step`."""
    if step < 1:
        return set()
    decade = len(str(step)) - 1
    powers = range(decade * per_decade - 1, (decade + 1) * per_decade + 1)
    return {round(10 ** (k / per_decade)) for k in powers}
