"""Our curvature against the package pyhessian: same network, same batch, independent code."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from landscape.eigen import eigenpairs
from landscape.examples import Examples
from landscape.objective import Objective
from landscape.operators import Hessian

# pyhessian's own defaults (100 iterations, 1e-3) leave eigenvalues off by up to 0.7 % and say nothing of it.
_POWER_ITERATIONS = 1000
_POWER_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Comparison:
    """One number from both packages.

    Attributes:
        quantity: What was computed.
        ours: Our value.
        our_error: Its residual or standard error.
        theirs: The value of pyhessian.
        their_error: Its residual through pyhessian's own products, or its standard error.
        tolerance: The largest difference that still counts as agreement.
        reason: Where the tolerance comes from.
    """

    quantity: str
    ours: float
    our_error: float
    theirs: float
    their_error: float
    tolerance: float
    reason: str

    @property
    def difference(self) -> float:
        """|ours - theirs|."""
        return abs(self.ours - self.theirs)

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance; a NaN never is."""
        return self.difference <= self.tolerance


def verify(
    model: nn.Module,
    data: Any,
    loss: Callable[[Tensor, Tensor], Tensor],
    examples: int = 512,
    k: int = 3,
    num_vectors: int = 30,
    tol: float = 1e-3,
    seed: int = 0,
) -> list[Comparison]:
    """Compare eigenvalues of largest magnitude and the trace of the Hessian with pyhessian's.

    pyhessian works on a copy of the model in evaluation mode, so BatchNorm uses its running
    statistics on both sides. Its power iteration is run longer than by default.

    Args:
        model: Any module that pyhessian can take: every trainable parameter must be used.
        data: What `Objective` takes.
        loss: Mean loss of outputs and targets.
        examples: Size of the batch, a fixed random subset; everything where there are fewer.
        k: Number of eigenvalues.
        num_vectors: Number of random sign vectors for the trace.
        tol: Allowed difference relative to the largest eigenvalue, on top of the measured residuals.
        seed: Of the starting vectors and of the random signs.

    Raises:
        RuntimeError: If pyhessian itself fails on this model.
    """
    whole = Examples.of(data)
    batch = whole.take(min(examples, len(whole)))
    (inputs, targets), _ = next(batch.batches(len(batch)))
    hessian = Hessian(Objective(model, (inputs, targets), loss=loss, normalization="running"))
    with _reference(model, inputs, targets, loss, seed) as reference:
        return [
            *_eigenvalues(hessian, reference, k, tol, seed),
            _trace(hessian, reference, num_vectors, tol, seed),
        ]


@contextmanager
def _reference(model: nn.Module, inputs: Tensor, targets: Tensor, loss: Any, seed: int) -> Iterator[Any]:
    """Give pyhessian's object for a copy of the model; the caller's model and generators stay as they are."""
    from pyhessian import hessian

    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*create_graph=True.*")
        torch.manual_seed(seed)
        cuda = inputs.device.type == "cuda"
        try:
            reference = hessian(copy.deepcopy(model), loss, data=(inputs, targets), cuda=cuda)
            yield reference
        except (AssertionError, AttributeError) as error:
            raise RuntimeError(
                f"pyhessian cannot take this model ({error}); "
                "it needs every trainable parameter to reach the loss: freeze the unused ones"
            ) from error
        for parameter in reference.params:
            parameter.grad = None  # breaks the reference cycle that create_graph leaves behind


def _eigenvalues(hessian: Hessian, reference: Any, k: int, tol: float, seed: int) -> list[Comparison]:
    found, vectors = reference.eigenvalues(maxIter=_POWER_ITERATIONS, tol=_POWER_TOLERANCE, top_n=k)
    residuals = [_their_residual(reference, value, v) for value, v in zip(found, vectors, strict=True)]
    pairs = eigenpairs(hessian, k=min(2 * k + 4, hessian.size), which="both", tol=1e-4, seed=seed)
    ours = list(zip(pairs.values.tolist(), pairs.residuals.tolist(), strict=True))
    scale = max(abs(value) for value, _ in ours)
    comparisons = []
    for rank, (theirs, their_residual) in enumerate(zip(found, residuals, strict=True), start=1):
        nearest = min(ours, key=lambda pair: abs(pair[0] - theirs))
        ours.remove(nearest)
        # A residual r certifies an eigenvalue within r. The cap keeps a power iteration that did not
        # converge from agreeing with everything.
        tolerance = min(nearest[1] + their_residual + tol * scale, 0.05 * scale)
        reason = f"both residuals + {tol:g} of the largest magnitude, at most 5 % of it"
        name = f"eigenvalue {rank} by magnitude"
        comparisons.append(Comparison(name, *nearest, theirs, their_residual, tolerance, reason))
    return comparisons


def _their_residual(reference: Any, value: float, vector: list[Tensor]) -> float:
    """‖Hv - value v‖ / ‖v‖ through pyhessian's products, so that ours cannot hide an error of ours."""
    from pyhessian.utils import hessian_vector_product

    v = _flat(vector)
    product = _flat(hessian_vector_product(reference.gradsH, reference.params, vector))
    return float((product - value * v).norm() / v.norm())


def _trace(hessian: Hessian, reference: Any, num_vectors: int, tol: float, seed: int) -> Comparison:
    """Hutchinson's estimate on the same random signs, so that sampling error cancels in the difference."""
    torch.manual_seed(seed)
    theirs = torch.tensor(reference.trace(maxIter=num_vectors, tol=-math.inf), dtype=torch.float64)
    torch.manual_seed(seed)
    signs = [_flat([torch.randint_like(p, high=2) for p in reference.params]) * 2 - 1 for _ in range(num_vectors)]
    V = torch.stack(signs, dim=1)
    ours = (V.double() * hessian.matmat(V).double()).sum(dim=0).cpu()
    tolerance = tol * float(theirs.abs().mean())
    reason = f"{tol:g} of the mean |vᵀHv|: both use the same {num_vectors} sign vectors"
    errors = [float(x.std() / math.sqrt(num_vectors)) for x in (ours, theirs)]
    return Comparison("trace", float(ours.mean()), errors[0], float(theirs.mean()), errors[1], tolerance, reason)


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
