"""Match the hidden units of one network to those of another, so that the straight line between them is low."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from landscape.objective import Objective
from landscape.paths.units import Units

Permutations = dict[str, Tensor]
_MOST_SWEEPS = 100


@dataclass(frozen=True)
class Matching:
    """Which unit of the moving network stands in for each unit of the other.

    Attributes:
        permutations: For each group, the unit that comes to each place (n,).
        products: The inner product of the weights of both networks, at first and after each sweep; it never falls.
        converged: Whether the last sweep changed nothing.
    """

    permutations: Permutations
    products: tuple[float, ...]
    converged: bool


def match_weights(
    units: Units, still: Mapping[str, Tensor], moving: Mapping[str, Tensor], seed: int = 0, sweeps: int = _MOST_SWEEPS
) -> Matching:
    """Permute hidden units so that the weights of two networks are as near as can be found.

    Minimizing the distance is maximizing the inner product of the weights. Group by group, in an order drawn anew for
    each sweep, the permutation that is best while the others stay is found exactly, as a linear assignment; a sweep
    never makes the inner product smaller. With one group that is the optimum; with several it is a local one.

    Args:
        units: Which units can trade places.
        still: The weights of the network that stays, by name; only what is in both and in `units` counts.
        moving: The weights of the other.
        seed: Of the orders.
        sweeps: At most so many.

    Raises:
        ValueError: If `sweeps` is below 1.

    References:
        Ainsworth et al., "Git Re-Basin: Merging Models modulo Permutation Symmetries", ICLR 2023, algorithm 1.
    """
    if sweeps < 1:
        raise ValueError(f"sweeps must be at least 1, got {sweeps}.")
    names = [name for name in units.axes if name in still and name in moving]
    pairs = {name: (still[name].detach().double(), moving[name].detach().double()) for name in names}
    found: Permutations = {group: torch.arange(size) for group, size in units.groups.items()}
    generator = np.random.default_rng(seed)
    products = [_product(units, pairs, found)]
    for _ in range(sweeps):
        changes = [_improve(units, pairs, found, group) for group in generator.permutation(list(found))]
        products.append(_product(units, pairs, found))
        if not any(changes):
            return Matching(found, tuple(products), converged=True)
    return Matching(found, tuple(products), converged=False)


def aligned(objective: Objective, units: Units, still: Tensor, moving: Tensor, seed: int = 0) -> Tensor:
    """Move the hidden units of one point to where they match another, and make sure that the function is the same.

    Args:
        objective: Whose model the points are of, and on whose data the function is compared.
        units: Which units can trade places.
        still: (P,) the point that stays.
        moving: (P,) the point whose units move.
        seed: See `match_weights`.

    Returns:
        (P,) the same network as `moving`, its units in other places.

    Raises:
        ValueError: If the permuted network computes something else, so that `units` is wrong.
    """
    layout = objective.layout
    matching = match_weights(units, layout.unflatten(still), layout.unflatten(moving), seed)
    permuted = layout.flatten(units.permuted(layout.unflatten(moving), matching.permutations))
    require_same_function(objective, moving, permuted)
    return permuted


def require_same_function(objective: Objective, theta: Tensor, other: Tensor) -> None:
    """Refuse two points whose networks give different outputs for the first batch of the data.

    Raises:
        ValueError: If they do, beyond rounding.
    """
    one, two = (_outputs(objective, point) for point in (theta, other))
    scale = 1 + one.abs().max().item()
    error = (one - two).abs().max().item() / scale
    if not error <= 1e5 * torch.finfo(objective.dtype).eps:  # also where it is not a number
        raise ValueError(
            f"the permuted network is another function (outputs differ by {error:.1e} of their size), so the "
            "permutation specification is wrong; check that each axis a group touches is named, and nothing else."
        )


def _outputs(objective: Objective, theta: Tensor) -> Tensor:
    batch, _ = next(objective.examples.batches(objective.batch_size))
    with torch.no_grad(), objective.at(theta):
        return objective.batch_output(batch).double()


def _improve(units: Units, pairs: Mapping[str, tuple[Tensor, Tensor]], found: Permutations, group: str) -> bool:
    """Choose the best permutation of one group while the others stay; say whether it is better than the one before."""
    touched = {n: pair for n, pair in pairs.items() if any(s.group == group for a in units.axes[n] for s in a or ())}
    similarity = sum(_similarity(units, name, *pair, found, group) for name, pair in touched.items())
    _, chosen = linear_sum_assignment(similarity, maximize=True)
    proposed = {**found, group: torch.from_numpy(chosen)}
    # a tensor may have the group on two axes, where the assignment is no longer exact; so what counts is the product
    before, after = (_product(units, touched, orders) for orders in (found, proposed))
    if after <= before + 1e-12 * abs(before):
        return False
    found[group] = proposed[group]
    return True


def _similarity(units: Units, name: str, still: Tensor, moving: Tensor, found: Permutations, group: str) -> np.ndarray:
    """Inner products (n, n) of what belongs to each unit of the one and to each of the other, in one tensor."""
    total = np.zeros((len(found[group]),) * 2)
    for number, axis in enumerate(units.axes[name]):
        start = 0
        for segment in axis or ():
            if segment.group == group:
                others = units.permuted_one(name, moving, found, but=number)
                one, two = (
                    t.narrow(number, start, segment.size).movedim(number, 0).reshape(segment.units, -1)
                    for t in (still, others)
                )
                total += (one @ two.T).cpu().numpy()
            start += segment.size
    return total


def _product(units: Units, pairs: Mapping[str, tuple[Tensor, Tensor]], found: Permutations) -> float:
    return sum(float((one * units.permuted_one(name, two, found)).sum()) for name, (one, two) in pairs.items())
