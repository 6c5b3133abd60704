"""Integers as a token, which is coded by a model, and extra bits, which are not (docs/format.md, section 18).

Small magnitudes have tokens of their own; from `EXACT` on, four tokens share an octave. The sign is part of the token.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

EXACT = 16  # magnitudes below this are classes of their own
LARGEST = (1 << 15) - 1
CLASSES = EXACT + 4 * 11
TOKENS = 2 * CLASSES - 1


@cache
def starts() -> Array:
    """The smallest magnitude of each class, int64."""
    octaves = [(4 + part) << octave - 2 for octave in range(4, 15) for part in range(4)]
    return np.array([*range(EXACT), *octaves], dtype=np.int64)


@cache
def extra_bits() -> Array:
    """Bits that follow each token, int64."""
    by_class = np.array([0] * EXACT + [octave - 2 for octave in range(4, 15) for _ in range(4)], dtype=np.int64)
    bits: Array = by_class[(np.arange(TOKENS) + 1) >> 1]
    return bits


@cache
def bases() -> Array:
    """The integer of smallest magnitude that each token stands for, int64: 0, -1, 1, -2, ..."""
    numbers = np.arange(TOKENS)
    signed: Array = np.where(numbers & 1, -1, 1) * starts()[(numbers + 1) >> 1]
    return signed


@cache
def classes() -> Array:
    """The class of each magnitude up to `LARGEST`, uint8."""
    return (np.searchsorted(starts(), np.arange(LARGEST + 1), side="right") - 1).astype(np.uint8)
