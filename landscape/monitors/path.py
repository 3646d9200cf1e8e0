"""The geometry of the way that parameters take."""

from __future__ import annotations

import torch
from torch import Tensor


class ParameterPath:
    """The polygon through the points at which a training is recorded.

    Attributes:
        origin: (P,) where it began.
        last: (P,) the point before.
        chord: (P,) from the point before that to it; zero at first.
    """

    def __init__(self, origin: Tensor, last: Tensor | None = None, chord: Tensor | None = None) -> None:
        self.origin = origin
        self.last = origin if last is None else last
        self.chord = torch.zeros_like(origin) if chord is None else chord

    def move(self, to: Tensor) -> dict[str, Tensor]:
        """Go to a point (P,).

        Returns:
            `chord_length`, how far it lies from the point before; `turn_cosine`, of the angle between this chord and
            the one before (1 straight on, -1 straight back, NaN for none); `distance_from_start`.
        """
        chord = to - self.last
        length = torch.linalg.vector_norm(chord)
        cosine = torch.dot(chord, self.chord) / (length * torch.linalg.vector_norm(self.chord))
        self.last, self.chord = to, chord
        distance = torch.linalg.vector_norm(to - self.origin)
        return {"chord_length": length, "turn_cosine": cosine, "distance_from_start": distance}
