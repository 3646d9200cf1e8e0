"""What an optimizer would do next: its learning rates, its momentum, and the metric in which it measures steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim

from landscape.identity import digest_named
from landscape.parameters import ParameterLayout

_KNOWN = (optim.AdamW, optim.NAdam, optim.Adam, optim.RMSprop, optim.Adagrad, optim.SGD)
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class UpdateRule:
    """The step of an optimizer, as gradient descent with momentum in a diagonal metric P.

        g <- gradient + weight_decay theta;   m <- momentum m + (1 - dampening) g
        theta <- theta - learning_rate P^(-1) (gradient_share g + momentum_share m)

    Attributes:
        algorithm: What it is called: "gradient descent", "heavy ball", "Nesterov momentum", "Adam", ...
        learning_rate: The largest of all entries.
        momentum: beta, or beta1.
        dampening: Share of the gradient that does not enter the momentum; beta1 for Adam.
        gradient_share: Weight of the gradient beside the momentum: 1 in torch's Nesterov form, else 0.
        momentum_share: Weight of the momentum: beta in torch's Nesterov form, else 1.
        weight_decay: (P,) coefficients of coupled weight decay (decoupled decay is none), or None.
        preconditioner: (P,) the diagonal of P, or None where it is the identity. Where some entries have smaller
            learning rates it holds that too.
    """

    algorithm: str
    learning_rate: float
    momentum: float = 0.0
    dampening: float = 0.0
    gradient_share: float = 0.0
    momentum_share: float = 1.0
    weight_decay: Tensor | None = field(default=None, repr=False)
    preconditioner: Tensor | None = field(default=None, repr=False)

    @property
    def threshold(self) -> float:
        """The largest stable eigenvalue of P^(-1) H on a quadratic: 2 / learning_rate for gradient descent.

        Along an eigenvector steps of constant size and alternating sign mean m = (1 - dampening) / (1 + momentum) g, so
        that 2 = learning_rate eigenvalue (gradient_share + momentum_share (1 - dampening) / (1 + momentum)). This is
        2 (1 + beta) / learning_rate with momentum, less by the factor 1 + 2 beta in Nesterov's form, and
        (2 + 2 beta1) / ((1 - beta1) learning_rate) for Adam. Infinite where the learning rate is zero.

        References:
            Cohen et al., "Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability", ICLR 2021,
            appendix B; Cohen et al., "Adaptive Gradient Methods at the Edge of Stability", 2022, section 2.
        """
        share = self.gradient_share + self.momentum_share * (1 - self.dampening) / (1 + self.momentum)
        return 2 / (self.learning_rate * share) if self.learning_rate else float("inf")


class NoStepError(ValueError):
    """An adaptive optimizer has made no step yet, so it has no metric.

    Attributes:
        rule: The rest of its rule.
    """

    def __init__(self, message: str, rule: UpdateRule):
        super().__init__(message)
        self.rule = rule


@dataclass(frozen=True)
class OptimizerState:
    """A snapshot of an optimizer, by parameter name; training further does not change it.

    An optimizer of one's own whose steps are those of torch's SGD, Adam, AdamW, NAdam, RMSprop or Adagrad, written in
    another form, says so in a class attribute `steps_like = "SGD"`, and keeps its settings and state under the names
    of that class. It may differ in three settings: `eps_inside` (P is sqrt(v + eps)), `bias_correction=False`, and an
    NAdam without `momentum_decay` has a constant momentum.

    Attributes:
        kind: The class, such as "Adam".
        parameters: For every parameter of the optimizer its settings (those of its group) and its state.
        steps_like: The class of torch whose steps these are, in another form; "" for none.
    """

    kind: str
    parameters: Mapping[str, Mapping[str, Any]] = field(repr=False)
    steps_like: str = ""

    @classmethod
    def of(cls, optimizer: optim.Optimizer, model: nn.Module) -> OptimizerState:
        """Copy what an optimizer of a model's parameters holds now.

        Args:
            optimizer: Any optimizer of torch's form; Lightning's wrapper of one too.
            model: The model whose parameters it moves; they are known by being the same tensors.

        Raises:
            ValueError: If none of the model's parameters is in the optimizer.
        """
        names = {parameter: name for name, parameter in model.named_parameters()}
        found: dict[str, dict[str, Any]] = {}
        for group in optimizer.param_groups:
            settings = {name: _plain(value) for name, value in group.items() if name != "params"}
            for parameter in group["params"]:
                if parameter in names:
                    state = {name: _copied(value) for name, value in optimizer.state.get(parameter, {}).items()}
                    found[names[parameter]] = {"settings": settings, "state": state}
        if not found:
            raise ValueError(
                f"none of the parameters of {type(model).__name__} is in the {type(optimizer).__name__}; give the "
                "optimizer of this very model, not of a copy."
            )
        return cls(_kind_of(optimizer), found, vars(_class_of(optimizer)).get("steps_like", ""))

    @classmethod
    def load(cls, path: str | Path) -> tuple[OptimizerState, str]:
        """Read what `save` wrote.

        Returns:
            The snapshot, and the digest of the weights that it belongs to.

        Raises:
            WeightsError: If there is no such file.
            DamagedFileError: If it is damaged, or was not written by `save`.
        """
        from landscape.store.errors import DamagedFileError
        from landscape.weights import decode_state, load_weights

        tensors, metadata = load_weights(path)
        try:
            state = decode_state(tensors, metadata.get("state", ""))
            parameters = {
                name: {part: entry[part] for part in ("settings", "state")}
                for name, entry in state["parameters"].items()
            }
            return cls(state["kind"], parameters, state.get("steps_like", "")), state["weights_sha256"]
        except (DamagedFileError, KeyError, TypeError, AttributeError) as error:
            raise DamagedFileError(
                f"{path} is not an optimizer's state as OptimizerState.save writes it; give such a file, or make one "
                "with OptimizerState.of(optimizer, model).save(path, weights_sha256)"
            ) from error

    def save(self, path: str | Path, weights_sha256: str) -> None:
        """Write the snapshot as safetensors: whole or absent, with a digest, and never a pickle.

        Args:
            path: The file.
            weights_sha256: Of the weights that it belongs to.
        """
        from landscape.weights import encode_state, save_weights

        parameters = {name: dict(entry) for name, entry in self.parameters.items()}
        state = {"kind": self.kind, "weights_sha256": weights_sha256, "parameters": parameters}
        tensors, text = encode_state(state | ({"steps_like": self.steps_like} if self.steps_like else {}))
        save_weights(path, tensors, {"state": text})

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that it keeps from step to step, beside the parameters and their gradients."""
        return sum(
            value.nbytes
            for entry in self.parameters.values()
            for value in entry["state"].values()
            if isinstance(value, Tensor)
        )

    def digest(self) -> str:
        """SHA-256 of everything in it."""
        flat: dict[str, Tensor] = {}
        for name, entry in self.parameters.items():
            for key, value in [*entry["settings"].items(), *entry["state"].items()]:
                if isinstance(value, Tensor):
                    flat[f"{name} {key}"] = value
                else:
                    flat[f"{name} {key} = {value!r}"] = torch.zeros(())
        return digest_named({f"{self.kind} {name}": tensor for name, tensor in flat.items()})

    def on(self, layout: ParameterLayout) -> UpdateRule:
        """Say how the parameters of a layout would be moved next.

        Raises:
            ValueError: If the optimizer is not one whose stability is known (SGD, Adam, AdamW, NAdam, RMSprop,
                Adagrad, and what steps like them; not classes derived from them) or is sharpness-aware (a setting
                `sam_radius`), maximizes, lacks a parameter of the layout, or has parameter groups that one rule cannot
                describe.
            NoStepError: If it has made no step yet, and its metric comes from steps.
        """
        if self._torch_kind not in {known.__name__ for known in _KNOWN}:
            raise ValueError(
                f"the stability of {self.kind} is not known; it is for {', '.join(k.__name__ for k in _KNOWN)}. Give "
                "lr= and optimizer= to compare with gradient descent."
            )
        missing = [name for name in layout.names if name not in self.parameters]
        if missing:
            raise ValueError(
                f"the optimizer does not move {missing[0]!r}; leave it out with parameters=, or make the state with "
                "OptimizerState.of(optimizer, model) of the same model, so that names agree."
            )
        settings = [settings for _, settings, _ in self._entries(layout)]
        if any(one.get("maximize") for one in settings):
            raise ValueError(
                "the optimizer climbs (maximize=True), and no step uphill is stable in the sense of a threshold; "
                "minimize the negative of the objective instead."
            )
        if radius := max(one.get("sam_radius", 0.0) for one in settings):
            raise ValueError(
                f"the stability of sharpness-aware minimization (radius {radius:g}) depends on the gradient's norm, so "
                f"no threshold of {self.kind} holds for it. Give lr= and optimizer= to compare with gradient descent."
            )
        rates = self._per_entry(layout, self._learning_rates(layout))
        largest = rates.max().item()
        rule = UpdateRule(
            algorithm=self._algorithm(settings[0]),
            learning_rate=largest,
            **self._momentum(layout),
            weight_decay=self._weight_decay(layout, settings),
        )
        waiting = [name for name, _, state in self._entries(layout) if not _step(state)]
        if self._torch_kind != "SGD" and waiting:
            message = (
                f"{self.kind} has made no step on {waiting[0]!r} yet, so it has no metric; ask after the first step."
            )
            raise NoStepError(message, rule)
        relative = rates / largest if largest else torch.ones_like(rates)
        return replace(rule, preconditioner=self._preconditioner(layout, relative))

    # --- inside -----------------------------------------------------------------------------------------------

    @property
    def _torch_kind(self) -> str:
        return self.steps_like or self.kind

    def _algorithm(self, settings: Mapping[str, Any]) -> str:
        if self._torch_kind != "SGD":
            return self._torch_kind
        momentum = "Nesterov momentum" if settings["nesterov"] else "heavy ball"
        return momentum if settings["momentum"] else "gradient descent"

    def _momentum(self, layout: ParameterLayout) -> dict[str, Any]:
        """How gradients are averaged, which must be the same for all parameters."""
        found = {tuple(self._momentum_of(settings, state).items()) for _, settings, state in self._entries(layout)}
        if len(found) > 1:
            raise ValueError(
                f"the parameter groups differ in momentum ({'; '.join(sorted(map(str, found)))}), so no single "
                "threshold holds; choose one group with parameters=."
            )
        return dict(found.pop())

    def _momentum_of(self, settings: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, float]:
        if "betas" in settings:
            beta1 = settings["betas"][0]
            average = {"momentum": beta1, "dampening": beta1}
            return average | (_nadam_shares(beta1, settings, state) if self._torch_kind == "NAdam" else {})
        beta = settings.get("momentum", 0.0)
        if not beta:
            return {"momentum": 0.0}
        ahead = {"gradient_share": 1.0, "momentum_share": beta} if settings.get("nesterov") else {}
        return {"momentum": beta, "dampening": settings.get("dampening", 0.0)} | ahead

    def _learning_rates(self, layout: ParameterLayout) -> list[float]:
        found = []
        for _, settings, state in self._entries(layout):
            rate = float(settings["lr"])
            if self._torch_kind == "Adagrad":
                rate /= 1 + max(_step(state) - 1, 0.0) * settings["lr_decay"]
            found.append(rate)
        if min(found) == 0 < max(found):
            frozen = layout.names[found.index(0.0)]
            raise ValueError(f"{frozen!r} has learning rate 0, others have not; leave it out with parameters=.")
        return found

    def _weight_decay(self, layout: ParameterLayout, settings: list[Mapping[str, Any]]) -> Tensor | None:
        decoupled = settings[0].get("decoupled_weight_decay", False)  # which AdamW sets
        decays = [0.0 if decoupled else float(one.get("weight_decay", 0.0)) for one in settings]
        return self._per_entry(layout, decays) if any(decays) else None

    def _preconditioner(self, layout: ParameterLayout, relative_rates: Tensor) -> Tensor | None:
        if self._torch_kind == "SGD":
            return None if bool((relative_rates == 1).all()) else relative_rates.reciprocal()
        parts = [self._metric(settings, state) for _, settings, state in self._entries(layout)]
        return torch.cat([part.reshape(-1) for part in parts]) / relative_rates

    def _metric(self, settings: Mapping[str, Any], state: Mapping[str, Any]) -> Tensor:
        """The diagonal of P for one parameter, so that the next step is - lr P^(-1) m with m the momentum as stored."""
        if self._torch_kind == "Adagrad":
            return _root(state["sum"].double(), settings)
        if self._torch_kind == "RMSprop":
            variance = state["square_avg"].double()
            if settings["centered"]:
                variance = variance - state["grad_avg"].double() ** 2
            return _root(variance, settings)
        (beta1, beta2), step = settings["betas"], _step(state)
        second = state["max_exp_avg_sq" if settings.get("amsgrad") else "exp_avg_sq"].double()
        if not settings.get("bias_correction", True):
            return _root(second, settings)
        metric = _root(second / (1 - beta2**step), settings)
        # Adam divides m by 1 - beta1^t, which is as good as multiplying P by it (Cohen et al. 2022, section 2). NAdam
        # divides gradient and momentum by other factors; see `_nadam_shares`.
        return metric if self._torch_kind == "NAdam" else metric * (1 - beta1**step)

    def _entries(self, layout: ParameterLayout) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
        for name in layout.names:
            yield name, self.parameters[name]["settings"], self.parameters[name]["state"]

    def _per_entry(self, layout: ParameterLayout, values: list[float]) -> Tensor:
        parts = [
            torch.full((size,), value, dtype=torch.float64) for size, value in zip(layout.sizes, values, strict=True)
        ]
        return torch.cat(parts)


