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

    def move(self, points: Tensor) -> dict[str, Tensor]:
        """Go through points (K, P), one after the other.

        Returns:
            (K,) each: `chord_length`, how far a point lies from the one before; `turn_cosine`, of the angle between
            this chord and the one before (1 straight on, -1 straight back, NaN for none); `distance_from_start`.
        """
        chords = torch.cat([self.chord[None], points - torch.cat([self.last[None], points[:-1]])])
        lengths = torch.linalg.vector_norm(chords, dim=1)
        cosines = (chords[1:] * chords[:-1]).sum(1) / (lengths[1:] * lengths[:-1])
        self.last, self.chord = points[-1].clone(), chords[-1].clone()
        distances = torch.linalg.vector_norm(points - self.origin, dim=1)
        return {"chord_length": lengths[1:], "turn_cosine": cosines, "distance_from_start": distances}
