"""Probabilities and their logits as integers, so that every machine mixes them to the same bit.

A probability is an integer p of 1..65535, in units of 1/65536, or an adaptive one of 30 bits; a logit is
ln(p / (1 - p)) in units of 1/256, at most `LIMIT` away from 0. The tables are exact roundings of the real functions,
computed with integers alone.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

LIMIT = 2880  # logits: a probability of 1.3e-5, which rounds to 1 / 65536
RECIPROCALS = 4096

_BITS = 160  # of the fixed point: what 2880 products lose stays far below a rounding


@cache
def squash_table() -> Array:
    """Probability of each logit from -LIMIT to LIMIT: 65536 / (1 + e^(-i/256)), rounded, int64."""
    half = [_probability(power) for power in _powers(256, LIMIT + 1)]
    table = [65536 - p for p in half[:0:-1]] + half
    return np.clip(np.array(table, dtype=np.int64), 1, 65535)


@cache
def stretch_table() -> Array:
    """Logit of each probability from 0 to 65535, rounded and held within LIMIT; that of 0 is -LIMIT; int64."""
    # Logit i begins where the probability reaches that of i - 1/2: the odd ones among the half steps.
    steps = _powers(512, 2 * LIMIT + 1)[1::2]
    begins = [-(-(power << 16) // (power + (1 << _BITS))) for power in steps]  # rounded up
    upper = np.searchsorted(np.array(begins), np.arange(1 << 16), side="right")
    table = upper.astype(np.int64)
    table[1:32768] = -table[:32768:-1]  # no probability lies on a border, so the lower half mirrors the upper
    table[0] = -LIMIT
    return table


@cache
def reciprocal_table() -> Array:
    """65536 / n rounded down for n from 1 to RECIPROCALS - 1, and 0 at 0, int64."""
    table = np.zeros(RECIPROCALS, dtype=np.int64)
    table[1:] = 65536 // np.arange(1, RECIPROCALS)
    return table


def _powers(unit: int, count: int) -> list[int]:
    """e^(i / unit) for i below `count`, as integers in units of 2^-_BITS."""
    one = 1 << _BITS
    base, term, index = one, one, 1
    while term:
        term //= unit * index
        base += term
        index += 1
    powers = [one]
    while len(powers) < count:
        powers.append(powers[-1] * base >> _BITS)
    return powers


def _probability(power: int) -> int:
    """65536 · g / (1 + g) for g = power / 2^_BITS, rounded to the nearest."""
    whole = power + (1 << _BITS)
    return ((power << 17) + whole) // (2 * whole)
