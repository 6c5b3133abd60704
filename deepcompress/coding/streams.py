"""Sequences of small integers ("symbols") to bytes and back, with the coder that makes them smallest.

The payload of a Huffman stream is the business of `lanes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from deepcompress.coding import huffman, lanes
from deepcompress.coding.bits import Reader, varint
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]

_CHUNK = 1 << 16  # a multiple of 8


class Coder(IntEnum):
    """How a stream is written; the numbers are part of the file format."""

    NONE = 0
    CONSTANT = 1
    FIXED = 2
    HUFFMAN = 3
    LITERAL = 4


def coder_of(number: int) -> Coder:
    """The coder with this number in the file format."""
    if number > Coder.LITERAL:
        raise FormatError(f"coder {number} is unknown; known are 0 to {Coder.LITERAL}")
    return Coder(number)


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
    bits = int(np.dot(counts, np.asarray(lengths, dtype=np.int64)))
    size = -(-bits // 8) + len(huffman.pack_lengths(lengths)) + lanes.overhead(total)
    return (Coder.HUFFMAN, lengths, size) if size < fixed else (Coder.FIXED, [], fixed)


def sizes(counts: Array, allow_huffman: bool = True) -> tuple[Coder, int, int]:
    """As `choose`: the coder, the bytes of its table, and those of the payload."""
    coder, lengths, size = choose(counts, allow_huffman)
    table = size if coder is Coder.CONSTANT else len(huffman.pack_lengths(lengths)) if lengths else 0
    return coder, table, size - table


def least(counts: Array) -> int:
    """Bytes that no coder of `choose` goes below: those of the entropy, or of a fixed width."""
    total = int(counts.sum())
    if total == 0:
        return 0
    shares = counts[counts > 0] / total
    entropy = float(-(shares * np.log2(shares)).sum())
    return min(-(-total * fixed_width(len(counts)) // 8), int(total * entropy / 8 * (1 - 1e-9)))


def count(symbols: Array, alphabet: int) -> Array:
    """How often each symbol below `alphabet` occurs, int64."""
    compiled = lanes.kernels() if len(symbols) >= lanes.LANES_FROM and symbols.dtype in (np.uint8, np.uint16) else None
    if compiled is None:
        return count_in_chunks(symbols, alphabet)
    counts: Array = compiled.count(np.ascontiguousarray(symbols), 1 << 8 * symbols.itemsize)
    assert not counts[alphabet:].any()
    return counts[:alphabet]


def count_in_chunks(symbols: Array, alphabet: int) -> Array:
    """What `kernels.count` does, by numpy; in chunks, because numpy widens them to 64 bits first."""
    counts = np.zeros(alphabet, dtype=np.int64)
    for start in range(0, len(symbols), _CHUNK):
        counts += np.bincount(symbols[start : start + _CHUNK], minlength=alphabet)
    return counts


def encode(symbols: Array, alphabet: int, allow_huffman: bool = True) -> Stream:
    """Code a one-dimensional array of integers in 0..alphabet-1 with whichever coder is smallest."""
    coder, lengths, _ = choose(count(symbols, alphabet), allow_huffman)
    if coder is Coder.CONSTANT:
        return Stream(coder, varint(int(symbols[0])), b"")
    if coder is Coder.FIXED:
        return Stream(coder, b"", _pack_fixed(symbols, fixed_width(alphabet)))
    if coder is Coder.HUFFMAN:
        return Stream(coder, huffman.pack_lengths(lengths), lanes.pack(symbols, lengths))
    return Stream(Coder.NONE, b"", b"")


@dataclass(frozen=True)
class Code:
    """What a payload is decoded by: the coder, the size of the alphabet, and either code lengths or the one symbol."""

    coder: Coder
    alphabet: int
    lengths: tuple[int, ...] = ()
    symbol: int = 0


def read_table(coder: Coder, reader: Reader, alphabet: int) -> Code:
    """Read the table of a stream of symbols below `alphabet` from `reader`; coders without a table read nothing."""
    if coder is Coder.HUFFMAN:
        return Code(coder, alphabet, lengths=tuple(huffman.unpack_lengths(reader, alphabet)))
    if coder is Coder.CONSTANT:
        return Code(coder, alphabet, symbol=reader.varint("constant symbol", limit=alphabet - 1))
    return Code(coder, alphabet)


def decode(table: Code, payload: memoryview, count: int, workers: int = 1) -> Array:
    """The exact inverse of `encode`: `count` symbols as unsigned integers, long Huffman streams by `workers` threads.

    Nothing is allocated before it is sure that `payload` can hold so many symbols; for a constant stream,
    which has none, the caller has bounded `count`.

    Raises:
        FormatError: the payload does not hold exactly `count` symbols.
    """
    if table.coder is Coder.FIXED:
        return _unpack_fixed(payload, count, table.alphabet)
    if table.coder is Coder.HUFFMAN:
        return lanes.unpack(payload, count, table.lengths, workers)
    if len(payload):
        raise FormatError(f"a {table.coder.name} stream has {len(payload)} bytes; it must have none")
    if table.coder is Coder.CONSTANT or (table.coder is Coder.NONE and count == 0):
        return np.full(count, table.symbol, dtype=lanes.symbol_type(table.alphabet))
    raise FormatError(f"a stream of {count} symbols is marked {table.coder.name}")


def _pack_fixed(symbols: Array, width: int) -> bytes:
    """Symbols of `width` bits each, most significant bit first, padded with zero bits."""
    shifts = np.arange(width - 1, -1, -1, dtype=np.uint16)
    packed = []
    for start in range(0, len(symbols), _CHUNK):  # of whole bytes; all bits at once would take 16 times the symbols
        chunk = symbols[start : start + _CHUNK].astype(np.uint16)
        packed.append(np.packbits((chunk[:, None] >> shifts & 1).astype(np.uint8)).tobytes())
    return b"".join(packed)


def _unpack_fixed(payload: memoryview, count: int, alphabet: int) -> Array:
    width = fixed_width(alphabet)
    if len(payload) != -(-count * width // 8):
        raise FormatError(f"{count} symbols of {width} bits do not make {len(payload)} bytes")
    data = np.frombuffer(payload, dtype=np.uint8)
    symbols = np.zeros(count, dtype=lanes.symbol_type(1 << width))
    for start in range(0, count, _CHUNK):
        chunk = symbols[start : start + _CHUNK]
        bits = np.unpackbits(data[start * width // 8 : -(-(start + len(chunk)) * width // 8)])
        if bits[len(chunk) * width :].any():
            raise FormatError("the padding of a fixed-width stream is not zero")
        for column in range(width):
            chunk <<= 1
            chunk |= bits[column : len(chunk) * width : width]
    if count and int(symbols.max()) >= alphabet:
        raise FormatError(f"a symbol is {int(symbols.max())}, but the alphabet has only {alphabet}")
    return symbols
