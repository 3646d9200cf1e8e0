"""Sharpness in all its published forms, side by side, each with its error and its definition."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import inf, isfinite, nan
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from landscape.execution import recalled, report_progress
from landscape.fields import settle
from landscape.objective import Objective
from landscape.operators import Hessian, LinearOperator, Resumable
from landscape.sharpness import (
    Measured,
    Point,
    average_case,
    hessian_trace,
    keskar,
    largest_eigenvalue,
    m_sharpness,
    pac_bayes,
    sam,
    sam_one_step,
)
from landscape.sharpness.box import require_percent
from landscape.sharpness.worst_case import require_own_losses

FAMILIES = (
    "eigenvalue",
    "trace",
    "keskar",
    "keskar-subspace",
    "sam-one-step",
    "sam",
    "asam",
    "asam-filter",
    "asam-infinity",
    "average",
    "average-adaptive",
    "pac-bayes",
    "pac-bayes-adaptive",
    "m-sharpness",
)
_PRODUCTS = ("eigenvalue", "trace")  # resumed product by product; the others measure by measure
_TEXTS = ("definition", "scale", "bounds")
_LONG_NAMES = {
    "value": "sharpness, in the scale of each measure",
    "standard_error": "standard error over random draws",
    "low": "lower end of what `bounds` says",
    "high": "upper end of what `bounds` says",
    "rise": "rise of the loss where the measure looked",
    "first_order_share": "share of the rise that the gradient alone explains",
    "nonfinite": "evaluated losses that were NaN or infinite",
    "num_passes": "passes over the data",
    "resolved": "stands out of rounding, or has converged",
}


@dataclass(frozen=True)
class Sharpness:
    """Sharpness in all its published forms, with the error, definition and scale of each.

    Attributes:
        measures: all, or some by commas: eigenvalue, trace, keskar, keskar-subspace, sam-one-step, sam, asam,
            asam-filter, asam-infinity, average, average-adaptive, pac-bayes, pac-bayes-adaptive, m-sharpness.
        epsilon: Half widths of Keskar's box.
        subspace: Dimensions of Keskar's random subspace.
        rho: Radius of the ball of sam, sam-one-step and m-sharpness.
        adaptive_rho: Radius of the ball of asam, relative to each parameter.
        filter_rho: Radius of the ball of asam-filter, relative to the norm of each filter.
        infinity_rho: Half width of the box of asam-infinity, relative to the parameters.
        sigma: Standard deviation of the noise of average.
        adaptive_sigma: Standard deviation of the noise of average-adaptive, relative to the parameters.
        target: Rise of the loss to which pac-bayes raises the noise.
        m: Examples a batch of m-sharpness.
        draws: Pairs of random points of average and pac-bayes.
        steps: Gradient steps of sam and asam.
        restarts: Starts of each search for a maximum.
        iterations: Of L-BFGS-B for keskar.
        matvecs: Hessian products for the trace, at least 20.
        tol: Residual of the eigenvalue, relative to it.
        seed: Of everything random.
    """

    measures: str = "all"
    epsilon: tuple[float, ...] = (1e-3, 5e-4)
    subspace: int = 100
    rho: float = 0.05
    adaptive_rho: float = 0.5
    filter_rho: float = 0.05
    infinity_rho: float = 0.002
    sigma: float = 0.01
    adaptive_sigma: float = 0.1
    target: float = 0.1
    m: int = 128
    draws: int = 20
    steps: int = 20
    restarts: int = 2
    iterations: int = 10
    matvecs: int = 60
    tol: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        chosen = self._chosen()
        positive = ("rho", "adaptive_rho", "filter_rho", "infinity_rho", "sigma", "adaptive_sigma", "target")
        for name, number in [(n, getattr(self, n)) for n in positive] + [("epsilon", e) for e in self.epsilon]:
            if not (isfinite(number) and number > 0):
                raise ValueError(f"{name} must be positive and finite, got {number}.")
        if not self.epsilon or len(set(self.epsilon)) < len(self.epsilon):
            raise ValueError(f"epsilon needs one or several different numbers, got {self.epsilon}.")
        least = {
            "subspace": 1,
            "m": 1,
            "draws": 2,
            "steps": 1,
            "restarts": 1,
            "iterations": 1,
            "matvecs": 20,
            "seed": 0,
        }
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} must be at least {bound}, got {getattr(self, name)}.")
        if not 0 < self.tol < 1:
            raise ValueError(f"tol must lie between 0 and 1, got {self.tol}.")
        object.__setattr__(self, "measures", "all" if chosen == list(FAMILIES) else ",".join(chosen))
        settle(self)

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Measure one after the other.

        Returns:
            value, standard_error, low, high, rise, first_order_share, nonfinite, num_passes, resolved and the texts
            definition, scale and bounds over `measure`; gradient_norm, loss, and what else is measured at the point
            (accuracy, test_loss, ...). A loss that was NaN or infinite near the point makes the measure so. Among all
            measures one that does not suit the objective is NaN; attribute `remark` and its definition say why.

        Raises:
            ValueError: If loss or gradient of the checkpoint are not finite, or a measure that was chosen by name does
                not suit the objective.
            RuntimeError: If a Hessian product is not finite.
        """
        point = Point.of(objective)
        metrics = objective.metrics()
        hessian = _Counted(Resumable(Hessian(objective)))
        questions = self._questions(objective, hessian, point)
        unsuited = self._unsuited(objective, point)
        found = {}
        for number, (name, measure) in enumerate(questions.items()):
            report_progress("measures", number, len(questions))
            reason = next((why for family, why in unsuited.items() if name.startswith(family)), "")
            if reason:
                found[name] = Measured(nan, f"not measured: {reason}", scale="none", resolved=False)
            else:
                found[name] = measure() if name in _PRODUCTS else self._recalled(name, measure)
        report_progress("measures", len(questions), len(questions))
        variables: dict[str, Any] = {
            name: ("measure", np.array([getattr(m, name) for m in found.values()]), {"long_name": text})
            for name, text in _LONG_NAMES.items()
        }
        variables |= {name: ("measure", [getattr(m, name) for m in found.values()]) for name in _TEXTS}
        answer = xr.Dataset(variables, coords={"measure": list(found)})
        answer["gradient_norm"] = point.gradient_norm
        for name, value in metrics.items():
            answer[name] = value
        answer["loss"].attrs["units"] = "nats"
        if unsuited:
            answer.attrs["remark"] = " ".join(unsuited.values())
        return answer

    def _chosen(self) -> list[str]:
        """The families asked for, in their own order.

        Raises:
            ValueError: If a word is unknown, or there is none.
        """
        if self.measures.strip() == "all":
            return list(FAMILIES)
        words = [word.strip() for word in self.measures.split(",") if word.strip()]
        unknown = [word for word in words if word not in FAMILIES]
        if unknown or not words:
            raise ValueError(
                f"measures must be all, or some of {', '.join(FAMILIES)}; got {', '.join(unknown) or 'nothing'}."
            )
        return [family for family in FAMILIES if family in words]

    def _unsuited(self, objective: Objective, point: Point) -> dict[str, str]:
        """Why families cannot be asked of this objective, before anything else is computed.

        Raises:
            ValueError: If measures were chosen by name and one of them is such.
        """
        found = {}
        suits: dict[str, Callable[[], None]] = {
            "keskar": lambda: require_percent(point),
            "m-sharpness": lambda: require_own_losses(objective),
        }
        for family, require in suits.items():
            if any(one.startswith(family) for one in self._chosen()):
                try:
                    require()
                except ValueError as error:
                    if self.measures != "all":
                        raise
                    found[family] = str(error)
        return found

    def _questions(self, objective: Objective, hessian: _Counted, point: Point) -> dict[str, Callable[[], Measured]]:
        """What is measured, by name."""
        search: dict[str, Any] = {"steps": self.steps, "restarts": self.restarts, "seed": self.seed, "point": point}
        noise: dict[str, Any] = {"draws": self.draws, "seed": self.seed, "point": point}
        box: dict[str, Any] = {
            "iterations": self.iterations,
            "restarts": self.restarts,
            "seed": self.seed,
            "point": point,
        }
        known: dict[str, Callable[[], Measured]] = {
            "eigenvalue": lambda: hessian.counted(largest_eigenvalue(objective, self.tol, self.seed, operator=hessian)),
            "trace": lambda: hessian.counted(hessian_trace(objective, self.matvecs, self.seed, operator=hessian)),
            "sam-one-step": lambda: sam_one_step(objective, self.rho, point=point),
            "sam": lambda: sam(objective, self.rho, **search),
            "asam": lambda: sam(objective, self.adaptive_rho, scale="element", **search),
            "asam-filter": lambda: sam(objective, self.filter_rho, scale="filter", **search),
            "asam-infinity": lambda: sam(objective, self.infinity_rho, scale="element", p=inf, **search),
            "average": lambda: average_case(objective, self.sigma, **noise),
            "average-adaptive": lambda: average_case(objective, self.adaptive_sigma, scale="element", **noise),
            "pac-bayes": lambda: pac_bayes(objective, self.target, **noise),
            "pac-bayes-adaptive": lambda: pac_bayes(objective, self.target, scale="element", **noise),
            "m-sharpness": lambda: m_sharpness(objective, self.m, self.rho),
        }
        questions: dict[str, Callable[[], Measured]] = {}
        for family in self._chosen():
            if family.startswith("keskar"):
                dimensions = self.subspace if family == "keskar-subspace" else None
                for epsilon in self.epsilon:
                    questions[f"{family}-{epsilon:g}"] = partial(keskar, objective, epsilon, dimensions, **box)
            else:
                questions[family] = known[family]
        return questions

    def _recalled(self, name: str, measure: Callable[[], Measured]) -> Measured:
        """Measure, or take the measure from the journal of an interrupted run."""
        of = json.dumps([name, asdict(self)]).encode()
        return Measured(**recalled(f"measure {name}", of, lambda: asdict(measure())))


class _Counted(LinearOperator):
    """An operator that counts blocks of products, recalled ones too, so that a resumed answer says the same."""

    def __init__(self, operator: LinearOperator):
        self.operator, self.blocks = operator, 0
        self.size, self.device, self.dtype = operator.size, operator.device, operator.dtype

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply K vectors at once: (P, K) -> (P, K)."""
        self.blocks += 1
        return self.operator.matmat(V)

    def counted(self, measured: Measured) -> Measured:
        """Give a measure the blocks since the last one as its passes."""
        blocks, self.blocks = self.blocks, 0
        return replace(measured, num_passes=blocks)
