"""Normalization layers, by name: functions `(channels, dimensions, *, options) -> nn.Module`.

`dimensions` is the number of spatial axes: 0 for vectors (N, C), 1 for signals (N, C, L), 2 for images (N, C, H, W).
Those that average over examples are BatchNorm layers to `landscape.normalization`: in evaluation mode each is the
affine map by its running statistics, and under the policy "batch" it uses the statistics of the batch alone.
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Literal

import torch
from torch import Tensor, nn

from landscape.normalization import batch_norms, recalibrate
from models.registry import Registry

NORMS = Registry("norm")


class _OverExamples(nn.modules.batchnorm._BatchNorm):
    """A BatchNorm of one's own, for vectors, signals and images alike."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2 or input.shape[1] != self.num_features:
            raise ValueError(f"expected (N, {self.num_features}, ...), got shape {tuple(input.shape)}")


class GhostBatchNorm(_OverExamples):
    """BatchNorm over parts of a batch, as if each part were on a device of its own.

    A batch of N is cut into N // size nearly equal parts, one after the other; the running statistics are updated by
    each in turn.

    Args:
        channels: Axis 1 of the inputs.
        size: Examples a part; up to nearly twice as many where it does not divide the batch.

    References:
        Hoffer et al., "Train longer, generalize better", NeurIPS 2017, algorithm 1.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__(channels)
        self.size = size

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C, ...) to the same shape."""
        parts = max(len(input) // self.size, 1)
        if not self.training or parts == 1:
            return super().forward(input)
        return torch.cat([super(GhostBatchNorm, self).forward(part) for part in input.tensor_split(parts)])

    def extra_repr(self) -> str:
        """Say the size of a part too."""
        return f"{super().extra_repr()}, size={self.size}"


class BatchRenorm(_OverExamples):
    """BatchNorm that corrects each batch toward the running statistics, which it uses when it is evaluated.

        y = gamma x_hat + beta,  x_hat = (x - mu_B) / sigma_B * r + d
        r = clip(sigma_B / sigma, 1 / r_max, r_max),  d = clip((mu_B - mu) / sigma, -d_max, d_max)

    without a gradient through r and d; then mu += momentum (mu_B - mu) and sigma += momentum (sigma_B - sigma), with
    sigma_B = sqrt(var_B + eps) of the biased variance. The buffer `running_var` holds sigma^2 - eps.

    For `start` steps r = 1 and d = 0, plain BatchNorm; then r_max grows linearly from 1 until step `r_end`, d_max
    from 0 until step `d_end`. Steps are counted by the layer, in `num_batches_tracked`.

    Where `landscape` asks for the statistics of the batch (`track_running_stats` off), r = 1 and d = 0: with them the
    loss would have no true derivative.

    References:
        Ioffe, "Batch Renormalization", NeurIPS 2017, algorithm 1 and section 4.
    """

    def __init__(
        self, channels: int, r_max: float, d_max: float, start: int, r_end: int, d_end: int, momentum: float
    ) -> None:
        super().__init__(channels, momentum=momentum)
        self.r_max, self.d_max = r_max, d_max
        self.start, self.r_end, self.d_end = start, r_end, d_end

    def limits(self) -> tuple[float, float]:
        """Return r_max and d_max of the coming step."""
        step = int(self.num_batches_tracked)
        r_share, d_share = (_ramp(step, self.start, end) for end in (self.r_end, self.d_end))
        return 1 + (self.r_max - 1) * r_share, self.d_max * d_share

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C, ...) to the same shape."""
        if not (self.training and self.track_running_stats):
            return super().forward(input)
        self._check_input_dim(input)
        shape = (1, -1) + (1,) * (input.ndim - 2)
        axes = [axis for axis in range(input.ndim) if axis != 1]
        variance, mean = torch.var_mean(input, axes, correction=0)
        deviation = (variance + self.eps).sqrt()
        r, d = self._correct(mean, deviation)
        scale = self.weight * r / deviation
        shift = self.bias + self.weight * d - scale * mean
        return torch.addcmul(shift.view(shape), input, scale.view(shape))

    @torch.no_grad()
    def _correct(self, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
        """Return r and d, (C,) each, without their graph, and let the running statistics follow the batch."""
        r_max, d_max = self.limits()
        running = (self.running_var + self.eps).sqrt()
        r = (deviation / running).clamp(1 / r_max, r_max)
        d = ((mean - self.running_mean) / running).clamp(-d_max, d_max)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.copy_(running.lerp(deviation, self.momentum).square() - self.eps)
        self.num_batches_tracked.add_(1)
        return r, d

    def extra_repr(self) -> str:
        """Say the limits and their steps too."""
        steps = f"start={self.start}, r_end={self.r_end}, d_end={self.d_end}"
        return f"{super().extra_repr()}, r_max={self.r_max}, d_max={self.d_max}, {steps}"


def _ramp(step: int, start: int, end: int) -> float:
    """Rise linearly from 0 at `start` to 1 at `end`."""
    return 1.0 if step >= end else max(step - start, 0) / (end - start)


@NORMS.register("none")
def no_norm(channels: int, dimensions: int) -> nn.Module:
    """Leave activations as they are."""
    return nn.Identity()


@NORMS.register("batch")
def batch_norm(channels: int, dimensions: int, *, statistics: Literal["running", "exact"] = "running") -> nn.Module:
    """Normalize each channel over the batch (Ioffe & Szegedy 2015).

    When it is evaluated it uses `running` averages of the batches, or the `exact` statistics of the training set:
    those are measured at the end of each epoch (see `settle_statistics`), and until then the layer averages over the
    batches of the epoch so far.
    """
    kind = nn.BatchNorm2d if dimensions == 2 else nn.BatchNorm1d
    return kind(channels, momentum=None if statistics == "exact" else 0.1)


@NORMS.register("ghost-batch")
def ghost_batch_norm(channels: int, dimensions: int, *, size: int) -> nn.Module:
    """Normalize each channel over parts of `size` examples of the batch (Hoffer et al. 2017).

    Raises:
        ValueError: If a part has fewer than two examples.
    """
    if size < 2:
        raise ValueError(f"norm 'ghost-batch' needs parts of at least two examples, got {size}")
    return GhostBatchNorm(channels, size)


@NORMS.register("batch-renorm")
def batch_renorm(
    channels: int,
    dimensions: int,
    *,
    r_max: float = 3.0,
    d_max: float = 5.0,
    start: int = 100,
    r_end: int = 800,
    d_end: int = 500,
    momentum: float = 0.01,
) -> nn.Module:
    """Normalize by the batch, corrected toward the running statistics (Ioffe 2017).

    Limits and momentum are the paper's; its steps 5,000, 40,000 and 25,000 are divided by fifty.

    Raises:
        ValueError: If a limit, a step or the momentum is out of range.
    """
    if not (1 <= r_max < math.inf and 0 <= d_max < math.inf):
        raise ValueError(f"norm 'batch-renorm' needs r_max of at least 1 and d_max of at least 0, got {r_max}, {d_max}")
    if not 0 <= start <= min(r_end, d_end):
        raise ValueError(f"norm 'batch-renorm' needs 0 <= start <= r_end and d_end, got {start}, {r_end}, {d_end}")
    if not 0 < momentum <= 1:
        raise ValueError(f"norm 'batch-renorm' needs a momentum in (0, 1], got {momentum}")
    return BatchRenorm(channels, r_max, d_max, start, r_end, d_end, momentum)


@NORMS.register("layer")
def layer_norm(channels: int, dimensions: int, *, affine: bool = True) -> nn.Module:
    """Normalize each example over all its channels and places (Ba et al. 2016), with or without scale and shift."""
    if dimensions:
        return nn.GroupNorm(1, channels, affine=affine)
    return nn.LayerNorm(channels, elementwise_affine=affine)


@NORMS.register("instance")
def instance_norm(channels: int, dimensions: int, *, affine: bool = True) -> nn.Module:
    """Normalize each channel of each example over its places (Ulyanov et al. 2016).

    Raises:
        ValueError: If there are no places.
    """
    if not dimensions:
        raise ValueError("norm 'instance' averages over places, which a vector has none of; choose 'layer'")
    kind = nn.InstanceNorm2d if dimensions == 2 else nn.InstanceNorm1d
    return kind(channels, affine=affine)


@NORMS.register("group")
def group_norm(channels: int, dimensions: int, *, groups: int = 8) -> nn.Module:
    """Normalize each example over groups of channels (Wu & He 2018): `groups`, or fewer where they do not fit.

    A group holds at least two channels, since one alone has no spread in a vector.

    Raises:
        ValueError: If there is no group.
    """
    if groups < 1:
        raise ValueError(f"norm 'group' needs at least one group, got {groups}")
    fitting = math.gcd(channels, groups)
    return nn.GroupNorm(fitting if channels // fitting > 1 else max(fitting // 2, 1), channels)


def make_norm(text: str, channels: int, dimensions: int) -> nn.Module:
    """Build a normalization layer, written with its options as in "ghost-batch:16".

    Raises:
        ValueError: If the name or an option is unknown, missing or out of range, or the norm cannot work on these
            axes.
    """
    return NORMS.build(text, channels, dimensions)


def exact_norms(model: nn.Module) -> list[nn.Module]:
    """List the BatchNorm layers whose statistics are measured exactly: those with no momentum."""
    return [layer for layer in batch_norms(model) if layer.momentum is None]


def settle_statistics(
    network: nn.Module, inputs: Tensor, batch_size: int = 1024, still: Container[nn.Module] = ()
) -> None:
    """Replace the running statistics of `exact_norms` by those of the training set, at the parameters as they are.

    Mean and variance are pooled in float64 over all inputs (see `landscape.normalization.recalibrate`): exact for the
    first layer, and for all where one batch holds everything. Dropout is off; the network's mode stays.

    Args:
        network: Inputs (N, ...) -> anything.
        inputs: (N, ...) the training set.
        batch_size: Examples evaluated at a time.
        still: Layers that keep their statistics.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    recalibrate(network, lambda: [network(batch) for batch in inputs.split(batch_size)], still)
    for module, mode in modes.items():
        module.training = mode
    for layer in exact_norms(network):
        layer.num_batches_tracked.zero_()  # the next epoch's average starts anew
