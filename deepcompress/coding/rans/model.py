"""What a stream is coded by: classes of rows, planes and places, neighbours, and tables (docs/format.md, section 18).

Everything here is fixed before the first symbol: nothing adapts, so that lanes need not wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from deepcompress.coding import planes
from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.rans import frequencies, tokens
from deepcompress.coding.rans.shape import MAX_LANES, Cut, Matrix
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]

SCALES = 32  # classes of the expected magnitude, three an octave
PER_OCTAVE = 3
AIMS = 4  # classes of what neighbours predict, beside what is expected
CLASSES = 64  # of a row, a plane or a place
MAX_NEIGHBOURS = 4
MAX_TABLES = 64
MAX_BASE = 256
ONE = 1 << 10  # the magnitude 1
AIM_BOUNDS = (3, 10, 19)  # sixteenths of the expected magnitude


@dataclass(frozen=True)
class Neighbour:
    """An element `rows` above and `columns` to the left, in the same lane.

    Its value times `aim` / 32 is predicted, and its magnitude times `size` / 32 is expected.
    """

    rows: int
    columns: int
    aim: int
    size: int


@dataclass(frozen=True)
class Model:
    """All that a decoder needs before the streams.

    Attributes:
        cut: how the matrix is dealt to streams and lanes.
        gaps: whether zeros are skipped: an integer for the zeros before each weight, and one for the weight.
        base: added to the sum of the classes.
        axes: for rows, planes and places: the class of each (uint8), or None where all have class 0.
        neighbours: what an element is predicted from; none with `gaps`.
        own: how much of the expected magnitude comes from the classes, in units of 1/32.
        contexts: the table of each context, uint8.
        levels: uint8 of shape (tables, tokens), see `frequencies`.
    """

    cut: Cut
    gaps: bool
    base: int
    axes: tuple[Array | None, Array | None, Array | None]
    neighbours: tuple[Neighbour, ...]
    own: int
    contexts: Array
    levels: Array


def context_count(gaps: bool, neighbours: int) -> int:
    """Contexts of a model: scales, twice for gaps and weights, or with each class of what is predicted."""
    return SCALES * (2 if gaps else AIMS if neighbours else 1)


@cache
def scales() -> Array:
    """The expected magnitude of each class, where `ONE` is 1, int64: from 1/16 on, three an octave."""
    return np.array([(64, 81, 102)[z % 3] << z // 3 for z in range(SCALES)], dtype=np.int64)


@cache
def scale_classes() -> Array:
    """The class of an expected magnitude, by its eighth; the last entry is that of all above, uint8."""
    bounds = np.array([(56, 72, 88)[z % 3] << z // 3 for z in range(1, SCALES)], dtype=np.int64) >> 3
    classes: Array = np.searchsorted(bounds, np.arange(bounds[-1] + 1), side="right")
    return classes.astype(np.uint8)


def row_classes(model: Model, matrix: Matrix) -> Array:
    """The class of each row, the base included, int64."""
    found = model.axes[0]
    return model.base + (np.zeros(matrix.rows, dtype=np.int64) if found is None else found.astype(np.int64))


def column_classes(axes: tuple[Array | None, Array | None, Array | None], matrix: Matrix) -> Array:
    """The class of each column, of plane and place together, int64."""
    by_plane, by_place = (
        np.zeros(count, dtype=np.int64) if found is None else found.astype(np.int64)
        for found, count in zip(axes[1:], matrix.axes[1:], strict=True)
    )
    return (by_plane[:, None] + by_place[None, :]).reshape(-1)


def column_order(columns: Array) -> Array:
    """In which order columns of these classes are gone through with gaps: of the same class, from left to right."""
    order: Array = np.argsort(columns, kind="stable")
    return order


def pack(model: Model, plane: Callable[[Array, int], bytes] = planes.encode_plane) -> bytes:
    """The bytes of a model; `plane` makes those of symbols below a number."""
    cut = model.cut
    out = bytearray([model.gaps]) + varint(cut.rows)
    out += bytes([cut.down.bit_length() - 1 << 4 | cut.across.bit_length() - 1])
    out += varint(model.base + MAX_BASE)
    for found in model.axes:
        out += b"\0" if found is None else b"\1" + plane(found, CLASSES)
    out += bytes([len(model.neighbours)])
    for near in model.neighbours:
        out += varint(near.rows) + varint(near.columns) + bytes([near.aim & 255, near.size])
    if model.neighbours:
        out += bytes([model.own])
    count, alphabet = model.levels.shape
    out += bytes([count, alphabet])
    out += plane(model.contexts, MAX_TABLES)
    return bytes(out + plane(_differences(model.levels), frequencies.LEVELS))


def _differences(levels: Array) -> Array:
    """Each level less that of the same token in the table before, modulo 64, flat."""
    wide = levels.astype(np.int64)
    found = np.diff(wide, axis=0, prepend=np.zeros_like(wide[:1])) & frequencies.LEVELS - 1
    return found.astype(np.uint8).reshape(-1)


def unpack(reader: Reader, matrix: Matrix, plane: Callable[[Reader, int, int], Array] = planes.decode_plane) -> Model:
    """The inverse, checked; `plane` reads so many symbols below a number.

    Raises:
        FormatError: the bytes are not a model of such a matrix.
    """
    gaps = _at_most(reader.byte("mode"), 1, "mode") == 1
    rows = reader.varint("rows of a stream", limit=matrix.rows)
    down, across = divmod(reader.byte("lanes"), 16)
    if not rows or 1 << down + across > MAX_LANES:
        raise FormatError(f"streams of {rows} rows in 2^{down} by 2^{across} lanes")
    base = reader.varint("base of the classes", limit=2 * MAX_BASE) - MAX_BASE
    by_row, by_plane, by_place = (_read_axis(reader, count, plane) for count in matrix.axes)
    near = _read_neighbours(reader, matrix, gaps)
    own = reader.byte("factor of the classes") if near else 0
    count, alphabet = reader.byte("number of tables"), reader.byte("number of tokens")
    if not 0 < count <= MAX_TABLES or not 0 < alphabet <= tokens.TOKENS:
        raise FormatError(f"{count} tables of {alphabet} tokens")
    contexts = plane(reader, context_count(gaps, len(near)), MAX_TABLES)
    _at_most(int(contexts.max()), count - 1, "table")
    changes = plane(reader, count * alphabet, frequencies.LEVELS)
    levels = changes.reshape(count, alphabet).cumsum(axis=0, dtype=np.uint8) & np.uint8(frequencies.LEVELS - 1)
    _at_most(int(levels.max()), frequencies.TOP, "level")
    return Model(
        Cut(rows, 1 << down, 1 << across), gaps, base, (by_row, by_plane, by_place), near, own, contexts, levels
    )


def parse(raw: memoryview, matrix: Matrix) -> Model:
    """The model that these bytes are, all of them.

    Raises:
        FormatError: they are no model of such a matrix.
    """
    reader = Reader(raw, "rANS model")
    found = unpack(reader, matrix)
    reader.end()
    return found


def _at_most(number: int, limit: int, field: str) -> int:
    if number > limit:
        raise FormatError(f"{field} {number} of a rANS model; at most {limit} is allowed")
    return number


def _read_axis(reader: Reader, count: int, plane: Callable[[Reader, int, int], Array]) -> Array | None:
    return plane(reader, count, CLASSES) if _at_most(reader.byte("classes"), 1, "classes") else None


def _read_neighbours(reader: Reader, matrix: Matrix, gaps: bool) -> tuple[Neighbour, ...]:
    found = []
    for _ in range(_at_most(reader.byte("neighbours"), 0 if gaps else MAX_NEIGHBOURS, "number of neighbours")):
        rows = reader.varint("rows to a neighbour", limit=matrix.rows)
        columns = reader.varint("columns to a neighbour", limit=matrix.columns)
        if not rows + columns:
            raise FormatError("an element is a neighbour of itself")
        aim = reader.byte("factor of a neighbour")
        found.append(Neighbour(rows, columns, aim - 256 if aim > 127 else aim, reader.byte("factor of a neighbour")))
    return tuple(found)