def _kind_of(optimizer: optim.Optimizer) -> str:
    """The class, exactly: one derived from SGD may step as it likes. One of the same name is told by its module."""
    kind = _class_of(optimizer)
    is_other = kind not in _KNOWN and kind.__name__ in {known.__name__ for known in _KNOWN}
    return f"{kind.__module__}.{kind.__qualname__}" if is_other else kind.__name__


def _class_of(optimizer: optim.Optimizer) -> type:
    kind = type(optimizer)
    if any(base.__name__ == "LightningOptimizer" for base in kind.__mro__):
        return type(optimizer.optimizer)  # type: ignore[attr-defined]  # Lightning derives its wrapper from both
    return kind


def _root(second: Tensor, settings: Mapping[str, Any]) -> Tensor:
    eps = settings["eps"]
    return (second + eps).sqrt() if settings.get("eps_inside") else second.sqrt() + eps


def _nadam_shares(beta1: float, settings: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, float]:
    """Weights of gradient and momentum in NAdam's last step, whose momentum mu grows slowly toward beta1."""
    step = _step(state)
    if not step:
        return {}
    if "momentum_decay" not in settings:  # mu is constant
        return {"gradient_share": (1 - beta1) / (1 - beta1**step), "momentum_share": beta1 / (1 - beta1**step)}
    now, then = (beta1 * (1 - 0.5 * 0.96 ** (t * settings["momentum_decay"])) for t in (step, step + 1))
    product = float(state.get("mu_product", 1.0))
    return {"gradient_share": (1 - now) / (1 - product), "momentum_share": then / (1 - product * then)}


def _step(state: Mapping[str, Any]) -> float:
    return float(state.get("step", 0))


def _plain(value: Any) -> Any:
    """A setting as a number or text; learning rates may be tensors."""
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, _PLAIN) else str(value)


def _copied(value: Any) -> Any:
    return value.detach().cpu().clone() if isinstance(value, Tensor) else _plain(value)
