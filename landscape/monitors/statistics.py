"""Statistics of activations, of back-propagated gradients, and of the gradients of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BINS = 40
SATURATION = 0.97  # of the range of tanh; of sigmoid, whose range is (0, 1), 0.985 and 0.015 are the same places
DORMANT = 0.025  # of the mean over units, tau of Sokar et al.
WINDOW = 256  # examples that are looked at to tell which units are dead
_FEWEST = 64  # examples that tell nothing yet
_MOST_VALUES = 4096  # of a histogram; it is taken of every so many values of a larger tensor

CAN_DIE = ("relu", "relu6")
"""Activations whose units can be silent: zero, with derivative zero, for every example."""


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population variance of all entries, as two scalars in float32 or better."""
    variance, mean = torch.var_mean(_real(values), correction=0)
    return mean, variance


def saturated_share(kind: str, values: Tensor) -> Tensor:
    """Share of entries where the derivative of tanh or sigmoid has all but vanished; NaN for other activations.

    |tanh| > 0.97, where the derivative is below 0.06 of its largest value; the same places of a sigmoid.
    """
    if kind not in ("tanh", "sigmoid"):
        return torch.full((), torch.nan, device=values.device)
    centered = values if kind == "tanh" else 2 * values - 1
    return (centered.abs() > SATURATION).float().mean()


def dormant_share(by_unit: Tensor) -> Tensor:
    """Share of units whose mean magnitude is at most 0.025 of the mean over the layer's units.

    Args:
        by_unit: (units,) mean magnitude of each unit's output.

    References:
        Sokar et al., "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", ICML 2023, definition 3.1.
    """
    return (by_unit <= DORMANT * by_unit.mean()).float().mean()


def unit_magnitudes(values: Tensor, axis: int) -> Tensor:
    """Mean magnitude of each unit's output over examples and places: (units,)."""
    others = [number for number in range(values.ndim) if number != axis % values.ndim]
    return _real(values).abs().mean(dim=others)


@dataclass
class Silence:
    """Which units of a layer have given nothing but zero for the examples of a few batches in a row.

    Attributes:
        silent: (units,) whether there was no other output yet.
        seen: Examples that were looked at.
    """

    silent: Tensor
    seen: int = 0

    def look_at(self, magnitudes: Tensor, examples: int) -> None:
        """Take in the mean magnitudes (units,) of a batch."""
        self.silent = self.silent & ~(magnitudes > 0)
        self.seen += examples

    @property
    def dead_share(self) -> float:
        """Share of units that were silent throughout; NaN for fewer than 64 examples."""
        return self.silent.float().mean().item() if self.seen >= _FEWEST else math.nan


def histogram(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count values in 40 equal bins between the smallest and the largest finite one.

    Returns:
        (40,) the share of the finite values in each bin (of every n-th value of a large tensor), the lower end of the
        first bin and the upper end of the last; NaN where no value is finite.
    """
    flat = _real(values.detach()).flatten()
    flat = flat[:: max(1, flat.numel() // _MOST_VALUES)]
    flat = flat[flat.isfinite()]
    if not flat.numel():
        nan = torch.full((), torch.nan, device=values.device)
        return nan.expand(BINS), nan, nan
    low, high = flat.aminmax()
    width = (high - low).clamp_min(torch.finfo(flat.dtype).tiny)
    index = ((flat - low) / width * BINS).long().clamp(0, BINS - 1)
    # counted by comparison: torch.histc has no deterministic form on CUDA
    counts = (index[:, None] == torch.arange(BINS, device=flat.device)).sum(0)
    return counts / flat.numel(), low, high


def sign_coherence(gradient: Tensor) -> Tensor:
    """How far the derivatives by the weights into one unit agree in sign: 1 if all do, on average over units.

    |mean of signs| over the weights (all axes but the first). Where all inputs of a unit are positive, one example
    alone gives all of them the same sign, so that the step zig-zags; see `sign_coherence_by_chance`.

    Args:
        gradient: (units, ...) the gradient of a weight.
    """
    signs = torch.where(gradient.isnan(), gradient, gradient.sign())  # torch gives NaN the sign 0
    return signs.flatten(1).mean(1).abs().mean()


def sign_coherence_by_chance(weights_a_unit: int) -> float:
    """Sign coherence of independent random signs, E|mean| for so many: sqrt(2 / (pi n)) for large n.

    >>> round(sign_coherence_by_chance(1), 3), round(sign_coherence_by_chance(2), 3)
    (1.0, 0.5)
    """
    n = weights_a_unit
    half = (n + 1) // 2
    # E|S_n| = 2 ceil(n/2) C(n, ceil(n/2)) / 2^n, for the sum S_n of n signs
    log_choose = math.lgamma(n + 1) - math.lgamma(half + 1) - math.lgamma(n - half + 1)
    return 2 * half / n * math.exp(log_choose - n * math.log(2))


def depth_slope(norms: NDArray[np.float64], depth: NDArray[np.int64]) -> NDArray[np.float64]:
    """Least-squares slope of log10 of gradient norms a layer, in the direction in which gradients travel.

    Below zero they vanish on their way from the loss to the input, above zero they explode: -1 is a factor of ten lost
    at every layer.

    Args:
        norms: (steps, layers) of the back-propagated gradient; what is not positive and finite is left out.
        depth: (layers,) the place of each layer, counted from the input; negative for one that was never reached.

    Returns:
        (steps,) the slopes; NaN with fewer than two layers.
    """
    slopes = np.full(len(norms), np.nan)
    for row, values in enumerate(norms):
        usable = np.isfinite(values) & (values > 0) & (depth >= 0)
        if usable.sum() >= 2:
            slopes[row] = -np.polyfit(depth[usable], np.log10(values[usable]), 1)[0]
    return slopes


def _real(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
