"""The nudged elastic band: a chain of pivots that slides down sideways until it follows the lowest way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from landscape.execution import recalled
from landscape.paths.curves import Curve
from landscape.paths.descent import BatchLoss, Descent, MiniBatches

_BETWEEN = (0.25, 0.5, 0.75)  # places between two pivots where the loss is looked at
_EXCESS = 0.2  # of the range of losses along the band, over the straight line between two pivots' losses

Losses = Callable[[Tensor], Tensor]  # points (K, P) -> losses (K,)


@dataclass(frozen=True)
class Band:
    """A nudged elastic band with pivots added where it is too coarse.

    At every step each pivot moves against the part of its gradient that is orthogonal to the band, and then all are
    set at equal distances along it: that is the limit of infinitely stiff springs, which hides no barrier between
    pivots that slid apart. The tangent is the improved one of Henkelman and Jonsson, equations 8 to 11. The steps fall
    into cycles of equal length; after each but the last a pivot is added where the loss between two rises over the
    straight line between their losses by more than a fifth of the range of losses along the band. With more pivots all
    move, for they stay at equal distances.

    Attributes:
        descent: How the pivots move.
        cycles: So many; 1 adds no pivots.

    References:
        Henkelman and Jonsson, "Improved tangent estimate in the nudged elastic band method", J. Chem. Phys. 2000;
        Draxler et al., "Essentially No Barriers in Neural Network Energy Landscape", ICML 2018, section 3.
    """

    descent: Descent
    cycles: int

    def relax(self, curve: Curve, loss: BatchLoss, batches: MiniBatches, losses: Losses) -> tuple[Curve, Tensor]:
        """Let a chain slide down.

        Args:
            curve: The chain of pivots between fixed ends.
            loss: Losses and gradients by mini-batch.
            batches: The mini-batch of every step.
            losses: Losses over the whole data, to find where pivots are missing.

        Returns:
            The chain where it ended, and the mean loss of its pivots by mini-batch before each step (steps,).
        """
        history = []
        cuts = [self.descent.steps * cycle // self.cycles for cycle in range(self.cycles + 1)]
        for cycle, (first, last) in enumerate(pairwise(cuts)):
            curve, found = self._slid(curve, loss, batches, first, last)
            history.append(found.mean(dim=1))
            if cycle < self.cycles - 1:
                curve = refined(curve, _known(losses))
        return curve, torch.cat(history)

    def _slid(self, curve: Curve, loss: BatchLoss, batches: MiniBatches, first: int, last: int) -> tuple[Curve, Tensor]:
        ends = curve.points[[0, -1]]

        def direction(pivots: Tensor, step: int) -> tuple[Tensor, Tensor]:
            batch = batches[step]
            energies, gradients = loss.gradients(pivots, batch)
            at_ends = loss.losses(ends, batch)
            along = tangents(curve.bent(pivots).points, torch.cat([at_ends[:1], energies, at_ends[1:]]))
            return energies, gradients - (gradients * along).sum(dim=1, keepdim=True) * along

        def settle(pivots: Tensor) -> Tensor:
            return equidistant(curve.bent(pivots).points)[1:-1]

        pivots, found = self.descent.run(curve.bends, direction, "step of the band", first, last, settle)
        return curve.bent(pivots), found


def tangents(points: Tensor, losses: Tensor) -> Tensor:
    """Unit tangents (K, P) of a chain at the pivots between its ends, by the losses of its neighbours.

    On a slope the tangent points to the higher neighbour; at a maximum or minimum both count, the one whose loss
    differs more by the larger difference.

    Args:
        points: (K + 2, P) pivots, ends first and last.
        losses: (K + 2,) their losses.

    References:
        Henkelman and Jonsson, J. Chem. Phys. 2000, equations 8 to 11.
    """
    after, before = points[2:] - points[1:-1], points[1:-1] - points[:-2]
    up, down = losses[2:] - losses[1:-1], losses[:-2] - losses[1:-1]
    largest, smallest = torch.maximum(up.abs(), down.abs()), torch.minimum(up.abs(), down.abs())
    flat = largest == 0
    largest, smallest = torch.where(flat, 1.0, largest), torch.where(flat, 1.0, smallest)
    is_higher_after = losses[2:] > losses[:-2]
    on_slope = up * down < 0
    weight_after = torch.where(
        is_higher_after, torch.where(on_slope, 1.0, largest), torch.where(on_slope, 0.0, smallest)
    )
    weight_before = torch.where(
        is_higher_after, torch.where(on_slope, 0.0, smallest), torch.where(on_slope, 1.0, largest)
    )
    along = weight_after.to(points)[:, None] * after + weight_before.to(points)[:, None] * before
    return along / along.norm(dim=1, keepdim=True).clamp_min(torch.finfo(points.dtype).tiny)


def equidistant(points: Tensor) -> Tensor:
    """Set the pivots of a chain (C, P) at equal distances along it; its ends stay where they are.

    Each lies on the old chain; the new one cuts its corners a little, so that distances are equal once it is smooth.
    """
    lengths = (points[1:] - points[:-1]).double().norm(dim=1)
    reached = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    wanted = torch.linspace(0, 1, len(points), dtype=torch.float64, device=points.device)[1:-1] * reached[-1]
    part = (torch.searchsorted(reached, wanted, right=True) - 1).clamp(0, len(lengths) - 1)
    share = ((wanted - reached[part]) / lengths[part].clamp_min(torch.finfo(torch.float64).tiny)).to(points)
    inner = torch.lerp(points[part], points[part + 1], share[:, None])
    return torch.cat([points[:1], inner, points[-1:]])


def refined(curve: Curve, losses: Losses) -> Curve:
    """Add a pivot between two where the loss stands out over the line between theirs; then set all equidistant.

    References:
        Draxler et al., ICML 2018, section 3; Kolsbjerg, Groves and Hammer, "An automated nudged elastic band method",
        J. Chem. Phys. 2016.
    """
    shares = np.array([0.0, *_BETWEEN])
    pieces = len(curve.points) - 1
    t = np.append((np.arange(pieces)[:, None] + shares).ravel(), pieces) / pieces
    found = losses(curve.at(t)).double().cpu().numpy()
    inside = found[:-1].reshape(pieces, len(shares))
    line = inside[:, :1] + shares * (found[len(shares) :: len(shares)] - inside[:, 0])[:, None]
    excess = (inside - line)[:, 1:]
    too_high = excess.max(axis=1) > _EXCESS * np.ptp(found)
    places = (np.flatnonzero(too_high) + shares[1 + excess.argmax(axis=1)][too_high]) / pieces
    knots = np.sort(np.concatenate([np.linspace(0, 1, pieces + 1), places]))
    return Curve(curve.kind, equidistant(curve.at(knots)), curve.layout)


def _known(losses: Losses) -> Losses:
    """Keep losses over the whole data in the journal of the work at hand."""

    def recall(points: Tensor) -> Tensor:
        of = points.cpu().contiguous().numpy().tobytes()
        return torch.from_numpy(recalled("look", of, lambda: {"losses": losses(points).cpu().numpy()})["losses"])

    return recall
