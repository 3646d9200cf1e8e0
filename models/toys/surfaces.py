"""Losses of two parameters, by name."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.toys.registry import TOYS, Point, Toy, points

ORIGIN: Point = (0.0, 0.0)


@TOYS.register("tanh")
def tanh_toy() -> Toy:
    """A network of two weights, (0.5 - tanh(w1 tanh(w2 / 2)))^2: a saddle at zero and two ravines of minima.

    It is the square loss of tanh(w1 tanh(w2 x)) on the one example x = 0.5 with the label 0.5.
    """

    def loss(w: Tensor) -> Tensor:
        return (0.5 - (w[..., 0] * (w[..., 1] / 2).tanh()).tanh()) ** 2

    return Toy(loss, (-0.1, 0.3), (-2.5, 2.5, -2.5, 2.5), _ravines(), 0.0, (ORIGIN,))


@TOYS.register("beale")
def beale() -> Toy:
    """A flat valley with steep walls; its minimum is at (3, 0.5), a saddle at (0, 1) (Beale 1958)."""

    def loss(w: Tensor) -> Tensor:
        x, y = w[..., 0], w[..., 1]
        return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2

    return Toy(loss, (1.0, 1.5), (-1, 4, -1.5, 2), points((3.0, 0.5)), 0.0, ((0.0, 1.0),))


@TOYS.register("long-valley")
def long_valley() -> Toy:
    """A valley, flat along and steep across, w1^2 / 100 + w2^2 (the race of Radford 2015)."""

    def loss(w: Tensor) -> Tensor:
        return 0.01 * w[..., 0] ** 2 + w[..., 1] ** 2

    return Toy(loss, (-8.0, 1.0), (-10, 6, -2, 2), points(ORIGIN), 0.0)


@TOYS.register("saddle")
def saddle() -> Toy:
    """The saddle w1^2 - w2^2, without a minimum; races begin beside its ridge (the race of Radford 2015)."""

    def loss(w: Tensor) -> Tensor:
        return w[..., 0] ** 2 - w[..., 1] ** 2

    return Toy(loss, (1.0, 1e-6), (-1.5, 1.5, -1.5, 1.5), points(), None, (ORIGIN,))


@TOYS.register("bowl")
def bowl(*, condition: float = 100.0, angle: float = 30.0) -> Toy:
    """A quadratic bowl turned by an angle in degrees, with the largest curvature 1 and the least 1 / condition.

    Raises:
        ValueError: If the condition number is below 1 or not finite.
    """
    if not 1 <= condition < math.inf:
        raise ValueError(f"toy 'bowl' needs a finite condition of at least 1, got {condition}")
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))

    def loss(w: Tensor) -> Tensor:
        along, across = c * w[..., 0] + s * w[..., 1], c * w[..., 1] - s * w[..., 0]
        return (along**2 / condition + across**2) / 2

    return Toy(loss, (-1.6, 0.6), (-2, 2, -2, 2), points(ORIGIN), 0.0)


@TOYS.register("rosenbrock")
def rosenbrock() -> Toy:
    """A curved valley, (1 - w1)^2 + 100 (w2 - w1^2)^2, with its minimum at (1, 1) (Rosenbrock 1960)."""

    def loss(w: Tensor) -> Tensor:
        return (1 - w[..., 0]) ** 2 + 100 * (w[..., 1] - w[..., 0] ** 2) ** 2

    return Toy(loss, (-1.2, 1.0), (-1.8, 1.8, -0.8, 2.2), points((1.0, 1.0)), 0.0)


@TOYS.register("local-minimum")
def local_minimum() -> Toy:
    """Two valleys along w1, (w1^2 - 1)^2 / 4 + w1 / 4 + w2^2 / 2, of which a race begins near the worse."""

    def loss(w: Tensor) -> Tensor:
        return (w[..., 0] ** 2 - 1) ** 2 / 4 + w[..., 0] / 4 + w[..., 1] ** 2 / 2

    # the slope along w1 is w1^3 - w1 + 1/4
    low, middle, _ = np.sort(np.roots([1, 0, -1, 0.25]).real)
    lowest = (low**2 - 1) ** 2 / 4 + low / 4
    return Toy(loss, (1.6, 0.8), (-1.8, 1.8, -1.2, 1.2), points((low, 0.0)), float(lowest), ((float(middle), 0.0),))


@TOYS.register("inflection")
def inflection() -> Toy:
    """A step on the way down, w1^4 / 4 + w1^3 / 3 + w2^2 / 2, flat at zero, where nothing is a minimum."""

    def loss(w: Tensor) -> Tensor:
        return w[..., 0] ** 4 / 4 + w[..., 0] ** 3 / 3 + w[..., 1] ** 2 / 2

    return Toy(loss, (0.8, 0.8), (-1.6, 1.2, -1.2, 1.2), points((-1.0, 0.0)), -1 / 12)


@TOYS.register("plateau")
def plateau() -> Toy:
    """A funnel in a plain, 1 - exp(-|w|^2 / 2), far from which nearly no gradient is left."""

    def loss(w: Tensor) -> Tensor:
        return 1 - (-(w**2).sum(-1) / 2).exp()

    return Toy(loss, (-2.5, 2.0), (-3.5, 3.5, -3.5, 3.5), points(ORIGIN), 0.0)


def _ravines() -> NDArray[np.float64]:
    """(M, 2) points of w1 tanh(w2 / 2) = artanh(0.5), less than 0.01 apart, as far as about 20 along each axis."""
    level = math.atanh(0.5)
    steep = np.linspace(level / math.tanh(20 / 2), 20, 4000)
    second = np.concatenate([2 * np.arctanh(level / steep), np.linspace(0.05, 20, 4000)])
    branch = np.column_stack([level / np.tanh(second / 2), second])
    return np.concatenate([branch, -branch])
