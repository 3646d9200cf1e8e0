"""How much a slice depends on how a network's weights happen to be scaled, and which parameters it moves.

A filter-normalized direction is multiplied by the norms of the model's own filters. Multiply a whole ReLU layer by c
and divide the next one by c, and each filter's direction follows: the slice stays. Do the same to single units, each by
its own c, and it does not: a filter of the next layer reads all of these units, so its entries change by different
factors while its direction is multiplied by one norm, and entries that were small become as noisy as large ones. The
function is the same, the slice is another one. Weight-normalized directions follow every such rescaling.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, nan

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from landscape.directions import random_directions
from landscape.free_units import FreeUnits, free_units, rescale
from landscape.intervals import mean_and_error
from landscape.objective import Objective
from landscape.parameters import ParameterLayout
from landscape.width import with_error

Floats = NDArray[np.float64]

SENSITIVE_KINDS = ("filter", "layer", "gaussian")  # of random directions; those of kind weight follow each entry
WORTH_SAYING = 0.05  # a relative change of the slice below this is no reason to warn

_EXAMPLES = 256  # on which a warning is measured
_SWEEPS = 20  # over all layers, after which balanced norms have settled
_LARGEST_SCALE = 1e4  # of a unit; beyond, one of its sides is as good as dead


@dataclass(frozen=True)
class RescalingTest:
    """What a rescaling of single units does to a slice, though it leaves the function as it is.

    Attributes:
        layers: What was rescaled, for example "conv1.weight -> conv2.weight".
        imbalances: Of each layer, the typical factor (geometric standard deviation over its units, at least 1) by
            which its units had to be scaled.
        loss_change: Largest magnitude of the change of the loss at the checkpoint: rounding only.
        step: Where the rise was measured, alpha = +-step, in multiples of the direction.
        rise: Mean rise of the loss there, over directions and both sides, in its units.
        rescaled_rise: The same after the rescaling, along the directions of the same random draws.
        change: The typical relative change of the rise along a direction: the geometric mean over directions of the
            ratio of both rises, less 1. A direction along which a rise is not positive has no ratio.
        standard_error: Of the change, by the spread of the logarithm of the ratio; NaN for fewer than two directions.
        draws: How many directions have a ratio.
    """

    layers: tuple[str, ...]
    imbalances: tuple[float, ...]
    loss_change: float
    step: float
    rise: float
    rescaled_rise: float
    change: float
    standard_error: float
    draws: int

    @property
    def matters(self) -> bool:
        """Whether the slice changes by more than 5%, beyond twice its error."""
        return abs(self.change) > max(WORTH_SAYING, 2 * self.standard_error)


def balanced_scales(theta: Tensor, layout: ParameterLayout, units: Sequence[FreeUnits]) -> list[Tensor]:
    """Find the scales that make what comes into each unit as long as what goes out of it.

    With the norms a of a unit's incoming weights (of its scale and shift behind a normalization; biases beside weights
    do not count) and o of its outgoing ones, c = sqrt(o / a) makes both sqrt(a o). Layers that share a weight
    are swept until all are balanced. The mean of log c over a layer is taken out: whole layers keep their scale. Units
    with a side of zero keep theirs, and none is scaled by more than 10^4.

    Returns:
        (size,) positive scales for each layer, in float64; `free_units.rescale` applies them.

    References:
        Stock et al., "Equi-normalization of Neural Networks", ICLR 2019, section 3.
    """
    logs = [torch.zeros(layer.size, dtype=torch.float64) for layer in units]
    for _ in range(_SWEEPS):
        for number, layer in enumerate(units):
            parts = layout.unflatten(rescale(theta.cpu().double(), layout, units, [log.exp() for log in logs]))
            incoming, outgoing = _norms(parts, _weights(layer), layer.size), _norms(parts, layer.outgoing, layer.size)
            alive = (incoming > 0) & (outgoing > 0)
            ratio = torch.where(alive, outgoing / incoming.clamp_min(torch.finfo(torch.float64).tiny), 1.0).log() / 2
            ratio = torch.where(alive, ratio - (ratio[alive].mean() if alive.any() else 0.0), 0.0)
            bound = float(np.log(_LARGEST_SCALE))
            logs[number] = (logs[number] + ratio).clamp(-bound, bound)
    return [log.exp() for log in logs]


def unit_rescaling(
    objective: Objective,
    kind: str = "filter",
    seed: int = 0,
    draws: int = 3,
    step: float = 0.1,
    one_dimensional: str = "zero",
) -> RescalingTest | None:
    """Measure how a slice changes under a rescaling of single units that leaves the function as it is.

    The units of every layer that `free_units` finds are balanced (`balanced_scales`), and the loss is measured at
    alpha = +-step along directions drawn from the same seeds before and after: 4 draws + 4 passes over the
    data. The balanced network is one of many that compute the same function; others would change the slice by more,
    without bound.

    Args:
        objective: Of any model.
        kind: Of random directions: filter, layer, weight or gaussian.
        seed: Of the first direction; that of the slice gives the slice's own.
        draws: How many directions.
        step: Where on the line, in multiples of the direction.
        one_dimensional: As for the slice.

    Returns:
        The test; None if no layer is found whose units are free.

    Raises:
        ValueError: If `draws` or `step` is not positive, or a direction cannot be made.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}.")
    if not 0 < step < float("inf"):
        raise ValueError(f"step must be positive and finite, got {step}.")
    units = free_units(objective)
    if not units:
        return None
    scales = balanced_scales(objective.theta, objective.layout, units)
    points = (objective.theta, rescale(objective.theta, objective.layout, units, scales))
    centers = objective.losses(torch.stack(points)).cpu().numpy()
    made = [_directions(point, objective.layout, kind, range(seed, seed + draws), one_dimensional) for point in points]
    found = [_mean_of_sides(objective, *pair, step) for pair in zip(points, made, strict=True)]
    rises = np.stack(found, axis=1) - centers
    ratios = np.array([after / before for before, after in rises if before > 0 and after > 0])
    log, log_error = map(float, mean_and_error(np.log(ratios))) if len(ratios) else (nan, nan)
    return RescalingTest(
        layers=tuple(layer.name for layer in units),
        imbalances=tuple(_spread(one) for one in scales),
        loss_change=float(abs(centers[1] - centers[0])),
        step=step,
        rise=float(rises[:, 0].mean()),
        rescaled_rise=float(rises[:, 1].mean()),
        change=exp(log) - 1,
        standard_error=exp(log) * log_error,
        draws=len(ratios),
    )


