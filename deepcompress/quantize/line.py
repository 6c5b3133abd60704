"""Sums over many weights of a function of one number, and its values at them, from few points of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from deepcompress.errors import DivergedError

FINENESS = 16  # points for each unit of what is to be seen: linear between them is within 0.05 % of a Gaussian's height
MOST = 1 << 15


@dataclass(frozen=True)
class Places:
    """Where weights lie (n each): after which point (int64), and how far to the next (float32, from 0 to 1)."""

    after: torch.Tensor
    part: torch.Tensor

    def values(self, function: torch.Tensor) -> torch.Tensor:
        """A function, known at the points, at the weights: linear between points (float32, n)."""
        known = function.float().to(self.part.device)
        return torch.addcmul(known[:-1][self.after], known.diff()[self.after], self.part)


@dataclass(frozen=True)
class Line:
    """Points at equal distances, from the smallest weight to the largest (float64, on the CPU)."""

    points: torch.Tensor

    @classmethod
    def through(cls, weights: Sequence[torch.Tensor], unit: float) -> Line:
        """As many points as it takes for what changes over a `unit` (`DivergedError` as `ends`)."""
        low, high = ends(weights)
        number = math.ceil(min(FINENESS * (high - low) / unit, MOST)) if unit else MOST
        return cls(torch.linspace(low, high, number + 2, dtype=torch.float64))

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
        found = torch.zeros(number + 1, dtype=torch.float64)
        for place in places:
            beyond = torch.bincount(place.after, place.part, minlength=number).cpu().double()
            found[:-1] += torch.bincount(place.after, minlength=number).cpu() - beyond
            found[1:] += beyond
        return found[:-1]


def ends(weights: Sequence[torch.Tensor]) -> tuple[float, float]:
    """The smallest and the largest of all `weights`.

    Raises:
        DivergedError: they are not finite.
    """
    found = [weight.detach().float().aminmax() for weight in weights]
    low, high = min(float(pair.min) for pair in found), max(float(pair.max) for pair in found)
    if not all(math.isfinite(float(end)) for pair in found for end in pair):
        raise DivergedError("sws: the weights, or their prior, are no longer finite; lower the learning rate")
    return low, high
