"""Values of numbers, by a table of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcompress.coding import lanes, offsets, threads

Array = np.ndarray[Any, np.dtype[Any]]


def look_up(codebook: Array, symbols: Array, workers: int = 1, values: Array | None = None) -> Array:
    """``codebook[symbols]`` for symbols below len(codebook), in `values` if there is room already."""
    values = np.empty(len(symbols), dtype=codebook.dtype) if values is None else values
    compiled = lanes.kernels_for(len(symbols))
    place = look_up_in_chunks if compiled is None else compiled.look_up
    parts = threads.split(len(symbols), 1 if compiled is None else workers, offsets.PER_THREAD)
    threads.run(lambda start, stop: place(codebook, symbols[start:stop], values[start:stop]), parts)
    return values


def look_up_in_chunks(codebook: Array, symbols: Array, values: Array) -> None:
    """What `kernels.look_up` does, by numpy; in chunks, because it widens indices to 64 bits."""
    for start in range(0, len(symbols), offsets.CHUNK):
        values[start : start + offsets.CHUNK] = codebook[symbols[start : start + offsets.CHUNK]]
