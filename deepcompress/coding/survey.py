"""What a tensor is made of: counts, from which the size of each layout is known before one is written.

Everything runs over the tensor in chunks, so that beside it there is never more than its symbols and the section.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepcompress.coding import offsets
from deepcompress.coding.dtypes import DType
from deepcompress.coding.forms import MAX_CODEBOOK
from deepcompress.coding.tensors import Layout, TensorInfo, TensorType

Array = np.ndarray[Any, np.dtype[Any]]

CHUNK = 1 << 20


@dataclass(frozen=True)
class ByteCounts(TensorType):
    """What is counted of a tensor that is stored exactly.

    Attributes:
        planes: how often each byte value occurs at each byte of the elements, int64 (element size, 256).
    """

    planes: Array

    def laid_out(self, layout: Layout) -> TensorInfo:
        """The facts of this tensor in a layout."""
        return TensorInfo(self.shape, self.dtype, layout)


@dataclass(frozen=True)
class Survey(ByteCounts):
    """What a tensor is made of, its bytes and more.

    Attributes:
        nonzeros: elements that are not zero (all bits 0).
        gaps, gap_counts: distinct numbers of zeros before a non-zero element, ascending, and how often each occurs.
        codebook: the shared values as bit patterns, or None if the values are not shared.
        index_counts: how often each of them occurs.
    """

    nonzeros: int
    gaps: Array
    gap_counts: Array
    codebook: Array | None
    index_counts: Array


def survey(values: Array, dtype: DType, codebook: Array | None = None) -> Survey:
    """Count what `values` (in ``dtype.storage``) is made of.

    Args:
        values: any shape.
        dtype: element type.
        codebook: the shared values, distinct and none of them zero, at most `MAX_CODEBOOK`; every non-zero
            element must be one of them. None for values that are not shared.
    """
    flat = bits_of(values, dtype)
    book = None if codebook is None else np.ascontiguousarray(codebook, dtype=dtype.storage).view(dtype.bits)
    assert book is None or len(book) <= MAX_CODEBOOK
    index_counts = np.zeros(0 if book is None else len(book), dtype=np.int64)
    gaps: dict[int, int] = {}
    nonzeros = 0
    for chunk, positions, gap in walk(flat):
        nonzeros += len(positions)
        for distinct, count in zip(*(part.tolist() for part in np.unique(gap, return_counts=True)), strict=True):
            gaps[distinct] = gaps.get(distinct, 0) + count
        if book is not None:
            index_counts += np.bincount(indices_of(chunk[positions], book), minlength=len(book))
    ordered = np.array(sorted(gaps.items()), dtype=np.int64).reshape(-1, 2)
    planes = count_bytes(values, dtype).planes
    return Survey(values.shape, dtype, planes, nonzeros, ordered[:, 0], ordered[:, 1], book, index_counts)


def count_bytes(values: Array, dtype: DType) -> ByteCounts:
    """Count the bytes that the elements of `values` (in ``dtype.storage``) are made of."""
    elements = elements_of(values, dtype)
    counts = np.zeros((elements.shape[1], 256), dtype=np.int64)
    for start in range(0, len(elements), CHUNK):
        for k, plane in enumerate(elements[start : start + CHUNK].T):
            counts[k] += np.bincount(plane, minlength=256)
    return ByteCounts(values.shape, dtype, counts)


def elements_of(values: Array, dtype: DType) -> Array:
    """The bytes of all elements, uint8 of shape (number of elements, bytes of one)."""
    flat = np.ascontiguousarray(values, dtype=dtype.storage).reshape(-1)
    return flat.view(np.uint8).reshape(-1, dtype.storage.itemsize)


def bits_of(values: Array, dtype: DType) -> Array:
    """All elements as bit patterns, flat."""
    return np.ascontiguousarray(values, dtype=dtype.storage).reshape(-1).view(dtype.bits)


def walk(flat: Array) -> Iterator[tuple[Array, Array, Array]]:
    """Chunks of a flat tensor: elements, where in the chunk they are not zero, and the zeros before each of those."""
    last = -1
    for start in range(0, len(flat), CHUNK):
        chunk = flat[start : start + CHUNK]
        positions = np.flatnonzero(chunk)
        yield chunk, positions, offsets.gaps(positions, last - start)
        if len(positions):
            last = start + int(positions[-1])


def indices_of(survivors: Array, codebook: Array) -> Array:
    """The index in `codebook` of each survivor, both as bit patterns.

    Raises:
        ValueError: one is not there.
    """
    order = np.argsort(codebook, kind="stable")
    found = np.searchsorted(codebook[order], survivors)
    indices: Array = order[np.minimum(found, len(codebook) - 1)] if len(codebook) else found
    if len(survivors) and not (len(codebook) and np.array_equal(codebook[indices], survivors)):
        raise ValueError("a surviving weight is not in the codebook")
    return indices
