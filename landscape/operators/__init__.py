"""Curvature of an objective as linear operators that are never written out."""

from landscape.operators.base import LinearOperator, ObjectiveOperator
from landscape.operators.choice import PRECONDITIONED, TITLES, OperatorName, curvature, require_operator
from landscape.operators.fisher import EmpiricalFisher, Fisher
from landscape.operators.gauss_newton import GaussNewton
from landscape.operators.hessian import Hessian
from landscape.operators.outputs import OutputOperator
from landscape.operators.preconditioned import Preconditioned
from landscape.operators.resumable import Resumable
from landscape.operators.sharded import Distributed, Sharded

__all__ = [
    "PRECONDITIONED",
    "TITLES",
    "Distributed",
    "EmpiricalFisher",
    "Fisher",
    "GaussNewton",
    "Hessian",
    "LinearOperator",
    "ObjectiveOperator",
    "OperatorName",
    "OutputOperator",
    "Preconditioned",
    "Resumable",
    "Sharded",
    "curvature",
    "require_operator",
]
