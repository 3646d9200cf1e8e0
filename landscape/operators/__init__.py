"""Curvature of an objective as linear operators that are never written out."""

from landscape.operators.base import LinearOperator, ObjectiveOperator
from landscape.operators.hessian import Hessian
from landscape.operators.resumable import Resumable

__all__ = ["Hessian", "LinearOperator", "ObjectiveOperator", "Resumable"]
