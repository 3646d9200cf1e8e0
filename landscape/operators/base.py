"""Symmetric matrices that are known by their products and never written out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from landscape.batch_size import fitting_batch_size
from landscape.folding import NotFoldedError, require_folded
from landscape.identity import digest
from landscape.objective import Objective
from landscape.operators.graphs import Graphs, Multiply
from landscape.randomness import preserved_rng

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator as ScipyOperator

_FEW = (2, 4)  # examples whose graphs are measured; what both have, such as weights, does not grow with a batch


class LinearOperator(ABC):
    """A symmetric matrix (P, P) that is known by its products.

    Attributes:
        size: P.
        device: Where vectors live.
        dtype: The floating-point type of products.
    """

    size: int
    device: torch.device
    dtype: torch.dtype

    @abstractmethod
    def matmat(self, V: Tensor) -> Tensor:
        """Multiply K vectors at once: (P, K) -> (P, K)."""

    @property
    def strategy(self) -> dict[str, Any]:
        """How products have been computed, for the record."""
        return {}

    @property
    def identity(self) -> str:
        """What tells this matrix from others, so that products of one are not taken for those of another."""
        return f"{type(self).__name__} of size {self.size}"

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply one vector: (P,) -> (P,)."""
        return self.matmat(v.unsqueeze(1)).squeeze(1)

    def __matmul__(self, V: Tensor) -> Tensor:
        return self.matvec(V) if V.ndim == 1 else self.matmat(V)

    def dense(self, block: int = 64) -> Tensor:
        """Write the matrix out, (P, P), `block` columns at a time; for small P."""
        eye = torch.eye(self.size, dtype=self.dtype, device=self.device)
        return torch.cat([self.matmat(columns) for columns in eye.split(block, dim=1)], dim=1)

    def to_scipy(self) -> ScipyOperator:
        """Wrap as a `scipy.sparse.linalg.LinearOperator`."""
        from scipy.sparse.linalg import LinearOperator as ScipyOperator

        def multiply(V: Any) -> Any:
            tensor = torch.as_tensor(V, dtype=self.dtype, device=self.device)
            return (self @ tensor).cpu().numpy()

        def multiply_one(v: Any) -> Any:
            return multiply(v.reshape(-1))

        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return ScipyOperator(
            (self.size, self.size), matvec=multiply_one, rmatvec=multiply_one, matmat=multiply, dtype=dtype
        )


