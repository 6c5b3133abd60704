"""One-dimensional k-means over the surviving weights of a layer.

Never a matrix of weights x centroids: clustering runs on distinct or histogrammed values with sample weights
(scikit-learn's Lloyd), and assignment is a binary search between the midpoints of the sorted centroids.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

CHUNK = 1 << 20  # values of a large layer that are looked at together
MAX_SAMPLES = 1 << 14  # distinct values up to this many are clustered exactly; beyond, a histogram of so many bins


def init_linear(values: Array, weights: Array, k: int, rng: np.random.Generator) -> Array:
    """Evenly spaced between the smallest and the largest value, leaving out the gap that pruning cut around zero.

    Over one span from minimum to maximum, centroids would fall into that gap and die: so negative and positive
    values are spaced by themselves, each with its share of the centroids.
    """
    negative, positive = values[values < 0], values[values > 0]
    if not len(negative) or not len(positive):
        return np.linspace(values.min(), values.max(), k)
    spans = np.array([np.ptp(negative), np.ptp(positive)])
    share = spans[0] / spans.sum() if spans.sum() else 0.5
    below = int(np.clip(round(k * share), min(1, k - 1), max(k - 1, 1)))
    parts = [np.linspace(negative.min(), negative.max(), below), np.linspace(positive.min(), positive.max(), k - below)]
    return np.concatenate(parts)


def init_density(values: Array, weights: Array, k: int, rng: np.random.Generator) -> Array:
    """Evenly spaced on the cumulative distribution: as many weights between any two neighbours."""
    cumulative = np.cumsum(weights) - weights / 2
    start: Array = np.interp((np.arange(k) + 0.5) / k * weights.sum(), cumulative, values)
    return start


def init_random(values: Array, weights: Array, k: int, rng: np.random.Generator) -> Array:
    """k different weights, drawn at random (Forgy)."""
    return np.sort(rng.choice(values, size=k, replace=False, p=weights / weights.sum()))


INITS: dict[str, Callable[[Array, Array, int, np.random.Generator], Array]] = {
    "linear": init_linear,
    "density": init_density,
    "random": init_random,
}


def cluster(values: Array, k: int, init: str = "linear", seed: int = 0, importance: Array | None = None) -> Array:
    """At most `k` shared values for `values`: sorted, distinct, none of them zero, each nearest to some value.

    With `importance` h the sum of h * (value - centroid)^2 is what clustering lowers: Hessian-weighted k-means
    (Choi, El-Khamy and Lee 2017).

    Args:
        values: one-dimensional, finite, none zero, float32 or float64.
        k: number of centroids wanted; if there are no more distinct values than that, they are the result.
        init: a key of `INITS`.
        seed: of the random initialization.
        importance: what each value counts, positive, as long as `values`; None counts all alike.

    Returns:
        float32 or float64 as `values`, at most k long; empty for no values.
    """
    if k >= len(values) or len(np.unique(values[: 1 << 20])) <= k:
        distinct = np.unique(values)
        if len(distinct) <= k:
            return distinct
    samples, weights = condense(values, importance)
    start = INITS[init](samples, weights, k, np.random.default_rng(seed)) if len(samples) > k else samples
    centroids = np.unique(_lloyd(samples, weights, start).astype(values.dtype))
    return _settle(values, centroids)


def assign(values: Array, centroids: Array) -> Array:
    """Index of the nearest of the sorted `centroids` for each value, by binary search between their midpoints."""
    midpoints = (centroids[1:].astype(np.float64) + centroids[:-1]) / 2
    return np.searchsorted(midpoints, values, side="right")


def condense(values: Array, importance: Array | None = None) -> tuple[Array, Array]:
    """Values and what each counts, float64: exact while there are few, else the means of equal-width bins.

    A value counts as often as it occurs, or the sum of its `importance`.
    """
    if len(values) <= CHUNK:
        distinct, inverse = np.unique(values.astype(np.float64), return_inverse=True)
        if len(distinct) <= MAX_SAMPLES:
            return distinct, np.bincount(inverse, importance, minlength=len(distinct)).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    # In float64: float32 overflows on the span of very large values, and on the inverse of a very small one.
    counts, sums = np.zeros(MAX_SAMPLES), np.zeros(MAX_SAMPLES)
    for start in range(0, len(values), CHUNK):
        part = values[start : start + CHUNK].astype(np.float64)
        bins = ((part - low) * ((MAX_SAMPLES - 1) / (high - low))).astype(np.int64)
        each = None if importance is None else importance[start : start + CHUNK].astype(np.float64)
        counts += np.bincount(bins, each, minlength=MAX_SAMPLES)
        sums += np.bincount(bins, part if each is None else part * each, minlength=MAX_SAMPLES)
    used = counts > 0
    return sums[used] / counts[used], counts[used]


def _lloyd(samples: Array, weights: Array, start: Array) -> Array:
    """Weighted Lloyd iterations from `start`. One thread: sums in a fixed order give the same bytes every time."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    if len(samples) <= len(start):
        return samples
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer clusters than wanted are fine: see `_settle`
        model = KMeans(len(start), init=start.reshape(-1, 1), n_init=1, max_iter=100, tol=1e-6, algorithm="lloyd")
        model.fit(samples.reshape(-1, 1), sample_weight=weights)
    centroids: Array = np.sort(model.cluster_centers_.reshape(-1))
    return centroids


def _settle(values: Array, centroids: Array) -> Array:
    """Move a centroid that fell on zero to the value nearest to it, and drop those that no value is nearest to."""
    zero = centroids == 0
    if zero.any():
        centroids[zero] = values[np.argmin(np.abs(values))]
        centroids = np.unique(centroids)
    used = np.zeros(len(centroids), dtype=bool)
    for start in range(0, len(values), CHUNK):
        used[assign(values[start : start + CHUNK], centroids)] = True
    settled: Array = centroids[used]
    return settled
