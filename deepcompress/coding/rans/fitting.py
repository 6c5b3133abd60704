"""The model that an encoder takes for a matrix of integers: classes, neighbours and tables that make it small.

None of this is part of the format: another encoder may choose otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcompress.coding.rans import model
from deepcompress.coding.rans.classes import Axes
from deepcompress.coding.rans.model import Neighbour
from deepcompress.coding.rans.shape import Cut, Matrix, cut_for

Array = np.ndarray[Any, np.dtype[Any]]

SAMPLE = 1 << 14  # elements that neighbours are judged by
_SOME, _ENOUGH = 0.04, 0.08  # what a neighbour must tell: one of several, and the best of them
_FACTORS = 32
_FULL_BITS = 3  # of an element that counts as one symbol


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


def cut_of(integers: Array, matrix: Matrix, near: tuple[Neighbour, ...]) -> Cut:
    """How the matrix is dealt to lanes, so that most elements have their neighbours in their lane.

    Elements of less than `_FULL_BITS` count for less: the four bytes of each lane must not tell in a sparse tensor.
    """
    symbols = min(1.0, _entropy(integers[:: -(-len(integers) // SAMPLE)]) / _FULL_BITS)
    by_rows = cut_for(matrix, True, symbols)
    if not any(n.rows for n in near) or by_rows.rows >= 8 * by_rows.down:
        return by_rows
    return cut_for(matrix, False, symbols)


def _entropy(sample: Array) -> float:
    counts = np.unique(sample, return_counts=True)[1]
    return float(np.log2(len(sample)) - counts @ np.log2(counts) / len(sample))
