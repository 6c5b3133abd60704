"""The streams of a tensor back to integers, or to what they stand for (docs/format.md, section 19)."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from deepcompress.coding import lanes
from deepcompress.coding.bits import Reader
from deepcompress.coding.lookup import look_up
from deepcompress.coding.rans import frequencies, model, plain, tokens
from deepcompress.coding.rans.arrays import Classes, Decoding, Expectation, Meaning, Shape
from deepcompress.coding.rans.model import Model
from deepcompress.coding.rans.shape import SPARE, Matrix, Tile, tile_of
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]

LOW = 1 << 16  # of a state
STATE_BYTES, _WORD_BYTES = 4, 2
_KERNELS = "deepcompress.coding.rans.kernels"
_KERNELS_FROM = 1 << 15
_KERNELS_TO = 1 << 31  # elements of a stream: places within a lane are int32
_TABLE = 128  # more than there are tokens
_NO_GAP = tokens.LARGEST + 1  # in place of the gap that a token stands for, if it is none of a gap


def loops_for(matrix: Matrix, rows: int) -> Any:
    """The module whose loops serve streams of so many rows: a small tensor does not repay importing numba."""
    small = matrix.rows * matrix.columns < _KERNELS_FROM and _KERNELS not in sys.modules
    large = rows * matrix.columns >= _KERNELS_TO
    return plain if small or large or lanes.kernels() is None else import_module(_KERNELS)


def numbers_of(tile: Tile) -> Shape:
    """The numbers of a tile, for the loops."""
    return Shape(tile.rows, tile.columns, tile.height, tile.width, tile.cut.across)


def neighbours_of(found: Model) -> Array:
    """Rows, columns, aim, size of each neighbour; int64 of shape (neighbours, 4)."""
    rows = [(near.rows, near.columns, near.aim, near.size) for near in found.neighbours]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def meaning_of(lowest: int, values: Array) -> Meaning:
    """That integer number i from `lowest` on stands for ``values[i]``, and that there are no others."""
    places = tokens.bases() - lowest
    known = (places >= 0) & (places < len(values))
    known[0] = False
    by_token, refused = np.zeros(_TABLE, dtype=values.dtype), np.ones(_TABLE, dtype=np.uint8)
    by_token[: len(known)][known] = values[places[known]]
    refused[: len(known)][known] = 0
    return Meaning(lowest, values, by_token, refused)


@cache
def _themselves() -> Meaning:
    return meaning_of(-tokens.LARGEST, np.arange(-tokens.LARGEST, tokens.LARGEST + 1, dtype=np.int16))


@cache
def _steps() -> Array:
    steps = np.full(_TABLE, _NO_GAP << 4, dtype=np.uint32)
    steps[: tokens.CLASSES] = tokens.bases()[::2] << 4 | tokens.extra_bits()[::2]
    return steps


class Decoder:
    """What all streams of a tensor are decoded by."""

    def __init__(self, found: Model, matrix: Matrix) -> None:
        self.loops = loops_for(matrix, found.cut.rows)
        self._model, self._matrix = found, matrix
        by_row, by_column = model.row_classes(found, matrix), model.column_classes(found.axes, matrix)
        self._order = model.column_order(by_column)
        lowest, highest = (int(pick(by_row) + pick(by_column)) for pick in (np.min, np.max))
        held = np.clip(np.arange(lowest, highest + 1), 0, model.SCALES - 1)
        self._by_row = (by_row - by_row.min()).astype(np.int32)
        by_place = by_column[self._order] if found.gaps else by_column
        self._by_column = (by_place - by_place.min()).astype(np.int32)
        own = np.array([found.own], dtype=np.int64)
        self._expect = Expectation(neighbours_of(found), model.scales()[held], model.scale_classes(), own)
        slots = frequencies.slots_of(frequencies.of_levels(found.levels)).reshape(-1)
        self._tables = Decoding(slots, _starts(found, held), _steps(), tokens.bases(), tokens.extra_bits())

    def integers(self, part: memoryview, start: int, stop: int) -> Array:
        """The integers of rows `start` to `stop` - 1, flat, int16."""
        out = np.zeros((stop - start) * self._matrix.columns, dtype=np.int16)
        if self._model.gaps:
            self._weights(part, start, stop, _themselves(), out)
            return out
        tile, words, states, classes = self._opened(part, start, stop)
        used = self.loops.decode_dense(words, states, numbers_of(tile), classes, self._expect, self._tables, out)
        _check_end(used, words, states)
        return out

    def values(self, part: memoryview, start: int, stop: int, meaning: Meaning, out: Array) -> int:
        """Put what the integers of these rows stand for into `out`, which is zeros, and say how many are not 0."""
        if self._model.gaps:
            return self._weights(part, start, stop, meaning, out)
        integers = self.integers(part, start, stop)
        check_range(integers, meaning.lowest, meaning.lowest + len(meaning.values) - 1)
        count = int(np.count_nonzero(integers))
        integers -= np.int16(meaning.lowest)
        look_up(meaning.values, integers.view(np.uint16), values=out)
        return count

    def _weights(self, part: memoryview, start: int, stop: int, meaning: Meaning, out: Array) -> int:
        tile, words, states, classes = self._opened(part, start, stop)
        shape = numbers_of(tile)
        used, weights = self.loops.decode_gaps(words, states, shape, classes, self._order, self._tables, meaning, out)
        _check_end(used, words, states)
        return int(weights)

    def _opened(self, part: memoryview, start: int, stop: int) -> tuple[Tile, Array, Array, Classes]:
        """How a stream is dealt, its words and `SPARE` for each lane, states, and classes of its rows and columns."""
        tile = tile_of(stop - start, self._matrix.columns, self._model.cut)
        head = Reader(part, "stream").take(STATE_BYTES * tile.cut.lanes, "states")
        states = np.frombuffer(head, dtype="<u4").astype(np.uint32)
        if (len(part) - len(head)) % _WORD_BYTES or (states < LOW).any():
            raise FormatError("a rANS stream does not have whole words, or starts with a state that is too small")
        rest = np.frombuffer(part[len(head) :], dtype="<u2")
        words = np.zeros(len(rest) + SPARE * tile.cut.lanes, dtype=np.uint16)
        words[: len(rest)] = rest
        return tile, words, states, Classes(self._by_row[start:stop], self._by_column)


def _starts(found: Model, held: Array) -> Array:
    """See `Decoding`, for elements of which the classes sum up to these scales."""
    starts = found.contexts.astype(np.uint32) << frequencies.BITS
    if found.gaps:
        return np.stack((starts[held], starts[model.SCALES + held]), axis=1).reshape(-1)
    return starts if found.neighbours else starts[held]


def check_range(integers: Array, lowest: int, highest: int) -> None:
    """Raise a FormatError unless all integers are from the lowest to the highest."""
    found = int(integers.min()), int(integers.max())
    if found[0] < lowest or found[1] > highest:
        raise FormatError(f"integers from {found[0]} to {found[1]}, but only {lowest} to {highest} are allowed")


def _check_end(used: int, words: Array, states: Array) -> None:
    if used != len(words) - SPARE * len(states) or (states != LOW).any():
        raise FormatError("a rANS stream does not end with its last symbol: it is damaged")
