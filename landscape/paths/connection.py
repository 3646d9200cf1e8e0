"""The probe that joins two points by a trained curve, and what it measures along it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from landscape.evaluation import Evaluator
from landscape.execution import resumable_map
from landscape.fields import settle
from landscape.grids import described
from landscape.objective import Objective
from landscape.paths.bands import Band
from landscape.paths.barriers import with_barriers
from landscape.paths.curves import Curve, coefficients
from landscape.paths.descent import OPTIMIZERS, BatchLoss, Descent, MiniBatches

CURVES = ("polychain", "bezier", "neb")
_PIVOTS = 10  # of a band, where nothing else is said
_PATHS = ("curve", "line")
_ENDS = ("first", "last")


@dataclass(frozen=True)
class Connection:
    """Join two points by a curve trained to a low loss, and measure it beside the straight line.

    A polychain or a Bezier curve minimizes the mean loss over t, uniform between 0 and 1, by mini-batches. A band
    (neb) slides down sideways to the lowest way between its ends, and has pivots added where it is too coarse. The
    ends stay fixed. Training is without dropout and augmentation; BatchNorm uses the statistics of the batch while
    training, and the objective's policy where the curve is measured: ``recalibrated`` is the one that holds.

    Attributes:
        other: (P,) the far end; the near one is where the objective stands.
        curve: polychain or bezier (a curve of least mean loss), or neb (the lowest way over, pivot by pivot).
        bends: Control points between the ends, where the curve begins as the straight line; 1 if left out, for neb 10
            pivots at first.
        steps: Updates in all.
        optimizer: sgd or adam. The learning rate is constant for half of the steps and falls to a hundredth.
        lr: Learning rate.
        momentum: Of sgd.
        weight_decay: Strength of half the squared norm of each point, as a term of its loss.
        batch_size: Training examples a step.
        cycles: Of neb: equal parts of the steps, after each of which but the last pivots may be added.
        points: Places along the curve that are measured, at equal steps of t.
        control: Train both ends alone for as many steps of the same kind too: the curve may lie below the ends only
            because it was trained for longer.
        seed: Of the order of the examples and of every t.

    References:
        Garipov et al., "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", NeurIPS 2018, section 3;
        Draxler et al., "Essentially No Barriers in Neural Network Energy Landscape", ICML 2018.
    """

    other: Tensor
    curve: Literal["polychain", "bezier", "neb"] = "polychain"
    bends: int | None = None
    steps: int = 2000
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 128
    cycles: int = 4
    points: int = 61
    control: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("curve", CURVES), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}.")
        if self.bends is None:
            object.__setattr__(self, "bends", _PIVOTS if self.curve == "neb" else 1)
        for name, least in (("bends", 1), ("steps", 1), ("batch_size", 1), ("cycles", 1), ("points", 3), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if not (0 < self.lr < float("inf") and 0 <= self.momentum < 1):
            raise ValueError(
                f"lr must be above 0 and momentum at least 0 and below 1, got {self.lr} and {self.momentum}."
            )
        if not (self.weight_decay >= 0 and isfinite(self.weight_decay)):
            raise ValueError(f"weight_decay must be at least 0 and finite, got {self.weight_decay}.")
        if self.curve == "neb" and self.cycles > self.steps:
            raise ValueError(f"{self.cycles} cycles need as many steps, got {self.steps}; lower cycles=.")
        settle(self)

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Train the curve and measure it.

        Returns:
            loss, accuracy, ... over (path, t), path being curve or line; barrier over (path, metric, definition) and
            peak over (path, metric); arc_length over (path, t), in the unit of the parameters, and length over (path);
            control_point (control, parameter), from which `Curve.of` makes the curve; step_loss over (step), by
            mini-batch before each update (for neb the mean over pivots); with a control tuned_loss, tuned_accuracy, ...
            and tuned_distance over (end).

        Raises:
            ValueError: If the other end has another size, is the same point, or is not finite.
        """
        other = self._far_end(objective)
        ends = torch.stack([objective.theta, other])
        batches = MiniBatches(objective.examples, self.batch_size, self.seed)
        loss = BatchLoss(objective, self.weight_decay)
        curve, step_losses = self._trained(Curve("polychain", ends, objective.layout), objective, batches, loss)
        answer = _measured(curve, objective, self.points)
        where = "mean over the pivots" if self.curve == "neb" else "at one place of the curve"
        answer["step_loss"] = ("step", step_losses.numpy(), {"units": "nats", "long_name": where})
        if self.control:
            answer = answer.merge(self._tuned(ends, objective, batches, loss))
        return with_barriers(answer, along="t").assign_attrs(curve.attributes())

    @property
    def _descent(self) -> Descent:
        return Descent(self.optimizer, self.lr, self.momentum, self.steps)

    def _far_end(self, objective: Objective) -> Tensor:
        if self.other.shape != objective.theta.shape:
            raise ValueError(
                f"the other end has shape {tuple(self.other.shape)}, this one {tuple(objective.theta.shape)}; join "
                "points of equal architectures."
            )
        other = self.other.to(objective.theta)
        if not other.isfinite().all() or torch.equal(other, objective.theta):
            raise ValueError("the other end must be finite and another point than this one; give another run.")
        return other

    def _trained(
        self, line: Curve, objective: Objective, batches: MiniBatches, loss: BatchLoss
    ) -> tuple[Curve, Tensor]:
        assert self.bends is not None
        if self.curve == "neb":
            band = Band(self._descent, self.cycles)
            return band.relax(line.with_bends(self.bends), loss, batches, objective.losses)
        curve = line.with_bends(self.bends, self.curve)
        bends, losses = self._descent.run(
            curve.bends, curve_direction(curve, loss, batches, self.seed), "step of the curve"
        )
        return curve.bent(bends), losses[:, 0]

    def _tuned(self, ends: Tensor, objective: Objective, batches: MiniBatches, loss: BatchLoss) -> xr.Dataset:
        """Train both ends alone as long as the curve, on the same batches."""
        tuned, _ = self._descent.run(
            ends, lambda points, step: loss.gradients(points, batches[step]), "step of the ends"
        )
        found = resumable_map(_point_metrics, (Evaluator(objective), tuned), [0, 1], "end trained alone")
        answer = xr.Dataset(coords={"end": list(_ENDS)})
        for name in found[0]:
            answer[f"tuned_{name}"] = ("end", [values[name] for values in found], described(name))
        distance = (tuned - ends).double().norm(dim=1).cpu().numpy()
        answer["tuned_distance"] = ("end", distance, {"long_name": "how far the end moved when trained alone"})
        return answer


