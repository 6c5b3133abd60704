"""Alternatives as types with their own settings only: how much goes, how pruning proceeds, how weights come back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fraction:
    """This fraction of all prunable weights is removed."""

    prune: float


@dataclass(frozen=True)
class Quality:
    """Weights below so many standard deviations are removed (Han et al. 2015, section 3)."""

    quality: float


@dataclass(frozen=True)
class Size:
    """As many weights are removed as a file of so many bytes needs."""

    target_size: int


@dataclass(frozen=True)
class Drop:
    """As much goes as costs no more points of the validation metric than this; nothing else says how much."""

    max_drop: float


@dataclass(frozen=True)
class Steps:
    """So many cuts along a schedule (one-shot, linear or cubic), each followed by retraining.

    With `max_drop`, cuts that cost more points are rolled back; with `reload`, each cut begins from the dense weights.
    """

    schedule: str
    iterations: int
    max_drop: float | None
    reload: bool


@dataclass(frozen=True)
class Circular:
    """One layer after the other loses a step, while no more than `max_drop` points are lost."""

    prune_step: float
    max_drop: float


@dataclass(frozen=True)
class Gap:
    """All lose a step before each epoch in which validation error is more than `gap` points above training error."""

    prune_step: float
    gap: float


@dataclass(frozen=True)
class Rewind:
    """After each cut, survivors go back to early values (``start``) or to ``random`` ones, and train from there."""

    rewind: str
    schedule: str
    iterations: int


@dataclass(frozen=True)
class Surgery:
    """Pruned weights go on learning unseen, and the next cut may bring them back."""


@dataclass(frozen=True)
class Set:
    """Each layer loses its smallest weights every so many batches (None: an epoch) and gets as many at random."""

    regrow_fraction: float = 0.3
    regrow_every: int | None = None


@dataclass(frozen=True)
class DeepR:
    """Weights that would change their sign move elsewhere; None is the temperature of the paper."""

    deepr_alpha: float
    deepr_temperature: float | None


@dataclass(frozen=True)
class Dsr:
    """Weights under one threshold go every so many batches, and come back in the layers that lost fewest."""

    regrow_fraction: float = 0.05
    regrow_every: int = 100


Amount = Fraction | Quality | Size | Drop
Way = Steps | Circular | Gap | Rewind
Regrowth = Surgery | Set | DeepR | Dsr
