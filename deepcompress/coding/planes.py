"""Tensors that are stored exactly: byte plane by byte plane, and, where rows differ in kind, each kind for itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from deepcompress.coding import streams
from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.dtypes import DType
from deepcompress.coding.streams import coder_of

Array = np.ndarray[Any, np.dtype[Any]]

MAX_KINDS = 16  # of rows; part of the file format
_CONSTANT, _PLAIN = 0, 1
_CHUNK = 1 << 20

#: By how many of their last bits all elements of a row are 0, it is of kind 2, 3, …: float32 that holds no more than
#: float16 or bfloat16, float64 that holds no more than float32 or float16.
_NARROW = {DType.FLOAT32: (13, 16), DType.FLOAT64: (29, 42)}


def encode(elements: Array) -> bytes:
    """Byte k of every element together, for each k, as a stream with its coder, table and length in front.

    Args:
        elements: their bytes, uint8 of shape (number of elements, bytes of one).
    """
    return b"".join(encode_plane(plane, 256) for plane in elements.T)


def decode(reader: Reader, count: int, width: int) -> Array:
    """The inverse: the bytes of `count` elements of `width` bytes each, uint8 of shape (count, width).

    Raises:
        FormatError: the streams do not hold exactly these.
    """
    elements = np.empty((count, width), dtype=np.uint8)
    for plane in elements.T:
        plane[:] = decode_plane(reader, count, 256)
    return elements


def encode_plane(symbols: Array, alphabet: int) -> bytes:
    """Symbols below `alphabet` with the coder, the length, and the table in front."""
    stream = streams.encode(symbols, alphabet)
    return bytes([stream.coder]) + varint(stream.size) + stream.table + stream.payload


def decode_plane(reader: Reader, count: int, alphabet: int) -> Array:
    """The inverse: `count` symbols.

    Raises:
        FormatError: the stream does not hold exactly these.
    """
    coder = coder_of(reader.byte("coder"))
    body = Reader(reader.take(reader.varint("length of a plane"), "plane"), "plane")
    table = streams.read_table(coder, body, alphabet)
    return streams.decode(table, body.take(len(body), "payload"), count)


# Rows --------------------------------------------------------------------------------------------------------


def encode_rows(values: Array, dtype: DType) -> bytes | None:
    """The kind of each row, and then the elements of each kind in byte planes; None if all rows are of one kind.

    A row is what one index of the first dimension holds. All elements of a constant row are the same, and one is
    stored. The other kinds are by how much of their precision is used: counted together, the last bytes of rows that
    were never trained would spoil the statistics of those that were.
    """
    if values.ndim < 2 or not values.size:
        return None
    rows = np.ascontiguousarray(values, dtype=dtype.storage).reshape(len(values), -1)
    kinds = _kinds(rows, dtype)
    if not kinds.max() > kinds.min():
        return None
    out = bytearray(encode_plane(kinds, MAX_KINDS))
    for part in _by_kind(rows, kinds):
        out += encode(part)
    return bytes(out)


def decode_rows(reader: Reader, rows: int, columns: int, width: int) -> Array:
    """The inverse: the bytes of all elements, uint8 of shape (rows, columns, width).

    Raises:
        FormatError: the streams do not hold exactly these.
    """
    out = np.empty((rows, columns, width), dtype=np.uint8)
    kinds = decode_plane(reader, rows, MAX_KINDS)
    for kind in np.unique(kinds):
        places = np.flatnonzero(kinds == kind)
        stored = 1 if kind == _CONSTANT else columns
        out[places] = decode(reader, len(places) * stored, width).reshape(len(places), stored, width)
    return out


def _by_kind(rows: Array, kinds: Array) -> Iterator[Array]:
    """What is stored of the rows of each kind that there is, as the bytes of its elements."""
    width = rows.dtype.itemsize
    for kind in np.unique(kinds):
        part = rows[kinds == kind]
        part = part[:, :1] if kind == _CONSTANT else part
        yield np.ascontiguousarray(part).view(np.uint8).reshape(-1, width)


def _kinds(rows: Array, dtype: DType) -> Array:
    """The kind of each row, uint8."""
    kinds = np.full(len(rows), _PLAIN, dtype=np.uint8)
    step = max(1, _CHUNK // rows.shape[1])
    for start in range(0, len(rows), step):
        part, found = rows[start : start + step], kinds[start : start + step]
        if dtype in _NARROW:
            used = np.bitwise_or.reduce(part.view(dtype.bits), axis=1)
            for kind, zeros in enumerate(_NARROW[dtype], _PLAIN + 1):
                found[used & dtype.bits.type((1 << zeros) - 1) == 0] = kind
        raw = part.view(np.uint8).reshape(*part.shape, -1)
        found[(raw == raw[:, :1]).all(axis=(1, 2))] = _CONSTANT
    return kinds