class ObjectiveOperator(LinearOperator):
    """A symmetric matrix (P, P) that is a mean over the examples of an objective, at one point.

    A subclass says, in `linearize`, what one batch contributes. What no vector enters is done once and kept for later
    products, batch by batch as far as `memory` reaches, and done anew in each product for the others.

    Attributes:
        source: The function whose curvature it is.
        theta: (P,) the point.
        layout: The block of parameters that the matrix belongs to.
        graphs: What is kept between products.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Tensor | None = None,
        parameters: str | Sequence[str] | None = None,
        *,
        memory: int | None = None,
    ):
        """Fix the point and, optionally, a block of parameters.

        Args:
            objective: The function to differentiate.
            theta: (P,) the point; default: where the model stood.
            parameters: Names or patterns of a block of the objective's parameters; default: all of them.
            memory: Bytes of graphs to keep between products; default 512 MiB, on a GPU a quarter of what it has. They
                are freed with the operator.

        Raises:
            ValueError: If a pattern matches none of the objective's parameters, or `theta` is not a vector of P
                entries.
        """
        self.source = objective
        self.theta = objective.theta if theta is None else theta.detach().clone()
        self.layout = objective.layout if parameters is None else objective.layout.matching(parameters)
        self.size, self.device, self.dtype = self.layout.size, objective.device, objective.dtype
        objective.layout.unflatten(self.theta)  # says what is wrong with it
        self.graphs = Graphs(memory, self.device)
        self._is_checked = False

    @abstractmethod
    def linearize(self, batch: Any, tensors: list[Tensor]) -> Multiply:
        """Do the work of a batch that no vector enters, where the model of `objective` stands.

        Args:
            batch: Of the objective's examples.
            tensors: The parameters of the block, for automatic differentiation.

        Returns:
            From vectors (P, K) to products (P, K); it may be called many times, so graphs must be retained.
        """

    @cached_property
    def objective(self) -> Objective:
        """A copy of the objective that stands at `theta` for good, made for derivatives."""
        return self.source.frozen(self.theta)

    @property
    def strategy(self) -> dict[str, Any]:
        """How products have been computed, for the record."""
        return {
            "batch_size": self.objective.batch_size,
            "graphs_kept": self.graphs.num_kept,
            "vectors_at_once": self.graphs.at_once,
            "norms_folded": len(self.objective.folds),
        }

    @cached_property
    def identity(self) -> str:
        """What tells this matrix from others of the same model and data."""
        return f"{type(self).__name__} {self.layout.names} {digest(self.theta)}"

    def cotangents(self, V: Tensor) -> list[Tensor]:
        """Cut vectors (P, K) into one tensor (K, *shape) for each parameter of the block."""
        parts = V.T.split(self.layout.sizes, dim=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.layout.shapes, strict=True)]

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply K vectors at once: (P, K) -> (P, K).

        Raises:
            ValueError: If V does not have P rows, or no columns.
        """
        if V.ndim != 2 or V.shape[0] != self.size or not V.shape[1]:
            raise ValueError(f"expected vectors as columns of a ({self.size}, K) matrix, got {tuple(V.shape)}.")
        with torch.inference_mode(False):
            V = V.to(self.device, self.dtype, copy=V.is_inference())
        try:
            return self._product(V)
        except NotFoldedError:
            self.graphs.drop(keep_none=False)
            self.objective = self.source.frozen(self.theta, folding=False)
            return self._product(V)

    def _product(self, V: Tensor) -> Tensor:
        objective, passes = self.objective, self.objective.num_passes
        if not self.graphs.at_once:
            self._prepare()
        tensors, batch_size = objective.tensors(self.layout), objective.batch_size

        def of_batch(batch: Any) -> list[Tensor]:
            nonlocal batch_size
            if objective.batch_size < batch_size:  # memory ran out
                self.graphs.drop(keep_none=True)
                batch_size = objective.batch_size
            return [self.graphs.linearized(batch, lambda: self._linearize(batch, tensors))(V)]

        with objective.differentiating(), preserved_rng(self.device):
            (products,) = objective.average(of_batch)
        self.source.num_passes += objective.num_passes - passes
        return products.to(self.dtype)

    def _prepare(self) -> None:
        """Choose the batch size and the number of vectors at once, from the memory of the graph of a few examples."""
        objective = self.objective
        tensors = objective.tensors(self.layout)
        sizes = []
        with objective.differentiating(), preserved_rng(self.device):
            for few in _FEW:
                batch, count = next(objective.examples.batches(min(few, objective.batch_size)))
                sizes.append((self.graphs.bytes_of(partial(self._linearize, batch, tensors)), count))
        self.graphs.bytes_of_one = _slope(*sizes)
        number = len(objective.examples)
        if objective.chooses_batch_size:
            objective.batch_size = fitting_batch_size(self.graphs.bytes_of_one, number, self.device)
        self.graphs.choose(min(objective.batch_size, number))

    def _linearize(self, batch: Any, tensors: list[Tensor]) -> Multiply:
        made = self.linearize(batch, tensors)
        require_folded(self.objective.folds)
        if not self._is_checked:
            self._is_checked = True
            self._require_symmetry(made)
        return made

    def _require_symmetry(self, multiply: Multiply) -> None:
        """Refuse derivatives that are wrong, by u^T H v = v^T H u for two random vectors and one batch."""
        generator = torch.Generator().manual_seed(0)
        V = torch.randn(self.size, 2, generator=generator, dtype=torch.float64).to(self.device, self.dtype)
        HV = multiply(V).double()
        products = V.double().T @ HV
        # For a random u the rounding of Hv adds its norm times N(0, 1): 1e-6 of ||Hv|| in float32, 1e-3 in TF32.
        allowed = (1e-6 if self.dtype == torch.float64 else 2e-2) * HV.norm()
        if (products[0, 1] - products[1, 0]).abs() > allowed:
            raise RuntimeError(
                f"the {type(self).__name__} of this model is not symmetric (u'Hv and v'Hu are {products[0, 1]:.6g} and "
                f"{products[1, 0]:.6g}): some operation in it has a wrong second derivative. torch's weight_norm is "
                "one; fold it into the weight (remove_parametrizations), or write the operation out."
            )


def _slope(fewer: tuple[int, int], more: tuple[int, int]) -> float:
    """Bytes that each example adds, from two pairs (bytes, examples)."""
    if more[1] == fewer[1]:
        return more[0] / more[1]
    return max(0.0, (more[0] - fewer[0]) / (more[1] - fewer[1]))
