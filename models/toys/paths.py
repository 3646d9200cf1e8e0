"""The path of an optimizer over a toy, from one start or from many at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.optimizers import OPTIMIZERS, Newton, build_optimizer, check_optimizer, default_lr
from models.toys.registry import Toy

ARENA = 100
"""A path ends where it is so many widths of the view away from its middle."""


@dataclass(frozen=True)
class Racer:
    """An optimizer and the learning rate that it races with.

    Attributes:
        text: The optimizer with its options, as in "momentum:form=ema".
        lr: Its own learning rate; None takes that of the race.
    """

    text: str
    lr: float | None = None

    @staticmethod
    def read(text: str) -> Racer:
        """Read "optimizer", "optimizer:option=value" or either followed by "@lr".

        Raises:
            ValueError: If the optimizer, an option or the rate is not one.
        """
        name, at, written = text.strip().partition("@")
        try:
            lr = float(written) if at else None
        except ValueError:
            raise ValueError(f"expected a learning rate after '@' in {text!r}, such as adadelta@1") from None
        options = check_optimizer(name, 0.0 if lr is None else lr)
        return Racer(OPTIMIZERS.write(*options), lr)

    @property
    def label(self) -> str:
        """What it is called in a race: its text, and its own rate."""
        if self.lr is None:
            return self.text
        short = f"{self.lr:g}"
        return f"{self.text}@{short if float(short) == self.lr else repr(self.lr)}"

    def rate(self, lr: float | None) -> float:
        """The learning rate in a race of this one; without either, the usual one of the optimizer."""
        given = self.lr if self.lr is not None else lr
        return default_lr(self.text.partition(":")[0]) if given is None else given


def read_racers(text: str) -> list[Racer]:
    """Read optimizers by commas; a part "option=value" belongs to the optimizer before it.

    Raises:
        ValueError: If one of them cannot be read, or comes twice.

    >>> [racer.text for racer in read_racers("sgd,rmsprop:momentum=0.5,alpha=0.9,adam")]
    ['sgd', 'rmsprop:momentum=0.5,alpha=0.9', 'adam']
    """
    entries: list[str] = []
    for part in text.split(","):
        if entries and "=" in part and ":" not in part.partition("=")[0]:
            entries[-1] += f",{part}"
        else:
            entries.append(part)
    racers = [Racer.read(entry) for entry in entries]
    if twice := [racer for racer in racers if racers.count(racer) > 1]:
        raise ValueError(f"expected different optimizers, got {twice[0].text!r} twice; leave one out")
    return racers


def follow(
    toy: Toy,
    optimizer: str,
    starts: NDArray[np.float64],
    lr: float,
    steps: int,
    *,
    noise: float = 0.0,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Let an optimizer of `models.optimizers` go down a toy.

    Many starts are rows of one parameter: each of these rules treats every entry by itself, so that a row moves as it
    would alone. Only Newton's method does not, and goes from one start after the other.

    Args:
        toy: The loss.
        optimizer: As `build_optimizer` takes it.
        starts: (K, 2).
        lr: Learning rate.
        steps: At most so many.
        noise: Standard deviation of Gaussian noise on each entry of the gradient.
        seed: Of the noise, which is the same for every optimizer.

    Returns:
        (steps + 1, K, 2) where each path was after each step, NaN from where it is not finite or outside the arena;
        the first place outside is kept.

    Raises:
        ValueError: If the optimizer, an option or a number is not one that can be used.
    """
    if steps < 1:
        raise ValueError(f"a race needs at least 1 step, got {steps}")
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise must be at least 0 and finite, got {noise}")
    if not np.isfinite(starts).all():
        raise ValueError(f"a start must be finite, got {starts.tolist()}")
    newton = isinstance(build_optimizer(optimizer, [nn.Parameter(torch.zeros(2))], lr), Newton)
    pushes = noise * _normal(steps, starts.shape, seed) if noise else None
    groups: Sequence[slice] = [slice(k, k + 1) for k in range(len(starts))] if newton else [slice(None)]
    paths = np.full((steps + 1, *starts.shape), np.nan)
    for rows in groups:
        along = _walk(toy, optimizer, starts[rows], lr, steps, None if pushes is None else pushes[:, rows])
        for step, at in enumerate(along):
            paths[step, rows] = at
        paths[step + 1 :, rows] = at
    return ended(toy, paths)


def _normal(steps: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """(steps, ...) standard normal numbers; those of a shorter race are the first of a longer one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(steps)])


def ended(toy: Toy, paths: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T, K, 2) paths with NaN from where they are not finite, and after the first place outside the arena."""
    over = ~np.isfinite(paths).all(-1)
    over[1:] |= outside(toy, paths[:-1])
    return np.where(np.logical_or.accumulate(over, axis=0)[..., None], np.nan, paths)


def outside(toy: Toy, places: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(...) which places (..., 2) lie outside the arena; none that is not finite."""
    left, right, bottom, top = toy.view
    middle, reach = np.array([left + right, bottom + top]) / 2, ARENA * np.array([right - left, top - bottom])
    return (np.abs(places - middle) > reach).any(-1)


def _walk(
    toy: Toy, optimizer: str, starts: NDArray[np.float64], lr: float, steps: int, pushes: Tensor | None
) -> Iterator[NDArray[np.float64]]:
    """Yield the places (K, 2) before the first step and after each, until no path will move or is in the arena."""
    theta = nn.Parameter(torch.from_numpy(starts.copy()))
    rule = build_optimizer(optimizer, [theta], lr)
    newton = isinstance(rule, Newton)
    gone, at = np.zeros(len(starts), dtype=bool), starts
    yield at
    for step in range(steps):

        def closure(step: int = step) -> Tensor:
            theta.grad = None
            loss = toy.loss(theta).sum()
            if pushes is not None:
                loss = loss + (pushes[step] * theta).sum()  # its gradient is the noise, its Hessian nothing
            if not newton:
                loss.backward()
            return loss

        rule.step(closure)
        before, at = at, theta.detach().numpy().copy()
        yield at
        gone |= ~np.isfinite(at).all(-1) | outside(toy, at)
        rests = newton and pushes is None and np.array_equal(before, at)  # it remembers nothing that could move it
        if rests or gone.all():
            return
