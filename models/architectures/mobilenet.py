"""Networks of depthwise convolutions for small inputs: MobileNet and EfficientNet."""

from __future__ import annotations

from torch import Tensor, nn

from models.activations import make_activation, require_entrywise
from models.architectures.registry import ARCHITECTURES
from models.layers import Branch, GlobalMean, Residual, conv, conv_block, spatial_dimensions
from models.normalization import make_norm


@ARCHITECTURES.register("mobilenet")
def mobilenet(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 8,
    depth: int = 5,
    norm: str = "batch",
    activation: str = "relu",
) -> nn.Module:
    """Build MobileNet: a convolution with `width` channels (32 in the paper), then `depth` depthwise separable blocks.

    A block is a 3 x 3 convolution of each channel alone, then a 1 x 1 convolution. The first block doubles the
    channels; of the others every second one halves the sides and doubles them too, as long as at least two places
    are left on each side, but never beyond 32 times `width`.

    For images of C channels, with batch norm, it has 9 C w + 2 w parameters in the first convolution,
    11 c + c c' + 2 c' in a block from c to c' channels, and (c + 1) K in the classifier.

    References:
        Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017,
        table 1.
    """
    require_entrywise(activation, "mobilenet")
    dimensions, side = spatial_dimensions(input_shape, "mobilenet"), min(input_shape[1:])
    network = nn.Sequential()
    network.add_module("stem", conv_block(dimensions, input_shape[0], width, norm, activation))
    channels = width
    for index in range(1, depth + 1):
        halves = index % 2 == 0 and side >= 4
        channels_out = min(2 * channels, 32 * width) if halves or index == 1 else channels
        stride = 2 if halves else 1
        depthwise = conv_block(dimensions, channels, channels, norm, activation, groups=channels, stride=stride)
        pointwise = conv_block(dimensions, channels, channels_out, norm, activation, kernel=1)
        network.add_module(f"block{index}", nn.Sequential(depthwise, pointwise))
        channels, side = channels_out, -(-side // stride)
    network.add_module("mean", GlobalMean())
    network.add_module("head", nn.Linear(channels, num_classes))
    return network


class SqueezeExcitation(nn.Module):
    """Weigh each channel by what all channels are on average: x * sigmoid(W2 f(W1 mean(x) + b1) + b2).

    Args:
        channels: Channels of the inputs.
        squeezed: Units of the hidden layer.
        activation: Its activation f.
    """

    def __init__(self, channels: int, squeezed: int, activation: str) -> None:
        super().__init__()
        self.mean = GlobalMean()
        self.squeeze = nn.Linear(channels, squeezed)
        self.activation = make_activation(activation, squeezed)
        self.excite = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, ...) to the same shape."""
        weights = self.excite(self.activation(self.squeeze(self.mean(x)))).sigmoid()
        return x * weights.view(*weights.shape, *(1,) * (x.ndim - 2))


class InvertedBottleneck(Residual):
    """EfficientNet's block: 1 x 1 convolution to more channels, depthwise one, squeeze and excitation, 1 x 1 back.

    What comes out is added to the input where both have the same shape; nothing is activated after that.

    Args:
        dimensions: Spatial axes.
        channels_in: Channels of the inputs; a quarter of them is the width of squeeze and excitation.
        channels: Channels of the outputs.
        expansion: Factor of channels inside; with 1 there is no first convolution.
        kernel: Width of the depthwise convolution.
        stride: Its stride.
        norm: A norm with its options.
        activation: An activation with its options.
        skip: Whether the input is added.

    References:
        Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, figure 3(b);
        Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018.
    """

    def __init__(
        self,
        dimensions: int,
        channels_in: int,
        channels: int,
        expansion: int,
        kernel: int,
        stride: int,
        norm: str,
        activation: str,
        skip: bool,
    ) -> None:
        super().__init__()
        inside = expansion * channels_in
        self.expand = nn.Identity()
        if expansion > 1:
            self.expand = conv_block(dimensions, channels_in, inside, norm, activation, kernel=1)
        self.depthwise = conv_block(
            dimensions, inside, inside, norm, activation, kernel=kernel, groups=inside, stride=stride
        )
        self.excitation = SqueezeExcitation(inside, max(channels_in // 4, 1), activation)
        self.project = conv(dimensions, inside, channels, 1, bias=norm == "none")
        self.norm = make_norm(norm, channels, dimensions)
        self.skip = skip and stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, ...) to (N, C', ...), the sides divided by the stride."""
        return self.beside(lambda: self._residual(x), lambda: x) if self.skip else self._residual(x)

    def _residual(self, x: Tensor) -> Tensor:
        return self.norm(self.project(self.excitation(self.depthwise(self.expand(x)))))

    def branches(self) -> list[Branch]:
        """List the one branch; its gate is not of it."""
        inner = [block for block in (self.expand, self.depthwise) if isinstance(block, nn.Sequential)]
        layers = (*(block.conv for block in inner), self.project)
        norms = (*(block.norm for block in inner), self.norm)
        return [Branch(layers, norms, ends_with_norm=True)] if self.skip else []


@ARCHITECTURES.register("efficientnet")
def efficientnet(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 8,
    depth: int = 2,
    norm: str = "batch",
    activation: str = "silu",
    skip: bool = True,
) -> nn.Module:
    """Build EfficientNet's first three stages, then its 1 x 1 convolution to 4 times the channels and a classifier.

    From a 3 x 3 convolution with `width` channels (b) through one block without expansion (3 x 3, b channels),
    `depth` blocks of expansion 6 (3 x 3, 3 b / 2 channels) and `depth` of expansion 6 (5 x 5, 5 b / 2 channels); the
    first block of the second and third stage halves the sides. B0 has b = 16 there, depth 2 and four stages more; its
    family multiplies depth by 1.2 and width by 1.1 for each step of compound scaling. Its dropout
    and stochastic depth are regularizations of their own.

    For images of C channels, with batch norm, it has 9 C b + 2 b parameters in the first convolution; in a block from
    c to c' channels, with e = c times the expansion and s = c / 4: c e + 2 e if it expands, k^2 e + 2 e,
    2 e s + s + e and e c' + 2 c'; then 4 c^2 + 8 c and (4 c + 1) K.

    References:
        Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, table 1.
    """
    require_entrywise(activation, "efficientnet")
    dimensions = spatial_dimensions(input_shape, "efficientnet")
    network = nn.Sequential()
    network.add_module("stem", conv_block(dimensions, input_shape[0], width, norm, activation))
    channels = width
    stages = ((1, width, 1, 3), (depth, 3 * width // 2, 6, 3), (depth, 5 * width // 2, 6, 5))
    for index, (blocks, channels_out, expansion, kernel) in enumerate(stages, start=1):
        stage = nn.Sequential()
        for position in range(blocks):
            shape = (channels, channels_out, expansion, kernel, 2 if index > 1 and not position else 1)
            stage.append(InvertedBottleneck(dimensions, *shape, norm, activation, skip))
            channels = channels_out
        network.add_module(f"stage{index}", stage)
    network.add_module("top", conv_block(dimensions, channels, 4 * channels, norm, activation, kernel=1))
    network.add_module("mean", GlobalMean())
    network.add_module("head", nn.Linear(4 * channels, num_classes))
    return network