def invariance_warning(
    objective: Objective,
    kind: str = "filter",
    seed: int = 0,
    draws: int = 3,
    step: float = 0.1,
    one_dimensional: str = "zero",
) -> str:
    """Say in one sentence that a slice depends on how single units are scaled, where it measurably does.

    It is measured on 256 examples at most.

    Args:
        objective: Of any model.
        kind: Of the slice's directions. Only of random ones is anything said.
        seed: Of the slice.
        draws: Directions of the test, see `unit_rescaling`.
        step: Where on the line it is measured, in multiples of the direction.
        one_dimensional: Of the slice.

    Returns:
        The sentence; empty where no free unit is known, or the slice changes by less than 5% or by less than twice
        the error of the measurement. That is no proof of invariance.
    """
    if kind not in SENSITIVE_KINDS:
        return ""
    few = objective.with_examples(min(_EXAMPLES, len(objective.examples)))
    test = unit_rescaling(few, kind, seed, max(draws, 2), step, one_dimensional)
    if test is None or not test.matters:
        return ""
    widest = int(np.argmax(test.imbalances))
    more = f" and {len(test.layers) - 1} more" if len(test.layers) > 1 else ""
    return (
        f"not invariant: a rescaling of single units that leaves the function as it is (balancing {test.layers[widest]}"
        f"{more}, by factors of typically {max(test.imbalances):.2g}) multiplies the rise of the loss at alpha "
        f"= ±{test.step:g} by {with_error(1 + test.change, test.standard_error)} ({test.draws} directions); "
        "weight-normalized directions (directions=weight) follow every such rescaling."
    )


