"""Shared values on a uniform grid: a step times whole numbers, so that a codebook is one number.

After pruning and entropy coding a uniform quantizer is close to the best there is (Gish and Pierce 1968), and Choi,
El-Khamy and Lee 2017 found it to beat k-means there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

CANDIDATES = 96  # steps that are tried, evenly spaced on a logarithmic scale
FINEST = 4  # the finest of them, as a part of the step that reaches the largest value with all multiples
UPDATES = 3  # of each step by least squares

#: What a step is worth beside its distortion: from (samples, their counts, their multiples), lower is better.
Penalty = Callable[[Array, Array, Array], float]


def short(step: float) -> float:
    """The nearest bfloat16 to a positive step, none of them 0 or infinite: two bytes, and 8 bits of precision.

    Times a whole number below 2^12 it is a float32 without rounding.
    """
    with np.errstate(over="ignore"):
        bits = int(np.float32(step).view(np.uint32))
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return float(np.uint32(min(max(rounded, 0x00010000), 0x7F7F0000)).view(np.float32))


def multiples_of(values: Array, step: float, below: int, above: int, zero: bool = False) -> Array:
    """The nearest whole multiple of `step` from -below to above for each value (int64); 0 only if `zero` allows it."""
    nearest = np.rint(values / step)
    if not zero:
        nearest = np.where(nearest == 0, np.sign(values), nearest)
    nearest = np.clip(nearest, -below, above)
    if not zero:  # of a value whose side has no multiples
        nearest = np.where(nearest == 0, 1 if above else -1, nearest)
    return nearest.astype(np.int64)


def sides(values: Array, step: float, k: int, limit: float) -> tuple[int, int]:
    """How far the grid goes below and above zero: as far as the values do, with at most `k` multiples in all.

    Too many are cut on both sides in proportion; a single one is on the side of the largest value. No multiple exceeds
    `limit`.
    """
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    most = max(np.floor(limit / step), 1)
    below = int(min(max(np.rint(-low / step), low < 0), most))
    above = int(min(max(np.rint(high / step), high > 0), most))
    if below + above <= k:
        return below, above
    if k == 1:
        return (1, 0) if -low > high else (0, 1)
    share = round(k * below / (below + above))
    below = int(np.clip(share, min(below, 1), k - min(above, 1)))
    return below, k - below


def fit_step(
    samples: Array, counts: Array, k: int, limit: float, penalty: Penalty | None = None, zero: bool = False
) -> tuple[float, int, int]:
    """The step of the lowest distortion for `samples`, and how far its grid goes below and above zero.

    Steps from coarse to fine are tried, each improved by least squares, rounded by `short` and then judged, so that the
    best is the best of those that can be stored.

    Args:
        samples, counts: distinct values and what each counts, float64, at least one and not all of them zero.
        k: most multiples, 0 not counted.
        limit: largest magnitude that a multiple may have.
        penalty: added to the distortion.
        zero: whether a value may be 0.
    """
    largest = float(np.abs(samples).max())
    best: tuple[float, float, int, int] | None = None
    for start in np.geomspace(1.5 * largest, largest / (FINEST * (k + 1)), CANDIDATES):
        step = max(float(start), np.finfo(np.float64).tiny)
        for _ in range(UPDATES):
            found = multiples_of(samples, step, *sides(samples, step, k, limit), zero)
            step = least_squares(samples, counts, found) or step
        step = short(step)
        below, above = sides(samples, step, k, limit)
        found = multiples_of(samples, step, below, above, zero)
        judged = float((counts * np.square(samples - step * found)).sum())
        judged += penalty(samples, counts, found) if penalty else 0.0
        if best is None or judged < best[0]:
            best = judged, step, below, above
    assert best is not None
    return best[1:]


def least_squares(values: Array, counts: Array, multiples: Array) -> float:
    """The step that lies nearest to `values` at these multiples, 0 if there is none above 0."""
    power = float((counts * np.square(multiples, dtype=np.float64)).sum())
    return max(float((counts * values * multiples).sum()) / power, 0.0) if power else 0.0
