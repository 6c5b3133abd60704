"""The payload of a Huffman stream: one plain canonical bit stream, or many of them side by side.

A stream of many symbols is dealt to several *lanes*, symbol i to lane i mod L, each a canonical bit stream of its
own. All lanes can then be decoded in lock step, and each step gives one row of the output as it lies in memory:
a shape that suits compiled code, numpy, several cores and a GPU alike. How many lanes there are follows from the
number of symbols alone. Any lane can be read with ``bitarray.util.canonical_decode``, the reference in the tests.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from bitarray import bitarray
from bitarray.util import canonical_decode

from deepcompress.coding import huffman, threads
from deepcompress.coding.compiled import loops
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]

_TOO_SHORT = "a Huffman stream ends before its {} symbols"
_TOO_LONG = "a Huffman stream has bits after its last symbol"

SYMBOLS_PER_LANE = 2048
LANES_FROM = 1 << 17  # fewer symbols than this are one plain stream
_KERNELS = "deepcompress.coding.kernels"
_KERNELS_FROM = 1 << 12  # fewer symbols than this are decoded sooner than the kernels' table is built
_LANES_PER_THREAD = 64  # 131,072 symbols at least: some times what it takes to start a thread


def lane_count(symbols: int) -> int:
    """Lanes of a stream of `symbols` symbols: a power of two near symbols / 2048, and 1 for short ones."""
    if symbols < LANES_FROM:
        return 1
    return 1 << (symbols // SYMBOLS_PER_LANE).bit_length() - 1


def symbol_type(alphabet: int) -> type[np.unsignedinteger[Any]]:
    """The numpy type of symbols below `alphabet`."""
    return np.uint8 if alphabet <= 256 else np.uint16


def overhead(symbols: int) -> int:
    """Bytes that lanes add to a stream: two for the length of each, and half a byte of padding on average."""
    lanes = lane_count(symbols)
    return lanes * 5 // 2 if lanes > 1 else 0


@cache
def kernels() -> Any:
    """The compiled kernels (`coding.kernels`), or None where there are none: then numpy and bitarray do it."""
    return loops(_KERNELS)


def kernels_for(symbols: int) -> Any:
    """The kernels, if they serve so many symbols: a short stream does not repay importing numba, but uses it then."""
    if symbols >= LANES_FROM or (symbols >= _KERNELS_FROM and _KERNELS in sys.modules):
        return kernels()
    return None


def pack(symbols: Array, lengths: Sequence[int]) -> bytes:
    """Encode `symbols` with the canonical code of these lengths, in as many lanes as `lane_count` says."""
    lanes = lane_count(len(symbols))
    if lanes == 1:
        return encode_lane(symbols, lengths)
    if kernels() is not None:
        return _encode_rows(symbols, lengths, lanes)
    return encode_lanes(symbols, lengths, lanes)


def unpack(payload: memoryview, count: int, lengths: Sequence[int], workers: int = 1) -> Array:
    """The inverse of `pack`: `count` symbols as uint8, or uint16 where the alphabet has more than 256.

    The compiled kernels share the lanes among `workers` threads.

    Raises:
        FormatError: the payload does not hold exactly `count` symbols.
    """
    if count > 8 * len(payload):
        raise FormatError(f"{len(payload)} bytes cannot hold {count} Huffman symbols")
    lanes = lane_count(count)
    compiled = kernels_for(count) is not None
    if lanes == 1:
        return (_decode_row if compiled else decode_lane)(payload, count, lengths)
    if compiled:
        return _decode_rows(payload, lanes, count, lengths, workers)
    return decode_lanes(payload, lanes, count, lengths)


def encode_lane(symbols: Array, lengths: Sequence[int]) -> bytes:
    """One plain canonical stream, by bitarray."""
    bits = bitarray()
    bits.encode(huffman.code_words(lengths), symbols.tolist())
    return bits.tobytes()


def encode_lanes(symbols: Array, lengths: Sequence[int], lanes: int) -> bytes:
    """Lanes by bitarray, one after the other: the reference for the compiled encoder."""
    packed = [encode_lane(symbols[lane::lanes], lengths) for lane in range(lanes)]
    return np.array([len(lane) for lane in packed], dtype="<u2").tobytes() + b"".join(packed)


def _encode_rows(symbols: Array, lengths: Sequence[int], lanes: int) -> bytes:
    compiled = kernels()
    entries = np.zeros(len(lengths), dtype=np.uint32)
    for symbol, word in huffman.code_words(lengths).items():
        entries[symbol] = int(word.to01(), 2) << 4 | len(word)
    symbols = np.ascontiguousarray(symbols)
    sizes = (compiled.lane_bits(symbols, np.asarray(lengths, dtype=np.int64), lanes) + 7) // 8
    head = sizes.astype("<u2").view(np.uint8)
    out = np.zeros(len(head) + int(sizes.sum()), dtype=np.uint8)
    out[: len(head)] = head
    compiled.encode_rows(symbols, entries, (sizes.cumsum() - sizes + len(head)).astype(np.uint64), out)
    return out.tobytes()


def decode_lane(lane: memoryview, count: int, lengths: Sequence[int]) -> Array:
    """One plain canonical stream of `count` symbols, by bitarray."""
    count_by_length, order = huffman.canonical_tables(lengths)
    bits = bitarray()
    bits.frombytes(bytes(lane))
    try:
        decoded = canonical_decode(bits, count_by_length, order)
        symbols = np.fromiter(decoded, dtype=symbol_type(len(lengths)), count=count)
    except ValueError:
        raise FormatError(_TOO_SHORT.format(count)) from None
    used = int(np.asarray(lengths, dtype=np.int64)[symbols].sum())
    if len(bits) - used >= 8 or bits[used:].any():
        raise FormatError(_TOO_LONG)
    return symbols


def _decode_row(lane: memoryview, count: int, lengths: Sequence[int]) -> Array:
    """`decode_lane` by the compiled kernel."""
    at, end = np.zeros(1, dtype=np.int64), 8 * len(lane)
    symbols = _decode_parts(lane, at, np.array([end]), count, lengths, 1)
    left = end - int(at[0])
    if left < 0:
        raise FormatError(_TOO_SHORT.format(count))
    if left >= 8 or lane[-1] & (1 << left) - 1:
        raise FormatError(_TOO_LONG)
    return symbols


def decode_lanes(payload: memoryview, lanes: int, count: int, lengths: Sequence[int]) -> Array:
    """All lanes in lock step by numpy: each step takes the next symbol of every lane, the next row of the output."""
    at, ends = _lane_bits(payload, lanes)
    width = max(lengths)
    table = huffman.lookup_table(lengths, width)
    symbol_of, length_of = (table >> 4).astype(symbol_type(len(lengths))), (table & 15).astype(np.uint64)
    windows = _windows(payload)
    symbols = np.empty(-(-count // lanes) * lanes, dtype=symbol_type(len(lengths)))
    index, used = np.empty(lanes, dtype=np.uint64), np.empty(lanes, dtype=np.uint64)
    unused = np.uint64(64 - width)
    steps = lanes * (33 // width)  # 33 bits of a window are sure to be of the stream: two or more symbols
    for start in range(0, count, steps):
        window = windows.take(at >> 5, mode="clip")
        window <<= (at & 31).view(np.uint64)
        for row in range(start, min(start + steps, count), lanes):
            np.right_shift(window, unused, out=index)
            symbol_of.take(index.view(np.int64), out=symbols[row : row + lanes], mode="clip")
            length_of.take(index.view(np.int64), out=used, mode="clip")
            used[count - row :] = 0  # the last row may be short
            window <<= used
            at += used.view(np.int64)
    _check_ends(payload, at, ends)
    return symbols[:count]


def _windows(payload: memoryview) -> Array:
    """The 64 bits from every 32nd bit on, with zeros after the end, uint64."""
    padding = bytes(12 - len(payload) % 4)
    halves = np.frombuffer(b"".join((payload, padding)), dtype=">u4").astype(np.uint64)
    windows: Array = halves[:-1] << np.uint64(32) | halves[1:]
    return windows


def _decode_rows(payload: memoryview, lanes: int, count: int, lengths: Sequence[int], workers: int = 1) -> Array:
    """`decode_lanes` by the compiled kernel."""
    at, ends = _lane_bits(payload, lanes)
    symbols = _decode_parts(payload, at, ends, count, lengths, workers)
    _check_ends(payload, at, ends)
    return symbols


def _decode_parts(
    payload: memoryview, at: Array, ends: Array, count: int, lengths: Sequence[int], workers: int
) -> Array:
    """Decode lanes that start at bits `at`, moved to where each one's last symbol ends, and should end at `ends`."""
    compiled = kernels()
    width = max(lengths)
    table = huffman.lookup_table(lengths, width)
    symbols = np.empty(count, dtype=symbol_type(len(lengths)))

    def decode(first: int, stop: int) -> None:
        # Lanes stand one after the other, so each thread turns only its own bytes into words.
        base = int(at[first])
        words = compiled.words_of(payload[base >> 3 : int(ends[stop - 1]) >> 3])
        mine = (at[first:stop] - base).astype(np.uint64)
        compiled.decode_rows(words, mine, table, width, first, len(at), symbols)
        at[first:stop] = mine.astype(np.int64) + base

    threads.run(decode, threads.split(len(at), workers, _LANES_PER_THREAD))
    return symbols


def _check_ends(payload: memoryview, at: Array, ends: Array) -> None:
    """Each lane must end, at bit `at`, within its last byte, and the rest of that byte must be zero."""
    left = ends - at
    if (left < 0).any() or (left >= 8).any():
        raise FormatError("a lane of a Huffman stream does not end with its last symbol")
    last = np.frombuffer(payload, dtype=np.uint8)[(ends >> 3) - 1]
    if (last & ((1 << left) - 1)).any():
        raise FormatError("the padding of a lane of a Huffman stream is not zero")


def _lane_bits(payload: memoryview, lanes: int) -> tuple[Array, Array]:
    """Where each lane starts and ends, in bits from the start of the stream (int64)."""
    if len(payload) < 2 * lanes:
        raise FormatError(f"a stream of {lanes} lanes has only {len(payload)} bytes")
    sizes = np.frombuffer(payload[: 2 * lanes], dtype="<u2").astype(np.int64)
    ends = sizes.cumsum() + 2 * lanes
    if int(ends[-1]) != len(payload):
        raise FormatError(f"lanes end at byte {int(ends[-1])} of a stream of {len(payload)} bytes")
    return 8 * (ends - sizes), 8 * ends
