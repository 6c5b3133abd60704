"""Positions of the surviving weights as relative offsets with fillers (Han et al. 2016, section 2 and figure 2).

With offsets of b bits, the symbol s < 2^b - 1 says: s zeros, then a weight. The last symbol, 2^b - 1, is the
filler of the paper: that many zeros and no weight. The paper stores a zero weight beside each filler; here the
offset itself tells, so that a filler costs nothing in the weight stream.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcompress.coding import lanes, streams, threads
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]

MAX_BITS = 12
CHUNK = 1 << 20
PER_THREAD = 1 << 17  # symbols at least: some times what it takes to start a thread


def gaps(positions: Array, last: int = -1) -> Array:
    """Zeros before each weight, given the ascending positions of the weights, and that of the one before them."""
    return np.diff(positions, prepend=last) - 1


def best_width(gaps: Array, counts: Array, allow_huffman: bool = True) -> tuple[int, int]:
    """The offset width in bits that codes gaps in the fewest bytes, and those bytes, table included.

    `gaps` are the distinct ones, and `counts` how often each occurs.
    """
    widths = [(bits, symbol_counts(gaps, counts, bits)) for bits in range(1, MAX_BITS + 1)]
    bounds = sorted(((streams.least(symbols), bits, symbols) for bits, symbols in widths), key=lambda bound: bound[:2])
    best: tuple[int, int] | None = None
    for least, bits, symbols in bounds:
        if best is None or least <= best[0]:  # the codes of most widths need not be made
            found = (streams.choose(symbols, allow_huffman)[2], bits)
            best = found if best is None else min(best, found)
    assert best is not None
    return best[1], best[0]


def symbol_counts(gaps: Array, counts: Array, bits: int) -> Array:
    """How often each offset symbol of `bits` bits occurs for these distinct gaps; the last symbol is the filler."""
    filler = (1 << bits) - 1
    symbols = np.zeros(filler + 1, dtype=np.int64)
    np.add.at(symbols, gaps % filler, counts)
    symbols[filler] = int((gaps // filler * counts).sum())
    return symbols


def to_symbols(gap: Array, bits: int) -> Array:
    """Gaps as offset symbols of `bits` bits, fillers put in."""
    filler = (1 << bits) - 1
    last = np.cumsum(gap // filler + 1) - 1
    symbols = np.full(int(last[-1]) + 1 if len(last) else 0, filler, dtype=np.uint16)
    symbols[last] = gap % filler
    return symbols


def scatter(
    symbols: Array, bits: int, survivors: Array, values: Array, codebook: Array | None = None, workers: int = 1
) -> None:
    """The inverse: put `survivors`, in order, where the offset `symbols` say, into `values`, flat and all zero.

    With a `codebook`, survivors are indices into it. Nothing is written unless everything has its place.

    Raises:
        FormatError: the symbols place a different number of weights, or one outside of the tensor.
    """
    compiled = lanes.kernels_for(len(symbols))
    count = measure if compiled is None else compiled.measure
    place = scatter_in_chunks if compiled is None else compiled.scatter
    filler = (1 << bits) - 1
    parts = threads.split(len(symbols), 1 if compiled is None else workers, PER_THREAD)
    begins = [(0, 0)]  # of each part: weights placed before it, elements passed before it
    for start, stop in parts:
        weights, passed = count(symbols[start:stop], filler)
        begins.append((begins[-1][0] + weights, begins[-1][1] + passed))
    _check_total(*begins[-1], symbols, filler, len(survivors), len(values))

    def work(part: int, _: int) -> None:
        (start, stop), (placed, end), (after, _) = parts[part], begins[part], begins[part + 1]
        place(symbols[start:stop], filler, survivors[placed:after], codebook, values[end:])

    threads.run(work, [(part, part + 1) for part in range(len(parts))])


def positions(symbols: Array, bits: int, weights: int, size: int) -> Array:
    """Where the offset `symbols` put their weights in a flat tensor of `size` elements: ascending, int64.

    Raises:
        FormatError: as `scatter`, for `weights` survivors.
    """
    filler = (1 << bits) - 1
    _check_total(*measure(symbols, filler), symbols, filler, weights, size)
    found = np.empty(weights, dtype=np.int64)
    placed, end = 0, 0
    for start in range(0, len(symbols), CHUNK):
        chunk = symbols[start : start + CHUNK]
        is_weight = chunk != filler
        ends = end + np.cumsum(chunk + is_weight.astype(np.int64))
        count = int(np.count_nonzero(is_weight))
        found[placed : placed + count] = ends[is_weight] - 1
        placed, end = placed + count, int(ends[-1])
    return found


def _check_total(placed: int, end: int, symbols: Array, filler: int, weights: int, size: int) -> None:
    if end > size:
        raise FormatError(f"offsets lead to position {end}, beyond the tensor's {size}")
    if placed != weights:
        raise FormatError(f"offsets place {placed} weights, but {weights} were announced")
    if len(symbols) and int(symbols[-1]) == filler:
        raise FormatError("the last offset is a filler")


def measure(symbols: Array, filler: int) -> tuple[int, int]:
    """How many weights offset symbols place, and how many elements they pass."""
    weights = int(np.count_nonzero(symbols != filler))
    return weights, int(symbols.sum(dtype=np.int64)) + weights


def scatter_in_chunks(symbols: Array, filler: int, survivors: Array, codebook: Array | None, values: Array) -> None:
    """What `kernels.scatter` does, by numpy; in chunks, so that the positions never exist all at once."""
    placed, end = 0, 0
    for start in range(0, len(symbols), CHUNK):
        chunk = symbols[start : start + CHUNK]
        is_weight = chunk != filler
        ends = end + np.cumsum(chunk + is_weight.astype(np.int64))
        count = int(np.count_nonzero(is_weight))
        found = survivors[placed : placed + count]
        values[ends[is_weight] - 1] = found if codebook is None else codebook[found]
        placed, end = placed + count, int(ends[-1])