def moved_parameters(objective: Objective, vectors: Tensor) -> str:
    """Say in words which parameters a line, plane or volume moves, and which stay where they are.

    Args:
        objective: Whose parameters they are.
        vectors: (D, P) the directions.

    Returns:
        For example "conv.weight, fc.weight: 35 of 45 parameters (77.8%); fixed: conv.bias, norm.weight, norm.bias;
        BatchNorm keeps its stored statistics". Names that differ in numbers only are put together.
    """
    layout = objective.layout
    touched = layout.unflatten((vectors != 0).any(dim=0).cpu())
    sizes = dict(zip(layout.names, layout.sizes, strict=True))
    moving = [name for name in layout.names if touched[name].any()]
    fixed = [name for name in layout.names if name not in moving]
    count = sum(int(touched[name].sum()) for name in moving)
    words = [
        f"{patterns(moving) or 'nothing'}: {count:,} of {layout.size:,} parameters ({100 * count / layout.size:.3g}%)"
    ]
    partly = [name for name in moving if int(touched[name].sum()) < sizes[name]]
    if partly:
        words.append(f"only in part: {patterns(partly)}")
    if fixed:
        words.append(f"fixed: {patterns(fixed)}")
    if objective.parameters not in ("*", ["*"], ("*",)):
        words.append(f"other parameters than {objective.parameters} do not vary")
    if any(issubclass(kind, _BATCH_NORM) for kind in objective.module_types()):
        words.append(f"BatchNorm {_STATISTICS[objective.normalization]}")
    return "; ".join(words)


_BATCH_NORM = nn.modules.batchnorm._BatchNorm
_STATISTICS = {
    "running": "keeps its stored statistics",
    "batch": "uses the statistics of each batch",
    "recalibrated": "is recalibrated at each point",
}


def patterns(names: Sequence[str], most: int = 6) -> str:
    """Join names, those that differ in numbers only as one pattern.

    >>> patterns(["conv.weight", "layers.0.weight", "layers.1.weight"])
    'conv.weight, layers.*.weight (2)'
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    words = [f"{pattern} ({len(same)})" if len(same) > 1 else same[0] for pattern, same in groups.items()]
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def _directions(
    theta: Tensor, layout: ParameterLayout, kind: str, seeds: Sequence[int], one_dimensional: str
) -> list[Tensor]:
    return [random_directions(theta, layout, kind, 1, seed, one_dimensional)[0] for seed in seeds]


def _mean_of_sides(objective: Objective, theta: Tensor, directions: Sequence[Tensor], step: float) -> Floats:
    """Mean of the loss at both sides of a point, along each of its directions."""
    sides = torch.stack([theta + sign * step * direction for direction in directions for sign in (1, -1)])
    return np.asarray(objective.losses(sides).cpu().numpy().reshape(-1, 2).mean(axis=1))


def _weights(layer: FreeUnits) -> dict[str, Tensor]:
    """What counts as incoming: weights where there are any, else the scale and shift of a normalization."""
    return {name: index for name, index in layer.incoming.items() if index.ndim > 1} or layer.incoming


def _norms(parts: dict[str, Tensor], indices: dict[str, Tensor], size: int) -> Tensor:
    """Norm of each unit's entries in some parameters, (size,)."""
    squares = torch.zeros(size, dtype=torch.float64)
    for name, index in indices.items():
        squares.index_add_(0, index.reshape(-1), parts[name].double().square().reshape(-1))
    return squares.sqrt()


def _spread(scales: Tensor) -> float:
    return exp(float(scales.log().std(correction=0)))
