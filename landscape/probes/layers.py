"""Curvature layer by layer: the diagonal blocks of the Hessian in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from glob import escape
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from landscape.eigen import eigenpairs
from landscape.execution import quiet_progress, report_progress
from landscape.objective import Objective
from landscape.operators import Hessian, LinearOperator, Resumable
from landscape.parameters import ParameterLayout
from landscape.traces import block_traces, check_settings, trace

_WRITTEN_OUT = 100  # at most this many parameters: the block is written out and everything about it is exact


@dataclass(frozen=True)
class Layers:
    """One row a layer: the curvature of its own block of the Hessian, trace, Frobenius norm and gradient norm.

    Attributes:
        by: What is a row: layer (a module with parameters of its own) or parameter (a single tensor).
        eigenvalues: Solve each block for its largest and smallest eigenvalue. Without, all traces come from the
            same products, and there is no Frobenius norm.
        num_matvecs: Hessian products for the trace of each layer, or of all together without eigenvalues.
        tol: Residuals are driven below tol times the largest eigenvalue magnitude of the block.
        max_matvecs: Budget of Hessian products for the eigenvalues of each layer; None for 340.
        confidence: Of the intervals of traces and Frobenius norms.
        seed: Seed of the random vectors.
        parameters: Pattern of the parameters whose layers are measured, such as layer3.*.
    """

    by: Literal["layer", "parameter"] = "layer"
    eigenvalues: bool = True
    num_matvecs: int = 40
    tol: float = 1e-3
    max_matvecs: int | None = None
    confidence: float = 0.95
    seed: int = 0
    parameters: str = "*"

    def __post_init__(self) -> None:
        check_settings(self.num_matvecs, "krylov", self.seed, self.confidence, None)
        if self.by not in ("layer", "parameter"):
            raise ValueError(f"by must be layer or parameter, got {self.by!r}.")
        if not 0 < self.tol < 1:
            raise ValueError(f"tol must lie between 0 and 1, got {self.tol}.")
        if self.max_matvecs is not None and self.max_matvecs < 2:
            raise ValueError(f"max_matvecs must be at least 2, got {self.max_matvecs}.")

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Measure every layer.

        Returns:
            Over `layer`: num_parameters, largest_eigenvalue and smallest_eigenvalue of its diagonal block, each with
            ``_residual`` and ``_converged``; trace with trace_standard_error, trace_low and trace_high;
            frobenius_norm with frobenius_low and frobenius_high; gradient_norm; num_matvecs. And loss. A layer of one
            parameter has one eigenvalue, at both ends. Without eigenvalues num_matvecs is one number for all.

        Raises:
            ValueError: If the pattern matches nothing.
            RuntimeError: If a Hessian product is not finite.
        """
        layout = objective.layout.matching(self.parameters)
        rows = rows_of(layout, self.by)
        columns = self._solved(objective, rows) if self.eigenvalues else self._together(objective, layout, rows)
        gradient = objective.layout.unflatten(objective.gradient())
        norms = [float(sum(gradient[name].double().square().sum() for name in names)) ** 0.5 for names in rows.values()]
        sizes = [sum(gradient[name].numel() for name in names) for names in rows.values()]
        answer = xr.Dataset(
            {
                "num_parameters": ("layer", sizes),
                **columns,
                "gradient_norm": ("layer", norms),
                "loss": objective.loss().item(),
            },
            coords={"layer": list(rows)},
        )
        for name in answer.data_vars:
            if str(name).startswith(("largest", "smallest", "trace", "frobenius")) and "converged" not in str(name):
                answer[name].attrs["units"] = "nats"
        return answer

    def _solved(self, objective: Objective, rows: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
        """Each block by its own products."""
        measured = []
        for number, names in enumerate(rows.values()):
            report_progress("layers", number, len(rows))
            block = Resumable(Hessian(objective, parameters=[escape(name) for name in names]))
            with quiet_progress():
                measured.append(self._row(block))
        report_progress("layers", len(rows), len(rows))
        return {name: ("layer", np.array([row[name] for row in measured])) for name in measured[0]}

    def _row(self, block: LinearOperator) -> dict[str, Any]:
        written = block.size <= max(_WRITTEN_OUT, self.num_matvecs)
        operator = _Written(block.dense()) if written else block
        k = min(2, operator.size)
        pairs = eigenpairs(operator, k, "both" if k == 2 else "largest", self.tol, self.seed, self.max_matvecs)
        budget = max(self.num_matvecs, operator.size) if written else self.num_matvecs
        found = trace(operator, budget, seed=self.seed, deflate=None if written else pairs, confidence=self.confidence)
        ends = {
            f"{end}_{what}": values[position].item()
            for end, position in (("largest", 0), ("smallest", -1))
            for what, values in (
                ("eigenvalue", pairs.values),
                ("residual", pairs.residuals),
                ("converged", pairs.converged),
            )
        }
        return ends | {
            "trace": found.value,
            "trace_standard_error": found.standard_error,
            "trace_low": found.interval[0],
            "trace_high": found.interval[1],
            "frobenius_norm": found.frobenius_norm,
            "frobenius_low": found.frobenius_interval[0],
            "frobenius_high": found.frobenius_interval[1],
            "num_matvecs": block.size if written else pairs.num_matvecs + found.num_matvecs,
        }

    def _together(
        self, objective: Objective, layout: ParameterLayout, rows: Mapping[str, tuple[str, ...]]
    ) -> dict[str, Any]:
        """All traces from the products of the whole."""
        hessian = Resumable(Hessian(objective, parameters=self.parameters))
        number = {name: row for row, names in enumerate(rows.values()) for name in names}
        row_of = [number[name] for name in layout.names]
        belongs = torch.tensor(row_of).repeat_interleave(torch.tensor(layout.sizes))
        blocks = {label: (belongs == row).nonzero().squeeze(1) for row, label in enumerate(rows)}
        found = block_traces(hessian, blocks, self.num_matvecs, seed=self.seed, confidence=self.confidence)
        return {
            "trace": ("layer", found.values.numpy()),
            "trace_standard_error": ("layer", found.standard_errors.numpy()),
            "trace_low": ("layer", found.intervals[:, 0].numpy()),
            "trace_high": ("layer", found.intervals[:, 1].numpy()),
            "num_matvecs": found.num_matvecs,
        }


def rows_of(layout: ParameterLayout, by: str = "layer") -> dict[str, tuple[str, ...]]:
    """The parameters of each row of the table, in order: by module, or one by one.

    A parameter of the model itself, which belongs to no module inside it, is a row of its own.
    """
    rows: dict[str, tuple[str, ...]] = {}
    for name in layout.names:
        module = name.rpartition(".")[0]
        label = module if by == "layer" and module else name
        rows[label] = (*rows.get(label, ()), name)
    return rows


class _Written(LinearOperator):
    """A small block, written out."""

    def __init__(self, matrix: Tensor):
        self.matrix = matrix
        self.size, self.device, self.dtype = len(matrix), matrix.device, matrix.dtype

    def matmat(self, V: Tensor) -> Tensor:
        return self.matrix @ V
