"""Which values some tensors share, and which of them each weight takes: quantizer, weighting and rate together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepcompress.coding import codebooks
from deepcompress.coding.dtypes import DType
from deepcompress.coding.encoder import encode_coded
from deepcompress.quantize.grid import fit_step, least_squares, multiples_of, short
from deepcompress.quantize.kmeans import CHUNK, assign, cluster, condense
from deepcompress.quantize.rate import Part, Refit, State, constrain, index_lengths, means
from deepcompress.recipe import Recipe

Array = np.ndarray[Any, np.dtype[Any]]

HALF_PRECISION = 1 << 9  # a float16 is taken for a centroid that is this many times its rounding error, or more


@dataclass(frozen=True)
class SharedValues:
    """Shared values, sorted, distinct, none of them zero; on a grid each is `step` times its whole number.

    Attributes:
        centroids: float32 or float64.
        multiples: whole numbers (int64) as long as `centroids`; None off a grid.
        step: a bfloat16 above 0; 0 off a grid.
    """

    centroids: Array
    multiples: Array | None = None
    step: float = 0.0

    def only(self, used: Array) -> SharedValues:
        """Without the values that are not `used` (bool)."""
        multiples = None if self.multiples is None else self.multiples[used]
        return replace(self, centroids=self.centroids[used], multiples=multiples)


@dataclass(frozen=True)
class Demand:
    """What is asked of shared values.

    Attributes:
        recipe: quantizer, init, seed and rate.
        levels: most values.
        limit: largest magnitude that the tensors' dtype can hold.
        price: of a bit, in units of importance * squared weight; 0 counts no bits.
    """

    recipe: Recipe
    levels: int
    limit: float
    price: float = 0.0


def price_of(rate: float, parts: Sequence[Part]) -> float:
    """What `rate` makes a bit worth: that part of the mean of importance * squared weight over `parts`.

    So one rate means the same for weights of any scale, and for any scale of the importance.
    """
    power = sum(float((part.counts * np.square(part.values, dtype=np.float64)).sum()) for part in parts)
    return rate * power / max(sum(len(part.values) for part in parts), 1)


def _by_kmeans(values: Array, importance: Array | None, demand: Demand) -> SharedValues:
    recipe = demand.recipe
    return SharedValues(cluster(values, demand.levels, recipe.init, recipe.seed, importance))


def _by_grid(values: Array, importance: Array | None, demand: Demand) -> SharedValues:
    samples, counts = condense(values, importance)
    penalty = _bits_of_multiples(demand.price, counts.sum() / len(values)) if demand.price else None
    step, below, above = fit_step(samples, counts, demand.levels, demand.limit, penalty)
    found = np.zeros(below + above + 1, dtype=bool)
    for start in range(0, len(values), CHUNK):
        found[multiples_of(values[start : start + CHUNK], step, below, above) + below] = True
    multiples = np.flatnonzero(found) - below
    return grid_values(step, multiples, values.dtype)


def _bits_of_multiples(price: float, count: float) -> Callable[[Array, Array, Array], float]:
    """The price of the entropy of the multiples, where `count` is what one weight counts on average."""

    def penalty(samples: Array, counts: Array, multiples: Array) -> float:
        found = np.bincount(multiples - multiples.min(), counts)
        found = found[found > 0]
        return price / count * float((found * index_lengths(found)).sum())

    return penalty


def grid_values(step: float, multiples: Array, dtype: np.dtype[Any]) -> SharedValues:
    """The multiples of a step as shared values: float32(step) * float32(multiple), as a reader computes them."""
    centroids = np.float32(step) * multiples.astype(np.float32)
    return SharedValues(centroids.astype(dtype), multiples, step)


QUANTIZERS: dict[str, Callable[[Array, Array | None, Demand], SharedValues]] = {
    "kmeans": _by_kmeans,
    "uniform": _by_grid,
}


def found_grid(values: Array) -> SharedValues | None:
    """The grid that values (float32, sorted, distinct, none zero) lie on already; None if its step is no bfloat16."""
    if values.dtype != np.float32 or not len(values):
        return None
    for facts, raw in codebooks.grids(values):
        step = float(codebooks.scale_of(facts, memoryview(raw)))
        if short(step) == step:
            return SharedValues(values, np.rint(values.astype(np.float64) / step).astype(np.int64), step)
    return None


def shared_values(values: Array, importance: Array | None, demand: Demand) -> SharedValues:
    """Shared values for `values` (float32 or float64, none zero), each of them nearest to some value."""
    if not len(values):
        return SharedValues(values)
    return QUANTIZERS[demand.recipe.quantizer](values, importance, demand)


def rounded(centroids: Array, dtype: str) -> Array:
    """Shared values as `dtype` (``float32``, ``float16``) has them, in the dtype that they came in.

    As float16 only where each comes as near as in bfloat16, so that none becomes zero or infinite; else all stay.
    """
    if dtype != "float16":
        return centroids
    with np.errstate(over="ignore"):
        halves: Array = centroids.astype(np.float16).astype(centroids.dtype)
    near = np.abs(halves - centroids) <= np.abs(centroids) / HALF_PRECISION
    return halves if near.all() else centroids


def choose(parts: Sequence[Part], demand: Demand) -> tuple[SharedValues, list[Array]]:
    """Shared values for some tensors, and the index of each weight's (int64; -1 where a weight becomes zero)."""
    pooled = np.concatenate([part.values for part in parts])
    weighted = [part.importance for part in parts if part.importance is not None]
    shared = shared_values(pooled, np.concatenate(weighted) if weighted else None, demand)
    nearest = [assign(part.values, shared.centroids) for part in parts]
    if not demand.price or not len(pooled):
        return shared, nearest
    found = [(shared, nearest), _constrained(parts, shared, nearest, demand)]
    if shared.multiples is not None and all(len(part.values) == np.prod(part.shape) for part in parts):
        start = _grid_with_zero(parts, demand)
        found += [_constrained(parts, *start, demand)] if len(start[0].centroids) else []
    return min(found, key=lambda each: _judged(parts, each[0], each[1], demand))


