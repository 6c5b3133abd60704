"""Sequences of small integers ("symbols") to bytes and back, with the coder that makes them smallest.

A Huffman stream of many symbols is dealt to several *lanes*, symbol i to lane i mod L, each a plain canonical
stream of its own: a reader can then decode all lanes in lock step (numpy, several cores, a GPU), row by row
of the output. How many lanes there are follows from the number of symbols alone (`lane_count`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from bitarray import bitarray
from bitarray.util import canonical_decode

from deepcompress.coding import huffman
from deepcompress.coding.bits import Reader, varint
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]

SYMBOLS_PER_LANE = 2048
LANES_FROM = 1 << 17  # fewer symbols than this are one plain stream


class Coder(IntEnum):
    """How a stream is written; the numbers are part of the file format."""

    NONE = 0
    CONSTANT = 1
    FIXED = 2
    HUFFMAN = 3
    LITERAL = 4


@dataclass(frozen=True)
class Stream:
    """A coded sequence: its coder, the coder's table, and the payload. Constant streams have no payload."""

    coder: Coder
    table: bytes
    payload: bytes

    @property
    def size(self) -> int:
        """Bytes of table and payload together."""
        return len(self.table) + len(self.payload)


def lane_count(symbols: int) -> int:
    """Lanes of a Huffman stream of `symbols` symbols: a power of two near symbols / 2048, and 1 for short ones."""
    if symbols < LANES_FROM:
        return 1
    return 1 << (symbols // SYMBOLS_PER_LANE).bit_length() - 1


def fixed_width(alphabet: int) -> int:
    """Bits of one symbol below `alphabet` when all take the same."""
    return max(1, (alphabet - 1).bit_length())


def choose(counts: Array, allow_huffman: bool = True) -> tuple[Coder, list[int], int]:
    """The smallest coder for symbols that occur `counts` times: (coder, code lengths, exact bytes with table).

    The bytes of a laned Huffman stream are exact but for each lane's padding, of which half a byte is assumed.
    """
    total = int(counts.sum())
    used = int(np.count_nonzero(counts))
    if total == 0:
        return Coder.NONE, [], 0
    if used == 1:
        return Coder.CONSTANT, [], len(varint(int(np.flatnonzero(counts)[0])))
    fixed = -(-total * fixed_width(len(counts)) // 8)
    if not allow_huffman:
        return Coder.FIXED, [], fixed
    lengths = huffman.code_lengths(counts.tolist())
    lanes = lane_count(total)
    bits = int(np.dot(counts, np.asarray(lengths, dtype=np.int64)))
    size = -(-bits // 8) + len(huffman.pack_lengths(lengths)) + (lanes * 5 // 2 if lanes > 1 else 0)
    return (Coder.HUFFMAN, lengths, size) if size < fixed else (Coder.FIXED, [], fixed)


def encode(symbols: Array, alphabet: int, allow_huffman: bool = True) -> Stream:
    """Code a one-dimensional array of integers in 0..alphabet-1 with whichever coder is smallest."""
    counts = np.bincount(symbols, minlength=alphabet)
    coder, lengths, _ = choose(counts, allow_huffman)
    if coder is Coder.CONSTANT:
        return Stream(coder, varint(int(symbols[0])), b"")
    if coder is Coder.FIXED:
        return Stream(coder, b"", _pack_fixed(symbols, fixed_width(alphabet)))
    if coder is Coder.HUFFMAN:
        return Stream(coder, huffman.pack_lengths(lengths), _pack_huffman(symbols, lengths))
    return Stream(Coder.NONE, b"", b"")


@dataclass(frozen=True)
class Table:
    """What a payload is decoded by: the coder, the size of the alphabet, and either code lengths or the one symbol."""

    coder: Coder
    alphabet: int
    lengths: tuple[int, ...] = ()
    symbol: int = 0


def read_table(coder: Coder, reader: Reader, alphabet: int) -> Table:
    """Read the table of a stream of symbols below `alphabet` from `reader`; coders without a table read nothing."""
    if coder is Coder.HUFFMAN:
        return Table(coder, alphabet, lengths=tuple(huffman.unpack_lengths(reader, alphabet)))
    if coder is Coder.CONSTANT:
        return Table(coder, alphabet, symbol=reader.varint("constant symbol", limit=alphabet - 1))
    return Table(coder, alphabet)


def decode(table: Table, payload: memoryview, count: int) -> Array:
    """The exact inverse of `encode`: `count` symbols as unsigned integers.

    Nothing is allocated before it is sure that `payload` can hold so many symbols; for a constant stream,
    which has none, the caller has bounded `count`.

    Raises:
        FormatError: the payload does not hold exactly `count` symbols.
    """
    if table.coder is Coder.FIXED:
        return _unpack_fixed(payload, count, table.alphabet)
    if table.coder is Coder.HUFFMAN:
        return _unpack_huffman(payload, count, table.lengths)
    if len(payload):
        raise FormatError(f"a {table.coder.name} stream has {len(payload)} bytes; it must have none")
    if table.coder is Coder.CONSTANT or (table.coder is Coder.NONE and count == 0):
        return np.full(count, table.symbol, dtype=_dtype(table.alphabet))
    raise FormatError(f"a stream of {count} symbols is marked {table.coder.name}")


def _dtype(alphabet: int) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if alphabet <= 256 else np.uint16


def _pack_fixed(symbols: Array, width: int) -> bytes:
    """Symbols of `width` bits each, most significant bit first, padded with zero bits."""
    shifts = np.arange(width - 1, -1, -1, dtype=np.uint16)
    bits = (symbols.astype(np.uint16)[:, None] >> shifts & 1).astype(np.uint8)
    return np.packbits(bits).tobytes()


def _unpack_fixed(payload: memoryview, count: int, alphabet: int) -> Array:
    width = fixed_width(alphabet)
    if len(payload) != -(-count * width // 8):
        raise FormatError(f"{count} symbols of {width} bits do not make {len(payload)} bytes")
    bits = np.unpackbits(np.frombuffer(payload, dtype=np.uint8))
    if bits[count * width :].any():
        raise FormatError("the padding of a fixed-width stream is not zero")
    symbols = np.zeros(count, dtype=_dtype(1 << width))
    for column in range(width):
        symbols = symbols << 1 | bits[column : count * width : width]
    if count and int(symbols.max()) >= alphabet:
        raise FormatError(f"a symbol is {int(symbols.max())}, but the alphabet has only {alphabet}")
    return symbols


def _pack_huffman(symbols: Array, lengths: Sequence[int]) -> bytes:
    words = huffman.code_words(lengths)
    lanes = lane_count(len(symbols))
    packed = []
    for lane in range(lanes):
        bits = bitarray()
        bits.encode(words, symbols[lane::lanes].tolist())
        packed.append(bits.tobytes())
    if lanes == 1:
        return packed[0]
    return np.array([len(lane) for lane in packed], dtype="<u2").tobytes() + b"".join(packed)


def _unpack_huffman(payload: memoryview, count: int, lengths: Sequence[int]) -> Array:
    if count > 8 * len(payload):
        raise FormatError(f"{len(payload)} bytes cannot hold {count} Huffman symbols")
    lanes = lane_count(count)
    if lanes == 1:
        return decode_lane(payload, count, lengths)
    return decode_lanes(payload, lanes, count, lengths)


def decode_lane(lane: memoryview, count: int, lengths: Sequence[int]) -> Array:
    """One plain canonical stream of `count` symbols, by bitarray."""
    count_by_length, order = huffman.canonical_tables(lengths)
    bits = bitarray()
    bits.frombytes(bytes(lane))
    try:
        decoded = canonical_decode(bits, count_by_length, order)
        symbols = np.fromiter(decoded, dtype=_dtype(len(lengths)), count=count)
    except ValueError:
        raise FormatError(f"a Huffman stream ends before its {count} symbols") from None
    used = int(np.asarray(lengths, dtype=np.int64)[symbols].sum())
    if len(bits) - used >= 8 or bits[used:].any():
        raise FormatError("a Huffman stream has bits after its last symbol")
    return symbols


def decode_lanes(payload: memoryview, lanes: int, count: int, lengths: Sequence[int]) -> Array:
    """All lanes in lock step: each step takes the next symbol of every lane, which is the next row of the output."""
    starts, ends = _lane_bits(payload, lanes)
    width = max(lengths)
    table = huffman.lookup_table(lengths, width)
    data = np.frombuffer(bytes(payload) + bytes(4), dtype=np.uint8)
    windows = np.zeros(len(data) - 3, dtype=np.uint32)  # the 32 bits from every byte on
    for k in range(4):
        windows |= data[k : len(data) - 3 + k].astype(np.uint32) << np.uint32(24 - 8 * k)
    symbols = np.empty(-(-count // lanes) * lanes, dtype=_dtype(len(lengths)))
    at = starts.copy()
    mask = np.uint32((1 << width) - 1)
    for row in range(0, count, lanes):
        shift = (32 - width - (at & 7)).astype(np.uint32)
        found = table[windows.take(at >> 3, mode="clip") >> shift & mask]
        symbols[row : row + lanes] = found >> 4
        active = min(lanes, count - row)  # the last row may be short
        at[:active] += found[:active] & 15
    left = ends - at
    tails = windows.take(at >> 3, mode="clip") << (at & 7).astype(np.uint32)
    if (left < 0).any() or (left >= 8).any() or (tails >> (32 - left).astype(np.uint32))[left > 0].any():
        raise FormatError("a lane of a Huffman stream does not end with its last symbol")
    return symbols[:count]


def _lane_bits(payload: memoryview, lanes: int) -> tuple[Array, Array]:
    """Where each lane starts and ends, in bits from the start of the stream (int64)."""
    if len(payload) < 2 * lanes:
        raise FormatError(f"a stream of {lanes} lanes has only {len(payload)} bytes")
    sizes = np.frombuffer(payload[: 2 * lanes], dtype="<u2").astype(np.int64)
    ends = sizes.cumsum() + 2 * lanes
    if int(ends[-1]) != len(payload):
        raise FormatError(f"lanes end at byte {int(ends[-1])} of a stream of {len(payload)} bytes")
    return 8 * (ends - sizes), 8 * ends
