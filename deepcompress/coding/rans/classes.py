"""Classes of rows, planes and places, by how large their elements are; an encoder's choice, not part of the format."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from deepcompress.coding.rans import model, tokens
from deepcompress.coding.rans.shape import Matrix

Array = np.ndarray[Any, np.dtype[Any]]
Axes = tuple[Array | None, Array | None, Array | None]

_FEWEST = 24  # elements for each class of an axis
_TELLING = 3  # how much more than chance the sums of an axis must vary
_CHUNK = 1 << 14
_REFINED = 1 << 19  # elements up to which classes are refined: in large or dense tensors they take next to nothing
_LONGEST = 1 << 12  # rows, so that counts of each take little memory
_ROUNDS = 2
_KINDS = 24  # classes of magnitudes that refining tells apart
_PRIOR = 0.1  # how often a kind counts that has not come
_AXIS_BITS = 32  # what the classes of an axis take beside one for each of its rows


def _magnitudes(integers: Array, matrix: Matrix, gaps: bool) -> list[Array]:
    """The sums of magnitudes (with `gaps` the numbers of weights) of each row, plane and place, int64."""
    shaped = integers.reshape(matrix.axes)
    by_row, by_column = [], np.zeros(matrix.axes[1:], dtype=np.int64)
    for row in shaped:  # one at a time, so that nothing as large as the tensor is made
        sizes = (row != 0) if gaps else np.abs(row)
        by_row.append(int(sizes.sum(dtype=np.int64)))
        by_column += sizes
    return [np.array(by_row, dtype=np.int64), by_column.sum(axis=1), by_column.sum(axis=0)]


def classes_of(integers: Array, matrix: Matrix, gaps: bool) -> tuple[int, Axes]:
    """The base, and the classes of rows, planes and places: how far the mean of each is from that of all."""
    sums = _magnitudes(integers, matrix, gaps)
    mean = max(int(sums[0].sum()), 1) / len(integers)
    square = mean if gaps else _mean_square(integers)
    base = round(model.PER_OCTAVE * np.log2(16 * mean))
    found: list[Array | None] = []
    for each in sums:
        levels = _levels(each, len(integers) // len(each), mean, max(square - mean**2, 1e-9))
        lowest = 0 if levels is None else int(levels.min())
        base += lowest
        found.append(None if levels is None else np.minimum(levels - lowest, model.CLASSES - 1).astype(np.uint8))
    by_row, by_plane, by_place = found
    return max(min(base, model.MAX_BASE), -model.MAX_BASE), (by_row, by_plane, by_place)


def _levels(sums: Array, each: int, mean: float, variance: float) -> Array | None:
    """How far from the mean each sum of `each` magnitudes is, in steps of a class; None if that is not worth telling.

    What chance alone would make of sums of equal rows is taken out.
    """
    if len(sums) < 2 or each < _FEWEST:
        return None
    spread = float(((sums - each * mean) ** 2).mean()) / (each * variance)  # 1 for chance
    if spread < _TELLING:
        return None
    ratios = 1 + (sums / (each * mean) - 1) * (1 - 1 / spread)
    levels = np.rint(model.PER_OCTAVE * np.log2(np.maximum(ratios, 2.0**-10))).astype(np.int64)
    return levels if levels.max() > levels.min() else None


def _mean_square(integers: Array) -> float:
    chunks = (integers[start : start + _CHUNK].astype(np.int64) for start in range(0, len(integers), _CHUNK))
    return sum(int(chunk @ chunk) for chunk in chunks) / len(integers)


# Refined ---------------------------------------------------------------------------------------------------------


class Weights(NamedTuple):
    """The elements that are not 0: their kinds, where they are along each axis, and how long the axes are."""

    kinds: Array
    at: tuple[Array, ...]
    sizes: tuple[int, int, int]


def refined(integers: Array, matrix: Matrix, base: int, axes: Axes) -> tuple[int, Axes]:
    """Base and classes with which elements and classes take fewer bits together: an axis may lose its classes.

    Axis by axis, each row (plane, place) takes the class by whose table it is the smallest, that class included. Then
    the tables are counted again.
    """
    dense = 2 * np.count_nonzero(integers) > len(integers)
    if dense or len(integers) > _REFINED or all(found is None for found in axes):
        return base, axes
    places = np.flatnonzero(integers)
    kinds = np.minimum(tokens.classes()[np.abs(integers[places])], _KINDS - 1).astype(np.int64)
    weights = Weights(kinds, np.unravel_index(places, matrix.axes), matrix.axes)
    now = list(axes)
    for _ in range(_ROUNDS):
        for axis in range(3):
            own = now[axis]
            if own is not None and len(own) <= _LONGEST:
                now[axis] = _better(weights, base, now, axis, own)
    lowest = [0 if found is None else int(found.min()) for found in now]
    lowered = [None if found is None else found - np.uint8(low) for found, low in zip(now, lowest, strict=True)]
    rows, planes, places = (None if found is None or not found.any() else found for found in lowered)
    return base + sum(lowest), (rows, planes, places)


def _better(weights: Weights, base: int, axes: list[Array | None], axis: int, own: Array) -> Array:
    """Other classes for `own`, those of one axis, by the tables that the classes of all make.

    All are the same where that is smaller.
    """
    lowest, found = _count(weights, base, axes, axis)
    scales, classes = np.arange(lowest, lowest + found.shape[1]), np.arange(int(own.max()) + 1)
    held = np.clip(scales[:, None] + classes, 0, model.SCALES - 1)
    counts = np.zeros((model.SCALES, _KINDS), dtype=np.int64)
    np.add.at(counts, held.T, np.array([found[own == number].sum(axis=0) for number in classes]))
    cost = np.tensordot(found, _bits_of(counts)[held], axes=([1, 2], [0, 2])) + _prices(own, len(classes))
    best, same = cost.argmin(axis=1), cost.sum(axis=0).argmin()
    told = cost.min(axis=1).sum() + _AXIS_BITS < cost[:, same].sum()
    return (best if told else np.full_like(best, same)).astype(np.uint8)  # type: ignore[no-any-return]


def _count(weights: Weights, base: int, axes: list[Array | None], axis: int) -> tuple[int, Array]:
    """How often each row (plane, place) has each kind at each sum of base and the other axes' classes.

    Only weights are gone through: how many elements there are of each sum is known from the classes.

    Returns:
        The lowest sum, and the counts, int64 of shape (rows, sums from the lowest on, kinds).
    """
    (a, of_a), (b, of_b) = ((k, _all_of(axes[k], weights.sizes[k])) for k in range(3) if k != axis)
    lowest = base + int(of_a.min()) + int(of_b.min())
    sums = np.bincount((base - lowest + of_a[:, None] + of_b).reshape(-1))
    rest = base - lowest + of_a[weights.at[a]] + of_b[weights.at[b]]
    shape = weights.sizes[axis], len(sums), _KINDS
    places = (weights.at[axis] * len(sums) + rest) * _KINDS + weights.kinds
    found = np.bincount(places, minlength=shape[0] * shape[1] * shape[2]).reshape(shape)
    found[:, :, 0] = sums - found.sum(axis=2)
    return lowest, found


def _all_of(classes: Array | None, count: int) -> Array:
    """The classes of an axis, int64."""
    return np.zeros(count, dtype=np.int64) if classes is None else classes.astype(np.int64)


def _bits_of(counts: Array) -> Array:
    """Bits of each kind in each scale where it comes so often."""
    often = counts + _PRIOR
    bits: Array = np.log2(often.sum(axis=1, keepdims=True) / often)
    return bits


def _prices(own: Array, classes: int) -> Array:
    """Bits of each class in the file, about."""
    often = np.bincount(own, minlength=classes) + 0.5
    bits: Array = np.log2(often.sum() / often)
    return bits
