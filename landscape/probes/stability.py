"""What curvature means for the optimizer: is its step stable, and does the gradient lie where the curvature is?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from landscape.eigen import Eigenpairs, eigenpairs
from landscape.execution import remember, remembered, report_progress
from landscape.fields import settle
from landscape.intervals import mean_and_error
from landscape.objective import Objective, flat_gradient
from landscape.operators import Hessian, LinearOperator, Preconditioned, Resumable
from landscape.optimizer_state import NoStepError, UpdateRule

OPTIMIZERS = ("sgd", "nesterov")


@dataclass(frozen=True)
class Stability:
    """Sharpness against the largest one at which the optimizer's step is stable; 1 is the edge of stability.

    For gradient descent the ratio is lambda_max * lr / 2. With momentum the threshold is 2 (1 + beta) / lr, in
    Nesterov's form 2 (1 + beta) / ((1 + 2 beta) lr). For Adam and its kin it is (2 + 2 beta1) / ((1 - beta1) lr), and
    the sharpness is that of P^-1 H with P = diag(sqrt(v) + eps), bias corrections included. Coupled weight decay is
    part of the loss whose curvature counts; decoupled decay is left out.

    Attributes:
        lr: Learning rate; none for the optimizer's own, that of its next step.
        optimizer: sgd or nesterov, to ask as if it were trained by that; none for the optimizer of the run.
        momentum: Of sgd and nesterov, in torch's form.
        tol: Residuals are driven below tol times the largest eigenvalue magnitude.
        seed: Seed of the random start.

    References:
        Cohen et al., "Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability", ICLR 2021.
        Cohen et al., "Adaptive Gradient Methods at the Edge of Stability", 2022.
    """

    lr: float | None = None
    optimizer: str | None = None
    momentum: float = 0.0
    tol: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise ValueError(f"lr must be positive, got {self.lr}.")
        if self.optimizer is not None and self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}; adaptive ones need the "
                "state of a run, so leave it out."
            )
        if self.optimizer is not None and self.lr is None:
            raise ValueError(f"optimizer={self.optimizer!r} needs lr= too.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}.")
        if self.momentum and self.optimizer is None:
            raise ValueError("momentum= goes with optimizer=sgd or nesterov; the run's optimizer has its own.")
        if not 0 < self.tol < 1:
            raise ValueError(f"tol must lie between 0 and 1, got {self.tol}.")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}.")
        settle(self)

    @property
    def uses_optimizer(self) -> bool:
        """Whether the answer depends on the optimizer's state."""
        return self.optimizer is None

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Compare.

        Returns:
            sharpness (largest Hessian eigenvalue of the loss), preconditioned_sharpness (what is compared: with the
            optimizer's metric and coupled weight decay; the same number for plain gradient descent), threshold,
            ratio of the last two, each eigenvalue with its residual; converged, learning_rate, momentum, loss,
            num_matvecs. Under an adaptive optimizer that has made no step yet, what needs its metric is NaN.

        Raises:
            ValueError: If the objective knows no optimizer, or the stability of its optimizer is not known.
            RuntimeError: If a Hessian product is not finite.
        """
        rule, metric_is_known = self._rule(objective)
        hessian = Resumable(Hessian(objective))
        plain = _largest(hessian, 1, self.tol, self.seed, "sharpness")
        sharpness, residual = plain.values[0].item(), plain.residuals[0].item()
        value, error, converged, products = sharpness, residual, bool(plain.converged[0]), plain.num_matvecs
        if not metric_is_known:
            value, error = np.nan, np.nan
        elif rule.preconditioner is not None or rule.weight_decay is not None:
            pairs = _largest(_as_met_by(rule, hessian), 1, self.tol, self.seed, "preconditioned sharpness")
            value, error = pairs.values[0].item(), pairs.residuals[0].item()
            converged &= bool(pairs.converged[0])
            products += pairs.num_matvecs
        answer = xr.Dataset(
            {
                "sharpness": ((), sharpness, {"long_name": "largest Hessian eigenvalue"}),
                "sharpness_residual": ((), residual, {"long_name": "||H v - lambda v||"}),
                "preconditioned_sharpness": ((), value, {"long_name": "largest eigenvalue that the optimizer meets"}),
                "preconditioned_sharpness_residual": error,
                "threshold": ((), rule.threshold, {"long_name": "largest stable eigenvalue"}),
                "ratio": ((), value / rule.threshold, {"long_name": "sharpness over threshold"}),
                "ratio_residual": error / rule.threshold,
                "converged": converged,
                "learning_rate": rule.learning_rate,
                "momentum": rule.momentum,
                "loss": objective.loss().item(),
                "num_matvecs": products,
            }
        )
        return answer.assign_attrs(algorithm=rule.algorithm)

    def _rule(self, objective: Objective) -> tuple[UpdateRule, bool]:
        """The step that is asked about, and whether its metric is known yet."""
        if self.optimizer is not None:
            assert self.lr is not None
            ahead: dict[str, Any] = {}
            if self.optimizer == "nesterov":
                ahead = {"gradient_share": 1.0, "momentum_share": self.momentum}
            name = "gradient descent" if not self.momentum else "Nesterov momentum" if ahead else "heavy ball"
            return UpdateRule(name, self.lr, self.momentum, **ahead), True
        known = True
        try:
            rule = objective.optimizer_state.on(objective.layout)
        except NoStepError as error:
            rule, known = error.rule, False
        return (rule if self.lr is None else replace(rule, learning_rate=self.lr)), known


@dataclass(frozen=True)
class SubspaceOverlap:
    """Share of the gradient that lies in the space of the Hessian's top eigenvectors, against chance.

    f_k = ||P_k g||^2 / ||g||^2, with P_k the projection on the k top eigenvectors, for the gradient over all of the
    data and for those of random mini-batches. By chance it is k / n, for n parameters; a random subspace of the same
    dimension, projected on in the same way, is the control.

    Attributes:
        k: Dimension of the space.
        minibatch: Examples a mini-batch, drawn without replacement.
        draws: How many mini-batches.
        tol: Residuals are driven below tol times the largest eigenvalue magnitude.
        seed: Of the random start, the mini-batches and the control.

    References:
        Gur-Ari, Roberts and Dyer, "Gradient Descent Happens in a Tiny Subspace", 2018.
        Song, Ahn and Yun, "Does SGD really happen in tiny subspaces?", ICLR 2025.
    """

    k: int = 10
    minibatch: int = 32
    draws: int = 20
    tol: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("k", 1), ("minibatch", 1), ("draws", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if not 0 < self.tol < 1:
            raise ValueError(f"tol must lie between 0 and 1, got {self.tol}.")

    def __call__(self, objective: Objective) -> xr.Dataset:
        """Project.

        Returns:
            overlap (of the full gradient; overlap_error bounds what the residuals of the eigenvectors can change in
            it) and minibatch_overlap (mean over draws, with its standard error), both also by_rank for the spaces of
            the first 1, ..., k eigenvectors; chance (k / n), control_overlap and minibatch_control_overlap in a random
            subspace; overlap_with_previous, the mean squared cosine between this space and that of the answer before
            in a series, where there is one; eigenvalue, residual and converged by rank; gradient_norm, loss,
            num_matvecs.

        Raises:
            ValueError: If k exceeds the number of parameters or minibatch that of the examples, or the data cannot be
                cut.
            RuntimeError: If a Hessian product is not finite.
        """
        hessian = Hessian(objective)
        if self.k > hessian.size:
            raise ValueError(f"k must lie between 1 and the number of parameters {hessian.size}, got {self.k}.")
        if self.minibatch > len(objective.examples):
            raise ValueError(
                f"minibatch must lie between 1 and the number of examples {len(objective.examples)}, got "
                f"{self.minibatch}."
            )
        if not objective.examples.divisible:
            raise ValueError(
                "mini-batches are drawn example by example, but this data comes in batches that cannot be cut (their "
                "tensors do not all count examples along the first axis); pass data that can be."
            )
        pairs = _largest(Resumable(hessian), min(self.k + 1, hessian.size), self.tol, self.seed, "vectors")
        k = min(self.k, pairs.vectors.shape[1])
        space = pairs.vectors[:, :k].double()
        before = remembered("space")
        remember("space", pairs.vectors[:, :k])
        chance = torch.linalg.qr(torch.randn(space.shape, generator=_generator(self.seed, 0), dtype=space.dtype)).Q
        chance = chance.to(space.device)
        gradient, minibatches = objective.gradient().double(), self._minibatch_gradients(objective)
        full, control = _shares(space, gradient), _shares(chance, gradient)
        drawn, error = mean_and_error([_shares(space, g) for g in minibatches])
        drawn_control, control_error = mean_and_error([_shares(chance, g) for g in minibatches])
        answer = xr.Dataset(
            {
                "overlap": ((), full[-1], {"long_name": "share of the squared gradient norm"}),
                "overlap_error": _subspace_error(pairs, k),
                "minibatch_overlap": drawn[-1],
                "minibatch_overlap_standard_error": error[-1],
                "chance": k / hessian.size,
                "control_overlap": control[-1],
                "minibatch_control_overlap": drawn_control[-1],
                "minibatch_control_overlap_standard_error": control_error[-1],
                "overlap_by_rank": ("rank", full),
                "minibatch_overlap_by_rank": ("rank", drawn),
                "minibatch_overlap_by_rank_standard_error": ("rank", error),
                "eigenvalue": ("rank", pairs.values[:k].numpy(), {"long_name": "Hessian eigenvalue"}),
                "residual": ("rank", pairs.residuals[:k].numpy(), {"long_name": "||H v - lambda v||"}),
                "converged": ("rank", pairs.converged[:k].numpy()),
                "gradient_norm": gradient.norm().item(),
                "loss": objective.loss().item(),
                "num_matvecs": pairs.num_matvecs,
            },
            coords={"rank": ("rank", np.arange(1, k + 1), {"long_name": "eigenvectors in the space"})},
        )
        if before is not None and before.shape == space.shape:
            cosines = before.to(space).T @ space
            answer["overlap_with_previous"] = (cosines**2).sum().item() / k
        return answer

    def _minibatch_gradients(self, objective: Objective) -> list[Tensor]:
        """Gradients (P,) of the mean loss over random mini-batches."""
        found = []
        with torch.enable_grad(), objective.at():
            tensors = objective.tensors(objective.layout)
            for number in range(self.draws):
                seed = int(np.random.SeedSequence([self.seed, 1, number]).generate_state(1)[0])
                examples = objective.examples.take(self.minibatch, seed)
                (gradient,) = objective.average(
                    lambda batch: [flat_gradient(objective.batch_loss(batch), tensors)], examples
                )
                found.append(gradient)
                report_progress("mini-batches", number + 1, self.draws)
        return found


class _Decayed(LinearOperator):
    """H + diag(decay): the curvature of the loss with its weight decay."""

    def __init__(self, operator: LinearOperator, decay: Tensor):
        self.operator, self.decay = operator, decay.to(operator.device).unsqueeze(1)
        self.size, self.device, self.dtype = operator.size, operator.device, operator.dtype

    def matmat(self, V: Tensor) -> Tensor:
        return self.operator.matmat(V) + (self.decay * V).to(self.dtype)


def _as_met_by(rule: UpdateRule, hessian: LinearOperator) -> LinearOperator:
    operator = hessian if rule.weight_decay is None else _Decayed(hessian, rule.weight_decay)
    return operator if rule.preconditioner is None else Preconditioned(operator, rule.preconditioner)


def _largest(operator: LinearOperator, k: int, tol: float, seed: int, name: str) -> Eigenpairs:
    """The k largest eigenpairs, begun from those of the answer before where this is one of a series."""
    before = remembered(name)
    start = None if before is None else before.to(operator.device, operator.dtype)
    pairs = eigenpairs(operator, k, "largest", tol, seed, start=start)
    remember(name, pairs.vectors)
    return pairs


def _shares(space: Tensor, gradient: Tensor) -> np.ndarray:
    """(k,) the share of a gradient's squared norm in the span of the first 1, ..., k columns; NaN for no gradient."""
    return ((space.T @ gradient) ** 2).cumsum(dim=0).div(gradient @ gradient).cpu().numpy()


def _subspace_error(pairs: Eigenpairs, k: int) -> float:
    """Bound how far a share can be off because the space is: the sine of its largest angle, by Davis and Kahan.

    With R the residuals of the space and the gap to the rest of the spectrum, of which the next pair tells,
    ||sin(angles)|| <= ||R|| / gap; a projection on a space that is off by so much changes by at most that.
    """
    if pairs.vectors.shape[0] == k:
        return 0.0
    gap = (pairs.values[k - 1] - pairs.values[k] - pairs.residuals[k]).item()
    return min(1.0, pairs.residuals[:k].norm().item() / gap) if gap > 0 else 1.0


def _generator(*seeds: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
