"""A small vision transformer."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from models.architectures.registry import ARCHITECTURES
from models.layers import Branch, ChannelsSecond, Drawn, Residual, activated, conv, spatial_dimensions
from models.normalization import make_norm


class Attention(nn.Module):
    """Multi-head self-attention, written out so that it can be differentiated as often as anything else.

    Args:
        width: Entries of a token (D).
        heads: How many parts of D / heads entries attend on their own.

    References:
        Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (N, T, D) to the same shape."""
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
        return self.out((scores.softmax(dim=3) @ value).transpose(1, 2).flatten(2))


class TransformerBlock(Residual):
    """x + attention(norm(x)), then x + mlp(norm(x)) with a hidden layer of 4 D units.

    Args:
        width: Entries of a token (D).
        heads: Attention heads.
        norm: A norm with its options.
        activation: The activation of the hidden layer.
    """

    def __init__(self, width: int, heads: int, norm: str, activation: str) -> None:
        super().__init__()
        self.norm1 = _token_norm(norm, width)
        self.attention = Attention(width, heads)
        self.norm2 = _token_norm(norm, width)
        self.hidden, _, active = activated(partial(nn.Linear, width), 4 * width, 1, "none", activation)
        self.activation = ChannelsSecond(active)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (N, T, D) to the same shape."""
        y = self.beside(lambda: self.attention(self.norm1(x)), lambda: x)
        return self.beside(lambda: self.out(self.activation(self.hidden(self.norm2(y)))), lambda: y, number=1)

    def branches(self) -> list[Branch]:
        """List both: attention by what its output is linear in, and the hidden layer."""
        attend = Branch((self.attention.value, self.attention.out), (self.norm1,), ends_with_norm=False)
        return [attend, Branch((self.hidden, self.out), (self.norm2,), ends_with_norm=False)]


class Patches(Drawn):
    """Cut inputs into patches, map each linearly to a token and add what is learned of its place.

    Args:
        input_shape: Shape of one input, (C, L) or (C, H, W).
        width: Entries of a token (D).
        patch: Side of a patch; it divides each side of the inputs.
    """

    def __init__(self, input_shape: tuple[int, ...], width: int, patch: int) -> None:
        super().__init__()
        tokens = math.prod(side // patch for side in input_shape[1:])
        self.embed = conv(len(input_shape) - 1, input_shape[0], width, patch, stride=patch)
        self.places = nn.Parameter(torch.zeros(tokens, width))

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Draw what is added to tokens by place from N(0, 0.02^2)."""
        self.places.normal_(0, 0.02, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, ...) to tokens (N, T, D)."""
        return self.embed(x).flatten(2).transpose(1, 2) + self.places


class TokenMean(nn.Module):
    """Average over tokens: (N, T, D) -> (N, D)."""

    def forward(self, x: Tensor) -> Tensor:
        """Average over axis 1."""
        return x.mean(1)


@ARCHITECTURES.register("vit")
def vit(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 32,
    depth: int = 2,
    heads: int = 4,
    patch: int | None = None,
    norm: str = "layer",
    activation: str = "gelu",
) -> nn.Module:
    """Build a vision transformer: `depth` blocks on tokens of `width` entries, their mean and a linear classifier.

    Without a class token. The norm "layer" goes over the entries of a token, as in the paper; "batch" over examples
    and tokens, "group" and "instance" over the tokens of an example. Patches have a quarter of the shortest side of an
    image, an eighth of a signal, or the largest length below that divides all sides, where `patch` does not say
    otherwise: 8 x 8, 28 x 28 and 32 x 32 images are 16 tokens.

    For T patches of m entries, with norm, it has (m + 1) D + T D + L (12 D^2 + 13 D) + 2 D + (D + 1) K parameters,
    L the depth and D the width.

    Raises:
        ValueError: If the heads do not divide the width, or the patch does not divide a side.

    References:
        Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, equations 1 to 4.
    """
    dimensions = spatial_dimensions(input_shape, "vit")
    if heads < 1 or width % heads:
        raise ValueError(f"model 'vit' divides its width into equal heads, got width {width} and {heads} heads")
    patch = _patch(input_shape[1:], 4 if dimensions == 2 else 8) if patch is None else patch
    if patch < 1 or any(side % patch for side in input_shape[1:]):
        raise ValueError(f"model 'vit' cuts sides {input_shape[1:]} into whole patches, got patch {patch}")
    network = nn.Sequential()
    network.add_module("patches", Patches(input_shape, width, patch))
    for index in range(1, depth + 1):
        network.add_module(f"block{index}", TransformerBlock(width, heads, norm, activation))
    network.add_module("norm", _token_norm(norm, width))
    network.add_module("mean", TokenMean())
    network.add_module("head", nn.Linear(width, num_classes))
    return network


def _patch(sides: tuple[int, ...], tokens: int) -> int:
    """The longest side of a patch that divides all sides and leaves at least so many patches on each."""
    common = math.gcd(*sides)
    return max(length for length in range(1, min(sides) // tokens + 1) if common % length == 0)


def _token_norm(norm: str, width: int) -> nn.Module:
    """A norm for tokens (N, T, D)."""
    is_per_token = norm.partition(":")[0] in ("layer", "none")
    return make_norm(norm, width, 0) if is_per_token else ChannelsSecond(make_norm(norm, width, 1))
