"""References that share no code with the package."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse.linalg
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel


def trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def function_of_vector(model: nn.Module, data, loss=F.cross_entropy) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The full-batch loss in evaluation mode as a function of the trainable parameters, and where they are."""
    parts = trainable(model)
    model.eval()

    def value(vector: Tensor) -> Tensor:
        chunks = vector.split([p.numel() for p in parts.values()])
        named = {name: chunk.view_as(p) for (name, p), chunk in zip(parts.items(), chunks, strict=True)}
        inputs, targets = data
        return loss(functional_call(model, named, (inputs,)), targets)

    return value, torch.cat([p.reshape(-1) for p in parts.values()])


def dense_hessian(model: nn.Module, data, loss=F.cross_entropy) -> Tensor:
    """(P, P) by torch.autograd.functional, one entry after the other."""
    value, theta = function_of_vector(model, data, loss)
    with sdpa_kernel(SDPBackend.MATH):
        return torch.autograd.functional.hessian(value, theta)


def gradient(model: nn.Module, data, loss=F.cross_entropy) -> Tensor:
    value, theta = function_of_vector(model, data, loss)
    return torch.func.grad(value)(theta)


def output_of_vector(model: nn.Module, inputs: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The output in evaluation mode as a function of the trainable parameters, and where they are."""
    value, theta = function_of_vector(model, (inputs, None), loss=lambda output, _target: output)
    return value, theta


def dense_gauss_newton(model: nn.Module, data, loss=F.cross_entropy) -> Tensor:
    """(P, P) from the whole Jacobian and the whole second derivative of the mean loss by all outputs."""
    inputs, targets = data
    output, theta = output_of_vector(model, inputs)
    with sdpa_kernel(SDPBackend.MATH):
        J = torch.func.jacrev(output)(theta).flatten(0, -2)
    z = output(theta)
    M = torch.autograd.functional.hessian(lambda flat: loss(flat.view_as(z), targets), z.reshape(-1))
    return J.T @ M @ J


def dense_empirical_fisher(model: nn.Module, data, loss=F.cross_entropy) -> Tensor:
    """(P, P) from the gradient of one example after the other."""
    inputs, targets = data
    pairs = zip(inputs.split(1), targets.split(1), strict=True)
    gradients = torch.stack([gradient(model, pair, loss) for pair in pairs])
    return gradients.T @ gradients / len(inputs)


def central_difference(function: Callable[[Tensor], Tensor], theta: Tensor, direction: Tensor, step: float) -> Tensor:
    """Derivative of a function along a direction; its error falls as step^2."""
    return (function(theta + step * direction) - function(theta - step * direction)) / (2 * step)


def scipy_eigenvalues(operator, k: int, which: str) -> np.ndarray:
    """Descending eigenvalues of a scipy operator by ARPACK, to its full precision."""
    start = np.random.default_rng(0).standard_normal(operator.shape[0]).astype(operator.dtype)
    return np.sort(scipy.sparse.linalg.eigsh(operator, k, which=which, v0=start, return_eigenvectors=False))[::-1]


def li_filter_normalized(model: nn.Module, draw: dict[str, Tensor], one_dimensional: str = "zero") -> dict[str, Tensor]:
    """Filter normalization as Li et al. write it, one filter after the other."""
    axes = {
        f"{prefix}.weight": 1
        for prefix, module in model.named_modules()
        if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    }
    made = {}
    for name, parameter in trainable(model).items():
        direction = draw[name].clone()
        if parameter.ndim < 2:
            made[name] = torch.zeros_like(direction) if one_dimensional == "zero" else parameter
            continue
        axis = axes.get(name, 0)
        for number in range(parameter.shape[axis]):
            own, drawn = parameter.select(axis, number), direction.select(axis, number)
            drawn.mul_(own.norm() / drawn.norm())
        made[name] = direction
    return made


def pooled_statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of each channel (axis 1) over everything else, in float64."""
    flat = values.detach().double().transpose(0, 1).flatten(1)
    return flat.mean(dim=1), flat.var(dim=1, unbiased=True)
