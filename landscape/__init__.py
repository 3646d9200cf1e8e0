"""Loss landscapes, curvature and training dynamics of neural networks.

An objective is the mean loss of any model over fixed data, as a function of its parameters.
A probe asks one question of an objective and answers with a labelled data set.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from landscape.density import Density, spectral_density
    from landscape.eigen import Eigenpairs, eigenpairs
    from landscape.measure import ask
    from landscape.objective import Objective
    from landscape.operators import Distributed, EmpiricalFisher, Fisher, GaussNewton, Hessian, Preconditioned, Sharded
    from landscape.optimizer_state import OptimizerState
    from landscape.parameters import ParameterLayout
    from landscape.store import Store
    from landscape.sweeps import open_sweep
    from landscape.traces import BlockTraces, TraceEstimate, block_traces, trace

_HOMES = {
    "BlockTraces": "landscape.traces",
    "Density": "landscape.density",
    "Distributed": "landscape.operators",
    "Eigenpairs": "landscape.eigen",
    "EmpiricalFisher": "landscape.operators",
    "Fisher": "landscape.operators",
    "GaussNewton": "landscape.operators",
    "Hessian": "landscape.operators",
    "Objective": "landscape.objective",
    "OptimizerState": "landscape.optimizer_state",
    "ParameterLayout": "landscape.parameters",
    "Preconditioned": "landscape.operators",
    "Sharded": "landscape.operators",
    "Store": "landscape.store",
    "TraceEstimate": "landscape.traces",
    "ask": "landscape.measure",
    "block_traces": "landscape.traces",
    "eigenpairs": "landscape.eigen",
    "open_sweep": "landscape.sweeps",
    "spectral_density": "landscape.density",
    "trace": "landscape.traces",
}

__all__ = [
    "BlockTraces",
    "Density",
    "Distributed",
    "Eigenpairs",
    "EmpiricalFisher",
    "Fisher",
    "GaussNewton",
    "Hessian",
    "Objective",
    "OptimizerState",
    "ParameterLayout",
    "Preconditioned",
    "Sharded",
    "Store",
    "TraceEstimate",
    "ask",
    "block_traces",
    "eigenpairs",
    "open_sweep",
    "spectral_density",
    "trace",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that ``import landscape`` stays fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'landscape' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
