"""What flows through a network in one training step: activations forward, gradients backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from landscape.monitors.statistics import (
    BINS,
    CAN_DIE,
    Silence,
    dormant_share,
    histogram,
    moments,
    saturated_share,
    unit_magnitudes,
)

_BY_NAME = {
    "relu": (F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_),
    "relu6": (F.relu6,),
    "tanh": (F.tanh, torch.tanh, Tensor.tanh, torch.tanh_, Tensor.tanh_),
    "sigmoid": (F.sigmoid, torch.sigmoid, Tensor.sigmoid, torch.sigmoid_, Tensor.sigmoid_),
    "leaky_relu": (F.leaky_relu,),
    "prelu": (F.prelu, torch.prelu),
    "elu": (F.elu,),
    "selu": (F.selu, torch.selu),
    "gelu": (F.gelu,),
    "silu": (F.silu,),
    "mish": (F.mish,),
    "softplus": (F.softplus,),
    "hardswish": (F.hardswish,),
}
_FUNCTIONS = {function: name for name, functions in _BY_NAME.items() for function in functions}
_OF_OUTPUT = ("output_mean", "output_variance", "backpropagated_norm", "backpropagated_variance")
_OF_ACTIVATION = (
    "activation_mean",
    "activation_variance",
    "saturated_share",
    "dormant_share",
    "histogram_low",
    "histogram_high",
)


class Flow:
    """Watches one forward and one backward pass of a module, of which it changes nothing.

    A layer is a module with a weight of its own, of two or more axes. What is watched of it is its output (before norm
    and activation) and the gradient of the loss by that output. An activation is a call of one of the usual functions
    (relu, tanh, sigmoid, gelu, ...), as a module or not; it is called after the layer that ran before it: "conv1 relu".
    Of several calls of one layer in a pass the first is watched.

    Attributes:
        layers: Names of the layers, in the order of `nn.Module.named_modules`.
        activations: Names of the activations that were met in the first pass, in order; later ones are left out.
        depth: By layer, its turn in the pass, from 0.
        silence: By activation with a zero side, which of its units have been silent in the passes of this round.
    """

    def __init__(self, module: nn.Module) -> None:
        self._settled = False
        self._modules = {
            name: part for name, part in module.named_modules() if any(p.ndim > 1 for p in part.parameters(False))
        }
        self.layers = list(self._modules)
        self.activations: list[str] = []
        self.depth: dict[str, int] = {}
        self.silence: dict[str, Silence] = {}
        self._handles: list[Any] = []
        self._mode: _Calls | None = None
        self._seen: dict[str, dict[str, Tensor]] = {}
        self._is_whole = True
        self._forget()

    @property
    def begun(self) -> bool:
        """Whether a pass is being watched."""
        return bool(self._handles)

    @property
    def looked_at(self) -> int:
        """Examples of this round that tell which units are silent; infinite where there is nothing to tell."""
        return min((silence.seen for silence in self.silence.values()), default=2**62)

    def start(self, whole: bool = True) -> None:
        """Watch from now on: all of a pass, as the first of a new round, or only which units are silent in another."""
        self.stop()
        self._forget()
        self._is_whole = whole
        if whole:
            self.silence.clear()
        for name, part in self._modules.items():
            self._handles.append(part.register_forward_hook(self._hook(name)))
        self._mode = _Calls(self._on_activation)
        self._mode.__enter__()

    def end_forward(self) -> None:
        """Look at no further evaluation; gradients are still taken in."""
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            self._mode = None

    def stop(self) -> None:
        """Let go of the module."""
        self.end_forward()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def dead_shares(self) -> np.ndarray:
        """End the round: by activation (A,), the share of units that were silent in all of its passes."""
        found = [self.silence[name].dead_share if name in self.silence else np.nan for name in self.activations]
        self.silence.clear()
        return np.array(found, np.float32)

    def finish(self) -> dict[str, np.ndarray]:
        """Let go of the module and return what was seen in a whole pass.

        Returns:
            By layer (L,): output_mean, output_variance, backpropagated_norm (Euclidean, of the batch),
            backpropagated_variance (of its entries). By activation (A,): activation_mean,
            activation_variance, saturated_share, dormant_share, histogram_low, histogram_high, and
            histogram (A, 40). NaN where something was not met.
        """
        self.stop()
        found = {name: _values(self._seen, self.layers, name) for name in _OF_OUTPUT}
        found |= {name: _values(self._seen, self.activations, name) for name in _OF_ACTIVATION}
        rows = [self._seen[name]["histogram"] for name in self.activations if name in self._seen]
        filled = iter(torch.stack(rows).float().cpu().numpy() if rows else [])
        missing = np.full(BINS, np.nan, np.float32)
        shares = [next(filled) if name in self._seen else missing for name in self.activations]
        found["histogram"] = np.array(shares, np.float32).reshape(len(self.activations), BINS)
        self._settled, self._seen = True, {}
        return found

    @property
    def places(self) -> dict[str, list[str]]:
        """What was met in the first pass: the activations, and the layers by depth."""
        return {"activations": self.activations, "by_depth": sorted(self.depth, key=self.depth.__getitem__)}

    def settle(self, places: dict[str, list[str]]) -> None:
        """Go on with the places of an earlier first pass."""
        self.activations, self._settled = list(places["activations"]), True
        self.depth = {name: turn for turn, name in enumerate(places["by_depth"])}

    def _forget(self) -> None:
        self._seen = {}
        self._counts: dict[str, int] = {}
        self._last, self._axis, self._units = "input", 1, 0

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def on_output(part: nn.Module, inputs: Any, output: Any) -> None:
            tensor = next((t for t in tree_leaves(output) if isinstance(t, Tensor)), None)
            if self._mode is None or name in self._seen or tensor is None or not torch.is_grad_enabled():
                return
            self._last, self._axis = name, -1 if isinstance(part, nn.Linear) else 1
            self._units = tensor.shape[self._axis] if tensor.ndim > 1 else 0
            if not self._is_whole:
                return
            if not self._settled:
                self.depth.setdefault(name, len(self.depth))
            with torch.no_grad():
                mean, variance = moments(tensor.detach())
            seen = self._seen[name] = {"output_mean": mean, "output_variance": variance}
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: _take_gradient(seen, gradient))

        return on_output

    @torch.no_grad()
    def _on_activation(self, kind: str, output: Tensor) -> None:
        called = f"{self._last} {kind}"
        self._counts[called] = self._counts.get(called, 0) + 1
        name = called if self._counts[called] == 1 else f"{called} {self._counts[called]}"
        if name not in self.activations:
            if self._settled:
                return
            self.activations.append(name)
        output = output.detach()
        magnitudes = unit_magnitudes(output, self._unit_axis(output)) if output.ndim > 1 else None
        if magnitudes is not None and kind in CAN_DIE:
            self._look_for_silence(name, magnitudes, len(output))
        if not self._is_whole:
            return
        mean, variance = moments(output)
        shares, low, high = histogram(output)
        seen = {"activation_mean": mean, "activation_variance": variance, "histogram": shares}
        seen |= {"histogram_low": low, "histogram_high": high, "saturated_share": saturated_share(kind, output)}
        self._seen[name] = seen | ({} if magnitudes is None else {"dormant_share": dormant_share(magnitudes)})

    def _unit_axis(self, output: Tensor) -> int:
        """The axis of the units: that of the layer before, or after a transposition the one of the same length."""
        if self._units in (0, output.shape[self._axis]):
            return self._axis
        return next((axis for axis in range(1, output.ndim) if output.shape[axis] == self._units), self._axis)

    def _look_for_silence(self, name: str, magnitudes: Tensor, examples: int) -> None:
        silence = self.silence.get(name)
        if silence is None or silence.silent.shape != magnitudes.shape:
            silence = self.silence[name] = Silence(torch.ones_like(magnitudes, dtype=torch.bool))
        silence.look_at(magnitudes, examples)


class _Calls(TorchFunctionMode):
    """Tells of the activation functions that are called."""

    def __init__(self, tell: Callable[[str, Tensor], None]) -> None:
        super().__init__()
        self.tell = tell

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        kind = _FUNCTIONS.get(function)
        # what is computed without gradients, such as by a teacher, is not the pass that trains
        if kind is not None and isinstance(output, Tensor) and torch.is_grad_enabled():
            self.tell(kind, output)
        return output


def _take_gradient(seen: dict[str, Tensor], gradient: Tensor) -> None:
    if "backpropagated_norm" in seen:  # a second derivative, or a second pass through a kept graph
        return
    with torch.no_grad():
        norm, mean = (
            torch.linalg.vector_norm(
                gradient, dtype=torch.float64 if gradient.dtype == torch.float64 else torch.float32
            ),
            gradient.mean(),
        )
        seen["backpropagated_norm"] = norm
        seen["backpropagated_variance"] = norm**2 / gradient.numel() - mean**2  # the mean is small beside the rest


def _values(seen: dict[str, dict[str, Tensor]], places: list[str], name: str) -> np.ndarray:
    known = [place for place in places if name in seen.get(place, {})]
    found = np.full(len(places), np.nan, np.float32)
    if known:
        values = torch.stack([seen[place][name].float() for place in known]).cpu().numpy()
        found[[places.index(place) for place in known]] = values
    return found
