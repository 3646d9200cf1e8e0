"""Losses of two parameters between whose minima the way is known."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from landscape.objective import Objective
from tests.problems import only_output

Height = Callable[[Tensor], Tensor]  # points (..., 2) -> (...)


class Terrain(nn.Module):
    """loss = height(w), whatever the data."""

    def __init__(self, height: Height, start: tuple[float, float]):
        super().__init__()
        self.height = height
        self.w = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.height(self.w) + 0 * inputs.sum()


def terrain(height: Height, start: tuple[float, float] = (-1.0, 0.0)) -> Objective:
    data = (torch.zeros(4, 1, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))
    return Objective(Terrain(height, start), data, loss=only_output)


def curved_valley(w: Tensor) -> Tensor:
    """Zero along y = 1 - x^2, which a Bezier curve of one bend at (0, 2) follows; on the line y = 0 it rises to 1."""
    return (w[..., 1] - 1 + w[..., 0] ** 2) ** 2


def two_wells(w: Tensor) -> Tensor:
    """Minima at (-1, 0) and (1, 0), a saddle of height 1 at (0, 1); the line between the minima rises to 3."""
    x, y = w[..., 0], w[..., 1]
    return (x**2 - 1) ** 2 + 2 * (y - 1 + x**2) ** 2


def mueller_brown(w: Tensor) -> Tensor:
    """The surface of Mueller and Brown, in hundreds of its unit; three minima, two saddles."""
    x, y = w[..., 0], w[..., 1]
    terms = (
        (-200, -1, 0, -10, 1, 0),
        (-100, -1, 0, -10, 0, 0.5),
        (-170, -6.5, 11, -6.5, -0.5, 1.5),
        (15, 0.7, 0.6, 0.7, -1, 1),
    )
    heights = [A * (a * (x - u) ** 2 + b * (x - u) * (y - v) + c * (y - v) ** 2).exp() for A, a, b, c, u, v in terms]
    return torch.stack(heights).sum(dim=0) / 100


class ToyLoss:
    """What a band asks of `BatchLoss`, of a terrain, all points at once."""

    def __init__(self, height: Height):
        self.height = height

    def gradients(self, points: Tensor, batch: object) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            at = points.clone().requires_grad_()
            heights = self.height(at)
            (gradient,) = torch.autograd.grad(heights.sum(), at)
        return heights.detach(), gradient

    def losses(self, points: Tensor, batch: object) -> Tensor:
        return self.height(points)
