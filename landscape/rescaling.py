"""What a filter-normalized slice owes to how the units of a network happen to be scaled.

A unit with a positively homogeneous activation (ReLU, leaky ReLU, none) can be rescaled: its incoming weights and bias
times c > 0, its outgoing weights divided by c, and the network computes what it did. If all units of a layer take the
same c, filter normalization follows. If each takes its own, it does not: the outgoing weights of all units make up the
filters of the next layer, whose random directions then weigh the units differently. The same holds for the scale and
shift of a BatchNorm unit in place of the incoming weights. So two networks that are one function can have different
slices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape.directions import random_directions
from landscape.objective import Objective

_EXAMPLES = 64  # on which it is tried out whether the function stays what it is
_EQUAL = 1e-6  # relative change of the loss: powers of two change nothing but the rounding of sums
_DIRECTIONS = 8
_RADIUS = 0.1  # where the rise of the loss is compared, in units of the direction
_SWEEPS = 5  # over all pairs, to balance layers that share a neighbour
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Pair:
    """A layer whose units can be rescaled against the incoming weights of the next one.

    Attributes:
        first: Name of the layer, or of the BatchNorm layer, that scales the units.
        second: Name of the layer that reads them.
        units: How many there are.
    """

    first: str
    second: str
    units: int


@dataclass(frozen=True)
class Invariance:
    """How much a rescaling that changes nothing would change a slice.

    Attributes:
        pairs: Where units can be rescaled.
        ratio: Mean rise of the loss along random directions after all units have been balanced (the norms of what
            comes in and of what goes out made equal), over that before; NaN where there are no pairs.
        standard_error: Of the ratio, over the directions.
    """

    pairs: tuple[Pair, ...]
    ratio: float
    standard_error: float

    @property
    def warning(self) -> str:
        """One sentence for who reads the slice; nothing where no unit can be rescaled."""
        if not self.pairs:
            return ""
        where = ", ".join(f"{pair.first} to {pair.second}" for pair in self.pairs[:3])
        more = f" and {len(self.pairs) - 3} more" if len(self.pairs) > 3 else ""
        return (
            f"normalization does not see all rescalings: {sum(pair.units for pair in self.pairs)} units "
            f"({where}{more}) can be rescaled without changing the function, and balancing them would multiply the "
            f"mean rise of the loss by {self.ratio:.3g} ± {self.standard_error:.1g}"
        )


def rescalable_pairs(objective: Objective) -> list[Pair]:
    """Find the layers whose units can be rescaled, by trying it out.

    Layers that follow each other in the order of the modules are taken as candidates, and a pair is believed only if
    rescaling its units by powers of two leaves the loss what it is, at two points, and rescaling the first layer alone
    does not. So no pair is claimed that does not have the freedom; pairs that lie further apart are not looked for.

    References:
        Neyshabur, Salakhutdinov & Srebro, "Path-SGD", NeurIPS 2015, section 2; Dinh et al., "Sharp Minima Can
        Generalize For Deep Nets", ICML 2017, section 3.
    """
    few = objective.with_examples(min(_EXAMPLES, len(objective.examples)))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(few.size, generator=generator, dtype=torch.float64).to(few.theta)
    points = [few.theta, few.theta + 0.01 * few.theta.abs().mean() * noise]
    losses = [few.loss(theta).item() for theta in points]
    found = []
    for pair in _candidates(objective):
        factors = 2.0 ** torch.randint(-1, 2, (pair.units,), generator=generator)
        whole, alone = _factors(objective, pair, factors), _factors(objective, pair, factors, outgoing=False)
        kept = all(_equal(few.loss(theta * whole).item(), loss) for theta, loss in zip(points, losses, strict=True))
        if kept and not _equal(few.loss(few.theta * alone).item(), losses[0]):
            found.append(pair)
    return found


def balanced(objective: Objective, pairs: list[Pair]) -> Tensor:
    """Rescale the units of all pairs so that the norm of what comes in equals that of what goes out: (P,)."""
    theta = objective.theta
    for _ in range(_SWEEPS):
        for pair in pairs:
            incoming, outgoing = _norms(objective, theta, pair)
            usable = (incoming > 0) & (outgoing > 0)
            factors = torch.where(usable, (outgoing / incoming).sqrt(), torch.ones_like(incoming))
            theta = theta * _factors(objective, pair, factors)
    return theta


def invariance(objective: Objective, kind: str = "filter", seed: int = 0) -> Invariance:
    """Measure how much balancing the units, which leaves the function as it is, changes random slices.

    Args:
        objective: Where the slices are centred.
        kind: How the directions are normalized.
        seed: Of the first direction.
    """
    pairs = rescalable_pairs(objective)
    if not pairs:
        return Invariance((), math.nan, math.nan)
    few = objective.with_examples(min(2 * _EXAMPLES, len(objective.examples)))
    before = _rises(few, few.theta, kind, seed)
    after = _rises(few, balanced(objective, pairs), kind, seed)
    ratio = float(after.mean() / before.mean())
    spread = np.std(after - ratio * before, ddof=1) / math.sqrt(len(before))  # of a ratio of means, to first order
    return Invariance(tuple(pairs), ratio, float(spread / abs(before.mean())))


def _rises(objective: Objective, theta: Tensor, kind: str, seed: int) -> np.ndarray:
    """Mean rise of the loss on both sides, for each of several directions."""
    rows = [random_directions(theta, objective.layout, kind, 1, seed + n)[0] for n in range(_DIRECTIONS)]
    ends = [theta + sign * _RADIUS * row for row in rows for sign in (1, -1)]
    losses = objective.losses(torch.stack([theta, *ends])).cpu().numpy()
    return np.asarray(losses[1:].reshape(_DIRECTIONS, 2).mean(axis=1) - losses[0])


def _candidates(objective: Objective) -> Iterator[Pair]:
    modules = [(name, m) for name, m in objective.named_modules() if isinstance(m, _LAYERS + _NORMS)]
    for (first, scaling), later in zip(modules, (modules[n + 1 :] for n in range(len(modules))), strict=True):
        second = next((name for name, module in later if isinstance(module, _LAYERS)), None)
        units = _units(scaling)
        if second is None or not units or not {f"{first}.weight", f"{second}.weight"} <= set(objective.layout.names):
            continue
        reader: Any = dict(modules)[second]
        if reader.weight.shape[1] % units == 0 and getattr(reader, "groups", 1) == 1:
            yield Pair(first, second, units)


def _units(module: nn.Module) -> int:
    weight = module.weight
    return len(weight) if isinstance(weight, Tensor) else 0


def _factors(objective: Objective, pair: Pair, factors: Tensor, outgoing: bool = True) -> Tensor:
    """What every parameter (P,) is multiplied by when the units are."""
    scales = {
        n: torch.ones(s, dtype=torch.float64)
        for n, s in zip(objective.layout.names, objective.layout.shapes, strict=True)
    }
    for name in (f"{pair.first}.weight", f"{pair.first}.bias"):
        if name in scales:
            scales[name] *= factors.cpu().view(-1, *(1,) * (scales[name].ndim - 1))
    reader = scales[f"{pair.second}.weight"]
    if outgoing:
        reader /= _per_column(factors.cpu(), reader)
    return objective.layout.flatten(scales).to(objective.theta)


def _per_column(values: Tensor, weight: Tensor) -> Tensor:
    """One value for each column of a weight: a flattened image has several columns a channel."""
    return values.repeat_interleave(weight.shape[1] // len(values)).view(1, -1, *(1,) * (weight.ndim - 2))


def _norms(objective: Objective, theta: Tensor, pair: Pair) -> tuple[Tensor, Tensor]:
    """Norms (units,) of what comes into each unit and of what goes out."""
    tensors = objective.layout.unflatten(theta)
    incoming = tensors[f"{pair.first}.weight"].reshape(pair.units, -1).norm(dim=1)
    weight = tensors[f"{pair.second}.weight"]
    outgoing = weight.transpose(0, 1).reshape(pair.units, -1).norm(dim=1)
    return incoming, outgoing


def _equal(value: float, reference: float) -> bool:
    return abs(value - reference) <= _EQUAL * max(abs(reference), 1e-3)
