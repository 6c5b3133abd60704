"""A weight matrix in compressed form, and products with it.

Within a row, weights are sorted by their shared value, and four of the same value make a *group*: four columns of 16
bits, and one codebook index. What is left of each value, at most three weights a row, is stored one by one. So the
four weights of a group cost one look-up in the codebook and one multiplication, and a weight takes 2.25 to 3 bytes.

A wide matrix is cut into panels of columns, one after the other: so that the part of the input which a panel looks up
stays in the first-level cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from deepcompress.coding import threads
from deepcompress.coding.compiled import loops
from deepcompress.coding.lanes import symbol_type
from deepcompress.coding.tensors import TensorInfo

Array = np.ndarray[Any, np.dtype[Any]]

PANEL = 1 << 13  # columns at most: 32 KiB of input; a column within a panel takes 16 bits
MAX_WORK = 0.15  # of the dense matrix's weights; see `SparseMatrix.work`
FEW = 8  # vectors: as many as these make one vector instruction of 256 bits
_PER_THREAD = 1 << 21  # multiplications at least: some times what it takes to start a thread


@cache
def kernels() -> Any:
    """The compiled kernels (`sparse.kernels`), or None where there are none."""
    return loops("deepcompress.sparse.kernels")


def may_pay(info: TensorInfo) -> bool:
    """Whether a matrix of these facts can be worth building: `SparseMatrix.pays` has the last word."""
    is_sparse = info.nonzeros <= MAX_WORK * info.size
    return info.is_shared and info.dtype.is_float and is_sparse and kernels() is not None


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """A matrix of `shape` (rows, columns); it is never changed, so copies of a network share it.

    Attributes:
        codebook: the shared values, float32.
        groups: four columns each, the first in the lowest 16 bits, uint64.
        group_values: the codebook index of each group, uint8 or uint16.
        group_ends: groups before each row of the first panel, of the second and so on, and in all, uint32.
        rest: the columns of single weights, uint16.
        rest_values: their codebook indices.
        rest_ends: single weights before each row of each panel, and in all, uint32.

    Columns are counted from the first of their panel.
    """

    shape: tuple[int, int]
    codebook: Array
    groups: Array
    group_values: Array
    group_ends: Array
    rest: Array
    rest_values: Array
    rest_ends: Array

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseMatrix:
        return self

    @classmethod
    def build(cls, shape: tuple[int, int], positions: Array, indices: Array, codebook: Array) -> SparseMatrix:
        """From weights in the order of the flat matrix.

        Args:
            shape: rows and columns.
            positions: of the weights in the flat matrix, ascending, int64.
            indices: of their values in `codebook`.
            codebook: float32.
        """
        panels = -(-shape[1] // PANEL)
        width = -(-shape[1] // panels)
        ends = panels * shape[0] + 1
        group_ends, rest_ends = np.zeros(ends, dtype=np.uint32), np.zeros(ends, dtype=np.uint32)
        index = symbol_type(len(codebook))
        positions, indices = _by_panel(shape, width, positions, np.asarray(indices, dtype=index))
        compiled = kernels()
        count, fill = (count_slowly, fill_slowly) if compiled is None else (compiled.count, compiled.fill)
        count(positions, indices, width, len(codebook), group_ends, rest_ends)
        groups, group_values = np.zeros(group_ends[-1], dtype=np.uint64), np.zeros(group_ends[-1], dtype=index)
        rest, rest_values = np.zeros(rest_ends[-1], dtype=np.uint16), np.zeros(rest_ends[-1], dtype=index)
        fill(positions, indices, width, len(codebook), groups, group_values, rest, rest_values)
        return cls(shape, codebook, groups, group_values, group_ends, rest, rest_values, rest_ends)

    @property
    def width(self) -> int:
        """Columns of a panel; the last may have fewer."""
        panels = (len(self.group_ends) - 1) // self.shape[0]
        return -(-self.shape[1] // panels)

    @property
    def _arrays(self) -> tuple[Array, ...]:
        return (
            self.codebook, self.groups, self.group_values, self.group_ends,
            self.rest, self.rest_values, self.rest_ends,
        )  # fmt: skip

    @property
    def weights(self) -> int:
        """How many weights are not pruned."""
        return 4 * len(self.groups) + len(self.rest)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(array.nbytes for array in self._arrays)

    @property
    def work(self) -> int:
        """What a product costs, in weights that lie in groups: one that does not costs about as much as two."""
        return 4 * len(self.groups) + 2 * len(self.rest)

    @property
    def pays(self) -> bool:
        """Whether a product takes less time than with the dense matrix, at any number of vectors (docs/sparse.md)."""
        return self.work <= MAX_WORK * self.shape[0] * self.shape[1]

    def dense(self) -> Array:
        """The matrix itself, float32 (rows, columns)."""
        values = np.zeros(self.shape, dtype=np.float32)
        rows, first = self._places(self.group_ends)
        for lane in range(4):
            values[rows, first + _lane(self.groups, lane).astype(np.int64)] = self.codebook[self.group_values]
        rows, first = self._places(self.rest_ends)
        values[rows, first + self.rest] = self.codebook[self.rest_values]
        return values

    def _places(self, ends: Array) -> tuple[Array, Array]:
        """The row of each group or weight, and the first column of its panel."""
        parts = np.repeat(np.arange(len(ends) - 1), ends[1:] - ends[:-1])
        return parts % self.shape[0], parts // self.shape[0] * self.width

    def times_rows(self, x: Array, workers: int = 1) -> Array:
        """The product with each row of `x`, float32 (vectors, columns), as (vectors, rows): for fewer than `FEW`."""
        assert x.shape[1] == self.shape[1]  # nothing is checked in the kernel
        compiled = kernels()
        y = np.empty((len(x), self.shape[0]), dtype=np.float32)
        self._run(times_rows_slowly if compiled is None else compiled.times_rows, x, y, len(x), workers)
        return y

    def times_columns(self, x: Array, workers: int = 1, out: Array | None = None) -> Array:
        """The product with each column of `x`, float32 (columns, vectors), as (rows, vectors): for `FEW` or more.

        It goes to `out`, if that is given: float32, in C order.
        """
        assert x.shape[0] == self.shape[1]
        compiled = kernels()
        y = np.empty((self.shape[0], x.shape[1]), dtype=np.float32) if out is None else out
        assert y.flags.c_contiguous and y.shape == (self.shape[0], x.shape[1])
        self._run(times_columns_slowly if compiled is None else compiled.times_columns, x, y, x.shape[1], workers)
        return y

    def _run(self, kernel: Any, x: Array, y: Array, vectors: int, workers: int) -> None:
        assert x.flags.c_contiguous and x.dtype == np.float32  # another layout would be compiled for
        grain = max(1, _PER_THREAD * self.shape[0] // max(1, self.weights * vectors))
        parts, width = threads.split(self.shape[0], workers, grain), self.width
        threads.run(lambda start, stop: kernel(*self._arrays, width, x, y, start, stop), parts)


def _by_panel(shape: tuple[int, int], width: int, positions: Array, indices: Array) -> tuple[Array, Array]:
    """Weights by panel, row and column: positions as if panels stood one below another, all as wide as the first."""
    if width == shape[1]:
        return positions, np.ascontiguousarray(indices)
    rows, columns = np.divmod(positions, shape[1])
    panels = columns // width
    order = np.argsort(panels, kind="stable")
    moved = (panels * shape[0] + rows) * width + columns % width
    return moved[order], indices[order]


def _lane(groups: Array, lane: int) -> Array:
    return (groups >> np.uint64(16 * lane)) & np.uint64(0xFFFF)


def _counts(positions: Array, indices: Array, columns: int, values: int, rows: int) -> tuple[Array, Array]:
    """For each row and value, the row times `values` plus the value, and how many weights that is of."""
    keys = positions // columns * values + indices
    return keys, np.bincount(keys, minlength=rows * values)


def count_slowly(
    positions: Array, indices: Array, columns: int, values: int, group_ends: Array, rest_ends: Array
) -> None:
    """What `kernels.count` does, by numpy."""
    rows = len(group_ends) - 1
    _, counts = _counts(positions, indices, columns, values, rows)
    group_ends[1:] = np.cumsum((counts // 4).reshape(rows, values).sum(axis=1))
    rest_ends[1:] = np.cumsum((counts % 4).reshape(rows, values).sum(axis=1))


def fill_slowly(
    positions: Array,
    indices: Array,
    columns: int,
    values: int,
    groups: Array,
    group_values: Array,
    rest: Array,
    rest_values: Array,
) -> None:
    """What `kernels.fill` does, by numpy."""
    keys, counts = _counts(positions, indices, columns, values, 0)
    order = np.argsort(keys, kind="stable")
    rank = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
    grouped = rank < (counts // 4 * 4)[keys[order]]
    column, value = (positions % columns)[order], indices[order]
    lanes = column[grouped].astype(np.uint64).reshape(-1, 4)
    groups[:] = (lanes << np.array([0, 16, 32, 48], dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
    group_values[:] = value[grouped][::4]
    rest[:], rest_values[:] = column[~grouped], value[~grouped]


def times_rows_slowly(
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
    """What `kernels.times_rows` does, by numpy, in the same order."""
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


def times_columns_slowly(
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
    """What `kernels.times_columns` does, by numpy, in the same order."""
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
    first, second, third, fourth = (x[int(_lane(group, lane))] for lane in range(4))
    total: Array = first + second + third + fourth
    return total
