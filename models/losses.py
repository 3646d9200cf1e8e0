"""The loss of a run."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]


def make_loss(label_smoothing: float = 0.0) -> Loss:
    """Return the mean cross-entropy (nats) of logits (N, K) and labels (N,), or shares of classes (N, K).

    Args:
        label_smoothing: e; the share of a label becomes 1 - e + e / K, that of every other class e / K.

    References:
        Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, section 7.
    """
    return nn.CrossEntropyLoss(label_smoothing=label_smoothing) if label_smoothing else F.cross_entropy
