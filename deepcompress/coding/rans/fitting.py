"""The model that an encoder takes for a matrix of integers: classes, neighbours and tables that make it small.

None of this is part of the format: another encoder may choose otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcompress.coding.rans import frequencies, model
from deepcompress.coding.rans.model import Neighbour
from deepcompress.coding.rans.shape import Cut, Matrix, cut_for

Array = np.ndarray[Any, np.dtype[Any]]
Axes = tuple[Array | None, Array | None, Array | None]

SAMPLE = 1 << 14  # elements that neighbours are judged by
_FEWEST = 24  # elements for each class of an axis
_TELLING = 3  # how much more than chance the sums of an axis must vary
_SOME, _ENOUGH = 0.04, 0.08  # what a neighbour must tell: one of several, and the best of them
_FACTORS = 32
_LEVEL_BITS = 4  # what a level of a table takes, about


def magnitudes(integers: Array, matrix: Matrix, gaps: bool) -> list[Array]:
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
    sums = magnitudes(integers, matrix, gaps)
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
    chunks = (integers[start : start + SAMPLE].astype(np.int64) for start in range(0, len(integers), SAMPLE))
    return sum(int(chunk @ chunk) for chunk in chunks) / len(integers)


def candidates(shape: tuple[int, ...], matrix: Matrix) -> list[tuple[int, int]]:
    """Rows and columns to the elements that may tell something of one: beside it, above it, in the plane before."""
    width = next((length for length in reversed(shape[2:]) if length > 1), 1)
    across = {1, 2, 3, width, matrix.places} if matrix.planes > 1 else {1, 2, 3}
    found = [(0, columns) for columns in sorted(across) if columns < matrix.columns]
    return found + [(rows, 0) for rows in (1, 2) if rows < matrix.rows]


def neighbours(
    integers: Array, shape: tuple[int, ...], matrix: Matrix, base: int, axes: Axes
) -> tuple[tuple[Neighbour, ...], int]:
    """The neighbours that an element is best predicted from, and the factor of what its classes expect.

    Least squares on a sample of the middle rows, each element weighted by what its classes expect of it.
    """
    near = candidates(shape, matrix)
    window = _window(integers, matrix, base, axes)
    if not near or window is None:
        return (), 0
    part, expected = window
    rows, columns = max(step[0] for step in near), max(step[1] for step in near)
    rows, columns = min(rows, part.shape[0] - 1), min(columns, part.shape[1] - 1)
    near = [step for step in near if step[0] <= rows and step[1] <= columns]
    target, own = part[rows:, columns:], expected[rows:, columns:]
    shifted = np.array(
        [part[rows - i : len(part) - i or None, columns - j : part.shape[1] - j or None] for i, j in near]
    )
    return _solve(near, target.reshape(-1), own.reshape(-1), shifted.reshape(len(near), -1))


def _window(integers: Array, matrix: Matrix, base: int, axes: Axes) -> tuple[Array, Array] | None:
    """A block of the matrix, and what classes expect there, both float64."""
    columns = min(matrix.columns, max(SAMPLE // 8, 4 * matrix.places))
    rows = min(matrix.rows, max(SAMPLE // columns, 4))
    if rows * columns < 512:
        return None
    start = (matrix.rows - rows) // 2
    part = integers.reshape(matrix.rows, matrix.columns)[start : start + rows, :columns].astype(np.float64)
    by_row = np.zeros(rows, dtype=np.int64) if axes[0] is None else axes[0][start : start + rows].astype(np.int64)
    scale = base + by_row[:, None] + model.column_classes(axes, matrix)[None, :columns]
    return part, model.scales()[np.clip(scale, 0, model.SCALES - 1)] / model.ONE


def _solve(near: list[tuple[int, int]], target: Array, own: Array, shifted: Array) -> tuple[tuple[Neighbour, ...], int]:
    weights = 1 / (own + own.mean() / 8)
    aims = _least_squares(shifted * weights, target * weights)
    sizes = np.abs(shifted)
    explained = np.vstack((own, sizes)) * weights
    shares = _least_squares(explained, np.abs(target) * weights)
    told = np.abs(aims) + np.maximum(shares[1:], 0)
    chosen = [k for k in np.argsort(-told, kind="stable")[: model.MAX_NEIGHBOURS] if told[k] > _SOME]
    if not chosen or told.max() < _ENOUGH:
        return (), 0
    chosen.sort()
    aims = _least_squares(shifted[chosen] * weights, target * weights)
    keep = [0, *(k + 1 for k in chosen)]
    shares = _least_squares(explained[keep], np.abs(target) * weights)
    found = tuple(
        Neighbour(near[k][0], near[k][1], _factor(aim, -128, 127), _factor(size, 0, 255))
        for k, aim, size in zip(chosen, aims, shares[1:], strict=True)
    )
    return tuple(n for n in found if n.aim or n.size), _factor(shares[0], 1, 255)


def _factor(number: float, lowest: int, highest: int) -> int:
    return min(max(round(_FACTORS * number), lowest), highest)


def _least_squares(inputs: Array, target: Array) -> Array:
    products = inputs @ inputs.T
    ridge = 1e-6 * max(float(np.trace(products)), 1e-30) * np.eye(len(inputs))
    found: Array = np.linalg.solve(products + ridge, inputs @ target)
    return found


# Tables ----------------------------------------------------------------------------------------------------------


def tables_of(counts: Array) -> tuple[Array, Array]:
    """The table of each context (uint8), and the levels of each table: contexts that are alike share one.

    Args:
        counts: how often each token comes in each context, int64 of shape (contexts, tokens).
    """
    used = np.flatnonzero(counts.sum(axis=1))
    groups = [counts[k].astype(np.float64) for k in used]
    members = [[int(k)] for k in used]
    sums = np.array(groups)
    cost = _bits(sums)
    gain = np.array([_gain(sums, cost, k) for k in range(len(groups))])
    alive = np.ones(len(groups), dtype=bool)
    while alive.sum() > 1:
        a, b = divmod(int(np.argmax(gain)), len(groups))
        if gain[a, b] <= 0 and alive.sum() <= model.MAX_TABLES:
            break
        sums[a] += sums[b]
        members[a] += members[b]
        alive[b] = False
        cost[a], sums[b] = _bits(sums[a : a + 1])[0], 0
        gain[b], gain[:, b] = -np.inf, -np.inf
        row = np.where(alive, _gain(sums, cost, a), -np.inf)
        row[a] = -np.inf
        gain[a], gain[:, a] = row, row
    contexts = np.zeros(len(counts), dtype=np.int64)
    kept = sorted((min(members[k]), k) for k in np.flatnonzero(alive))
    for number, (_, k) in enumerate(kept):
        contexts[members[k]] = number
    contexts = _filled(contexts, used)
    return contexts.astype(np.uint8), _alike(sums[[k for _, k in kept]])


def _filled(contexts: Array, used: Array) -> Array:
    """Contexts that never come take the table of the one before them that does: runs are cheap."""
    before = np.maximum(np.searchsorted(used, np.arange(len(contexts)), side="right") - 1, 0)
    filled: Array = contexts[used[before]]
    return filled


def _alike(counts: Array) -> Array:
    """The levels of these counts, but those of the table before where they serve nearly as well: 0 is a cheap step."""
    levels = frequencies.levels_of(counts)
    for table in range(1, len(levels)):
        share = counts[table] / counts[table].sum()
        told = np.where(levels[table - 1] > 0, 2 ** ((levels[table - 1] - float(frequencies.TOP)) / 4), 0) * share.max()
        with np.errstate(divide="ignore", invalid="ignore"):
            loss = told - share + np.where(share > 0, share * np.log(share / told), 0)
        keep = counts[table].sum() * loss < 0.7 * _LEVEL_BITS
        levels[table] = np.where(keep, levels[table - 1], levels[table])
    return levels


def _bits(counts: Array) -> Array:
    """Bits of tokens that occur `counts` times, with their table."""
    totals = counts.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(counts > 0, counts * np.log2(totals / counts), 0)
    bits: Array = each.sum(axis=1) + _LEVEL_BITS * (counts > 0).sum(axis=1) + 8
    return bits


def _gain(sums: Array, cost: Array, k: int) -> Array:
    """Bits that each group saves when it is put together with group k; minus infinity for itself."""
    found: Array = cost + cost[k] - _bits(sums + sums[k])
    found[k] = -np.inf
    return found


def cut_of(matrix: Matrix, near: tuple[Neighbour, ...]) -> Cut:
    """How the matrix is dealt to lanes, so that most elements have their neighbours in their lane."""
    by_rows = cut_for(matrix, by_rows=True)
    if not any(n.rows for n in near) or by_rows.rows >= 8 * by_rows.down:
        return by_rows
    return cut_for(matrix, by_rows=False)
