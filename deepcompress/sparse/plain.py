"""The inner loops of `matrix` by numpy, for where numba cannot be had: what `kernels` does, in the same order."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcompress.sparse.arrays import Array, Parts


def lane_of(groups: Array, lane: int) -> Array:
    """The column of each group that is in these 16 bits, as uint64."""
    return (groups >> np.uint64(16 * lane)) & np.uint64(0xFFFF)


def _counts(positions: Array, indices: Array, columns: int, values: int, rows: int) -> tuple[Array, Array]:
    """For each row and value, the row times `values` plus the value, and how many weights that is of."""
    keys = positions // columns * values + indices
    return keys, np.bincount(keys, minlength=rows * values)


def count(positions: Array, indices: Array, columns: int, values: int, group_ends: Array, rest_ends: Array) -> None:
    """See `kernels.count`."""
    rows = len(group_ends) - 1
    _, counts = _counts(positions, indices, columns, values, rows)
    group_ends[1:] = np.cumsum((counts // 4).reshape(rows, values).sum(axis=1))
    rest_ends[1:] = np.cumsum((counts % 4).reshape(rows, values).sum(axis=1))


def fill(positions: Array, indices: Array, columns: int, values: int, groups: Parts, rest: Parts) -> None:
    """See `kernels.fill`."""
    keys, counts = _counts(positions, indices, columns, values, 0)
    order = np.argsort(keys, kind="stable")
    rank = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
    grouped = rank < (counts // 4 * 4)[keys[order]]
    column, value = (positions % columns)[order], indices[order]
    lanes = column[grouped].astype(np.uint64).reshape(-1, 4)
    groups.columns[:] = (lanes << np.array([0, 16, 32, 48], dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
    groups.values[:] = value[grouped][::4]
    rest.columns[:], rest.values[:] = column[~grouped], value[~grouped]


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
    """See `kernels.times_rows`."""
    rows = y.shape[1]
    for panel in range((len(group_ends) - 1) // rows):
        v = x[:, panel * width :]
        for row in range(start, stop):
            part, sums = panel * rows + row, np.zeros((4, len(x)), dtype=np.float32)
            for place, i in enumerate(range(group_ends[part], group_ends[part + 1])):
                sums[place % 2] += codebook[group_values[i]] * _sum_of_group(v.T, groups[i])
            for place, i in enumerate(range(rest_ends[part], rest_ends[part + 1])):
                sums[2 + place % 2] += codebook[rest_values[i]] * v[:, rest[i]]
            total = (sums[0] + sums[1]) + (sums[2] + sums[3])
            y[:, row] = y[:, row] + total if panel else total


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
    """See `kernels.times_columns`."""
    rows = len(y)
    y[start:stop] = 0
    for panel in range((len(group_ends) - 1) // rows):
        v = x[panel * width :]
        for row in range(start, stop):
            part = panel * rows + row
            for i in range(group_ends[part], group_ends[part + 1]):
                y[row] += codebook[group_values[i]] * _sum_of_group(v, groups[i])
            for i in range(rest_ends[part], rest_ends[part + 1]):
                y[row] += codebook[rest_values[i]] * v[rest[i]]


def _sum_of_group(x: Array, group: Any) -> Array:
    first, second, third, fourth = (x[int(lane_of(group, lane))] for lane in range(4))
    total: Array = first + second + third + fourth
    return total
