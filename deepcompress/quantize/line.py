"""Sums over many weights of a function of one number, and its values at them, from few points of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

FINENESS = 16  # points for each unit of what is to be seen: linear between them is within 0.05 % of a Gaussian's height
MOST = 1 << 18


@dataclass(frozen=True)
class Places:
    """Where weights lie (n each): after which point (int64), and how far to the next (float32, from 0 to 1)."""

    after: torch.Tensor
    part: torch.Tensor

    def values(self, function: torch.Tensor) -> torch.Tensor:
        """A function, known at the points, at the weights: linear between points (float32, n)."""
        known = function.float()
        return torch.addcmul(known[:-1][self.after], known.diff()[self.after], self.part)


@dataclass(frozen=True)
class Line:
    """Points at equal distances, from the smallest weight to the largest (float64)."""

    points: torch.Tensor

    @classmethod
    def through(cls, weights: Sequence[torch.Tensor], unit: float) -> Line:
        """As many points as it takes for what changes over a `unit`."""
        ends = [weight.detach().float().aminmax() for weight in weights]
        low, high = min(float(end.min) for end in ends), max(float(end.max) for end in ends)
        number = min(math.ceil(FINENESS * (high - low) / unit), MOST) + 2
        return cls(torch.linspace(low, high, number, dtype=torch.float64, device=weights[0].device))

    def places(self, weight: torch.Tensor) -> Places:
        """Where the weights of a layer lie, in order."""
        low, high = float(self.points[0]), float(self.points[-1])
        last = len(self.points) - 2
        at = (weight.detach().reshape(-1).float() - low).mul_((last + 1) / (high - low) if high > low else 0.0)
        after = at.long().clamp_(0, last)
        return Places(after, at.sub_(after))

    def counts(self, places: Sequence[Places]) -> torch.Tensor:
        """How many weights there are at each point: one between two points is of both, in parts (float64)."""
        number = len(self.points)
        found = torch.zeros(number + 1, dtype=torch.float64, device=self.points.device)
        for place in places:
            beyond = torch.bincount(place.after, place.part.double(), minlength=number)
            found[:-1] += torch.bincount(place.after, minlength=number) - beyond
            found[1:] += beyond
        return found[:-1]
