"""How a tensor is cut: into streams of rows, and each stream into lanes, which are coded in lock step."""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_LANES = 256
SPARE = 4  # words of a lane that a decoder may read beyond the end, before it looks
PER_STREAM = 1 << 19  # elements that an encoder puts into one stream, if rows allow it
PER_LANE = 3 << 10  # symbols


@dataclass(frozen=True)
class Matrix:
    """A tensor as rows (first dimension) of planes (second) of places (all others).

    A tensor of two dimensions has rows of one plane, and one of fewer is one such row.
    """

    rows: int
    planes: int
    places: int

    @property
    def columns(self) -> int:
        """Elements of a row."""
        return self.planes * self.places

    @property
    def axes(self) -> tuple[int, int, int]:
        """How many rows, planes and places there are."""
        return self.rows, self.planes, self.places


@dataclass(frozen=True)
class Cut:
    """How a matrix is dealt: `rows` of it for each stream, and each of these to `down` times `across` lanes."""

    rows: int
    down: int
    across: int

    @property
    def lanes(self) -> int:
        """Lanes of one stream."""
        return self.down * self.across


@dataclass(frozen=True)
class Tile:
    """The lanes of a stream of `rows` rows: `height` rows and `width` columns each, but for those at the edges."""

    rows: int
    columns: int
    height: int
    width: int
    cut: Cut


def matrix_of(shape: tuple[int, ...]) -> Matrix:
    """The matrix of a tensor of this shape."""
    if len(shape) < 2:
        return Matrix(1, 1, math.prod(shape))
    if len(shape) == 2:
        return Matrix(shape[0], 1, shape[1])
    return Matrix(shape[0], shape[1], math.prod(shape[2:]))


def streams_of(matrix: Matrix, cut: Cut) -> list[tuple[int, int]]:
    """The rows, from and to, of each stream."""
    starts = range(0, matrix.rows, cut.rows)
    return [(start, min(start + cut.rows, matrix.rows)) for start in starts]


def tile_of(rows: int, columns: int, cut: Cut) -> Tile:
    """The lanes of a stream of so many rows."""
    return Tile(rows, columns, -(-rows // cut.down), -(-columns // cut.across), cut)


def cut_for(matrix: Matrix, by_rows: bool, symbols: float) -> Cut:
    """A cut of about `PER_STREAM` elements a stream, and of one lane for each `PER_LANE` symbols.

    `symbols` is how many there are for each element. `by_rows` keeps what stands side by side in one lane; otherwise
    it is what stands one below the other.
    """
    rows = max(1, min(matrix.rows, PER_STREAM // max(matrix.columns, 1)))
    streams = -(-matrix.rows // rows)
    rows = -(-matrix.rows // streams)
    lanes = 1 << max(int(rows * matrix.columns * symbols) // PER_LANE, 1).bit_length() - 1
    lanes = min(lanes, MAX_LANES // 2)
    first, second = (rows, matrix.columns) if by_rows else (matrix.columns, rows)
    one = min(lanes, 1 << max(first, 1).bit_length() - 1)
    other = min(lanes // one, 1 << max(second, 1).bit_length() - 1)
    return Cut(rows, one, other) if by_rows else Cut(rows, other, one)
