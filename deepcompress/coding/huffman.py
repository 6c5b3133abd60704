"""Canonical, length-limited Huffman codes, of which a file stores only the code lengths.

A code is the list of its lengths: ``lengths[s]`` bits for symbol s, 0 for a symbol that does not occur.
Codes are assigned in order of (length, symbol), the canonical order, which is also what
``bitarray.util.canonical_decode`` reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from bitarray import bitarray
from bitarray.util import int2ba

from deepcompress.coding.bits import Reader, varint
from deepcompress.errors import FormatError

MAX_LENGTH = 15  # the longest code word that the format allows


def code_lengths(counts: Sequence[int]) -> list[int]:
    """The optimal prefix code for symbol `counts` with no code word above `MAX_LENGTH` bits.

    By package-merge (Larmore and Hirschberg 1990), which equals Huffman's algorithm wherever the limit
    does not bind. Ties are broken by the lowest symbol, so equal counts always give equal codes.

    Args:
        counts: occurrences of each symbol; at least two must be positive, at most 2^15.
    """
    leaves = sorted((count, (symbol,)) for symbol, count in enumerate(counts) if count)
    assert 2 <= len(leaves) <= 1 << MAX_LENGTH
    packages: list[tuple[int, tuple[int, ...]]] = []
    for _ in range(MAX_LENGTH):
        merged = sorted(leaves + packages)
        packages = [
            (first[0] + second[0], first[1] + second[1])
            for first, second in zip(merged[0::2], merged[1::2], strict=False)
        ]
    lengths = [0] * len(counts)
    for _, symbols in packages[: len(leaves) - 1]:
        for symbol in symbols:
            lengths[symbol] += 1
    return lengths


def code_words(lengths: Sequence[int]) -> dict[int, bitarray]:
    """The canonical code word of every symbol that occurs."""
    words: dict[int, bitarray] = {}
    code = previous = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        code <<= length - previous
        words[symbol] = int2ba(code, length)
        code, previous = code + 1, length
    return words


def canonical_tables(lengths: Sequence[int]) -> tuple[list[int], list[int]]:
    """``(count, symbols)`` as ``bitarray.util.canonical_decode`` takes them: words of each length, symbols in order."""
    order = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
    count = [0] * (order[-1][0] + 1)
    for length, _ in order:
        count[length] += 1
    return count, [symbol for _, symbol in order]


def lookup_table(lengths: Sequence[int], width: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """For each possible run of the next `width` bits: the symbol they begin with, times 16, plus its length.

    Args:
        lengths: of a complete code.
        width: at least the longest length.
    """
    order = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
    entries = np.array([symbol << 4 | length for length, symbol in order], dtype=np.uint32)
    return np.repeat(entries, [1 << (width - length) for length, _ in order])


# Lengths of neighbouring symbols are alike, because centroids are sorted and gaps fall off smoothly. So each
# is written as its difference to the one before: 0 -> '0', +1 -> '10', -1 -> '110', and anything else as
# '111' and four bits of the length itself.
_STEPS = {0: bitarray("0"), 1: bitarray("10"), -1: bitarray("110")}
_ESCAPE = bitarray("111")


def pack_lengths(lengths: Sequence[int]) -> bytes:
    """Code lengths as bytes: how many (up to the last that is not 0), then the differences, padded with zero bits."""
    used = max(symbol for symbol, length in enumerate(lengths) if length) + 1
    bits = bitarray()
    previous = 0
    for length in lengths[:used]:
        bits += _STEPS.get(length - previous) or _ESCAPE + int2ba(length, 4)
        previous = length
    return varint(used) + bits.tobytes()


def unpack_lengths(reader: Reader, alphabet: int) -> list[int]:
    """The inverse of `pack_lengths`, from `reader`, for symbols below `alphabet`.

    Raises:
        FormatError: too many symbols, or the lengths are not those of one complete prefix code.
    """
    used = reader.varint("number of code lengths", limit=alphabet)
    bits = _Bits(reader)
    lengths: list[int] = []
    previous = 0
    for _ in range(used):
        previous = _next_length(bits, previous)
        lengths.append(previous)
    bits.end()
    kraft = sum(1 << (MAX_LENGTH - length) for length in lengths if length)
    if kraft != 1 << MAX_LENGTH or not lengths[-1]:
        raise FormatError("a Huffman table is not a complete prefix code")
    return lengths + [0] * (alphabet - used)


class _Bits:
    """Bits of `reader`, most significant first, a byte taken only when it is needed."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self._byte, self._left = reader, 0, 0

    def __next__(self) -> int:
        if not self._left:
            self._byte, self._left = self._reader.byte("Huffman table"), 8
        self._left -= 1
        return self._byte >> self._left & 1

    def end(self) -> None:
        """Assert that the rest of the last byte is zero."""
        if self._byte & (1 << self._left) - 1:
            raise FormatError("the padding of a Huffman table is not zero")


def _next_length(bits: _Bits, previous: int) -> int:
    if not next(bits):
        return previous
    if not next(bits):
        step = 1
    elif not next(bits):
        step = -1
    else:
        length = next(bits) << 3 | next(bits) << 2 | next(bits) << 1 | next(bits)
        if abs(length - previous) <= 1:
            raise FormatError("a Huffman table is not in its shortest form")
        return length
    if not 0 <= previous + step <= MAX_LENGTH:
        raise FormatError(f"a Huffman table holds a code length of {previous + step}; allowed are 0 to {MAX_LENGTH}")
    return previous + step