def curve_direction(curve: Curve, loss: BatchLoss, batches: MiniBatches, seed: int) -> Any:
    """Loss and gradient of the bends at a step: at one point of the curve, t uniform from (seed, step).

    The point is a sum of control points, so the gradient of each is that of the point times its weight.
    """
    count = len(curve.points)

    def direction(bends: Tensor, step: int) -> tuple[Tensor, Tensor]:
        t = np.random.default_rng([seed, step, *b"t"]).random(1)
        (point,) = curve.bent(bends).at(t)
        losses, gradients = loss.gradients(point[None], batches[step])
        weights = torch.from_numpy(coefficients(curve.kind, count, t)[0, 1:-1]).to(bends)
        return losses, weights[:, None] * gradients

    return direction


def _measured(curve: Curve, objective: Objective, points: int) -> xr.Dataset:
    """Measure the curve and the line between its ends at equal steps of t."""
    t = np.linspace(0, 1, points)
    line = Curve("polychain", curve.points[[0, -1]], curve.layout)
    answer = xr.Dataset(coords={"path": list(_PATHS), "t": ("t", t, {"long_name": "place on the path", "units": "1"})})
    rows = [
        _along(path, objective, t, f"point on the {name}") for path, name in zip((curve, line), _PATHS, strict=True)
    ]
    for name in rows[0]:
        answer[name] = (("path", "t"), np.stack([row[name] for row in rows]), described(name))
    lengths = np.stack([path.arc_lengths(t) for path in (curve, line)])
    about = {"long_name": "length of the path so far, in the unit of the parameters"}
    answer["arc_length"] = (("path", "t"), lengths, about)
    answer["length"] = ("path", lengths[:, -1], {"long_name": "length of the path, in the unit of the parameters"})
    return answer.assign(curve.variables())


def _along(curve: Curve, objective: Objective, t: NDArray[np.float64], stage: str) -> dict[str, NDArray[np.float64]]:
    found = resumable_map(_place_metrics, (Evaluator(objective), curve), t.tolist(), stage)
    return {name: np.array([values[name] for values in found]) for name in found[0]}


def _place_metrics(shared: tuple[Evaluator, Curve], t: float) -> dict[str, float]:
    evaluator, curve = shared
    return _metrics(evaluator, curve.at(t))


def _point_metrics(shared: tuple[Evaluator, Tensor], number: int) -> dict[str, float]:
    evaluator, points = shared
    return _metrics(evaluator, points[number])


def _metrics(evaluator: Evaluator, theta: Tensor) -> dict[str, float]:
    return {name: value.item() for name, value in evaluator.metrics(theta[None]).items()}
