"""The inner loops of `matrix`, compiled by numba; each has a slow twin in `plain` that gives the very same result.

Compiled once and cached on disk; they run without the interpreter lock, so threads can share the rows of a product.
Sums are taken in one fixed order (no fast math): a result does not depend on the processor, nor on the threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from deepcompress.sparse.arrays import Array, Parts

U = np.uint64
ZERO = np.float32(0)
LOW = np.uint64(0xFFFF)


@njit(cache=True, nogil=True)
def count(positions: Array, indices: Array, columns: int, values: int, group_ends: Array, rest_ends: Array) -> None:
    """Groups and single weights before the end of each row, into elements 1 and on of `group_ends` and `rest_ends`.

    Here and in `fill`, a row is that of one panel, and the matrix has as many columns as a panel.

    Args:
        positions: of the weights in the flat matrix, ascending.
        indices: of their values, below `values`.
        columns: of the matrix.
        values: how many values there are.
        group_ends: zeros, one more than there are rows.
        rest_ends: likewise.
    """
    seen = np.zeros(values, dtype=np.int64)
    at, groups, rest = 0, 0, 0
    for row in range(group_ends.shape[0] - 1):
        while at < positions.shape[0] and positions[at] < (row + 1) * columns:
            seen[indices[at]] += 1
            at += 1
        for value in range(values):
            groups += seen[value] // 4
            rest += seen[value] % 4
            seen[value] = 0
        group_ends[row + 1], rest_ends[row + 1] = groups, rest


@njit(cache=True, nogil=True)
def fill(positions: Array, indices: Array, columns: int, values: int, groups: Parts, rest: Parts) -> None:
    """Lay the weights of each row down by value: groups of four columns, and what is left.

    Args:
        positions: as in `count`; so are `indices`, `columns` and `values`.
        groups: their columns are zeros.
        rest: the other weights.
    """
    counts = np.zeros(values, dtype=np.int64)
    next_group = np.zeros(values, dtype=np.int64)
    next_rest = np.zeros(values, dtype=np.int64)
    seen = np.zeros(values, dtype=np.int64)
    start, group, single, row = 0, 0, 0, 0
    while start < positions.shape[0]:
        stop = start
        while stop < positions.shape[0] and positions[stop] < (row + 1) * columns:
            counts[indices[stop]] += 1
            stop += 1
        for value in range(values):
            next_group[value], next_rest[value], seen[value] = group, single, 0
            group += counts[value] // 4
            single += counts[value] % 4
        for at in range(start, stop):
            value, column = indices[at], positions[at] - row * columns
            rank = seen[value]
            seen[value] += 1
            if rank < counts[value] // 4 * 4:
                slot = next_group[value] + rank // 4
                groups.columns[slot] |= U(column) << U(16 * (rank % 4))
                groups.values[slot] = value
            else:
                slot = next_rest[value] + rank - counts[value] // 4 * 4
                rest.columns[slot] = column
                rest.values[slot] = value
        counts[:] = 0
        start, row = stop, row + 1


@njit(cache=True, nogil=True)
def times_rows(
    codebook: Array,
    groups: Array,
    group_values: Array,
    group_ends: Array,
    rest: Array,
    rest_values: Array,
    rest_ends: Array,
    width: int,
    x: Array,
    y: Array,
    start: int,
    stop: int,
) -> None:
    """y[b, row] = the matrix's row times x[b], for rows `start` to `stop` - 1: for few vectors.

    Two sums each, of the even groups and of the odd ones, keep the processor from waiting for one addition before the
    next. Indices are unsigned, or numba would ask of each whether it is negative. The fields of `Parts` come one by
    one, here and in `times_columns`: to take a tuple apart costs 1 µs for each call.
    """
    rows = y.shape[1]
    for panel in range((group_ends.shape[0] - 1) // rows):
        for row in range(start, stop):
            part = panel * rows + row
            for b in range(x.shape[0]):
                v = x[b, panel * width :]
                even, odd = ZERO, ZERO
                i, end = U(group_ends[part]), U(group_ends[part + 1])
                while i + U(2) <= end:
                    g = groups[i]
                    four = v[g & LOW] + v[(g >> U(16)) & LOW] + v[(g >> U(32)) & LOW] + v[g >> U(48)]
                    even += codebook[group_values[i]] * four
                    g = groups[i + U(1)]
                    four = v[g & LOW] + v[(g >> U(16)) & LOW] + v[(g >> U(32)) & LOW] + v[g >> U(48)]
                    odd += codebook[group_values[i + U(1)]] * four
                    i += U(2)
                if i < end:
                    g = groups[i]
                    four = v[g & LOW] + v[(g >> U(16)) & LOW] + v[(g >> U(32)) & LOW] + v[g >> U(48)]
                    even += codebook[group_values[i]] * four
                even_rest, odd_rest = ZERO, ZERO
                i, end = U(rest_ends[part]), U(rest_ends[part + 1])
                while i + U(2) <= end:
                    even_rest += codebook[rest_values[i]] * v[rest[i]]
                    odd_rest += codebook[rest_values[i + U(1)]] * v[rest[i + U(1)]]
                    i += U(2)
                if i < end:
                    even_rest += codebook[rest_values[i]] * v[rest[i]]
                total = (even + odd) + (even_rest + odd_rest)
                y[b, row] = y[b, row] + total if panel else total


@njit(cache=True, nogil=True)
def times_columns(
    codebook: Array,
    groups: Array,
    group_values: Array,
    group_ends: Array,
    rest: Array,
    rest_values: Array,
    rest_ends: Array,
    width: int,
    x: Array,
    y: Array,
    start: int,
    stop: int,
) -> None:
    """y[row] = the matrix's row times x, for rows `start` to `stop` - 1: for many vectors, the columns of x.

    Each weight is looked up once for all of them, and the inner loops run over neighbours in memory.
    """
    rows = y.shape[0]
    for panel in range((group_ends.shape[0] - 1) // rows):
        v = x[panel * width :]
        for row in range(start, stop):
            part, out = panel * rows + row, y[row]
            if panel == 0:
                out[:] = ZERO
            for i in range(U(group_ends[part]), U(group_ends[part + 1])):
                g, value = groups[i], codebook[group_values[i]]
                p, q, s, t = v[g & LOW], v[(g >> U(16)) & LOW], v[(g >> U(32)) & LOW], v[g >> U(48)]
                for b in range(out.shape[0]):
                    out[b] += value * (p[b] + q[b] + s[b] + t[b])
            for i in range(U(rest_ends[part]), U(rest_ends[part + 1])):
                value, p = codebook[rest_values[i]], v[rest[i]]
                for b in range(out.shape[0]):
                    out[b] += value * p[b]
