"""The inner loops of the coder, compiled by numba. Each has a slow twin that gives the very same result.

Compiled once and cached on disk; they run without the interpreter lock, so threads can decode tensors side by side.
Importing this module imports numba: `streams` and `offsets` do so only for tensors that are large enough to repay it.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numba.extending import register_jitable

from deepcompress.coding.adaptive import model
from deepcompress.coding.uncounted import UNCOUNTED

Array = np.ndarray[Any, np.dtype[Any]]

U = np.uint64


def words_of(payload: bytes | memoryview) -> Array:
    """The bytes as big-endian words of 64 bits, with zeros after them: a window may reach beyond the end."""
    words: Array = np.zeros(len(payload) // 8 + 2, dtype=np.uint64)
    words.view(np.uint8)[: len(payload)] = np.frombuffer(payload, dtype=np.uint8)
    if sys.byteorder == "little":
        words.byteswap(inplace=True)
    return words


@njit(cache=True, nogil=True)
def decode_rows(words: Array, at: Array, table: Array, width: int, first: int, total: int, out: Array) -> None:
    """Decode lanes `first` to first + len(at) - 1 of `total` in lock step; the slow twin is `lanes.decode_lanes`.

    Args:
        words: `words_of` the bytes of these lanes, uint64.
        at: bit position of each lane, uint64; moved to where each lane's last symbol ends.
        table: `huffman.lookup_table`, 2^width entries.
        width: bits of the longest code word, at most 15: four of them fit into one window.
        out: the symbols of all lanes, symbol i from lane i mod `total`; those of other lanes are left alone.
    """
    n, lanes, mine = U(out.shape[0]), U(total), U(at.shape[0])
    last, top = U(words.shape[0] - 2), U(64 - width)
    row = U(first)
    while row + U(3) * lanes + mine <= n:
        for lane in range(mine):
            p = at[lane]
            i, s = min(p >> U(6), last), p & U(63)
            window = (words[i] << s) | ((words[i + U(1)] >> U(1)) >> (U(63) - s))
            o = row + U(lane)
            for _ in range(4):
                entry = U(table[window >> top])
                out[o] = entry >> U(4)
                window <<= entry & U(15)
                p += entry & U(15)
                o += lanes
            at[lane] = p
        row += U(4) * lanes
    while row < n:
        for lane in range(min(mine, n - row)):
            p = at[lane]
            i, s = min(p >> U(6), last), p & U(63)
            window = (words[i] << s) | ((words[i + U(1)] >> U(1)) >> (U(63) - s))
            entry = U(table[window >> top])
            out[row + U(lane)] = entry >> U(4)
            at[lane] = p + (entry & U(15))
        row += lanes


@njit(cache=True, nogil=True)
def count(symbols: Array, alphabet: int) -> Array:
    """How often each symbol occurs, int64; the slow twin is `streams.count_in_chunks`.

    Args:
        symbols: unsigned integers.
        alphabet: above the largest value of their type, for nothing is checked here.
    """
    # Two tables, because a counter that was just written is slow to read again, and equal symbols come in runs.
    counts = np.zeros((2, alphabet), dtype=np.int64)
    half = symbols.shape[0] // 2
    for i in range(half):
        counts[0, symbols[2 * i]] += 1
        counts[1, symbols[2 * i + 1]] += 1
    if symbols.shape[0] % 2:
        counts[0, symbols[-1]] += 1
    total: Array = counts[0] + counts[1]
    return total


@njit(cache=True, nogil=True)
def lane_bits(symbols: Array, lengths: Array, lanes: int) -> Array:
    """Bits that each lane takes, int64."""
    bits = np.zeros(lanes, dtype=np.int64)
    for row in range(0, symbols.shape[0], lanes):
        for lane in range(min(lanes, symbols.shape[0] - row)):
            bits[lane] += lengths[symbols[row + lane]]
    return bits


@njit(cache=True, nogil=True)
def encode_rows(symbols: Array, entries: Array, at: Array, out: Array) -> None:
    """Encode all lanes in lock step; the slow twin is bitarray, lane by lane.

    Args:
        symbols: what to encode, symbol i into lane i mod len(at).
        entries: of each symbol, its code word times 16 plus its length.
        at: byte position of each lane, uint64; moved to where the lane's whole words end.
        out: the stream, zeros, uint8.
    """
    n, lanes = U(symbols.shape[0]), U(at.shape[0])
    pending = np.zeros(lanes, dtype=np.uint64)
    filled = np.zeros(lanes, dtype=np.uint64)
    row = U(0)
    while row < n:
        for lane in range(min(lanes, n - row)):
            entry = U(entries[symbols[row + U(lane)]])
            length = entry & U(15)
            bits, fill = (pending[lane] << length) | (entry >> U(4)), filled[lane] + length
            if fill >= U(32):
                fill -= U(32)
                word, p = bits >> fill, at[lane]
                for k in range(4):
                    out[p + U(k)] = (word >> U(24 - 8 * k)) & U(255)
                at[lane] = p + U(4)
            pending[lane], filled[lane] = bits, fill
        row += lanes
    for lane in range(lanes):
        fill, p = filled[lane], at[lane]
        bits = pending[lane] << (U(32) - fill)
        while fill > U(0):
            out[p] = (bits >> U(24)) & U(255)
            bits <<= U(8)
            p += U(1)
            fill = fill - U(8) if fill > U(8) else U(0)


@njit(cache=True, nogil=True)
def measure(symbols: Array, filler: int) -> tuple[int, int]:
    """How many weights offset symbols place, and how many elements they pass; the slow twin is `offsets.measure`."""
    weights, end = 0, 0
    for symbol in symbols:
        is_weight = int(symbol != filler)
        weights += is_weight
        end += int(symbol) + is_weight
    return weights, end


@njit(cache=True, nogil=True)
def scatter(symbols: Array, filler: int, survivors: Array, codebook: Array | None, values: Array) -> None:
    """Put survivors where the offset symbols say; the slow twin is `offsets.scatter_in_chunks`.

    Args:
        symbols: which `measure` has found to place len(survivors) weights, and to stay within `values`.
        filler: the symbol that is no weight.
        survivors: values; or indices into `codebook`, if there is one.
        codebook: the shared values, or None.
        values: zeros, flat.
    """
    placed, end = U(0), U(0)
    for i in range(symbols.shape[0]):
        symbol = U(symbols[i])
        end += symbol
        if symbol != U(filler):
            if codebook is None:
                values[end] = survivors[placed]
            else:
                values[end] = codebook[survivors[placed]]
            placed += U(1)
            end += U(1)


@njit(cache=True, nogil=True)
def look_up(codebook: Array, symbols: Array, values: Array) -> None:
    """values[i] = codebook[symbols[i]]; the slow twin is `lookup.look_up_in_chunks`."""
    for i in range(symbols.shape[0]):
        values[i] = codebook[symbols[i]]


# The adaptive model: its functions stay plain Python, which is their slow twin, and are compiled for this one. They
# make no arrays, so they need not count references.
for _part in (
    model.predict_zero, model.find_tables, model.neighbours, model.code_entry, model.predict_side, model.remember,
    model.decide, model.learn, model.take, model.bit_length, model.step,
):  # fmt: skip
    register_jitable(**UNCOUNTED)(_part)

code_symbols = njit(cache=True, nogil=True, **UNCOUNTED)(model.code)


def give_decisions(decisions: Array, count: int, out: Array) -> int:
    """Code decisions; the slow twin is `model.give`, which says how."""
    return int(_compiled_give(decisions, count, out, _divisors()))


def _give(decisions: Array, count: int, out: Array, divisors: Array) -> Any:
    """The state, of fewer than 32 bits, is not divided but multiplied: `_divisors` says why that is the same."""
    state, to = U(0), U(len(out))
    for index in range(count - 1, -1, -1):
        decision = U(decisions[index])
        chance, bit = decision >> U(1), decision & U(1)
        width = chance if bit else U(1 << 16) - chance
        while state >= width << U(16):
            to -= U(1)
            out[to] = state & U(255)
            state >>= U(8)
        quotient = state * divisors[width] >> U(48)
        state += quotient * (U(1 << 16) - width) + (U(1 << 16) - chance if bit else U(0))
    while state > U(0):
        to -= U(1)
        out[to] = state & U(255)
        state >>= U(8)
    return to


_compiled_give = njit(cache=True, nogil=True, **UNCOUNTED)(_give)


@cache
def _divisors() -> Array:
    """2^48 / w, rounded up, for w from 1 to 65535, uint64: the upper bits of its product with x are x // w.

    x is below w · 2^16. What is rounded up adds less than x / 2^48 < w / 2^32 < 1 / w to the quotient, which is at
    least that far below the next whole number; and the product is below 2^64 - 2^48 / w + w · 2^16 < 2^64.
    """
    widths = np.maximum(np.arange(1 << 16, dtype=np.int64), 1)
    divisors: Array = (-(-(1 << 48) // widths)).astype(np.uint64)
    return divisors
