"""Residual networks for small inputs, with or without their skips: ResNet in its CIFAR form, pre-activation, wide."""

from __future__ import annotations

from torch import Tensor, nn

from models.activations import make_activation, require_entrywise
from models.architectures.registry import ARCHITECTURES
from models.layers import Branch, GlobalMean, Residual, conv, spatial_dimensions
from models.normalization import make_norm


class ResidualBlock(Residual):
    """Two convolutions and the way around them: `activation(shortcut(x) + f(x))`.

    Where the shape changes, the shortcut is a strided 1 x 1 convolution with norm ("option B" of the paper).
    """

    def __init__(
        self,
        dimensions: int,
        channels_in: int,
        channels: int,
        stride: int,
        norm: str,
        activation: str,
        skip: bool,
    ) -> None:
        super().__init__()
        bias = norm == "none"
        self.conv1 = conv(dimensions, channels_in, channels, 3, stride=stride, padding=1, bias=bias)
        self.norm1 = make_norm(norm, channels, dimensions)
        self.conv2 = conv(dimensions, channels, channels, 3, padding=1, bias=bias)
        self.norm2 = make_norm(norm, channels, dimensions)
        self.activation1 = make_activation(activation, channels)
        self.activation2 = make_activation(activation, channels)
        self.shortcut: nn.Module | None = None
        if skip and channels_in == channels:
            self.shortcut = nn.Identity()
        elif skip:
            projection = conv(dimensions, channels_in, channels, 1, stride=stride, bias=bias)
            self.shortcut = nn.Sequential(projection, make_norm(norm, channels, dimensions))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, ...) to (N, C', ...), the sides divided by the stride."""
        shortcut = self.shortcut
        if shortcut is None:
            return self.activation2(self._residual(x))
        return self.activation2(self.beside(lambda: self._residual(x), lambda: shortcut(x)))

    def _residual(self, x: Tensor) -> Tensor:
        return self.norm2(self.conv2(self.activation1(self.norm1(self.conv1(x)))))

    def branches(self) -> list[Branch]:
        """List the one branch."""
        branch = Branch((self.conv1, self.conv2), (self.norm1, self.norm2), ends_with_norm=True)
        return [] if self.shortcut is None else [branch]


class PreActivationBlock(Residual):
    """Norm and activation before each convolution: `shortcut(x) + f(x)`.

    Where the shape changes, the shortcut is a strided 1 x 1 convolution of the already normalized input.
    """

    def __init__(
        self,
        dimensions: int,
        channels_in: int,
        channels: int,
        stride: int,
        norm: str,
        activation: str,
        skip: bool,
    ) -> None:
        super().__init__()
        bias = norm == "none"
        self.norm1 = make_norm(norm, channels_in, dimensions)
        self.conv1 = conv(dimensions, channels_in, channels, 3, stride=stride, padding=1, bias=bias)
        self.norm2 = make_norm(norm, channels, dimensions)
        self.conv2 = conv(dimensions, channels, channels, 3, padding=1, bias=bias)
        self.activation1 = make_activation(activation, channels_in)
        self.activation2 = make_activation(activation, channels)
        self.skip = skip
        self.projection: nn.Module | None = None
        if skip and (channels_in != channels or stride != 1):
            self.projection = conv(dimensions, channels_in, channels, 1, stride=stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, ...) to (N, C', ...), the sides divided by the stride."""
        projection = self.projection
        if not self.skip:
            return self._residual(self._active(x))
        if projection is None:
            return self.beside(lambda: self._residual(self._active(x)), lambda: x)
        active = self._active(x)
        return self.beside(lambda: self._residual(active), lambda: projection(active))

    def _active(self, x: Tensor) -> Tensor:
        return self.activation1(self.norm1(x))

    def _residual(self, active: Tensor) -> Tensor:
        return self.conv2(self.activation2(self.norm2(self.conv1(active))))

    def branches(self) -> list[Branch]:
        """List the one branch."""
        branch = Branch((self.conv1, self.conv2), (self.norm1, self.norm2), ends_with_norm=False)
        return [branch] if self.skip else []


def stages(
    block: type[nn.Module], blocks: int, dimensions: int, channels_in: int, channels: int, *options: object
) -> nn.Sequential:
    """Build three stages of `blocks` blocks; the second and third halve the sides and double the channels."""
    body = nn.Sequential()
    for index in range(3):
        stage = nn.Sequential()
        for position in range(blocks):
            stride = 2 if index and not position else 1
            stage.append(block(dimensions, channels_in, channels << index, stride, *options))
            channels_in = channels << index
        body.add_module(f"stage{index + 1}", stage)
    return body


def _pre_activation(
    dimensions: int,
    blocks: int,
    channels: tuple[int, int, int],
    num_classes: int,
    norm: str,
    activation: str,
    skip: bool,
) -> nn.Sequential:
    """Build three stages of blocks that activate first: `channels` of the input, of the stem, of the first stage."""
    channels_in, stem, width = channels
    network = nn.Sequential()
    network.add_module("conv", conv(dimensions, channels_in, stem, 3, padding=1, bias=norm == "none"))
    body = stages(PreActivationBlock, blocks, dimensions, stem, width, norm, activation, skip)
    network.add_module("body", body)
    network.add_module("norm", make_norm(norm, 4 * width, dimensions))
    network.add_module("activation", make_activation(activation, 4 * width))
    network.add_module("pool", GlobalMean())
    network.add_module("head", nn.Linear(4 * width, num_classes))
    return network


@ARCHITECTURES.register("resnet")
def resnet(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 16,
    depth: int = 8,
    norm: str = "batch",
    activation: str = "relu",
    skip: bool = True,
) -> nn.Module:
    """Build ResNet-`depth` (6n + 2) with `width`, 2 and 4 times `width` channels (16 in the paper).

    With `skip=False` the same network without its shortcuts, as Li et al. (2018) compare it.

    Raises:
        ValueError: If `depth` is not 8, 14, 20, ...

    References:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"model 'resnet' has depth 6n + 2 (8, 14, 20, 32, 56, ...), got {depth}")
    require_entrywise(activation, "resnet")
    dimensions = spatial_dimensions(input_shape, "resnet")
    network = nn.Sequential()
    network.add_module("conv", conv(dimensions, input_shape[0], width, 3, padding=1, bias=norm == "none"))
    network.add_module("norm", make_norm(norm, width, dimensions))
    network.add_module("activation", make_activation(activation, width))
    body = stages(ResidualBlock, (depth - 2) // 6, dimensions, width, width, norm, activation, skip)
    network.add_module("body", body)
    network.add_module("pool", GlobalMean())
    network.add_module("head", nn.Linear(4 * width, num_classes))
    return network


@ARCHITECTURES.register("preresnet")
def preresnet(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 16,
    depth: int = 8,
    norm: str = "batch",
    activation: str = "relu",
    skip: bool = True,
) -> nn.Module:
    """Build ResNet-`depth` (6n + 2) with norm and activation before each convolution, so that skips are identities.

    For images of C channels and K classes, with batch norm, it has
    9 C w + (378 n - 80) w^2 + 2 (14 n + 1) w + (4 w + 1) K parameters, w the width.

    Raises:
        ValueError: If `depth` is not 8, 14, 20, ...

    References:
        He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016, figure 1(b).
    """
    require_entrywise(activation, "preresnet")
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"model 'preresnet' has depth 6n + 2 (8, 14, 20, 32, 56, ...), got {depth}")
    dimensions = spatial_dimensions(input_shape, "preresnet")
    channels = (input_shape[0], width, width)
    return _pre_activation(dimensions, (depth - 2) // 6, channels, num_classes, norm, activation, skip)


@ARCHITECTURES.register("wideresnet")
def wideresnet(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 2,
    depth: int = 10,
    norm: str = "batch",
    activation: str = "relu",
    skip: bool = True,
) -> nn.Module:
    """Build WRN-`depth`-`width` (depth 6n + 4), `width` times as wide as 16, 32 and 64 channels.

    Raises:
        ValueError: If `depth` is not 10, 16, 22, ...

    References:
        Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016, table 1.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"model 'wideresnet' has depth 6n + 4 (10, 16, 22, 28, 40, ...), got {depth}")
    require_entrywise(activation, "wideresnet")
    dimensions = spatial_dimensions(input_shape, "wideresnet")
    channels = (input_shape[0], 16, 16 * width)
    return _pre_activation(dimensions, (depth - 4) // 6, channels, num_classes, norm, activation, skip)
