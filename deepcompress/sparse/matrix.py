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
from deepcompress.sparse import plain
from deepcompress.sparse.arrays import Array, Parts

PANEL = 1 << 13  # columns at most: 32 KiB of input; a column within a panel takes 16 bits
MAX_WORK = 0.15  # of the dense matrix's weights; see `SparseMatrix.work`
FEW = 8  # vectors: as many as these make one vector instruction of 256 bits
_PER_THREAD = 1 << 21  # multiplications at least: some times what it takes to start a thread


@cache
def kernels() -> Any:
    """The compiled kernels (`sparse.kernels`), or None where there are none."""
    return loops("deepcompress.sparse.kernels")


def _loops() -> Any:
    """The compiled kernels, or what does the same by numpy."""
    return kernels() or plain


def may_pay(info: TensorInfo) -> bool:
    """Whether a matrix of these facts can be worth building: `SparseMatrix.pays` has the last word."""
    is_sparse = info.nonzeros <= MAX_WORK * info.size
    return info.is_shared and info.dtype.is_float and is_sparse and kernels() is not None


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """A matrix of `shape` (rows, columns); it is never changed, so copies of a network share it.

    Attributes:
        codebook: the shared values, float32.
        groups: weights of the same value, four by four.
        rest: single weights.
    """

    shape: tuple[int, int]
    codebook: Array
    groups: Parts
    rest: Parts

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
        _loops().count(positions, indices, width, len(codebook), group_ends, rest_ends)
        groups, rest = (
            Parts(np.zeros(ends[-1], dtype=columns), np.zeros(ends[-1], dtype=index), ends)
            for ends, columns in ((group_ends, np.uint64), (rest_ends, np.uint16))
        )
        _loops().fill(positions, indices, width, len(codebook), groups, rest)
        return cls(shape, codebook, groups, rest)

    @property
    def width(self) -> int:
        """Columns of a panel; the last may have fewer."""
        panels = (len(self.groups.ends) - 1) // self.shape[0]
        return -(-self.shape[1] // panels)

    @property
    def weights(self) -> int:
        """How many weights are not pruned."""
        return 4 * len(self.groups.values) + len(self.rest.values)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(array.nbytes for array in (self.codebook, *self.groups, *self.rest))

    @property
    def work(self) -> int:
        """What a product costs, in weights that lie in groups: one that does not costs about as much as two."""
        return 4 * len(self.groups.values) + 2 * len(self.rest.values)

    @property
    def pays(self) -> bool:
        """Whether a product takes less time than with the dense matrix, at any number of vectors (docs/sparse.md)."""
        return self.work <= MAX_WORK * self.shape[0] * self.shape[1]

    def dense(self) -> Array:
        """The matrix itself, float32 (rows, columns)."""
        values = np.zeros(self.shape, dtype=np.float32)
        rows, first = self._places(self.groups.ends)
        for lane in range(4):
            values[rows, first + plain.lane_of(self.groups.columns, lane).astype(np.int64)] = self.codebook[
                self.groups.values
            ]
        rows, first = self._places(self.rest.ends)
        values[rows, first + self.rest.columns] = self.codebook[self.rest.values]
        return values

    def _places(self, ends: Array) -> tuple[Array, Array]:
        """The row of each group or weight, and the first column of its panel."""
        parts = np.repeat(np.arange(len(ends) - 1), ends[1:] - ends[:-1])
        return parts % self.shape[0], parts // self.shape[0] * self.width

    def times_rows(self, x: Array, workers: int = 1) -> Array:
        """The product with each row of `x`, float32 (vectors, columns), as (vectors, rows): for fewer than `FEW`."""
        assert x.shape[1] == self.shape[1]  # nothing is checked in the kernel
        y = np.empty((len(x), self.shape[0]), dtype=np.float32)
        self._run(_loops().times_rows, x, y, len(x), workers)
        return y

    def times_columns(self, x: Array, workers: int = 1, out: Array | None = None) -> Array:
        """The product with each column of `x`, float32 (columns, vectors), as (rows, vectors): for `FEW` or more.

        It goes to `out`, if that is given: float32, in C order.
        """
        assert x.shape[0] == self.shape[1]
        y = np.empty((self.shape[0], x.shape[1]), dtype=np.float32) if out is None else out
        assert y.flags.c_contiguous and y.shape == (self.shape[0], x.shape[1])
        self._run(_loops().times_columns, x, y, x.shape[1], workers)
        return y

    def _run(self, kernel: Any, x: Array, y: Array, vectors: int, workers: int) -> None:
        assert x.flags.c_contiguous and x.dtype == np.float32  # another layout would be compiled for
        grain = max(1, _PER_THREAD * self.shape[0] // max(1, self.weights * vectors))
        parts, width = threads.split(self.shape[0], workers, grain), self.width
        form = (self.codebook, *self.groups, *self.rest, width)
        threads.run(lambda start, stop: kernel(*form, x, y, start, stop), parts)


def _by_panel(shape: tuple[int, int], width: int, positions: Array, indices: Array) -> tuple[Array, Array]:
    """Weights by panel, row and column: positions as if panels stood one below another, all as wide as the first."""
    if width == shape[1]:
        return positions, np.ascontiguousarray(indices)
    rows, columns = np.divmod(positions, shape[1])
    panels = columns // width
    order = np.argsort(panels, kind="stable")
    moved = (panels * shape[0] + rows) * width + columns % width
    return moved[order], indices[order]
