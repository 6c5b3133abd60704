"""Positions of the surviving weights as relative offsets with fillers (Han et al. 2016, section 2 and figure 2).

With offsets of b bits, the symbol s < 2^b - 1 says: s zeros, then a weight. The last symbol, 2^b - 1, is the
filler of the paper: that many zeros and no weight. The paper stores a zero weight beside each filler; here the
offset itself tells, so that a filler costs nothing in the weight stream.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcompress.coding import lanes, streams
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]

MAX_BITS = 12
CHUNK = 1 << 20


def gaps(positions: Array) -> Array:
    """Zeros before each weight, given the ascending positions of the weights in the flattened tensor."""
    return np.diff(positions, prepend=-1) - 1


def best_bits(gap: Array, allow_huffman: bool = True) -> tuple[int, int]:
    """The offset width in bits that codes these gaps in the fewest bytes, and those bytes, table included."""
    sizes = []
    distinct, occurrences = np.unique(gap, return_counts=True)
    for bits in range(1, MAX_BITS + 1):
        filler = (1 << bits) - 1
        counts = np.bincount(distinct % filler, weights=occurrences, minlength=filler + 1).astype(np.int64)
        counts[filler] = int((distinct // filler * occurrences).sum())
        sizes.append((streams.choose(counts, allow_huffman)[2], bits))
    size, bits = min(sizes)
    return bits, size


def to_symbols(gap: Array, bits: int) -> Array:
    """Gaps as offset symbols of `bits` bits, fillers put in."""
    filler = (1 << bits) - 1
    last = np.cumsum(gap // filler + 1) - 1
    symbols = np.full(int(last[-1]) + 1 if len(last) else 0, filler, dtype=np.uint16)
    symbols[last] = gap % filler
    return symbols


def scatter(symbols: Array, bits: int, survivors: Array, values: Array) -> None:
    """The inverse: put `survivors`, in order, where the offset `symbols` say, into `values`, flat and all zero.

    Raises:
        FormatError: the symbols place a different number of weights, or one outside of the tensor.
    """
    compiled = lanes.kernels() if len(symbols) >= lanes.LANES_FROM else None
    place = scatter_in_chunks if compiled is None else compiled.scatter
    filler = (1 << bits) - 1
    placed, end = place(symbols, filler, survivors, values)
    if end > len(values):
        raise FormatError(f"offsets lead to position {end}, beyond the tensor's {len(values)}")
    if placed != len(survivors):
        raise FormatError(f"offsets place {placed} weights, but {len(survivors)} were announced")
    if len(symbols) and int(symbols[-1]) == filler:
        raise FormatError("the last offset is a filler")


def scatter_in_chunks(symbols: Array, filler: int, survivors: Array, values: Array) -> tuple[int, int]:
    """What `kernels.scatter` does, by numpy; in chunks, so that the positions never exist all at once."""
    placed, end = 0, 0
    for start in range(0, len(symbols), CHUNK):
        chunk = symbols[start : start + CHUNK]
        is_weight = chunk != filler
        ends = end + np.cumsum(chunk + is_weight.astype(np.int64))
        end, count = int(ends[-1]), int(np.count_nonzero(is_weight))
        if end > len(values) or placed + count > len(survivors):
            return placed + count, end
        values[ends[is_weight] - 1] = survivors[placed : placed + count]
        placed += count
    return placed, end