def _grid_with_zero(parts: Sequence[Part], demand: Demand) -> tuple[SharedValues, list[Array]]:
    """A grid where zero is a value like any other, and the nearest of it for each weight.

    For tensors without a zero: the search from a grid without it would find the first zero too dear to take, as a
    coder that has seen none expects none.
    """
    pooled = np.concatenate([part.values for part in parts])
    weighted = [part.importance for part in parts if part.importance is not None]
    samples, counts = condense(pooled, np.concatenate(weighted) if weighted else None)
    penalty = _bits_of_multiples(demand.price, counts.sum() / len(pooled))
    step, below, above = fit_step(samples, counts, demand.levels, demand.limit, penalty, zero=True)
    nearest = [multiples_of(part.values, step, below, above, zero=True) for part in parts]
    multiples = np.unique(np.concatenate(nearest))
    multiples = multiples[multiples != 0]
    choices = [np.where(each == 0, -1, np.searchsorted(multiples, each)) for each in nearest]
    return grid_values(step, multiples, pooled.dtype), choices


def _constrained(
    parts: Sequence[Part], shared: SharedValues, nearest: Sequence[Array], demand: Demand
) -> tuple[SharedValues, list[Array]]:
    """The values and assignment of the lowest distortion + price * bits that can be reached from the nearest values."""
    refit = means if shared.multiples is None else _rescaled(shared.multiples)
    state, _ = constrain(parts, shared.centroids.astype(np.float64), nearest, demand.price, refit)
    dtype = shared.centroids.dtype
    if shared.multiples is not None:
        kept = shared.multiples[state.origin]
        step = float(state.centroids[0] / kept[0])
        return grid_values(short(step), kept, dtype), list(state.choices)
    distinct, index = np.unique(state.centroids.astype(dtype), return_inverse=True)
    index = np.append(index, -1)
    return SharedValues(distinct), [index[choice] for choice in state.choices]


def _rescaled(multiples: Array) -> Refit:
    """Moves the step of a grid to where least squares wants it."""

    def refit(values: Array, counts: Array, choices: Array, state: State) -> Array:
        kept = multiples[state.origin]
        step = least_squares(values, counts, kept[choices])
        return step * kept.astype(np.float64) if step else state.centroids

    return refit


def _judged(parts: Sequence[Part], shared: SharedValues, choices: Sequence[Array], demand: Demand) -> float:
    """Distortion + price * bits by the bytes of the tensors in a file: the real coder has the last word."""
    values = np.append(shared.centroids, 0).astype(np.float32)
    entries = np.unique(values[values != 0])
    total = 0.0
    for part, choice in zip(parts, choices, strict=True):
        tensor = np.zeros(part.shape, dtype=np.float32)
        tensor.reshape(-1)[part.positions] = values[choice]
        section = encode_coded(tensor, DType.FLOAT32, entries, demand.recipe.coder).info.section
        error = np.square(part.values - np.append(shared.centroids, 0)[choice], dtype=np.float64)
        total += float((part.counts * error).sum()) + demand.price * 8 * section
    return total
